"""Two schedulers on PostgreSQL: requests at once, and two bad minutes in which no instant may be lost.

The timetable's proof: 52 server instants within a minute and a half, some at the same moment. Meanwhile both schedulers
stand still for a while, one is killed, the wave's file changes again and again, and the ledger is gone for a minute.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest
from tests.airflow.pair import CLOCKED, UNSEEN, Pair, running_pair
from tests.airflow.quota import Door, prove_quota
from tests.airflow.waves import wave_text
from tests.airflow.world import Run
from tests.ledgers import within
from tests.postgres import find_binaries

from wavelift.base.run import SystemClock
from wavelift.cli.local_airflow import wait_for
from wavelift.ledger import ReplicationRun
from wavelift.ledger.replication_runs import RunFilter, list_runs
from wavelift.rules.schedule import GRACE
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = [pytest.mark.airflow, pytest.mark.proof, pytest.mark.timeout(900)]

FIRST_AFTER: Final = timedelta(seconds=8)
APART_S: Final = 3.4
"""Two servers share each instant but every third, which one has alone, a second later than the others."""
FROZEN_S: Final = 8
OUTAGE_S: Final = 60
LATEST: Final = 480
"""Seconds after the last instant within which all must be served: retries of an admission that met the outage."""


class Earlier(SystemClock):
    """The clock of a person who made jobs half an hour ago."""

    def now(self) -> datetime:
        return super().now() - 3 * GRACE


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL under /usr/lib/postgresql: `make test` installs it")
    with running_pair(tmp_path_factory.mktemp("pair"), binaries) as made:
        yield made
    assert not made.airflow.processes(), "processes of this Airflow outlived it"


@pytest.mark.parametrize(("way", "server"), [("rest", "asked-a"), ("trigger", "asked-b")])
def test_sms_06_air_04_fifty_requests_at_once_give_one_run_twice_and_then_none(
    pair: Pair, way: str, server: str
) -> None:
    prove_quota(Door(pair.world, "asked", server, way), pair.restart)


@dataclass
class Story:
    """What happened in the two minutes."""

    instants: dict[str, datetime]
    steady: Run
    outage_s: float = 0.0
    parsed: int = 0
    runs: list[ReplicationRun] = field(default_factory=list)

    def of(self, server: str) -> list[ReplicationRun]:
        return [run for run in self.runs if run.server == server]


@pytest.fixture(scope="module")
def story(pair: Pair) -> Story:
    """Plays it once; the tests below look at it."""
    return _Play(pair).perform()


class _Play:
    def __init__(self, pair: Pair) -> None:
        self.pair, self.world = pair, pair.world
        self.edits = 0

    def perform(self) -> Story:
        for wave in ("steady", "clocked"):
            self.world.airflow.wait_for_dag(f"{wave}.replicate")
            self.world.api.unpause(f"{wave}.replicate")
        far = ReplicationPlan(seed_time=(datetime.now(UTC) + timedelta(days=2)).isoformat())
        create_jobs(self.world.ledger, "steady", [JobOrder(server="steady-a", plan=far)], by="op", clock=SystemClock())
        instants = self._order()
        self._freeze()
        self._edit("changed while both schedulers stood still")
        self.pair.airflow.stop_component("scheduler", kill=True)
        self._edit("changed while one scheduler was dead")
        # Not before: a transfer under the scheduler that was killed would be tried again for that.
        story = Story(instants, self.world.trigger("steady", dag="replicate"))
        self._until_transferring(story.steady)
        self.world.ledger.close()
        began = time.monotonic()
        self.pair.ledger_server.stop()
        self.pair.airflow.start_component("scheduler")
        while time.monotonic() - began < OUTAGE_S or not self._has_met_the_outage(story.steady):
            assert time.monotonic() - began < LATEST, story.steady.describe()
            self._edit(f"changed without a ledger, {self.edits}")
            time.sleep(6)
        self.pair.ledger_server.start()
        story.outage_s = time.monotonic() - began
        story.steady.wait()
        self._until_all_ended(story)
        story.parsed = self.edits
        return story

    def _order(self) -> dict[str, datetime]:
        """Jobs of 52 servers due in the next minute and a half, and two whose only instant has passed."""
        for server, ago in (("stale", 2 * GRACE + timedelta(minutes=2)), ("fresh", GRACE / 2)):
            plan = ReplicationPlan(seed_time=(datetime.now(UTC) - ago).isoformat())
            create_jobs(self.world.ledger, "clocked", [JobOrder(server=server, plan=plan)], by="op", clock=Earlier())
        begin = (datetime.now(UTC) + FIRST_AFTER).replace(microsecond=0)
        instants = {
            server: begin + timedelta(seconds=round(number // 2 * APART_S) + (number % 3 == 0))
            for number, server in enumerate(UNSEEN)
        }
        orders = [
            JobOrder(server=name, plan=ReplicationPlan(seed_time=at.isoformat())) for name, at in instants.items()
        ]
        create_jobs(self.world.ledger, "clocked", orders, by="op", clock=SystemClock())
        return instants

    def _edit(self, words: str) -> None:
        """The wave's file changes: the DAG is parsed and serialised anew, as a new version."""
        self.edits += 1
        text = wave_text("clocked", CLOCKED, description=words)
        draft = self.world.wave_of("clocked").with_suffix(".new")
        draft.write_text(text)
        draft.replace(self.world.wave_of("clocked"))

    def _freeze(self) -> None:
        time.sleep(FIRST_AFTER.total_seconds())
        self.pair.freeze(signal.SIGSTOP)
        time.sleep(FROZEN_S)
        self.pair.freeze(signal.SIGCONT)

    def _has_met_the_outage(self, run: Run) -> bool:
        """Whether what comes after the transfer has found no ledger."""
        row = run.row("record", 0)
        return row["state"] == "up_for_retry" or int(row["try_number"]) > 1

    def _until_transferring(self, run: Run) -> None:
        def moving() -> bool:
            return self.world.api.progress(run.dag_id, run.run_id, "server.transfer", map_index=0) is not None

        run.until("the transfer to run", moving, timeout=LATEST)

    def _until_all_ended(self, story: Story) -> None:
        def over() -> bool:
            self.world.airflow.raise_if_dead()
            story.runs = list(within(self.world.ledger.read(), list_runs, RunFilter(wave="clocked"), limit=500).items)
            ended = {run.server for run in story.runs if run.state.terminal}
            return ended >= {*UNSEEN, "fresh"}

        def missing() -> str:
            seen = {run.server: run.state for run in story.runs}
            return str({name: (story.instants.get(name), seen.get(name)) for name in UNSEEN if name not in seen})

        wait_for(over, timeout=LATEST, what="every server's run", log=missing)


def test_sms_04_sms_07_no_instant_is_lost_to_parses_restarts_or_a_busy_scheduler(pair: Pair, story: Story) -> None:
    assert len(story.instants) >= 50
    assert story.parsed >= 8
    served = {name: [(run.scheduled_for, run.type) for run in story.of(name)] for name in story.instants}
    assert served == {name: [(at, "automatic")] for name, at in story.instants.items()}
    dag_runs = Counter(run.dag_run_id for name in story.instants for run in story.of(name))
    moments = len(set(story.instants.values()))
    assert 1 < len(dag_runs) < moments, "instants that a scheduler could not serve in time are merged"
    assert all(run.state in ("failed", "completed") for run in story.runs), "each ended, for a reason that it tells"
    assert all(run.error for run in story.runs if run.state == "failed")


def test_an_instant_missed_for_longer_than_the_grace_is_not_made_up(story: Story) -> None:
    """Of ``fresh``'s run it is more than a grace before, too: one that is less may be served along with it."""
    assert story.of("stale") == []
    (fresh,) = story.of("fresh")
    assert fresh.scheduled_for is not None
    assert fresh.requested_at - fresh.scheduled_for > GRACE / 2


def test_a_run_survives_a_minute_without_the_ledger(pair: Pair, story: Story) -> None:
    assert story.outage_s >= OUTAGE_S
    story.steady.ends("success")
    (known,) = within(pair.world.ledger.read(), list_runs, RunFilter(wave="steady")).items
    assert known.state == "completed"
    assert len(pair.world.snapshots_taken("steady-a")) == 1
    vm: dict[str, Any] = pair.world.machine("steady-a")
    assert not vm["snapshots"]
    tries = story.steady.tries(0)
    assert tries["transfer"] == 1, "a transfer needs no ledger"
    assert sum(tries.values()) > len(tries), "some task met the outage and was tried again"
