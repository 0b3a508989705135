"""Reads a stream-optimised VMDK front to back and checks everything in it.

Each grain's marker says which part of the disk it is. That is enough to decode, but it does not show that nothing is
missing. So the tables are compared with the markers. A stream is complete only if they agree and its end was seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NoReturn

from wavelift.base.units import MIB, SECTOR
from wavelift.transfer.protocols import RawSource
from wavelift.transfer.vmdk import format as vmdk
from wavelift.transfer.vmdk.format import GRAIN, GRAIN_SECTORS, GRAINS_PER_BLOCK, MAX_COMPRESSED, corrupt
from wavelift.transfer.vmdk.tables import FrontTables, Tables, TrailingTables

BUFFER: Final = 1 * MIB
"""Asked of the raw source in one read; large, so that the calls cost nothing, small enough for the CPU's cache."""


class VmdkPiece:
    """The compressed grains of one block."""

    __slots__ = ("_capacity", "_grains", "index")

    def __init__(self, index: int, capacity: int) -> None:
        self.index = index
        self._capacity = capacity
        self._grains: list[tuple[int, bytes]] = []

    def add(self, grain: int, compressed: bytes) -> None:
        self._grains.append((grain, compressed))

    def load(self, into: memoryview) -> None:
        """Inflate.

        :raises CorruptStreamError: naming the disk offset of the damaged grain.
        """
        first = self.index * GRAINS_PER_BLOCK
        due = first
        for grain, compressed in self._grains:
            _fill_zeros(into, due - first, grain - first)
            content = vmdk.inflate_grain(compressed, grain=grain, capacity=self._capacity)
            start = (grain - first) * GRAIN
            room = len(into) - start
            into[start : start + GRAIN] = content if len(content) <= room else content[:room]
            due = grain + 1
        _fill_zeros(into, due - first, GRAINS_PER_BLOCK)


def _fill_zeros(into: memoryview, first: int, end: int) -> None:
    for start in range(first * GRAIN, min(end * GRAIN, len(into)), GRAIN):
        length = min(GRAIN, len(into) - start)
        into[start : start + length] = vmdk.ZERO_GRAIN[:length]


class _Window:
    """A sliding view on the raw source: ``need`` makes bytes available, ``skip`` moves on."""

    def __init__(self, raw: RawSource) -> None:
        self._raw = raw
        self._buffer = bytearray(BUFFER)
        self._view = memoryview(self._buffer)
        self._start = 0
        self._end = 0
        self.position = 0
        """Bytes of the stream that were skipped, that is dealt with."""

    def available(self, length: int) -> bool:
        """Whether the stream has ``length`` more bytes; reads them when they are not here yet."""
        if self._end - self._start >= length:
            return True
        self._view[: self._end - self._start] = self._view[self._start : self._end]
        self._end -= self._start
        self._start = 0
        while self._end < length:
            count = self._raw.readinto(self._view[self._end :])
            if not count:
                return False
            self._end += count
        return True

    def peek(self, length: int) -> memoryview:
        """The next ``length`` bytes, valid until the next call."""
        return self._view[self._start : self._start + length]

    def skip(self, length: int) -> None:
        self._start += length
        self.position += length


class StreamVmdkSource:
    """A stream-optimised VMDK as a :class:`~wavelift.transfer.protocols.BlockStream`.

    Opening it reads header and descriptor. Costs one buffer of 1 MiB and the directory (128 KiB per TiB); of files
    with their tables in front also the tables in use (64 KiB per GiB of data).

    :param raw: the bytes; the caller closes it.
    :raises CorruptStreamError: at once for a bad header, from ``pieces`` for anything that breaks later; a damaged
        payload shows in ``load`` of its piece.
    """

    def __init__(self, raw: RawSource) -> None:
        self._raw = raw
        self._window = _Window(raw)
        self._offset = 0
        self._need(SECTOR)
        self.header = vmdk.Header.parse(self._window.peek(SECTOR))
        self._window.skip(SECTOR)
        self._complete = False

    @property
    def size(self) -> int:
        """Capacity of the disk, bytes."""
        return self.header.size

    @property
    def position(self) -> int:
        """Bytes of the disk that were passed: the only measure of progress, as a lease has no length."""
        return self.size if self._complete else self._offset

    @property
    def bytes_read(self) -> int:
        """Bytes of the stream that were dealt with."""
        return self._window.position

    def pieces(self) -> Iterator[VmdkPiece]:
        """Every block that has a grain, ascending. Ends normally only when the whole stream was there and agreed."""
        tables = self._open_tables()
        size = self.size
        piece: VmdkPiece | None = None
        for grain, sector, compressed in self._grains(tables):
            tables.saw(grain, sector)
            self._offset = grain * GRAIN
            index = grain // GRAINS_PER_BLOCK
            if piece is None or piece.index != index:
                if piece is not None:
                    yield piece
                piece = VmdkPiece(index, size)
            piece.add(grain, compressed)
        if piece is not None:
            yield piece
        self._complete = True

    def interrupt(self) -> None:
        interrupt = getattr(self._raw, "interrupt", None)
        if interrupt is not None:
            interrupt()

    def close(self) -> None:
        """Nothing of ours to close; ``raw`` belongs to the caller."""

    def _open_tables(self) -> Tables:
        """Pass everything before the first grain."""
        header = self.header
        if header.gd_offset == vmdk.AT_END:
            self._skip_to(header.overhead)
            return TrailingTables(header)
        tables = FrontTables(header)
        while (due := tables.next_due()) is not None:
            sector, length = due
            self._skip_to(sector)
            padded = vmdk.sectors_of(length) * SECTOR
            self._need(padded)
            tables.feed(self._window.peek(length))
            self._window.skip(padded)
        self._skip_to(header.overhead)
        return tables

    def _grains(self, tables: Tables) -> Iterator[tuple[int, int, bytes]]:
        """(grain, sector of its marker, compressed bytes), ascending; metadata between them goes to ``tables``."""
        window = self._window
        unpack = vmdk.GRAIN_MARKER.unpack_from
        marker_size = vmdk.GRAIN_MARKER.size
        capacity = self.header.capacity
        last = -1
        while window.available(SECTOR):
            lba, size = unpack(window.peek(marker_size))
            if not size:
                if self._metadata(tables):
                    return
                continue
            grain, misplaced = divmod(lba, GRAIN_SECTORS)
            if misplaced or lba >= capacity or grain <= last:
                self._break(f"a grain claims sector {lba} after {max(last, 0) * GRAIN_SECTORS} of {capacity}")
            if size > MAX_COMPRESSED:
                self._break(f"the grain claims {size} compressed bytes", offset=grain * GRAIN)
            length = -(-(marker_size + size) // SECTOR) * SECTOR
            if not window.available(length):
                self._break("it ends within a grain", offset=grain * GRAIN)
            last = grain
            yield grain, window.position // SECTOR, bytes(window.peek(marker_size + size)[marker_size:])
            window.skip(length)
        if window.available(1):
            self._break("it ends within a sector")
        tables.at_end_of_file(self._offset, window.position)

    def _metadata(self, tables: Tables) -> bool:
        """Handle one metadata marker; True when it was the end-of-stream mark and nothing follows."""
        window = self._window
        marker = window.peek(SECTOR)
        sectors, kind = vmdk.parse_marker(marker, offset=self._offset, position=window.position)
        if kind == vmdk.MARKER_PROGRESS:
            self._progress(sectors, *vmdk.PROGRESS_MARKER.unpack_from(marker))
            return False
        window.skip(SECTOR)
        if kind == vmdk.MARKER_EOS:
            if sectors:
                self._break("an end mark that announces more")
            tables.at_end_mark(self._offset, window.position)
            self._end(tables.tail)
            return True
        length = tables.expected(kind, sectors, self._offset, window.position)
        while length:
            step = min(length, BUFFER)
            self._need(step)
            tables.metadata(kind, window.peek(step), self._offset, window.position)
            window.skip(step)
            length -= step
        return False

    def _progress(self, sectors: int, reached: int) -> None:
        """A sign of life between any two records; only a lie about the disk's size is worth an error."""
        if sectors or reached > self.header.capacity:
            self._break(f"a progress marker of {sectors} sectors claims sector {reached} of {self.header.capacity}")
        self._offset = max(self._offset, reached * SECTOR)
        self._window.skip(SECTOR)

    def _end(self, tail: int) -> None:
        """Nothing may follow but ``tail`` bytes of zeros."""
        window = self._window
        while window.available(1):
            if tail < SECTOR or not window.available(SECTOR) or any(window.peek(SECTOR)):
                self._break("something follows behind its end")
            window.skip(SECTOR)
            tail -= SECTOR

    def _skip_to(self, sector: int) -> None:
        distance = sector * SECTOR - self._window.position
        if distance < 0:
            self._break("its tables do not lie in one pass before the grains")
        while distance:
            step = min(distance, BUFFER)
            self._need(step)
            self._window.skip(step)
            distance -= step

    def _need(self, length: int) -> None:
        if not self._window.available(length):
            self._break("it ends too early")

    def _break(self, why: str, *, offset: int | None = None) -> NoReturn:
        corrupt(why, offset=self._offset if offset is None else offset, position=self._window.position)
