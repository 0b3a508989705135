"""The target of a cutover: launched on an interface that exists, stopped and started, asked through SSM, backed up."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.wire.aws.proving import LONGEST_S, bare_image, settle, until

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses
from wavelift.adapters.aws.backups import SOURCE_TAG, BackupRequest, Backups
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.elbv2 import Target
from wavelift.adapters.aws.instances import Health, Instances
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.adapters.aws.ssm import Ssm
from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.services.dataplane.steps.addresses import PrepareAddress
from wavelift.services.dataplane.steps.poll import image_is_available, instance_is, instance_settled, poll
from wavelift.services.dataplane.steps.step import Settled, Waiting, apply, look, undo
from wavelift.services.dataplane.steps.targets import DeregisterTargets
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Launch = Callable[..., str]


@pytest.fixture
def image(aws: AwsSimulator, access: AwsAccess) -> Iterator[str]:
    image_id = bare_image(access, disks=2)
    yield image_id
    Ec2(access).deregister(image_id, delete_snapshots=True)


@pytest.fixture
def launch(aws: AwsSimulator, access: AwsAccess, image: str, account: Bootstrap) -> Iterator[Launch]:
    """Launches the image and waits until it runs; the instance's id."""
    made: list[str] = []

    def run(**values: Any) -> str:
        request = LaunchRequest(image, "t3.small", account.subnet_ids[0], uuid.uuid4().hex, tags={"Name": "app01"})
        made.append(Ec2(access).launch(replace(request, **values)).instance_id)
        until(access, instance_is(made[-1], "running"))
        return made[-1]

    yield run
    aws.clear_rules()
    Ec2(access).terminate(made)


def test_a_target_is_launched_on_the_interface_that_was_prepared(
    access: AwsAccess, account: Bootstrap, launch: Launch
) -> None:
    step = PrepareAddress(access, subnet=account.subnet_ids[0], token=uuid.uuid4().hex, address="10.20.1.78")
    before = look(step)
    settle(access, lambda receipt: apply(step, before, receipt))
    held = step.interface()
    assert held is not None
    instance = launch(network_interface=held.interface_id, security_groups=["sg-ignored"], private_ip="10.20.1.9")
    found = Ec2(access).describe_instances([instance])[instance]
    assert found.private_ip == "10.20.1.78"
    assert Addresses(access).primary_of(instance).interface_id == held.interface_id
    kept = settle(access, lambda receipt: undo(step, before, receipt))
    assert held.interface_id in kept.note
    assert instance in kept.note
    assert not Addresses(access).interface(held.interface_id).dies_with_instance
    Ec2(access).terminate([instance])
    Addresses(access).interface(held.interface_id)  # it outlives its instance
    assert settle(access, lambda receipt: undo(step, before, receipt)) == Settled()
    with pytest.raises(NotFoundError):
        Addresses(access).interface(held.interface_id)


def test_an_interface_that_exists_gets_no_tags_of_the_launch() -> None:
    request = LaunchRequest("ami-1", "t3.small", "subnet-1", "token", ["sg-1"], "10.0.0.4", tags={"a": "b"})
    kinds = {one["ResourceType"] for one in request.parameters()["TagSpecifications"]}
    assert kinds == {"instance", "volume", "network-interface"}
    existing = replace(request, network_interface="eni-1").parameters()
    assert {one["ResourceType"] for one in existing["TagSpecifications"]} == {"instance", "volume"}
    assert existing["NetworkInterfaces"] == [
        {"DeviceIndex": 0, "NetworkInterfaceId": "eni-1", "DeleteOnTermination": False}
    ]


def test_the_pace_of_initialization_is_asked_for_each_volume(
    access: AwsAccess, image: str, launch: Launch, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    client = access.client("ec2")
    run = client.run_instances

    def watched(**values: Any) -> Any:
        asked.append(values)
        return run(**values)

    monkeypatch.setattr(client, "run_instances", watched)
    launch(volume_initialization_mib_s=300)
    assert asked[0]["BlockDeviceMappings"] == [
        {"DeviceName": device, "Ebs": {"VolumeInitializationRate": 300}} for device in ("/dev/sda1", "/dev/sdf")
    ]
    for rate in (99, 301):
        with pytest.raises(PermanentError, match="100 to 300"):
            launch(volume_initialization_mib_s=rate)
    assert "BlockDeviceMappings" not in LaunchRequest(image, "t3.small", "subnet-1", "token").parameters()


def test_a_target_is_stopped_and_started_and_checked(aws: AwsSimulator, access: AwsAccess, launch: Launch) -> None:
    power, instance = Instances(access), launch()
    until(access, instance_is(instance, "checked"))
    assert power.health([instance, "i-0123456789abcdef0"])[instance].passed
    assert power.stop(instance) in {"stopping", "stopped"}
    until(access, instance_is(instance, "stopped"))
    assert power.stop(instance) == "stopped"
    assert not power.health([instance])[instance].passed
    assert power.start(instance) in {"pending", "running"}
    until(access, instance_is(instance, "checked"))
    assert power.start(instance) == "running"
    aws.reset_counters()
    poll(access, [instance_is(one, state) for one in (instance, "i-0") for state in ("running", "stopped")])
    assert sum(row["calls"] for row in aws.counters().values()) == 1
    poll(access, [instance_is(instance, state) for state in ("running", "stopped", "checked")])
    assert sum(row["calls"] for row in aws.counters().values()) == 3
    for call in (power.stop, power.start):
        with pytest.raises(NotFoundError, match="instance=i-0123456789abcdef0"):
            call("i-0123456789abcdef0")


@pytest.mark.parametrize(
    ("health", "over"),
    [
        (None, {"running", "stopped", "checked"}),
        (Health("i", "terminated"), {"running", "stopped", "checked"}),
        (Health("i", "pending"), set()),
        (Health("i", "running", "initializing", "initializing"), {"running"}),
        (Health("i", "running", "ok", "impaired"), {"running"}),
        (Health("i", "running", "ok", "ok"), {"running", "checked"}),
        (Health("i", "stopping"), {"running", "checked"}),
        (Health("i", "stopped"), {"running", "stopped", "checked"}),
    ],
)
def test_what_is_waited_for_is_over_also_when_it_cant_come(health: Health | None, over: set[str]) -> None:
    assert {state for state in ("running", "stopped", "checked") if instance_settled(health, state)} == over


def test_an_instance_must_run_to_be_registered(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, launch: Launch
) -> None:
    instance, elb = launch(), aws.client("elbv2")
    group = elb.create_target_group(
        Name=f"app-{uuid.uuid4().hex[:8]}", Protocol="TCP", Port=443, VpcId=account.vpc_id, TargetType="instance"
    )["TargetGroups"][0]["TargetGroupArn"]
    try:
        elb.register_targets(TargetGroupArn=group, Targets=[{"Id": instance, "Port": 443}])
        step = DeregisterTargets(access, group=group, targets=[Target(instance, 443)])
        before = look(step)
        assert before == {f"{instance}:443": ""}
        elb.deregister_targets(TargetGroupArn=group, Targets=[{"Id": instance, "Port": 443}])
        Instances(access).stop(instance)
        until(access, instance_is(instance, "stopped"))
        assert undo(step, before) == Waiting(f"until {instance} runs", instance_is(instance, "running"))
    finally:
        elb.delete_target_group(TargetGroupArn=group)


@pytest.fixture(scope="session")
def profile(simulator: AwsSimulator) -> str:
    """An instance profile whose role lets the agent call."""
    iam = simulator.client("iam")
    trust = {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}
    document = json.dumps({"Version": "2012-10-17", "Statement": [trust]})
    iam.create_role(RoleName="managed", AssumeRolePolicyDocument=document)
    iam.create_instance_profile(InstanceProfileName="managed")
    iam.add_role_to_instance_profile(InstanceProfileName="managed", RoleName="managed")
    return "managed"


def test_a_command_needs_an_agent_that_reports(access: AwsAccess, launch: Launch) -> None:
    with pytest.raises(BusyError, match="does not report to Systems Manager"):
        Ssm(access).send(launch(), "AWS-RunShellScript", {"commands": ["true"]}, token="wl-check")


def _sent(ssm: Ssm, instance: str, commands: list[str], token: str) -> str:
    """The agent reports some time after the start."""
    ends = time.monotonic() + LONGEST_S
    while True:
        try:
            return ssm.send(instance, "AWS-RunShellScript", {"commands": commands}, token=token)
        except BusyError:
            assert time.monotonic() < ends
            time.sleep(0.05)


def test_a_command_is_sent_once(aws: AwsSimulator, access: AwsAccess, launch: Launch, profile: str) -> None:
    ssm, instance = Ssm(access), launch(instance_profile=profile)
    token = f"wl-check-{uuid.uuid4().hex}"
    command = _sent(ssm, instance, ["systemctl is-active app"], token)
    assert _sent(ssm, instance, ["other"], token) == command
    assert _sent(ssm, instance, ["other"], f"{token}-2") != command
    ends = time.monotonic() + LONGEST_S
    while not (found := ssm.invocation(command, instance)).ended:
        assert time.monotonic() < ends
        time.sleep(0.02)
    assert found.succeeded
    assert ssm.invocation(command, "i-0123456789abcdef0").status == "Pending"


def test_amp_09_a_backup_is_an_image_and_a_template_without_its_address(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, launch: Launch
) -> None:
    backups, instance, ec2 = Backups(access), launch(security_groups=[account.security_group_id]), aws.client("ec2")
    name, token = f"wavelift-{uuid.uuid4().hex}", uuid.uuid4().hex
    request = BackupRequest(instance, name, tags={"wavelift:server": "app01"}, description="of app01")
    template = ""
    images: list[str] = []
    try:
        aws.rule(operation="CreateImage", cut_response_after=0, count=1)
        first = backups.create_image(request)
        images.append(first.image_id)
        assert backups.create_image(request).image_id == first.image_id
        until(access, image_is_available(first.image_id))
        found = backups.image(first.image_id)
        assert found.state == "available"
        assert found.tags == {"wavelift:server": "app01", SOURCE_TAG: instance}
        saved = backups.save_template("app01", first.image_id, instance, token=token, tags={"wavelift:server": "app01"})
        template = saved.template_id
        assert (saved.version, saved.image_id) == (1, first.image_id)
        again = backups.save_template("app01", first.image_id, instance, token=token, tags={})
        assert again == saved
        second = backups.save_template("app01", first.image_id, instance, token=uuid.uuid4().hex, tags={})
        assert second.version == 2
        (described,) = ec2.describe_launch_templates(LaunchTemplateIds=[template])["LaunchTemplates"]
        assert (described["DefaultVersionNumber"], described["LatestVersionNumber"]) == (2, 2)
        data = ec2.describe_launch_template_versions(LaunchTemplateId=template, Versions=["2"])[
            "LaunchTemplateVersions"
        ][0]["LaunchTemplateData"]
        assert (data["ImageId"], data["InstanceType"]) == (first.image_id, "t3.small")
        (card,) = data["NetworkInterfaces"]
        assert "PrivateIpAddress" not in card
        assert (card["SubnetId"], card["Groups"]) == (account.subnet_ids[0], [account.security_group_id])
        other = launch()
        with pytest.raises(PermanentError, match="taken"):
            backups.create_image(replace(request, instance_id=other))
        with pytest.raises(NotFoundError):
            backups.save_template("app01", first.image_id, "i-0123456789abcdef0", token=token, tags={})
    finally:
        aws.clear_rules()
        if template:
            ec2.delete_launch_template(LaunchTemplateId=template)
        for one in images:
            Ec2(access).deregister(one, delete_snapshots=True)


@pytest.mark.parametrize("reboot", [False, True])
def test_a_backup_reboots_only_on_request(reboot: bool) -> None:
    assert BackupRequest("i-1", "name", reboot=reboot).parameters()["NoReboot"] is not reboot
