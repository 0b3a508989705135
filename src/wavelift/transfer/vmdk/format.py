"""What a stream-optimised VMDK is made of (VMware "Virtual Disk Format 5.0"), and the checks that both readers share.

::

    sector 0      header            one of two styles:
    1..20         descriptor        * footer style (ESXi, ovftool, ours): the tables follow their grains, directory and
    (21..127      tables)             footer close the file, which is written front to back
    128..         grains            * front style (qemu-img): directory and tables lie before the grains, no footer

A grain is 64 KiB of disk: a 12-byte marker (LBA, compressed size), a zlib stream, zeros up to the next sector. A table
holds the sectors of 512 grains (32 MiB of disk), the directory those of the tables; 0 stands for "all zero".
All sectors are of 512 bytes, all numbers little-endian.
"""

from __future__ import annotations

import struct
import sys
from array import array
from dataclasses import dataclass
from typing import Final, NoReturn, cast

from isal import igzip_lib

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import BLOCK, KIB, SECTOR
from wavelift.transfer.manifest import MAX_CAPACITY

GRAIN: Final = 64 * KIB
GRAIN_SECTORS: Final = GRAIN // SECTOR
GRAINS_PER_BLOCK: Final = BLOCK // GRAIN
TABLE_ENTRIES: Final = 512
TABLE_BYTES: Final = TABLE_ENTRIES * 4
TABLE_COVERS: Final = TABLE_ENTRIES * GRAIN
"""Bytes of disk behind one grain table: 32 MiB."""
TABLE_SECTORS: Final = TABLE_COVERS // SECTOR

MAX_COMPRESSED: Final = 2 * GRAIN
"""No deflate grows 64 KiB by more than a few dozen bytes; qemu allows itself twice the grain, so do we."""
MAX_SECTOR: Final = 0xFFFFFFFF
"""Tables hold 32-bit sectors: a file ends at 2 TiB."""

MAGIC: Final = b"KDMV"
AT_END: Final = 0xFFFFFFFFFFFFFFFF
"""``gd_offset`` of a header whose directory is named by the footer."""

FLAG_NEWLINES: Final = 1 << 0
FLAG_REDUNDANT: Final = 1 << 1
FLAG_ZERO_GRAINS: Final = 1 << 2
"""A table entry of 1 means a zero grain."""
FLAG_COMPRESSED: Final = 1 << 16
FLAG_MARKERS: Final = 1 << 17
_FLAGS_NEEDED: Final = FLAG_COMPRESSED | FLAG_MARKERS
_FLAGS_KNOWN: Final = _FLAGS_NEEDED | FLAG_NEWLINES | FLAG_REDUNDANT | FLAG_ZERO_GRAINS
_NEWLINES: Final = b"\n \r\n"
_DEFLATE: Final = 1

MARKER_EOS: Final = 0
MARKER_TABLE: Final = 1
MARKER_DIRECTORY: Final = 2
MARKER_FOOTER: Final = 3
MARKER_PROGRESS: Final = 4
"""Not in the specification: a sign of life that vSphere sends now and then, some in a row, while it passes over zeros
or reads slowly. Nothing follows it; behind its type it says which sector of the disk was reached."""

MARKER: Final = struct.Struct("<QII")
"""Of a metadata marker: sectors that follow, 0, type."""
PROGRESS_MARKER: Final = struct.Struct("<16xQ")
"""Of a progress marker: the disk's sector that was reached."""
GRAIN_MARKER: Final = struct.Struct("<QI")
"""LBA, compressed size; the zlib stream begins right behind."""

_HEADER: Final = struct.Struct("<4sIIQQQQIQQQ?4sH")
ZERO_GRAIN: Final = bytes(GRAIN)
# isal's stub says "an Exception" where it is a class.
INFLATE_ERROR: Final = cast("type[Exception]", igzip_lib.IsalError)


@dataclass(frozen=True, slots=True)
class Header:
    """The sparse extent header; the footer repeats it. Offsets and sizes in sectors."""

    capacity: int
    gd_offset: int = AT_END
    version: int = 3
    flags: int = FLAG_COMPRESSED | FLAG_MARKERS | FLAG_NEWLINES
    descriptor_offset: int = 1
    descriptor_size: int = 20
    rgd_offset: int = 0
    overhead: int = 128

    @classmethod
    def parse(cls, data: bytes | memoryview) -> Header:
        """:raises CorruptStreamError: when this is no stream-optimised VMDK or any field is impossible."""
        (
            magic,
            version,
            flags,
            capacity,
            grain,
            descriptor_offset,
            descriptor_size,
            entries,
            rgd_offset,
            gd_offset,
            overhead,
            unclean,
            newlines,
            compression,
        ) = _HEADER.unpack_from(data)
        checks = (
            (magic == MAGIC, "this is no VMDK"),
            (version in (1, 2, 3), f"version {version} is unknown"),
            (flags & _FLAGS_NEEDED == _FLAGS_NEEDED, f"flags {flags:#x} are not those of a stream"),
            (flags & ~_FLAGS_KNOWN == 0, f"flags {flags:#x} hold unknown bits"),
            (not flags & FLAG_NEWLINES or newlines == _NEWLINES, "line ends were converted: not a binary copy"),
            (grain == GRAIN_SECTORS, f"grains of {grain} sectors"),
            (entries == TABLE_ENTRIES, f"tables of {entries} entries"),
            (compression == _DEFLATE, f"compression {compression} is unknown"),
            (not unclean, "it was not closed"),
            (0 < capacity <= MAX_CAPACITY // SECTOR, f"a capacity of {capacity} sectors"),
            (0 < overhead <= MAX_SECTOR, f"an overhead of {overhead} sectors"),
            (
                descriptor_offset == 0 or 0 < descriptor_offset <= descriptor_offset + descriptor_size <= overhead,
                "the descriptor lies outside of its room",
            ),
        )
        for holds, why in checks:
            if not holds:
                corrupt(why)
        return cls(capacity, gd_offset, version, flags, descriptor_offset, descriptor_size, rgd_offset, overhead)

    def pack(self) -> bytes:
        """One sector."""
        return _HEADER.pack(
            MAGIC,
            self.version,
            self.flags,
            self.capacity,
            GRAIN_SECTORS,
            self.descriptor_offset,
            self.descriptor_size,
            TABLE_ENTRIES,
            self.rgd_offset,
            self.gd_offset,
            self.overhead,
            False,
            _NEWLINES,
            _DEFLATE,
        ).ljust(SECTOR, b"\0")

    @property
    def size(self) -> int:
        """Capacity in bytes."""
        return self.capacity * SECTOR

    @property
    def tables(self) -> int:
        """Entries of the directory."""
        return -(-self.capacity // TABLE_SECTORS)

    @property
    def zero_entries(self) -> bool:
        return bool(self.flags & FLAG_ZERO_GRAINS)


def corrupt(why: str, *, offset: int | None = None, position: int | None = None) -> NoReturn:
    """:param offset: of the disk, in bytes. :param position: in the file or stream, in bytes."""
    raise CorruptStreamError(
        f"Broken stream-optimised VMDK: {why}",
        next_step="Read it again from its source; when it breaks at the same place, the source itself is damaged",
        offset=offset,
        position=position,
    )


def parse_marker(data: memoryview, *, offset: int, position: int) -> tuple[int, int]:
    """The (sectors, type) of a metadata marker, which takes a whole sector."""
    sectors, size, kind = MARKER.unpack_from(data)
    if size or kind > MARKER_PROGRESS:
        corrupt(f"a marker of unknown type {kind}", offset=offset, position=position)
    return sectors, kind


def pack_marker(sectors: int, kind: int) -> bytes:
    return MARKER.pack(sectors, 0, kind).ljust(SECTOR, b"\0")


def new_table(entries: int = TABLE_ENTRIES) -> array[int]:
    """A table or directory of zeros."""
    return array("I", bytes(4 * entries))


def pack_table(table: array[int]) -> bytes:
    """Little-endian, padded to a whole sector."""
    if sys.byteorder == "big":
        table = table[:]
        table.byteswap()
    data = table.tobytes()
    return data.ljust(sectors_of(len(data)) * SECTOR, b"\0")


def parse_table(data: bytes | memoryview) -> array[int]:
    table = array("I", bytes(data))
    if sys.byteorder == "big":
        table.byteswap()
    return table


def sectors_of(size: int) -> int:
    return -(-size // SECTOR)


def inflate_grain(data: bytes | memoryview, *, grain: int, capacity: int) -> bytes:
    """The bytes of grain number ``grain``: 64 KiB, less only for the last one of the disk.

    :param capacity: of the disk, in bytes.
    :raises CorruptStreamError: naming the grain's disk offset, when the payload is damaged or of another size.
    """
    offset = grain * GRAIN
    # The one-shot functions would inflate a bomb in whole; the object takes the same time and stops one byte too far.
    inflater = igzip_lib.IgzipDecompressor(igzip_lib.DECOMP_ZLIB)
    try:
        content: bytes = inflater.decompress(data, GRAIN + 1)
    except INFLATE_ERROR as error:
        raise _damaged(offset, str(error)) from error
    if not inflater.eof:
        raise _damaged(offset, "its compressed data ends early" if len(content) <= GRAIN else "it is too long")
    if len(content) != GRAIN and len(content) != capacity - offset:
        raise _damaged(offset, f"it holds {len(content)} bytes")
    return content


def _damaged(offset: int, why: str) -> CorruptStreamError:
    return CorruptStreamError(
        f"Broken stream-optimised VMDK: a grain is damaged: {why}",
        next_step="Read it again from its source; when it breaks at the same place, the source itself is damaged",
        offset=offset,
    )
