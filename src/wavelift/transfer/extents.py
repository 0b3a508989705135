"""Cuts the extents of a random-access reader into blocks, which workers read with clones of the reader."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import attrgetter

from wavelift.base.units import BLOCK
from wavelift.transfer.protocols import DiskReader, Extent, Piece


def coalesce(areas: Iterable[Extent], *, gap: int = 0) -> tuple[Extent, ...]:
    """``areas`` in ascending order without overlap; those at most ``gap`` bytes apart become one. Empty ones vanish."""
    joined: list[Extent] = []
    start = end = -1
    for area in sorted((area for area in areas if area.length > 0), key=attrgetter("offset")):
        if start >= 0 and area.offset <= end + gap:
            end = max(end, area.offset + area.length)
            continue
        if start >= 0:
            joined.append(Extent(start, end - start))
        start, end = area.offset, area.offset + area.length
    if start >= 0:
        joined.append(Extent(start, end - start))
    return tuple(joined)


def round_to_blocks(areas: Iterable[Extent], capacity: int) -> tuple[Extent, ...]:
    """Every 512 KiB block that ``areas`` touch, whole; the disk's last one ends with it.

    :param areas: bytes of the disk in any order; what lies behind ``capacity`` is left out.
    :raises ValueError: an area begins before the disk.
    """
    whole: list[Extent] = []
    for area in areas:
        if area.offset < 0:
            raise ValueError(f"an area at {area.offset}")
        end = min(area.offset + area.length, capacity)
        if area.offset < end and area.length > 0:
            start = area.offset // BLOCK * BLOCK
            whole.append(Extent(start, min(-(-end // BLOCK) * BLOCK, capacity) - start))
    return coalesce(whole)


def block_ranges(extents: Iterator[Extent], size: int) -> Iterator[tuple[int, list[tuple[int, int]]]]:
    """(block index, [(offset, length) of its data]) ascending; zero extents and what lies behind ``size`` vanish.

    :raises ValueError: when extents overlap or go backwards.
    """
    for index, group in groupby(_cut(extents, size), key=lambda piece: piece[0]):
        yield index, [(offset, length) for _, offset, length in group]


def _cut(extents: Iterator[Extent], size: int) -> Iterator[tuple[int, int, int]]:
    passed = 0
    for extent in extents:
        if extent.offset < passed or extent.length < 0:
            raise ValueError(f"extent at {extent.offset} after {passed}")
        passed = extent.offset + extent.length
        offset, end = extent.offset, min(passed, size)
        while offset < end and not extent.zero:
            index = offset // BLOCK
            stop = min((index + 1) * BLOCK, end)
            yield index, offset, stop - offset
            offset = stop


class _ReaderPiece:
    __slots__ = ("_ranges", "_stream", "index")

    def __init__(self, index: int, ranges: list[tuple[int, int]], stream: ReaderStream) -> None:
        self.index = index
        self._ranges = ranges
        self._stream = stream

    def load(self, into: memoryview) -> None:
        reader = self._stream.clone()
        base = self.index * BLOCK
        done = 0
        for offset, length in self._ranges:
            start = offset - base
            into[done:start] = bytes(start - done)
            reader.read_into(offset, into[start : start + length])
            done = start + length
        into[done:] = bytes(len(into) - done)


class ReaderStream:
    """The :meth:`~wavelift.transfer.protocols.DiskReader.stream` of a reader that does not read ahead.

    Each worker thread reads with its own clone of ``reader``. ``close`` closes the clones, not ``reader``.
    """

    def __init__(self, reader: DiskReader) -> None:
        self._reader = reader
        self._local = threading.local()
        self._clones: list[DiskReader] = []
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        return self._reader.size

    def pieces(self) -> Iterator[Piece]:
        for index, ranges in block_ranges(self._reader.extents(), self.size):
            yield _ReaderPiece(index, ranges, self)

    def clone(self) -> DiskReader:
        """This thread's own reader."""
        reader: DiskReader | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._local.reader = self._reader.clone()
            with self._lock:
                self._clones.append(reader)
        return reader

    def interrupt(self) -> None:
        """Ranged reads are short and have their own time-outs."""

    def close(self) -> None:
        with self._lock:
            clones, self._clones = self._clones, []
        self._local = threading.local()
        for reader in clones:
            reader.close()
