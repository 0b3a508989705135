"""Trigger that waits for the end of instance exports. One read of the ledger per interval serves all waiting tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller


class InstanceExportTrigger(WaitTrigger):
    """Resumes its task when an export has ended, or is unknown.

    :param export: ``exp-…``.
    """

    def __init__(self, *, export: str, poll_seconds: float) -> None:
        super().__init__()
        self.export = export
        self.poll_seconds = poll_seconds

    def fields(self) -> dict[str, Any]:
        return {"export": self.export, "poll_seconds": self.poll_seconds}

    async def wait(self) -> dict[str, Any]:
        poller = SharedPoller.of(("instance exports", self.poll_seconds), ended, self.poll_seconds)
        return {"state": await poller.watch(self.export), "export": self.export}


def ended(ids: Sequence[str]) -> Mapping[str, Any]:
    """Of these exports, those that have ended, with the state; ``unknown`` for what is not in the ledger."""
    from wavelift.airflow import config
    from wavelift.ledger import Ledger, exports

    found = {}
    with Ledger.open(config.ledger_url()) as ledger, ledger.read() as tx:
        for id in ids:
            known = exports.find(tx, id)
            if known is None:
                found[id] = "unknown"
            elif known.state.terminal:
                found[id] = str(known.state)
    return found
