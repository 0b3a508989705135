"""A driver of replication runs without Airflow: each leaves what the next one builds on, as the ledger would."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.contexts import context_of

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskLineage, ReplicatedDisk, ReplicationResult
from wavelift.base.errors import WaveliftError
from wavelift.base.run import MemoryCheckpoints, Progress
from wavelift.base.units import BLOCK
from wavelift.services.dataplane.abandon import abandon_run
from wavelift.services.dataplane.disk_crew import FrozenServer
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.replication import ReplicationOptions, RunHistory, replicate_server
from wavelift.services.dataplane.snapshot import take_snapshot
from wavelift.services.dataplane.snapshot_removal import remove_snapshot
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.dataplane.unfinished import targets_left

from .journey import Stage

__test__ = False


class Killed(BaseException):
    """SIGKILL, as far as a thread can get it."""


@dataclass
class Try:
    """One run in the making: what survives a killed task."""

    task: ServerTask
    snapshot: TakenSnapshot
    run_key: str
    checkpoints: MemoryCheckpoints = field(default_factory=MemoryCheckpoints)


class Replica:
    """The replication of one server: its lineage, and the way of each run."""

    def __init__(self, stage: Stage, server: str, **changes: Any) -> None:
        self.stage = stage
        self.server = server
        self.changes = changes
        self.lineages: tuple[DiskLineage, ...] = ()
        self.results: list[ReplicationResult] = []
        self.options = ReplicationOptions(state_folder=stage.folder / "journals", guard_seconds=0.2)
        self.made: list[str] = []
        self.distrusted: dict[int, str] = {}
        """Whose change tracking was said to lie."""
        self.failed: list[Try] = []
        """Since the last recorded run, newest first."""
        self.retries = 2

    def begin(self) -> Try:
        """Pre-flight and the vSphere snapshot."""
        journey = self.stage.journey(self.server, **self.changes)
        journey.looked_before = True
        self.stage.looked.clear()  # the machine may have changed
        (task,) = journey.preflight()
        ctx = journey.ctx(task, "snapshot")
        with self.stage.connect() as session:
            taken = take_snapshot(session, task, ctx, replicates=True)
        return Try(task, taken, ctx.run_key)

    def again(self, one: Try) -> Try:
        """The same run once its tasks were cleared: what the tries remembered stays, the vSphere snapshot is new."""
        ctx = context_of(one.run_key)
        with self.stage.connect() as session:
            remove_snapshot(session, self.stage.access, one.task, ctx)
            taken = take_snapshot(session, one.task, ctx, replicates=True)
        return Try(one.task, taken, one.run_key, one.checkpoints)

    def record(self, result: ReplicationResult) -> None:
        """What the next run, or this one once it was cleared, builds on."""
        self.lineages = tuple(disk.lineage for disk in result.disks)
        self.made += [lineage.snapshot_id for lineage in self.lineages]

    def transfer(self, one: Try, progress: Callable[[Progress], None] = lambda _: None) -> ReplicationResult:
        ctx = context_of(one.run_key, checkpoints=one.checkpoints, progress=progress)
        with self.stage.connect() as session:
            access = self.stage.access()
            failed = [each.run_key for each in self.failed]
            told = self.distrusted.__setitem__
            source = FrozenServer(session, one.task, one.snapshot)
            return replicate_server(source, access, ctx, self.options, RunHistory(self.lineages, failed, told))

    def remove(self, one: Try) -> None:
        with self.stage.connect() as session:
            remove_snapshot(session, self.stage.access, one.task, context_of(one.run_key))

    def end(self, one: Try, result: ReplicationResult | None) -> None:
        """What record, remove_snapshot and the report do."""
        if result is not None:
            self.record(result)
            self.results.append(result)
        self.remove(one)
        with ServerStaging.of(self.stage.access(), one.task.plan, one.run_key) as staging:
            left = frozenset() if result else targets_left(self.stage.access(), staging, one.run_key)
            abandon_run(self.stage.access(), one.run_key, keep=[*self.made, *left])
            if result is None:
                self.failed.insert(0, one)
                return
            staging.forget_journals()
            self.sweep(staging)

    def sweep(self, staging: ServerStaging) -> None:
        """What the runs that failed left is of no use any more."""
        for old in self.failed:
            abandon_run(self.stage.access(), old.run_key, keep=self.made)
            staging.beside(old.run_key, old.task.plan).discard()
        self.failed.clear()

    def run(
        self,
        *,
        check: bool = True,
        during: Callable[[Try], object] = lambda _: None,
        progress: Callable[[Progress], None] = lambda _: None,
    ) -> ReplicationResult:
        """One whole run; with ``check`` every EBS snapshot must be what the vSphere snapshot froze."""
        one = self.begin()
        result = None
        try:
            during(one)
            for left in reversed(range(self.retries + 1)):
                try:
                    result = self.transfer(one, progress)
                    break
                except WaveliftError as error:
                    if not left or not error.retryable:
                        raise
            assert result is not None
            if check:
                self.assert_equal(one, result)
            return result
        finally:
            self.end(one, result)

    def assert_equal(self, one: Try, result: ReplicationResult) -> None:
        """Asks nothing of wavelift: boto3 reads the EBS snapshot, the simulator kept what it froze."""
        for disk in result.disks:
            assert self.state_of(disk.lineage.snapshot_id) == "completed"
            frozen = self.stage.frozen_disk(one.snapshot.ref.moref, disk.lineage.key)
            assert_snapshot_equals(self.stage, disk, frozen)

    def state_of(self, snapshot_id: str) -> str:
        found = self.stage.aws.client("ec2").describe_snapshots(SnapshotIds=[snapshot_id])["Snapshots"]
        return str(found[0]["State"])

    def objects(self) -> list[str]:
        """Keys in the staging folder."""
        page = self.stage.aws.client("s3").list_objects_v2(Bucket=self.stage.account.bucket, Prefix="stage/")
        return [entry["Key"] for entry in page.get("Contents", ())]

    def discard(self) -> None:
        access = self.stage.access()
        for old in self.failed:
            abandon_run(access, old.run_key)
        for snapshot_id in dict.fromkeys(self.made):
            Ec2(access).delete_snapshot(snapshot_id)
        s3 = S3Staging(access, self.stage.account.bucket)
        try:
            s3.delete_prefix("stage/")
        finally:
            s3.close()


def assert_snapshot_equals(stage: Stage, disk: ReplicatedDisk, frozen: Path) -> None:
    ebs = stage.aws.client("ebs")
    content = bytearray(-(-disk.lineage.capacity // BLOCK) * BLOCK)
    selection: dict[str, Any] = {}
    while True:
        page = ebs.list_snapshot_blocks(SnapshotId=disk.lineage.snapshot_id, **selection)
        for block in page.get("Blocks", []):
            answer = ebs.get_snapshot_block(
                SnapshotId=disk.lineage.snapshot_id, BlockIndex=block["BlockIndex"], BlockToken=block["BlockToken"]
            )
            at = block["BlockIndex"] * BLOCK
            content[at : at + BLOCK] = answer["BlockData"].read()
        if not page.get("NextToken"):
            break
        selection = {"NextToken": page["NextToken"]}
    expected = frozen.read_bytes()
    assert len(expected) == disk.lineage.capacity
    differing = [
        at
        for at in range(0, len(content), BLOCK)
        if content[at : at + BLOCK] != expected[at : at + BLOCK].ljust(BLOCK, b"\0")
    ]
    assert not differing, f"{disk.label} differs at {differing[:5]}"
