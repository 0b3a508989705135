"""The tasks of one server in a run, and how to stop them while Airflow goes on scheduling them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Self

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.run import DagRun
from wavelift.ledger import Migration, ReplicationRun

STEPS: Final = ("reserve", "snapshot", "export", "verify", "import_image", "compare", "launch")
"""In the order in which they run. The teardowns are not among them: they clean up after whatever was stopped."""
REPLICATION_STEPS: Final = ("reserve", "snapshot", "transfer", "record", "verify", "ami")
RELEASE: Final = "release"
STOPPED: Final = ("failed", "upstream_failed", "skipped", "removed")
MAY_BE_SKIPPED: Final = ("compare",)
"""Where it has nothing to do the chain goes on after it."""
LOOKS: Final = 6
"""A step may succeed and its next begin between looking and stopping; the chain has no more than seven steps."""
GROUP: Final = "server."


class Chain:
    """One server's steps, read and stopped through Airflow's REST API.

    :param map_index: of the server in its run; None when none of its tasks has told it yet: nothing is stopped then.
    """

    def __init__(self, airflow: ApiClient, run: DagRun, map_index: int | None, steps: Sequence[str]) -> None:
        self._airflow = airflow
        self._run = run
        self._map_index = map_index
        self._steps = steps
        self.released = False
        """Its teardowns were done before it was stopped: nothing of it is left in vCenter."""

    @classmethod
    def of_migration(cls, airflow: ApiClient, migration: Migration) -> Self:
        return cls(airflow, DagRun(migration.dag_id, migration.dag_run_id), migration.map_index, STEPS)

    @classmethod
    def of_replication(cls, airflow: ApiClient, run: ReplicationRun) -> Self:
        return cls(airflow, run.run, map_index_of(airflow, run), REPLICATION_STEPS)

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
            self.released = states.get(RELEASE) == "success"
            step = next((name for name in self._steps if not _passed(name, states.get(name))), None)
            if step is None or states.get(step) in STOPPED:
                break
            self._airflow.fail_task(self._run.dag_id, self._run.dag_run_id, f"{GROUP}{step}", self._map_index)
            stopped.append(f"{GROUP}{step}")
        return stopped

    def _states(self) -> dict[str, Any]:
        rows = self._airflow.task_instances(self._run.dag_id, self._run.dag_run_id)
        return {
            row["task_id"].removeprefix(GROUP): row["state"]
            for row in rows
            if row["map_index"] == self._map_index and row["task_id"].startswith(GROUP)
        }


def _passed(step: str, state: str | None) -> bool:
    return state == "success" or (state == "skipped" and step in MAY_BE_SKIPPED)


def map_index_of(airflow: ApiClient, run: ReplicationRun) -> int | None:
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
        if row["task_id"].startswith(GROUP) and row.get("rendered_map_index") == run.server:
            return int(row["map_index"])
    return None
