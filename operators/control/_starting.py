"""Of the named steps of other people's DAGs: they start a run of a DAG of ours, once, and wait until it has ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NoReturn

from wavelift.operators.control._waiting import WaitingOperator
from wavelift.operators.control.cutover_plan import is_asleep

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import DagRun


class StartingOperator(WaitingOperator):
    """The same ``request_id`` is the same run: a retry and a clear find it, and nothing is begun twice."""

    request_id: str = ""

    def request_name(self, context: Context) -> str:
        """Of the request; by default made of this task and its DAG run."""
        from wavelift.base.names import run_hash, run_key

        ti = context["ti"]
        return self.request_id or run_hash(run_key(ti.dag_id, ti.run_id, f"{ti.task_id}[{ti.map_index}]"))

    def require_awake(self, context: Context, dag_id: str) -> None:
        """:raises PermanentError: nothing of the DAG starts now."""
        from wavelift.base.errors import PermanentError

        if is_asleep(context, dag_id):
            raise PermanentError(
                f"The DAG {dag_id} is paused, or Airflow does not have it: nothing of it starts",
                next_step=f"Unpause {dag_id}, then clear this task",
            )

    def start(self, run: DagRun, conf: Mapping[str, Any], *, note: str, give_back: Callable[[], None]) -> None:
        """Make the DAG run. :param give_back: undoes the reservation if it can't be made."""
        from wavelift.airflow.runs import start_run

        try:
            start_run(run, conf, note=note)
        except Exception:
            give_back()
            raise

    def has_ended(self, context: Context, run: DagRun) -> bool:
        from wavelift.airflow.triggers.instant import ENDED

        state: Any = context["ti"].get_dagrun_state(run.dag_id, run.dag_run_id)
        return str(getattr(state, "value", state)) in ENDED

    def wait_for_end(self, run: DagRun) -> NoReturn:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.instant import DagRunTrigger

        self.log.info("waits for %s", run)
        self.wait_for(DagRunTrigger(dag_id=run.dag_id, run_id=run.dag_run_id, poll_seconds=config.poll_seconds()))
