"""The check of change tracking: a sample of the blocks that it calls unchanged is read and compared (invariant 3).

Since vSphere 6.5 a corrupt change map gives no error (Veritas KB 100033481). Nothing else would find it.
"""

from __future__ import annotations

import hashlib
import math
import random
import secrets
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB
from wavelift.transfer.manifest import Manifest, block_length
from wavelift.transfer.pipeline import ZERO_BLOCK
from wavelift.transfer.protocols import DiskReader

AUDIT_PCT: Final = 0.5
"""Per cent of the blocks that are called unchanged."""
AUDIT_MINIMUM: Final = 8
ZONE: Final = 128 * GIB
"""Maps went wrong when a disk grew past a multiple of 128 GB (KB 310751): one block of every such zone is read."""


LUCKY_DRAWS: Final = 16
"""Blocks of a zone that are drawn before its unchanged ones are listed: half of them changed, one draw in 65,536 zones
is not enough."""
UNCHANGED: Final = 0
CHANGED: Final = 1


@dataclass(frozen=True, slots=True)
class Audit:
    """What an audit read and found: indices of blocks."""

    checked: int
    differing: tuple[int, ...]

    @property
    def bytes_read(self) -> int:
        return self.checked * BLOCK


def audit_indices(
    block_count: int,
    changed: Collection[int],
    *,
    cancel: CancelFlag,
    pct: float = AUDIT_PCT,
    minimum: int = AUDIT_MINIMUM,
    chance: random.Random | None = None,
) -> list[int]:
    """Which unchanged blocks to read, ascending: ``pct`` per cent of them, at least ``minimum`` (or all there are).

    One block of every 128 GiB zone is among them, and up to half of the rest are neighbours of changed areas: a map
    that lost something lost it most likely there. A vCenter that lies can't know the choice beforehand.
    Linear in ``block_count``.

    :param changed: indices of the blocks that tracking names.
    :param chance: for tests, which need the same choice again.
    :raises Cancelled: ``cancel`` is set; a disk of many TiB takes seconds.
    """
    if not 0 < pct <= 100:
        raise ValueError(f"{pct} per cent is not within 0..100")
    known = bytearray(block_count)
    for index in changed:
        known[index] = CHANGED
    cancel.check()
    unchanged = known.count(UNCHANGED)
    budget = min(unchanged, max(minimum, math.ceil(unchanged * pct / 100)))
    chance = chance or secrets.SystemRandom()
    chosen = set(_one_per_zone(known, chance, cancel))
    near = [index for index in _neighbours(known) if index not in chosen]
    chosen.update(_some(near, (budget - len(chosen)) // 2, chance))
    chosen.update(_others(known, unchanged, chosen, budget - len(chosen), chance, cancel))
    return sorted(chosen)


def audit(reader: DiskReader, base: Manifest, indices: Iterable[int], cancel: CancelFlag) -> Audit:
    """Read these blocks and compare them with ``base``."""
    buffer = bytearray(BLOCK)
    view = memoryview(buffer)
    differing: list[int] = []
    checked = 0
    for index in indices:
        cancel.check()
        data = view[: block_length(base.capacity, index)]
        reader.read_into(index * BLOCK, data)
        zero = buffer[: len(data)] == ZERO_BLOCK[: len(data)]
        if (None if zero else hashlib.sha256(data).digest()) != base.digest(index):
            differing.append(index)
        checked += 1
    return Audit(checked, tuple(differing))


def _one_per_zone(known: bytearray, chance: random.Random, cancel: CancelFlag) -> Iterator[int]:
    """An unchanged block of every zone that has one."""
    blocks = ZONE // BLOCK
    for start in range(0, len(known), blocks):
        cancel.check()
        end = min(start + blocks, len(known))
        for _ in range(LUCKY_DRAWS):
            index = chance.randrange(start, end)
            if known[index] == UNCHANGED:
                yield index
                break
        else:  # there are few: all of them are looked up, once
            if few := [index for index in range(start, end) if known[index] == UNCHANGED]:
                yield chance.choice(few)


def _neighbours(known: bytearray) -> Iterator[int]:
    """Unchanged blocks beside changed ones, ascending."""
    start = known.find(CHANGED)
    last = -1
    while start >= 0:
        end = known.find(UNCHANGED, start)
        if start and start - 1 != last:
            yield start - 1
        if end < 0:
            return
        yield end
        last, start = end, known.find(CHANGED, end)


def _some(candidates: list[int], count: int, chance: random.Random) -> list[int]:
    return chance.sample(candidates, max(0, min(count, len(candidates))))


def _others(
    known: bytearray, unchanged: int, chosen: set[int], count: int, chance: random.Random, cancel: CancelFlag
) -> Iterable[int]:
    left = unchanged - len(chosen)
    if count * 2 >= left:  # few are left: drawing would mostly miss
        few = [index for index in range(len(known)) if known[index] == UNCHANGED and index not in chosen]
        return _some(few, count, chance)
    drawn: set[int] = set()
    while len(drawn) < count:
        cancel.check()
        index = chance.randrange(len(known))
        if known[index] == UNCHANGED and index not in chosen:
            drawn.add(index)
    return drawn
