"""The stream over ranges: every byte once and in order, whatever the ranges do on the way."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.adapters.vsphere.range_stream import SPAN, SPANS_AHEAD, RangeStream
from wavelift.adapters.vsphere.ranges import RangeRefusedError, Ranges
from wavelift.base.errors import UnreachableError, WaveliftError
from wavelift.base.units import BLOCK, SECTOR
from wavelift.transfer.extents import coalesce
from wavelift.transfer.protocols import Extent

pytestmark = pytest.mark.unit

SIZE = 40 * BLOCK + SECTOR
DISK = random.Random(3).randbytes(SIZE)


class FakeAsked:
    def __init__(self, file: FakeFile, offset: int, length: int) -> None:
        self._file = file
        self._at = offset
        self._end = offset + length

    def read_into(self, view: memoryview) -> None:
        self._file.maybe_fail()
        assert self._at + len(view) <= self._end, "more than was asked for"
        view[:] = DISK[self._at : self._at + len(view)]
        self._at += len(view)
        if self._at == self._end:
            self._file.open -= 1

    def close(self) -> None:
        self._file.open -= 1


class FakeFile:
    """Stands for :class:`Ranges`; ``failures`` are taken one after another, None is none."""

    def __init__(self, failures: list[WaveliftError | None]) -> None:
        self.file = SimpleNamespace(size=SIZE)
        self.failures = failures
        self.open = 0
        self.most_open = 0
        self.asked: list[Extent] = []
        self.alone: list[Extent] = []

    def maybe_fail(self, *, asking: bool = False) -> None:
        if self.failures and (error := self.failures.pop()):
            self.open -= 1
            raise UnreachableError("no connection") if asking else error

    def ask(self, offset: int, length: int) -> FakeAsked:
        self.open += 1
        self.maybe_fail(asking=True)
        self.most_open = max(self.open, self.most_open)
        self.asked.append(Extent(offset, length))
        return FakeAsked(self, offset, length)

    def read_into(self, offset: int, view: memoryview) -> None:
        self.alone.append(Extent(offset, len(view)))
        view[:] = DISK[offset : offset + len(view)]

    def as_ranges(self) -> Ranges:
        return cast(Ranges, self)


def read(file: FakeFile, extents: list[Extent], *, exchange: bool) -> dict[int, bytes]:
    """The blocks that came, loaded by workers that use one buffer again and again."""
    stream = RangeStream(file.as_ranges(), iter(extents))
    got = {}
    block = bytearray(b"\xee" * BLOCK)
    for piece in cast(Any, stream.pieces()):
        length = min(BLOCK, SIZE - piece.index * BLOCK)
        if exchange and length == BLOCK:
            block = piece.exchange(block)
        else:
            piece.load(memoryview(block)[:length])
        got[piece.index] = bytes(block[:length])
    stream.close()
    return got


areas = st.lists(st.builds(Extent, st.integers(0, SIZE - 1), st.integers(1, 5 * BLOCK)), max_size=6)
cut = UnreachableError("cut")
refused = RangeRefusedError("a moment", status=503)


@given(areas=areas, failures=st.lists(st.sampled_from([None, None, cut, refused]), max_size=30), exchange=st.booleans())
def test_every_byte_of_every_extent_whatever_fails(
    areas: list[Extent], failures: list[WaveliftError | None], exchange: bool
) -> None:
    file = FakeFile(failures)
    extents = [Extent(one.offset, min(one.length, SIZE - one.offset)) for one in coalesce(areas)]
    wanted = bytearray(SIZE)
    for one in extents:
        wanted[one.offset : one.offset + one.length] = DISK[one.offset : one.offset + one.length]
    got = read(file, extents, exchange=exchange)
    touched = {at for one in extents for at in range(one.offset // BLOCK, -(-(one.offset + one.length) // BLOCK))}
    assert got.keys() == touched
    assert [at for at, data in got.items() if data != wanted[at * BLOCK : (at + 1) * BLOCK]] == []
    assert file.open == 0, "nothing is left under way"


def test_a_whole_disk_comes_in_ranges_of_eight_blocks() -> None:
    file = FakeFile([])
    read(file, [Extent(0, SIZE)], exchange=True)
    assert file.asked == [Extent(at, min(SPAN, SIZE - at)) for at in range(0, SIZE, SPAN)]
    assert file.most_open == SPANS_AHEAD
    assert not file.alone


def test_scattered_blocks_are_asked_for_ahead_as_well() -> None:
    file = FakeFile([])
    extents = [Extent(at * BLOCK, BLOCK) for at in range(0, 20, 2)]
    read(file, extents, exchange=False)
    assert file.asked == extents
    assert file.most_open == SPANS_AHEAD


def test_a_cut_range_goes_on_behind_the_block_that_was_read_alone() -> None:
    file = FakeFile([cut, None, None, None])  # one to ask, two blocks, then the cut
    read(file, [Extent(0, SPAN)], exchange=True)
    assert file.alone == [Extent(2 * BLOCK, BLOCK)]
    assert file.asked == [Extent(0, SPAN), Extent(3 * BLOCK, SPAN - 3 * BLOCK)]


def test_a_refusal_that_stands_is_the_end() -> None:
    file = FakeFile([RangeRefusedError("no", status=403), None])
    with pytest.raises(RangeRefusedError):
        read(file, [Extent(0, BLOCK)], exchange=True)
    assert not file.alone


def test_closing_gives_up_what_was_asked_for() -> None:
    file = FakeFile([])
    stream = RangeStream(file.as_ranges(), iter([Extent(0, SIZE)]))
    next(iter(stream.pieces()))
    assert file.open == SPANS_AHEAD
    stream.close()
    assert file.open == 0
