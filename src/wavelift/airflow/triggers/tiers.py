"""Trigger that waits for the earlier tiers of a cutover. It only reads the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller

RECHECK_SECONDS: Final = 120.0
"""So often one of those who wait is resumed although the ledger says nothing new: it asks Airflow whether the tasks of
the earlier servers have ended. One whose tasks were killed tells the ledger nothing."""


class TierTrigger(WaitTrigger):
    """Resumes its task when the server's tier may begin, or never will.

    :param cutover: id of the waiting server's cutover. All who wait share a poller.
    """

    def __init__(self, *, cutover: str, poll_seconds: float) -> None:
        super().__init__()
        self.cutover = cutover
        self.poll_seconds = poll_seconds

    def fields(self) -> dict[str, Any]:
        return {"cutover": self.cutover, "poll_seconds": self.poll_seconds}

    async def wait(self) -> dict[str, Any]:
        key = ("tiers", self.poll_seconds)
        await SharedPoller.of(key, TierLine(), self.poll_seconds).watch(self.cutover)
        return {"turn": True}


class TierLine:
    """Decides which tasks resume."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._looked = clock()

    def __call__(self, waiting: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.airflow import config
        from wavelift.base.run import SystemClock
        from wavelift.ledger import Ledger
        from wavelift.services.cutover.tiers import first_of_each_run, to_wake

        with Ledger.open(config.ledger_url()) as ledger:
            woken = to_wake(ledger, waiting, now=SystemClock().now())
            if self._clock() - self._looked >= RECHECK_SECONDS:
                woken |= first_of_each_run(ledger, waiting)
                self._looked = self._clock()
        return dict.fromkeys(woken, True)
