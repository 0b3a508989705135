"""Reading back what the target holds and comparing it with the manifest (invariant 1: *proven* or *sampled*)."""

from __future__ import annotations

import hashlib
import math
import random
from array import array
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from wavelift.base.errors import CorruptStreamError
from wavelift.base.run import CancelFlag, Progress, ignore_progress
from wavelift.base.units import BLOCK, SECTOR
from wavelift.transfer.conveyor import DEFAULT_WORKERS, Conveyor, Scratch
from wavelift.transfer.manifest import Manifest, block_length
from wavelift.transfer.pipeline import ZERO_BLOCK, is_zero
from wavelift.transfer.protocols import BlockStream, Piece

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
    on_progress: Callable[[Progress], None] = ignore_progress,
    server: str = "",
    disk: str = "",
) -> Verification:
    """Compare all of ``source`` with ``manifest``: every digest, every zero, nothing missing, nothing more.

    A damaged payload is one mismatch and the comparison goes on; a broken structure is one more and ends it.
    Errors of the connection are raised, as they say nothing about the content.
    """
    return _FullVerify(source, manifest, Progress(server, disk, "verify", 0, manifest.capacity)).run(
        workers, cancel, on_progress
    )


class _FullVerify:
    def __init__(self, source: BlockStream, manifest: Manifest, progress: Progress) -> None:
        self._source = source
        self._manifest = manifest
        self._progress = progress
        self._scratch = Scratch()
        self._found = _Findings()
        self._broken: CorruptStreamError | None = None
        self._expected = manifest.data_blocks()
        self._next_expected = next(self._expected, None)
        self._passed = 0

    def run(self, workers: int, cancel: CancelFlag, on_progress: Callable[[Progress], None]) -> Verification:
        due = -(-self._manifest.capacity // SECTOR) * SECTOR
        if self._source.size not in (self._manifest.capacity, due):
            why = f"the disk has {self._source.size} bytes where the manifest says {self._manifest.capacity}"
            return Verification(0, 0, (Mismatch(0, why),), 1, complete=False)
        conveyor: Conveyor[_Check] = Conveyor(
            name=f"verify-{self._progress.server}-{self._progress.disk}", workers=workers, cancel=cancel
        )
        conveyor.run(
            self._pieces(),
            work=self._check,
            drain=self._drain,
            finish=self._finish,
            tick=lambda: on_progress(self._snapshot()),
            interrupt=self._source.interrupt,
        )
        on_progress(self._snapshot())
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

    def _snapshot(self) -> Progress:
        seed = self._progress
        read = self._found.bytes_read
        return Progress(seed.server, seed.disk, seed.phase, self._passed, seed.total, data=read, sent=read)


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


def sample_indices(manifest: Manifest, pct: float, seed: int | str) -> list[int]:
    """Blocks to read back, ascending: ``pct`` per cent of those with data and of the zero ones, at least one of each
    kind there is, and always the first and the last with data (partition tables). One seed gives one choice."""
    if not 0 < pct <= 100:
        raise ValueError(f"{pct} per cent is not within 0..100")
    chance = random.Random(seed)
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
