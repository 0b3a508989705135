"""Quota, one run at a time, term, pause, licences, and the ways of jobs and runs (SMS-03, SMS-06 to SMS-10)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import PermanentError
from wavelift.rules.limits import limits
from wavelift.rules.replication import (
    JobState,
    Policy,
    Rule,
    RunState,
    RunType,
    Standing,
    extended,
    must_pause,
    refuse_license,
    refuse_quota,
    refuse_register,
    refuse_run,
    require_job_way,
    require_run_way,
    surplus,
    term_end,
    term_warning,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
DAY = timedelta(hours=24)
clocks = st.lists(st.integers(0, 5 * 86_400).map(lambda s: NOW + timedelta(seconds=s)), max_size=60)


@given(clocks)
def test_sms_06_no_24_hours_hold_more_than_two_runs_whatever_the_clock_does(times: list[datetime]) -> None:
    granted: list[datetime] = []
    for now in times:
        refusal = refuse_quota(granted, now)
        if refusal is None:
            granted.append(now)
        else:
            assert refusal.rule == Rule.QUOTA
            assert refusal.until is not None
            assert refusal.until > now
            assert refuse_quota(granted, refusal.until) is None
            assert refuse_quota(granted, refusal.until - timedelta(microseconds=1)) is not None
    for start in granted:
        assert sum(start <= at < start + DAY for at in granted) <= 2


@given(st.lists(st.integers(0, 5 * 86_400), max_size=40).map(sorted))
def test_sms_06_a_clock_that_only_goes_on_gets_every_run_that_the_quota_allows(seconds: list[int]) -> None:
    granted: list[datetime] = []
    for now in (NOW + timedelta(seconds=each) for each in seconds):
        free = sum(now - DAY < at <= now for at in granted) < 2
        assert (refuse_quota(granted, now) is None) is free
        if free:
            granted.append(now)


def test_the_quota_is_a_setting() -> None:
    policy = Policy.of(limits({"on_demand_runs": 3, "on_demand_window_hours": 1}))
    assert refuse_quota([NOW, NOW], NOW, policy) is None
    refusal = refuse_quota([NOW, NOW, NOW], NOW, policy)
    assert refusal is not None
    assert refusal.until == NOW + timedelta(hours=1)
    assert Policy.of(limits()) == Policy()


@pytest.mark.parametrize(
    ("standing", "rule"),
    [
        (Standing(JobState.ACTIVE), None),
        (Standing(JobState.ACTIVE, active_run="run-1"), Rule.IN_PROGRESS),
        (Standing(JobState.ACTIVE, active_run="run-1", on_demand=(NOW, NOW)), Rule.IN_PROGRESS),
        (Standing(JobState.ACTIVE, on_demand=(NOW, NOW)), Rule.QUOTA),
        (Standing(JobState.PAUSED), Rule.PAUSED),
        (Standing(JobState.DELETING), Rule.DELETED),
        (Standing(JobState.DELETED), Rule.DELETED),
        (Standing(JobState.ACTIVE, term_ends_at=NOW), Rule.TERM),
        (Standing(JobState.ACTIVE, term_ends_at=NOW + timedelta(seconds=1)), None),
    ],
)
def test_one_rule_at_a_time_refuses(standing: Standing, rule: Rule | None) -> None:
    refusal = refuse_run(standing, RunType.ON_DEMAND, NOW)
    assert (refusal.rule if refusal else None) == rule
    if refusal:
        assert set(refusal.dump()) == {"server", "rule", "reason", "until"}


@given(st.lists(st.just(NOW), max_size=5))
def test_scheduled_and_continued_runs_are_not_counted(grants: list[datetime]) -> None:
    standing = Standing(JobState.ACTIVE, on_demand=tuple(grants))
    assert refuse_run(standing, RunType.AUTOMATIC, NOW) is None
    assert refuse_run(standing, RunType.ON_DEMAND, NOW, again=True) is None


STANDINGS = st.builds(
    Standing,
    st.sampled_from(JobState),
    st.none() | st.integers(-5, 5).map(lambda days: NOW + days * DAY),
    st.sampled_from(["", "run-1"]),
    st.lists(st.integers(0, 48).map(lambda hours: NOW - timedelta(hours=hours)), max_size=4).map(tuple),
    st.sampled_from(["", "cut-1"]),
)


@given(STANDINGS, st.sampled_from(RunType), st.booleans())
def test_while_a_cutover_withholds_a_server_only_its_own_runs_are_admitted(
    standing: Standing, kind: RunType, again: bool
) -> None:
    refusal = refuse_run(standing, kind, NOW, again=again)
    if standing.cutover and kind is not RunType.CUTOVER:
        assert refusal is not None
        assert refusal.rule == Rule.CUTOVER
        assert standing.cutover in refusal.reason
    elif refusal is not None:
        assert refusal.rule != Rule.CUTOVER


@given(STANDINGS, st.booleans())
def test_a_run_of_a_cutover_is_refused_only_for_another_run_or_a_job_that_is_gone(
    standing: Standing, again: bool
) -> None:
    refusal = refuse_run(standing, RunType.CUTOVER, NOW, again=again)
    gone = standing.state in (JobState.DELETING, JobState.DELETED)
    expected = Rule.DELETED if gone else Rule.IN_PROGRESS if standing.active_run else None
    assert (refusal.rule if refusal else None) == expected


@given(st.lists(st.integers(-100, 10 * 86_400), max_size=50).map(sorted))
def test_sms_10_each_warning_comes_once_and_the_most_urgent_first(before_end: list[int]) -> None:
    ends = term_end(NOW)
    assert ends == NOW + timedelta(days=90)
    warned, given_ = None, []
    for seconds in sorted(before_end, reverse=True):
        due = term_warning(ends, ends - timedelta(seconds=seconds), warned)
        if due is not None:
            given_.append(due)
            warned = due
            assert timedelta() < timedelta(seconds=seconds) <= timedelta(days=due)
    assert given_ == sorted(set(given_), reverse=True)
    assert set(given_) <= {14, 7, 1}


def test_sms_10_warnings_at_14_7_and_1_days() -> None:
    ends = NOW + timedelta(days=30)
    days = [15, 14, 10, 7, 6.9, 1, 0.5, 0]
    found, warned = [], None
    for left in days:
        due = term_warning(ends, ends - timedelta(days=left), warned)
        warned = due or warned
        found.append(due)
    assert found == [None, 14, None, 7, None, 1, None, None]
    assert term_warning(None, NOW, None) is None


def test_an_extension_starts_at_the_end_or_now() -> None:
    assert extended(NOW + DAY, NOW, DAY) == NOW + 2 * DAY
    assert extended(NOW - DAY, NOW, DAY) == NOW + DAY


def test_pausing_and_keeping() -> None:
    assert [must_pause(count, 3) for count in (0, 2, 3, 4)] == [False, False, True, True]
    assert not must_pause(100, 0)
    assert surplus([4, 3, 2, 1], 2) == (2, 1)
    assert surplus([4, 3], None) == ()
    assert surplus([4, 3], 0) == (3,), "the newest stays"


def test_sms_03_linux_is_byol_only() -> None:
    linux, windows = ("auto", "byol"), ("auto", "aws", "byol")
    assert refuse_license("aws", windows) is None
    assert refuse_license("auto", linux) is None
    refused = refuse_license("aws", linux)
    assert refused is not None
    assert refused.rule == Rule.LICENSE


def test_registering_without_billing_data_is_for_linux() -> None:
    assert refuse_register("byol", linux=True, forced=False) is None
    assert refuse_register("aws", linux=True, forced=False) is not None
    assert refuse_register("byol", linux=False, forced=False) is not None
    assert refuse_register("byol", linux=False, forced=True) is None


RUN_WAYS = {
    ("reserved", "active"),
    ("reserved", "expired"),
    ("reserved", "deleted"),
    ("active", "completed"),
    ("active", "failed"),
    ("active", "cancelled"),
    ("active", "deleted"),
    ("failed", "active"),
    ("cancelled", "active"),
    ("expired", "active"),
    ("expired", "refused"),
}


@given(st.sampled_from(RunState), st.sampled_from(RunState))
def test_runs_go_only_these_ways(current: RunState, target: RunState) -> None:
    if current is target or (str(current), str(target)) in RUN_WAYS:
        require_run_way(current, target, run="run-1")
    else:
        with pytest.raises(PermanentError, match=f"from {current} to {target}"):
            require_run_way(current, target, run="run-1")


def test_a_deleted_job_stays_deleted() -> None:
    require_job_way(JobState.PAUSED, JobState.ACTIVE, job="job-1")
    require_job_way(JobState.DELETED, JobState.DELETED, job="job-1")
    with pytest.raises(PermanentError, match="from deleted to active"):
        require_job_way(JobState.DELETED, JobState.ACTIVE, job="job-1")
    with pytest.raises(PermanentError):
        require_job_way(JobState.DELETING, JobState.PAUSED, job="job-1")
