"""The alarm that other tests stand under must itself be able to ring."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.addresses import AddressAlarm, Held, clashes, intervals

pytestmark = pytest.mark.unit


def row(second: int, owner: str, address: str, up: bool) -> dict[str, Any]:
    return {
        "at": f"2099-01-01T00:00:{second:02}.000001+00:00",
        "vm": owner,
        "instance": owner,
        "address": address,
        "up": up,
    }


class Log:
    def __init__(self, *rows: dict[str, Any]) -> None:
        self.rows = list(rows)

    def address_log(self) -> list[dict[str, Any]]:
        return self.rows


UP_10_TO_20 = (row(10, "web01", "10.0.0.5", True), row(20, "web01", "10.0.0.5", False))


@pytest.mark.parametrize(
    ("start", "end", "rings"),
    [
        *((1, 5, False), (1, 10, False), (20, 30, False), (20, None, False)),
        *((1, 11, True), (19, 30, True), (12, 15, True), (1, None, True), (10, 20, True), (5, 40, True)),
    ],
)
def test_one_address_on_both_sides_at_once(start: int, end: int | None, rings: bool) -> None:
    target = [row(start, "i-1", "10.0.0.5", True)]
    target += [] if end is None else [row(end, "i-1", "10.0.0.5", False)]
    alarm = AddressAlarm(Log(*UP_10_TO_20), Log(*target))
    assert bool(alarm.clashes()) is rings
    if rings:
        with pytest.raises(AssertionError, match="web01 and i-1"):
            alarm.check()
    else:
        alarm.check()


def test_other_addresses_and_other_spellings() -> None:
    alarm = AddressAlarm(Log(*UP_10_TO_20), Log(row(1, "i-1", "10.0.0.6", True)))
    assert not alarm.clashes()
    alarm = AddressAlarm(Log(row(1, "web01", "fd00:0::5", True)), Log(row(2, "i-1", "fd00::5", True)))
    assert [str(clash).partition(",")[0] for clash in alarm.clashes()] == ["fd00::5: web01 and i-1"]


def test_what_was_over_before_is_nobody_s_fault() -> None:
    past = [{**one, "at": one["at"].replace("2099", "1999")} for one in UP_10_TO_20]
    assert not AddressAlarm(Log(*past), Log(*past)).clashes()
    assert len(clashes(intervals(past, "vm"), intervals(past, "instance"))) == 1


spans = st.lists(st.tuples(st.integers(0, 29), st.integers(1, 29)), max_size=4)


def _held(owner: str, found: list[tuple[int, int]]) -> tuple[list[Held], set[int]]:
    """Spans one after the other, and the seconds that they cover."""
    at, rows, seconds = 0, [], set[int]()
    for pause, length in found:
        start, end = at + pause, at + pause + length
        if end > 59:
            break
        rows += [row(start, owner, "10.0.0.5", True), row(end, owner, "10.0.0.5", False)]
        seconds |= set(range(start, end))
        at = end
    return intervals(rows, "vm"), seconds


@given(source=spans, target=spans)
def test_it_rings_just_when_a_second_is_shared(source: list[tuple[int, int]], target: list[tuple[int, int]]) -> None:
    ours, theirs = _held("web01", source), _held("i-1", target)
    assert bool(clashes(ours[0], theirs[0])) is bool(ours[1] & theirs[1])
