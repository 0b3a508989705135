"""Whatever is asked in whatever order at whatever time, the ledger holds the rules of runs (SMS-06, SMS-07, AIR-04)."""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from tests.contexts import HandClock
from tests.depth import examples
from tests.ledgers import within
from tests.unit.services.test_replication import START, Desk

from wavelift.base.errors import PermanentError
from wavelift.ledger import Ledger, ReplicationRun
from wavelift.ledger.replication_runs import list_runs
from wavelift.rules.replication import RunState, RunType

pytestmark = pytest.mark.unit

DAY = timedelta(hours=24)
SERVERS = ("web01", "db01")
steps = st.lists(
    st.tuples(
        st.sampled_from(["wait", "back", "reserve", "trigger", "late", "schedule", "complete", "fail", "clear", "die"]),
        st.integers(0, 7),
    ),
    max_size=40,
)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("properties") / "empty.db"
    Ledger.open(f"sqlite:///{path}").close()
    return path


class Story:
    """One wave under a sequence of steps; after each the rules are looked at in the ledger itself."""

    def __init__(self, url: str) -> None:
        self.clock = HandClock()
        self.desk = Desk(Ledger.open(url), self.clock)
        for server in SERVERS:
            self.desk.create(server, seed_time=START.isoformat(), pause_after_failures=0)
        self.instants = 0

    def runs(self, *states: RunState) -> list[ReplicationRun]:
        found = within(self.desk.ledger.read(), list_runs, limit=500).items
        return [run for run in found if not states or run.state in states]

    def step(self, what: str, number: int) -> None:
        server = SERVERS[number % 2]
        match what:
            case "wait":
                self.clock.sleep((1, 60, 130, 3600, 6 * 3600, 12 * 3600, 86_399, 86_400)[number])
            case "back":
                self.clock.sleep(-60 * number)
            case "reserve":
                try:
                    self.desk.reserve(server)
                except PermanentError:
                    pass
            case "trigger":
                self.desk.admit(servers=[server])
            case "schedule":
                self.instants += 1
                self.desk.admit(f"s{self.instants}", scheduled_for=self._instant())
            case "late":
                for run in self.runs(RunState.RESERVED, RunState.EXPIRED)[:1]:
                    self.desk.admit(run.dag_run_id)
            case _:
                self._end(what, number)

    def _end(self, what: str, number: int) -> None:
        active, failed = self.runs(RunState.ACTIVE), self.runs(RunState.FAILED)
        if what == "clear" and failed:
            self.desk.admit(failed[number % len(failed)].dag_run_id)
        elif active and what == "complete":
            self.desk.complete(active[0])
        elif active and what == "fail":
            self.desk.fail(active[0])
        elif active and what == "die":
            self.desk.dead.add(active[0].dag_run_id)

    def _instant(self) -> datetime:
        return START + max(0, (self.clock.time - START) // DAY) * DAY

    def check(self) -> None:
        runs = self.runs()
        for server in SERVERS:
            mine = [run for run in runs if run.server == server]
            assert sum(not run.state.terminal for run in mine) <= 1
            granted = [run.counted_at for run in mine if run.counted_at is not None]
            assert all(sum(at <= other < at + DAY for other in granted) <= 2 for at in granted)
            instants = [run.scheduled_for for run in mine if run.type is RunType.AUTOMATIC]
            assert len(instants) == len(set(instants))
        begun = (RunState.ACTIVE, RunState.COMPLETED, RunState.FAILED)
        assert all(run.counted_at is not None for run in runs if run.type is RunType.ON_DEMAND and run.state in begun)


@examples(12, 100, allow=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_sms_06_sms_07_the_rules_hold_after_any_story(empty: Path, story: list[tuple[str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        told = Story(f"sqlite:///{shutil.copy(empty, Path(folder) / 'wavelift.db')}")
        for what, number in story:
            told.step(what, number)
            told.check()
