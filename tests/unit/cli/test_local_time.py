"""Times that people type: the user's own zone, its two odd hours a year, and nothing guessed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Final
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wavelift.airflow.rest import ApiError
from wavelift.cli.local_time import typed_time, with_offset
from wavelift.rules.schedule import parse_seed

pytestmark = pytest.mark.unit

ZONES: Final = (
    "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata", "Pacific/Apia", "Africa/Casablanca",
    "America/St_Johns", "Pacific/Chatham", "UTC",
)  # fmt: skip
"""Lord Howe's clocks change by half an hour; Casablanca's are put back for a month; the others have odd offsets."""


@pytest.fixture
def zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    def be_in(name: str) -> None:
        monkeypatch.setenv("TZ", name)
        time.tzset()

    yield be_in
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-12-01 10:00", "2026-12-01T09:00:00+00:00"),
        (" 2026-07-01T10:00:30 ", "2026-07-01T08:00:30+00:00"),
        ("2026-12-01", "2026-11-30T23:00:00+00:00"),
        ("2026-12-01T10:00:00Z", "2026-12-01T10:00:00+00:00"),
        ("2026-12-01T10:00+05:30", "2026-12-01T04:30:00+00:00"),
    ],
)
def test_sms_03_a_time_without_offset_is_of_the_user_s_zone(
    zone: Callable[[str], None], text: str, expected: str
) -> None:
    zone("Europe/Berlin")
    assert typed_time(text) == datetime.fromisoformat(expected)


@pytest.mark.parametrize(
    ("where", "text", "words"),
    [
        ("Europe/Berlin", "2026-10-25 02:30", ("comes twice", "2026-10-25T02:30+02:00", "2026-10-25T02:30+01:00")),
        ("Europe/Berlin", "2026-03-29 02:30", ("does not exist", "2026-03-29T03:30+02:00", "2026-03-29T01:30+01:00")),
        ("America/New_York", "2026-11-01 01:00:05", ("comes twice", "T01:00:05-04:00", "T01:00:05-05:00")),
        ("Australia/Lord_Howe", "2026-04-05 01:45", ("comes twice", "T01:45+11:00", "T01:45+10:30")),
        ("Australia/Lord_Howe", "2026-10-04 02:15", ("does not exist", "T02:45+11:00", "T01:45+10:30")),
    ],
)
def test_sms_03_an_hour_that_comes_twice_or_never_is_refused_with_both_readings(
    zone: Callable[[str], None], where: str, text: str, words: tuple[str, ...]
) -> None:
    zone(where)
    for read in (typed_time, with_offset):
        with pytest.raises(ApiError) as caught:
            read(text)
        told = str(caught.value)
        assert all(word in told for word in words), told
        assert told.index(words[1]) < told.index(words[2]), "the likelier reading comes first"
        for reading in words[1:]:
            if reading.startswith("20"):
                typed_time(reading)


@pytest.mark.parametrize(
    "text", ["", "soon", "10:00", "2026-13-01", "0001-01-01", "9999-12-31 23:59", "2026-12-01 25:00"]
)
def test_what_is_no_time_is_refused_with_an_example(zone: Callable[[str], None], text: str) -> None:
    zone("Europe/Berlin")
    with pytest.raises(ApiError, match="is not a time; write '2026-12-01 10:00'"):
        typed_time(text)


@pytest.mark.parametrize("text", ["now", "1796119200", "20261201", "2026-12-01T10:00:00+01:00", "soon", "10:00", ""])
def test_what_the_server_understands_or_refuses_by_itself_goes_to_it_as_it_is(
    zone: Callable[[str], None], text: str
) -> None:
    zone("Europe/Berlin")
    assert with_offset(text) == text


@given(
    wall=st.datetimes(datetime(2020, 1, 1), datetime(2037, 12, 31)),
    where=st.sampled_from(ZONES),
    near=st.booleans(),
    minutes=st.integers(-180, 180),
    change=st.sampled_from([datetime(2026, 3, 29, 2), datetime(2026, 10, 25, 2), datetime(2026, 4, 5, 2),
                            datetime(2026, 10, 4, 2), datetime(2026, 3, 8, 2), datetime(2026, 11, 1, 1)]),
)  # fmt: skip
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_wall_clock_has_one_reading_or_is_refused(  # one per strategy
    zone: Callable[[str], None], wall: datetime, where: str, near: bool, minutes: int, change: datetime
) -> None:
    """The oracle is the zone database read by ``zoneinfo``: which instants does this wall clock show at this time?"""
    zone(where)
    wall = change + timedelta(minutes=minutes) if near else wall.replace(microsecond=0)
    shown = {
        instant.astimezone(UTC)
        for fold in (0, 1)
        if (instant := wall.replace(tzinfo=ZoneInfo(where), fold=fold)).astimezone(UTC).astimezone(
            ZoneInfo(where)
        ).replace(tzinfo=None) == wall
    }  # fmt: skip
    try:
        read = typed_time(str(wall))
    except ApiError as error:
        told = str(error)
        offsets = [instant.astimezone(ZoneInfo(where)).isoformat()[-6:] for instant in shown]
        assert len(shown) != 1
        assert (all(offset in told for offset in offsets), "comes twice" in told) == (True, len(shown) == 2)
        return
    assert shown == {read}
    assert parse_seed(with_offset(str(wall))) == read


OFFSETS: Final = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(instant=st.datetimes(datetime(1975, 1, 1), datetime(2099, 1, 1), timezones=OFFSETS))
def test_a_time_with_an_offset_is_the_same_instant_in_every_zone(instant: datetime) -> None:
    assert typed_time(instant.isoformat()) == instant
    assert with_offset(instant.isoformat()) == instant.isoformat()
