"""Reads back what S3 holds and compares it with the manifest, before any conversion (invariant 1)."""

from __future__ import annotations

from contextlib import closing

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import ObjectChangedError
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import ExportResult, StoredDisk, VerifyResult
from wavelift.base.errors import CorruptStreamError, NotFoundError, located
from wavelift.base.run import RunContext
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.read_back import ReadBack, bytes_compared
from wavelift.services.dataplane.staged_object import check_unchanged
from wavelift.services.dataplane.staging import ServerStaging, disk_label_of
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.verify import Verification

NEXT_STEP = "Clear this server from its reserve task: it is exported again. The staged object is not imported"


def verify_server(
    access: AwsAccess, task: ServerTask, export: ExportResult, ctx: RunContext, *, workers: int = 2
) -> VerifyResult:
    """Prove (``full``) or sample what was stored, as the plan says; ``off`` leaves it attested.

    What is read is the very object that was exported: its checksum and version are compared before, whatever the level.

    :raises ProofError: at the first disk that differs, naming server, disk and the first differing disk offset.
    """
    level = task.plan.verify
    verified = read = 0
    with located(server=task.name), ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        back = ReadBack(task.name, ctx, workers, NEXT_STEP)
        for disk in export.disks:
            ctx.cancel.check()
            check_unchanged(staging.s3, [disk], "before it was read back")
            manifest = StoredManifest.of(disk).load(access, next_step=NEXT_STEP, disk=disk.address)
            if level == "off":
                continue
            try:
                found = _compared(staging.s3, back, disk, manifest, level)
            except (CorruptStreamError, ObjectChangedError, NotFoundError) as error:
                raise back.broken(error, disk_label_of(disk), disk.object_key) from error
            back.require(found, disk_label_of(disk), disk.object_key)
            verified += bytes_compared(level, found, disk.capacity)
            read += found.bytes_read
    return VerifyResult(
        server=task.name,
        level=level,
        bytes_verified=verified,
        bytes_read_back=read,
        manifests=tuple(disk.manifest_digest for disk in export.disks),
    )


def _compared(s3: S3Staging, back: ReadBack, disk: StoredDisk, manifest: Manifest, level: str) -> Verification:
    key, cancel = disk.object_key, back.ctx.cancel
    if level == "full":
        with closing(s3.open_stream(key, at_most=disk.object_bytes, version=disk.version, cancel=cancel)) as raw:
            return back.full(raw, disk_label_of(disk), manifest)

    def pread(offset: int, length: int) -> bytes:
        return s3.read_range(key, offset, length, version=disk.version, cancel=cancel)

    percent = float(level.removeprefix("sample:"))
    return back.sample(pread, disk.object_bytes, manifest, percent, subject=disk.manifest_digest)
