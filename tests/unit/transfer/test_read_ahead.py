"""Ranges that come in order are asked for ahead, each once, and no further than the end."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from wavelift.base.errors import CorruptStreamError
from wavelift.transfer.read_ahead import ReadAhead

pytestmark = pytest.mark.unit
DATA = bytes(range(256)) * 4


def test_all_ranges_come_once_and_in_order() -> None:
    asked: list[tuple[int, int]] = []
    lock = threading.Lock()

    def read(offset: int, length: int) -> bytes:
        with lock:
            asked.append((offset, length))
        return DATA[offset : offset + length]

    with closing(ReadAhead(read, 10, 500, step=100, ahead=2)) as ahead:
        got = b"".join(ahead.read(offset, 100) for offset in range(10, 500, 100))
    assert got == DATA[10:500]
    assert sorted(asked) == [(10, 100), (110, 100), (210, 100), (310, 100), (410, 90)]


def test_so_many_are_under_way_beside_the_one_that_is_used() -> None:
    meeting = threading.Barrier(3)

    def read(offset: int, length: int) -> bytes:
        if offset < 300:
            meeting.wait(timeout=30)  # the first three meet, or it breaks
        return DATA[offset : offset + length]

    with closing(ReadAhead(read, 0, 1000, step=100, ahead=2)) as ahead:
        assert ahead.read(0, 100) == DATA[:100]


def test_what_fails_is_told_when_its_turn_comes() -> None:
    def read(offset: int, length: int) -> bytes:
        if offset == 100:
            raise CorruptStreamError("cut")
        return DATA[offset : offset + length]

    with closing(ReadAhead(read, 0, 300, step=100)) as ahead:
        assert ahead.read(0, 100) == DATA[:100]
        with pytest.raises(CorruptStreamError, match="cut"):
            ahead.read(100, 100)
        with pytest.raises(ValueError, match="not what comes next"):
            ahead.read(100, 100)
