"""Trigger that waits for a slot. It only reads the ledger. The task that it resumes requests the slot again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller

RECHECK_SECONDS: Final = 120.0
"""If no slot became free for this time, the trigger resumes one task for each slot that somebody waits for. That task
asks Airflow which holders' DAG runs have ended, and in those that go on, which holders' tasks have, and frees what
these hold. This costs a few tasks in two minutes, whatever the number of waiting tasks."""


class SlotTrigger(WaitTrigger):
    """Resumes its task when the task is next in the queue and a slot is free.

    :param kind: one of :class:`~wavelift.rules.flows.SlotKind`, of the slot that was not free.
    :param scope: of that slot. Those who wait for it share a poller.
    :param holder: the run key of the waiting task.
    :param limit: no longer used: the ledger has the limits. Triggers of older versions, which are still deferred, have
        it.
    """

    def __init__(self, *, kind: str, scope: str, holder: str, limit: int, poll_seconds: float) -> None:
        super().__init__()
        self.kind = kind
        self.scope = scope
        self.holder = holder
        self.limit = limit
        self.poll_seconds = poll_seconds

    def fields(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "scope": self.scope,
            "holder": self.holder,
            "limit": self.limit,
            "poll_seconds": self.poll_seconds,
        }

    async def wait(self) -> dict[str, Any]:
        key = ("slots", self.kind, self.scope, self.poll_seconds)
        await SharedPoller.of(key, SlotQueue(), self.poll_seconds).watch(self.holder)
        return {"free": True}


class SlotQueue:
    """Decides which tasks resume: those that would get a slot, and at intervals one that checks for dead holders."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()

    def __call__(self, holders: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.services.common.slots import look

        with Ledger.open(config.ledger_url()) as ledger:
            found = look(ledger, holders)
        ready = [holder for holder, want in found.items() if want is None]
        if not ready and self._clock() - self._looked >= RECHECK_SECONDS:
            # What they lack now may be another slot than the one that was not free when they asked.
            ready = list({want.place: holder for holder, want in reversed(found.items()) if want}.values())
        if ready:
            self._looked = self._clock()
        return dict.fromkeys(ready, True)
