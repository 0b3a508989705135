"""IAM documents: what the identities need (SMS-13), and what a role's policies allow.

Three identities as the retired service had them: the *service role* that VM Import assumes, the *connector* that moves
bytes, and the *caller* that runs the control plane. The unit tests hold the last two against the calls in this folder.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

VMIE: Final = "vmie.amazonaws.com"
EXTERNAL_ID: Final = "vmimport"
"""docs.aws.amazon.com/vm-import/latest/userguide/required-permissions.html, as the two lists below."""

ROLE_BUCKET_ACTIONS: Final = ("s3:GetBucketLocation", "s3:ListBucket")
ROLE_OBJECT_ACTIONS: Final = ("s3:GetObject",)
ROLE_EC2_ACTIONS: Final = ("ec2:ModifySnapshotAttribute", "ec2:CopySnapshot", "ec2:RegisterImage", "ec2:DescribeImages")
ROLE_KMS_ACTIONS: Final = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
)

_ROLE_KMS_GRANT: Final = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey*",
    "kms:ReEncrypt*",
)
"""As the page prints it; :data:`ROLE_KMS_ACTIONS` are single actions of it, to test a policy with."""

CONNECTOR_BUCKET_ACTIONS: Final = (
    "s3:GetBucketLocation",
    "s3:GetEncryptionConfiguration",
    "s3:ListBucket",
    "s3:ListBucketMultipartUploads",
)
CONNECTOR_OBJECT_ACTIONS: Final = (
    "s3:AbortMultipartUpload",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListMultipartUploadParts",
    "s3:PutObject",
    "s3:PutObjectTagging",
)
CONNECTOR_ANY_ACTIONS: Final = (
    "ec2:DescribeInstanceTypeOfferings",
    "ec2:DescribeInstanceTypes",
    "ec2:DescribeSecurityGroups",
    "ec2:DescribeSubnets",
    "ec2:DescribeVpcs",
    "ec2:GetEbsEncryptionByDefault",
    "iam:GetPolicy",
    "iam:GetPolicyVersion",
    "iam:GetRole",
    "iam:GetRolePolicy",
    "iam:ListAttachedRolePolicies",
    "iam:ListRolePolicies",
    "sts:GetCallerIdentity",
)
"""The connector's pre-flight checks read these; it changes nothing but its objects."""

CALLER_ANY_ACTIONS: Final = (
    *CONNECTOR_ANY_ACTIONS,
    "ebs:GetSnapshotBlock",
    "ebs:ListSnapshotBlocks",
    "ec2:CancelImportTask",
    "ec2:CreateTags",
    "ec2:DeleteSnapshot",
    "ec2:DeregisterImage",
    "ec2:DescribeImages",
    "ec2:DescribeImportImageTasks",
    "ec2:DescribeInstances",
    "ec2:DescribeSnapshots",
    "ec2:ImportImage",
    "ec2:RunInstances",
    "ec2:TerminateInstances",
)
KEY_ACTIONS: Final = ("kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKey")
"""To write and read objects under a key of one's own."""
CALLER_KEY_ACTIONS: Final = (*KEY_ACTIONS, "kms:CreateGrant", "kms:GenerateDataKeyWithoutPlaintext", "kms:ReEncrypt*")
"""Also to start instances from images under it."""

Document = Mapping[str, Any]


def trust_policy() -> dict[str, Any]:
    """Who may assume the service role: VM Import, and only in the name of an import."""
    return _document(
        {
            "Effect": "Allow",
            "Principal": {"Service": VMIE},
            "Action": "sts:AssumeRole",
            "Condition": {"StringEquals": {"sts:Externalid": EXTERNAL_ID}},
        }
    )


def role_policy(bucket: str, *, prefix: str = "", kms_key_arn: str = "", partition: str = "aws") -> dict[str, Any]:
    """What the service role needs for imports from ``bucket``."""
    return _document(
        _allow(ROLE_BUCKET_ACTIONS, _bucket_arn(bucket, partition)),
        _allow(ROLE_OBJECT_ACTIONS, _objects_arn(bucket, prefix, partition)),
        _allow(("ec2:ModifySnapshotAttribute", "ec2:CopySnapshot", "ec2:RegisterImage", "ec2:Describe*"), "*"),
        *([_allow(_ROLE_KMS_GRANT, kms_key_arn)] if kms_key_arn else []),
    )


def connector_policy(bucket: str, *, prefix: str = "", kms_key_arn: str = "", partition: str = "aws") -> dict[str, Any]:
    """What the worker beside the vCenter needs: the staging bucket, and to read for pre-flight."""
    return _document(
        *_staging(bucket, prefix, partition),
        _allow(CONNECTOR_ANY_ACTIONS, "*"),
        *([_allow(KEY_ACTIONS, kms_key_arn)] if kms_key_arn else []),
    )


def caller_policy(
    bucket: str,
    *,
    role_arn: str,
    prefix: str = "",
    kms_key_arn: str = "",
    profile_role_arn: str = "",
    partition: str = "aws",
) -> dict[str, Any]:
    """What the control plane needs: import, launch, tag, take away; and to hand the service role on.

    :param profile_role_arn: role of the instance profile that launched instances get, if any.
    """
    return _document(
        *_staging(bucket, prefix, partition),
        _allow(CALLER_ANY_ACTIONS, "*"),
        _allow(("iam:PassRole",), *filter(None, (role_arn, profile_role_arn))),
        *([_allow(CALLER_KEY_ACTIONS, kms_key_arn)] if kms_key_arn else []),
    )


def _staging(bucket: str, prefix: str, partition: str) -> tuple[dict[str, Any], dict[str, Any]]:
    return (
        _allow(CONNECTOR_BUCKET_ACTIONS, _bucket_arn(bucket, partition)),
        _allow(CONNECTOR_OBJECT_ACTIONS, _objects_arn(bucket, prefix, partition)),
    )


def _document(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: Sequence[str], *resources: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": resources[0] if len(resources) == 1 else list(resources),
    }


def _bucket_arn(bucket: str, partition: str) -> str:
    return f"arn:{partition}:s3:::{bucket}"


def _objects_arn(bucket: str, prefix: str, partition: str) -> str:
    folder = prefix.strip("/")
    return f"{_bucket_arn(bucket, partition)}/{folder + '/' if folder else ''}*"


def role_needs(
    bucket: str, *, prefix: str = "", kms_key_arn: str = "", partition: str = "aws"
) -> list[tuple[str, str]]:
    """(action, resource) pairs that the service role must be allowed."""
    objects = _objects_arn(bucket, prefix, partition).removesuffix("*") + "disk-0.vmdk"
    return [
        *((action, _bucket_arn(bucket, partition)) for action in ROLE_BUCKET_ACTIONS),
        *((action, objects) for action in ROLE_OBJECT_ACTIONS),
        *((action, "*") for action in ROLE_EC2_ACTIONS),
        *((action, kms_key_arn) for action in ROLE_KMS_ACTIONS if kms_key_arn),
    ]


def missing_actions(documents: Iterable[Document], needs: Iterable[tuple[str, str]]) -> tuple[str, ...]:
    """Actions of ``needs`` that the documents don't allow: a Deny wins, then some Allow must cover it.

    Simple on purpose: a conditional Deny is not counted, a conditional Allow is; boundaries and organisation policies
    are not seen.
    """
    statements = [statement for document in documents for statement in _statements(document)]
    return tuple(dict.fromkeys(action for action, resource in needs if not _allowed(statements, action, resource)))


def _allowed(statements: Sequence[Document], action: str, resource: str) -> bool:
    covering = [statement for statement in statements if _covers(statement, action, resource)]
    if any(one.get("Effect") == "Deny" and not one.get("Condition") for one in covering):
        return False
    return any(one.get("Effect") == "Allow" for one in covering)


def _covers(statement: Document, action: str, resource: str) -> bool:
    if "NotAction" in statement:
        acts = not _matches(statement["NotAction"], action, fold=True)
    else:
        acts = _matches(statement.get("Action"), action, fold=True)
    if "NotResource" in statement:
        return acts and not _matches(statement["NotResource"], resource)
    return acts and _matches(statement.get("Resource"), resource)


def _matches(patterns: object, text: str, *, fold: bool = False) -> bool:
    """IAM's wildcards are ``*`` and ``?`` only; actions ignore case. What is needed of "*" is any resource."""
    return any(
        re.fullmatch(_wildcard(pattern), text, re.IGNORECASE if fold else 0) is not None
        for pattern in _listed(patterns)
    )


def _wildcard(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def trust_problem(document: Document) -> str:
    """What keeps VM Import from assuming the role; empty when nothing does."""
    services = [
        statement
        for statement in _statements(document)
        if statement.get("Effect") == "Allow"
        and _matches(statement.get("Action"), "sts:AssumeRole", fold=True)
        and VMIE in _listed(_principal(statement, "Service"))
    ]
    if not services:
        return f"{VMIE} is not trusted with sts:AssumeRole"
    ids = [value for statement in services for value in _external_ids(statement)]
    if EXTERNAL_ID not in ids:
        said = f"it is {', '.join(ids)}" if ids else "there is none"
        return f"the condition sts:Externalid must be {EXTERNAL_ID!r}; {said}"
    return ""


def _principal(statement: Document, kind: str) -> object:
    principal = statement.get("Principal")
    return principal.get(kind) if isinstance(principal, Mapping) else principal


def _external_ids(statement: Document) -> Iterator[str]:
    for test, values in (statement.get("Condition") or {}).items():
        if test in ("StringEquals", "StringLike"):
            for name, value in values.items():
                if name.lower() == "sts:externalid":
                    yield from _listed(value)


def _statements(document: Document) -> list[Document]:
    found = document.get("Statement", [])
    return [found] if isinstance(found, Mapping) else list(found)


def _listed(value: object) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []
