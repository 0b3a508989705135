"""Checks whether VM Import can use the service role: by its trust policy and its permission policies in IAM."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import unquote

SERVICE: Final = "vmie.amazonaws.com"
EXTERNAL_ID: Final = "vmimport"
BUCKET_ACTIONS: Final = ("s3:GetBucketLocation", "s3:ListBucket")
OBJECT_ACTIONS: Final = ("s3:GetObject",)
EC2_ACTIONS: Final = (
    "ec2:ModifySnapshotAttribute",
    "ec2:CopySnapshot",
    "ec2:RegisterImage",
    "ec2:DescribeImages",
)
KMS_ACTIONS: Final = ("kms:CreateGrant", "kms:Decrypt", "kms:DescribeKey", "kms:GenerateDataKeyWithoutPlaintext")

Document = Mapping[str, Any]


def load(text: str | Document) -> Document:
    """A policy document: JSON, which may be URL-encoded."""
    if isinstance(text, Mapping):
        return text
    try:
        loaded = json.loads(text)
    except ValueError:
        loaded = json.loads(unquote(text))
    return loaded if isinstance(loaded, dict) else {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _statements(document: Document) -> Iterator[Document]:
    yield from (item for item in _listed(document.get("Statement")) if isinstance(item, dict))


def trusts_vmie(document: Document) -> bool:
    """Whether the service can assume the role, and only with the external id ``vmimport``."""
    for statement in _statements(document):
        services = _listed((statement.get("Principal") or {}).get("Service"))
        actions = _listed(statement.get("Action"))
        condition = statement.get("Condition") or {}
        values = {
            key.lower(): _listed(value)
            for operator, block in condition.items()
            if operator in {"StringEquals", "StringLike"}
            for key, value in block.items()
        }
        if (
            statement.get("Effect") == "Allow"
            and SERVICE in services
            and any(fnmatchcase("sts:AssumeRole", action) for action in actions)
            and values.get("sts:externalid") == [EXTERNAL_ID]
        ):
            return True
    return False


def trusts_account(document: Document, account: str) -> bool:
    """Whether principals of the account can assume the role."""
    own = re.compile(rf"\*|{account}|arn:aws[a-z-]*:iam::{account}:(root|user/.+)")
    for statement in _statements(document):
        principal = statement.get("Principal")
        names = _listed(principal.get("AWS")) if isinstance(principal, dict) else _listed(principal)
        ours = any(own.fullmatch(str(name)) for name in names)
        if statement.get("Effect") == "Allow" and ours:
            return True
    return False


def allowed(documents: Sequence[Document], action: str, resource: str) -> bool:
    """IAM's rule: an explicit Deny wins, else an Allow is needed. Conditions are ignored."""
    verdict = False
    for document in documents:
        for statement in _statements(document):
            if not _covers(statement, action, resource):
                continue
            if statement.get("Effect") == "Deny":
                return False
            verdict = True
    return verdict


def _covers(statement: Document, action: str, resource: str) -> bool:
    actions = [str(item).lower() for item in _listed(statement.get("Action"))]
    resources = [str(item) for item in _listed(statement.get("Resource"))]
    return any(fnmatchcase(action.lower(), item) for item in actions) and any(
        fnmatchcase(resource, item) for item in resources
    )


def missing(
    documents: Sequence[Document], *, bucket: str, key: str, kms_keys: Sequence[str] = (), partition: str = "aws"
) -> list[str]:
    """The actions that this import needs and the role does not allow."""
    needed = [(action, f"arn:{partition}:s3:::{bucket}") for action in BUCKET_ACTIONS if bucket]
    needed += [(action, f"arn:{partition}:s3:::{bucket}/{key}") for action in OBJECT_ACTIONS if bucket]
    needed += [(action, "*") for action in EC2_ACTIONS]
    needed += [(action, kms_key) for kms_key in kms_keys for action in KMS_ACTIONS]
    return [action for action, resource in needed if not allowed(documents, action, resource)]


def trust_document() -> dict[str, Any]:
    """As in AWS's "Required permissions for VM Import/Export"."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"Service": SERVICE},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:Externalid": EXTERNAL_ID}},
            }
        ],
    }


def export_policy_document(bucket: str, partition: str = "aws") -> dict[str, Any]:
    """What the same page adds for exports into a bucket."""
    actions = [*BUCKET_ACTIONS, *OBJECT_ACTIONS, "s3:PutObject", "s3:GetBucketAcl"]
    resources = [f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*"]
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Action": actions, "Resource": resources}],
    }


def policy_document(bucket: str, partition: str = "aws") -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Action": [*BUCKET_ACTIONS, *OBJECT_ACTIONS],
                "Resource": [f"arn:{partition}:s3:::{bucket}", f"arn:{partition}:s3:::{bucket}/*"],
            },
            {
                "Effect": "Allow",
                "Action": ["ec2:ModifySnapshotAttribute", "ec2:CopySnapshot", "ec2:RegisterImage", "ec2:Describe*"],
                "Resource": "*",
            },
            {
                "Effect": "Allow",
                "Action": [
                    "kms:CreateGrant",
                    "kms:Decrypt",
                    "kms:DescribeKey",
                    "kms:Encrypt",
                    "kms:GenerateDataKey*",
                    "kms:ReEncrypt*",
                ],
                "Resource": "*",
            },
        ],
    }
