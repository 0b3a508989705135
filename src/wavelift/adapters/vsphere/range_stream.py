"""A datastore file's blocks in order. Ranges of several blocks are requested ahead.

One GET per block would cost a round trip to the datastore each time, a request and an answer to parse, and from a host
a ticket. Here the next ranges are in flight, each on its own connection, while one is received.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from wavelift.adapters.vsphere.ranges import AskedRange, RangeRefusedError, Ranges
from wavelift.base.errors import UnreachableError, WaveliftError
from wavelift.base.units import BLOCK
from wavelift.transfer.extents import block_ranges
from wavelift.transfer.protocols import Extent, Piece

log = logging.getLogger(__name__)

SPAN: Final = 8 * BLOCK
"""Bytes of one GET at most: what it costs to ask is a thirtieth of receiving them (measured)."""
SPANS_AHEAD: Final = 4
"""Asked for at the same time. 16 MiB over a line of 100 ms are 160 MiB/s; of single blocks, 4 a round trip."""
LOST_SPANS: Final = 3
"""Lost in a row, although their blocks could be read alone: something on the way does not bear long answers."""


class RangeStream:
    """A :class:`~wavelift.transfer.protocols.BlockStream` over ranges, which stay the caller's.

    When a range is lost, all others are given up, so that they stand in nobody's way, and the rest of its blocks are
    read one by one by :meth:`Ranges.read_into`, which has the patience. Then one is asked for at a time, and one more
    after each that came whole; after :data:`LOST_SPANS` lost in a row none any more.

    :param extents: what to read, ascending.
    """

    def __init__(self, ranges: Ranges, extents: Iterator[Extent]) -> None:
        self._ranges = ranges
        blocks, ahead = itertools.tee(block_ranges(extents, self.size))
        self._blocks = blocks
        self._extents = _spans(part for _, parts in ahead for part in parts)
        self._spans: deque[_Span] = deque()
        """Those that are due next; the first may be read in part."""
        self._ahead = SPANS_AHEAD
        self._lost = 0
        """In a row."""
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
        for span in self._spans:
            span.give_up()
        self._spare.clear()

    def _receive(self, offset: int, view: memoryview) -> None:
        """The part that is next.

        :raises WaveliftError: as :meth:`Ranges.read_into`.
        """
        self._ask_ahead()
        span = self._spans[0]
        if not self._received(span, view):
            self._ranges.read_into(offset, view)
        if offset + len(view) == span.extent.offset + span.extent.length:
            self._spans.popleft()
            if span.asked is not None:  # all of it came by its range
                self._lost = 0
                self._ahead = min(self._ahead + 1, SPANS_AHEAD)

    def _ask_ahead(self) -> None:
        while len(self._spans) < self._ahead and (extent := next(self._extents, None)):
            self._spans.append(_Span(extent))
        if self._spans[0].lost or self._lost >= LOST_SPANS:
            return
        for span in itertools.islice(self._spans, self._ahead):
            if span.asked is None:
                try:
                    span.asked = self._ranges.ask(span.extent.offset, span.extent.length)
                except UnreachableError as error:
                    self._lose(span, error)
                    return

    def _received(self, span: _Span, view: memoryview) -> bool:
        if span.asked is None:
            return False
        try:
            span.asked.read_into(view)
        except (RangeRefusedError, UnreachableError) as error:
            if isinstance(error, RangeRefusedError) and error.stands:
                raise
            self._lose(span, error)
            return False
        return True

    def _lose(self, span: _Span, error: WaveliftError) -> None:
        due = self._spans[0]
        for each in self._spans:
            if each is not due or span is due:
                each.give_up()
        self._ahead = 1
        if span is not due:
            return  # it will be asked for again
        span.lost = True
        self._lost += 1
        log.warning("%s; what is left of %d bytes is read block by block", error.what, span.extent.length)
        if self._lost == LOST_SPANS:
            log.warning("ranges of several blocks are lost again and again: from here on each block is read alone")


@dataclass(slots=True)
class _Span:
    """Neighbouring parts that one GET brings while all is well."""

    extent: Extent
    asked: AskedRange | None = None
    lost: bool = False
    """What is left of it is read block by block."""

    def give_up(self) -> None:
        if self.asked is not None:
            self.asked.close()
            self.asked = None


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
        """Once: the buffer is the stream's again afterwards."""
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
