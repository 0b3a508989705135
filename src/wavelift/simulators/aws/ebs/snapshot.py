"""One snapshot. Its own blocks are in a sparse file, the others in the files of its ancestors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

BLOCK: Final = 512 << 10
GIB: Final = 1 << 30
PENDING: Final = "pending"
COMPLETED: Final = "completed"
ERROR: Final = "error"


@dataclass(slots=True, eq=False)
class Snapshot:
    """Times are seconds of the simulator's clock; sizes are GiB, as in AWS. Compare snapshots by identity."""

    id: str
    size: int
    path: Path
    parent: Snapshot | None
    started: float
    state: str = PENDING
    description: str = ""
    encrypted: bool = False
    kms_key: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    timeout: float = 0.0
    """Seconds without a write after which a pending snapshot fails; 0 means never."""
    last_write: float = 0.0
    completing: float | None = None
    """When CompleteSnapshot was accepted."""
    completes: float | None = None
    """When a snapshot of a volume is completed by itself."""
    origin: str = "direct"
    """``direct``, or the id of the import task or volume that it was made from."""
    hidden: bool = False
    """The disk as uploaded, before an import converts it. Only its child reads it; no call shows it."""
    deleted: bool = False
    present: set[int] = field(default_factory=set)
    digests: dict[int, bytes] = field(default_factory=dict)
    puts: int = 0
    writing: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def block_count(self) -> int:
        return self.size * GIB // BLOCK

    def lineage(self) -> Iterator[Snapshot]:
        """Itself, its parent, and so on."""
        node: Snapshot | None = self
        while node is not None:
            yield node
            node = node.parent

    def owner(self, index: int) -> Snapshot | None:
        """The snapshot whose file holds block ``index`` of this one; None for a block that was never written."""
        return next((node for node in self.lineage() if index in node.present), None)

    def indices(self) -> list[int]:
        """The blocks of this snapshot and its ancestors, ascending."""
        seen: set[int] = set()
        for node in self.lineage():
            seen |= node.present
        return sorted(index for index in seen if index < self.block_count)

    def own_bytes(self, index: int) -> bytes:
        with self.path.open("rb", buffering=0) as source:
            data = os.pread(source.fileno(), BLOCK, index * BLOCK)
        return data.ljust(BLOCK, b"\0")

    def write(self, index: int, data: bytes) -> None:
        with self.path.open("r+b", buffering=0) as target:
            os.pwrite(target.fileno(), data, index * BLOCK)
        self.present.add(index)
