"""Random access to a stream-optimised VMDK through its tables. A sampled verify reads it with ranged GETs."""

from __future__ import annotations

import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from wavelift.base.units import SECTOR
from wavelift.transfer.manifest import block_length
from wavelift.transfer.vmdk import format as vmdk
from wavelift.transfer.vmdk.format import (
    GRAIN,
    GRAIN_MARKER,
    GRAIN_SECTORS,
    GRAINS_PER_BLOCK,
    MAX_COMPRESSED,
    TABLE_BYTES,
    TABLE_COVERS,
    TABLE_ENTRIES,
    corrupt,
)

CACHED_TABLES: Final = 64
"""128 KiB: enough for many threads that read neighbouring blocks."""

_PROBED_TABLES: Final = 16
"""Of either end: qemu-img makes tables for empty areas too, and there may be thousands."""

_LIKELY_GRAIN: Final = GRAIN + SECTOR
"""What one grain takes at most unless its writer is odd; read in one request with those before it."""


class VmdkFile:
    """Blocks of a stream-optimised VMDK of either style, in any order, from any thread.

    :param pread: ``pread(offset, length)`` gives those bytes of the file; fewer only at its end.
    :param length: of the file, bytes.
    :raises CorruptStreamError: here and from ``read_block``, naming the disk offset where there is one.
    """

    def __init__(self, pread: Callable[[int, int], bytes], length: int) -> None:
        self._pread = pread
        self._length = length
        self.header = self._read_header()
        directory = self.header.gd_offset * SECTOR
        self._directory = vmdk.parse_table(self._read(directory, 4 * self.header.tables))
        self._tables: OrderedDict[int, array[int]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Capacity of the disk, bytes."""
        return self.header.size

    def read_block(self, index: int) -> bytes | None:
        """The 512 KiB block ``index`` (the last one may be short); None when the file holds nothing of it."""
        first = index * GRAINS_PER_BLOCK
        length = block_length(self.size, index)
        if length <= 0 or index < 0:
            raise IndexError(f"block {index} of a disk of {self.size} bytes")
        number, slot = divmod(first, TABLE_ENTRIES)
        entries = self._table(number)[slot : slot + GRAINS_PER_BLOCK]
        zero = 1 if self.header.zero_entries else 0
        wanted = [(first + place, sector) for place, sector in enumerate(entries) if sector > zero]
        if not wanted:
            return None
        block = bytearray(length)
        for (grain, _), content in zip(wanted, self._read_grains(wanted), strict=True):
            start = (grain - first) * GRAIN
            block[start : start + GRAIN] = content[: length - start]
        return bytes(block)

    def probe(self) -> None:
        """Open what a file that was cut or mixed up would not have: every table's place, the first and the last table
        with a grain (of the first and last sixteen), and that grain's block."""
        for number, sector in enumerate(self._directory):
            if sector * SECTOR + TABLE_BYTES > self._length:
                corrupt("a table lies behind its end", offset=number * TABLE_COVERS, position=sector * SECTOR)
        used = [number for number, sector in enumerate(self._directory) if sector]
        for numbers, last in ((used[:_PROBED_TABLES], False), (used[: -_PROBED_TABLES - 1 : -1], True)):
            grains = (self._outermost(number, last=last) for number in numbers)
            if (grain := next((grain for grain in grains if grain is not None), None)) is not None:
                self.read_block(grain // GRAINS_PER_BLOCK)

    def _outermost(self, number: int, *, last: bool) -> int | None:
        """The first or last grain of a table that is in the file."""
        zero = 1 if self.header.zero_entries else 0
        slots = [slot for slot, sector in enumerate(self._table(number)) if sector > zero]
        return number * TABLE_ENTRIES + slots[-1 if last else 0] if slots else None

    def _read_grains(self, wanted: list[tuple[int, int]]) -> list[bytes]:
        """The grains' contents; with one request when they lie together, as our writers put them."""
        low = min(sector for _, sector in wanted) * SECTOR
        high = max(sector for _, sector in wanted) * SECTOR + _LIKELY_GRAIN
        if high - low > GRAINS_PER_BLOCK * _LIKELY_GRAIN:
            return [self._read_grain(grain, sector, b"", 0) for grain, sector in wanted]
        span = self._at_most(low, high - low)
        return [self._read_grain(grain, sector, span, low) for grain, sector in wanted]

    def _read_grain(self, grain: int, sector: int, span: bytes, low: int) -> bytes:
        """One grain, out of ``span`` (the file from ``low`` on) as far as that holds it."""
        start = sector * SECTOR
        record = span[start - low : start - low + GRAIN_MARKER.size + MAX_COMPRESSED]
        if len(record) < GRAIN_MARKER.size:
            record = self._at_most(start, _LIKELY_GRAIN)
        if len(record) < GRAIN_MARKER.size:
            corrupt("a table points behind its end", offset=grain * GRAIN, position=start)
        lba, size = GRAIN_MARKER.unpack_from(record)
        if lba != grain * GRAIN_SECTORS or not 0 < size <= MAX_COMPRESSED:
            corrupt("a table points at something that is not its grain", offset=grain * GRAIN, position=start)
        end = GRAIN_MARKER.size + size
        if len(record) < end:
            record = self._at_most(start, end)
        if len(record) < end:
            corrupt("it ends within a grain", offset=grain * GRAIN, position=start)
        return vmdk.inflate_grain(record[GRAIN_MARKER.size : end], grain=grain, capacity=self.size)

    def _table(self, number: int) -> array[int]:
        """Grain table ``number``. Two threads may fetch the same one at once; they get the same."""
        with self._lock:
            table = self._tables.get(number)
            if table is not None:
                self._tables.move_to_end(number)
                return table
        sector = self._directory[number]
        table = vmdk.parse_table(self._read(sector * SECTOR, TABLE_BYTES)) if sector else vmdk.new_table()
        with self._lock:
            self._tables[number] = table
            if len(self._tables) > CACHED_TABLES:
                self._tables.popitem(last=False)
        return table

    def _read_header(self) -> vmdk.Header:
        header = vmdk.Header.parse(self._read(0, SECTOR))
        if header.gd_offset != vmdk.AT_END:
            return header
        # The last two sectors are footer and end mark.
        footer = vmdk.Header.parse(self._read(self._length - 2 * SECTOR, SECTOR))
        if footer.capacity != header.capacity or footer.gd_offset == vmdk.AT_END:
            corrupt("its footer contradicts its header", position=self._length - 2 * SECTOR)
        return footer

    def _at_most(self, position: int, length: int) -> bytes:
        """Fewer bytes at the file's end, none behind it: what is damaged is then told by its grain."""
        length = min(length, self._length - position)
        return self._pread(position, length) if length > 0 else b""

    def _read(self, position: int, length: int) -> bytes:
        if position < 0 or position + length > self._length:
            corrupt("it is truncated: a table lies outside of it", position=position)
        data = self._pread(position, length)
        if len(data) != length:
            corrupt("it is shorter than its length says", position=position)
        return data
