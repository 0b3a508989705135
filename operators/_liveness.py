"""What Airflow says of other runs and their tasks: what a dead one holds is free."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.exceptions import AirflowRuntimeError

from wavelift.rules.flows import FLOWS, PREFLIGHT, RELEASE

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.run import DagRun

GONE: Final = (404, 410)
"""How Airflow answers a task instance that it has replaced by another try, or what it has deleted."""
LIVING: Final = ("queued", "running")
"""States of a DAG run in which its tasks may still do something."""
ENDED_STATES: Final = ("success", "failed", "upstream_failed", "skipped", "removed")


class AirflowLiveness:
    """:class:`~wavelift.base.run.Liveness` as a task asks Airflow."""

    def __init__(self, context: Context) -> None:
        self._ti = context["ti"]

    def run(self, run: DagRun) -> bool:
        if (run.dag_id, run.dag_run_id) == (self._ti.dag_id, self._ti.run_id):
            return True
        try:
            state = self._ti.get_dagrun_state(run.dag_id, run.dag_run_id)
        except AirflowRuntimeError as error:
            if status_of(error) in GONE:
                return False
            raise
        return state in LIVING  # a str enum: its str() is not its value

    def ended(self, run: DagRun, holders: Collection[str], kind: str) -> Collection[str]:
        """Of whichever flow: the list that the group was expanded over tells each server's place in it.

        A holder that is not in the list is alive: its pre-flight was cleared a moment ago.
        """
        tasks = {step.task_id for flow in FLOWS for step in flow.steps if kind in step.holds}
        last = {RELEASE} if RELEASE in tasks else tasks
        other: dict[str, Any] = {"dag_id": run.dag_id, "run_id": run.dag_run_id}
        names = [one["name"] for one in self._ti.xcom_pull(task_ids=PREFLIGHT, map_indexes=-1, **other) or ()]
        states = self._ti.get_task_states(dag_id=run.dag_id, run_ids=[run.dag_run_id], task_ids=sorted(tasks))
        found: dict[str, Any] = states.get(run.dag_run_id, {})

        def gone(holder: str) -> bool:
            server = holder.removeprefix(f"{run.dag_id}/{run.dag_run_id}/")
            if server not in names:
                return False
            at = names.index(server)
            mine = {task: found[name] for task in tasks if (name := f"{task}_{at}") in found}
            return any(task in mine for task in last) and all(state in ENDED_STATES for state in mine.values())

        return [holder for holder in holders if gone(holder)]


def status_of(error: AirflowRuntimeError) -> int | None:
    """The HTTP status with which Airflow's execution API refused."""
    return (error.error.detail or {}).get("status_code")
