"""What a bucket's policy grants and denies of what VM Export needs."""

from __future__ import annotations

from typing import Any, Final

import pytest

from wavelift.adapters.aws.bucket_policy import denials_of, grants_of
from wavelift.rules.export_facts import GrantFacts

pytestmark = pytest.mark.unit
ID: Final = "c4d8eabf8db69dbe46bfe0e517100c554f01200b104d59cd408e777ba442a322"
BUCKET: Final = "arn:aws:s3:::exports"
WHOLE: Final = [BUCKET, f"{BUCKET}/*"]


def statement(**changes: Any) -> dict[str, Any]:
    """Of the page: both actions for the canonical id."""
    whole = {
        "Effect": "Allow",
        "Principal": {"CanonicalUser": ID},
        "Action": ["s3:GetBucketAcl", "s3:PutObject"],
        "Resource": WHOLE,
        **changes,
    }
    return {name: value for name, value in whole.items() if value is not None}


def granted(*statements: dict[str, Any]) -> dict[str, set[str]]:
    """By grantee."""
    found: dict[str, set[str]] = {}
    for one in grants_of({"Statement": list(statements)}, "exports", "aws"):
        assert one == GrantFacts(grantee=one.grantee, permission=one.permission, by="policy")
        found.setdefault(one.grantee, set()).add(one.permission)
    return found


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, {ID: {"READ_ACP", "WRITE"}}),
        ({"Action": "s3:*"}, {ID: {"READ_ACP", "WRITE"}}),
        ({"Action": "*", "Resource": "*"}, {ID: {"READ_ACP", "WRITE"}}),
        ({"Action": ["S3:putobject", "s3:GetBucketA?l"]}, {ID: {"READ_ACP", "WRITE"}}),
        ({"Resource": f"{BUCKET}*"}, {ID: {"READ_ACP", "WRITE"}}),
        ({"Resource": BUCKET}, {ID: {"READ_ACP"}}),
        ({"Resource": f"{BUCKET}/*"}, {ID: {"WRITE"}}),
        ({"Resource": [BUCKET, f"{BUCKET}/vms/*", f"{BUCKET}/?"]}, {ID: {"READ_ACP"}}),
        ({"Resource": ["arn:aws:s3:::other", "arn:aws:s3:::other/*"]}, {}),
        ({"Resource": ["arn:aws-cn:s3:::exports", "arn:aws-cn:s3:::exports/*"]}, {}),
        ({"Action": "s3:GetObject"}, {}),
        ({"Condition": {"StringEquals": {"aws:SourceAccount": "111122223333"}}}, {}),
        ({"Effect": "Deny"}, {}),
        ({"Principal": None, "NotPrincipal": {"AWS": "111122223333"}}, {}),
        ({"Action": None, "NotAction": "s3:GetObject"}, {}),
        ({"Resource": None, "NotResource": f"{BUCKET}/private/*"}, {}),
        ({"Principal": {"Service": "vmie.amazonaws.com"}}, {}),
        ({"Principal": "*"}, {"*": {"READ_ACP", "WRITE"}}),
        (
            {"Principal": {"AWS": ["arn:aws:iam::210987654321:root", ID]}},
            {"arn:aws:iam::210987654321:root": {"READ_ACP", "WRITE"}, ID: {"READ_ACP", "WRITE"}},
        ),
    ],
)
def test_vie_02_what_a_policy_grants(changes: dict[str, Any], expected: dict[str, set[str]]) -> None:
    assert granted(statement(**changes)) == expected


def test_statements_add_up_and_one_need_not_be_in_a_list() -> None:
    acl, put = statement(Action="s3:GetBucketAcl"), statement(Action="s3:PutObject")
    assert granted(acl, put) == {ID: {"READ_ACP", "WRITE"}}
    assert [one.permission for one in grants_of({"Statement": put}, "exports", "aws")] == ["WRITE"]
    assert granted() == {}
    assert list(grants_of({}, "exports", "aws")) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (("s3:GetBucketAcl", "s3:PutObject"), (ID,), (), False)),
        ({"Principal": "*", "Action": "s3:Put*"}, (("s3:PutObject",), ("*",), (), False)),
        ({"Resource": f"{BUCKET}/vms/*"}, (("s3:PutObject",), (ID,), (), False)),
        ({"Resource": "*", "Principal": {"AWS": "*"}}, (("s3:GetBucketAcl", "s3:PutObject"), ("*",), (), False)),
        (
            {"Principal": None, "NotPrincipal": {"CanonicalUser": ID}},
            (("s3:GetBucketAcl", "s3:PutObject"), ("*",), (ID,), False),
        ),
        ({"Action": None, "NotAction": "s3:GetBucketAcl"}, (("s3:PutObject",), (ID,), (), False)),
        (
            {"Resource": None, "NotResource": [BUCKET, "arn:aws:s3:::other/*"]},
            (("s3:PutObject",), (ID,), (), False),
        ),
        (
            {"Condition": {"StringNotEquals": {"aws:PrincipalOrgID": "o-1"}}},
            (("s3:GetBucketAcl", "s3:PutObject"), (ID,), (), True),
        ),
        ({"Condition": {"Bool": {"aws:SecureTransport": "false"}}}, None),
        ({"Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}}, None),
        ({"Action": "s3:DeleteObject"}, None),
        ({"Resource": ["arn:aws:s3:::other/*", f"{BUCKET}-2/*"]}, None),
        ({"Effect": "Allow"}, None),
    ],
)
def test_vie_02_what_a_policy_denies(changes: dict[str, Any], expected: tuple[Any, ...] | None) -> None:
    denied = statement(**{"Effect": "Deny", **changes})
    found = list(denials_of({"Statement": [denied]}, "exports", "aws"))
    told = [(one.actions, one.grantees, one.excepted, one.conditional) for one in found]
    assert told == ([expected] if expected else [])


def test_a_denial_is_told_by_its_name_or_its_place() -> None:
    policy = {"Statement": [statement(), statement(Effect="Deny"), statement(Effect="Deny", Sid="Perimeter")]}
    assert [one.statement for one in denials_of(policy, "exports", "aws")] == ["number 2", "Perimeter"]
