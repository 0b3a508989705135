"""What an image import changed: data disks must be equal to their manifests, boot-disk ranges are listed."""

from __future__ import annotations

from collections.abc import Sequence

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import compare_snapshot
from wavelift.base.domain import ConvertedDisk, ExportResult
from wavelift.base.errors import ProofError
from wavelift.base.run import RunContext
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging, disk_label_of
from wavelift.services.dataplane.verify import load_manifest
from wavelift.transfer.verify import sample_indices


def conversion_report(
    access: AwsAccess, task: ServerTask, export: ExportResult, snapshot_ids: Sequence[str], ctx: RunContext
) -> tuple[ConvertedDisk, ...]:
    """Compare the image's EBS snapshots (in disk order) with the manifests, as thoroughly as the plan's ``verify``.

    :raises ProofError: when the image has another number of disks, or a data disk differs.
    """
    level = task.plan.verify
    if len(snapshot_ids) != len(export.disks):
        raise ProofError(
            f"The image has {len(snapshot_ids)} snapshots for {len(export.disks)} disks",
            server=task.name,
            next_step="Look at the AMI in the EC2 console; do not launch it",
        )
    if level == "off":
        return ()
    staging = ServerStaging(access, task.plan, ctx.run_key)
    report = []
    for disk, snapshot_id in zip(export.disks, snapshot_ids, strict=True):
        manifest = load_manifest(staging, task.name, disk)
        indices = None if level == "full" else sample_indices(manifest, float(level.split(":")[1]), disk.content_digest)
        found = compare_snapshot(
            access, snapshot_id, manifest.digest, disk.capacity, indices=indices, cancel=ctx.cancel
        )
        if found.changed and not disk.boot:
            raise ProofError(
                "The conversion changed a data disk",
                server=task.name,
                disk=disk_label_of(disk),
                offset=found.changed[0].offset,
                snapshot=snapshot_id,
                next_step="Do not launch this AMI; keep the source and tell AWS support the import task",
            )
        report.append(
            ConvertedDisk(
                index=disk.index,
                snapshot_id=snapshot_id,
                boot=disk.boot,
                blocks_compared=found.blocks_compared,
                changed=found.changed,
            )
        )
    return tuple(report)
