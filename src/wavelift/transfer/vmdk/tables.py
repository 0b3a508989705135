"""Compares the grain tables of a VMDK with the markers of the grains that came."""

from __future__ import annotations

from array import array
from collections import deque
from typing import Final, NoReturn, Protocol

from wavelift.base.units import MIB, SECTOR
from wavelift.transfer.vmdk import format as vmdk
from wavelift.transfer.vmdk.format import GRAIN, TABLE_BYTES, TABLE_COVERS, TABLE_ENTRIES, Header, corrupt

_ZERO_GRAIN_ENTRY: Final = 1
MAX_FRONT_DIRECTORY: Final = 1 * MIB
"""A directory that lies in front is taken in one read; enough for 8 TiB."""


class Tables(Protocol):
    """What the reader tells its witness. ``offset`` is of the disk, ``position`` of the stream, both in bytes."""

    tail: int
    """Bytes of zeros that may follow the end mark."""

    def saw(self, grain: int, sector: int) -> None:
        """Grain number ``grain`` came; its marker lies at ``sector``."""
        ...

    def expected(self, kind: int, sectors: int, offset: int, position: int) -> int:
        """Bytes that follow a metadata marker, when one may come here and may announce that many sectors."""
        ...

    def metadata(self, kind: int, data: memoryview, offset: int, position: int) -> None:
        """The next of those bytes."""
        ...

    def at_end_mark(self, offset: int, position: int) -> None:
        """The end-of-stream mark came."""
        ...

    def at_end_of_file(self, offset: int, position: int) -> None:
        """The stream ended without that mark."""
        ...


def _drop_zero_entries(table: array[int]) -> None:
    for place, entry in enumerate(table):
        if entry == _ZERO_GRAIN_ENTRY:
            table[place] = 0


class TrailingTables:
    """Footer style: a table comes after its grains, directory and footer at the end."""

    tail = 0

    def __init__(self, header: Header) -> None:
        self._header = header
        self._directory = vmdk.new_table(header.tables)
        self._empty: set[int] = set()
        """Sectors of tables without a grain; some writers give every directory entry a table."""
        self._pending: deque[tuple[int, array[int]]] = deque()
        """Tables whose grains came and they themselves not yet; one, unless the writer keeps them for the end."""
        self._directory_sector = 0
        self._directory_checked = 0
        self._footer_seen = False

    def saw(self, grain: int, sector: int) -> None:
        number, slot = divmod(grain, TABLE_ENTRIES)
        if not self._pending or self._pending[-1][0] != number:
            self._open_table(number)
        if sector > vmdk.MAX_SECTOR:
            corrupt("it is longer than its tables can say", offset=grain * GRAIN)
        self._pending[-1][1][slot] = sector

    def expected(self, kind: int, sectors: int, offset: int, position: int) -> int:
        due = self._due(kind)
        if sectors != due:
            corrupt(
                f"a marker of type {kind} announces {sectors} sectors where {due} may come",
                offset=offset,
                position=position,
            )
        if kind == vmdk.MARKER_DIRECTORY:
            self._directory_sector = position // SECTOR
        return sectors * SECTOR

    def metadata(self, kind: int, data: memoryview, offset: int, position: int) -> None:
        if kind == vmdk.MARKER_TABLE:
            self._check_table(vmdk.parse_table(data), offset, position)
        elif kind == vmdk.MARKER_DIRECTORY:
            self._check_directory(vmdk.parse_table(data), position)
        else:
            footer = Header.parse(data)
            if footer.capacity != self._header.capacity or footer.gd_offset != self._directory_sector:
                corrupt("its footer contradicts header and directory", offset=offset, position=position)
            self._footer_seen = True

    def at_end_mark(self, offset: int, position: int) -> None:
        if not self._footer_seen:
            corrupt("it ends without a footer", offset=offset, position=position)

    def at_end_of_file(self, offset: int, position: int) -> NoReturn:
        corrupt("it is truncated: no end mark", offset=offset, position=position)

    def _open_table(self, number: int) -> None:
        if self._directory_sector or self._directory[number]:
            corrupt("a grain comes behind its table", offset=number * TABLE_COVERS)
        self._pending.append((number, vmdk.new_table()))

    def _due(self, kind: int) -> int:
        """Sectors that metadata of ``kind`` has at this point; -1 when it may not come now."""
        if kind == vmdk.MARKER_TABLE and not self._directory_sector:
            return TABLE_BYTES // SECTOR
        if kind == vmdk.MARKER_DIRECTORY and not self._directory_sector:
            return vmdk.sectors_of(4 * len(self._directory))
        if kind == vmdk.MARKER_FOOTER and self._directory_sector and not self._footer_seen:
            return 1
        return -1

    def _check_table(self, table: array[int], offset: int, position: int) -> None:
        if self._header.zero_entries:
            _drop_zero_entries(table)
        if not any(table):
            self._empty.add(position // SECTOR)
            if len(self._empty) > len(self._directory):
                corrupt("it has more tables than its disk", offset=offset, position=position)
            return
        if not self._pending:
            corrupt("a table names grains that never came", offset=offset, position=position)
        number, seen = self._pending.popleft()
        if table != seen:
            place = next(place for place in range(TABLE_ENTRIES) if table[place] != seen[place])
            corrupt(
                "a table contradicts the grains that came",
                offset=number * TABLE_COVERS + place * GRAIN,
                position=position,
            )
        self._directory[number] = position // SECTOR

    def _check_directory(self, entries: array[int], position: int) -> None:
        first = self._directory_checked
        due = self._directory[first : first + len(entries)]
        self._directory_checked += len(entries)
        if self._pending:
            corrupt("a table is missing", offset=self._pending[0][0] * TABLE_COVERS, position=position)
        if entries[: len(due)] == due:
            return
        for place, (entry, seen) in enumerate(zip(entries, due, strict=False)):
            if entry != seen and (seen or entry not in self._empty):
                corrupt(
                    "the directory contradicts the tables that came",
                    offset=(first + place) * TABLE_COVERS,
                    position=position,
                )


class FrontTables:
    """Front style (qemu-img): directory and tables come first, then the grains that they promise.

    The redundant directory is not looked at: no reader of ours uses it.
    """

    tail = GRAIN
    """qemu allocates a whole grain for the last one and leaves what its compressed form did not need."""

    def __init__(self, header: Header) -> None:
        self._header = header
        if header.gd_offset >= header.overhead:
            corrupt("its directory lies neither in front nor at the end")
        if header.tables * 4 > MAX_FRONT_DIRECTORY:
            corrupt(f"a directory in front for {header.tables} tables is more than is ever made")
        self._due: deque[tuple[int, int]] = deque()
        """(sector, table number) of the tables to come, in the order of the file."""
        self._directory_read = False
        self._promised: dict[int, array[int]] = {}
        self._order: deque[int] = deque()

    def next_due(self) -> tuple[int, int] | None:
        """(sector, bytes) of what to ``feed`` next, None when all is known."""
        if not self._directory_read:
            return self._header.gd_offset, 4 * self._header.tables
        return (self._due[0][0], TABLE_BYTES) if self._due else None

    def feed(self, data: memoryview) -> None:
        entries = vmdk.parse_table(data)
        if not self._directory_read:
            self._directory_read = True
            self._due.extend(sorted((sector, number) for number, sector in enumerate(entries) if sector))
            return
        _, number = self._due.popleft()
        if self._header.zero_entries:
            _drop_zero_entries(entries)
        if any(entries):
            self._promised[number] = entries
        if not self._due:
            self._order.extend(sorted(self._promised))

    def saw(self, grain: int, sector: int) -> None:
        number, slot = divmod(grain, TABLE_ENTRIES)
        while self._order and self._order[0] < number:
            self._close_table()
        table = self._promised.get(number)
        if table is None or table[slot] != sector:
            corrupt("a table contradicts the grain that came", offset=grain * GRAIN, position=sector * SECTOR)
        table[slot] = 0

    def expected(self, kind: int, sectors: int, offset: int, position: int) -> NoReturn:
        corrupt("a marker among grains whose tables lie in front", offset=offset, position=position)

    def metadata(self, kind: int, data: memoryview, offset: int, position: int) -> NoReturn:
        raise AssertionError("expected() lets none come")

    def at_end_mark(self, offset: int, position: int) -> None:
        self.at_end_of_file(offset, position)

    def at_end_of_file(self, offset: int, position: int) -> None:
        while self._order:
            self._close_table()

    def _close_table(self) -> None:
        number = self._order.popleft()
        for slot, sector in enumerate(self._promised.pop(number)):
            if sector:
                corrupt("a grain is missing or the stream is truncated", offset=number * TABLE_COVERS + slot * GRAIN)
