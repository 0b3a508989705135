"""Export with upload in one pass: the snapshot's lease streams in, our own VMDK goes out as S3 parts, no scratch.

Resume (invariant 6): a lease stream is read again from its start; the upload is continued only for the same snapshot,
and a part stays only if its SHA-256 equals the stored one. What a retry needs is in the state store: upload ids and
finished disks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere.lease import ExportLease, LeaseDisk
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import DiskFacts, ExportResult, StoredDisk
from wavelift.base.errors import CorruptStreamError
from wavelift.base.names import run_hash, tags
from wavelift.base.run import Progress, RunContext
from wavelift.base.units import MBIT
from wavelift.services.dataplane.guards import TransferGuards
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.protocols import BlockStream
from wavelift.transfer.throttle import Throttle
from wavelift.transfer.vmdk import StreamVmdkSource
from wavelift.transfer.vmdk_writer import VmdkPartWriter

UPLOADS_KEY: Final = "uploads"
FINISHED_KEY: Final = "finished"


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
        self.uploads: dict[str, str] = {}

    def run(self) -> tuple[StoredDisk, ...]:
        finished = self._take_up()
        pending = [index for index in range(len(self.snapshot.disks)) if index not in finished]
        if pending:
            guards = TransferGuards(self.session, self.task, self.snapshot, self.ctx)
            guards.check()
            with guards.watching(), self._lease() as lease:
                for disk in self._move(lease, pending):
                    finished[disk.index] = disk
                    self._remember_finished(finished)
        return tuple(finished[index] for index in range(len(self.snapshot.disks)))

    def _take_up(self) -> dict[int, StoredDisk]:
        """What an earlier try of the *same* snapshot left: finished disks and open uploads. The rest is aborted."""
        stored: dict[str, Any] = self.ctx.checkpoints.get(UPLOADS_KEY) or {}
        same = stored.get("snapshot") == self.snapshot.ref.moref
        self.uploads = dict(stored.get("ids", {})) if same else {}
        done: dict[str, Any] = self.ctx.checkpoints.get(FINISHED_KEY) or {}
        finished = [StoredDisk.load(value) for value in done.get("disks", [])] if same else []
        self.staging.abort_uploads(keep=frozenset(self.uploads.values()))
        return {disk.index: disk for disk in finished if self._still_there(disk)}

    def _still_there(self, disk: StoredDisk) -> bool:
        head = self.staging.s3.head(disk.object_key)
        return head is not None and head.size == disk.object_bytes

    def _remember_upload(self, index: int, upload_id: str) -> None:
        self.uploads = {**self.uploads, str(index): upload_id}
        self.ctx.checkpoints.set(UPLOADS_KEY, {"snapshot": self.snapshot.ref.moref, "ids": self.uploads})

    def _remember_finished(self, finished: dict[int, StoredDisk]) -> None:
        self.ctx.checkpoints.set(FINISHED_KEY, {"disks": [disk.dump() for disk in finished.values()]})

    @contextmanager
    def _lease(self) -> Iterator[ExportLease]:
        with ExportLease(
            self.session,
            vm=self.task.facts.moref,
            snapshot=self.snapshot.ref.moref,
            disks=self.snapshot.disks,
            server=self.task.name,
            cancel=self.ctx.cancel,
        ) as lease:
            yield lease

    def _move(self, lease: ExportLease, pending: list[int]) -> Iterator[StoredDisk]:
        """Move the pending disks, a few at a time; the first error stops the others."""
        by_key = {disk.disk.key: disk for disk in lease.disks}
        with ThreadPoolExecutor(self.options.parallel_disks, thread_name_prefix="wavelift-disk") as pool:
            running = {
                pool.submit(self._move_disk, lease, index, by_key[self.snapshot.disks[index].key]) for index in pending
            }
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_EXCEPTION, timeout=None)
                    for future in done:
                        yield future.result()
            except BaseException as error:
                # Not the task's flag: that one says that somebody wants us to stop, this is our own failure.
                lease.interrupt(f"another disk of the server failed: {error}")
                for future in running:
                    future.cancel()
                raise

    def _move_disk(self, lease: ExportLease, index: int, source: LeaseDisk) -> StoredDisk:
        disk = self.snapshot.disks[index]
        label = disk_label(index, disk)
        started = self.ctx.clock.monotonic()
        sink = self.staging.s3.multipart(
            self.staging.object_key(index),
            tags=tags(self.task.plan.wave, self.task.name, self.ctx.run_key),
            previous_upload_id=self.uploads.get(str(index)),
            cancel=self.ctx.cancel,
        )
        self._remember_upload(index, sink.upload_id)
        manifest = self._manifest(index, disk)
        writer = VmdkPartWriter(sink, disk.capacity)
        with closing(lease.open(source)) as raw:
            stream = StreamVmdkSource(raw)
            self._expect_size(stream, disk)

            def on_progress(progress: Progress) -> None:
                lease.report(source, progress.done)
                self.ctx.progress(progress)

            stats = copy(
                stream,
                writer,
                manifest,
                workers=self.options.workers,
                cancel=self.ctx.cancel,
                throttle=self.throttle,
                on_progress=on_progress,
                server=self.task.name,
                disk=label,
            )
        body = manifest.to_bytes()
        self.staging.s3.put_object(self.staging.manifest_key(index), body)
        return StoredDisk(
            index=index,
            address=disk.address,
            key=disk.key,
            boot=disk.boot,
            capacity=disk.capacity,
            bucket=self.staging.bucket,
            object_key=self.staging.object_key(index),
            object_bytes=writer.bytes_written,
            manifest_key=self.staging.manifest_key(index),
            manifest_digest=hashlib.sha256(body).hexdigest(),
            content_digest=manifest.content_digest(),
            data_bytes=stats.data_bytes,
            parts=writer.parts,
            parts_kept=sink.parts_kept,
            seconds=round(self.ctx.clock.monotonic() - started, 3),
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

    def _expect_size(self, stream: BlockStream, disk: DiskFacts) -> None:
        if stream.size != disk.capacity:
            raise CorruptStreamError(
                f"The stream is of a disk of {stream.size} bytes, vCenter says {disk.capacity}",
                server=self.task.name,
                disk=disk.address,
                next_step="The retry asks for a new lease; if it says so again, check the VM's disks in vCenter",
            )
