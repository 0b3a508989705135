"""The stream over ranges: every byte once and in order, whatever the ranges do on the way."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.adapters.vsphere.range_stream import LOST_SPANS, SPAN, SPANS_AHEAD, RangeStream
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
        self._refused = file.open > file.most
        self._hangs_at = offset + file.blocks_of_a_range * BLOCK
        self._closed = False
        self._at = offset
        self._end = offset + length

    def read_into(self, view: memoryview) -> None:
        try:
            self._file.maybe_fail()
            if self._refused:
                raise RangeRefusedError("too many", status=503)
            if self._at >= self._hangs_at:
                raise UnreachableError("no byte for a minute")
        except WaveliftError:
            self.close()
            raise
        assert self._at + len(view) <= self._end, "more than was asked for"
        view[:] = DISK[self._at : self._at + len(view)]
        self._at += len(view)
        if self._at == self._end:
            self.close()

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._file.open -= 1


class FakeFile:
    """Stands for :class:`Ranges`; ``failures`` are taken one after another, None is none."""

    def __init__(self, failures: list[WaveliftError | None], *, most: int = 99, blocks_of_a_range: int = 99) -> None:
        """:param most: answers under way; one more is refused. :param blocks_of_a_range: after them it hangs."""
        self.file = SimpleNamespace(size=SIZE)
        self.failures = failures
        self.most = most
        self.blocks_of_a_range = blocks_of_a_range
        self.open = 0
        self.most_open = 0
        self.asked: list[Extent] = []
        self.alone: list[Extent] = []

    def maybe_fail(self, *, asking: bool = False) -> None:
        if self.failures and (error := self.failures.pop()):
            raise UnreachableError("no connection") if asking else error

    def ask(self, offset: int, length: int) -> FakeAsked:
        self.maybe_fail(asking=True)
        self.open += 1
        self.most_open = max(self.open, self.most_open)
        self.asked.append(Extent(offset, length))
        return FakeAsked(self, offset, length)

    def read_into(self, offset: int, view: memoryview) -> None:
        assert self.open < self.most, "our own answers take the place of the one that must come"
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


def test_a_lost_range_is_read_block_by_block_and_the_next_one_whole() -> None:
    file = FakeFile([cut, None, None, *[None] * 3])  # three are asked for, two blocks come, then the cut
    read(file, [Extent(0, 3 * SPAN)], exchange=True)
    assert file.alone == [Extent(at, BLOCK) for at in range(2 * BLOCK, SPAN, BLOCK)]
    assert file.asked[:3] == [Extent(at, SPAN) for at in (0, SPAN, 2 * SPAN)]
    assert file.asked[3:] == [Extent(SPAN, SPAN), Extent(2 * SPAN, SPAN)], "given up, and asked for again"


@pytest.mark.parametrize("most", [1, 2, 3])
def test_a_server_that_bears_few_answers_at_a_time_gets_few(most: int) -> None:
    file = FakeFile([], most=most)
    got = read(file, [Extent(0, SIZE)], exchange=True)
    assert b"".join(got[at] for at in sorted(got)) == DISK
    assert len(file.alone) < 41 - 8, "spans are tried again"


def test_where_long_answers_hang_blocks_are_read_alone(caplog: pytest.LogCaptureFixture) -> None:
    file = FakeFile([], blocks_of_a_range=1)
    got = read(file, [Extent(0, SIZE)], exchange=True)
    assert b"".join(got[at] for at in sorted(got)) == DISK
    assert len(file.alone) == 41 - LOST_SPANS, "three time-outs, and no more"
    assert "each block is read alone" in caplog.text


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
