"""What all of wavelift's triggers share: one event, and not too soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

MARGIN_SECONDS: Final = 1.0


def settle_seconds() -> float:
    """How long after a deferral its event must not be fired.

    The end of the process that deferred reaches the executor up to ``[workers] min_heartbeat_interval`` (5 s) late. A
    task that was resumed before that is taken for one that ended without saying so, and loses a try.
    """
    from airflow.sdk.configuration import conf

    return float(conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)) + MARGIN_SECONDS


class WaitTrigger(BaseTrigger):
    """Waits for one thing. Its task looks at the world again when woken: the event says little."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated

    async def wait(self) -> dict[str, Any]:
        """Return the event's payload once the task should wake. What it raises becomes ``{"error": …}``."""
        raise NotImplementedError

    def fields(self) -> dict[str, Any]:
        """All arguments of ``__init__``; one that is left out is lost on the way to the triggerer."""
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
