"""Export with upload in one pass: the snapshot's lease streams in, our own VMDK goes out as S3 parts, no scratch.

Resume (invariant 6): a lease stream is read again from its start; the upload is continued only for the same snapshot,
and a part stays only if its SHA-256 equals the stored one. What a retry needs is in the state store: upload ids and
finished disks.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import DiskFacts, ExportResult, StoredDisk
from wavelift.base.errors import CorruptStreamError, FencedError
from wavelift.base.names import run_hash, tags
from wavelift.base.run import Progress, RunContext
from wavelift.base.units import MBIT, SECTOR
from wavelift.services.dataplane.guards import TransferGuards
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import CopyStats, copy
from wavelift.transfer.throttle import Throttle
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


def export_server(
    session: VsphereSession,
    access: AwsAccess,
    task: ServerTask,
    snapshot: TakenSnapshot,
    ctx: RunContext,
    options: TransferOptions,
) -> ExportResult:
    """Move every disk of ``snapshot`` to S3 and store its manifest beside it.

    :raises GuardError: when a guard stops the transfer; the uploads stay for a retry.
    :raises CorruptStreamError: when a stream breaks its format, or its size is not the disk's.
    """
    transfer = _Transfer(session, access, task, snapshot, ctx, options)
    return ExportResult(server=task.name, snapshot=snapshot.ref.moref, disks=transfer.run())


class _Transfer:
    """One try of one server's export."""

    def __init__(
        self,
        session: VsphereSession,
        access: AwsAccess,
        task: ServerTask,
        snapshot: TakenSnapshot,
        ctx: RunContext,
        options: TransferOptions,
    ) -> None:
        self.session = session
        self.task = task
        self.snapshot = snapshot
        self.ctx = ctx
        self.options = options
        self.staging = ServerStaging(access, task.plan, ctx.run_key)
        rate = task.plan.guards.max_mbit_s
        self.throttle = Throttle(rate * MBIT) if rate else None
        self.stop = ctx.cancel.child()
        self.uploads: dict[str, str] = {}
        self.finished: dict[int, StoredDisk] = {}
        self.done: dict[int, int] = {}
        self.lock = threading.Lock()

    def run(self) -> tuple[StoredDisk, ...]:
        self._take_up()
        pending = [index for index in range(len(self.snapshot.disks)) if index not in self.finished]
        if pending:
            guards = TransferGuards(self.session, self.task, self.snapshot, self.ctx)
            guards.check()
            with guards.watching(self.stop.set), self._lease() as lease:
                self._move(lease, pending)
        return tuple(self.finished[index] for index in range(len(self.snapshot.disks)))

    def _take_up(self) -> None:
        """What an earlier try of the *same* snapshot left: finished disks and open uploads. The rest is aborted."""
        stored: dict[str, Any] = self.ctx.checkpoints.get(CHECKPOINT_KEY) or {}
        if stored.get("snapshot") == self.snapshot.ref.moref:
            self.uploads = dict(stored["uploads"])
            disks = [StoredDisk.load(value) for value in stored["finished"]]
            self.finished = {disk.index: disk for disk in disks if self._still_there(disk)}
        self.staging.abort_uploads(keep=frozenset(self.uploads.values()))

    def _still_there(self, disk: StoredDisk) -> bool:
        head = self.staging.s3.head(disk.object_key)
        return head is not None and head.size == disk.object_bytes

    def _remember(self, *, upload: tuple[int, str] | None = None, disk: StoredDisk | None = None) -> None:
        """Store what a retry needs; the disks of a server come here from threads of their own."""
        with self.lock:
            if upload:
                self.uploads[str(upload[0])] = upload[1]
            if disk:
                self.finished[disk.index] = disk
                self.uploads.pop(str(disk.index), None)
            self.ctx.checkpoints.set(
                CHECKPOINT_KEY,
                {
                    "snapshot": self.snapshot.ref.moref,
                    "uploads": self.uploads,
                    "finished": [done.dump() for done in self.finished.values()],
                },
            )

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
        return min(100, 100 * sum(self.done.values()) // total) if total else 100

    def _move(self, lease: ExportLease, pending: list[int]) -> None:
        """Move the pending disks, a few at a time; the first error stops the others and is raised."""
        with ThreadPoolExecutor(self.options.parallel_disks, thread_name_prefix="wavelift-disk") as pool:
            running = [pool.submit(self._move_disk, lease, index) for index in pending]
            failed: BaseException | None = None
            for future in as_completed(running):
                error = None if future.cancelled() else future.exception()
                if error is not None and failed is None:
                    failed = error
                    self.stop.set("another disk of the server failed", fenced=isinstance(error, FencedError))
                    for other in running:
                        other.cancel()
        if failed is not None:
            raise failed

    def _move_disk(self, lease: ExportLease, index: int) -> None:
        disk = self.snapshot.disks[index]
        started = self.ctx.clock.monotonic()
        manifest = self._manifest(index, disk)
        sink = self.staging.s3.multipart(
            self.staging.object_key(index),
            metadata={"wavelift-run": run_hash(self.ctx.run_key), "wavelift-server": self.task.name},
            tags=tags(self.task.plan.wave, self.task.name, self.ctx.run_key),
            previous_upload_id=self.uploads.get(str(index)),
            cancel=self.stop,
        )
        self._remember(upload=(index, sink.upload_id))
        writer = VmdkPartWriter(sink, disk.capacity)
        stats = self._copy(lease, index, manifest, writer)
        body = manifest.to_bytes()
        self.staging.s3.put_object(self.staging.manifest_key(index), body)
        self._remember(
            disk=StoredDisk(
                index=index,
                address=disk.address,
                key=disk.key,
                boot=disk.boot,
                capacity=disk.capacity,
                bucket=self.staging.bucket,
                object_key=self.staging.object_key(index),
                object_bytes=writer.object_bytes,
                manifest_key=self.staging.manifest_key(index),
                manifest_digest=hashlib.sha256(body).hexdigest(),
                content_digest=manifest.content_digest(),
                data_bytes=stats.data_bytes,
                parts=writer.parts,
                parts_kept=sink.parts_kept,
                seconds=round(self.ctx.clock.monotonic() - started, 3),
            )
        )

    def _copy(self, lease: ExportLease, index: int, manifest: Manifest, writer: VmdkPartWriter) -> CopyStats:
        disk = self.snapshot.disks[index]

        def on_progress(progress: Progress) -> None:
            self.done[index] = progress.done
            self.ctx.progress(progress)

        with closing(lease.open(disk)) as raw:
            stream = StreamVmdkSource(raw)
            if stream.size != -(-disk.capacity // SECTOR) * SECTOR:
                raise CorruptStreamError(
                    f"The stream is of a disk of {stream.size} bytes, vCenter says {disk.capacity}",
                    server=self.task.name,
                    disk=disk.address,
                    next_step="The retry asks for a new lease; if it says so again, check the VM's disks in vCenter",
                )
            return copy(
                stream,
                writer,
                manifest,
                workers=self.options.workers,
                cancel=self.stop,
                throttle=self.throttle,
                on_progress=on_progress,
                server=self.task.name,
                disk=disk_label(index, disk),
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
