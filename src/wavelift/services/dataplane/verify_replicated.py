"""Reads back the EBS snapshots of a replication run and compares them with its manifests (invariant 1)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import compare_snapshot
from wavelift.base.domain import DiskLineage, ReplicatedDisk, ReplicationResult
from wavelift.base.errors import NotFoundError, ProofError, located
from wavelift.base.run import CancelFlag, RunContext
from wavelift.base.units import human_offset
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import RecordedRun, VerifiedRun
from wavelift.services.dataplane.suspects import Suspects
from wavelift.transfer.manifest import Manifest, differences
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Expected

OFFSETS_TOLD = 8
"""How many differing places of a disk an error names."""
NEXT_STEP = "Trigger a new run: it sends every disk whole, and nothing builds on this one"


def verify_replicated(
    access: AwsAccess, task: ServerTask, result: ReplicationResult, lineages: Sequence[DiskLineage], ctx: RunContext
) -> VerifiedRun:
    """Prove (``full``) or sample what EBS holds, as the plan says; ``off`` leaves it attested.

    ``full`` reads of a delta what it sent: the rest stands on its parent, which was proven before.

    :param lineages: what the run built on.
    :raises ProofError: at the first disk that differs, naming server, disk and the first differing disk offset.
    """
    level = task.plan.verify
    checked = read = 0
    parents = {each.snapshot_id: each for each in lineages}
    with located(server=task.name):
        for disk in result.disks:
            ctx.cancel.check()
            manifest = _manifest(access, disk.lineage)
            if level == "off":
                continue
            suspects = Suspects(ctx.checkpoints, f"{disk.lineage.snapshot_id} {disk.lineage.manifest_digest}")
            if level == "full":
                indices = _sent(access, disk, manifest, parents.get(disk.parent_snapshot_id))
            else:
                indices = suspects.sample(manifest, float(level.removeprefix("sample:")))
            found = compare_snapshot(
                access,
                disk.lineage.snapshot_id,
                Expected(manifest.digest, disk.lineage.capacity, indices),
                cancel=ctx.cancel,
                report=Report(task.name, disk.label, "verify", ctx.progress),
            )
            if found.changed:
                suspects.keep(part.offset for part in found.changed)
                raise _mismatch(disk, [part.offset for part in found.changed])
            checked += found.blocks_compared
            read += found.bytes_read
    return VerifiedRun(
        server=task.name,
        level=level,
        blocks_checked=checked,
        bytes_read_back=read,
        snapshots=tuple(disk.lineage.snapshot_id for disk in result.disks),
    )


def verify_recorded(access: AwsAccess, recorded: RecordedRun, cancel: CancelFlag) -> VerifiedRun:
    """Compare every block of a recorded run's EBS snapshots with its manifests.

    :raises ProofError: naming of each disk that differs the first offsets.
    :raises NotFoundError: a snapshot or manifest is gone.
    """
    wrong = []
    checked = read = 0
    with located(server=recorded.server, run=recorded.run):
        for disk in recorded.disks:
            cancel.check()
            try:
                manifest = _manifest(access, disk.lineage)
                expected = Expected(manifest.digest, disk.lineage.capacity)
                found = compare_snapshot(access, disk.lineage.snapshot_id, expected, cancel=cancel)
            except NotFoundError as error:
                raise NotFoundError(
                    f"What the run stored is gone: {error.what}",
                    disk=disk.label,
                    snapshot=disk.lineage.snapshot_id,
                    next_step="A newer run replaces the snapshots of the last: verify the job, or its newest run",
                ) from error
            checked += found.blocks_compared
            read += found.bytes_read
            if found.changed:
                wrong.append(_mismatch(disk, [part.offset for part in found.changed]))
        if len(wrong) == 1:
            raise wrong[0]
        if wrong:
            raise ProofError("; ".join(str(error) for error in wrong), next_step=NEXT_STEP)
    return VerifiedRun(server=recorded.server, level="full", blocks_checked=checked, bytes_read_back=read)


def _sent(
    access: AwsAccess, disk: ReplicatedDisk, manifest: Manifest, parent: DiskLineage | None
) -> Collection[int] | None:
    """The blocks that a run sent; None: all."""
    if parent is None or not disk.parent_snapshot_id:
        return None
    return list(differences(manifest, _manifest(access, parent)))


def _manifest(access: AwsAccess, lineage: DiskLineage) -> Manifest:
    return StoredManifest.of(lineage).load(access, next_step=NEXT_STEP, disk=lineage.address)


def _mismatch(disk: ReplicatedDisk, offsets: Sequence[int]) -> ProofError:
    more = ", …" if len(offsets) > OFFSETS_TOLD else ""
    return ProofError(
        f"What EBS holds differs from the source's manifest in {len(offsets)} place(s): "
        f"at {', '.join(map(human_offset, offsets[:OFFSETS_TOLD]))}{more}",
        disk=disk.label,
        offset=offsets[0],
        snapshot=disk.lineage.snapshot_id,
        next_step=NEXT_STEP,
    )
