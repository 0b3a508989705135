"""The conversion report: data disks must equal their manifests; changed ranges of the boot disk are listed.

A conversion rewrites some of the boot disk: configuration, boot loader, drivers, agents, and what the guest writes when
AWS boots it once. It does not say where. So the rule is a bound that is ours: if more than ``boot_disk_changed_pct`` of
the compared blocks with data differ, it is another disk, or none that may be trusted. A sample that says so is followed
by a comparison of the whole boot disk: of few blocks, most can be changed ones by chance. The bound does not find a few
changed files, nor new ones in space that was empty: the comparisons of :mod:`.staged_object` are what stops those.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import compare_snapshot
from wavelift.base.domain import ChangedRange, ConvertedDisk, ExportResult, ImportResult, StoredDisk
from wavelift.base.errors import ProofError, located
from wavelift.base.run import CancelFlag, CheckpointStore, MemoryCheckpoints, Progress, RunContext, ignore_progress
from wavelift.base.units import BLOCK
from wavelift.rules.limits import limits as known_limits
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.messages import Imported, Reverified, ServerTask
from wavelift.services.dataplane.staging import disk_label_of
from wavelift.services.dataplane.suspects import Suspects
from wavelift.services.dataplane.verify import NEXT_STEP
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Comparison, Expected


def compare_image(
    access: AwsAccess, task: ServerTask, export: ExportResult, image: ImportResult, ctx: RunContext
) -> ImportResult:
    """Compare the image's EBS snapshots (in disk order) with the manifests, as thoroughly as the plan's ``verify``.

    :returns: ``image`` with its conversion report.
    :raises ProofError: when the image has another number of disks, a data disk differs, or too much of the boot disk.
    """
    with located(server=task.name):
        ctx.cancel.check()
        level = Level(task.plan.verify, task.plan.target.boot_disk_changed_pct, ctx.checkpoints)
        found = _Comparison(access, export, image.snapshot_ids, level, ctx.cancel, ctx.progress)
        return image.model_copy(update={"report": found.report()})


def verify_imported(
    access: AwsAccess, imported: Imported, cancel: CancelFlag, *, limits: Mapping[str, int] | None = None
) -> Reverified:
    """Compare every block of a finished import with its manifests again.

    :param limits: what the environment overrides.
    :raises ProofError: as :func:`compare_image`; :raises NotFoundError: when snapshot or manifest is gone.
    """
    with located(server=imported.export.server):
        level = Level("full", known_limits(limits)["boot_disk_changed_pct"].value)
        disks = _Comparison(access, imported.export, imported.snapshot_ids, level, cancel).report()
    return Reverified(server=imported.export.server, migration=imported.migration, disks=disks)


@dataclass(frozen=True, slots=True)
class Level:
    """How much is compared, and how much of a boot disk may differ."""

    verify: str
    """``full``, ``sample:<pct>`` or ``off``."""
    boot_disk_changed_pct: int
    checkpoints: CheckpointStore = field(default_factory=MemoryCheckpoints)
    """Where a sample's findings outlive a clear."""


class _Comparison:
    def __init__(
        self,
        access: AwsAccess,
        export: ExportResult,
        snapshot_ids: Sequence[str],
        level: Level,
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
        if self.level.verify == "off":
            return ()
        return tuple(self._disk(disk, id) for disk, id in zip(self.export.disks, self.snapshot_ids, strict=True))

    def _disk(self, disk: StoredDisk, snapshot_id: str) -> ConvertedDisk:
        manifest = StoredManifest.of(disk).load(self.access, next_step=NEXT_STEP, disk=disk.address)
        verify = self.level.verify
        suspects = Suspects(self.level.checkpoints, f"{snapshot_id} {disk.manifest_digest}")
        indices = None if verify == "full" else suspects.sample(manifest, float(verify.removeprefix("sample:")))
        server, label = self.export.server, disk_label_of(disk)
        found = self._compared(disk, manifest, snapshot_id, indices)
        if disk.boot and indices is not None and self._too_much(manifest, found, indices):
            # A few blocks by chance say little about a share. All of them are read before it is held against the image.
            indices = None
            found = self._compared(disk, manifest, snapshot_id, indices)
        if found.changed and not disk.boot:
            suspects.keep(part.offset for part in found.changed)
            raise ProofError(
                "The conversion changed a data disk",
                server=server,
                disk=label,
                offset=found.changed[0].offset,
                snapshot=snapshot_id,
                next_step="Do not launch this AMI; keep the source and tell AWS support the import task",
            )
        if disk.boot:
            self._check_boot(manifest, found, indices, {"server": server, "disk": label, "snapshot": snapshot_id})
        return ConvertedDisk(
            index=disk.index,
            snapshot_id=snapshot_id,
            boot=disk.boot,
            blocks_compared=found.blocks_compared,
            changed=found.changed,
        )

    def _compared(
        self, disk: StoredDisk, manifest: Manifest, snapshot_id: str, indices: Collection[int] | None
    ) -> Comparison:
        return compare_snapshot(
            self.access,
            snapshot_id,
            Expected(manifest.digest, disk.capacity, indices),
            cancel=self.cancel,
            report=Report(self.export.server, disk_label_of(disk), "compare", self.progress),
        )

    def _too_much(
        self, manifest: Manifest, found: Comparison, indices: Collection[int] | None
    ) -> tuple[list[int], int] | None:
        """The blocks with data that differ, of how many compared ones, if they are more than a conversion changes."""
        compared = range(manifest.block_count) if indices is None else indices
        data = sum(manifest.digest(index) is not None for index in compared)
        lost = [index for index in _blocks(found.changed, manifest) if manifest.digest(index) is not None]
        return (lost, data) if len(lost) * 100 > self.level.boot_disk_changed_pct * data else None

    def _check_boot(
        self, manifest: Manifest, found: Comparison, indices: Collection[int] | None, where: Mapping[str, str]
    ) -> None:
        if (excess := self._too_much(manifest, found, indices)) is not None:
            lost, data = excess
            raise ProofError(
                f"{len(lost)} of {data} compared blocks of the boot disk hold something else than on the source: a "
                f"conversion changes no more than {self.level.boot_disk_changed_pct} per cent",
                offset=lost[0] * BLOCK,
                next_step="Do not launch this AMI, and keep the source. If the guest is small and its conversion "
                "rightly changes more, set 'limits: {boot_disk_changed_pct: …}' in the environment",
                **where,
            )


def _blocks(changed: Sequence[ChangedRange], manifest: Manifest) -> Iterator[int]:
    """Indices of the changed blocks that the source has; an EBS volume may be longer."""
    for part in changed:
        end = min(part.offset + part.length, manifest.block_count * BLOCK)
        yield from range(part.offset // BLOCK, end // BLOCK)
