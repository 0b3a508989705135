"""A role's IAM documents: what is missing is named, and the documents that we print lack nothing."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.adapters.aws.policies import identity_needs, missing_actions, missing_needs, role_needs, trust_problem
from wavelift.rules.calls import OFFERED
from wavelift.rules.policies import Staging, identity_policy, role_policy, trust_policy

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


@pytest.mark.parametrize("identity", ["connector", "caller"])
def test_sms_13_the_printed_policy_is_enough_for_its_identity(identity: Any) -> None:
    staging = Staging("staging", "p", KEY, exports="export-to-s3-a-eu-west-1")
    policy = identity_policy(identity, staging, role_arn="arn:aws:iam::1:role/vmimport", features=OFFERED)
    needs = identity_needs(policy, region="eu-west-1", account="111122223333")
    assert missing_needs([policy], needs) == ()
    assert missing_needs([], needs) == tuple(dict.fromkeys(needs))
    assert not [need for need in needs if "*" in need[0] or ("*" in need[1] and need[1] != "*")]


def test_sms_13_the_same_action_may_lack_on_one_resource_only() -> None:
    needs = identity_needs(identity_policy("connector", Staging("b")), region="eu-west-1", account="111122223333")
    elsewhere = {"Effect": "Allow", "Action": "*", "Resource": ["*"]}
    narrow = {"Effect": "Deny", "Action": "ec2:CancelImportTask", "Resource": "arn:aws:ec2:*:*:import-image-task/*"}
    (lacking,) = missing_needs([{"Statement": [elsewhere, narrow]}], needs)
    assert lacking == ("ec2:CancelImportTask", "arn:aws:ec2:eu-west-1:111122223333:import-image-task/0")


def test_amp_06_each_missing_action_is_named() -> None:
    for action in ("s3:GetBucketLocation", "s3:GetObject", "ec2:CopySnapshot"):
        deny = {"Statement": {"Effect": "Deny", "Action": action, "Resource": "*"}}
        assert missing_actions([role_policy(Staging("staging")), deny], role_needs("staging")) == (action,)
    for action in ("s3:GetBucketAcl", "s3:PutObject"):
        policy, needs = role_policy(Staging("staging")), role_needs("staging", exports="export-to-s3-a-eu-west-1")
        assert action in missing_actions([policy], needs)
        assert missing_actions([role_policy(Staging("staging"), exports="export-to-s3-a-eu-west-1")], needs) == ()
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
