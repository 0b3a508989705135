"""Blocks that a sample found wrong. A task that is cleared draws another sample, which must hold them again: else a
failed proof would pass once the sample misses what is wrong (invariant 1)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from wavelift.base.run import CheckpointStore
from wavelift.base.units import BLOCK
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.verify import sample_indices

CHECKPOINT_KEY: Final = "suspects"
MOST: Final = 16
"""Blocks that are kept of what was compared. One is enough to refuse it again."""


@dataclass(frozen=True, slots=True)
class Suspects:
    """Those of one stored disk, in the checkpoints of the task that compares it.

    :param subject: the object or snapshot, with the digest of its manifest: other bytes have another one.
    """

    checkpoints: CheckpointStore
    subject: str

    def sample(self, manifest: Manifest, percent: float) -> list[int]:
        """A sample, and the blocks that an earlier one found wrong."""
        known = [index for index in self._all().get(self.subject, ()) if index < manifest.block_count]
        return sorted({*sample_indices(manifest, percent), *known})

    def keep(self, offsets: Iterable[int]) -> None:
        """These places of the disk differ. Call it before the task fails."""
        known = self._all()
        indices = dict.fromkeys((*known.get(self.subject, ()), *(offset // BLOCK for offset in offsets)))
        self.checkpoints.set(CHECKPOINT_KEY, {**known, self.subject: list(indices)[:MOST]})

    def _all(self) -> dict[str, Any]:
        return self.checkpoints.get(CHECKPOINT_KEY) or {}
