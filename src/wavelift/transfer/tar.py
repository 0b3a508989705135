"""Tar as OVA uses it (POSIX ``ustar``): one header per member, and a walk over the members of a file.

A size of 8 GiB and more does not fit into the header's octal digits. It is written as a binary number then, as GNU tar
does; GNU tar, Python and Go read that under a ``ustar`` magic too. What others write is read in all their ways: plain,
GNU's (long names), and pax (long names, sizes).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NoReturn

from wavelift.base.errors import CorruptStreamError
from wavelift.base.printable import printable
from wavelift.base.units import KIB, SECTOR

ReadRange = Callable[[int, int], bytes]
"""``read(offset, length)``: those bytes of an object, fewer only at its end."""

HEADER: Final = SECTOR
END: Final = bytes(2 * SECTOR)
"""Two empty headers close the file."""
MAX_MEMBERS: Final = 1000
"""More than any OVA has (60 disks and some side files): a file of nothing but headers ends here."""
MAX_EXTENDED: Final = 64 * KIB
"""Of a pax or long-name record: names end at 4 KiB."""

_NAME: Final = slice(0, 100)
_SIZE: Final = slice(124, 136)
_SUM: Final = slice(148, 156)
_KIND: Final = slice(156, 157)
_MAGIC: Final = slice(257, 263)
_PREFIX: Final = slice(345, 500)
_USTAR: Final = b"ustar\0"
_OCTAL_MOST: Final = 8**11 - 1
_BINARY: Final = 0x80
_SAFE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

_LONG_NAME: Final = ord("L")
_PAX: Final = ord("x")
_ABOUT_OTHERS: Final = frozenset(b"LKxgV")
"""What follows is no file: it names the next member or its link, says something of it or of all, or is a label."""
_WITHOUT_CONTENT: Final = frozenset(b"123456")
"""Links, devices, folders, queues: whatever size they claim, nothing follows."""
_NOT_WHOLE: Final = frozenset(b"SM")
"""GNU's sparse files and those that begin in another volume."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar; ``offset`` is of its content. Bytes."""

    name: str
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Where the next header lies."""
        return self.offset + padded(self.size)


def padded(size: int) -> int:
    """What a member of ``size`` bytes takes, without its header."""
    return -(-size // SECTOR) * SECTOR


def pack_header(name: str, size: int, mtime: int) -> bytes:
    """The header of a regular file, one sector: readable by all, owned by nobody special.

    :param name: ASCII, at most 100 characters, no folders.
    :param mtime: seconds since 1970; given, not now: a file that is made again must be the same.
    """
    if not _SAFE_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a file in an OVA")
    if not 0 <= mtime <= _OCTAL_MOST or size < 0:
        raise ValueError(f"a member of {size} bytes of {mtime}")
    header = bytearray(HEADER)
    header[: len(name)] = name.encode("ascii")
    header[100:108] = b"0000644\0"
    header[108:124] = b"0000000\0" * 2
    header[_SIZE] = _number(size)
    header[136:148] = b"%011o\0" % mtime
    header[_KIND] = b"0"
    header[_MAGIC] = _USTAR
    header[263:265] = b"00"
    header[329:345] = b"0000000\0" * 2
    header[_SUM] = b"%06o\0 " % _checksum(header)
    return bytes(header)


def walk(read: ReadRange, length: int) -> Iterator[Member]:
    """The regular files of a tar of ``length`` bytes, in its order. Reads the headers only.

    A file without end mark is taken, as tar does: whether everything is there, the OVA's descriptor says.

    :raises CorruptStreamError: naming the position, when a header is damaged or what it announces is not there.
    """
    position, about = 0, _About()
    for _ in range(MAX_MEMBERS):
        header = _read(read, position, HEADER, length)
        if header is None or not any(header):
            return
        kind = _check(header, position)
        member = _member(header, kind, about, position)
        if member.offset + member.size > length:
            there = max(length - member.offset, 0)
            broken(f"{printable(member.name, 100)} is cut off: {there} of {member.size} bytes are there", position)
        if kind in _ABOUT_OTHERS:
            about.learn(kind, _extended(read, member, length) if kind in (_PAX, _LONG_NAME) else b"", position)
        else:
            about = _About()
            if kind not in _WITHOUT_CONTENT:
                yield member
        position = member.end
    broken(f"more than {MAX_MEMBERS} members", position)


def broken(why: str, position: int) -> NoReturn:
    """:param position: in the file, bytes."""
    raise CorruptStreamError(
        f"Broken tar: {why}",
        next_step="Read it again; when it breaks at the same place, the file itself is damaged: export it again",
        position=position,
    )


def _number(size: int) -> bytes:
    if size <= _OCTAL_MOST:
        return b"%011o\0" % size
    return bytes((_BINARY,)) + size.to_bytes(11, "big")


def _checksum(header: bytes | bytearray) -> int:
    """The sum of all bytes, those of the sum itself taken as spaces."""
    return sum(header) - sum(header[_SUM]) + len(header[_SUM]) * ord(" ")


def _signed(header: bytes) -> int:
    """As some old writers took it."""
    return _checksum(header) - 256 * sum(byte > 127 for place, byte in enumerate(header) if not 148 <= place < 156)


def _check(header: bytes, position: int) -> int:
    """The member's kind, when the header is unharmed and of a kind that can be read."""
    told = _octal(header[_SUM])
    if told is None or told not in (_checksum(header), _signed(header)):
        broken("a header's checksum does not fit", position)
    kind = header[_KIND][0]
    if kind in _NOT_WHOLE:
        broken(f"a member of kind {chr(kind)!r}, sparse or in several volumes, can't be read", position)
    return kind


def _octal(digits: bytes) -> int | None:
    text = digits.strip(b" \0")
    return int(text or b"0", 8) if re.fullmatch(rb"[0-7]*", text) else None


def _parse_size(header: bytes, position: int) -> int:
    digits = header[_SIZE]
    if digits[0] == _BINARY:
        return int.from_bytes(digits[1:], "big")
    size = _octal(digits)
    if size is None:  # a negative binary number among others
        broken("a header's size is no number", position)
    return size


@dataclass(slots=True)
class _About:
    """What records said of the member that comes next."""

    name: str | None = None
    pax: dict[str, str] = field(default_factory=dict)

    def learn(self, kind: int, record: bytes, position: int) -> None:
        if kind == _PAX:
            self.pax = _parse_pax(record, position)
        elif kind == _LONG_NAME:
            self.name = record.partition(b"\0")[0].decode(errors="replace")


def _member(header: bytes, kind: int, about: _About, position: int) -> Member:
    size = 0 if kind in _WITHOUT_CONTENT else _parse_size(header, position)
    name = header[_NAME].partition(b"\0")[0]
    prefix = header[_PREFIX].partition(b"\0")[0] if header[_MAGIC] == _USTAR else b""
    plain = (prefix + b"/" + name if prefix else name).decode(errors="replace")
    if kind in _ABOUT_OTHERS or kind in _WITHOUT_CONTENT:
        return Member(plain, position + HEADER, size)
    told = about.pax.get("path", about.name)
    return Member(plain if told is None else told, position + HEADER, _pax_size(about.pax, size, position))


def _extended(read: ReadRange, member: Member, length: int) -> bytes:
    """The content of a member that says something of the next one."""
    if member.size > MAX_EXTENDED:
        broken(f"a record of {member.size} bytes about the next member", member.offset)
    if not member.size:
        return b""
    record = _read(read, member.offset, member.size, length)
    if record is None:
        broken("it ends within a record about the next member", member.offset)
    return record


def _parse_pax(record: bytes, position: int) -> dict[str, str]:
    """``length key=value\\n``, repeated."""
    values: dict[str, str] = {}
    while record:
        digits, _, rest = record.partition(b" ")
        size = int(digits) if re.fullmatch(rb"[0-9]{1,6}", digits) else 0
        key, equals, value = rest[: max(size - len(digits) - 1, 0)].partition(b"=")
        if not equals or size > len(record) or not value.endswith(b"\n"):
            broken("a pax record makes no sense", position)
        if key.startswith(b"GNU.sparse."):
            broken("a sparse member can't be read", position)
        values[key.decode(errors="replace")] = value[:-1].decode(errors="replace")
        record = record[size:]
    return values


def _pax_size(pax: dict[str, str], size: int, position: int) -> int:
    told = pax.get("size")
    if told is None:
        return size
    if not re.fullmatch(r"[0-9]{1,19}", told):
        broken("a pax record's size is no number", position)
    return int(told)


def _read(read: ReadRange, offset: int, size: int, length: int) -> bytes | None:
    """None at the file's end."""
    if offset >= length:
        return None
    data = read(offset, size) if offset + size <= length else b""
    if len(data) != size:
        broken("it ends within a header", offset)
    return data
