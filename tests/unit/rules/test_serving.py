"""Who serves in which state, and for how long nobody did."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from wavelift.rules.cutover import CutoverState
from wavelift.rules.serving import downtime_s, serves

pytestmark = pytest.mark.unit

NOON = datetime(2026, 12, 5, 12, tzinfo=UTC)


def at(**minutes: int) -> dict[str, str]:
    return {name: (NOON + timedelta(minutes=each)).isoformat() for name, each in minutes.items()}


@pytest.mark.parametrize("state", list(CutoverState))
def test_every_state_has_somebody_or_nobody(state: CutoverState) -> None:
    said = serves(state, at(stopping=0))
    touched = {"moving", "failed", "reverting"}
    serving = {"switched", "finalizing", "finalized"}
    assert said == ("nobody" if state in touched else "instance" if state in serving else "source")


def test_a_source_that_was_not_ordered_to_stop_serves() -> None:
    assert serves(CutoverState.MOVING, None) == serves(CutoverState.FAILED, {}) == "source"
    assert serves(CutoverState.REVERTING, at(stopping=0, reverting=1)) == "nobody"
    assert serves(CutoverState.REVERTING, at(stopping=0, reverting=1, source_up=2)) == "source"


@pytest.mark.parametrize(
    ("state", "times", "minutes"),
    [
        (CutoverState.GOING, {}, None),
        (CutoverState.MOVING, at(stopping=0), 60),
        (CutoverState.SWITCHED, at(stopping=0, switched=10), 10),
        (CutoverState.FINALIZED, at(stopping=0, switched=10), 10),
        # Back before it was switched: one time of nobody.
        (CutoverState.REVERTING, at(stopping=0, reverting=10), 60),
        (CutoverState.REVERTED, at(stopping=0, reverting=10, source_up=15), 15),
        # Back after the instance served: both ways count, and not what was between.
        (CutoverState.REVERTING, at(stopping=0, switched=10, reverting=50), 20),
        (CutoverState.REVERTED, at(stopping=0, switched=10, reverting=30, source_up=35), 15),
        # It failed, went on, and its source was stopped again.
        (CutoverState.MOVING, at(switched=-90, stopping=0), 60),
    ],
)
def test_the_downtime_is_that_of_both_ways(state: CutoverState, times: dict[str, str], minutes: int | None) -> None:
    expected = None if minutes is None else minutes * 60
    assert downtime_s(state, times, NOON + timedelta(hours=1)) == expected
