"""What a bucket's policy grants to other accounts of what VM Export needs, and what it denies (VIE-02).

AWS's page on the export of instances prepares the bucket by a policy: ``s3:GetBucketAcl`` and ``s3:PutObject`` for a
canonical id. They are told as the ACL's grants that they stand for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from wavelift.adapters.aws.policies import Document, acts, covers, listed, statements_of
from wavelift.rules.export_facts import EVERYBODY, DenialFacts, GrantFacts

ACTIONS: Final = {"READ_ACP": "s3:GetBucketAcl", "WRITE": "s3:PutObject"}
"""Of a policy, for what an ACL calls so."""
KEYS: Final = ("\x01", "\x01/\x02")
"""Only a pattern that covers every key covers both: no policy names these."""
PRINCIPALS: Final = ("CanonicalUser", "AWS")
ENCRYPTED_LINE: Final = {"aws:securetransport", "s3:tlsversion"}
"""Conditions on the line alone: AWS's services use TLS."""


def grants_of(policy: Document, bucket: str, partition: str) -> Iterator[GrantFacts]:
    """What it allows without any condition, on the bucket and on all its keys."""
    for statement in statements_of(policy):
        if statement.get("Effect") != "Allow" or statement.get("Condition"):
            continue
        if any(each in statement for each in ("NotPrincipal", "NotAction", "NotResource")):
            continue
        permissions = [each for each in ACTIONS if _covers_all(statement, each, bucket, partition)]
        for who in _principals(statement.get("Principal")):
            yield from (GrantFacts(grantee=who, permission=each, by="policy") for each in permissions)


def denials_of(policy: Document, bucket: str, partition: str) -> Iterator[DenialFacts]:
    """What it denies to anybody, also of some keys alone or under a condition."""
    for number, statement in enumerate(statements_of(policy), 1):
        if statement.get("Effect") != "Deny" or _of_the_line(statement):
            continue
        actions = tuple(
            action
            for permission, action in ACTIONS.items()
            if acts(statement, action) and _touches(statement, permission, bucket, partition)
        )
        if not actions:
            continue
        excepted = tuple(_principals(statement.get("NotPrincipal")))
        yield DenialFacts(
            statement=str(statement.get("Sid") or f"number {number}"),
            actions=actions,
            grantees=(EVERYBODY,) if excepted else tuple(_principals(statement.get("Principal"))),
            excepted=excepted,
            conditional=bool(statement.get("Condition")),
        )


def _resources(permission: str, bucket: str, partition: str) -> list[str]:
    arn = f"arn:{partition}:s3:::{bucket}"
    return [arn] if permission == "READ_ACP" else [f"{arn}/{key}" for key in KEYS]


def _covers_all(statement: Document, permission: str, bucket: str, partition: str) -> bool:
    return all(covers(statement, ACTIONS[permission], each) for each in _resources(permission, bucket, partition))


def _touches(statement: Document, permission: str, bucket: str, partition: str) -> bool:
    """Whether some of the resources may be meant: a pattern that begins like a key of the bucket counts."""
    if permission == "READ_ACP" or "NotResource" in statement:
        return _covers_all(statement, permission, bucket, partition)
    objects = f"arn:{partition}:s3:::{bucket}/"
    for each in listed(statement.get("Resource")):
        begin = re.split(r"[*?]", each)[0]
        if begin.startswith(objects) or (begin != each and objects.startswith(begin)):
            return True
    return False


def _of_the_line(statement: Document) -> bool:
    tests: Mapping[str, Any] = statement.get("Condition") or {}
    keys = {key.lower() for values in tests.values() for key in values}
    return bool(keys) and keys <= ENCRYPTED_LINE


def _principals(principal: object) -> list[str]:
    """Canonical ids, account numbers and ARNs; ``*`` is everybody. Services are none."""
    if isinstance(principal, str):
        return [principal]
    if not isinstance(principal, Mapping):
        return []
    return [who for kind in PRINCIPALS for who in listed(principal.get(kind))]
