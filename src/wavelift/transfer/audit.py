"""The net under change tracking: blocks that it called unchanged are read all the same and compared (invariant 3).

Since vSphere 6.5 a corrupt change map gives no error (facts/vsphere-data-path.md 4): nothing else would notice.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Collection, Iterable
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
    seed: int | str,
    pct: float = AUDIT_PCT,
    minimum: int = AUDIT_MINIMUM,
) -> list[int]:
    """Which unchanged blocks to read, ascending: ``pct`` per cent of them, at least ``minimum`` (or all there are).

    One block of every 128 GiB zone is among them, and up to half of the rest are neighbours of changed areas: a map
    that lost something lost it most likely there. One seed gives one choice.

    :param changed: indices of the blocks that tracking names.
    """
    if not 0 < pct <= 100:
        raise ValueError(f"{pct} per cent is not within 0..100")
    known = changed if isinstance(changed, set | frozenset) else frozenset(changed)
    unchanged = block_count - len(known)
    budget = min(unchanged, max(minimum, math.ceil(unchanged * pct / 100)))
    chance = random.Random(seed)
    chosen = set(_one_per_zone(block_count, known, chance))
    chosen.update(_some(_neighbours(known, block_count) - chosen, (budget - len(chosen)) // 2, chance))
    chosen.update(_others(block_count, known, chosen, budget - len(chosen), chance))
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


def _one_per_zone(block_count: int, changed: Collection[int], chance: random.Random) -> Iterable[int]:
    blocks = ZONE // BLOCK
    for start in range(0, block_count, blocks):
        end = min(start + blocks, block_count)
        for _ in range(blocks):
            index = chance.randrange(start, end)
            if index not in changed:
                yield index
                break
            if end - start <= len(changed) and all(each in changed for each in range(start, end)):
                break  # the whole zone is read anyway


def _neighbours(changed: Collection[int], block_count: int) -> set[int]:
    beside = {near for index in changed for near in (index - 1, index + 1)}
    return {near for near in beside if 0 <= near < block_count and near not in changed}


def _some(candidates: set[int], count: int, chance: random.Random) -> list[int]:
    # Sorted: a set's order is not the seed's.
    return chance.sample(sorted(candidates), max(0, min(count, len(candidates))))


def _others(
    block_count: int, changed: Collection[int], chosen: set[int], count: int, chance: random.Random
) -> Iterable[int]:
    left = block_count - len(changed) - len(chosen)
    if count * 2 >= left:  # few are left: drawing would mostly miss
        return _some({each for each in range(block_count) if each not in changed and each not in chosen}, count, chance)
    drawn: set[int] = set()
    while len(drawn) < count:
        index = chance.randrange(block_count)
        if index not in changed and index not in chosen:
            drawn.add(index)
    return drawn
