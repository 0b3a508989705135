"""The content of a volume: a snapshot, and what was written since."""

from __future__ import annotations

from dataclasses import dataclass, field

from wavelift.simulators.aws.ebs.snapshot import BLOCK, Snapshot


@dataclass(slots=True, eq=False)
class Volume:
    """``size`` is GiB. ``base`` is the snapshot that it was made from, or its own last one; its blocks are kept even if
    the snapshot is deleted."""

    id: str
    size: int
    base: Snapshot | None
    written: dict[int, bytes] = field(default_factory=dict)

    def write(self, block: int, data: bytes) -> None:
        """As the guest does. Raises ValueError outside of the volume, or for more than a block."""
        if not 0 <= block < (self.size << 30) // BLOCK or len(data) > BLOCK:
            raise ValueError(f"{len(data)} bytes at block {block} do not fit into {self.size} GiB")
        self.written[block] = data.ljust(BLOCK, b"\0")
