"""Reads back what S3 holds and compares it with the manifest, before any conversion (invariant 1)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import ObjectChangedError
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import ExportResult, StoredDisk, VerifyResult
from wavelift.base.errors import CorruptStreamError, NotFoundError, ProofError, WaveliftError, located
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK, SECTOR, exact_bytes
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staged_object import check_unchanged
from wavelift.services.dataplane.staging import ServerStaging, disk_label_of
from wavelift.services.dataplane.suspects import Suspects
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Verification, verify_full, verify_sample
from wavelift.transfer.vmdk import StreamVmdkSource, VmdkFile

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
        check = _Check(staging.s3, task.name, ctx, workers)
        for disk in export.disks:
            ctx.cancel.check()
            check_unchanged(staging.s3, [disk], "before it was read back")
            manifest = StoredManifest.of(disk).load(access, next_step=NEXT_STEP, disk=disk.address)
            if level == "off":
                continue
            try:
                if level == "full":
                    found = check.full(disk, manifest)
                else:
                    found = check.sample(disk, manifest, float(level.removeprefix("sample:")))
            except (CorruptStreamError, ObjectChangedError, NotFoundError) as error:
                raise _broken(task.name, disk, error) from error
            if not found.ok:
                raise _mismatch(task.name, disk, found)
            verified += disk.capacity if level == "full" else min(disk.capacity, found.blocks_checked * BLOCK)
            read += found.bytes_read
    return VerifyResult(
        server=task.name,
        level=level,
        bytes_verified=verified,
        bytes_read_back=read,
        manifests=tuple(disk.manifest_digest for disk in export.disks),
    )


@dataclass(frozen=True, slots=True)
class _Check:
    """Compares the stored disks of one server with their manifests."""

    s3: S3Staging
    server: str
    ctx: RunContext
    workers: int

    def full(self, disk: StoredDisk, manifest: Manifest) -> Verification:
        cancel = self.ctx.cancel
        report = Report(self.server, disk_label_of(disk), "verify", self.ctx.progress)
        source = self.s3.open_stream(disk.object_key, at_most=disk.object_bytes, version=disk.version, cancel=cancel)
        with closing(source) as raw:
            return verify_full(StreamVmdkSource(raw), manifest, cancel=cancel, workers=self.workers, report=report)

    def sample(self, disk: StoredDisk, manifest: Manifest, percent: float) -> Verification:
        cancel = self.ctx.cancel

        def pread(offset: int, length: int) -> bytes:
            return self.s3.read_range(disk.object_key, offset, length, version=disk.version, cancel=cancel)

        image = VmdkFile(pread, disk.object_bytes)
        due = -(-manifest.capacity // SECTOR) * SECTOR
        if image.size != due:
            raise CorruptStreamError(
                f"It is of a disk of {exact_bytes(image.size)} where the manifest says {exact_bytes(due)}"
            )
        suspects = Suspects(self.ctx.checkpoints, disk.manifest_digest)
        found = verify_sample(image.read_block, manifest, suspects.sample(manifest, percent), cancel=cancel)
        if not found.ok:
            suspects.keep(mismatch.offset for mismatch in found.mismatches)
        return found


def _broken(server: str, disk: StoredDisk, error: WaveliftError) -> ProofError:
    """The object is not even the file that was stored, or not any more."""
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
