"""The tasks of one server in a run, or of a run without servers, and how to stop them while Airflow goes on scheduling
them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.ledger import ServerRun
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.flows import Step, server_step

STOPPED: Final = ("failed", "upstream_failed", "skipped", "removed")
UNMAPPED: Final = -1
"""The map index of a task that a run has once."""
LOOKS: Final = 6
"""A step may succeed and its next begin between looking and stopping; the chain has no more than seven steps."""


class Chain:
    """The steps of one server, or of the one thing that a run is about, read and stopped through Airflow's REST API.

    :param map_index: of the server in its run; None when none of its tasks has told it yet: nothing is stopped then.
        Of a run without servers: :data:`UNMAPPED`.
    :param steps: in their order; of a server, those of its flow.
    """

    def __init__(
        self,
        airflow: ApiClient,
        known: ServerRun[Any] | InstanceExport,
        map_index: int | None,
        steps: Sequence[Step] = (),
    ) -> None:
        self._airflow = airflow
        self._run = known.run
        self._map_index = map_index
        self._flow = known.flow
        self._steps = steps or known.flow.chain
        self.released = False
        """Whether its teardowns ended before it was stopped, so that nothing of it is left in vCenter."""

    def stop(self) -> list[str]:
        """Fail the first step that is not done, so that no later one begins; the names of what was failed.

        A step that is not scheduled yet is failed as well: between two tasks a server has no active one. A step that is
        cut short is told by ``on_kill``, a deferred one by its trigger's.
        """
        stopped: list[str] = []
        if self._map_index is None:
            return stopped
        for _ in range(LOOKS):
            states = self._states()
            self.released = states.get(self._flow.task_id("release")) == "success"
            step = next((step for step in self._steps if not step.is_passed(states.get(step.task_id))), None)
            if step is None or states.get(step.task_id) in STOPPED:
                break
            self._airflow.fail_task(self._run.dag_id, self._run.dag_run_id, step.task_id, self._map_index)
            stopped.append(step.task_id)
        return stopped

    def _states(self) -> dict[str, Any]:
        rows = self._airflow.task_instances(self._run.dag_id, self._run.dag_run_id)
        return {row["task_id"]: row["state"] for row in rows if row["map_index"] == self._map_index}


def map_index_of(airflow: ApiClient, run: ServerRun[Any]) -> int | None:
    """Where a server stands among the mapped tasks of its run: they are named by server once one of them has begun.

    None before that, and when the DAG run is not there.
    """
    try:
        rows = airflow.task_instances(run.dag_id, run.dag_run_id)
    except ApiError as error:
        if error.status == 404:
            return None
        raise
    for row in rows:
        if server_step(row["task_id"]) and row.get("rendered_map_index") == run.server:
            return int(row["map_index"])
    return None
