"""Run Command: only instances whose agent has reported, and commands that take time."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
Launch = Callable[..., str]
DOCUMENT = "AWS-RunShellScript"


@pytest.fixture(scope="session")
def ssm(running: AwsSimulator) -> Any:
    return running.client("ssm")


@pytest.fixture(scope="session")
def profile(running: AwsSimulator) -> str:
    iam = running.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="managed", AssumeRolePolicyDocument=document)
    iam.create_instance_profile(InstanceProfileName="managed")
    iam.add_role_to_instance_profile(InstanceProfileName="managed", RoleName="managed")
    return "managed"


@pytest.fixture
def managed(base: Bootstrap, launch: Launch, profile: str) -> str:
    return launch(SubnetId=base.subnet_ids[0], IamInstanceProfile={"Name": profile})


@pytest.fixture
def send(ssm: Any) -> Callable[..., str]:
    def call(*instances: str, document: str = DOCUMENT) -> str:
        request = {"DocumentName": document, "Parameters": {"commands": ["true"]}}
        return str(ssm.send_command(InstanceIds=list(instances), **request)["Command"]["CommandId"])

    return call


@pytest.fixture
def status(ssm: Any) -> Callable[[str, str], tuple[str, int, str]]:
    """Status, exit code and all output of a command on an instance."""

    def read(command: str, instance: str) -> tuple[str, int, str]:
        found = ssm.get_command_invocation(CommandId=command, InstanceId=instance)
        output = found["StandardOutputContent"] + found["StandardErrorContent"]
        return found["Status"], found["ResponseCode"], output

    return read


def test_a_command_takes_time_and_ends_as_it_is_told(
    sim: AwsSimulator, ssm: Any, managed: str, send: Any, status: Any, refused: Refused
) -> None:
    sim.settings(command_seconds=30)
    first = send(managed)
    sim.rule(kind="command", key=managed, output="no such service", count=1)
    failed = send(managed)
    sim.rule(kind="command", key=managed, outcome="stuck", count=1)
    stuck, cancelled = send(managed), send(managed)
    assert status(first, managed) == ("Pending", -1, "")
    sim.advance(31)
    assert status(failed, managed) == ("InProgress", -1, "")
    ssm.cancel_command(CommandId=cancelled)
    sim.advance(31)
    assert status(first, managed) == ("Success", 0, "")
    assert status(failed, managed) == ("Failed", 1, "no such service")
    assert status(stuck, managed)[0] == "InProgress"
    assert status(cancelled, managed)[0] == "Cancelled"
    sim.clear_rules()
    assert status(stuck, managed)[0] == "Success"
    refused("InvocationDoesNotExist", ssm.get_command_invocation, CommandId=first, InstanceId="i-0123456789abcdef0")
    sim.settings(unseen_seconds=5)
    refused("InvocationDoesNotExist", ssm.get_command_invocation, CommandId=send(managed), InstanceId=managed)


def test_who_can_be_commanded(
    sim: AwsSimulator, ec2: Any, ssm: Any, base: Bootstrap, managed: str, launch: Launch, send: Any, refused: Refused
) -> None:
    plain = launch(SubnetId=base.subnet_ids[0])
    refused("InvalidInstanceId", send, plain)
    refused("InvalidInstanceId", send, managed, plain)
    refused("InvalidDocument", send, managed, document="Wavelift-Unknown")

    def known() -> list[str]:
        wanted = [{"Key": "InstanceIds", "Values": [managed, plain]}]
        rows = ssm.describe_instance_information(Filters=wanted)["InstanceInformationList"]
        return [row["InstanceId"] for row in rows if row["PingStatus"] == "Online"]

    assert known() == [managed]
    sim.rule(kind="no_agent", key=managed)
    refused("InvalidInstanceId", send, managed)
    sim.clear_rules()
    sim.settings(agent_seconds=1000)
    assert known() == []
    sim.advance(1001)
    send(managed)
    ec2.stop_instances(InstanceIds=[managed])
    refused("InvalidInstanceId", send, managed)


def test_commands_are_listed_by_instance_with_their_comments(ssm: Any, managed: str) -> None:
    request = {"DocumentName": DOCUMENT, "InstanceIds": [managed], "Parameters": {"commands": ["true"]}}
    sent = [ssm.send_command(**request, Comment=comment)["Command"]["CommandId"] for comment in ("one", "two")]
    found = {one["CommandId"]: one["Comment"] for one in ssm.list_commands(InstanceId=managed)["Commands"]}
    assert found == dict(zip(sent, ("one", "two"), strict=True))
    assert [one["Comment"] for one in ssm.list_commands(CommandId=sent[0])["Commands"]] == ["one"]
