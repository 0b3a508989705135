"""What a disk's run builds on: the last recorded run's EBS snapshot and manifest, or nothing (invariant 3).

A delta needs both, whole and of the same disk. Whatever is missing or different makes a new seed, and says why: a seed
costs time, a wrong base costs the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskFacts, DiskLineage
from wavelift.base.errors import CorruptStreamError, NotFoundError
from wavelift.transfer.manifest import Manifest

FIRST_RUN = "the disk's first run"


@dataclass(frozen=True, slots=True)
class Base:
    """What one disk's run builds on.

    :param lineage: None for a seed. :param manifest: of the parent, for a delta.
    :param reason: why it is a seed; empty for a delta.
    """

    lineage: DiskLineage | None
    manifest: Manifest | None
    reason: str = ""

    @classmethod
    def seed(cls, reason: str) -> Base:
        return cls(None, None, reason)


def find_bases(
    access: AwsAccess, disks: Sequence[DiskFacts], lineages: Mapping[int, DiskLineage], *, encrypt: bool
) -> list[Base]:
    """The base of every disk, in the order of ``disks``; ``lineages`` by vSphere's disk key.

    :param encrypt: the target's snapshots are to be encrypted; a lineage keeps what it began with.
    """
    wanted = [lineages[disk.key].snapshot_id for disk in disks if disk.key in lineages]
    standing = {id for id, found in Ec2(access).snapshots(wanted).items() if found.state == "completed"}
    return [_base(access, disk, lineages.get(disk.key), standing, encrypt=encrypt) for disk in disks]


def _base(
    access: AwsAccess, disk: DiskFacts, lineage: DiskLineage | None, standing: set[str], *, encrypt: bool
) -> Base:
    if lineage is None:
        return Base.seed(FIRST_RUN)
    if why := _another_disk(disk, lineage):
        return Base.seed(why)
    if lineage.encrypted != encrypt:
        return Base.seed("the environment's encryption was switched: a lineage keeps what it began with")
    if lineage.snapshot_id not in standing:
        return Base.seed(f"the parent snapshot {lineage.snapshot_id} is gone from AWS, or not completed")
    manifest = _manifest(access, lineage)
    return manifest if isinstance(manifest, Base) else Base(lineage, manifest)


def _another_disk(disk: DiskFacts, lineage: DiskLineage) -> str:
    if lineage.uuid and disk.uuid and lineage.uuid != disk.uuid:
        return "another virtual disk has taken this disk's place"
    if lineage.capacity != disk.capacity:
        # Growth from parent to child is documented nowhere (facts/vsphere-data-path.md 5).
        change = "grown" if disk.capacity > lineage.capacity else "become smaller"
        return f"the disk has {change}: from {lineage.capacity} to {disk.capacity} bytes"
    return ""


def _manifest(access: AwsAccess, lineage: DiskLineage) -> Manifest | Base:
    s3 = S3Staging(access, lineage.bucket)
    try:
        body = s3.get_object(lineage.manifest_key)
        if hashlib.sha256(body).hexdigest() != lineage.manifest_digest:
            return Base.seed("the last run's manifest is not the one that was stored")
        return Manifest.from_bytes(body)
    except NotFoundError:
        return Base.seed("the last run's manifest is gone from the bucket")
    except CorruptStreamError as error:
        return Base.seed(error.what)
    finally:
        s3.close()
