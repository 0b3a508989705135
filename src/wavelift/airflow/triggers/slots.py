"""Waiting for a slot. The trigger only reads the ledger; the task that it wakes asks again and writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller

RECHECK_SECONDS: Final = 120.0
"""A queue that did not move for this long wakes one waiter: its task asks Airflow whether the holders' DAG runs still
live, and frees what dead ones hold. One task in two minutes, however many wait."""


class SlotTrigger(WaitTrigger):
    """Wakes its task when it is next in line and a slot is free.

    :param kind: ``transfer`` or ``import``; ``scope`` its connector or region; ``holder`` the waiter's run key.
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
    """Which waiters should wake: those who would be granted, and now and then one to look for dead holders."""

    def __init__(self, *, kind: str, scope: str, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._kind = kind
        self._scope = scope
        self._limit = limit
        self._clock = clock
        self._looked = clock()

    def __call__(self, holders: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger, SlotKind
        from wavelift.services.common.slots import ready_holders

        with Ledger.open(config.ledger_url()) as ledger:
            ready = ready_holders(
                ledger, kind=SlotKind(self._kind), scope=self._scope, holders=holders, limit=self._limit
            )
        if ready or self._clock() - self._looked >= RECHECK_SECONDS:
            self._looked = self._clock()
            return dict.fromkeys(ready or holders[:1], True)
        return {}
