"""The content of a volume: a snapshot, and what was written since."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path

from wavelift.simulators.aws.ebs.snapshot import BLOCK, GIB, Snapshot


@dataclass(slots=True, eq=False)
class Volume:
    """``size`` is GiB. ``base`` is the snapshot that it was made from, or its own last one; its blocks are kept even if
    the snapshot is deleted. What was written since is in the sparse file ``path``, block by block."""

    id: str
    size: int
    base: Snapshot | None
    path: Path
    encrypted: bool = False
    kms_key: str = ""
    written: set[int] = field(default_factory=set)
    """The blocks that the file holds."""
    lock: threading.RLock = field(default_factory=threading.RLock)

    def write(self, block: int, data: bytes) -> None:
        """Replace a block, as the guest does; what is missing of it is zero. Raises ValueError outside of the volume,
        or for more than a block."""
        if not 0 <= block < self.size * GIB // BLOCK or len(data) > BLOCK:
            raise ValueError(f"{len(data)} bytes at block {block} do not fit into {self.size} GiB")
        with self.lock:
            self._put(block, data.ljust(BLOCK, b"\0"))

    def write_at(self, offset: int, data: bytes) -> None:
        """Write bytes at an offset, as the guest does; the rest of each block stays. Raises ValueError outside."""
        if offset < 0 or offset + len(data) > self.size * GIB:
            raise ValueError(f"{len(data)} bytes at {offset} do not fit into {self.size} GiB")
        with self.lock:
            done = 0
            while done < len(data):
                index, inside = divmod(offset + done, BLOCK)
                piece = data[done : done + BLOCK - inside]
                block = bytearray(self.read(index))
                block[inside : inside + len(piece)] = piece
                self._put(index, bytes(block))
                done += len(piece)

    def _put(self, index: int, data: bytes) -> None:
        with self.path.open("r+b", buffering=0) as target:
            os.pwrite(target.fileno(), data, index * BLOCK)
        self.written.add(index)

    def read(self, index: int) -> bytes:
        """A block as it is now."""
        with self.lock:
            if index in self.written:
                with self.path.open("rb", buffering=0) as source:
                    return os.pread(source.fileno(), BLOCK, index * BLOCK).ljust(BLOCK, b"\0")
            owner = self.base.owner(index) if self.base is not None else None
            return owner.own_bytes(index) if owner is not None else bytes(BLOCK)
