"""Reads the snapshots of an instance and writes one OVA to S3, in one pass and without scratch (AMP-10, method
``direct``).

Resume (invariant 6): a retry reads the same snapshots again and gives the same bytes, so of the upload it goes on with,
each part whose SHA-256 S3 has already stays. The state store holds the upload and, once all parts are stored, what the
object will be. Snapshots of another instant never meet an older upload: it is aborted first.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.ebs import EbsStream
from wavelift.adapters.aws.ebs_snapshot import COMPLETED
from wavelift.adapters.aws.ebs_snapshot import ERROR as FAILED
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.multipart import S3PartSink
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import ObjectVersion
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    FencedError,
    NotFoundError,
    PermanentError,
    TamperedError,
    WaveliftError,
    located,
)
from wavelift.base.names import TAG_RUN, instant_of, run_hash
from wavelift.base.run import RunContext
from wavelift.base.units import MIB, exact_bytes
from wavelift.rules.export_facts import InstanceFacts
from wavelift.rules.export_flows import EXPORT
from wavelift.services.dataplane.export_messages import ExportOrder, ExportPlan, ExportWritten, SourceDisk, WrittenDisk
from wavelift.services.dataplane.export_staging import (
    abort_uploads,
    direct_key,
    is_own,
    made_with,
    manifest_key,
    metadata_of,
    run_of,
)
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.staged_object import AnnouncedSink, settle, stored_version
from wavelift.transfer import tar
from wavelift.transfer.conveyor import DEFAULT_WORKERS
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.ova import OvaAssembly, OvaPlan
from wavelift.transfer.ovf import Machine, guest_of
from wavelift.transfer.pipeline import CopyOptions, copy
from wavelift.transfer.report import Report
from wavelift.transfer.throttle import Pace

log = logging.getLogger(__name__)

CHECKPOINT_KEY: Final = "instance_export"
BEGIN_ANEW: Final = "Clear the run from its first task: it takes new snapshots, of a new instant"


def read_instance(
    access: AwsAccess, order: ExportOrder, ctx: RunContext, *, line: Pace | None = None, workers: int = DEFAULT_WORKERS
) -> ExportWritten:
    """Write the OVA of an instance's snapshots, and the manifest of each disk beside it. The instance is not asked: it
    may be gone by now.

    :param line: the machine's, which all its transfers share. :param workers: threads that read, hash and compress.
    :raises NotFoundError: a snapshot is gone; the error names it and its volume.
    :raises TamperedError: what came by XCom of the snapshots is not what EC2 says.
    :raises ProofError: S3 made another object than the one that was sent.
    :raises FencedError: another try owns the work; nothing was cleaned up.
    """
    plan = order.plan
    with located(server=plan.instance.instance_id, export=plan.export):
        require_own(order, ctx)
        default = AccountChecks(access).bucket(plan.place.bucket)  # told again, for policies that demand the header
        staging = S3Staging(
            access, plan.place.bucket, default.kms_key or None, sse=default.encryption, tags=made_with(plan)
        )
        with closing(staging) as s3:
            return _Reading(access, s3, order, ctx, CopyOptions(workers), line).run()


def require_own(order: ExportOrder, ctx: RunContext) -> None:
    """The order came by XCom: it must be of this run's export, and lead to the key that only this export gives. Else
    another object would be overwritten, and removed with this export.

    :raises TamperedError: it is not.
    """
    plan = order.plan
    due = (f"{EXPORT.prefix}{run_hash(ctx.run_key)}", EXPORT.wave_of(ctx.run.dag_id), direct_key(plan))
    found = (plan.export, plan.place.environment, order.key if plan.method == "direct" else direct_key(plan))
    for name, expected, told in zip(("export", "environment", "key"), due, found, strict=True):
        if expected != told:
            raise TamperedError(
                "The order that came by XCom is not of this run's export",
                field=f"order.{name}",
                expected=expected,
                found=told,
                next_step=f"{BEGIN_ANEW}; find out who edited its XComs",
            )


def machine_of(plan: ExportPlan) -> Machine:
    """What the descriptor says of the instance."""
    instance = plan.instance
    return Machine(
        name=instance.name or instance.instance_id,
        cpus=max(1, instance.vcpus),
        memory_mib=max(1, instance.memory // MIB),
        firmware="efi" if instance.boot_mode.startswith("uefi") else "bios",
        controller=plan.controller,
        networks=_networks(instance),
        guest=guest_of(instance.platform_details, instance.architecture),
        note=f"EC2 instance {instance.instance_id} ({instance.instance_type or 'type unknown'}) of account "
        f"{instance.account} in {instance.region}, exported by wavelift as {plan.export}",
    )


def ova_of(plan: ExportPlan, capacities: Sequence[int], instant: datetime | None = None) -> OvaPlan:
    """What is written of the instance.

    :param capacities: of the disks, bytes. :param instant: of the snapshots, once there are some.
    """
    return OvaPlan(
        name=plan.export,
        machine=machine_of(plan),
        capacities=tuple(capacities),
        mtime=int(instant.timestamp()) if instant is not None else 0,
    )


def _networks(instance: InstanceFacts) -> tuple[str, ...]:
    """One per network interface, called as its subnet."""
    return tuple(nic.subnet_id for nic in sorted(instance.nics, key=lambda nic: nic.index))


def disk_label(disk: SourceDisk) -> str:
    """``disk 0 (/dev/sda1)``: what messages and the progress table call it."""
    return f"disk {disk.index} ({disk.device})"


@dataclass
class _Reading:
    """One try."""

    access: AwsAccess
    s3: S3Staging
    order: ExportOrder
    ctx: RunContext
    options: CopyOptions
    line: Pace | None
    written: list[WrittenDisk] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.instant = instant_of(*(disk.snapshot_id for disk in self.order.disks))
        self.began = self.ctx.clock.monotonic()
        stored: dict[str, Any] = self.ctx.checkpoints.get(CHECKPOINT_KEY) or {}
        self.record: dict[str, Any] = stored if stored.get("instant") == self.instant else {"instant": self.instant}

    def run(self) -> ExportWritten:
        self._remember()  # an outlived try ends here
        if (finished := self._finished()) is not None:
            return finished
        self._check_sources()
        sink = self._sink()
        try:
            return self._write(sink)
        except FencedError:
            raise
        except Cancelled:
            self.ctx.cancel.check()  # a fenced try is interrupted as one that a person stopped
            raise
        except WaveliftError as error:
            if not error.retryable:
                self._give_up(sink)
            raise

    def _remember(self, **more: Any) -> None:
        """:raises FencedError: another try owns the work."""
        self.record |= more
        self.ctx.checkpoints.set(CHECKPOINT_KEY, self.record)

    def _finished(self) -> ExportWritten | None:
        """The object that an earlier try was about to make, if S3 holds it."""
        sealed = self.record.get("sealed")
        if not sealed:
            return None
        written = ExportWritten.load(sealed["written"])
        version = stored_version(self.s3, written.key, size=written.object_bytes, checksum=sealed["checksum"])
        return None if version is None else written.model_copy(update={"version": version})

    def _check_sources(self) -> None:
        """The snapshots are this export's, and completed."""
        found = Ec2(self.access).snapshots(disk.snapshot_id for disk in self.order.disks)
        own = run_of(self.order.plan.export)
        for disk in self.order.disks:
            snapshot = found.get(disk.snapshot_id)
            if snapshot is None:
                raise _gone(disk, "EC2 does not know it")
            if snapshot.tags.get(TAG_RUN) != own:
                raise TamperedError(
                    "A snapshot that came by XCom is not of this export",
                    field="disks.snapshot_id",
                    expected=f"a snapshot with the tag {TAG_RUN}={own}",
                    found=disk.snapshot_id,
                    next_step=f"{BEGIN_ANEW}; find out who edited its XComs",
                )
            if snapshot.state == FAILED:
                raise PermanentError(
                    "AWS could not make the snapshot: its state is 'error'",
                    next_step=BEGIN_ANEW,
                    snapshot=disk.snapshot_id,
                    volume=disk.volume_id,
                )
            if snapshot.state != COMPLETED:
                raise BusyError(
                    f"The snapshot is {snapshot.state}, and EBS reads only completed ones",
                    next_step="The retry looks again",
                    snapshot=disk.snapshot_id,
                )

    def _sink(self) -> S3PartSink:
        """The upload that an earlier try of the same instant began, or a new one. Others of this key are aborted."""
        there = self.s3.head(self.order.key)
        if there is not None and not is_own(there, self.order.plan.export):
            raise PermanentError(
                "Under the key of the OVA lies another object, which this export has not made",
                object=f"s3://{self.s3.bucket}/{self.order.key}",
                next_step="Find out who made it; when nobody needs it, delete it, then start the export again",
            )
        known = self.record.get("upload_id", "")
        abort_uploads(self.s3, self.order.key, keep=known)
        sink = self.s3.multipart(
            self.order.key,
            metadata=metadata_of(self.order.plan.export),
            previous_upload_id=known or None,
            cancel=self.ctx.cancel,
            throttle=self.line,
        )
        try:
            self._remember(upload_id=sink.upload_id, sealed=None)
        except FencedError:
            if sink.upload_id != known:  # nobody else knows it: the end of the run may have looked before it was begun
                self._give_up(sink)
            raise
        return sink

    def _give_up(self, sink: S3PartSink) -> None:
        try:
            sink.abort()
        except WaveliftError as error:  # must not hide what failed; the end of the run aborts it again
            log.warning("the upload was not aborted: %s", error)

    def _write(self, sink: S3PartSink) -> ExportWritten:
        order, plan = self.order, self.order.plan
        ova = ova_of(plan, [disk.capacity for disk in order.disks], order.instant)
        with closing(OvaAssembly(AnnouncedSink(sink, lambda: self._seal(sink, assembly)), ova)) as assembly:
            self.ctx.cancel.tell(assembly.interrupt)
            try:
                for disk in order.disks:
                    self.ctx.cancel.check()
                    self._write_disk(disk, assembly)
                assembly.finish()
            finally:
                self.ctx.cancel.tell_no_more(assembly.interrupt)
        sealed = self.record["sealed"]
        written = ExportWritten.load(sealed["written"])
        version = settle(self.s3, order.key, size=written.object_bytes, checksum=sealed["checksum"])
        return written.model_copy(update={"version": version})

    def _write_disk(self, disk: SourceDisk, assembly: OvaAssembly) -> None:
        plan = self.order.plan
        label = disk_label(disk)
        manifest = Manifest.empty(disk.capacity, **header_of(self.order, disk))
        report = Report(plan.instance.instance_id, label, "export", self.ctx.progress)
        with closing(EbsStream(self.access, disk.snapshot_id, cancel=self.ctx.cancel)) as source:
            try:
                self._check_size(disk, source.size)
                writer = assembly.disk(disk.index)
                copy(source, writer, manifest, cancel=self.ctx.cancel, options=self.options, report=report)
            except NotFoundError as error:
                if error.where.get("snapshot") == disk.snapshot_id:
                    raise _gone(disk, error.what) from error
                raise
        file = assembly.files[-1]
        manifest.header |= {"member": file.name, "member_bytes": file.size, "member_sha256": file.sha256}
        key = manifest_key(self.order.key, disk.index)
        kept = StoredManifest.save(self.s3, key, manifest, metadata=metadata_of(plan.export))
        self.written.append(
            WrittenDisk(
                index=disk.index,
                snapshot_id=disk.snapshot_id,
                capacity=disk.capacity,
                data_bytes=manifest.data_bytes,
                member=file.name,
                member_offset=0,
                member_bytes=file.size,
                sha256=file.sha256,
                manifest_key=kept.key,
                manifest_digest=kept.digest,
                content_digest=manifest.content_digest(),
            )
        )

    def _check_size(self, disk: SourceDisk, size: int) -> None:
        if size != disk.capacity:
            raise TamperedError(
                "A snapshot that came by XCom is of a volume of another size",
                field="disks.capacity",
                expected=exact_bytes(size),
                found=exact_bytes(disk.capacity),
                next_step=f"{BEGIN_ANEW}; find out who edited its XComs",
                snapshot=disk.snapshot_id,
            )

    def _seal(self, sink: S3PartSink, assembly: OvaAssembly) -> None:
        """All parts are stored: note what the object will be, before it is made."""
        size = assembly.object_bytes
        end = size - len(tar.END)
        placed: list[WrittenDisk] = []
        for disk in reversed(self.written):  # what closes the archive is of a known size, what opens it is not
            start = end - tar.padded(disk.member_bytes)
            placed.insert(0, disk.model_copy(update={"member_offset": start}))
            end = start - tar.HEADER
        written = ExportWritten(
            export=self.order.plan.export,
            plan=self.order.plan.digest,
            bucket=self.s3.bucket,
            key=self.order.key,
            object_bytes=size,
            version=ObjectVersion(),
            disks=tuple(placed),
            parts=assembly.parts,
            parts_kept=sink.parts_kept,
            seconds=round(self.ctx.clock.monotonic() - self.began, 3),
        )
        self._remember(sealed={"written": written.dump(), "checksum": sink.checksum()})


def header_of(order: ExportOrder, disk: SourceDisk) -> dict[str, Any]:
    """What a manifest says of disk and run, but for the file in the OVA."""
    plan = order.plan
    return {
        "server": plan.instance.instance_id,
        "export": plan.export,
        "run": run_of(plan.export),
        "disk": disk.index,
        "disks": len(order.disks),
        "volume": disk.volume_id,
        "device": disk.device,
        "snapshot": disk.snapshot_id,
        "object": order.key,
    }


def _gone(disk: SourceDisk, why: str) -> NotFoundError:
    return NotFoundError(
        f"The snapshot that was to be read is gone: {why}",
        disk=disk_label(disk),
        volume=disk.volume_id,
        snapshot=disk.snapshot_id,
        next_step=f"{BEGIN_ANEW}; CloudTrail tells who deleted this one",
    )
