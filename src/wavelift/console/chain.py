"""The tasks of one server in a run, and how to stop them while Airflow goes on scheduling them."""

from __future__ import annotations

from typing import Any, Final

from wavelift.airflow.rest import ApiClient
from wavelift.ledger import Migration

STEPS: Final = ("reserve", "snapshot", "export", "verify", "import_image", "launch")
"""In the order in which they run. The teardowns are not among them: they clean up after whatever was stopped."""
RELEASE: Final = "release"
STOPPED: Final = ("failed", "upstream_failed", "skipped", "removed")
LOOKS: Final = 5
"""A step may succeed and its next begin between looking and stopping; the chain has no more than six steps."""


class Chain:
    """One server's steps, read and stopped through Airflow's REST API."""

    def __init__(self, airflow: ApiClient, migration: Migration) -> None:
        self._airflow = airflow
        self._migration = migration
        self.released = False
        """Its teardowns were done before it was stopped: nothing of it is left in vCenter."""

    def stop(self) -> list[str]:
        """Fail the first step that is not done, so that no later one begins; the names of what was failed.

        A step that is not scheduled yet is failed as well: between two tasks a server has no active one. A step that is
        cut short is told by ``on_kill``, a deferred one by its trigger's.
        """
        stopped: list[str] = []
        for _ in range(LOOKS):
            states = self._states()
            self.released = states.get(RELEASE) == "success"
            step = next((name for name in STEPS if states.get(name) != "success"), None)
            if step is None or states.get(step) in STOPPED:
                break
            self._airflow.fail_task(
                self._migration.dag_id, self._migration.dag_run_id, f"server.{step}", self._migration.map_index
            )
            stopped.append(f"server.{step}")
        return stopped

    def _states(self) -> dict[str, Any]:
        rows = self._airflow.task_instances(self._migration.dag_id, self._migration.dag_run_id)
        return {
            row["task_id"].removeprefix("server."): row["state"]
            for row in rows
            if row["map_index"] == self._migration.map_index and row["task_id"].startswith("server.")
        }
