"""Export with upload in one pass: an export lease streams in, our own VMDK goes out as S3 parts, without scratch.

Resume (invariant 6): a lease stream is read again from its start. The upload is continued only for the same snapshot,
and a part stays only if its SHA-256 equals the stored one. The state store holds what a retry needs: upload ids, and
the disks that were about to be complete with the checksum that their objects then have.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.multipart import S3PartSink
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.base.domain import DiskFacts, ExportResult, StoredDisk
from wavelift.base.errors import located
from wavelift.base.names import run_hash
from wavelift.base.run import Progress, RunContext
from wavelift.services.dataplane.disk_crew import DiskCrew, FrozenServer, TransferOptions, TryRecord, lease_stream
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.staged_object import AnnouncedSink, settle, stored_version
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import CopyOptions, copy
from wavelift.transfer.vmdk_writer import VmdkPartWriter

CHECKPOINT_KEY: Final = "transfer"
WHY_STREAM: Final = "an import needs whole disks, and the export lease streams them from every datastore"


def export_server(
    source: FrozenServer, access: AwsAccess, ctx: RunContext, options: TransferOptions | None = None
) -> ExportResult:
    """Move every disk of the snapshot to S3 and store its manifest beside it.

    :raises GuardError: when a guard stops the transfer; the uploads stay until the snapshot goes.
    :raises CorruptStreamError: when a stream breaks its format, or its size is not the disk's.
    :raises FencedError: another try owns the work; nothing was cleaned up.
    """
    task = source.task
    with located(server=task.name), ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        disks = _Export(source, access, staging, ctx, options or TransferOptions()).run()
    return ExportResult(server=task.name, snapshot=source.snapshot.ref.moref, disks=disks)


class _Record(TryRecord):
    """Uploads and disks of this try.

    A disk is noted with its object's checksum *before* the object is made: completing one of many parts takes S3
    minutes, and a try that is killed meanwhile must not send everything again.
    """

    def _fresh(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        return {"uploads": {}}

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


@dataclass(frozen=True, slots=True)
class _DiskExport:
    index: int
    disk: DiskFacts


class _Export(DiskCrew[_DiskExport, StoredDisk]):
    """One try of one server's export."""

    doing = "exported"
    if_gone = "Clear this server from its reserve task, so that a new one is taken"

    def __init__(
        self,
        source: FrozenServer,
        access: AwsAccess,
        staging: ServerStaging,
        ctx: RunContext,
        options: TransferOptions,
    ) -> None:
        super().__init__(source, access, staging, ctx, options)
        self.record = _Record(ctx, self.snapshot.ref, CHECKPOINT_KEY)

    def is_fresh(self) -> bool:
        return not self.record.uploads

    def read_whole(self) -> bool:
        return True

    def take_up(self) -> None:
        """Finished disks and open uploads of the *same* snapshot. The other uploads are aborted."""
        for index, disk in enumerate(self.snapshot.disks):
            stored = None if index in self.finished else self._stored(index)
            if stored is not None:
                self.finished[index] = stored
                self.on_progress(index, self._all_of(index, disk, stored))
        self.record.write()
        self.staging.abort_uploads(keep=self.record.uploads)

    def _stored(self, index: int) -> StoredDisk | None:
        """The disk, if S3 holds the very object that an earlier try was about to make."""
        noted = self.record.disk(index)
        if noted is None:
            return None
        disk, checksum = noted
        version = stored_version(self.staging.s3, disk.object_key, size=disk.object_bytes, checksum=checksum)
        return None if version is None else disk.model_copy(update={"version": version})

    def _all_of(self, index: int, disk: DiskFacts, stored: StoredDisk) -> Progress:
        """News of a disk that an earlier try finished: whoever adds up the disks counts it."""
        size = disk.capacity
        label = disk_label(index, disk)
        return Progress(self.task.name, label, "export", size, size, stored.data_bytes, stored.object_bytes)

    def plan(self, pending: Sequence[int]) -> list[_DiskExport]:
        return [_DiskExport(index, self.snapshot.disks[index]) for index in pending]

    def leased(self, tasks: Sequence[_DiskExport]) -> Sequence[int]:
        return range(len(self.snapshot.disks))

    def move(self, lease: ExportLease | None, task: _DiskExport) -> None:
        assert lease is not None
        index, disk = task.index, task.disk
        started = self.ctx.clock.monotonic()
        with lease_stream(lease, disk) as stream:
            manifest = Manifest.empty(disk.capacity, **self.manifest_header(index))
            sink = self._sink(index)

            def announce() -> None:
                with self.access.obeying(self.stop):  # another thread than this one
                    stored = self._store_manifest(index, manifest, writer, sink)
                seconds = round(self.ctx.clock.monotonic() - started, 3)
                self.record.set_disk(stored.model_copy(update={"seconds": seconds}), sink.checksum())

            writer = VmdkPartWriter(AnnouncedSink(sink, announce), disk.capacity)
            copy(
                stream,
                writer,
                manifest,
                cancel=self.stop,
                options=CopyOptions(self.options.workers),
                report=self.report(index, "export"),
            )
        noted = self.record.disk(index)
        assert noted is not None  # the writer completed its sink
        stored, checksum = noted
        version = settle(self.staging.s3, stored.object_key, size=stored.object_bytes, checksum=checksum)
        self.finished[index] = stored.model_copy(update={"version": version})

    def _sink(self, index: int) -> S3PartSink:
        sink = self.staging.s3.multipart(
            self.staging.object_key(index, self.record.instant_id),
            metadata={"wavelift-run": run_hash(self.ctx.run_key), "wavelift-server": self.task.name},
            previous_upload_id=self.record.upload(index),
            cancel=self.stop,
            throttle=self.throttle,
        )
        self.record.set_upload(index, sink.upload_id)
        return sink

    def _store_manifest(self, index: int, manifest: Manifest, writer: VmdkPartWriter, sink: S3PartSink) -> StoredDisk:
        """All parts are stored: put the manifest beside them, and describe what the object will be."""
        disk, instant = self.snapshot.disks[index], self.record.instant_id
        manifest.header |= {"object_checksum": sink.checksum(), "object_bytes": writer.object_bytes}
        kept = StoredManifest.save(self.staging.s3, self.staging.manifest_key(index, instant), manifest)
        return StoredDisk(
            index=index,
            address=disk.address,
            key=disk.key,
            boot=disk.boot,
            capacity=disk.capacity,
            bucket=kept.bucket,
            object_key=self.staging.object_key(index, instant),
            object_bytes=writer.object_bytes,
            manifest_key=kept.key,
            manifest_digest=kept.digest,
            content_digest=manifest.content_digest(),
            data_bytes=manifest.data_bytes,
            parts=writer.parts,
            parts_kept=sink.parts_kept,
            reader="nfc",
            reader_reason=WHY_STREAM,
        )
