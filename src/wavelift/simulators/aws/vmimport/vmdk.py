"""Walks a stream-optimised VMDK, marker by marker. It shares no code with the product's codec: it must find its errors.

Source: VMware, Virtual Disk Format 5.0, "Stream-Optimized Compressed Sparse Extents".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

SECTOR: Final = 512
MAGIC: Final = b"KDMV"
HEADER: Final = struct.Struct("<4sIIQQQQIQQQ")
MARKER: Final = struct.Struct("<QI")
COMPRESSED: Final = 1 << 16
MARKERS: Final = 1 << 17
AT_END: Final = 0xFFFF_FFFF_FFFF_FFFF
TAR_MAGIC: Final = slice(257, 262)
TAR_SIZE: Final = slice(124, 136)
END_OF_STREAM, GRAIN_TABLE, GRAIN_DIRECTORY, FOOTER = range(4)


class VmdkError(Exception):
    """The file is no stream-optimised VMDK, or is not complete."""


@dataclass(frozen=True, slots=True)
class Header:
    """Sizes in bytes. ``directory`` is a byte offset, or None if the footer has it."""

    capacity: int
    grain_size: int
    overhead: int
    directory: int | None


@dataclass(frozen=True, slots=True)
class Grain:
    """``disk_offset`` is on the disk; ``offset`` and ``size`` are of the compressed bytes in the file."""

    disk_offset: int
    offset: int
    size: int


def parse_header(data: bytes) -> Header:
    """Raises :class:`VmdkError`."""
    if len(data) < SECTOR:
        raise VmdkError("shorter than a header")
    magic, version, flags, capacity, grain, _, _, _, _, directory, overhead = HEADER.unpack_from(data)
    compression = struct.unpack_from("<H", data, 77)[0]
    if magic != MAGIC:
        raise VmdkError("no VMDK header")
    if not 1 <= version <= 3 or not flags & COMPRESSED or not flags & MARKERS or compression != 1:
        raise VmdkError("not stream-optimised")
    if not capacity or not grain:
        raise VmdkError("no capacity")
    at = None if directory == AT_END else directory * SECTOR
    return Header(capacity * SECTOR, grain * SECTOR, overhead * SECTOR, at)


def read_header(path: Path) -> Header:
    with path.open("rb") as source:
        return parse_header(source.read(SECTOR))


def grains(path: Path, start: int = 0, length: int | None = None) -> Iterator[Grain]:
    """All grains in file order, without decompression. Raises :class:`VmdkError` at the first error in the file.

    :param start: where the disk begins in a file that holds more than it; ``length`` is the disk's then. Offsets are
        from there.
    """
    size = length if length is not None else path.stat().st_size
    with path.open("rb") as source:
        source.seek(start)
        header = parse_header(source.read(SECTOR))
        position = header.overhead
        while True:
            if position + SECTOR > size:
                _check_end(header, position, size)
                return
            source.seek(start + position)
            value, packed = MARKER.unpack(source.read(MARKER.size))
            if packed:
                grain = Grain(value * SECTOR, position + MARKER.size, packed)
                _check_grain(header, grain, size)
                yield grain
                position = _align(grain.offset + packed)
            else:
                kind = struct.unpack("<I", source.read(4))[0]
                if kind == END_OF_STREAM:
                    _check_footer(source, header, start, position)
                    return
                if kind > FOOTER:
                    raise VmdkError(f"unknown marker {kind} at byte {position}")
                position += SECTOR + value * SECTOR


def _align(position: int) -> int:
    return -(-position // SECTOR) * SECTOR


def _check_grain(header: Header, grain: Grain, size: int) -> None:
    if grain.disk_offset % header.grain_size or grain.disk_offset >= header.capacity:
        raise VmdkError(f"a grain at disk offset {grain.disk_offset} is outside of the disk")
    if grain.offset + grain.size > size:
        raise VmdkError("the file ends inside a grain")


def _check_end(header: Header, position: int, size: int) -> None:
    """A file may end without an end-of-stream marker only if its tables come first, as qemu-img writes them."""
    if header.directory is None:
        raise VmdkError("the file ends without footer and end-of-stream marker")
    if position > _align(size):
        raise VmdkError("the file ends inside a grain")


def _check_footer(source: BinaryIO, header: Header, start: int, end: int) -> None:
    if header.directory is not None:
        return
    source.seek(start + end - SECTOR)
    footer = parse_header(source.read(SECTOR))
    if footer.directory is None or footer.directory >= end or footer.capacity != header.capacity:
        raise VmdkError("the footer does not fit the header")


def middle_grain(path: Path) -> Grain:
    """The grain that a fault rule changes: the middle one, so that checks of the disk's ends don't find it. In an OVA,
    of its first disk. ``offset`` is from the file's begin."""
    start, length = _disk_in(path)
    found = list(grains(path, start, length))
    if not found:
        raise VmdkError("there is no grain")
    chosen = found[len(found) // 2]
    return Grain(chosen.disk_offset, start + chosen.offset, chosen.size)


def _disk_in(path: Path) -> tuple[int, int]:
    """Where the disk is in a file that is one, or a tar file with one (an OVA)."""
    size = path.stat().st_size
    with path.open("rb") as source:
        position = 0
        while len(head := source.read(SECTOR)) == SECTOR and head[TAR_MAGIC] == b"ustar":
            text = head[TAR_SIZE]
            length = int.from_bytes(text[1:], "big") if text[0] & 0x80 else int(text.rstrip(b"\0 ") or b"0", 8)
            if head[:100].rstrip(b"\0").endswith(b".vmdk"):
                return position + SECTOR, length
            position += SECTOR + _align(length)
            source.seek(position)
    return 0, size
