"""Opens a VHD, fixed or dynamic: its footer, and of a dynamic one its header and table ("VHD Image Format", 1.0).

All numbers are big-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, NoReturn

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import MIB, SECTOR, TIB
from wavelift.transfer.tar import ReadRange

_FOOTER: Final = struct.Struct(">8sIIQI4sI4sQQIII16sB")
"""Cookie, features, version, place of the dynamic header, time, creator, its version, its host, original size, size,
geometry, kind, checksum, id, saved state."""
_HEADER: Final = struct.Struct(">8sQQIIII")
"""Cookie, unused, place of the table, version, entries, bytes of a block, checksum."""
_FOOTER_SUM: Final = slice(64, 68)
_HEADER_SUM: Final = slice(36, 40)
_HEADER_SIZE: Final = 1024
_FIXED: Final = 2
_DYNAMIC: Final = 3
_DIFFERENCING: Final = 4
_UNUSED: Final = 0xFFFFFFFF
_MOST: Final = 2 * TIB
"""Tables hold 32-bit sectors."""


@dataclass(frozen=True, slots=True)
class Vhd:
    """What a VHD says of itself; ``capacity`` in bytes."""

    capacity: int
    dynamic: bool


def open_vhd(read: ReadRange, length: int) -> Vhd:
    """:param length: of the file, bytes.

    :raises CorruptStreamError: when the file is no VHD, is cut off, or needs another one; naming the position.
    """
    position = length - SECTOR
    footer = _read(read, position, SECTOR, length)
    (cookie, _, version, data, _, _, _, _, _, size, _, kind, checksum, _, _) = _FOOTER.unpack_from(footer)
    checks = (
        (cookie == b"conectix", "it does not end with a footer"),
        (checksum == _checksum(footer, _FOOTER_SUM), "its footer's checksum does not fit"),
        (version >> 16 == 1, f"version {version >> 16} is unknown"),
        (kind != _DIFFERENCING, "it holds only what differs from another file"),
        (kind in (_FIXED, _DYNAMIC), f"a disk of kind {kind}"),
        (0 < size <= _MOST and size % SECTOR == 0, f"a disk of {size} bytes"),
        (kind != _FIXED or size == position, f"a disk of {size} bytes in a file that has room for {position}"),
    )
    for holds, why in checks:
        if not holds:
            broken(why, position)
    if kind == _DYNAMIC:
        if _read(read, 0, SECTOR, length) != footer:
            broken("its first sector is not the footer's copy", 0)
        _check_table(read, data, size, length)
    return Vhd(size, kind == _DYNAMIC)


def broken(why: str, position: int) -> NoReturn:
    """:param position: in the file, bytes."""
    raise CorruptStreamError(
        f"Broken VHD: {why}",
        next_step="Read it again; when it breaks at the same place, the file itself is damaged: export it again",
        position=position,
    )


def _check_table(read: ReadRange, position: int, size: int, length: int) -> None:
    """The dynamic header, and that each block of the table lies within the file."""
    header = _read(read, position, _HEADER_SIZE, length)
    cookie, _, table, _, entries, block, checksum = _HEADER.unpack_from(header)
    checks = (
        (cookie == b"cxsparse", "it has no header of a dynamic disk"),
        (checksum == _checksum(header, _HEADER_SUM), "its header's checksum does not fit"),
        (block >= SECTOR and block.bit_count() == 1, f"blocks of {block} bytes"),
        (block and -(-size // block) <= entries, f"a table of {entries} entries"),
    )
    for holds, why in checks:
        if not holds:
            broken(why, position)
    needed = -(-size // block)
    used = block + -(-block // SECTOR // 8 // SECTOR) * SECTOR
    for start in range(0, 4 * needed, MIB):
        step = min(MIB, 4 * needed - start)
        sectors = struct.unpack(f">{step // 4}I", _read(read, table + start, step, length))
        for place, sector in enumerate(sectors):
            if sector != _UNUSED and sector * SECTOR + used > length - SECTOR:
                broken(f"block {start // 4 + place} lies behind its end", table + start + 4 * place)


def _checksum(data: bytes, place: slice) -> int:
    """The one's complement of the sum of all bytes but those of the sum itself."""
    return ~(sum(data) - sum(data[place])) & 0xFFFFFFFF


def _read(read: ReadRange, offset: int, size: int, length: int) -> bytes:
    data = read(offset, size) if 0 <= offset <= offset + size <= length else b""
    if len(data) != size:
        broken("it ends too early", offset)
    return data
