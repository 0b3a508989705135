"""The token bucket, on a clock of its own."""

from __future__ import annotations

import threading
import time

import pytest

from wavelift.base.errors import Cancelled
from wavelift.base.run import CancelFlag
from wavelift.transfer.throttle import Throttle

pytestmark = pytest.mark.unit


class FakeTime:
    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []

    def clock(self) -> float:
        return self.now

    def wait(self, cancel: CancelFlag, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def throttle(rate: float | None, fake: FakeTime, burst: float | None = None) -> Throttle:
    return Throttle(rate, burst=burst, clock=fake.clock, wait=fake.wait)


def test_the_rate_is_kept_over_time() -> None:
    fake = FakeTime()
    bucket = throttle(1000, fake, burst=0)
    for _ in range(50):
        bucket.take(100, CancelFlag())
    assert fake.now == pytest.approx(100 + 5.0)


def test_unused_rate_is_saved_up_to_the_burst_and_no_further() -> None:
    fake = FakeTime()
    bucket = throttle(1000, fake, burst=500)
    bucket.take(500, CancelFlag())
    assert fake.slept == []
    fake.now += 3600
    bucket.take(600, CancelFlag())
    assert fake.slept == pytest.approx([0.1])


def test_more_than_the_burst_passes_after_its_time() -> None:
    fake = FakeTime()
    throttle(1000, fake, burst=100).take(10_000, CancelFlag())
    assert fake.now == pytest.approx(100 + 9.9)


def test_the_default_burst_is_a_quarter_second() -> None:
    fake = FakeTime()
    throttle(1000, fake).take(1000, CancelFlag())
    assert fake.now == pytest.approx(100.75)


def test_no_rate_means_no_wait() -> None:
    fake = FakeTime()
    throttle(None, fake).take(10**15, CancelFlag())
    assert fake.slept == []


@pytest.mark.parametrize("rate", [0, -1])
def test_a_rate_that_lets_nothing_pass_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        Throttle(rate)


def test_a_cancelled_taker_leaves_at_once_even_in_a_long_wait() -> None:
    cancel = CancelFlag()
    bucket = Throttle(1.0, burst=0)
    raised: list[BaseException] = []

    def take() -> None:
        try:
            bucket.take(3600, cancel)
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=take)
    thread.start()
    cancel.set("enough")
    thread.join(60)
    assert not thread.is_alive()
    assert str(raised[0]) == "enough"
    with pytest.raises(Cancelled):
        Throttle(None).take(1, cancel)


def test_threads_share_the_rate_and_none_starves() -> None:
    bucket = Throttle(400_000, burst=0)
    taken = [0] * 4
    stop = time.monotonic() + 0.5

    def take(number: int) -> None:
        size = 1000 if number else 8000
        while time.monotonic() < stop:
            bucket.take(size, CancelFlag())
            taken[number] += size

    started = time.monotonic()
    threads = [threading.Thread(target=take, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # Every taker of small pieces gets a turn for each turn of the big one.
    assert min(taken[1:]) * 8 >= taken[0] * 0.5
    assert sum(taken) <= 400_000 * (time.monotonic() - started) + 11_000
