"""Opens what an export left in S3, and compares it with what was read (invariant 1).

Of what AWS made there is no manifest: that object is there, has a size and opens. Of an OVA of ours, the content is
compared with the manifests of its disks too, all of it or a sample.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, NoReturn

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import ObjectChangedError
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import ObjectVersion
from wavelift.base.errors import CorruptStreamError, NotFoundError, ProofError, TamperedError, located
from wavelift.base.run import RunContext
from wavelift.base.units import KIB, exact_bytes, human_bytes
from wavelift.services.dataplane.export_messages import (
    ExportOrder,
    ExportVerified,
    ExportWritten,
    SourceDisk,
    WrittenDisk,
)
from wavelift.services.dataplane.export_staging import is_named
from wavelift.services.dataplane.instance_export import disk_label, header_of, require_own
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.read_back import ReadBack, bytes_compared
from wavelift.services.dataplane.staged_object import difference
from wavelift.transfer.exported import open_exported
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.ova_image import CHUNK, MemberSource, OvaImage, open_ova
from wavelift.transfer.read_ahead import ReadAhead
from wavelift.transfer.tar import ReadRange
from wavelift.transfer.verify import Verification

NEXT_STEP: Final = (
    "Find out who may write to the exports bucket; then clear the run from its first task: the instance is exported "
    "again, and nobody should use this object"
)
OPENED: Final = "opened"
"""The level of what AWS made."""
CLOCKS_APART: Final = timedelta(minutes=15)
"""Our clock and AWS's differ by less: else AWS refuses each signature (``RequestTimeTooSkewed``)."""
_DRAIN: Final = 64 * KIB


def verify_export(
    access: AwsAccess, order: ExportOrder, written: ExportWritten | None, ctx: RunContext, *, workers: int
) -> ExportVerified:
    """Open the object of an export and, of method ``direct``, compare it with its manifests as the plan says.

    Every read is of the version that was there at first: of one that is replaced meanwhile nothing is believed.

    :param written: what :func:`~wavelift.services.dataplane.instance_export.read_instance` returned; None: AWS made it.
    :param workers: threads that inflate and hash.
    :raises ProofError: the object is missing, was replaced, does not open, or differs; what differs is named.
    :raises TamperedError: what came by XCom is not of this export.
    """
    plan = order.plan
    with (
        located(server=plan.instance.instance_id, export=plan.export),
        closing(S3Staging(access, plan.place.bucket)) as s3,
    ):
        require_own(order, ctx)
        if plan.method == "direct":
            return _Direct(access, s3, order, _own(order, written), ctx, workers).run()
        return _of_aws(s3, order, ctx)


def _own(order: ExportOrder, written: ExportWritten | None) -> ExportWritten:
    """What `read` returned, if it is of this order."""
    if written is None:
        raise _tampered("written", "what the task `read` returned", "nothing")
    place = (order.plan.export, order.plan.place.bucket, order.key)
    if (found := (written.export, written.bucket, written.key)) != place:
        raise _tampered("written.key", place, found)
    due = [(disk.index, disk.snapshot_id, disk.capacity) for disk in order.disks]
    if (told := [(disk.index, disk.snapshot_id, disk.capacity) for disk in written.disks]) != due:
        raise _tampered("written.disks", due, told)
    return written


def _tampered(field: str, expected: object, found: object) -> TamperedError:
    return TamperedError(
        "What came by XCom of the object is not of this export",
        field=field,
        expected=expected,
        found=found,
        next_step="Clear the run from its first task; find out who edited its XComs",
    )


# --- AWS's own object ---------------------------------------------------------------------------------------------


def _of_aws(s3: S3Staging, order: ExportOrder, ctx: RunContext) -> ExportVerified:
    plan = order.plan
    if not is_named(order.key, order.task_id):
        raise _tampered("order.key", f"an object called {order.task_id or 'as a task'}.…", order.key)
    found = s3.head(order.key)
    if found is None:
        _refuse(order, "The task has completed, but its object is not there")
    _check_age(order, found.modified)

    def read(offset: int, length: int) -> bytes:
        ctx.cancel.check()
        return s3.read_range(order.key, offset, length, version=found.version, cancel=ctx.cancel)

    with _broken(order):
        disks = open_exported(read, found.size, plan.format)
    due = [volume.size for volume in plan.instance.volumes]
    sizes = [disk.capacity for disk in disks]
    # A VHD's size is rounded up to whole cylinders. Of a raw disk the object is the disk.
    exact = plan.format == "raw"
    if len(sizes) != len(due) or any(a != b if exact else a < b for a, b in zip(sizes, due, strict=False)):
        told, volumes = (", ".join(map(exact_bytes, each)) or "nothing" for each in (sizes, due))
        _refuse(order, f"The object holds disks of {told} where the instance has volumes of {volumes}")
    _check_same(s3, order, found.version, found.size)
    name = order.key.rpartition("/")[2]
    return ExportVerified(
        export=plan.export,
        bucket=s3.bucket,
        key=order.key,
        object_bytes=found.size,
        version=found.version,
        opened=tuple(f"{disk.name or name}: {plan.format} disk of {human_bytes(disk.capacity)}" for disk in disks),
        level=OPENED,
    )


def _check_age(order: ExportOrder, modified: str) -> None:
    """An object that lay there before AWS was asked is none of its task's."""
    if order.instant is None or not modified:
        return
    if datetime.fromisoformat(modified) < order.instant - CLOCKS_APART:
        _refuse(order, f"The object is of {modified}, and the task was begun later ({order.instant.isoformat()})")


def _check_same(s3: S3Staging, order: ExportOrder, version: ObjectVersion, size: int) -> None:
    after = s3.head(order.key)
    if after is None or (after.version, after.size) != (version, size):
        _refuse(order, "The object was replaced while it was opened")


# --- our own ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Direct:
    access: AwsAccess
    s3: S3Staging
    order: ExportOrder
    written: ExportWritten
    ctx: RunContext
    workers: int

    def run(self) -> ExportVerified:
        written, level = self.written, self.order.plan.verify
        self._check_unchanged("before it was opened")
        with _broken(self.order):
            open_exported(self._read, written.object_bytes, "ova")
            ova = open_ova(self._read, written.object_bytes)
        self._check_files(ova)
        verified = read = 0
        for number, (disk, source) in enumerate(zip(written.disks, self.order.disks, strict=True)):
            self.ctx.cancel.check()
            manifest = self._manifest(disk, source)
            found = self._compared(ova, number, disk, source, manifest)
            verified += bytes_compared(level, found, disk.capacity)
            read += found.bytes_read
        self._check_unchanged("while it was read back")
        return ExportVerified(
            export=written.export,
            bucket=written.bucket,
            key=written.key,
            object_bytes=written.object_bytes,
            version=written.version,
            opened=tuple(
                f"{disk.member}: stream-optimised VMDK of {human_bytes(disk.capacity)}" for disk in written.disks
            ),
            level=level,
            bytes_verified=verified,
            bytes_read_back=read,
        )

    @property
    def _read(self) -> ReadRange:
        key, version, cancel = self.written.key, self.written.version, self.ctx.cancel

        def read(offset: int, length: int) -> bytes:
            cancel.check()
            return self.s3.read_range(key, offset, length, version=version, cancel=cancel)

        return read

    def _check_unchanged(self, when: str) -> None:
        if why := difference(self.written.version, self.written.object_bytes, self.s3.head(self.written.key)):
            _refuse(self.order, f"The OVA was changed {when}: {why}")

    def _check_files(self, ova: OvaImage) -> None:
        """Members, sizes and the digests of the ``.mf`` are those that were written."""
        found = [
            (disk.member.name, disk.member.offset, disk.member.size, disk.capacity, self._digest(ova, disk.member.name))
            for disk in ova.disks
        ]
        due = [
            (disk.member, disk.member_offset, disk.member_bytes, disk.capacity, disk.sha256)
            for disk in self.written.disks
        ]
        if found != due:
            differing = next((a for a, b in zip(found, due, strict=False) if a != b), (f"{len(found)} disks",))
            _refuse(self.order, f"The OVA has other files than the one that was written: {differing[0]} differs")

    @staticmethod
    def _digest(ova: OvaImage, name: str) -> str:
        told = ova.digests.get(name)
        return told.value if told is not None and told.algorithm == "sha256" else ""

    def _manifest(self, disk: WrittenDisk, source: SourceDisk) -> Manifest:
        """The one that was written, of this export's snapshot and of this file of the OVA."""
        stored = StoredManifest(self.s3.bucket, disk.manifest_key, disk.manifest_digest, disk.capacity)
        manifest = stored.load(self.access, next_step=NEXT_STEP, disk=disk_label(source))
        due: dict[str, Any] = {
            **header_of(self.order, source),
            "member": disk.member,
            "member_bytes": disk.member_bytes,
            "member_sha256": disk.sha256,
        }
        if wrong := next((key for key, value in due.items() if manifest.header.get(key) != value), None):
            found = manifest.header.get(wrong)
            raise _tampered(f"written.disks.manifest.{wrong}", due[wrong], found)
        return manifest

    def _compared(
        self, ova: OvaImage, number: int, disk: WrittenDisk, source: SourceDisk, manifest: Manifest
    ) -> Verification:
        label, key, level = disk_label(source), self.written.key, self.order.plan.verify
        back = ReadBack(self.order.plan.instance.instance_id, self.ctx, self.workers, NEXT_STEP)
        try:
            if level == "full":
                return self._compared_whole(ova, number, back, label, manifest)
            percent = float(level.removeprefix("sample:"))
            member = ova.disks[number].member

            def read(offset: int, length: int) -> bytes:
                return self._read(member.offset + offset, length)

            found = back.sample(read, member.size, manifest, percent, subject=disk.manifest_digest)
        except (CorruptStreamError, ObjectChangedError, NotFoundError) as error:
            raise back.broken(error, label, key) from error
        back.require(found, label, key)
        return found

    def _compared_whole(
        self, ova: OvaImage, number: int, back: ReadBack, label: str, manifest: Manifest
    ) -> Verification:
        member = ova.disks[number].member
        with closing(ReadAhead(self._read, member.offset, member.offset + member.size, step=CHUNK)) as ahead:
            raw = ova.content(number, ahead.read)
            found = back.full(raw, label, manifest)
            back.require(found, label, self.written.key)
            _check_digest(raw)
        return found


def _check_digest(raw: MemberSource) -> None:
    """The file's digest is what the ``.mf`` says, what lies behind the disk's end included."""
    rest = memoryview(bytearray(_DRAIN))
    while raw.readinto(rest):
        """Hashed on the way."""
    raw.check()


@contextmanager
def _broken(order: ExportOrder) -> Iterator[None]:
    """What is not even a file of its form is no result; one that was replaced isn't either."""
    try:
        yield
    except (CorruptStreamError, ObjectChangedError, NotFoundError) as error:
        file = error.where.get("file")
        _refuse(order, f"The object does not open: {error.what}", file=file, position=error.where.get("position"))


def _refuse(order: ExportOrder, why: str, **where: object) -> NoReturn:
    raise ProofError(why, object=f"s3://{order.plan.place.bucket}/{order.key}", next_step=NEXT_STEP, **where)
