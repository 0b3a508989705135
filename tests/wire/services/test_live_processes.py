"""Live runs of several processes on one ledger, on SQLite and PostgreSQL (AIR-04, HCX-01)."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import HandClock
from tests.depth import depth
from tests.ledgers import within
from tests.postgres import Postgres
from tests.unit.services.live import Live

from wavelift.ledger import Ledger, live_migrations
from wavelift.ledger.slots import standing
from wavelift.rules.live import LiveState

pytestmark = [pytest.mark.wire, pytest.mark.sampled]

PROCESSES = depth(2, 5)
ROUNDS = depth(3, 20)
ROOT = Path(__file__).parents[3]
WORKER = (sys.executable, "-m", "tests.wire.services.live_worker")


@pytest.fixture(params=["sqlite", "postgres"])
def ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'wavelift.db'}"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        url = server.create()
    with Ledger.open(url, upgrade=True) as made:
        yield made


@contextmanager
def workers(ledger: Ledger, what: str) -> Iterator[list[Any]]:
    """Processes that begin each round at the same instant: when all of them are ready."""
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    found: list[Any] = [
        subprocess.Popen([*WORKER, ledger.url, what, str(number)], cwd=ROOT, **pipes) for number in range(PROCESSES)
    ]
    try:
        assert [worker.stdout.readline().strip() for worker in found] == ["ready"] * PROCESSES
        yield found
    finally:
        for worker in found:
            worker.kill()
            worker.communicate()


def asked(found: list[Any], round: str) -> list[str]:
    for worker in found:
        worker.stdin.write(f"{round}\n")
        worker.stdin.flush()
    return [worker.stdout.readline().strip() for worker in found]


def test_air_04_of_runs_that_want_the_same_servers_at_once_one_gets_them(ledger: Ledger) -> None:
    here = Live(ledger, HandClock(), approve="none")
    with workers(ledger, "race") as found:
        for number in range(ROUNDS):
            told = asked(found, f"r{number}")
            assert Counter(told) == {"admitted": 1, "refused": PROCESSES - 1}, told
            rows = within(ledger.read(), live_migrations.open_of, here.name)
            assert {each.run for each in rows} == {here.run(f"r{number}.{told.index('admitted')}")}
            assert [each.server for each in rows] == ["a", "b"]
            assert here.report(rows[0].dag_run_id, stopped="given up").outcomes


def test_inv_8_runs_that_need_more_slots_than_there_are_take_turns(ledger: Ledger) -> None:
    with workers(ledger, "slots") as found:
        for number in range(ROUNDS):
            assert asked(found, f"r{number}") == ["2"] * PROCESSES, "two servers at a time, and never a half each"
    rows = within(ledger.read(), live_migrations.list_migrations, limit=500).items
    assert len(rows) == PROCESSES * ROUNDS * 2
    assert {row.state for row in rows} == {LiveState.MOVED}
    assert not within(ledger.read(), standing)


def test_a_run_from_admission_to_report(ledger: Ledger) -> None:
    """One server fails, one is not verified, one is cancelled and one is moved."""
    live = Live(ledger, HandClock())
    live.servers = ("a", "b", "c", "d")
    assert live.moving().moving == {name: f"m-{name}" for name in live.servers}
    assert live.ended(a="complete", b="failed", c="cancelled", d="complete") == ["a", "d"]
    assert not live.verify("a")
    assert live.verify("d", wrong=("its MAC is another one",), passed=False)
    assert not live.report().succeeded
    assert live.states() == {"a": "moved", "b": "failed", "c": "cancelled", "d": "unverified"}
    assert live.admit("r2", servers=["b", "c"]).migrations
    assert not within(ledger.read(), standing)
