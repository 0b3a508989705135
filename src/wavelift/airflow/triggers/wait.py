"""Base classes of the triggers. Each trigger fires one event, but not too early."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

MARGIN_SECONDS: Final = 1.0


def settle_seconds() -> float:
    """How long a trigger must wait after the deferral before it fires its event.

    The executor notices the end of the process that deferred up to ``[workers] min_heartbeat_interval`` (5 s) late. If
    the task is resumed before that, Airflow treats it as a task that ended unexpectedly, and it loses a try.
    """
    from airflow.sdk.configuration import conf

    return float(conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)) + MARGIN_SECONDS


class WaitTrigger(BaseTrigger):
    """Waits for one condition. The event carries little data: the resumed task checks the state again."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated

    async def wait(self) -> dict[str, Any]:
        """Return the payload of the event when the task should resume. An exception becomes ``{"error": …}``."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """All arguments of ``__init__``. An argument that is missing here does not reach the triggerer."""
        raise NotImplementedError

    def serialize(self) -> tuple[str, dict[str, Any]]:
        kind = type(self)
        return f"{kind.__module__}.{kind.__qualname__}", self.fields()

    async def run(self) -> AsyncIterator[TriggerEvent]:
        settled = time.monotonic() + settle_seconds()
        try:
            payload = await self.wait()
        except Exception as error:
            payload = {"error": str(error) or type(error).__name__}
        await asyncio.sleep(max(0.0, settled - time.monotonic()))
        yield TriggerEvent(payload)
