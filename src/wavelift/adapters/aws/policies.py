"""What a role's IAM documents allow: the evaluator under pre-flight.

The documents to make are printed from :mod:`wavelift.rules.policies`, and what is tested here follows from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from wavelift.rules.policies import EXTERNAL_ID, ROLE_KEY, VMIE, Staging, role_policy

_ONE_OF: Final = {
    "ec2:Describe*": "ec2:DescribeImages",
    "kms:GenerateDataKey*": "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncrypt*": "kms:ReEncryptFrom",
}
"""A single action to ask about where the documents name many."""

Document = Mapping[str, Any]
Need = tuple[str, str]
"""Action and resource."""


def role_needs(
    bucket: str, *, prefix: str = "", kms_key_arn: str = "", partition: str = "aws", exports: str = ""
) -> list[Need]:
    """(action, resource) pairs that the service role must be allowed.

    :param exports: name of the exports bucket; empty: exports of images are not asked about.
    """
    document = role_policy(Staging(bucket, prefix, kms_key_arn, partition), exports=exports)
    return [
        (_ONE_OF.get(action, action), _one_object(statement["Resource"]))
        for statement in document["Statement"]
        for action in statement["Action"]
    ]


def identity_needs(document: Document, *, region: str, account: str) -> list[Need]:
    """(action, resource) pairs that connector or caller must be allowed, of the policy that is made for it.

    :param region: where it works. :param account: its number.
    """
    named = {
        ":ec2:*::": f":ec2:{region}::",
        ":ec2:*:*:": f":ec2:{region}:{account}:",
        "export-*-task": "export-instance-task",
    }
    found = []
    for statement in statements_of(document):
        resource = str(statement["Resource"])
        for wild, one in named.items():
            resource = resource.replace(wild, one)
        found += [(_ONE_OF.get(action, action), _one_object(resource)) for action in statement["Action"]]
    return found


def key_needs(kms_key_arn: str) -> list[Need]:
    """(action, resource) pairs that the service role must be allowed on the key of staged objects."""
    return [(_ONE_OF.get(action, action), kms_key_arn) for action in ROLE_KEY]


def _one_object(resource: str) -> str:
    """Of a folder's objects, or of all snapshots, one; all else as it is."""
    one = "disk-0.vmdk" if ":s3:::" in resource else "0"
    return f"{resource.removesuffix('*')}{one}" if resource.endswith("/*") else resource


def missing_actions(documents: Iterable[Document], needs: Iterable[Need]) -> tuple[str, ...]:
    """Actions of ``needs`` that the documents don't allow; see :func:`missing_needs`."""
    return tuple(dict.fromkeys(action for action, _ in missing_needs(documents, needs)))


def missing_needs(documents: Iterable[Document], needs: Iterable[Need]) -> tuple[Need, ...]:
    """Those of ``needs`` that the documents don't allow: a Deny wins, then some Allow must cover it.

    Simple on purpose: a conditional Deny is not counted, a conditional Allow is; boundaries and organisation policies
    are not seen.
    """
    statements = [statement for document in documents for statement in statements_of(document)]
    return tuple(
        dict.fromkeys((action, resource) for action, resource in needs if not _allowed(statements, action, resource))
    )


def _allowed(statements: Sequence[Document], action: str, resource: str) -> bool:
    covering = [statement for statement in statements if covers(statement, action, resource)]
    if any(one.get("Effect") == "Deny" and not one.get("Condition") for one in covering):
        return False
    return any(one.get("Effect") == "Allow" for one in covering)


def acts(statement: Document, action: str) -> bool:
    """Whether a statement is about an action, on whatever resource."""
    if "NotAction" in statement:
        return not _matches(statement["NotAction"], action, fold=True)
    return _matches(statement.get("Action"), action, fold=True)


def covers(statement: Document, action: str, resource: str) -> bool:
    """Whether a statement is about an action on a resource. Conditions are not looked at."""
    if "NotResource" in statement:
        return acts(statement, action) and not _matches(statement["NotResource"], resource)
    return acts(statement, action) and _matches(statement.get("Resource"), resource)


def _matches(patterns: object, text: str, *, fold: bool = False) -> bool:
    """IAM's wildcards are ``*`` and ``?`` only; actions ignore case. What is needed of "*" is any resource."""
    return any(
        re.fullmatch(_wildcard(pattern), text, re.IGNORECASE if fold else re.NOFLAG) is not None
        for pattern in listed(patterns)
    )


def _wildcard(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")


def trust_problem(document: Document) -> str:
    """What keeps VM Import from assuming the role; empty when nothing does."""
    services = [
        statement
        for statement in statements_of(document)
        if statement.get("Effect") == "Allow"
        and _matches(statement.get("Action"), "sts:AssumeRole", fold=True)
        and VMIE in listed(_principal(statement, "Service"))
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
                    yield from listed(value)


def statements_of(document: Document) -> list[Document]:
    found = document.get("Statement", [])
    return [found] if isinstance(found, Mapping) else list(found)


def listed(value: object) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else [str(each) for each in value] if isinstance(value, list) else []
