"""The interfaces of the data path: what a source and a target of blocks must provide.

There are two kinds of source. A :class:`DiskReader` has random access (a file, ranges over HTTPS, NBD). A
:class:`BlockStream` comes once, in disk order (an NFC lease, an EBS snapshot). Each reader is also a stream, by
:meth:`DiskReader.stream`. A stream gives *pieces*. The cheap part of the work (finding out what comes next, receiving
what was asked for ahead) is done by one thread; the expensive part (inflating, hashing) by the workers.

Ownership: whoever opens a source closes it. :func:`wavelift.transfer.pipeline.copy` closes the writer (its threads and
buffers). Only the caller gives up what the target holds: the next try continues from it.
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


class RawSource(Protocol):
    """Bytes of an object or response body, front to back: what ``io.RawIOBase`` and urllib3 responses have.

    It brings its own time-outs: no read may block for ever. When it also has ``interrupt()``, that is called from
    another thread to break a read that blocks.
    """

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill the front of ``buffer``; the count, 0 at the end."""
        ...


class DiskReader(Protocol):
    """A disk that can be read anywhere, by one thread per clone."""

    @property
    def size(self) -> int: ...

    def extents(self) -> Iterator[Extent]:
        """Ascending, without overlap. What no extent covers is zero."""
        ...

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole ``buffer``."""
        ...

    def clone(self) -> DiskReader: ...

    def stream(self) -> BlockStream:
        """Its extents as blocks. The stream's ``close`` leaves the reader open.

        A reader of a distant disk reads ahead here: many reads in flight are its speed. One that has nothing to gain
        returns a :class:`~wavelift.transfer.extents.ReaderStream` of itself.
        """
        ...

    def close(self) -> None: ...


class Piece(Protocol):
    """One 512 KiB block of the disk (the last one may be short), not yet loaded."""

    @property
    def index(self) -> int: ...

    def load(self, into: memoryview) -> None:
        """Read or inflate the block; called once, by a worker thread.

        ``into`` is as long as the block and reused between blocks: every byte of it must be set.
        """
        ...


class HashedPiece(Piece, Protocol):
    """A piece whose source has hashed these very bytes, to compare them with a checksum that came with them."""

    @property
    def digest(self) -> bytes | None:
        """SHA-256 of what ``load`` gave; None: hash it yourself."""
        ...


class ExchangingPiece(Piece, Protocol):
    """A piece whose bytes may be in a buffer of the source already."""

    def exchange(self, block: bytearray) -> bytearray:
        """``load`` into ``block``, which is as long as the piece; or another buffer of that length that holds it, and
        ``block`` is the source's from now on."""
        ...


class BlockStream(Protocol):
    """A disk that comes once, in ascending order. Blocks that never come are zeros."""

    @property
    def size(self) -> int:
        """Bytes. Any thread may ask, also while another one is in :meth:`pieces`."""
        ...

    def pieces(self) -> Iterator[Piece]: ...

    def interrupt(self) -> None:
        """Break a read that blocks, when the source can; called from another thread, at most once."""
        ...

    def close(self) -> None: ...


class BlockWriter(Protocol):
    """A target of blocks.

    ``prepare`` is CPU work (deflate …), called by any worker in any order; ``write`` takes its result, in disk order
    and from one thread when ``ordered``, otherwise from the worker that prepared it. ``data`` is a buffer that the
    worker uses again: an ordered writer keeps nothing of it, an unordered one may use it until ``write`` returns.
    """

    @property
    def ordered(self) -> bool: ...

    @property
    def writes_zeros(self) -> bool:
        """Whether zero blocks must be written: the target may hold something else there (invariant 2)."""
        ...

    def prepare(self, index: int, data: memoryview, digest: bytes) -> Any: ...

    def wire_bytes(self, prepared: Any) -> int:
        """What ``prepared`` will weigh on the wire: for the throttle and for progress."""
        ...

    def write(self, index: int, prepared: Any) -> None: ...

    def finish(self, manifest: Manifest) -> None:
        """All blocks are written: complete the target."""
        ...

    def interrupt(self) -> None:
        """Make a ``write`` or ``finish`` that waits raise :class:`~wavelift.base.errors.Cancelled`; called from
        another thread, at most once."""
        ...

    def close(self) -> None:
        """End threads and free buffers, when no other call is under way. Idempotent. What the target stored stays:
        whoever began the target gives it up, and knows who else may name it."""
        ...


class PartSink(Protocol):
    """Where numbered parts of one object go (S3 multipart). Parts may come concurrently and in any order."""

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        """Store part ``number`` (from 1). ``data`` is used again once this returns; the retries are the sink's."""
        ...

    def complete(self) -> None:
        """All parts are stored: make them one object."""
        ...
