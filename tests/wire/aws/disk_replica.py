"""Disks written into EBS snapshots of the simulator, and what is known of them there."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import EbsStream
from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, StartedSnapshot, snapshot_status, start_snapshot
from wavelift.adapters.aws.ebs_write import EbsWriter, PutOptions
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag, Progress, ignore_progress
from wavelift.base.units import BLOCK, GIB
from wavelift.simulators.aws import AwsSimulator
from wavelift.transfer.extents import ReaderStream
from wavelift.transfer.journal import Journal, JournalIdentity, Segments, SegmentStore
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import CopyOptions, copy
from wavelift.transfer.protocols import BlockStream, Extent
from wavelift.transfer.report import Report

QUICK = RetryPolicy(patience_s=3.0, base_s=0.01, cap_s=0.1)
QUICK_PUTS = PutOptions(policy=QUICK)
"""The shipped policy's shape with short pauses."""
TAIL = 70_000
BLOCKS = 33
DATA_BLOCKS = 22
"""As :func:`make_content` makes them: two of three."""
CAPACITY = (BLOCKS - 1) * BLOCK + TAIL


class Disk:
    """A DiskReader over bytes, all of it one extent."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def size(self) -> int:
        return len(self.content)

    def extents(self) -> Iterator[Extent]:
        yield Extent(0, len(self.content))

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = self.content[offset : offset + len(buffer)]

    def clone(self) -> Disk:
        return self

    def stream(self) -> BlockStream:
        return ReaderStream(self)

    def close(self) -> None:
        """Nothing is open."""


def make_content(seed: int = 1) -> bytearray:
    """Data in two blocks of three, the short last one included."""
    chance = random.Random(seed)
    content = bytearray(CAPACITY)
    for index in range(BLOCKS):
        if index % 3 != 1 or index == BLOCKS - 1:
            end = min((index + 1) * BLOCK, CAPACITY)
            content[index * BLOCK : end] = chance.randbytes(end - index * BLOCK)
    return content


class Replica:
    """Starts, writes and, at the end of the test, deletes snapshots."""

    def __init__(self, access: AwsAccess, aws: AwsSimulator, folder: Path) -> None:
        self.access, self.aws, self.folder = access, aws, folder
        self.made: list[str] = []
        self.objects: dict[str, bytes] = {}
        self.segments: dict[str, Segments] = {}

    def start(self, **options: Any) -> StartedSnapshot:
        values: dict[str, Any] = {
            "capacity": CAPACITY,
            "token": uuid.uuid4().hex,
            "tags": {"wavelift:run": "r1"},
            **options,
        }
        repeated = values.pop("repeated", False)
        started = start_snapshot(self.access, NewSnapshot(**values), repeated=repeated)
        if started.snapshot_id not in self.made:
            self.made.append(started.snapshot_id)
        return started

    def journal(self, started: StartedSnapshot, folder: str = "state") -> Journal:
        return Journal(
            self.folder / folder,
            JournalIdentity(started.snapshot_id, "snapshot-1/disk-2000", CAPACITY),
            SegmentStore(
                store=self.objects.__setitem__,
                checkpoint=partial(self.segments.__setitem__, started.snapshot_id),
                segments=self.segments.get(started.snapshot_id),
                fetch=self.objects.__getitem__,
            ),
        )

    def writer(self, started: StartedSnapshot, folder: str = "state", **options: Any) -> EbsWriter:
        return EbsWriter(self.access, started, self.journal(started, folder), **{"puts": QUICK_PUTS, **options})

    def copy(
        self,
        content: bytes | bytearray,
        writer: EbsWriter,
        cancel: CancelFlag | None = None,
        tick: Callable[[Progress], None] = ignore_progress,
    ) -> Manifest:
        manifest = Manifest.empty(CAPACITY)
        source = Disk(bytes(content)).stream()
        copy(
            source,
            writer,
            manifest,
            cancel=cancel or CancelFlag(),
            options=CopyOptions(workers=4),
            report=Report(to=tick),
        )
        return manifest

    def send(self, content: bytes | bytearray, **options: Any) -> tuple[StartedSnapshot, Manifest]:
        started = self.start(**options)
        manifest = self.copy(content, self.writer(started))
        self.aws_completed(started)
        return started, manifest

    def aws_completed(self, started: StartedSnapshot) -> None:
        assert snapshot_status(self.access, started.snapshot_id) == "completed"

    def row(self, started: StartedSnapshot) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.aws.state()["snapshots"]
        return next(row for row in rows if row["id"] == started.snapshot_id)

    def read(self, started: StartedSnapshot) -> bytes:
        """The volume that AWS would make, as long as the disk; its tail must be zeros."""
        volume = bytearray(BLOCKS * BLOCK)
        with closing(EbsStream(self.access, started.snapshot_id, cancel=CancelFlag())) as stream:
            assert stream.size == started.volume_gib * GIB
            for piece in stream.pieces():
                assert piece.index < BLOCKS
                piece.load(memoryview(volume)[piece.index * BLOCK : (piece.index + 1) * BLOCK])
        assert not any(volume[CAPACITY:])
        return bytes(volume[:CAPACITY])

    def delete(self, started: StartedSnapshot) -> None:
        Ec2(self.access).delete_snapshot(started.snapshot_id)
        self.made.remove(started.snapshot_id)
