"""Trigger that waits for a slot. It only reads the ledger. The task that it resumes requests the slot again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller

RECHECK_SECONDS: Final = 120.0
"""If no slot became free for this time, the trigger resumes one waiting task. That task asks Airflow which holders' DAG
runs have ended, and in those that go on, which holders' tasks have, and frees what these hold. This costs one task in
two minutes, whatever the number of waiting tasks."""


class SlotTrigger(WaitTrigger):
    """Resumes its task when the task is next in the queue and a slot is free.

    :param kind: one of :class:`~wavelift.rules.flows.SlotKind`.
    :param scope: the connector or region.
    :param holder: the run key of the waiting task.
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
        key = ("slots", self.kind, self.scope, self.limit, self.poll_seconds)
        queue = SlotQueue(kind=self.kind, scope=self.scope, limit=self.limit)
        await SharedPoller.of(key, queue, self.poll_seconds).watch(self.holder)
        return {"free": True}


class SlotQueue:
    """Decides which tasks resume: those that would get a slot, and at intervals one that checks for dead holders."""

    def __init__(self, *, kind: str, scope: str, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._kind = kind
        self._scope = scope
        self._limit = limit
        self._clock = clock
        self._looked = clock()

    def __call__(self, holders: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger
        from wavelift.rules.flows import SlotKind
        from wavelift.services.common.slots import ready_holders

        with Ledger.open(config.ledger_url()) as ledger:
            ready = ready_holders(
                ledger, kind=SlotKind(self._kind), scope=self._scope, holders=holders, limit=self._limit
            )
        if ready or self._clock() - self._looked >= RECHECK_SECONDS:
            self._looked = self._clock()
            return dict.fromkeys(ready or holders[:1], True)
        return {}
