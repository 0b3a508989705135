"""The timetable of replication: no instant is lost however often Airflow asks, and a lost ledger loses nothing."""

from __future__ import annotations

import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pendulum
import pytest
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables.base import DataInterval, TimeRestriction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavelift.airflow import timetables
from wavelift.airflow.timetables import ReplicationTimetable, instant
from wavelift.base.run import SystemClock
from wavelift.ledger import Ledger
from wavelift.rules.schedule import GRACE, Schedule, due_servers
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs, pause_job

pytestmark = pytest.mark.airflow

T0 = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
ANYTIME = TimeRestriction(None, None, catchup=False)
DAY = timedelta(days=1)
BUSY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
"""Generating may be slow: the machine may be busy."""


class Hand(ReplicationTimetable):
    """A timetable whose clock and schedules a test holds."""

    def __init__(self, schedules: Collection[Schedule], now: datetime = T0) -> None:
        super().__init__(wave="erp")
        self.held = schedules
        self.time = now

    def now(self) -> datetime:
        return self.time

    def schedules(self) -> Collection[Schedule]:
        return self.held

    def ask(self, last: datetime | None, restriction: TimeRestriction = ANYTIME) -> datetime | None:
        interval = DataInterval.exact(pendulum.instance(last)) if last else None
        found = self.next_dagrun_info(last_automated_data_interval=interval, restriction=restriction)
        return timetables.plain(found.run_after) if found else None


def test_sms_04_a_parse_between_an_instant_and_its_run_does_not_move_on() -> None:
    """The naive answer, the next instant after now, lost one instant of ten."""
    hand = Hand([Schedule(T0, DAY)], T0 + timedelta(seconds=3))
    assert hand.ask(T0 - DAY) == T0
    assert hand.ask(T0) == T0 + DAY
    hand.time = T0 + GRACE + timedelta(seconds=1)
    assert hand.ask(T0 - DAY) == T0 + DAY, "missed for longer than the grace: not made up"


def test_the_first_instant_of_a_new_wave_is_due_too() -> None:
    """A seed time of *now* lies before the first parse that knows of it."""
    hand = Hand([Schedule(T0, DAY, since=T0)], T0 + timedelta(seconds=20))
    assert hand.ask(None) == T0


def test_restrictions_of_the_dag_are_kept() -> None:
    hand = Hand([Schedule(T0, DAY)], T0)
    later = pendulum.instance(T0 + timedelta(hours=1))
    assert hand.ask(None, TimeRestriction(later, None, catchup=False)) == T0 + DAY
    assert hand.ask(T0, TimeRestriction(None, later, catchup=False)) is None


schedules = st.builds(
    Schedule,
    st.integers(0, 7200).map(lambda seconds: T0 + timedelta(seconds=seconds)),
    st.integers(12, 24).map(lambda hours: timedelta(hours=hours)),
)


@BUSY
@given(
    st.lists(schedules, min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(1, 590), st.booleans()), min_size=30, max_size=300),
)
def test_sms_07_no_instant_is_lost_by_parsing_whenever_it_likes(
    merged: list[Schedule], steps: list[tuple[int, bool]]
) -> None:
    """Airflow as it is: what the last answer said is made a run once it is due, and every parse asks again first."""
    hand = Hand(merged, T0)
    named = {str(index): each for index, each in enumerate(merged)}
    last: datetime | None = None
    planned = hand.ask(last)
    served: dict[str, set[datetime]] = {name: set() for name in named}
    for seconds, parsed in steps:
        hand.time += timedelta(seconds=seconds)
        if parsed:
            planned = hand.ask(last)
        # All that is due: a scheduler that makes one run and then rests for minutes would miss the next one's grace.
        while planned is not None and planned <= hand.time:
            for name, at in due_servers(named, planned).items():
                served[name].add(at)
            last = planned
            planned = hand.ask(last)
    waiting = hand.time - GRACE
    for name, schedule in named.items():
        due: datetime | None = schedule.seed
        while due is not None and due <= waiting:
            assert due in served[name], f"{name} lost {due}"
            due = schedule.next_after(due)


@BUSY
@given(st.lists(schedules, max_size=6), st.integers(0, 400_000), st.none() | st.integers(0, 400_000))
def test_an_answer_is_never_before_the_last_run_nor_older_than_the_grace(
    merged: list[Schedule], now: int, last: int | None
) -> None:
    moment = T0 + timedelta(seconds=now)
    before = None if last is None else T0 + timedelta(seconds=last)
    at = instant(merged, moment, last=before)
    assert (at is None) == (not merged)
    if at is not None:
        assert before is None or at > before
        assert moment - at <= GRACE


def test_airflow_can_store_it() -> None:
    again = decode_timetable(encode_timetable(ReplicationTimetable(wave="erp")))
    assert isinstance(again, ReplicationTimetable)
    assert again.wave == "erp"
    manual = again.infer_manual_data_interval(run_after=pendulum.instance(T0))
    assert manual.start == manual.end == T0


def test_it_reads_the_jobs_and_a_lost_ledger_is_only_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "ledger.db"
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", f"sqlite:///{path}")
    table = ReplicationTimetable(wave="erp")
    assert table.next_dagrun_info(last_automated_data_interval=None, restriction=ANYTIME) is None
    assert not path.exists() or not path.stat().st_size, "asking for the time must not make a ledger"
    clock = SystemClock()
    with Ledger.open(f"sqlite:///{path}") as ledger:
        assert table.next_dagrun_info(last_automated_data_interval=None, restriction=ANYTIME) is None, "no jobs"
        soon = (clock.now() + timedelta(hours=1)).isoformat()
        order = JobOrder(server="web01", plan=ReplicationPlan(seed_time=soon))
        (job,) = create_jobs(ledger, "erp", [order], by="ana", clock=clock)
        found = table.next_dagrun_info(last_automated_data_interval=None, restriction=ANYTIME)
        assert found is not None
        assert found.run_after == job.seed_at
        pause_job(ledger, job.id, by="ana", clock=clock)
        assert table.next_dagrun_info(last_automated_data_interval=None, restriction=ANYTIME) is None, "paused"


def test_a_ledger_that_does_not_answer_is_not_asked_by_every_wave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", "postgresql://nobody@127.0.0.1:9/none")
    monkeypatch.setattr(ReplicationTimetable, "_quiet_until", 0.0)
    assert (
        ReplicationTimetable(wave="a").next_dagrun_info(last_automated_data_interval=None, restriction=ANYTIME) is None
    )
    assert ReplicationTimetable._quiet_until > time.monotonic()
    monkeypatch.setenv("AIRFLOW__WAVELIFT__LEDGER_URL", "not even a url")
    assert (
        ReplicationTimetable(wave="b").next_dagrun_info(last_automated_data_interval=None, restriction=ANYTIME) is None
    )
