"""When the next try begins: by Airflow's own rule, told by the task that fails."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.sdk.definitions._internal.abstractoperator import MAX_RETRY_DELAY
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.times import zone_of
from wavelift.base.tries import LONGEST_DELAY, REASON_LONGEST, Backoff, FailedTry

pytestmark = pytest.mark.unit

ENDED = datetime(2026, 12, 1, 14, 2, tzinfo=UTC)
DELAYS = st.timedeltas(min_value=timedelta(0), max_value=timedelta(hours=2))


@given(
    delay=DELAYS,
    multiplier=st.sampled_from([0.0, 1.0, 1.5, 2.0, 5.0]),
    longest=st.none() | st.timedeltas(min_value=timedelta(seconds=1), max_value=timedelta(days=2)),
    number=st.integers(1, 2000),
    logical_date=st.none() | st.datetimes(timezones=st.just(UTC)),
)
def test_the_next_try_is_when_airflow_says(
    delay: timedelta, multiplier: float, longest: timedelta | None, number: int, logical_date: datetime | None
) -> None:
    task = SimpleNamespace(retry_delay=delay, retry_exponential_backoff=multiplier, max_retry_delay=longest)
    ti: Any = SimpleNamespace(
        task=task,
        dag_id="shop.migrate",
        task_id="server.snapshot",
        logical_date=logical_date,
        try_number=number,
        end_date=ENDED,
        retry_delay_override=None,
        log=SimpleNamespace(warning=lambda *_: None),
    )
    ours = Backoff(delay=delay, multiplier=multiplier, longest=longest)
    key = f"shop.migrate#server.snapshot#{logical_date}"
    assert TaskInstance.next_retry_datetime(ti) == ENDED + ours.after(key, number)


def test_airflow_s_own_limit_is_a_day() -> None:
    assert timedelta(seconds=MAX_RETRY_DELAY) == LONGEST_DELAY


WHOLE = {"task": "server.snapshot", "what": "refused", "next_step": "", "try": 1, "of": 3}


def test_a_failed_try_is_told_with_the_next_one() -> None:
    again = datetime(2026, 12, 1, 14, 3, 20).astimezone()
    failed = FailedTry.load({**WHOLE, "next_try_at": again.isoformat()})
    assert failed.words == f"failed, tries again at 14:03:20 {zone_of(again)} (try 2 of 3): refused"
    assert failed.short == f"failed, tries again at 14:03:20 {zone_of(again)} (try 2 of 3)"


@pytest.mark.parametrize("left", [None, 7, "text", [], {}], ids=repr)
def test_a_killed_try_leaves_nothing(left: Any) -> None:
    assert FailedTry.load(left).words == "failed, tries again"


@given(
    left=st.fixed_dictionaries({}, optional=dict.fromkeys(("what", "try", "of", "next_try_at"), st.from_type(object)))
)
def test_what_another_program_left_is_read_all_the_same(left: Any) -> None:
    assert FailedTry.load(left).short.startswith("failed, tries again")


@given(what=st.text(), number=st.integers(), of=st.integers())
def test_the_words_are_one_printable_line(what: str, number: int, of: int) -> None:
    words = FailedTry.load({"what": what * 600, "try": number, "of": of, "next_try_at": what}).words
    assert len(words.splitlines()) == 1
    assert len(words) < 20 * REASON_LONGEST


def test_an_older_worker_left_no_time() -> None:
    assert FailedTry.load({"task": "t", "what": "refused", "next_step": ""}).words == "failed, tries again: refused"
    assert FailedTry.load({**WHOLE, "next_try_at": "2026-12-01T14:03:20"}).next_at is None, "no zone, no time"


@given(
    when=st.datetimes() | st.sampled_from([datetime.min, datetime.max]),
    offset=st.integers(-23, 23),
    reader=st.sampled_from(["Asia/Tokyo", "America/New_York", "UTC"]),
)
def test_a_time_of_another_program_is_told_in_any_zone_or_is_none(when: datetime, offset: int, reader: str) -> None:
    """The first and the last day have no local time in some zones: the command ended in an error of Python."""
    told = when.replace(tzinfo=timezone(timedelta(hours=offset))).isoformat()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TZ", reader)
        time.tzset()
        words = FailedTry.load({**WHOLE, "next_try_at": told}).words
    time.tzset()
    assert words.startswith("failed, tries again")
