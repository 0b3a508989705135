"""The instants of schedules: computed by division, merged, never lost and never moved (SMS-03, SMS-04, SMS-07)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import SpecError
from wavelift.rules.schedule import (
    GRACE,
    Schedule,
    due_servers,
    frequency,
    newest_due,
    next_after,
    parse_seed,
    seed_instant,
)

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
FAR = timedelta(days=40)
moments = st.datetimes((NOW - FAR).replace(tzinfo=None), (NOW + FAR).replace(tzinfo=None), timezones=st.just(UTC))
bounds = st.none() | moments
schedules = st.builds(Schedule, moments, st.integers(12, 24).map(lambda hours: timedelta(hours=hours)), bounds, bounds)


def _instants(schedule: Schedule, end: datetime) -> list[datetime]:
    """The slow way: one after the other."""
    found, at = [], schedule.seed
    while at <= end:
        if (schedule.since is None or at >= schedule.since) and (schedule.until is None or at < schedule.until):
            found.append(at)
        at += schedule.frequency
    return found


@given(schedules, moments)
def test_sms_04_the_newest_and_the_next_instant_are_those_of_the_plain_list(schedule: Schedule, now: datetime) -> None:
    every = _instants(schedule, NOW + 4 * FAR)
    before, after = [at for at in every if at <= now], [at for at in every if at > now]
    assert schedule.newest(now) == (before[-1] if before else None)
    assert schedule.next_after(now) == (after[0] if after else None)


@given(schedules)
def test_a_schedule_survives_json(schedule: Schedule) -> None:
    assert Schedule.load(schedule.dump()) == schedule


@given(st.lists(schedules, min_size=1, max_size=6), st.integers(0, 8), st.lists(st.integers(1, 500), min_size=1))
def test_no_instant_is_lost_however_seldom_the_timetable_is_asked_within_the_grace(
    merged: list[Schedule], start: int, steps: list[int]
) -> None:
    """A run is made for each new newest instant; together they serve every instant that came meanwhile."""
    named = {f"s{index}": each for index, each in enumerate(merged)}
    begin = now = NOW + timedelta(hours=start)
    served: dict[str, set[datetime]] = {name: set() for name in named}
    last = None
    for step in steps:
        now += timedelta(seconds=step)
        due = newest_due(merged, now)
        if due is not None and (last is None or due > last):
            for name, at in due_servers(named, due).items():
                served[name].add(at)
            last = due
    for name, schedule in named.items():
        came = {at for at in _instants(schedule, now) if at > begin}
        assert came <= served[name]


@given(schedules, moments)
def test_what_was_missed_for_longer_than_the_grace_is_not_made_up(schedule: Schedule, now: datetime) -> None:
    due = newest_due([schedule], now)
    assert due is None or timedelta() <= now - due <= GRACE


def test_one_run_serves_instants_that_lie_close_together() -> None:
    day = timedelta(hours=24)
    named = {
        "a": Schedule(NOW, day),
        "b": Schedule(NOW + timedelta(minutes=9), day),
        "late": Schedule(NOW - timedelta(minutes=2), day),
    }
    assert newest_due(named.values(), NOW + timedelta(minutes=9)) == NOW + timedelta(minutes=9)
    assert due_servers(named, NOW + timedelta(minutes=9)) == {"a": NOW, "b": NOW + timedelta(minutes=9)}
    assert next_after(named.values(), NOW) == NOW + timedelta(minutes=9)
    assert next_after([], NOW) is None
    assert newest_due([], NOW) is None


def test_daylight_saving_moves_nothing() -> None:
    """24 hours are 24 hours: in Berlin the local time moves on 25 October 2026, the instant does not."""
    schedule = Schedule(datetime(2026, 10, 24, 1, 0, tzinfo=timezone(timedelta(hours=2))), timedelta(hours=24))
    assert schedule.next_after(datetime(2026, 10, 25, 12, tzinfo=UTC)) == datetime(2026, 10, 25, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("now", None),
        (" NOW ", None),
        (1795341600, datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
        ("1795341600", datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
        ("2026-11-22T11:00:00+01:00", datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
        ("2026-11-22 10:00Z", datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
        (datetime(2026, 11, 22, 10, 0, tzinfo=UTC), datetime(2026, 11, 22, 10, 0, tzinfo=UTC)),
    ],
)
def test_sms_03_a_seed_time_is_epoch_or_iso_8601_with_offset(text: str, found: datetime | None) -> None:
    assert parse_seed(text) == found


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("2026-11-22T11:00:00", "no offset"),
        (datetime(2026, 11, 22, 10, 0), "no offset"),
        ("tomorrow", "not a seed time"),
        (
            "99999999999999999999",
            "'99999999999999999999' is read as seconds since 1970; that is not between 2020 and 2099",
        ),
        ("2200", "'2200' is read as seconds since 1970, which is 1970-01-01T00:36:40.*2099.*in quotes"),
        (20261201, "'20261201' is read as seconds since 1970, which is 1970-08-23T12:06:41"),
        (1795341600000, "not between 2020 and 2099"),
        ("-1795341600", "not between 2020 and 2099"),
        ("202612012200", "which is 8390-"),
        ("nan", "not a seed time"),
        ("", "not a seed time"),
    ],
)
def test_sms_03_another_form_is_refused(text: str, words: str) -> None:
    with pytest.raises(SpecError, match=words):
        parse_seed(text)


@given(st.integers(0, 5 * 10**9) | st.integers(-(10**15), 10**15), st.booleans())
def test_sms_03_no_number_means_an_instant_that_nobody_meant(number: int, text: bool) -> None:
    value = str(number) if text else number
    if 1_577_836_800 <= number < 4_102_444_800:
        found = parse_seed(value)
        assert found is not None
        assert found.timestamp() == number
        assert 2020 <= found.year < 2100
    else:
        with pytest.raises(SpecError, match=rf"'{number}' is read as .*ISO 8601 with an offset, in quotes"):
            parse_seed(value)


def test_sms_03_a_seed_lies_at_most_30_days_ahead() -> None:
    limit = NOW + timedelta(days=30)
    assert seed_instant("now", NOW) == NOW
    assert seed_instant(limit, NOW) == limit
    assert seed_instant("2020-01-01T00:00Z", NOW) == datetime(2020, 1, 1, tzinfo=UTC)
    with pytest.raises(SpecError, match="more than 30 days ahead"):
        seed_instant(limit + timedelta(seconds=1), NOW)


def test_sms_03_a_frequency_is_12_to_24_hours() -> None:
    assert [frequency(12), frequency(24)] == [timedelta(hours=12), timedelta(hours=24)]
    for hours in (11, 25):
        with pytest.raises(SpecError, match="not in the range 12 to 24"):
            frequency(hours)
