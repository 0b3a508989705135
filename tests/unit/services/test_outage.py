"""How long a source that breaks off is opened again in the same try."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from wavelift.base.errors import Cancelled, UnreachableError
from wavelift.base.run import CancelFlag, Progress
from wavelift.services.dataplane.outage import ROUNDS_IN_VAIN, SourcePatience

pytestmark = pytest.mark.unit

BROKE = UnreachableError("the disk's body broke off")


class _Time(CancelFlag):
    """A clock that goes on only while somebody waits on the flag."""

    def __init__(self) -> None:
        super().__init__()
        self.at = 50.0

    def wait(self, seconds: float) -> bool:
        self.at += seconds
        return self.is_set()

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.at, UTC)

    def monotonic(self) -> float:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.at += seconds


def _moved(done: int, sent: int = 0, disk: str = "disk 0") -> Progress:
    return Progress("web01", disk, "replicate", done, 1 << 40, 0, sent)


def test_inv_9_an_outage_of_ten_minutes_is_borne_and_one_of_half_an_hour_is_not() -> None:
    time = _Time()
    patience = SourcePatience(1800, time)
    time.at += 7 * 3600
    patience.moved(_moved(100))
    began = time.at
    while time.at < began + 600:
        patience.again(BROKE, time)
    patience.moved(_moved(50))  # read from the start again: alive, though no further
    began = time.at
    with pytest.raises(UnreachableError, match="broke off"):
        for _ in range(1000):
            patience.again(BROKE, time)
    assert 1800 <= time.at - began <= 1800 + 30


def test_a_line_that_is_cut_every_hour_is_borne_as_long_as_each_stretch_gets_further() -> None:
    time = _Time()
    patience = SourcePatience(1800, time)
    for reached in range(1, 50):
        time.at += 3600
        patience.moved(_moved(reached))
        patience.again(BROKE, time)


def test_a_disk_that_was_finished_is_no_mark_for_the_others() -> None:
    time = _Time()
    patience = SourcePatience(1800, time)
    patience.moved(_moved(1000, disk="disk 0"))
    for reached in range(1, 20):
        patience.moved(_moved(reached, disk="disk 1"))
        patience.again(BROKE, time)


def test_a_source_that_breaks_at_the_same_place_is_not_opened_for_ever() -> None:
    time = _Time()
    patience = SourcePatience(1800, time)
    with pytest.raises(UnreachableError):
        for count in range(1 + ROUNDS_IN_VAIN):
            patience.moved(_moved(20, disk="disk 1"))
            patience.moved(_moved(70 - count))
            patience.again(BROKE, time)
    assert count == ROUNDS_IN_VAIN


def test_news_that_tell_nothing_new_do_not_count_as_life() -> None:
    time = _Time()
    patience = SourcePatience(1800, time)
    patience.moved(_moved(10, 3))
    time.at += 1799
    patience.moved(_moved(10, 3))
    time.at += 1
    with pytest.raises(UnreachableError):
        patience.again(BROKE, time)
    patience.moved(_moved(10, 4))  # the target took something
    patience.again(BROKE, time)


def test_a_wish_to_stop_wins() -> None:
    time = _Time()
    time.set("killed")
    with pytest.raises(Cancelled, match="killed"):
        SourcePatience(1800, time).again(BROKE, time)
