"""The alarm that other tests stand under must itself be able to ring."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.gateways import GatewayAlarm, Routed, Row, clashes, intervals

pytestmark = pytest.mark.unit

PREFIX = "10.1.2.0/24"
FAR = 4_000_000_000.0
"""After the making of any alarm."""


class Log:
    def __init__(self, *rows: Row) -> None:
        self.rows = list(rows)

    def prefix_log(self) -> list[Row]:
        return self.rows


def rows(by: str, start: float, end: float | None, prefix: str = PREFIX) -> list[Row]:
    on = (FAR + start, prefix, "ON", by)
    return [on] if end is None else [on, (FAR + end, prefix, "OFF", by)]


@pytest.mark.parametrize(
    ("start", "end", "rings"),
    [
        *((1, 5, False), (1, 10, False), (20, 30, False), (20, None, False)),
        *((1, 11, True), (19, 30, True), (12, 15, True), (1, None, True), (10, 20, True), (5, 40, True)),
    ],
)
def test_one_prefix_on_both_sides_at_once(start: float, end: float | None, rings: bool) -> None:
    alarm = GatewayAlarm([Log(*rows("here", 10, 20))], [Log(*rows("there", start, end))])
    assert bool(alarm.clashes()) is rings
    if rings:
        with pytest.raises(AssertionError, match="here and there"):
            alarm.check()
    else:
        alarm.check()


def test_the_router_counts_as_the_source_and_a_part_of_a_prefix_as_the_prefix() -> None:
    nsx, router = Log(), Log(*rows("router", 1, None))
    assert GatewayAlarm([nsx, router], [Log(*rows("there", 5, 6, "10.1.2.128/25"))]).clashes()
    assert not GatewayAlarm([nsx, router], [Log(*rows("there", 5, 6, "10.1.3.0/24"))]).clashes()


def test_what_was_over_before_is_nobody_s_fault() -> None:
    past = [(1.0, PREFIX, "ON", "x"), (2.0, PREFIX, "OFF", "x")]
    assert not GatewayAlarm([Log(*past)], [Log(*past)]).clashes()
    assert len(clashes(intervals(past), intervals(past))) == 1


def test_gaps_and_who_routes_now() -> None:
    here, there = Log((1.0, PREFIX, "ON", "here"), (FAR + 10, PREFIX, "OFF", "here")), Log(*rows("there", 15, None))
    alarm = GatewayAlarm([here], [there])
    assert alarm.gaps(PREFIX, until=FAR + 100) == [(FAR + 10, FAR + 15)]
    assert alarm.gaps(PREFIX, until=FAR + 12) == [(FAR + 10, FAR + 12)]
    assert alarm.routing(PREFIX) == ["there"]
    there.rows.append((FAR + 50, PREFIX, "OFF", "there"))
    assert alarm.gaps(PREFIX, until=FAR + 100)[-1] == (FAR + 50, FAR + 100)
    assert alarm.routing(PREFIX) == []
    assert len(alarm.gaps("10.9.0.0/24", until=FAR)) == 1


spans = st.lists(st.tuples(st.integers(0, 29), st.integers(1, 29)), max_size=4)


def _held(by: str, found: list[tuple[int, int]]) -> tuple[list[Routed], set[int]]:
    """Spans one after the other, and the seconds that they cover."""
    at, log, seconds = 0, list[Row](), set[int]()
    for pause, length in found:
        start, end = at + pause, at + pause + length
        log += rows(by, start, end)
        seconds |= set(range(start, end))
        at = end
    return intervals(log), seconds


@given(source=spans, destination=spans)
def test_it_rings_just_when_a_second_is_shared(
    source: list[tuple[int, int]], destination: list[tuple[int, int]]
) -> None:
    ours, theirs = _held("here", source), _held("there", destination)
    assert bool(clashes(ours[0], theirs[0])) is bool(ours[1] & theirs[1])
