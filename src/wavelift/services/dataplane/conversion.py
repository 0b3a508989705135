"""The conversion report: data disks must equal their manifests; changed ranges of the boot disk are listed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import compare_snapshot
from wavelift.base.domain import ConvertedDisk, ExportResult, ImportResult, StoredDisk
from wavelift.base.errors import ProofError, located
from wavelift.base.run import CancelFlag, Progress, RunContext, ignore_progress
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.messages import Imported, Reverified, ServerTask
from wavelift.services.dataplane.staging import disk_label_of
from wavelift.services.dataplane.verify import NEXT_STEP
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Expected, sample_indices


def compare_image(
    access: AwsAccess, task: ServerTask, export: ExportResult, image: ImportResult, ctx: RunContext
) -> ImportResult:
    """Compare the image's EBS snapshots (in disk order) with the manifests, as thoroughly as the plan's ``verify``.

    :returns: ``image`` with its conversion report.
    :raises ProofError: when the image has another number of disks, or a data disk differs.
    """
    with located(server=task.name):
        ctx.cancel.check()
        found = _Comparison(access, export, image.snapshot_ids, task.plan.verify, ctx.cancel, ctx.progress)
        return image.model_copy(update={"report": found.report()})


def verify_imported(access: AwsAccess, imported: Imported, cancel: CancelFlag) -> Reverified:
    """Compare every block of a finished import with its manifests again.

    :raises ProofError: as :func:`compare_image`; :raises NotFoundError: when snapshot or manifest is gone.
    """
    with located(server=imported.export.server):
        disks = _Comparison(access, imported.export, imported.snapshot_ids, "full", cancel).report()
    return Reverified(server=imported.export.server, migration=imported.migration, disks=disks)


class _Comparison:
    def __init__(
        self,
        access: AwsAccess,
        export: ExportResult,
        snapshot_ids: Sequence[str],
        level: str,
        cancel: CancelFlag,
        progress: Callable[[Progress], None] = ignore_progress,
    ) -> None:
        self.access = access
        self.export = export
        self.snapshot_ids = snapshot_ids
        self.level = level
        self.cancel = cancel
        self.progress = progress

    def report(self) -> tuple[ConvertedDisk, ...]:
        if len(self.snapshot_ids) != len(self.export.disks):
            raise ProofError(
                f"The image has {len(self.snapshot_ids)} snapshots for {len(self.export.disks)} disks",
                server=self.export.server,
                next_step="Look at the AMI in the EC2 console; do not launch it",
            )
        if self.level == "off":
            return ()
        return tuple(self._disk(disk, id) for disk, id in zip(self.export.disks, self.snapshot_ids, strict=True))

    def _disk(self, disk: StoredDisk, snapshot_id: str) -> ConvertedDisk:
        manifest = StoredManifest.of(disk).load(self.access, next_step=NEXT_STEP, disk=disk.address)
        indices = (
            None
            if self.level == "full"
            else sample_indices(manifest, float(self.level.split(":")[1]), disk.content_digest)
        )
        server, label = self.export.server, disk_label_of(disk)
        found = compare_snapshot(
            self.access,
            snapshot_id,
            Expected(manifest.digest, disk.capacity, indices),
            cancel=self.cancel,
            report=Report(server, label, "compare", self.progress),
        )
        if found.changed and not disk.boot:
            raise ProofError(
                "The conversion changed a data disk",
                server=server,
                disk=label,
                offset=found.changed[0].offset,
                snapshot=snapshot_id,
                next_step="Do not launch this AMI; keep the source and tell AWS support the import task",
            )
        return ConvertedDisk(
            index=disk.index,
            snapshot_id=snapshot_id,
            boot=disk.boot,
            blocks_compared=found.blocks_compared,
            changed=found.changed,
        )
