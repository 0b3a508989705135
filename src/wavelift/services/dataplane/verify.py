"""Reading back what S3 holds and comparing it with the manifest, before any conversion (invariant 1)."""

from __future__ import annotations

from contextlib import closing

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.domain import ExportResult, StoredDisk, VerifyResult
from wavelift.base.errors import CorruptStreamError, ProofError, located
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK, SECTOR
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging, disk_label_of
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.verify import Verification, sample_indices, verify_full, verify_sample
from wavelift.transfer.vmdk import StreamVmdkSource, VmdkFile

NEXT_STEP = "Clear this server from its reserve task: it is exported again. The staged object is not imported"


def verify_server(
    access: AwsAccess, task: ServerTask, export: ExportResult, ctx: RunContext, *, workers: int = 2
) -> VerifyResult:
    """Prove (``full``) or sample what was stored, as the plan says; ``off`` leaves it attested.

    :raises ProofError: at the first disk that differs, naming server, disk and the first differing disk offset.
    """
    level = task.plan.verify
    verified = read = 0
    with located(server=task.name), ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        for disk in export.disks:
            ctx.cancel.check()
            manifest = StoredManifest.of(disk).load(access, next_step=NEXT_STEP, disk=disk.address)
            if level == "off":
                continue
            try:
                found = _verify_disk(staging, task, disk, manifest, ctx, level=level, workers=workers)
            except CorruptStreamError as error:
                raise _broken(task.name, disk, error) from error
            if not found.ok:
                raise _mismatch(task.name, disk, found)
            verified += disk.capacity if level == "full" else min(disk.capacity, found.blocks_checked * BLOCK)
            read += found.bytes_read
    return VerifyResult(server=task.name, level=level, bytes_verified=verified, bytes_read_back=read)


def _verify_disk(
    staging: ServerStaging,
    task: ServerTask,
    disk: StoredDisk,
    manifest: Manifest,
    ctx: RunContext,
    *,
    level: str,
    workers: int,
) -> Verification:
    if level == "full":
        with closing(staging.s3.open_stream(disk.object_key, cancel=ctx.cancel)) as raw:
            return verify_full(
                StreamVmdkSource(raw),
                manifest,
                workers=workers,
                cancel=ctx.cancel,
                on_progress=ctx.progress,
                server=task.name,
                disk=disk_label_of(disk),
            )
    percent = float(level.removeprefix("sample:"))
    indices = sample_indices(manifest, percent, seed=disk.content_digest)

    def pread(offset: int, length: int) -> bytes:
        return staging.s3.read_range(disk.object_key, offset, length, cancel=ctx.cancel)

    image = VmdkFile(pread, disk.object_bytes)
    due = -(-manifest.capacity // SECTOR) * SECTOR
    if image.size != due:
        raise CorruptStreamError(f"It is of a disk of {image.size} bytes where the manifest says {due}")
    return verify_sample(image.read_block, manifest, indices, cancel=ctx.cancel)


def _broken(server: str, disk: StoredDisk, error: CorruptStreamError) -> ProofError:
    """The object is not even the file that was stored."""
    return ProofError(
        f"What S3 holds can't be read as the disk that was stored: {error.what}",
        server=server,
        disk=disk_label_of(disk),
        offset=error.where.get("offset"),
        object=disk.object_key,
        next_step=NEXT_STEP,
    )


def _mismatch(server: str, disk: StoredDisk, found: Verification) -> ProofError:
    first = found.mismatches[0]
    return ProofError(
        f"What S3 holds differs from the source's manifest in {found.mismatch_count} place(s): {first.why}",
        server=server,
        disk=disk_label_of(disk),
        offset=first.offset,
        object=disk.object_key,
        next_step=NEXT_STEP,
    )
