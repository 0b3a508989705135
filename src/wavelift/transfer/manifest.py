"""The manifest: one SHA-256 per 512 KiB of a disk. Every proof compares with it (invariant 1).

File format: a magic line, one line of sorted JSON (the header), the digest table, and the SHA-256 of everything before.
32 zero bytes mark a zero block; no block has that digest. Equal content and header give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import threading
from collections.abc import Iterator
from typing import Any, Final, Self

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import BLOCK, TIB

DIGEST_SIZE: Final = 32
ZERO_MARK: Final = bytes(DIGEST_SIZE)
VERSION: Final = 1
MAX_CAPACITY: Final = 64 * TIB
"""No disk of any system we read is larger (vSphere ends at 62 TiB, EBS at 64 TiB); bounds what a bad header can ask."""

_MAGIC: Final = b"wavelift manifest\n"
_MAX_HEADER: Final = 64 * 1024
_PAGE: Final = 128 * DIGEST_SIZE
_ZERO_PAGE: Final = bytes(_PAGE)


def block_count(capacity: int) -> int:
    """Blocks of a disk of ``capacity`` bytes; the last one may be short."""
    return -(-capacity // BLOCK)


def block_length(capacity: int, index: int) -> int:
    """Bytes of block ``index``."""
    return min(BLOCK, capacity - index * BLOCK)


class Manifest:
    """Block digests of one disk at one instant. ``set`` may be called from many threads.

    Costs 64 MiB of address space per TiB, of which only pages that hold a digest become memory.
    """

    def __init__(self, header: dict[str, Any]) -> None:
        self.header = header
        self.capacity: int = header["capacity"]
        self.block_count = block_count(self.capacity)
        # Anonymous map, not a bytearray: the kernel backs only what is written, so a big sparse disk stays small.
        # Private, because of a shared one even reading makes pages.
        self._table = mmap.mmap(-1, self._length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._data_bytes = 0
        self._lock = threading.Lock()

    @classmethod
    def empty(cls, capacity: int, **header: Any) -> Self:
        """A manifest of a disk of zeros. ``header`` takes JSON values: run, server, disk …

        :param capacity: bytes.
        """
        if not 0 < capacity <= MAX_CAPACITY:
            raise ValueError(f"capacity {capacity} is not within 1..{MAX_CAPACITY}")
        return cls({**header, "version": VERSION, "block_size": BLOCK, "capacity": capacity})

    def successor(self, **header: Any) -> Self:
        """A manifest of the same disk at a later instant, as long as nothing is known to have changed."""
        later = type(self).empty(self.capacity, **header)
        for start in self._pages():
            end = min(start + _PAGE, self._length)
            later._table[start:end] = self._table[start:end]
        later._data_bytes = self._data_bytes
        return later

    @property
    def data_bytes(self) -> int:
        """Bytes of the disk in blocks that are not zero."""
        return self._data_bytes

    def set(self, index: int, digest: bytes | None) -> None:
        """Record the digest of block ``index``; None marks it zero."""
        mark = ZERO_MARK if digest is None else digest
        if len(mark) != DIGEST_SIZE:
            raise ValueError(f"a digest has {DIGEST_SIZE} bytes, not {len(mark)}")
        place = self._place(index)
        with self._lock:
            change = (mark != ZERO_MARK) - (self._table[place] != ZERO_MARK)
            self._table[place] = mark
            self._data_bytes += change * block_length(self.capacity, index)

    def digest(self, index: int) -> bytes | None:
        """The SHA-256 of block ``index``, None when it is all zeros."""
        mark = self._table[self._place(index)]
        return None if mark == ZERO_MARK else mark

    def data_blocks(self) -> Iterator[int]:
        """Indices of the blocks that are not zero, ascending."""
        return (index for page in self._pages() for index in self._marked(page, ZERO_MARK))

    def content_digest(self) -> str:
        """One value for the whole disk, hex: SHA-256 over the digest table, zero blocks as 32 zero bytes."""
        digest = hashlib.sha256()
        for start in range(0, self._length, _PAGE * 256):
            digest.update(self._table[start : min(start + _PAGE * 256, self._length)])
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        header = json.dumps(self.header, sort_keys=True, separators=(",", ":")).encode()
        body = b"".join((_MAGIC, header, b"\n", memoryview(self._table)[: self._length]))
        return body + hashlib.sha256(body).digest()

    @staticmethod
    def most_bytes(capacity: int) -> int:
        """How large the file of a disk's manifest can be."""
        return len(_MAGIC) + _MAX_HEADER + (block_count(capacity) + 1) * DIGEST_SIZE

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """:raises CorruptStreamError: when ``data`` is anything but a whole, unharmed manifest of a known version."""
        view = memoryview(data)
        if bytes(view[: len(_MAGIC)]) != _MAGIC:
            raise _corrupt("it does not begin as a manifest")
        if len(data) < DIGEST_SIZE or hashlib.sha256(view[:-DIGEST_SIZE]).digest() != view[-DIGEST_SIZE:]:
            raise _corrupt("its own checksum does not fit")
        end = data.find(b"\n", len(_MAGIC), len(_MAGIC) + _MAX_HEADER)
        manifest = cls(_parse_header(data[len(_MAGIC) : max(end, len(_MAGIC))]))
        table = view[end + 1 : -DIGEST_SIZE]
        if len(table) != manifest._length:
            raise _corrupt(f"it has {len(table)} bytes of digests where {manifest._length} are due")
        for start in range(0, len(table), _PAGE):
            page = bytes(table[start : start + _PAGE])
            if page != _ZERO_PAGE[: len(page)]:
                manifest._table[start : start + len(page)] = page
        manifest._data_bytes = sum(block_length(manifest.capacity, index) for index in manifest.data_blocks())
        return manifest

    @property
    def _length(self) -> int:
        return self.block_count * DIGEST_SIZE

    def _place(self, index: int) -> slice:
        if not 0 <= index < self.block_count:
            raise IndexError(f"block {index} of {self.block_count}")
        return slice(index * DIGEST_SIZE, (index + 1) * DIGEST_SIZE)

    def _pages(self) -> Iterator[int]:
        """Starts of the pages of the table that hold any digest."""
        for start in range(0, self._length, _PAGE):
            if self._table[start : start + _PAGE] != _ZERO_PAGE[: len(self._table) - start]:
                yield start

    def _marked(self, page: int, other: bytes) -> Iterator[int]:
        for start in range(page, min(page + _PAGE, self._length), DIGEST_SIZE):
            if self._table[start : start + DIGEST_SIZE] != other:
                yield start // DIGEST_SIZE


def differences(a: Manifest, b: Manifest) -> Iterator[int]:
    """Indices of the blocks whose digests differ, ascending.

    :raises ValueError: when the disks are not of one size.
    """
    if a.capacity != b.capacity:
        raise ValueError(f"manifests of different capacity: {a.capacity} and {b.capacity}")
    for start in range(0, a._length, _PAGE):
        if a._table[start : start + _PAGE] != b._table[start : start + _PAGE]:
            first = start // DIGEST_SIZE
            for index in range(first, min(first + _PAGE // DIGEST_SIZE, a.block_count)):
                if a.digest(index) != b.digest(index):
                    yield index


def _parse_header(line: bytes) -> dict[str, Any]:
    try:
        header = json.loads(line)
    except ValueError as error:
        raise _corrupt("its header is not JSON") from error
    if not isinstance(header, dict) or header.get("version") != VERSION:
        raise _corrupt("its version is unknown")
    capacity = header.get("capacity")
    if header.get("block_size") != BLOCK or type(capacity) is not int or not 0 < capacity <= MAX_CAPACITY:
        raise _corrupt("its block size or capacity is impossible")
    return header


def _corrupt(why: str) -> CorruptStreamError:
    return CorruptStreamError(
        f"Not a usable manifest: {why}", next_step="Fetch it again; when it stays so, transfer the disk again"
    )
