"""Reads back what a target holds and compares it with the manifest (invariant 1: *proven* or *sampled*)."""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from wavelift.base.domain import ChangedRange
from wavelift.base.errors import CorruptStreamError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, SECTOR
from wavelift.transfer.conveyor import DEFAULT_WORKERS, Conveyor, Scratch
from wavelift.transfer.extents import coalesce
from wavelift.transfer.manifest import Manifest, block_length
from wavelift.transfer.pipeline import UNREPORTED, ZERO_BLOCK, is_zero
from wavelift.transfer.protocols import BlockStream, Extent, Piece
from wavelift.transfer.report import Report

SAMPLE_WORKERS: Final = 8
"""Sampled blocks are one small request each: their latency is what costs."""
MAX_MISMATCHES: Final = 1_000
"""Kept in a report; more do not tell more."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """A place that differs from the manifest.

    :param offset: of the disk, bytes: the damaged 64 KiB grain where that can be told, else the 512 KiB block.
    """

    offset: int
    why: str


@dataclass(frozen=True, slots=True)
class Verification:
    """What a comparison found. ``bytes_read``: bytes of disk content that were read back and hashed."""

    bytes_read: int
    blocks_checked: int
    mismatches: tuple[Mismatch, ...] = ()
    mismatch_count: int = 0
    complete: bool = True
    """False when the structure broke, so that what follows could not be read."""

    @property
    def ok(self) -> bool:
        return self.complete and not self.mismatch_count


class _Findings:
    """Collects from many threads."""

    def __init__(self) -> None:
        self.mismatches: list[Mismatch] = []
        self.count = 0
        self.bytes_read = 0

    def add(self, found: _Check) -> None:
        self.bytes_read += found.bytes_read
        if found.mismatch is not None:
            self.count += 1
            if len(self.mismatches) < MAX_MISMATCHES:
                self.mismatches.append(found.mismatch)

    def result(self, checked: int, *, complete: bool = True) -> Verification:
        ordered = tuple(sorted(self.mismatches, key=lambda mismatch: mismatch.offset))
        return Verification(self.bytes_read, checked, ordered, self.count, complete)


@dataclass(frozen=True, slots=True)
class _Check:
    bytes_read: int = 0
    mismatch: Mismatch | None = None


def verify_full(
    source: BlockStream,
    manifest: Manifest,
    *,
    cancel: CancelFlag,
    workers: int = DEFAULT_WORKERS,
    report: Report = UNREPORTED,
) -> Verification:
    """Compare all of ``source`` with ``manifest``: every digest, every zero, nothing missing, nothing more.

    A damaged payload is one mismatch and the comparison goes on; a broken structure is one more and ends it.
    Errors of the connection are raised, as they say nothing about the content.
    """
    return _FullVerify(source, manifest, report).run(workers, cancel)


class _FullVerify:
    def __init__(self, source: BlockStream, manifest: Manifest, report: Report) -> None:
        self._source = source
        self._manifest = manifest
        self._report = report
        self._scratch = Scratch()
        self._found = _Findings()
        self._broken: CorruptStreamError | None = None
        self._expected = manifest.data_blocks()
        self._next_expected = next(self._expected, None)
        self._passed = 0

    def run(self, workers: int, cancel: CancelFlag) -> Verification:
        due = -(-self._manifest.capacity // SECTOR) * SECTOR
        if self._source.size not in (self._manifest.capacity, due):
            why = f"the disk has {self._source.size} bytes where the manifest says {self._manifest.capacity}"
            return Verification(0, 0, (Mismatch(0, why),), 1, complete=False)
        conveyor: Conveyor[_Check] = Conveyor(
            name=f"verify-{self._report.server}-{self._report.disk}", workers=workers, cancel=cancel
        )
        conveyor.run(
            self._pieces(),
            work=self._check,
            drain=self._drain,
            finish=self._finish,
            tick=self._tell,
            interrupt=self._source.interrupt,
        )
        self._tell()
        return self._found.result(self._manifest.block_count, complete=self._broken is None)

    def _pieces(self) -> Iterator[Piece]:
        try:
            yield from self._source.pieces()
        except CorruptStreamError as error:
            self._broken = error

    def _check(self, piece: Piece) -> _Check:
        index = piece.index
        data = self._scratch.view[: block_length(self._source.size, index)]
        try:
            piece.load(data)
        except CorruptStreamError as error:
            return _Check(0, _mismatch_of(error, index))
        return _compare(self._manifest, index, data, zero=is_zero(self._scratch, len(data)))

    def _drain(self, piece: Piece, check: _Check) -> None:
        self._missing_before(piece.index)
        if self._next_expected == piece.index:
            self._next_expected = next(self._expected, None)
        self._found.add(check)
        self._passed = min((piece.index + 1) * BLOCK, self._manifest.capacity)

    def _finish(self) -> None:
        if self._broken is not None:
            self._found.add(_Check(0, _mismatch_of(self._broken, self._passed // BLOCK)))
            return
        self._missing_before(self._manifest.block_count)
        self._passed = self._manifest.capacity

    def _missing_before(self, index: int) -> None:
        while self._next_expected is not None and self._next_expected < index:
            self._found.add(_Check(0, Mismatch(self._next_expected * BLOCK, "a block with data is missing")))
            self._next_expected = next(self._expected, None)

    def _tell(self) -> None:
        read = self._found.bytes_read
        self._report.tell(self._passed, self._manifest.capacity, data=read, sent=read)


@dataclass(frozen=True, slots=True)
class Expected:
    """What a manifest says of a disk's blocks, or of some of them.

    :param digest_of: SHA-256 of block ``index``, None for a block of zeros (:meth:`Manifest.digest`).
    :param capacity: of the disk, bytes. The source may be larger; what lies behind must be zeros.
    :param indices: look only at these blocks; None: at all.
    """

    digest_of: Callable[[int], bytes | None]
    capacity: int
    indices: Collection[int] | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """Where a disk differs from a manifest. Sizes in bytes; ranges are whole blocks, joined."""

    blocks_compared: int
    bytes_read: int
    changed: tuple[ChangedRange, ...]


def compare(
    source: BlockStream,
    expected: Expected,
    *,
    cancel: CancelFlag,
    workers: int = DEFAULT_WORKERS,
    report: Report = UNREPORTED,
) -> Comparison:
    """Which blocks of ``source`` differ from what a manifest says, however many they are.

    :param source: of the expected indices only, if there are any.
    :raises WaveliftError: what the source raises.
    """
    return _Compare(source, expected, report).run(workers, cancel)


class _Compare:
    def __init__(self, source: BlockStream, expected: Expected, report: Report) -> None:
        self._source = source
        self._digest_of = expected.digest_of
        self._capacity = expected.capacity
        self._count = -(-expected.capacity // BLOCK)
        self._chosen = None if expected.indices is None else frozenset(expected.indices)
        self._report = report
        self._scratch = Scratch()
        self._changed: list[int] = []
        self._next = 0
        """Block that the source has not passed yet."""
        self._read = 0
        self._passed = 0
        self._size = 0

    def run(self, workers: int, cancel: CancelFlag) -> Comparison:
        self._size = self._source.size  # here, once: a source may ask for it over the network
        conveyor: Conveyor[bool] = Conveyor(
            name=f"compare-{self._report.server}-{self._report.disk}", workers=workers, cancel=cancel
        )
        conveyor.run(
            self._source.pieces(),
            work=self._is_equal,
            drain=self._drain,
            finish=self._finish,
            tick=self._tell,
            interrupt=self._source.interrupt,
        )
        self._tell()
        return Comparison(
            blocks_compared=self._count if self._chosen is None else len(self._chosen),
            bytes_read=self._read,
            changed=tuple(_joined(self._changed)),
        )

    def _is_equal(self, piece: Piece) -> bool:
        index = piece.index
        data = self._scratch.load(piece, block_length(self._size, index))
        digest = self._digest_of(index) if index < self._count else None
        if digest is None or is_zero(self._scratch, len(data)):
            return digest is None and is_zero(self._scratch, len(data))
        length = block_length(self._capacity, index)
        rest = bytes(data[length:])
        return hashlib.sha256(data[:length]).digest() == digest and rest == bytes(len(rest))

    def _drain(self, piece: Piece, equal: bool) -> None:
        self._missing_before(piece.index)
        self._next = piece.index + 1
        if not equal:
            self._changed.append(piece.index)
        self._read += block_length(self._size, piece.index)
        self._passed = min(self._capacity, self._next * BLOCK)

    def _finish(self) -> None:
        self._missing_before(self._count)
        self._passed = self._capacity

    def _missing_before(self, index: int) -> None:
        """Data blocks that the source passed over."""
        for each in range(self._next, min(index, self._count)):
            if (self._chosen is None or each in self._chosen) and self._digest_of(each) is not None:
                self._changed.append(each)

    def _tell(self) -> None:
        self._report.tell(self._passed, self._capacity, data=self._read)


def _joined(indices: Iterable[int]) -> Iterator[ChangedRange]:
    """Ascending block indices as byte ranges."""
    return (
        ChangedRange(offset=each.offset, length=each.length)
        for each in coalesce(Extent(index * BLOCK, BLOCK) for index in indices)
    )


def verify_sample(
    read_block: Callable[[int], bytes | None],
    manifest: Manifest,
    indices: Iterable[int],
    *,
    cancel: CancelFlag | None = None,
    workers: int = SAMPLE_WORKERS,
) -> Verification:
    """Compare chosen blocks, some at a time.

    :param read_block: the content of a block, None for "nothing there"; called from ``workers`` threads.
    """
    stop = cancel or CancelFlag()
    found = _Findings()
    checked = 0

    def check(index: int) -> _Check:
        stop.check()
        try:
            data = read_block(index)
        except CorruptStreamError as error:
            return _Check(0, _mismatch_of(error, index))
        if data is None:
            expected = manifest.digest(index)
            return _Check(0, Mismatch(index * BLOCK, "a block with data is missing") if expected else None)
        return _compare(manifest, index, memoryview(data), zero=data == ZERO_BLOCK[: len(data)])

    with ThreadPoolExecutor(workers, thread_name_prefix="verify-sample") as pool:
        try:
            for result in pool.map(check, indices):
                found.add(result)
                checked += 1
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return found.result(checked)


def sample_indices(manifest: Manifest, pct: float, chance: random.Random | None = None) -> list[int]:
    """Blocks to read back, ascending: ``pct`` per cent of those with data and of the zero ones, at least one of each
    kind there is, and always the first and the last with data (partition tables).

    Nobody can know the choice beforehand, and so change what is not looked at: it follows from nothing that is stored.

    :param chance: for tests, which need the same choice again.
    """
    if not 0 < pct <= 100:
        raise ValueError(f"{pct} per cent is not within 0..100")
    chance = chance or secrets.SystemRandom()
    data = array("I", manifest.data_blocks())
    zeros = array("I", (index for index in range(manifest.block_count) if manifest.digest(index) is None))
    chosen = {*data[:1], *data[-1:]}
    for kind in (data, zeros):
        chosen.update(chance.sample(kind, math.ceil(len(kind) * pct / 100)))
    return sorted(chosen)


def _compare(manifest: Manifest, index: int, data: memoryview, *, zero: bool) -> _Check:
    """``data`` is block ``index`` as read back; a disk in whole sectors may be longer than the manifest says."""
    length = block_length(manifest.capacity, index)
    if len(data) < length:
        return _Check(len(data), Mismatch(index * BLOCK, f"{len(data)} of the block's {length} bytes are there"))
    digest = None if zero else hashlib.sha256(data[:length]).digest()
    rest = bytes(data[length:])
    if digest == manifest.digest(index) and rest == bytes(len(rest)):
        return _Check(len(data))
    return _Check(len(data), Mismatch(index * BLOCK, "the block differs from the manifest"))


def _mismatch_of(error: CorruptStreamError, index: int) -> Mismatch:
    offset = error.where.get("offset")
    return Mismatch(offset if isinstance(offset, int) else index * BLOCK, error.what)
