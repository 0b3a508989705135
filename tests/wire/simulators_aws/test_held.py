"""An access key that is held to policies: what is not allowed is refused as each service spells it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.kit.process import SimulatorError

pytestmark = pytest.mark.wire

ONE_TRY = Config(retries={"total_max_attempts": 1})
SNAPSHOT = "snap-0123456789abcdef0"
Refused = Callable[..., ClientError]
Hold = Callable[..., Any]


@pytest.fixture
def hold(sim: AwsSimulator) -> Iterator[Hold]:
    """A session of a user with these statements."""

    def make(*statements: dict[str, Any], user: str = "jo") -> Any:
        return sim.hold(user, [{"Version": "2012-10-17", "Statement": [one]} for one in statements])

    yield make
    sim.let_go()


def allow(*actions: str, on: str | list[str] = "*", **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": list(actions), "Resource": on, **more}


def client(sim: AwsSimulator, session: Any, service: str) -> Any:
    return session.client(service, endpoint_url=sim.endpoint_url, verify=sim.verify, config=ONE_TRY)


@pytest.mark.parametrize(
    ("service", "code", "status", "action", "call"),
    [
        ("s3", "AccessDenied", 403, "s3:GetObject", lambda s3: s3.get_object(Bucket="staging", Key="x")),
        ("ec2", "UnauthorizedOperation", 403, "ec2:DescribeVpcs", lambda ec2: ec2.describe_vpcs()),
        (
            "ebs",
            "AccessDeniedException",
            403,
            "ebs:ListSnapshotBlocks",
            lambda ebs: ebs.list_snapshot_blocks(SnapshotId=SNAPSHOT),
        ),
        ("iam", "AccessDenied", 403, "iam:GetRole", lambda iam: iam.get_role(RoleName="vmimport")),
        ("route53", "AccessDenied", 403, "route53:GetChange", lambda dns: dns.get_change(Id="C0123456789")),
        (
            "elbv2",
            "AccessDenied",
            403,
            "elasticloadbalancing:DescribeTargetGroups",
            lambda elb: elb.describe_target_groups(),
        ),
        (
            "ssm",
            "AccessDeniedException",
            400,
            "ssm:DescribeInstanceInformation",
            lambda ssm: ssm.describe_instance_information(),
        ),
        ("kms", "AccessDeniedException", 400, "kms:DescribeKey", lambda kms: kms.describe_key(KeyId="alias/x")),
        (
            "sts",
            "AccessDenied",
            403,
            "sts:AssumeRole",
            lambda sts: sts.assume_role(RoleArn=f"arn:aws:iam::{ACCOUNT}:role/wavelift", RoleSessionName="xy"),
        ),
    ],
)
def test_what_no_policy_allows_is_refused(
    sim: AwsSimulator,
    base: Bootstrap,
    hold: Hold,
    refused: Refused,
    service: str,
    code: str,
    status: int,
    action: str,
    call: Callable[[Any], Any],
) -> None:
    session = hold(allow("sqs:*"))
    error = refused(code, lambda: call(client(sim, session, service)))
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == status
    words = f"User: arn:aws:iam::{ACCOUNT}:user/jo is not authorized to perform: {action}"
    assert words in error.response["Error"]["Message"]
    assert f"because no identity-based policy allows the {action} action" in error.response["Error"]["Message"]
    assert [one["action"] for one in sim.held()["jo"]["denied"]] == [action]
    assert sim.held()["jo"]["used"] == []
    with suppress(ClientError):  # there is no such thing
        call(client(sim, hold(allow(action), user="flo"), service))
    assert sim.held()["flo"]["denied"] == []
    assert [one["action"] for one in sim.held()["flo"]["used"]] == [action]


def test_who_one_is_can_always_be_asked(sim: AwsSimulator, hold: Hold) -> None:
    session = hold({"Effect": "Deny", "Action": "*", "Resource": "*"})
    assert client(sim, session, "sts").get_caller_identity()["Arn"] == f"arn:aws:iam::{ACCOUNT}:user/jo"


def test_an_explicit_deny_wins_and_actions_ignore_case(sim: AwsSimulator, hold: Hold, refused: Refused) -> None:
    session = hold(allow("EC2:describe*"), {"Effect": "Deny", "Action": "ec2:DescribeVpcs", "Resource": "*"})
    ec2 = client(sim, session, "ec2")
    ec2.describe_subnets()
    error = refused("UnauthorizedOperation", ec2.describe_vpcs)
    assert "with an explicit deny" in error.response["Error"]["Message"]


def test_an_action_that_has_no_name_here_is_refused_to_all(sim: AwsSimulator, hold: Hold, refused: Refused) -> None:
    session = hold(allow("*"))
    refused("UnauthorizedOperation", lambda: client(sim, session, "ec2").create_vpc(CidrBlock="10.9.0.0/16"))
    refused(
        "AccessDenied", lambda: client(sim, session, "s3").put_bucket_tagging(Bucket="staging", Tagging={"TagSet": []})
    )
    refused("AccessDeniedException", lambda: client(sim, session, "kms").list_keys())


def test_objects_are_told_from_their_bucket_and_from_other_folders(
    sim: AwsSimulator, base: Bootstrap, hold: Hold, refused: Refused
) -> None:
    arn = f"arn:aws:s3:::{base.bucket}"
    session = hold(allow("s3:PutObject", "s3:DeleteObject", on=f"{arn}/ours/*"), allow("s3:ListBucket", on=arn))
    s3 = client(sim, session, "s3")
    for key in ("ours/a", "ours/b"):
        s3.put_object(Bucket=base.bucket, Key=key, Body=b"x")
    assert s3.list_objects_v2(Bucket=base.bucket, Prefix="ours/")["KeyCount"] == 2
    refused("AccessDenied", lambda: s3.put_object(Bucket=base.bucket, Key="theirs", Body=b"x"))
    refused("AccessDenied", lambda: s3.put_object(Bucket=base.bucket, Key="ours/c", Body=b"x", Tagging="a=b"))
    refused("AccessDenied", lambda: s3.delete_object(Bucket=base.bucket, Key="ours/a", VersionId="null"))
    keys = [{"Key": key} for key in ("ours/a", "ours/b", "theirs")]
    answer = s3.delete_objects(Bucket=base.bucket, Delete={"Objects": keys})
    assert sorted(one["Key"] for one in answer["Deleted"]) == ["ours/a", "ours/b"]
    assert [(one["Key"], one["Code"]) for one in answer["Errors"]] == [("theirs", "AccessDenied")]


def test_conditions_see_the_tags_of_a_snapshot(sim: AwsSimulator, hold: Hold, refused: Refused) -> None:
    ours = {"StringLike": {"aws:ResourceTag/ours": "*"}}
    snapshots = f"arn:aws:ec2:{sim.region}::snapshot/*"
    session = hold(
        allow("ebs:StartSnapshot", "ec2:CreateTags", on=snapshots),
        allow("ebs:CompleteSnapshot", "ec2:DeleteSnapshot", on=snapshots, Condition=ours),
    )
    ebs, ec2 = client(sim, session, "ebs"), client(sim, session, "ec2")
    tagged = ebs.start_snapshot(VolumeSize=1, Tags=[{"Key": "ours", "Value": "1"}])["SnapshotId"]
    bare = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    refused("AccessDeniedException", lambda: ebs.complete_snapshot(SnapshotId=bare, ChangedBlocksCount=0))
    ebs.complete_snapshot(SnapshotId=tagged, ChangedBlocksCount=0)
    refused("UnauthorizedOperation", lambda: ec2.delete_snapshot(SnapshotId=bare))
    ec2.delete_snapshot(SnapshotId=tagged)
    sim.client("ec2").delete_snapshot(SnapshotId=bare)


def test_to_tag_while_making_needs_the_right_to_tag(sim: AwsSimulator, hold: Hold, refused: Refused) -> None:
    ebs = client(sim, hold(allow("ebs:*")), "ebs")
    error = refused(
        "AccessDeniedException", lambda: ebs.start_snapshot(VolumeSize=1, Tags=[{"Key": "a", "Value": "b"}])
    )
    assert "ec2:CreateTags" in error.response["Error"]["Message"]


def test_what_is_encrypted_needs_the_key(sim: AwsSimulator, base: Bootstrap, hold: Hold, refused: Refused) -> None:
    sse = {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": base.kms_key_arn}
    s3 = client(sim, hold(allow("s3:*")), "s3")
    error = refused("AccessDenied", lambda: s3.put_object(Bucket=base.bucket, Key="k", Body=b"x", **sse))
    assert "kms:GenerateDataKey" in error.response["Error"]["Message"]
    writer = client(sim, hold(allow("s3:*"), allow("kms:GenerateDataKey", on=base.kms_key_arn), user="w"), "s3")
    writer.put_object(Bucket=base.bucket, Key="k", Body=b"x", **sse)
    error = refused("AccessDenied", lambda: writer.get_object(Bucket=base.bucket, Key="k"))
    assert "kms:Decrypt" in error.response["Error"]["Message"]
    s3.delete_object(Bucket=base.bucket, Key="k")


def test_a_session_has_its_user_s_rights_and_goes_with_him(sim: AwsSimulator, hold: Hold, refused: Refused) -> None:
    session = hold(allow("ec2:DescribeVpcs", Sid="Look"))
    keys = client(sim, session, "sts").get_session_token()["Credentials"]
    borrowed = sim.session(
        aws_access_key_id=keys["AccessKeyId"],
        aws_secret_access_key=keys["SecretAccessKey"],
        aws_session_token=keys["SessionToken"],
    )
    refused("UnauthorizedOperation", client(sim, borrowed, "ec2").describe_subnets)
    client(sim, borrowed, "ec2").describe_vpcs()
    assert sim.held()["jo"]["used"] == [{"sid": "Look", "action": "ec2:DescribeVpcs", "times": 1}]
    sim.let_go()
    assert sim.held() == {}
    for gone in (session, borrowed):
        refused("AuthFailure", client(sim, gone, "ec2").describe_vpcs)


def test_statements_that_are_not_evaluated_are_no_policy(sim: AwsSimulator, hold: Hold) -> None:
    for wrong in (
        {"Effect": "Allow", "NotAction": "s3:*", "Resource": "*"},
        {"Effect": "Perhaps", "Action": "s3:*", "Resource": "*"},
        {"Effect": "Allow", "Action": "s3:*"},
    ):
        with pytest.raises(SimulatorError, match="a statement has Effect, Action and Resource"):
            hold(wrong)
    assert sim.held() == {}


def test_calls_of_a_cutover_are_told_by_their_resources(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, ami: str, hold: Hold, refused: Refused
) -> None:
    where = f"arn:aws:ec2:{sim.region}:{ACCOUNT}"
    subnet, group = f"{where}:subnet/{base.subnet_ids[0]}", f"{where}:security-group/{base.security_group_id}"
    session = hold(
        allow("ec2:CreateNetworkInterface", on=[subnet, group, f"{where}:network-interface/*"]),
        allow("ec2:ReplaceRoute", on=f"{where}:route-table/rtb-1"),
        allow("route53:ListResourceRecordSets", on="arn:aws:route53:::hostedzone/Z1"),
        allow(
            "ssm:SendCommand", on=[f"arn:aws:ssm:{sim.region}::document/AWS-RunShellScript", f"{where}:instance/i-1"]
        ),
    )
    mine, dns, ssm = (client(sim, session, name) for name in ("ec2", "route53", "ssm"))
    card = mine.create_network_interface(SubnetId=base.subnet_ids[0], Groups=[base.security_group_id])
    eni = card["NetworkInterface"]["NetworkInterfaceId"]
    no = "UnauthorizedOperation"
    refused(no, mine.create_network_interface, SubnetId=base.subnet_ids[1])
    refused(no, mine.delete_network_interface, NetworkInterfaceId=eni)
    refused(no, mine.stop_instances, InstanceIds=["i-1"])
    to = {"DestinationCidrBlock": "10.9.0.0/16", "NetworkInterfaceId": eni}
    refused("InvalidRouteTableID.NotFound", mine.replace_route, RouteTableId="rtb-1", **to)
    refused(no, mine.replace_route, RouteTableId="rtb-2", **to)
    refused("NoSuchHostedZone", dns.list_resource_record_sets, HostedZoneId="Z1")
    refused("AccessDenied", dns.list_resource_record_sets, HostedZoneId="Z2")
    refused("InvalidInstanceId", ssm.send_command, InstanceIds=["i-1"], DocumentName="AWS-RunShellScript")
    refused("AccessDeniedException", ssm.send_command, InstanceIds=["i-2"], DocumentName="AWS-RunShellScript")
    ec2.delete_network_interface(NetworkInterfaceId=eni)


def test_a_launch_with_a_profile_hands_its_role_on(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, ami: str, hold: Hold, refused: Refused
) -> None:
    iam = sim.client("iam")
    iam.create_role(RoleName="passed", AssumeRolePolicyDocument="{}")
    iam.create_instance_profile(InstanceProfileName="passed")
    iam.add_role_to_instance_profile(InstanceProfileName="passed", RoleName="passed")
    launch = {
        "ImageId": ami,
        "MinCount": 1,
        "MaxCount": 1,
        "InstanceType": "t3.small",
        "SubnetId": base.subnet_ids[0],
        "IamInstanceProfile": {"Name": "passed"},
    }
    refused("UnauthorizedOperation", client(sim, hold(allow("ec2:*")), "ec2").run_instances, **launch)
    session = hold(allow("ec2:*"), allow("iam:PassRole", on=f"arn:aws:iam::{ACCOUNT}:role/passed"), user="passer")
    made = client(sim, session, "ec2").run_instances(**launch)["Instances"][0]["InstanceId"]
    ec2.terminate_instances(InstanceIds=[made])
