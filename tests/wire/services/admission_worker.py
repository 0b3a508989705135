"""One process of ``test_admission_processes``: asks for a slot for each of its servers, holds it briefly, frees it.

Servers are worked on three at a time, as Airflow would: several wait while one transfers. A worker told to die ends
without giving anything back, in the middle of its work.
"""

from __future__ import annotations

import os
import random
import sys
import time

from tests.contexts import run_context

from wavelift.base.run import DagRun
from wavelift.ledger import Ledger
from wavelift.rules.flows import SlotKind
from wavelift.services.common.slots import Granted, SlotRequest, give_back, look, request_slots

AT_ONCE = 3
HOLD_S = 0.01
POLL_S = 0.02


def main(url: str, scope: str, number: int, servers: int, limit: int, dies_after: int) -> None:
    ledger = Ledger.open(url)
    run = DagRun(f"w{number}.migrate", "r")
    ctx = run_context(run)
    place = random.Random(number)
    waiting: list[str] = []
    todo = [f"{run.dag_id}/r/s{server}" for server in range(servers)]
    done = 0
    while todo or waiting:
        while todo and len(waiting) < AT_ONCE:
            waiting.append(todo.pop(0))
            request_slots(ledger, [SlotRequest(SlotKind.TRANSFER, scope, waiting[-1], limit)], ctx)
        holder = place.choice(waiting)
        if look(ledger, [holder])[holder] is not None:
            time.sleep(POLL_S)
            continue
        found = request_slots(ledger, [SlotRequest(SlotKind.TRANSFER, scope, holder, limit)], ctx)
        if not isinstance(found, Granted):
            continue
        if done == dies_after:
            os._exit(9)
        time.sleep(HOLD_S)
        give_back(ledger, holder, clock=ctx.clock)
        waiting.remove(holder)
        done += 1


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(value) for value in sys.argv[3:7]))
