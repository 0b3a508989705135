"""One process of ``test_live_processes``: live runs, one after the other, beside those of other processes.

In a *race* all processes want the same servers at the same instant. For *slots* each has servers of its own, and all
together need more slots than there are.
"""

from __future__ import annotations

import sys
import time

from tests.contexts import HandClock
from tests.ledgers import within
from tests.unit.services.live import Live

from wavelift.base.errors import RefusedError
from wavelift.ledger import Ledger
from wavelift.ledger.slots import standing
from wavelift.services.dataplane.live_messages import LiveOrder
from wavelift.services.live_migration.plan import LiveTerms
from wavelift.services.live_migration.record import record

POLL_S = 0.02
PER_MANAGER, PER_MESH = 5, 3
"""Slots. A run of two servers needs two of each kind: one run fits, and half of the next."""


def race(live: Live, number: int, round: str) -> str:
    try:
        live.admit(f"{round}.{number}")
    except RefusedError:
        return "refused"
    return "admitted"


def slots(live: Live, number: int, round: str) -> str:
    live.name = f"wave{number}"
    live.servers = (f"a{number}", f"b{number}")
    live.admit(round)
    live.plan(id=round)
    while not isinstance(order := live.reserve(round), LiveOrder):
        time.sleep(POLL_S)
    held = [each for each in within(live.ledger.read(), standing) if each.granted_at is not None]
    record(live.ledger, live.started(order), live.ctx(round))
    live.ended(round, **dict.fromkeys(live.servers, "complete"))
    for server in live.servers:
        live.verify(server, round)
    assert live.report(round).succeeded
    return f"{max(sum(each.kind == kind for each in held) for kind in {each.kind for each in held})}"


def main(url: str, what: str, number: int) -> None:
    live = Live(Ledger.open(url), HandClock(), approve="none")
    live.terms = LiveTerms(per_manager=PER_MANAGER, per_mesh=PER_MESH)
    print("ready", flush=True)
    for line in sys.stdin:
        print({"race": race, "slots": slots}[what](live, number, line.strip()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
