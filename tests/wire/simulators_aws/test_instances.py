"""Instances start, stop and are checked in time; they do so even where moto would not."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
Launch = Callable[..., str]


def _instance(ec2: Any, instance_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return found


def _state(ec2: Any, instance_id: str) -> str:
    return str(_instance(ec2, instance_id)["State"]["Name"])


def _checks(ec2: Any, instance_id: str, **more: Any) -> list[tuple[str, str]]:
    rows = ec2.describe_instance_status(InstanceIds=[instance_id], **more)["InstanceStatuses"]
    return [(row["InstanceStatus"]["Status"], row["SystemStatus"]["Status"]) for row in rows]


def test_an_instance_takes_time_to_stop_and_to_start(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, refused: Refused
) -> None:
    before = sim.state()
    sim.settings(instance_stopping_seconds=60, instance_pending_seconds=60)
    one = launch(SubnetId=base.subnet_ids[0])
    assert _state(ec2, one) == "running"
    (row,) = ec2.stop_instances(InstanceIds=[one])["StoppingInstances"]
    assert (row["PreviousState"]["Name"], row["CurrentState"]["Name"]) == ("running", "stopping")
    assert sim.state()["instance_states"][one]["state"] == "stopping"
    refused("IncorrectInstanceState", ec2.start_instances, InstanceIds=[one])
    sim.advance(61)
    assert _state(ec2, one) == "stopped"
    (row,) = ec2.stop_instances(InstanceIds=[one])["StoppingInstances"]
    assert (row["PreviousState"]["Name"], row["CurrentState"]["Name"]) == ("stopped", "stopped")
    (row,) = ec2.start_instances(InstanceIds=[one])["StartingInstances"]
    assert (row["PreviousState"]["Name"], row["CurrentState"]["Name"]) == ("stopped", "pending")
    refused("IncorrectInstanceState", ec2.stop_instances, InstanceIds=[one])
    sim.advance(61)
    assert _state(ec2, one) == "running"
    ec2.terminate_instances(InstanceIds=[one])
    gone = _instance(ec2, one)
    assert (gone["State"]["Name"], gone["NetworkInterfaces"]) == ("terminated", [])
    assert not gone.get("PrivateIpAddress"), "a terminated instance has no address"
    by_address = [{"Name": "private-ip-address", "Values": ["10.20.1.4"]}]
    assert ec2.describe_instances(InstanceIds=[one], Filters=by_address)["Reservations"] == []
    refused("IncorrectInstanceState", ec2.start_instances, InstanceIds=[one])
    assert sim.state() == before


def test_an_address_is_held_until_the_instance_is_terminated(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, refused: Refused
) -> None:
    sim.settings(instance_terminating_seconds=60)
    where = {"SubnetId": base.subnet_ids[0], "PrivateIpAddress": "10.20.1.70"}
    one = launch(**where)
    ec2.stop_instances(InstanceIds=[one])
    sim.advance(1)
    refused("InvalidIPAddress.InUse", launch, **where)
    ec2.terminate_instances(InstanceIds=[one])
    assert _state(ec2, one) == "shutting-down"
    refused("InvalidIPAddress.InUse", launch, **where)
    sim.advance(61)
    assert _state(ec2, one) == "terminated"
    assert _instance(ec2, launch(**where))["PrivateIpAddress"] == "10.20.1.70"
    sim.settings(instance_terminating_seconds=0)


def test_status_checks_end_in_time_and_begin_anew(sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch) -> None:
    sim.settings(status_check_seconds=120, instance_pending_seconds=60)
    one = launch(SubnetId=base.subnet_ids[0])
    assert _checks(ec2, one) == [("initializing", "initializing")]
    sim.advance(121)
    assert _checks(ec2, one) == [("ok", "ok")]
    sim.rule(kind="impaired", key=one)
    assert _checks(ec2, one) == [("impaired", "ok")]
    sim.clear_rules()
    ec2.stop_instances(InstanceIds=[one])
    sim.advance(1)
    assert _checks(ec2, one) == [], "only running ones are listed"
    assert _checks(ec2, one, IncludeAllInstances=True) == [("not-applicable", "not-applicable")]
    ec2.start_instances(InstanceIds=[one])
    sim.advance(61)
    assert _checks(ec2, one) == [("initializing", "initializing")]
    sim.advance(121)
    wanted = [{"Name": "instance-status.status", "Values": ["ok"]}]
    found = ec2.describe_instance_status(Filters=wanted)["InstanceStatuses"]
    assert one in {row["InstanceId"] for row in found}
    ec2.reboot_instances(InstanceIds=[one])
    assert _checks(ec2, one) == [("initializing", "initializing")]
    assert sim.state()["instance_states"][one] == {"state": "running", "reboots": 1}


def test_an_instance_that_will_not_stop(sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch) -> None:
    one, other = launch(SubnetId=base.subnet_ids[0]), launch(SubnetId=base.subnet_ids[0])
    sim.rule(kind="unstoppable", key=one)
    ec2.stop_instances(InstanceIds=[one, other])
    sim.advance(300)
    assert (_state(ec2, one), _state(ec2, other)) == ("stopping", "stopped")
    sim.clear_rules()
    sim.advance(1)
    assert _state(ec2, one) == "stopped"


def test_what_can_change_only_while_stopped(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, refused: Refused
) -> None:
    one = launch(SubnetId=base.subnet_ids[0])
    change = {"InstanceId": one, "InstanceType": {"Value": "t3.large"}}
    refused("IncorrectInstanceState", ec2.modify_instance_attribute, **change)
    plain = {"InstanceId": one, "Attribute": "instanceType", "Value": "t3.large"}
    refused("IncorrectInstanceState", ec2.modify_instance_attribute, **plain)
    ec2.modify_instance_attribute(InstanceId=one, DisableApiTermination={"Value": True})
    refused("OperationNotPermitted", ec2.terminate_instances, InstanceIds=[one])
    ec2.modify_instance_attribute(InstanceId=one, DisableApiTermination={"Value": False})
    ec2.stop_instances(InstanceIds=[one])
    sim.advance(1)
    ec2.modify_instance_attribute(**change)
    assert _instance(ec2, one)["InstanceType"] == "t3.large"


def test_groups_are_those_of_the_interface(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, refused: Refused
) -> None:
    other = ec2.create_security_group(GroupName=uuid.uuid4().hex, Description="x", VpcId=base.vpc_id)["GroupId"]
    one = launch(SubnetId=base.subnet_ids[0], SecurityGroupIds=[base.security_group_id])

    def groups() -> tuple[list[str], list[str]]:
        found = _instance(ec2, one)
        nic = ec2.describe_network_interfaces(
            NetworkInterfaceIds=[found["NetworkInterfaces"][0]["NetworkInterfaceId"]]
        )["NetworkInterfaces"][0]
        return tuple([item["GroupId"] for item in each] for each in (found["SecurityGroups"], nic["Groups"]))  # type: ignore[return-value]

    assert groups() == ([base.security_group_id], [base.security_group_id])
    refused("InvalidGroup.NotFound", ec2.modify_instance_attribute, InstanceId=one, Groups=["sg-0123456789abcdef0"])
    ec2.modify_instance_attribute(InstanceId=one, Groups=[other])
    assert groups() == ([other], [other])
    nic = _instance(ec2, one)["NetworkInterfaces"][0]["NetworkInterfaceId"]
    ec2.modify_network_interface_attribute(NetworkInterfaceId=nic, Groups=[base.security_group_id])
    assert groups() == ([base.security_group_id], [base.security_group_id])
    ec2.terminate_instances(InstanceIds=[one])
    ec2.delete_security_group(GroupId=other)


def test_the_initialization_rate_of_a_volume_is_kept(
    ec2: Any, base: Bootstrap, launch: Launch, refused: Refused
) -> None:
    def mapping(rate: int, device: str = "/dev/sda1", **more: Any) -> dict[str, Any]:
        return {
            "SubnetId": base.subnet_ids[0],
            "BlockDeviceMappings": [{"DeviceName": device, "Ebs": {"VolumeInitializationRate": rate, **more}}],
        }

    for wrong in (mapping(99), mapping(301), mapping(200, "/dev/xvdb", VolumeSize=1)):
        refused("InvalidParameterValue", launch, **wrong)
    one = launch(**mapping(300))
    volume = _instance(ec2, one)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    assert ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["VolumeInitializationRate"] == 300
