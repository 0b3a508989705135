"""Waiting for a slot. The trigger only reads the ledger; the task that it wakes asks again and writes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any, Final

from airflow.triggers.base import BaseTrigger, TriggerEvent

from wavelift.airflow.triggers.poller import SharedPoller

RECHECK_SECONDS: Final = 120.0
"""How long a waiter sleeps before it looks itself whether a holder's DAG run has ended without giving back."""


class SlotTrigger(BaseTrigger):
    """Wakes its task when it is next in line and a slot is free.

    :param kind: ``transfer`` or ``import``; ``scope`` its connector or region; ``holder`` the waiter's run key.
    """

    def __init__(self, *, kind: str, scope: str, holder: str, limit: int, poll_seconds: float) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # Airflow's is not annotated
        self.kind = kind
        self.scope = scope
        self.holder = holder
        self.limit = limit
        self.poll_seconds = poll_seconds

    def serialize(self) -> tuple[str, dict[str, Any]]:
        return (
            "wavelift.airflow.triggers.slots.SlotTrigger",
            {
                "kind": self.kind,
                "scope": self.scope,
                "holder": self.holder,
                "limit": self.limit,
                "poll_seconds": self.poll_seconds,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        key = ("slots", self.kind, self.scope, self.limit, self.poll_seconds)
        poller = SharedPoller.of(key, self._fetch, self.poll_seconds)
        try:
            await asyncio.wait_for(poller.watch(self.holder), RECHECK_SECONDS)
        except TimeoutError:
            yield TriggerEvent({"recheck": True})
            return
        except Exception as error:
            yield TriggerEvent({"error": str(error)})
            return
        yield TriggerEvent({"free": True})

    def _fetch(self, holders: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.airflow import config
        from wavelift.ledger import Ledger, SlotKind
        from wavelift.services.admission import would_grant

        with Ledger.open(config.ledger_url()) as ledger:
            return {
                holder: True
                for holder in holders
                if would_grant(ledger, kind=SlotKind(self.kind), scope=self.scope, holder=holder, limit=self.limit)
            }
