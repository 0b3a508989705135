"""Triggers that wait for a time, or for the end of a DAG run."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, Final

from wavelift.airflow.triggers.wait import WaitTrigger

LONGEST_SLEEP_S: Final = 60.0
"""Clocks are set, and machines sleep: the time is looked at again at least so often."""
ENDED: Final = ("success", "failed")
LOOK_AGAIN_S: Final = 300.0
"""After this, the task looks itself: the DAG may have been paused, and then its run never ends."""


class InstantTrigger(WaitTrigger):
    """Resumes its task at an instant.

    :param at: ISO 8601, with an offset.
    """

    def __init__(self, *, at: str) -> None:
        super().__init__()
        self.at = at

    def fields(self) -> dict[str, Any]:
        return {"at": self.at}

    async def wait(self) -> dict[str, Any]:
        at = datetime.fromisoformat(self.at)
        while (left := (at - datetime.now(UTC)).total_seconds()) > 0:
            await asyncio.sleep(min(left, LONGEST_SLEEP_S))
        return {"at": self.at}


class DagRunTrigger(WaitTrigger):
    """Resumes its task when a DAG run has ended, and every few minutes before that."""

    def __init__(self, *, dag_id: str, run_id: str, poll_seconds: float) -> None:
        super().__init__()
        self.dag_id = dag_id
        self.run_id = run_id
        self.poll_seconds = poll_seconds

    def fields(self) -> dict[str, Any]:
        return {"dag_id": self.dag_id, "run_id": self.run_id, "poll_seconds": self.poll_seconds}

    async def wait(self) -> dict[str, Any]:
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance
        from asgiref.sync import sync_to_async

        look = sync_to_async(RuntimeTaskInstance.get_dagrun_state)
        looks = max(1, round(LOOK_AGAIN_S / self.poll_seconds))
        state = ""
        for _ in range(looks):
            state = str(getattr(found := await look(self.dag_id, self.run_id), "value", found))
            if state in ENDED:
                break
            await asyncio.sleep(self.poll_seconds)
        return {"state": state}
