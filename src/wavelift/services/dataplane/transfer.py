"""Export with upload in one pass: the snapshot's lease streams in, our own VMDK goes out as S3 parts, no scratch.

Resume (invariant 6): a lease stream is read again from its start; the upload is continued only for the same snapshot,
and a part stays only if its SHA-256 equals the stored one. What a retry needs is in the state store: upload ids, and
the disks that were about to be complete with the checksum that their objects then have.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.multipart import S3PartSink
from wavelift.adapters.vsphere import snapshots
from wavelift.adapters.vsphere.lease import ExportLease, LeaseBody
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import DiskFacts, ExportResult, SnapshotRef, StoredDisk
from wavelift.base.errors import (
    CorruptStreamError,
    FencedError,
    NotFoundError,
    ThrottledError,
    UnreachableError,
    located,
)
from wavelift.base.names import instant_of, run_hash
from wavelift.base.run import Progress, RunContext
from wavelift.base.units import MBIT, SECTOR
from wavelift.services.dataplane.guards import GUARD_SECONDS, TransferGuards
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.outage import SourcePatience
from wavelift.services.dataplane.rates import note_rate
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.throttle import Pace, Paces, Throttle
from wavelift.transfer.vmdk import StreamVmdkSource
from wavelift.transfer.vmdk_writer import VmdkPartWriter

CHECKPOINT_KEY: Final = "transfer"


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How hard a transfer may work on the connector."""

    workers: int = 2
    """Threads that inflate, hash and deflate, per disk."""
    parallel_disks: int = 2
    """Disks of one server that move at the same time."""
    guard_seconds: float = GUARD_SECONDS
    """Between two looks at datastore, host and age of the snapshot."""
    line: Pace | None = None
    """The connector's, which all its transfers share."""
    state_folder: Path | None = None
    """Where the connector keeps how fast it was."""


def export_server(
    session: VsphereSession,
    access: AwsAccess,
    task: ServerTask,
    snapshot: TakenSnapshot,
    ctx: RunContext,
    options: TransferOptions,
) -> ExportResult:
    """Move every disk of ``snapshot`` to S3 and store its manifest beside it.

    :raises GuardError: when a guard stops the transfer; the uploads stay until the snapshot goes.
    :raises CorruptStreamError: when a stream breaks its format, or its size is not the disk's.
    :raises FencedError: another try owns the work; nothing was cleaned up.
    """
    with located(server=task.name), ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        disks = _Transfer(session, access, staging, task, snapshot, ctx, options).run()
    return ExportResult(server=task.name, snapshot=snapshot.ref.moref, disks=disks)


class _Record:
    """What a retry needs of this try, in the state store. Every write is also a fence: an outlived try stops there.

    A disk is noted with its object's checksum *before* the object is made: completing one of many parts takes S3
    minutes, and a try that is killed meanwhile must not send everything again.
    """

    def __init__(self, ctx: RunContext, snapshot: SnapshotRef) -> None:
        self._checkpoints = ctx.checkpoints
        self._lock = threading.Lock()
        stored: dict[str, Any] = self._checkpoints.get(CHECKPOINT_KEY) or {}
        # A restored vCenter may give an id a second time; never an id and an instant.
        snapshot_instant = f"{snapshot.moref} {snapshot.created}"
        self.instant = instant_of(snapshot_instant)
        same = stored.get("snapshot") == snapshot_instant
        self._value: dict[str, Any] = stored if same else {"snapshot": snapshot_instant, "uploads": {}, "disks": {}}
        self.write()

    def write(self) -> None:
        """:raises FencedError: another try owns the work."""
        with self._lock:
            self._checkpoints.set(CHECKPOINT_KEY, self._value)

    def upload(self, index: int) -> str | None:
        known: str | None = self._value["uploads"].get(str(index))
        return known

    @property
    def uploads(self) -> frozenset[str]:
        return frozenset(self._value["uploads"].values())

    def set_upload(self, index: int, upload_id: str) -> None:
        with self._lock:
            self._value["uploads"][str(index)] = upload_id
        self.write()

    def disk(self, index: int) -> tuple[StoredDisk, str] | None:
        """The disk as it is once its object carries the checksum; only then it is finished."""
        stored = self._value["disks"].get(str(index))
        return (StoredDisk.load(stored["disk"]), stored["checksum"]) if stored else None

    def set_disk(self, disk: StoredDisk, checksum: str) -> None:
        with self._lock:
            self._value["disks"][str(disk.index)] = {"disk": disk.dump(), "checksum": checksum}
        self.write()


class _AnnouncedSink:
    """A part sink that says so before it makes the object."""

    def __init__(self, sink: S3PartSink, announce: Callable[[], None]) -> None:
        self._sink = sink
        self._announce = announce

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        self._sink.put_part(number, data, sha256)

    def complete(self) -> None:
        self._announce()
        self._sink.complete()


class _Transfer:
    """One try of one server's export."""

    def __init__(
        self,
        session: VsphereSession,
        access: AwsAccess,
        staging: ServerStaging,
        task: ServerTask,
        snapshot: TakenSnapshot,
        ctx: RunContext,
        options: TransferOptions,
    ) -> None:
        self.session = session
        self.access = access
        self.staging = staging
        self.task = task
        self.snapshot = snapshot
        self.ctx = ctx
        self.options = options
        rate = task.plan.guards.max_mbit_s
        self.throttle = Paces(Throttle(rate * MBIT) if rate else None, options.line)
        self.stop = ctx.cancel.child()
        self.patience = SourcePatience(session.config.patience_s, ctx.clock)
        self.record = _Record(ctx, snapshot.ref)
        self.finished: dict[int, StoredDisk] = {}
        self.passed = [0] * len(snapshot.disks)
        """Bytes of each disk that were read, for the lease's percent."""

    def run(self) -> tuple[StoredDisk, ...]:
        disks = range(len(self.snapshot.disks))
        began, whole = self.ctx.clock.monotonic(), not self.record.uploads
        while not self._all_finished():
            try:
                self._round([index for index in disks if index not in self.finished])
            except (UnreachableError, ThrottledError) as error:
                whole = False
                self.patience.again(error, self.ctx.cancel)
        if whole and self.options.state_folder is not None:
            passed = sum(disk.capacity for disk in self.snapshot.disks)
            note_rate(self.options.state_folder, passed, self.ctx.clock.monotonic() - began)
        return tuple(self.finished[index] for index in disks)

    def _all_finished(self) -> bool:
        self._take_up()
        return len(self.finished) == len(self.snapshot.disks)

    def _round(self, pending: list[int]) -> None:
        """Take a lease and move what is pending, as far as it goes."""
        self.stop = self.ctx.cancel.child()
        guards = TransferGuards(self.session, self.task, self.snapshot, self.ctx, interval=self.options.guard_seconds)
        self._check_snapshot()
        guards.check()
        with guards.watching(self.stop.set), self.access.obeying(self.stop), self._lease() as lease:
            self._move(lease, pending)

    def _check_snapshot(self) -> None:
        """:raises NotFoundError: it was removed, by a person or by this run's teardown; a retry can't bring it back."""
        ref = self.snapshot.ref
        found = snapshots.find_snapshot(self.session, ref.vm, ref.name)
        if found is None or found.moref != ref.moref:
            raise NotFoundError(
                "The snapshot that is to be exported is gone",
                server=self.task.name,
                snapshot=ref.name,
                next_step="Clear this server from its reserve task, so that a new one is taken; the VM's events in "
                "vCenter tell who removed it",
            )

    def _take_up(self) -> None:
        """What an earlier try of the *same* snapshot left: finished disks and open uploads. The rest is aborted."""
        for index, disk in enumerate(self.snapshot.disks):
            stored = None if index in self.finished else self._stored(index)
            if stored is not None:
                self.finished[index] = stored
                self._on_progress(index, self._all_of(index, disk, stored))
        self.record.write()
        self.staging.abort_uploads(keep=self.record.uploads)

    def _stored(self, index: int) -> StoredDisk | None:
        """The disk, if S3 holds the very object that an earlier try was about to make."""
        noted = self.record.disk(index)
        if noted is None:
            return None
        disk, checksum = noted
        head = self.staging.s3.head(disk.object_key)
        return disk if head is not None and (head.size, head.checksum) == (disk.object_bytes, checksum) else None

    def _lease(self) -> ExportLease:
        return ExportLease(
            self.session,
            vm=self.task.facts.moref,
            snapshot=self.snapshot.ref.moref,
            disks=self.snapshot.disks,
            server=self.task.name,
            cancel=self.stop,
            percent=self._percent,
        )

    def _percent(self) -> int:
        total = sum(disk.capacity for disk in self.snapshot.disks)
        return min(100, 100 * sum(self.passed) // total) if total else 100

    def _move(self, lease: ExportLease, pending: list[int]) -> None:
        """Move the pending disks, a few at a time; the first error stops the others and is raised."""
        with ThreadPoolExecutor(self.options.parallel_disks, thread_name_prefix="wavelift-disk") as pool:
            running = [pool.submit(self._move_disk, lease, index) for index in pending]
            try:
                failed = self._first_error(running)
            except BaseException:  # Airflow's time-out is thrown into this thread
                self._give_up(running, "the task was interrupted", fenced=False)
                raise
        if failed is not None:
            raise failed

    def _first_error(self, running: list[Future[None]]) -> BaseException | None:
        failed: BaseException | None = None
        for future in as_completed(running):
            error = None if future.cancelled() else future.exception()
            if error is not None and failed is None:
                failed = error
                reason = "another disk of the server failed"
                self._give_up(running, reason, fenced=isinstance(error, FencedError))
        return failed

    def _give_up(self, running: list[Future[None]], reason: str, *, fenced: bool) -> None:
        self.stop.set(reason, fenced=fenced)
        for future in running:
            future.cancel()

    def _move_disk(self, lease: ExportLease, index: int) -> None:
        self.stop.check()
        disk = self.snapshot.disks[index]
        started = self.ctx.clock.monotonic()
        with self.access.obeying(self.stop), closing(lease.open(disk)) as raw:
            stream = self._stream(raw, disk)
            manifest = self._manifest(index, disk)
            sink = self._sink(index)

            def announce() -> None:
                with self.access.obeying(self.stop):  # another thread than this one
                    stored = self._store_manifest(index, manifest, writer, sink)
                seconds = round(self.ctx.clock.monotonic() - started, 3)
                self.record.set_disk(stored.model_copy(update={"seconds": seconds}), sink.checksum())

            writer = VmdkPartWriter(_AnnouncedSink(sink, announce), disk.capacity)
            copy(
                stream,
                writer,
                manifest,
                workers=self.options.workers,
                cancel=self.stop,
                on_progress=lambda progress: self._on_progress(index, progress),
                server=self.task.name,
                disk=disk_label(index, disk),
            )
        noted = self.record.disk(index)
        assert noted is not None  # the writer completed its sink
        self.finished[index] = noted[0]

    def _stream(self, raw: LeaseBody, disk: DiskFacts) -> StreamVmdkSource:
        stream = StreamVmdkSource(raw)
        if stream.size != -(-disk.capacity // SECTOR) * SECTOR:
            raise CorruptStreamError(
                f"The stream is of a disk of {stream.size} bytes, vCenter says {disk.capacity}",
                disk=disk.address,
                next_step="The retry asks for a new lease; if it says so again, check the VM's disks in vCenter",
            )
        return stream

    def _sink(self, index: int) -> S3PartSink:
        sink = self.staging.s3.multipart(
            self.staging.object_key(index, self.record.instant),
            metadata={"wavelift-run": run_hash(self.ctx.run_key), "wavelift-server": self.task.name},
            previous_upload_id=self.record.upload(index),
            cancel=self.stop,
            throttle=self.throttle,
        )
        self.record.set_upload(index, sink.upload_id)
        return sink

    def _on_progress(self, index: int, progress: Progress) -> None:
        self.passed[index] = progress.done
        self.patience.moved(progress)
        self.ctx.progress(progress)

    def _all_of(self, index: int, disk: DiskFacts, stored: StoredDisk) -> Progress:
        """News of a disk that an earlier try finished: whoever adds up the disks counts it."""
        size = disk.capacity
        label = disk_label(index, disk)
        return Progress(self.task.name, label, "export", size, size, stored.data_bytes, stored.object_bytes)

    def _store_manifest(self, index: int, manifest: Manifest, writer: VmdkPartWriter, sink: S3PartSink) -> StoredDisk:
        """All parts are stored: put the manifest beside them, and describe what the object will be."""
        disk = self.snapshot.disks[index]
        body = manifest.to_bytes()
        manifest_key = self.staging.manifest_key(index, self.record.instant)
        self.staging.s3.put_object(manifest_key, body)
        return StoredDisk(
            index=index,
            address=disk.address,
            key=disk.key,
            boot=disk.boot,
            capacity=disk.capacity,
            bucket=self.staging.bucket,
            object_key=self.staging.object_key(index, self.record.instant),
            object_bytes=writer.object_bytes,
            manifest_key=manifest_key,
            manifest_digest=hashlib.sha256(body).hexdigest(),
            content_digest=manifest.content_digest(),
            data_bytes=manifest.data_bytes,
            parts=writer.parts,
            parts_kept=sink.parts_kept,
        )

    def _manifest(self, index: int, disk: DiskFacts) -> Manifest:
        return Manifest.empty(
            disk.capacity,
            server=self.task.name,
            disk=index,
            address=disk.address,
            run=run_hash(self.ctx.run_key),
            snapshot=self.snapshot.ref.moref,
        )
