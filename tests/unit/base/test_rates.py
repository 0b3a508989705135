"""Bytes per second and the time left: the one computation that heartbeat, CLI and REST share."""

from __future__ import annotations

import pytest

from wavelift.base.rates import RateMeter, TransferProgress, average, seconds_left
from wavelift.base.run import Progress
from wavelift.base.units import MIB

pytestmark = pytest.mark.unit


def test_the_rate_is_that_of_the_last_seconds() -> None:
    meter = RateMeter()
    rates = [meter.rate(now, done * MIB) for now, done in ((0, 0), (10, 10), (20, 20), (30, 220))]
    assert rates == [0, MIB, MIB, 20 * MIB]


def test_a_stall_shows_within_the_window() -> None:
    meter = RateMeter()
    rates = [meter.rate(now / 2, min(now, 20) * MIB) for now in range(60)]
    assert rates[19] == 2 * MIB
    assert rates[-1] == 0


def test_a_source_that_is_read_again_has_no_negative_rate() -> None:
    meter = RateMeter()
    rates = [meter.rate(now, done * MIB) for now, done in ((0, 0), (10, 200), (12, 0), (14, 20))]
    assert rates == [0, 20 * MIB, 0, 10 * MIB]


def test_what_a_heartbeat_stores_is_what_is_read() -> None:
    disks = {name: Progress("web01", name, "export", 3, 10, data=2, sent=1) for name in ("a", "b")}
    stored = TransferProgress.stored(disks, 5.4)
    assert stored["disks"]["a"] == {"phase": "export", "done": 3, "total": 10, "data": 2, "sent": 1}
    assert TransferProgress.load(stored, age=1.5) == TransferProgress(done=6, total=20, sent=2, rate=5)
    assert TransferProgress.load(None, age=0) is None
    assert TransferProgress.load(TransferProgress.stored({}, 0), age=0) is None


@pytest.mark.parametrize(("age", "rate"), [(-1, 5), (0, 5), (10, 5), (10.1, 0), (3600, 0)])
def test_a_rate_that_nobody_confirmed_for_ten_seconds_is_no_rate(age: float, rate: float) -> None:
    stored = TransferProgress.stored({"a": Progress("web01", "a", "export", 3, 10, data=2, sent=1)}, 5)
    assert TransferProgress.load(stored, age=age) == TransferProgress(done=3, total=10, sent=1, rate=rate)


def test_averages_and_times_left() -> None:
    assert (average(100, 4), average(100, 0)) == (25, 0)
    assert (seconds_left(20, 100, 10), seconds_left(100, 100, 10), seconds_left(0, 100, 0)) == (8, None, None)
