"""A role's IAM documents: what is missing is named, and the documents that we print lack nothing."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.adapters.aws.policies import missing_actions, role_needs, trust_problem
from wavelift.rules.policies import Staging, role_policy, trust_policy

pytestmark = pytest.mark.unit

KEY = "arn:aws:kms:eu-west-1:111122223333:key/1"


@pytest.mark.parametrize("partition", ["aws", "aws-cn"])
def test_sms_13_the_printed_role_policy_is_enough(partition: str) -> None:
    policy = role_policy(Staging("staging", "/p/", KEY, partition))
    needs = role_needs("staging", prefix="p", kms_key_arn=KEY, partition=partition)
    assert missing_actions([policy], needs) == ()
    assert trust_problem(trust_policy()) == ""
    assert trust_problem(trust_policy("111122223333")) == ""


def test_what_is_needed_is_single_actions_on_single_things() -> None:
    needs = role_needs("staging", prefix="p", kms_key_arn=KEY)
    assert ("s3:GetObject", "arn:aws:s3:::staging/p/disk-0.vmdk") in needs
    assert ("s3:ListBucket", "arn:aws:s3:::staging") in needs
    assert ("ec2:DescribeImages", "*") in needs
    assert {("kms:CreateGrant", KEY), ("kms:ReEncryptFrom", KEY)} <= set(needs)
    assert not [action for action, _ in needs if "*" in action]


def test_amp_06_each_missing_action_is_named() -> None:
    for action in ("s3:GetBucketLocation", "s3:GetObject", "ec2:CopySnapshot"):
        deny = {"Statement": {"Effect": "Deny", "Action": action, "Resource": "*"}}
        assert missing_actions([role_policy(Staging("staging")), deny], role_needs("staging")) == (action,)
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
