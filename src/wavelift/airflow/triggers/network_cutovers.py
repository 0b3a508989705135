"""Trigger that waits for states of network cutovers. One read of the ledger per interval serves all waiting tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import SharedPoller


class NetworkCutoverTrigger(WaitTrigger):
    """Resumes its task when a network's cutover is in one of some states, or goes no further by itself, or is unknown.

    :param cutover: ``net-…``. :param states: that are waited for.
    """

    def __init__(self, *, cutover: str, states: Sequence[str], poll_seconds: float) -> None:
        super().__init__()
        self.cutover = cutover
        self.states = list(states)
        self.poll_seconds = poll_seconds

    def fields(self) -> dict[str, Any]:
        return {"cutover": self.cutover, "states": self.states, "poll_seconds": self.poll_seconds}

    async def wait(self) -> dict[str, Any]:
        poller = SharedPoller.of(("network cutovers", self.poll_seconds), arrived, self.poll_seconds)
        return {"state": await poller.watch("|".join((self.cutover, *sorted(self.states)))), "cutover": self.cutover}


def arrived(waits: Sequence[str]) -> Mapping[str, Any]:
    """Of waits ``id|state|…``, those that are over, with the state; ``unknown`` for what is not in the ledger."""
    from wavelift.airflow import config
    from wavelift.ledger import Ledger, network_cutovers
    from wavelift.rules.network_cutover import NetworkState

    found = {}
    with Ledger.open(config.ledger_url()) as ledger, ledger.read() as tx:
        for wait in waits:
            id, *states = wait.split("|")
            known = network_cutovers.find(tx, id)
            if known is None:
                found[wait] = "unknown"
            elif known.state in states or known.state.terminal or known.state is NetworkState.FAILED:
                found[wait] = str(known.state)
    return found
