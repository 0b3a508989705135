"""IAM documents: what we print covers what we call, and what is missing is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore import xform_name

import wavelift.adapters.aws as package
from wavelift.adapters.aws.errors import action_name
from wavelift.adapters.aws.policies import (
    caller_policy,
    connector_policy,
    missing_actions,
    role_needs,
    role_policy,
    trust_policy,
    trust_problem,
)

pytestmark = pytest.mark.unit

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"
CALL = re.compile(
    r"(?:client|iam|s3|kms|ec2)(?:\(\"\w+\"\))?\.(?:get_paginator\(\s*\"(?P<paged>\w+)\"|(?P<plain>[a-z]+_[a-z_0-9]+)\()"
)
NAMED = re.compile(r"\"((?:describe|deregister|delete)_[a-z_]+)\"")
LOCAL = {"get_object_torrent", "get_paginator"}
"""Never sent."""


def _called_actions() -> set[str]:
    """IAM actions of all boto3 calls in the adapter's sources, and of the signed client's requests."""
    sources = "".join(path.read_text() for path in Path(package.__file__).parent.glob("*.py"))
    session = boto3.Session("a", "b", region_name="eu-west-1")
    operations: dict[str, str] = {}
    for service in ("s3", "ec2", "iam", "kms", "sts", "ebs"):
        for operation in session.client(service).meta.service_model.operation_names:
            operations.setdefault(xform_name(operation), action_name(service, operation))
    names = {match["paged"] or match["plain"] for match in CALL.finditer(sources)} | set(NAMED.findall(sources))
    called = {operations[name] for name in names if name in operations and name not in LOCAL}
    return called | set(re.findall(r"action=\"(\w+:\w+)\"", sources))


def test_sms_13_the_callers_policy_covers_every_call_in_the_adapter() -> None:
    called = _called_actions()
    assert {"ec2:ImportImage", "ec2:RunInstances", "s3:PutObject", "ebs:GetSnapshotBlock", "iam:GetRole"} <= called
    policy = caller_policy("staging", role_arn="arn:aws:iam::1:role/vmimport", kms_key_arn=KEY)
    resources = {"s3": ("arn:aws:s3:::staging", "arn:aws:s3:::staging/f/disk-0.vmdk"), "kms": (KEY,)}
    missing = [
        action
        for action in sorted(called)
        if all(
            missing_actions([policy], [(action, resource)])
            for resource in resources.get(action.partition(":")[0], ("*",))
        )
    ]
    assert missing == []


def test_sms_13_the_connector_can_move_bytes_and_change_nothing_else() -> None:
    policy = connector_policy("staging", prefix="waves/")
    assert missing_actions([policy], [("s3:PutObject", "arn:aws:s3:::staging/waves/x")]) == ()
    assert missing_actions([policy], [("s3:PutObject", "arn:aws:s3:::staging/other/x")]) == ("s3:PutObject",)
    for action in ("ec2:ImportImage", "ec2:RunInstances", "iam:PassRole", "ebs:GetSnapshotBlock"):
        assert missing_actions([policy], [(action, "*")]) == (action,)


@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
def test_sms_13_the_printed_role_policy_is_enough(partition: str) -> None:
    policy = role_policy("staging", prefix="/p/", kms_key_arn=KEY, partition=partition)
    needs = role_needs("staging", prefix="p", kms_key_arn=KEY, partition=partition)
    assert missing_actions([policy], needs) == ()
    assert trust_problem(trust_policy()) == ""


def test_amp_06_each_missing_action_is_named() -> None:
    for action in ("s3:GetBucketLocation", "s3:GetObject", "ec2:CopySnapshot"):
        deny = {"Statement": {"Effect": "Deny", "Action": action, "Resource": "*"}}
        assert missing_actions([role_policy("staging"), deny], role_needs("staging")) == (action,)
    assert missing_actions([], role_needs("b")) == tuple(action for action, _ in role_needs("b"))


ANY = {"Effect": "Allow", "Action": "*", "Resource": "*"}


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ({"Effect": "Allow", "Action": "S3:getobject", "Resource": "*"}, True),
        ({"Effect": "Allow", "Action": ["ec2:*", "s3:Get*"], "Resource": ["arn:aws:s3:::b/*"]}, True),
        ({"Effect": "Allow", "Action": "s3:GetObjec?", "Resource": "arn:aws:s3:::b/k"}, True),
        ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::b"}, False),
        ({"Effect": "Allow", "Action": "s3:GetObject", "Resource": "arn:aws:s3:::B/k"}, False),
        ({"Effect": "Allow", "Action": "s3:[G]etObject", "Resource": "*"}, False),
        ({"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"}, True),
        ({"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"}, False),
        ({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::b/*"}, False),
        ({"Effect": "Allow", "Action": "s3:*", "NotResource": "arn:aws:s3:::c/*"}, True),
    ],
)
def test_statements_are_read_as_iam_reads_them(statement: dict[str, Any], allowed: bool) -> None:
    need = [("s3:GetObject", "arn:aws:s3:::b/k")]
    assert (missing_actions([{"Statement": [statement]}], need) == ()) is allowed
    denied = {**statement, "Effect": "Deny"}
    assert (missing_actions([{"Statement": [ANY, denied]}], need) == ()) is not allowed
    conditional = {**denied, "Condition": {"Bool": {"aws:SecureTransport": "false"}}}
    assert missing_actions([{"Statement": [ANY, conditional]}], need) == ()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"Principal": {"Service": "ec2.amazonaws.com"}}, "is not trusted"),
        ({"Principal": "*", "Effect": "Deny"}, "is not trusted"),
        ({"Action": "sts:TagSession"}, "is not trusted"),
        ({"Condition": {}}, "there is none"),
        ({"Condition": {"StringEquals": {"sts:ExternalId": "other"}}}, "it is other"),
    ],
)
def test_amp_06_what_is_wrong_with_the_trust_is_said(change: dict[str, Any], problem: str) -> None:
    statement = {**trust_policy()["Statement"][0], **change}
    assert problem in trust_problem({"Statement": [statement]})


def test_the_condition_key_ignores_case_and_lists_are_fine() -> None:
    statement = {
        "Effect": "Allow",
        "Principal": {"Service": ["ec2.amazonaws.com", "vmie.amazonaws.com"]},
        "Action": ["sts:AssumeRole"],
        "Condition": {"StringEquals": {"STS:EXTERNALID": ["vmimport"]}},
    }
    assert trust_problem({"Statement": statement}) == ""
