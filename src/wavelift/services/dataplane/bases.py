"""What one disk's run builds on: the last recorded run's EBS snapshot and manifest, or nothing (invariant 3).

A delta needs both, complete and of the same disk. If anything is missing or different, the disk is sent whole (a seed)
and the run says why. A seed costs time; a wrong base would corrupt the copy.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.ec2 import Ec2, Snapshot
from wavelift.base.domain import DiskFacts, DiskLineage
from wavelift.base.errors import CorruptStreamError, MissingPrivilegeError, NotFoundError, ProofError
from wavelift.rules.lineage import MatchedDisk, match_disks
from wavelift.rules.plans import Target
from wavelift.services.dataplane.manifests import LoadedManifests, StoredManifest
from wavelift.transfer.manifest import Manifest

log = logging.getLogger(__name__)

FIRST_RUN = "the first run of the job"
KEY_ARN: Final = ":key/"
"""In the ARN of a key itself, not in an alias's."""


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a new seed would be encrypted.

    :param key: as the environment names it; empty: the account's default.
    """

    on: bool
    key: str = ""

    @classmethod
    def of(cls, access: AwsAccess, target: Target) -> Encryption:
        """A key is only named to encrypt with it; without one the account may encrypt all the same."""
        on = target.encrypt or bool(target.kms_key) or Ec2(access).encryption_by_default()
        return cls(on, target.kms_key or "")

    def key_arn(self, access: AwsAccess) -> str:
        """What snapshots carry; empty where AWS doesn't tell us which key that is."""
        try:
            key = self.key or Ec2(access).default_key()
        except MissingPrivilegeError as error:
            log.warning("A replica keeps its KMS key; whether that is the account's default isn't known: %s", error)
            return ""
        # Pre-flight resolves what the environment names; the account's default may be called by its alias.
        return key if KEY_ARN in key else AccountChecks(access).key(key).arn


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
    manifests: LoadedManifests, disks: Sequence[DiskFacts], lineages: Sequence[DiskLineage], wanted: Encryption
) -> list[Base]:
    """The base of every disk, in the order of ``disks``.

    :param lineages: what the job's last recorded run left; empty before its first.
    :param wanted: a lineage keeps the encryption and the key that it began with.
    """
    if not lineages:
        return [Base.seed(FIRST_RUN) for _ in disks]
    access = manifests.access
    found = Ec2(access).snapshots({lineage.snapshot_id for lineage in lineages})
    standing = {id: one for id, one in found.items() if one.state == "completed"}
    key = wanted.key_arn(access) if wanted.on and any(one.encrypted for one in standing.values()) else ""
    return [_base(manifests, each, standing, wanted.on, key) for each in match_disks(lineages, disks).disks]


def _base(
    manifests: LoadedManifests, matched: MatchedDisk, standing: Mapping[str, Snapshot], encrypted: bool, key: str
) -> Base:
    lineage = matched.previous
    if lineage is None or matched.fate != "same":
        # AWS documents no child snapshot that is larger than its parent.
        return Base.seed(matched.reason)
    parent = standing.get(lineage.snapshot_id)
    if parent is None:
        return Base.seed(f"the parent snapshot {lineage.snapshot_id} is gone from AWS, or is not completed")
    if parent.encrypted != encrypted:
        return Base.seed("encryption of EBS snapshots was switched on or off: a lineage keeps what it began with")
    if key and parent.kms_key and parent.kms_key != key:
        return Base.seed(f"the KMS key was changed from {parent.kms_key} to {key}: a lineage keeps what it began with")
    try:
        return Base(lineage, manifests.load(StoredManifest.of(lineage)))
    except ProofError:
        return Base.seed("the last run's manifest is not the one that was stored")
    except NotFoundError:
        return Base.seed("the last run's manifest is gone from the bucket")
    except CorruptStreamError as error:
        return Base.seed(error.what)
