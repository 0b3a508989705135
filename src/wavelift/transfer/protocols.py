"""The seams of the data path: what a source and a target of blocks must be.

Two kinds of source exist. A :class:`DiskReader` is random access (a file, ranges over HTTPS, NBD, EBS); a
:class:`BlockStream` comes once, in disk order (an NFC lease). Both are turned into *pieces*: work whose cheap part
(finding out what comes next) happens in one thread and whose dear part (reading, inflating) happens in the workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from wavelift.transfer.manifest import Manifest


@dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of a disk. ``zero`` means: known to read as zeros, need not be read."""

    offset: int
    length: int
    zero: bool = False


class DiskReader(Protocol):
    """A disk that can be read anywhere, by one thread per clone."""

    @property
    def size(self) -> int: ...

    def extents(self) -> Iterator[Extent]: ...

    def read_into(self, offset: int, buffer: memoryview) -> None: ...

    def clone(self) -> DiskReader: ...

    def close(self) -> None: ...


class Piece(Protocol):
    """One 512 KiB block of the disk (the last one may be short), not yet loaded."""

    @property
    def index(self) -> int: ...

    def load(self) -> bytes | bytearray:
        """Read or inflate the block; called by a worker thread, once."""
        ...


class BlockStream(Protocol):
    """A disk that comes once, in ascending order. Blocks that never come are zeros."""

    @property
    def size(self) -> int: ...

    def pieces(self) -> Iterator[Piece]: ...

    def close(self) -> None: ...


class BlockWriter(Protocol):
    """A target of blocks.

    ``prepare`` is CPU work (deflate …), called by any worker in any order; ``write`` takes its result, in disk order
    and from one thread when ``ordered``, otherwise from any worker.
    """

    ordered: bool
    block_size: int

    def prepare(self, index: int, data: bytes | bytearray, digest: bytes) -> Any: ...

    def write(self, index: int, prepared: Any) -> None: ...

    def finish(self, manifest: Manifest) -> None: ...

    def abort(self) -> None: ...
