"""Trigger that waits for the end of replication runs. One read of the ledger per interval serves all waiting tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller


class ReplicationRunTrigger(WaitTrigger):
    """Resumes its task when a replication run has ended or is unknown.

    :param run_id: ``run-…``.
    """

    def __init__(self, *, run_id: str, poll_seconds: float) -> None:
        super().__init__()
        self.run_id = run_id
        self.poll_seconds = poll_seconds

    def fields(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "poll_seconds": self.poll_seconds}

    async def wait(self) -> dict[str, Any]:
        poller = SharedPoller.of(("replication runs", self.poll_seconds), ended_runs, self.poll_seconds)
        return {"state": await poller.watch(self.run_id), "run_id": self.run_id}


def ended_runs(ids: Sequence[str]) -> Mapping[str, Any]:
    """The states of the runs that have ended; ``unknown`` for a run that is not in the ledger."""
    from wavelift.airflow import config
    from wavelift.ledger import Ledger, replication_runs

    with Ledger.open(config.ledger_url()) as ledger, ledger.read() as tx:
        found = {id: replication_runs.find(tx, id) for id in ids}
    return {
        id: str(run.state) if run is not None else "unknown"
        for id, run in found.items()
        if run is None or run.state.terminal
    }
