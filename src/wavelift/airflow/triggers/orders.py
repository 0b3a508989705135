"""Trigger that asks the ledger whether a source may still be stopped. It only reads."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from wavelift.airflow.triggers.wait import WaitTrigger, settle_seconds


class StopOrderTrigger(WaitTrigger):
    """Resumes its task with what the ledger says of a server's cutover.

    The event has ``asked_at`` (ISO 8601), and ``refused`` and ``next_step``, which are empty if the order counts.

    :param dag_id, run_id, server: whose cutover. :param wait_s: how long it waits before it asks.
    """

    def __init__(self, *, dag_id: str, run_id: str, server: str, wait_s: float) -> None:
        super().__init__()
        self.dag_id = dag_id
        self.run_id = run_id
        self.server = server
        self.wait_s = wait_s

    def fields(self) -> dict[str, Any]:
        return {"dag_id": self.dag_id, "run_id": self.run_id, "server": self.server, "wait_s": self.wait_s}

    async def wait(self) -> dict[str, Any]:
        """Asked last: what the ledger said some seconds ago does not count."""
        await asyncio.sleep(max(self.wait_s, settle_seconds()))
        return await asyncio.to_thread(self._ask)

    def _ask(self) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.base.run import DagRun
        from wavelift.ledger import Ledger
        from wavelift.services.cutover.orders import why_not

        asked_at = datetime.now(UTC).isoformat()
        with Ledger.open(config.ledger_url()) as ledger:
            error = why_not(ledger, DagRun(self.dag_id, self.run_id), self.server)
        if error is None:
            return {"asked_at": asked_at, "refused": "", "next_step": ""}
        return {"asked_at": asked_at, "refused": error.what, "next_step": error.next_step}
