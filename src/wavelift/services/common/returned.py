"""What a connector returned, compared with its manifests and with AWS before the ledger takes it.

A result comes by XCom, the manifest from the staging bucket. So who edits XComs only can forge neither a disk nor a
change id: every fact that the ledger keeps must be in the header of a manifest that lies in the run's own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import volume_gib
from wavelift.adapters.aws.ec2 import Snapshot
from wavelift.base.domain import DiskLineage, ExportResult, ReplicatedDisk, ReplicationResult, StoredDisk, VerifyResult
from wavelift.base.errors import CorruptStreamError, NotFoundError, ProofError, TamperedError
from wavelift.base.names import MADE_BY, TAG_RUN, run_hash, staging_prefix
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.frozen import same_key
from wavelift.services.dataplane.manifests import LINEAGE_HEADER, PARENT_HEADER, StoredManifest
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import DISK_SUFFIX, MANIFEST_SUFFIX
from wavelift.transfer.manifest import Manifest

NEXT_STEP: Final = f"Clear this server from its {CONTINUE_FROM} task: it is read again; find out who edited its XComs"


@dataclass(frozen=True, slots=True)
class Returned:
    """Compares what tasks of one server returned with what lies in AWS. ``task`` was checked against the ledger."""

    access: AwsAccess
    task: ServerTask
    run_key: str

    def check_export(self, result: ExportResult) -> None:
        """:raises TamperedError: a disk is not one that this run stored for this server.
        :raises NotFoundError: a manifest is gone.
        """
        self._same("export.server", self.task.name, result.server)
        self._check_indices([disk.index for disk in result.disks])
        for disk in result.disks:
            manifest = self._manifest(disk, disk.index, len(result.disks))
            self._same_header(
                manifest.header,
                key=disk.key,
                boot=disk.boot,
                address=disk.address,
                capacity=disk.capacity,
                snapshot=result.snapshot,
                object_checksum=disk.version.checksum,
                object_bytes=disk.object_bytes,
            )
            self._same_content(manifest, disk)
            beside = disk.manifest_key.removesuffix(MANIFEST_SUFFIX) + DISK_SUFFIX
            self._same("object_key", beside, disk.object_key)

    def check_proof(self, export: ExportResult, verified: VerifyResult | None) -> None:
        """:raises TamperedError: what was read back is not this export, or not what the plan demands of this server."""
        if verified is None:
            self._refuse("verified", f"level {self.task.plan.verify}", "nothing was verified")
        self._same("verified.server", self.task.name, verified.server)
        self._same("verified.level", self.task.plan.verify, verified.level)
        self._same("verified.mismatches", 0, verified.mismatches)
        manifests = tuple(disk.manifest_digest for disk in export.disks)
        if verified.manifests != manifests:
            step = "If only some of the server's tasks were cleared, clear its verify task too"
            self._refuse("verified.manifests", manifests, verified.manifests, next_step=f"{step}; else: {NEXT_STEP}")
        capacity = sum(disk.capacity for disk in export.disks)
        if not 0 <= verified.bytes_verified <= capacity:
            self._refuse("verified.bytes_verified", f"at most {capacity}", verified.bytes_verified)

    def check_snapshots(self, result: ReplicationResult, found: Mapping[str, Snapshot]) -> None:
        """:param found: the result's EBS snapshots as this account has them.

        :raises TamperedError: one is not this run's, or not of this disk.
        """
        self._same("transfer.server", self.task.name, result.server)
        for disk in result.disks:
            lineage = disk.lineage
            if (snapshot := found.get(lineage.snapshot_id)) is None:
                continue  # its absence is an error of its own
            self._same("snapshot.run", run_hash(self.run_key), snapshot.tags.get(TAG_RUN, ""))
            if not snapshot.description.startswith(MADE_BY):
                self._refuse("snapshot.description", f"{MADE_BY}…", snapshot.description)
            self._same("snapshot.size", volume_gib(lineage.capacity), snapshot.volume_gib)
            self._same("snapshot.encrypted", lineage.encrypted, snapshot.encrypted)
            target = self.task.plan.target
            if target.kms_key and not same_key(target.kms_key, snapshot.kms_key, target.region):
                self._refuse("snapshot.kms_key", target.kms_key, snapshot.kms_key)

    def check_lineage(self, result: ReplicationResult, recorded: Sequence[DiskLineage]) -> None:
        """:param recorded: what the next run would build on before this result is recorded.

        :raises TamperedError: a disk's lineage is not what its manifest says, or the transfer built on another one than
            the recorded. :raises NotFoundError: a manifest is gone.
        """
        self._check_indices([disk.index for disk in result.disks])
        parents = {each.snapshot_id: each for each in recorded}
        for disk in result.disks:
            self._check_replicated(disk, len(result.disks), result.snapshot, parents.get(disk.parent_snapshot_id))

    def _check_replicated(self, disk: ReplicatedDisk, disks: int, snapshot: str, parent: DiskLineage | None) -> None:
        manifest = self._manifest(disk.lineage, disk.index, disks)
        lineage = disk.lineage.dump()
        for where in ("bucket", "manifest_key", "manifest_digest"):
            del lineage[where]
        self._same_header(
            manifest.header,
            boot=disk.boot,
            parent=disk.parent_snapshot_id,
            capacity=disk.lineage.capacity,
            snapshot=snapshot,
        )
        self._same("kind", "delta" if disk.parent_snapshot_id else "seed", disk.kind)
        if parent is not None:  # a parent that is not recorded any more is an error of its own
            self._check_parent(parent.dump(), manifest.header.get(PARENT_HEADER))
        said = manifest.header.get(LINEAGE_HEADER)
        kept = _whole(said)
        for field in sorted(kept.keys() | lineage.keys()):
            self._same(f"lineage.{field}", kept.get(field, "(nothing)"), lineage.get(field, "(nothing)"))
        self._same_content(manifest, disk)

    def _check_parent(self, recorded: dict[str, Any], told: object) -> None:
        """The transfer got it by XCom. It may have found out itself that tracking lies, but not the other way round."""
        built = _whole(told)
        if not recorded["quarantine"]:
            built = {**built, "quarantine": ""}
        for field in sorted(recorded):
            self._same(f"built_on.{field}", recorded[field], built.get(field, "(nothing)"))

    def _check_indices(self, found: Sequence[int]) -> None:
        """In disk order, none left out (invariant 11)."""
        self._same("disks", list(range(max(1, len(found)))), list(found))

    def _manifest(self, disk: StoredDisk | DiskLineage, index: int, disks: int) -> Manifest:
        """The manifest that a disk names: it lies in the run's own folder, and says what every manifest says."""
        self._same("bucket", self.task.plan.target.bucket, disk.bucket)
        plan = self.task.plan
        folder = staging_prefix(plan.target.prefix, plan.wave, self.run_key, plan.server)
        instant = disk.manifest_key.removeprefix(f"{folder}/").partition("/")[0]
        self._same("manifest_key", f"{folder}/{instant}/disk-{index}{MANIFEST_SUFFIX}", disk.manifest_key)
        try:
            manifest = StoredManifest.of(disk).load(self.access)
        except ProofError:
            self._refuse("manifest_digest", "that of the stored manifest", disk.manifest_digest)
        except CorruptStreamError as error:
            self._refuse("manifest", "a manifest", error.what)
        except NotFoundError as error:
            error.next_step = NEXT_STEP
            raise
        self._same_header(
            manifest.header,
            server=self.task.name,
            run=run_hash(self.run_key),
            vm=self.task.facts.moref,
            path=self.task.facts.path,
            disk=index,
            disks=disks,
        )
        return manifest

    def _same_content(self, manifest: Manifest, disk: StoredDisk | ReplicatedDisk) -> None:
        self._same("content_digest", manifest.content_digest(), disk.content_digest)
        self._same("data_bytes", manifest.data_bytes, disk.data_bytes)

    def _same_header(self, header: Mapping[str, Any], **expected: object) -> None:
        for field, value in expected.items():
            self._same(field, header.get(field, "(nothing)"), value)

    def _same(self, field: str, expected: object, found: object) -> None:
        if expected != found or type(expected) is not type(found):
            self._refuse(field, expected, found)

    def _refuse(self, field: str, expected: object, found: object, next_step: str = NEXT_STEP) -> NoReturn:
        raise TamperedError(
            "What came by XCom is not what this run stored",
            field=field,
            expected=expected,
            found=found,
            server=self.task.name,
            next_step=next_step,
        )


def _whole(said: object) -> dict[str, Any]:
    """A lineage of a manifest's header. A connector of an older version writes no field that it does not know."""
    fields = DiskLineage.model_fields.items()
    unsaid = {name: field.default for name, field in fields if not field.is_required()}
    return {**unsaid, **said} if isinstance(said, dict) else {}
