"""A datastore file's blocks in order, received before they are due: ranges of several blocks, asked for ahead.

One GET for each block would cost a round trip to the datastore each time, a request and an answer to parse, and from a
host a ticket. Here the next ranges are under way, each on a connection of its own, while one is received.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator
from typing import Final

from wavelift.adapters.vsphere.ranges import AskedRange, RangeRefusedError, Ranges
from wavelift.base.errors import UnreachableError
from wavelift.base.units import BLOCK
from wavelift.transfer.extents import block_ranges
from wavelift.transfer.protocols import Extent, Piece

SPAN: Final = 8 * BLOCK
"""Bytes of one GET at most: what it costs to ask is a thirtieth of receiving them; a lost one costs no more."""
SPANS_AHEAD: Final = 4
"""Asked for at the same time. 16 MiB over a line of 100 ms are 160 MiB/s; of single blocks, 4 a round trip."""


class RangeStream:
    """A :class:`~wavelift.transfer.protocols.BlockStream` over ranges, which stay the caller's.

    A range that fails is taken up, from the block at which it failed, by :meth:`Ranges.read_into`, which has the
    patience; the rest of it is asked for again.

    :param extents: what to read, ascending.
    """

    def __init__(self, ranges: Ranges, extents: Iterator[Extent]) -> None:
        self._ranges = ranges
        blocks, ahead = itertools.tee(block_ranges(extents, self.size))
        self._blocks = blocks
        self._spans = _spans(part for _, parts in ahead for part in parts)
        self._asked: deque[_Span] = deque()
        self._spare: list[bytearray] = []

    @property
    def size(self) -> int:
        return self._ranges.file.size

    def pieces(self) -> Iterator[Piece]:
        """Each with its bytes; at most as many buffers as pieces that were not loaded yet, and one."""
        for index, parts in self._blocks:
            buffer = self._spare.pop() if self._spare else bytearray(BLOCK)
            base, done = index * BLOCK, 0
            for offset, length in parts:
                start = offset - base
                buffer[done:start] = bytes(start - done)
                done = start + length
                self._receive(offset, memoryview(buffer)[start:done])
            buffer[done:] = bytes(BLOCK - done)
            yield _ReceivedPiece(index, buffer, self._spare)

    def interrupt(self) -> None:
        self._ranges.interrupt()

    def close(self) -> None:
        """Give up what was asked for and not received."""
        while self._asked:
            self._asked.pop().close()
        self._spare.clear()

    def _receive(self, offset: int, view: memoryview) -> None:
        """The part that is next."""
        while len(self._asked) < SPANS_AHEAD and (extent := next(self._spans, None)):
            self._asked.append(_Span(self._ranges, extent))
        span = self._asked[0]
        span.read_into(offset, view)
        if offset + len(view) == span.end:
            self._asked.popleft()


class _Span:
    """Neighbouring parts that one GET brings while all is well."""

    def __init__(self, ranges: Ranges, extent: Extent) -> None:
        self.end = extent.offset + extent.length
        self._ranges = ranges
        self._asked: AskedRange | None = None
        self._ask(extent.offset)

    def read_into(self, offset: int, view: memoryview) -> None:
        """:raises WaveliftError: as :meth:`Ranges.read_into`."""
        if self._asked is not None:
            try:
                self._asked.read_into(view)
                return
            except (RangeRefusedError, UnreachableError) as error:
                if isinstance(error, RangeRefusedError) and error.stands:
                    raise
                self._asked = None
        self._ranges.read_into(offset, view)
        self._ask(offset + len(view))

    def close(self) -> None:
        if self._asked is not None:
            self._asked.close()

    def _ask(self, offset: int) -> None:
        """For the rest, if there is any. A way that is cut is found by who waits for the bytes."""
        if offset < self.end:
            try:
                self._asked = self._ranges.ask(offset, self.end - offset)
            except UnreachableError:
                self._asked = None


class _ReceivedPiece:
    """A block in a buffer of the stream."""

    __slots__ = ("_buffer", "_spare", "index")

    def __init__(self, index: int, buffer: bytearray, spare: list[bytearray]) -> None:
        self.index = index
        self._buffer = buffer
        self._spare = spare

    def exchange(self, block: bytearray) -> bytearray:
        """See :class:`~wavelift.transfer.protocols.ExchangingPiece`."""
        self._spare.append(block)
        return self._buffer

    def load(self, into: memoryview) -> None:
        into[:] = memoryview(self._buffer)[: len(into)]
        self._spare.append(self._buffer)


def _spans(parts: Iterator[tuple[int, int]]) -> Iterator[Extent]:
    """Parts that follow each other without a gap as one, up to :data:`SPAN` bytes."""
    start = end = -1
    for offset, length in parts:
        if offset != end or end - start + length > SPAN:
            if start >= 0:
                yield Extent(start, end - start)
            start = offset
        end = offset + length
    if start >= 0:
        yield Extent(start, end - start)
