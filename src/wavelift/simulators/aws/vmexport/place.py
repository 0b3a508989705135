"""Where an export may write: the bucket, what it grants, and the service role."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from wavelift.simulators.aws.canonical import exporter
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import (
    EXPORTS_WITHOUT_ACLS,
    NO_EXPORT_BUCKET_MESSAGE,
    NO_EXPORT_GRANT_CODE,
    NO_EXPORT_GRANT_MESSAGE,
    NO_ROLE_MESSAGE,
    OTHER_REGION_MESSAGE,
    WITH_KMS_MESSAGE,
)
from wavelift.simulators.aws.policy import Use, canonical_users, check_policy, covers, statements_of
from wavelift.simulators.aws.s3.encryption import WITH_KMS
from wavelift.simulators.aws.s3.store import Bucket, S3Store
from wavelift.simulators.aws.s3.xml import parse_encryption
from wavelift.simulators.aws.settings import ACCOUNT, partition_of
from wavelift.simulators.aws.vmimport import roles

GRANTS: Final = {"WRITE": "s3:PutObject", "READ_ACP": "s3:GetBucketAcl"}
"""What the bucket's ACL must grant (user guide, prerequisites of an export), or its policy (its edition of 2025)."""
MAX_KEY: Final = 1024
"""Bytes of an object's key in UTF-8 (S3 user guide)."""
BUCKET_ACTIONS: Final = ("s3:GetBucketLocation", "s3:ListBucket", "s3:GetBucketAcl")
OBJECT_ACTIONS: Final = ("s3:GetObject", "s3:PutObject")
"""VM Import/Export user guide, "Required permissions": of the service role, on the export bucket and its objects."""


def check_bucket(s3: S3Store, name: str, key: str, region: str) -> Bucket:
    """What every export asks of a bucket. Raises AwsError.

    VM Import/Export user guide: of the same account and region, without encryption or with SSE-S3.
    """
    bucket = s3.peek_bucket(name)
    if bucket is None:
        raise AwsError("InvalidParameter", NO_EXPORT_BUCKET_MESSAGE.format(bucket=name), 400)
    if bucket.account != ACCOUNT:
        raise AwsError(NO_EXPORT_GRANT_CODE, NO_EXPORT_GRANT_MESSAGE.format(bucket=name), 403)
    if bucket.region != region:
        raise AwsError("InvalidParameter", OTHER_REGION_MESSAGE.format(bucket=name, region=region), 400)
    if parse_encryption(bucket.documents.get("encryption", b""))[0] in WITH_KMS:
        raise AwsError("InvalidParameter", WITH_KMS_MESSAGE.format(bucket=name), 400)
    if len(key.encode()) > MAX_KEY:
        raise AwsError("InvalidParameter", f"The key is longer than {MAX_KEY} bytes", 400)
    return bucket


def check_grants(bucket: Bucket, key: str) -> None:
    """The region's account of VM Export must be allowed by the ACL or the policy of the bucket, whose ownership must
    not have disabled ACLs, and must not be denied by the policy. Raises AwsError."""
    who = exporter(bucket.region)
    allowed = all(
        bucket.access.allows(who, permission) or _policy_allows(bucket, who, action, key)
        for permission, action in GRANTS.items()
    )
    if not (bucket.access.acls or EXPORTS_WITHOUT_ACLS) or not allowed:
        raise AwsError(NO_EXPORT_GRANT_CODE, NO_EXPORT_GRANT_MESSAGE.format(bucket=bucket.name), 403)
    _check_deny(bucket, key, {})


def _policy_allows(bucket: Bucket, who: str, action: str, key: str) -> bool:
    where = f"arn:{partition_of(bucket.region)}:s3:::{bucket.name}"
    use = Use(action, where if action == GRANTS["READ_ACP"] else f"{where}/{key}")
    document = json.loads(bucket.documents.get("policy") or b"{}")
    return any(
        one.get("Effect") == "Allow" and who in canonical_users(one) and covers(one, use)
        for one in statements_of(document)
    )


def check_role(
    name: str, arn: str, trust: roles.Document, policies: Sequence[roles.Document], *, bucket: Bucket, key: str
) -> None:
    """The service role must be allowed, and the bucket's policy must not deny it. Raises AwsError."""
    partition = partition_of(bucket.region)
    where = f"arn:{partition}:s3:::{bucket.name}"
    needed = [(action, where) for action in BUCKET_ACTIONS] + [(action, f"{where}/{key}") for action in OBJECT_ACTIONS]
    needed += [(action, "*") for action in roles.EC2_ACTIONS]
    allowed = all(roles.allowed(policies, action, resource) for action, resource in needed)
    if not roles.trusts_vmie(trust) or not allowed:
        raise AwsError("InvalidParameter", NO_ROLE_MESSAGE.format(role=name), 400)
    _check_deny(bucket, key, {"aws:PrincipalArn": arn})


def _check_deny(bucket: Bucket, key: str, context: Mapping[str, str]) -> None:
    use = Use("s3:PutObject", f"arn:{partition_of(bucket.region)}:s3:::{bucket.name}/{key}", context)
    check_policy(bucket.documents.get("policy", b""), iter((use,)), "s3")
