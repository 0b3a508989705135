"""Copies one disk: workers load blocks, test them for zeros, hash and prepare them; then they are written."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.errors import CorruptStreamError, located
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.transfer.conveyor import DEFAULT_WORKERS, Conveyor, Scratch
from wavelift.transfer.manifest import Manifest, block_count, block_length
from wavelift.transfer.protocols import BlockStream, BlockWriter, Piece
from wavelift.transfer.report import Report
from wavelift.transfer.throttle import Pace

ZERO_BLOCK: Final = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class CopyStats:
    """What one disk's copy did. Bytes of the disk unless named otherwise."""

    size: int
    data_bytes: int
    """In blocks that are not zero."""
    sent_bytes: int
    """Handed to the target, as it weighs on the wire."""
    blocks: int
    """Blocks that are not zero."""
    seconds: float
    sent_blocks: int = 0
    """Blocks handed to the target, zero ones included."""
    read_bytes: int = 0
    """Read from the source: what a stream never mentioned was not read."""


def is_zero(scratch: Scratch, length: int) -> bool:
    """Whether the first ``length`` bytes of the block are zero.

    ``bytes == bytes`` is a memcmp, 50 GB/s; comparing a memoryview goes element by element, 40 times slower.
    """
    return scratch.block == ZERO_BLOCK if length == BLOCK else scratch.block[:length] == ZERO_BLOCK[:length]


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """How a disk is copied.

    :param throttle: paces what goes to the target.
    :param base: the manifest of what the target already holds: only blocks that differ from it are written. A block
        that became zero is among them (invariant 2).
    :param partial: what the source does not mention is as in ``base``; else it is zeros.
    """

    workers: int = DEFAULT_WORKERS
    throttle: Pace | None = None
    base: Manifest | None = None
    partial: bool = False


DEFAULTS: Final = CopyOptions()
UNREPORTED: Final = Report()


def copy(
    source: BlockStream,
    writer: BlockWriter,
    manifest: Manifest,
    *,
    cancel: CancelFlag,
    options: CopyOptions = DEFAULTS,
    report: Report = UNREPORTED,
) -> CopyStats:
    """Copy every block of ``source`` to ``writer`` and its digest to ``manifest``; then ``writer.finish``.

    The first error of any thread stops all, and is raised once all have ended; server and disk are added to it. On the
    way out, good or bad, the writer is closed. The source is not closed, and what the target holds is not given up:
    that is the caller's business, since what a failed try stored is what the next one continues (invariant 6).

    :param manifest: empty, of the source's capacity; with a base a copy of that.
    :raises Cancelled: within 0.2 s after ``cancel`` is set, plus what the source and the writer need to let go.
    """
    base = options.base
    if block_count(source.size) != manifest.block_count:
        raise ValueError(f"a manifest of {manifest.capacity} bytes for a disk of {source.size}")
    if base is None and options.partial:
        raise ValueError("a part of a disk can only be copied over a base")
    if base is not None and not writer.writes_zeros:
        raise ValueError("this writer would skip blocks that became zero")
    if base is not None and base.capacity != manifest.capacity:
        raise ValueError(f"a base of {base.capacity} bytes for a disk of {manifest.capacity}")
    task = _Copy(source, writer, manifest, options, report)
    with located(server=report.server or None, disk=report.disk or None):
        return task.run(cancel)


class _ZeroPiece:
    """A block that the source never mentioned, for a writer that must be told."""

    __slots__ = ("index",)

    def __init__(self, index: int) -> None:
        self.index = index

    def load(self, into: memoryview) -> None:
        into[:] = ZERO_BLOCK[: len(into)]


class _Copy:
    def __init__(
        self, source: BlockStream, writer: BlockWriter, manifest: Manifest, options: CopyOptions, report: Report
    ) -> None:
        self._source = source
        self._workers = options.workers
        self._throttle = options.throttle
        self._base = options.base
        self._partial = options.partial
        self._writer = writer
        self._manifest = manifest
        self._report = report
        self._scratch = Scratch()
        self._passed = 0
        self._sent = 0
        self._sent_blocks = 0
        self._read = 0
        self._stop = CancelFlag()

    def run(self, cancel: CancelFlag) -> CopyStats:
        started = time.monotonic()
        name = f"copy-{self._report.server}-{self._report.disk}"
        conveyor: Conveyor[Any] = Conveyor(name=name, workers=self._workers, cancel=cancel)
        self._stop = conveyor.stop
        try:
            conveyor.run(
                self._pieces(),
                work=self._work,
                drain=self._drain,
                finish=self._finish,
                tick=self._tell,
                interrupt=self._interrupt,
            )
        finally:
            self._writer.close()
        self._tell()
        data = self._manifest.data_bytes
        return CopyStats(
            size=self._source.size,
            data_bytes=data,
            sent_bytes=self._sent,
            blocks=-(-data // BLOCK),
            seconds=time.monotonic() - started,
            sent_blocks=self._sent_blocks,
            read_bytes=self._read,
        )

    def _pieces(self) -> Iterator[Piece]:
        """The source's pieces in checked order, with the gaps filled where the target must be told of zeros."""
        due = 0
        end = block_count(self._source.size)
        for piece in self._source.pieces():
            index = piece.index
            if not due <= index < end:
                raise CorruptStreamError(f"Block {index} came where {due}..{end - 1} may", offset=index * BLOCK)
            yield from self._zeros(due, index)
            yield piece
            due = index + 1
        yield from self._zeros(due, end)

    def _zeros(self, start: int, end: int) -> Iterator[Piece]:
        """Blocks that the source passed over and that the target may hold otherwise."""
        if self._partial or not self._writer.writes_zeros:
            return
        base = self._base
        for index in range(start, end):
            if base is None or base.digest(index) is not None:
                yield _ZeroPiece(index)

    def _work(self, piece: Piece) -> Any:
        """Load, test, hash, prepare; None when there is nothing to write in order."""
        index = piece.index
        length = block_length(self._source.size, index)
        data = self._scratch.load(piece, length)
        zero = is_zero(self._scratch, length)
        if zero and not self._writer.writes_zeros:
            return None
        digest = getattr(piece, "digest", None) or hashlib.sha256(data).digest()
        content = None if zero else digest
        if self._base is not None and self._base.digest(index) == content:
            return None
        self._manifest.set(index, content)
        prepared = self._writer.prepare(index, data, digest)
        if self._writer.ordered:
            return prepared
        self._pace(prepared)
        self._writer.write(index, prepared)
        return self._writer.wire_bytes(prepared)

    def _drain(self, piece: Piece, result: Any) -> None:
        size = self._source.size
        if not isinstance(piece, _ZeroPiece):
            self._read += block_length(size, piece.index)
        if result is not None:
            if self._writer.ordered:
                self._pace(result)
                self._writer.write(piece.index, result)
                result = self._writer.wire_bytes(result)
            self._sent += result
            self._sent_blocks += 1
        self._passed = min((piece.index + 1) * BLOCK, size)

    def _pace(self, prepared: Any) -> None:
        if self._throttle is not None:
            self._throttle.take(self._writer.wire_bytes(prepared), self._stop)

    def _finish(self) -> None:
        self._writer.finish(self._manifest)
        self._passed = self._source.size

    def _interrupt(self) -> None:
        self._writer.interrupt()
        self._source.interrupt()

    def _tell(self) -> None:
        self._report.tell(self._passed, self._source.size, data=self._manifest.data_bytes, sent=self._sent)
