"""What a disk's run builds on: the last recorded run's EBS snapshot and manifest, or nothing (invariant 3).

A delta needs both, whole and of the same disk. Whatever is missing or different makes a new seed, and says why: a seed
costs time, a wrong base costs the data.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskFacts, DiskLineage
from wavelift.base.errors import CorruptStreamError, NotFoundError
from wavelift.rules.lineage import MatchedDisk, match_disks
from wavelift.transfer.manifest import Manifest

FIRST_RUN = "the first run of the job"


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
    access: AwsAccess, disks: Sequence[DiskFacts], lineages: Sequence[DiskLineage], *, encrypted: bool
) -> list[Base]:
    """The base of every disk, in the order of ``disks``.

    :param lineages: what the job's last recorded run left; empty before its first.
    :param encrypted: whether a new seed would be encrypted; a lineage keeps what it began with.
    """
    if not lineages:
        return [Base.seed(FIRST_RUN) for _ in disks]
    wanted = {lineage.snapshot_id for lineage in lineages}
    standing = {id for id, found in Ec2(access).snapshots(wanted).items() if found.state == "completed"}
    return [_base(access, each, standing, encrypted=encrypted) for each in match_disks(lineages, disks).disks]


def _base(access: AwsAccess, matched: MatchedDisk, standing: set[str], *, encrypted: bool) -> Base:
    lineage = matched.previous
    if lineage is None or matched.fate != "same":
        # A larger child is documented nowhere (facts/vsphere-data-path.md 5).
        return Base.seed(matched.reason)
    if lineage.encrypted != encrypted:
        return Base.seed("encryption of EBS snapshots was switched on or off: a lineage keeps what it began with")
    if lineage.snapshot_id not in standing:
        return Base.seed(f"the parent snapshot {lineage.snapshot_id} is gone from AWS, or is not completed")
    manifest = _manifest(access, lineage)
    return manifest if isinstance(manifest, Base) else Base(lineage, manifest)


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
