"""Pre-flight's look at the account: each fault shows as the fact that it is (AMP-06)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import pytest

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks, AccountNames
from wavelift.base.errors import LoginError
from wavelift.base.regions import partition_of
from wavelift.rules.policies import Staging, role_policy, trust_policy
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

ROLE = "vmimport-test"


@pytest.fixture
def checks(access: AwsAccess) -> AccountChecks:
    return AccountChecks(access)


@pytest.fixture
def make_role(access: AwsAccess) -> Iterator[Callable[[dict[str, Any], dict[str, Any]], None]]:
    iam = access.client("iam")

    def make(trust: dict[str, Any], policy: dict[str, Any]) -> None:
        iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(trust))
        iam.put_role_policy(RoleName=ROLE, PolicyName="inline", PolicyDocument=json.dumps(policy))

    yield make
    iam.delete_role_policy(RoleName=ROLE, PolicyName="inline")
    iam.delete_role(RoleName=ROLE)


def test_amp_06_a_good_account_shows_as_good(aws: AwsSimulator, checks: AccountChecks, account: Bootstrap) -> None:
    facts = checks.account(
        AccountNames(
            role=account.role,
            bucket=account.bucket,
            kms_key=account.kms_key_arn,
            vpc=account.vpc_id,
            subnets=account.subnet_ids,
            security_groups=[account.security_group_id],
            instance_types=["t3.medium", "no.such"],
        )
    )
    assert facts.role.exists
    assert (facts.role.trust_problem, facts.role.missing_actions, facts.role.unknown) == ("", (), "")
    assert facts.role.arn.startswith(f"arn:aws:iam::{facts.account}:role/")
    assert (facts.bucket.exists, facts.bucket.region, facts.bucket.owned) == (True, aws.region, True)
    assert facts.bucket.versioned is False
    assert facts.key is not None
    assert facts.key.problem == ""
    assert facts.network.vpcs == {account.vpc_id}
    assert {one.subnet_id: one.vpc_id for one in facts.network.subnets.values()} == dict.fromkeys(
        account.subnet_ids, account.vpc_id
    )
    assert all(one.free_addresses > 0 and one.zone.startswith(aws.region) for one in facts.network.subnets.values())
    assert facts.network.security_groups == {account.security_group_id: account.vpc_id}
    assert list(facts.instance_types) == ["t3.medium"]
    assert facts.instance_types["t3.medium"].zones
    assert facts.instance_types["t3.medium"].boot_modes
    assert facts.ebs_encrypted_by_default is False


def test_amp_06_what_is_missing_is_missing_not_an_error(checks: AccountChecks) -> None:
    facts = checks.account(
        AccountNames(
            role="no-such-role",
            bucket="no-such-bucket",
            kms_key="alias/none",
            vpc="vpc-00000000000000000",
            subnets=["subnet-00000000000000000"],
            security_groups=["sg-00000000000000000"],
        )
    )
    assert not facts.role.exists
    assert not facts.bucket.exists
    assert facts.key is not None
    assert not facts.key.exists
    assert "does not exist" in facts.key.problem
    assert (facts.network.vpcs, facts.network.subnets, facts.network.security_groups) == (frozenset(), {}, {})
    assert facts.instance_types == {}


def test_amp_06_a_role_lacks_what_its_policy_lacks(
    checks: AccountChecks, account: Bootstrap, make_role: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    policy = role_policy(Staging(account.bucket))
    policy["Statement"].append({"Effect": "Deny", "Action": "s3:Get*", "Resource": f"arn:aws:s3:::{account.bucket}/*"})
    make_role(trust_policy(), policy)
    facts = checks.role(ROLE, bucket=account.bucket, kms_key_arn=account.kms_key_arn)
    assert facts.trust_problem == ""
    assert "s3:GetObject" in facts.missing_actions
    assert "kms:CreateGrant" in facts.missing_actions
    assert "s3:ListBucket" not in facts.missing_actions


def test_amp_06_attached_policies_count(
    access: AwsAccess,
    checks: AccountChecks,
    account: Bootstrap,
    make_role: Callable[[dict[str, Any], dict[str, Any]], None],
) -> None:
    nothing = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "sqs:*", "Resource": "*"}]}
    make_role(trust_policy(), nothing)
    assert len(checks.role(ROLE, bucket=account.bucket).missing_actions) >= 7
    iam = access.client("iam")
    document = json.dumps(role_policy(Staging(account.bucket)))
    arn = iam.create_policy(PolicyName="vmimport-attached", PolicyDocument=document)["Policy"]["Arn"]
    iam.attach_role_policy(RoleName=ROLE, PolicyArn=arn)
    try:
        assert checks.role(ROLE, bucket=account.bucket).missing_actions == ()
    finally:
        iam.detach_role_policy(RoleName=ROLE, PolicyArn=arn)
        iam.delete_policy(PolicyArn=arn)


def test_amp_06_a_wrong_trust_is_said(
    checks: AccountChecks, account: Bootstrap, make_role: Callable[[dict[str, Any], dict[str, Any]], None]
) -> None:
    trust = trust_policy()
    trust["Statement"][0]["Condition"] = {"StringEquals": {"sts:Externalid": "other"}}
    make_role(trust, role_policy(Staging(account.bucket)))
    assert "it is other" in checks.role(ROLE, bucket=account.bucket).trust_problem


@pytest.mark.parametrize("service", ["iam", "s3", "kms", "ec2"])
def test_amp_06_what_we_may_not_see_is_unknown_not_wrong(
    aws: AwsSimulator, checks: AccountChecks, account: Bootstrap, service: str
) -> None:
    code = "UnauthorizedOperation" if service == "ec2" else "AccessDenied"
    aws.rule(service=service, code=code, status=403, message="no")
    facts = checks.account(
        AccountNames(role=account.role, bucket=account.bucket, kms_key=account.kms_key_arn, subnets=account.subnet_ids)
    )
    assert facts.key is not None
    unknown = {
        "iam": facts.role.unknown,
        "s3": facts.bucket.unknown,
        "kms": facts.key.unknown,
        "ec2": facts.network.unknown,
    }
    assert [name for name, reason in unknown.items() if reason] == [service]
    assert f"{service}:" in unknown[service]
    assert (facts.ebs_encrypted_by_default is None) is (service == "ec2")


def test_a_bucket_that_keeps_versions_is_told_from_one_that_may_not_be_asked(
    aws: AwsSimulator, access: AwsAccess, checks: AccountChecks
) -> None:
    s3, name = access.client("s3"), "staging-versions"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": aws.region})
    said = []
    for status in ("Enabled", "Suspended"):
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": status})
        said.append(checks.bucket(name, account="123456789012").versioned)
    aws.rule(service="s3", operation="GetBucketVersioning", code="AccessDenied", status=403)
    said.append(checks.bucket(name, account="123456789012").versioned)
    s3.delete_bucket(Bucket=name)
    assert said == [True, False, None]


@pytest.mark.parametrize(("refusals", "owned"), [(1, False), (2, None)])
def test_amp_06_a_bucket_we_may_not_look_into_is_not_called_a_stranger_s(
    aws: AwsSimulator, checks: AccountChecks, account: Bootstrap, refusals: int, owned: bool | None
) -> None:
    """S3 refuses both with the same 403: a call that names another owner, and one without s3:ListBucket."""
    aws.rule(service="s3", operation="HeadBucket", code="AccessDenied", status=403, count=refusals)
    assert checks.bucket(account.bucket, account="111122223333").owned is owned


def test_amp_06_instance_types_that_we_may_not_see_are_unknown_too(
    aws: AwsSimulator, checks: AccountChecks, account: Bootstrap
) -> None:
    aws.rule(service="ec2", operation="DescribeInstanceTypeOfferings", code="UnauthorizedOperation", status=403)
    facts = checks.account(
        AccountNames(
            role=account.role, bucket=account.bucket, vpc=account.vpc_id, instance_types=["t3.medium", "no.such"]
        )
    )
    assert facts.instance_types == {}
    assert "ec2:DescribeInstanceTypeOfferings" in facts.network.unknown


def test_amp_06_refused_credentials_are_an_error(aws: AwsSimulator, connect: Callable[..., AwsAccess]) -> None:
    session = aws.session(aws_access_key_id="AKIANOBODY0000000000", aws_secret_access_key="x")
    with pytest.raises(LoginError):
        AccountChecks(connect(session)).account_id()


@pytest.mark.parametrize("region", ["us-gov-west-1", "cn-north-1", "eusc-de-east-1"])
def test_amp_06_a_good_account_of_another_partition_shows_as_good(
    aws: AwsSimulator, connect: Callable[..., AwsAccess], region: str
) -> None:
    """The role's policy names ARNs of its own partition, and so does what it is held against."""
    home, partition = aws.region, partition_of(region)
    aws.settings(region=region)
    try:
        session = boto3.Session(aws.access_key, aws.secret_key, region_name=region)
        access = connect(session, region=region)
        key = access.client("kms").create_key()["KeyMetadata"]["Arn"]
        access.client("s3").create_bucket(
            Bucket=f"staging-{region}", CreateBucketConfiguration={"LocationConstraint": region}
        )
        iam = access.client("iam")
        iam.create_role(RoleName="vmimport", AssumeRolePolicyDocument=json.dumps(trust_policy()))
        document = json.dumps(role_policy(Staging(f"staging-{region}", "", key, partition)))
        iam.put_role_policy(RoleName="vmimport", PolicyName="inline", PolicyDocument=document)
        facts = AccountChecks(access).account(AccountNames(role="vmimport", bucket=f"staging-{region}", kms_key=key))
        assert (facts.role.trust_problem, facts.role.missing_actions, facts.role.unknown) == ("", (), "")
        assert facts.role.arn.split(":")[1] == key.split(":")[1] == partition
        assert (facts.bucket.exists, facts.bucket.region, facts.bucket.owned) == (True, region, True)
        assert facts.key is not None
        assert facts.key.problem == ""
        access.client("s3").delete_bucket(Bucket=f"staging-{region}")
    finally:
        aws.settings(region=home)


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.fixture
def interface(access: AwsAccess, account: Bootstrap) -> Iterator[Callable[..., str]]:
    """Interfaces that other people made in the first subnet."""
    ec2 = access.client("ec2")
    made: list[str] = []

    def make(address: str, *more: str, words: str = "") -> str:
        addresses = [{"PrivateIpAddress": each, "Primary": each == address} for each in (address, *more)]
        options = {"PrivateIpAddresses": addresses, "Description": words}
        made.append(
            ec2.create_network_interface(SubnetId=account.subnet_ids[0], **options)["NetworkInterface"][
                "NetworkInterfaceId"
            ]
        )
        return made[-1]

    yield make
    for each in made:
        ec2.delete_network_interface(NetworkInterfaceId=each)


def test_amp_01_who_has_an_address_is_told_by_one_call(
    aws: AwsSimulator, checks: AccountChecks, account: Bootstrap, interface: Callable[..., str]
) -> None:
    """First and further addresses of an interface, of this subnet and not of the same address elsewhere."""
    near, far = account.subnet_ids[:2]
    first = interface("10.20.1.40", "10.20.1.41", words="ELB app/shop\u202e")
    aws.reset_counters()
    wanted = [(near, f"10.20.1.{last}") for last in (40, 41, 42)] + [(far, "10.20.1.40")]
    names = AccountNames(role=account.role, bucket=account.bucket, subnets=[near, far], addresses=wanted)
    facts = checks.account(names)
    assert set(facts.network.taken) == {(near, "10.20.1.40"), (near, "10.20.1.41")}
    assert all(
        first in who.words and "ELB app/shop" in who.words and "\u202e" not in who.words and not who.attached
        for who in facts.network.taken.values()
    )
    assert aws.counters()["ec2.DescribeNetworkInterfaces"]["calls"] == 1
    assert checks.account(AccountNames(role=account.role, bucket=account.bucket)).network.taken == {}
    assert aws.counters()["ec2.DescribeNetworkInterfaces"]["calls"] == 1, "nothing was asked for"


def test_amp_01_who_may_not_ask_for_addresses_hears_of_the_rest(
    aws: AwsSimulator, checks: AccountChecks, account: Bootstrap
) -> None:
    aws.rule(service="ec2", operation="DescribeNetworkInterfaces", code="UnauthorizedOperation", status=403)
    near = account.subnet_ids[0]
    facts = checks.account(
        AccountNames(role=account.role, bucket=account.bucket, subnets=[near], addresses=[(near, "10.20.1.9")])
    )
    assert "ec2:DescribeNetworkInterfaces" in facts.network.addresses_unknown
    assert not facts.network.unknown
    assert set(facts.network.subnets) == {near}
