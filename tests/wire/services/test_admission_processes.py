"""Many processes want a few slots of one SQLite file; one dies with what it holds (AMP-04, invariant 8)."""

from __future__ import annotations

import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from tests.contexts import Alive, run_context
from tests.depth import depth
from tests.ledgers import within

from wavelift.base.run import DagRun
from wavelift.ledger import Event, Ledger
from wavelift.ledger.events import list_events
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.rules.queue import Place
from wavelift.services.common.slots import reclaim

pytestmark = [pytest.mark.wire, pytest.mark.sampled]

PROCESSES = depth(4, 8)
SERVERS = depth(8, 12)
LIMIT = depth(2, 4)
DIES, DIES_AFTER = depth(2, 5), 4
NEVER = -1
AT_ONCE = 3
"""The worker's."""
ROOT = Path(__file__).parents[3]
WORKER = (sys.executable, "-m", "tests.wire.services.admission_worker")


def _start(ledger: Ledger, number: int) -> subprocess.Popen[bytes]:
    dies_after = DIES_AFTER if number == DIES else NEVER
    numbers = (str(value) for value in (number, SERVERS, LIMIT, dies_after))
    return subprocess.Popen([*WORKER, ledger.url, "hall-a", *numbers], cwd=ROOT)


def _wait_and_reclaim(ledger: Ledger, workers: dict[str, subprocess.Popen[bytes]]) -> None:
    """Until all have ended; what the ended ones hold is given to the others, as a `reserve` task would."""

    ctx = run_context(DagRun("test", "r"), liveness=Alive(lambda run: workers[run.dag_id].poll() is None))
    while any(worker.poll() is None for worker in workers.values()):
        reclaim(ledger, ctx, [Place(SlotKind.TRANSFER, "hall-a")], every=timedelta(0))
        threading.Event().wait(0.1)
    reclaim(ledger, ctx, [Place(SlotKind.TRANSFER, "hall-a")], every=timedelta(0))


def _replay(events: tuple[Event, ...]) -> tuple[int, int]:
    """The most slots granted at once, and how many grants there were; every grant is checked for its turn."""
    granted: set[int] = set()
    waiting: list[int] = []
    most = grants = 0
    for event in events:
        slot = event.details["slot"]
        match event.action:
            case "slot.requested":
                assert slot not in waiting
                assert all(slot > earlier for earlier in waiting)
                waiting.append(slot)
            case "slot.granted":
                assert waiting.index(slot) < LIMIT - len(granted), f"event {event.id} jumps the queue"
                waiting.remove(slot)
                granted.add(slot)
                grants += 1
                most = max(most, len(granted))
            case "slot.released":
                granted.remove(slot)
            case "slot.withdrawn":
                waiting.remove(slot)
    assert not granted
    assert not waiting
    return most, grants


def test_inv_8_processes_never_hold_more_slots_than_there_are(tmp_path: Path) -> None:
    ledger = Ledger.open(f"sqlite:///{tmp_path / 'wavelift.db'}")
    workers = {f"w{number}.migrate": _start(ledger, number) for number in range(PROCESSES)}
    try:
        _wait_and_reclaim(ledger, workers)
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()

    codes = [worker.returncode for worker in workers.values()]
    assert codes == [9 if number == DIES else 0 for number in range(PROCESSES)]
    assert within(ledger.read(), standing, SlotKind.TRANSFER) == ()
    most, grants = _replay(within(ledger.read(), list_events, object_kind="slot", limit=10_000))
    assert most == LIMIT, "less would mean that they never met"
    used = (PROCESSES - 1) * SERVERS + DIES_AFTER + 1
    assert used <= grants < used + AT_ONCE, "the one that dies may hold slots that it had not begun to use"
