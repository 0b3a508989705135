"""Each private address has one owner, and an interface keeps it from instance to instance."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
Launch = Callable[..., str]


@pytest.fixture
def card(ec2: Any, base: Bootstrap) -> Iterator[Callable[..., dict[str, Any]]]:
    """CreateNetworkInterface; deleted at the end."""
    made: list[str] = []

    def create(**more: Any) -> dict[str, Any]:
        found: dict[str, Any] = ec2.create_network_interface(SubnetId=base.subnet_ids[0], **more)["NetworkInterface"]
        made.append(found["NetworkInterfaceId"])
        return found

    yield create
    left = {item["NetworkInterfaceId"] for item in ec2.describe_network_interfaces()["NetworkInterfaces"]}
    for one in left & set(made):
        ec2.delete_network_interface(NetworkInterfaceId=one)


def test_an_interface_is_made_once_and_its_address_is_its_own(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, card: Any, launch: Launch, refused: Refused
) -> None:
    before = sim.state()
    wanted = {"PrivateIpAddress": "10.20.1.50", "Groups": [base.security_group_id], "ClientToken": uuid.uuid4().hex}
    one = card(**wanted)
    assert card(**wanted)["NetworkInterfaceId"] == one["NetworkInterfaceId"]
    refused("IdempotentParameterMismatch", card, **{**wanted, "PrivateIpAddress": "10.20.1.51"})
    refused("InvalidIPAddress.InUse", card, PrivateIpAddress="10.20.1.50")
    refused("InvalidIPAddress.InUse", launch, SubnetId=base.subnet_ids[0], PrivateIpAddress="10.20.1.50")
    refused("InvalidParameterValue", card, PrivateIpAddress="10.20.2.50")
    refused("InvalidParameterValue", card, PrivateIpAddress="10.20.1.2")
    refused("InvalidGroup.NotFound", card, Groups=["sg-0123456789abcdef0"])
    assert sim.state()["addresses"][f"{base.subnet_ids[0]}/10.20.1.50"] == {
        "interface": one["NetworkInterfaceId"],
        "instance": "",
        "groups": [base.security_group_id],
    }
    ec2.delete_network_interface(NetworkInterfaceId=one["NetworkInterfaceId"])
    assert sim.state() == before


def test_secondary_addresses(ec2: Any, base: Bootstrap, card: Any, launch: Launch, refused: Refused) -> None:
    one, other = card(PrivateIpAddress="10.20.1.52"), card(SecondaryPrivateIpAddressCount=2)
    assert len(other["PrivateIpAddresses"]) == 3
    holder, wants = one["NetworkInterfaceId"], other["NetworkInterfaceId"]
    assign = ec2.assign_private_ip_addresses
    assign(NetworkInterfaceId=holder, PrivateIpAddresses=["10.20.1.53"])
    refused("InvalidIPAddress.InUse", assign, NetworkInterfaceId=wants, PrivateIpAddresses=["10.20.1.53"])
    refused("InvalidIPAddress.InUse", launch, SubnetId=base.subnet_ids[0], PrivateIpAddress="10.20.1.53")
    refused("InvalidParameterValue", assign, NetworkInterfaceId=wants, PrivateIpAddresses=["10.20.2.53"])
    assign(NetworkInterfaceId=wants, PrivateIpAddresses=["10.20.1.53"], AllowReassignment=True)
    first = {"NetworkInterfaceId": wants, "PrivateIpAddresses": ["10.20.1.52"], "AllowReassignment": True}
    refused("InvalidIPAddress.InUse", assign, **first)
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[holder, wants])["NetworkInterfaces"]
    held = {
        item["NetworkInterfaceId"]: [each["PrivateIpAddress"] for each in item["PrivateIpAddresses"]] for item in shown
    }
    assert held[holder] == ["10.20.1.52"]
    assert "10.20.1.53" in held[wants]


def test_an_instance_on_an_interface_that_exists(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, card: Any, launch: Launch, refused: Refused
) -> None:
    one = card(PrivateIpAddress="10.20.1.54", Groups=[base.security_group_id])
    eni = one["NetworkInterfaceId"]
    spec = {"NetworkInterfaceId": eni, "DeviceIndex": 0}
    for more in (
        {"SubnetId": base.subnet_ids[0]},
        {"Groups": [base.security_group_id]},
        {"PrivateIpAddress": "10.20.1.54"},
        {"AssociatePublicIpAddress": False},
        {"DeleteOnTermination": True},
    ):
        refused("InvalidParameterCombination", launch, NetworkInterfaces=[{**spec, **more}])
    for more in ({"SecurityGroupIds": [base.security_group_id]}, {"PrivateIpAddress": "10.20.1.54"}):
        refused("InvalidParameterCombination", launch, NetworkInterfaces=[spec], **more)
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}]
    refused("InvalidParameterValue", launch, NetworkInterfaces=[spec], TagSpecifications=tags)
    unknown = {**spec, "NetworkInterfaceId": "eni-0123456789abcdef0"}
    refused("InvalidNetworkInterfaceID.NotFound", launch, NetworkInterfaces=[unknown])
    first = launch(NetworkInterfaces=[spec])
    found = ec2.describe_instances(InstanceIds=[first])["Reservations"][0]["Instances"][0]
    assert (found["PrivateIpAddress"], found["SubnetId"]) == ("10.20.1.54", base.subnet_ids[0])
    assert found["Placement"]["AvailabilityZone"] == one["AvailabilityZone"]
    assert [group["GroupId"] for group in found["SecurityGroups"]] == [base.security_group_id]
    assert found["NetworkInterfaces"][0]["Attachment"]["DeleteOnTermination"] is False
    assert sim.state()["addresses"][f"{base.subnet_ids[0]}/10.20.1.54"]["instance"] == first
    refused("InvalidNetworkInterface.InUse", launch, NetworkInterfaces=[spec])
    refused("InvalidParameterValue", ec2.delete_network_interface, NetworkInterfaceId=eni)
    other = launch(SubnetId=base.subnet_ids[0])
    attach = {"NetworkInterfaceId": eni, "InstanceId": other, "DeviceIndex": 1}
    refused("InvalidNetworkInterface.InUse", ec2.attach_network_interface, **attach)
    ec2.terminate_instances(InstanceIds=[first])
    shown = ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert (shown["Status"], shown.get("Attachment")) == ("available", None)
    refused("InvalidParameterValue", ec2.attach_network_interface, **{**attach, "DeviceIndex": 0})
    second = launch(NetworkInterfaces=[spec])
    found = ec2.describe_instances(InstanceIds=[second])["Reservations"][0]["Instances"][0]
    assert found["PrivateIpAddress"] == "10.20.1.54", "the interface kept its address"
    ec2.terminate_instances(InstanceIds=[second])


def test_interfaces_of_a_launch_are_tagged_and_end_with_it_unless_it_said_otherwise(
    ec2: Any, base: Bootstrap, launch: Launch
) -> None:
    spec = {
        "DeviceIndex": 0,
        "SubnetId": base.subnet_ids[0],
        "Groups": [base.security_group_id],
        "DeleteOnTermination": False,
    }
    tags = [{"ResourceType": "network-interface", "Tags": [{"Key": "a", "Value": "b"}]}]
    one = launch(NetworkInterfaces=[spec], TagSpecifications=tags)
    other = launch(NetworkInterfaces=[{**spec, "DeleteOnTermination": True}])
    cards = [
        ec2.describe_instances(InstanceIds=[each])["Reservations"][0]["Instances"][0]["NetworkInterfaces"][0]
        for each in (one, other)
    ]
    ec2.terminate_instances(InstanceIds=[one, other])
    ids = {card["NetworkInterfaceId"] for card in cards}
    left = [
        item for item in ec2.describe_network_interfaces()["NetworkInterfaces"] if item["NetworkInterfaceId"] in ids
    ]
    assert [item["NetworkInterfaceId"] for item in left] == [cards[0]["NetworkInterfaceId"]]
    assert left[0]["TagSet"] == [{"Key": "a", "Value": "b"}]
    ec2.delete_network_interface(NetworkInterfaceId=left[0]["NetworkInterfaceId"])


def test_an_elastic_ip_moves_unless_it_is_told_not_to(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, card: Any, launch: Launch, refused: Refused
) -> None:
    before = sim.state()
    allocation = ec2.allocate_address(Domain="vpc")["AllocationId"]
    one, other = launch(SubnetId=base.subnet_ids[0]), card()["NetworkInterfaceId"]
    associate = ec2.associate_address
    first = associate(AllocationId=allocation, InstanceId=one)["AssociationId"]
    again = associate(AllocationId=allocation, InstanceId=one, AllowReassociation=False)["AssociationId"]
    assert again == first, "the same association is no other"
    target = {"AllocationId": allocation, "NetworkInterfaceId": other}
    refused("Resource.AlreadyAssociated", associate, **target, AllowReassociation=False)
    assert ec2.describe_addresses(AllocationIds=[allocation])["Addresses"][0]["InstanceId"] == one
    associate(**target)
    assert sim.state()["elastic_ips"] == {allocation: other}
    found = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"][0]
    assert not found.get("PublicIpAddress"), "the other lost it"
    second = ec2.allocate_address(Domain="vpc")["AllocationId"]
    refused("Resource.AlreadyAssociated", associate, **{**target, "AllocationId": second}, AllowReassociation=False)
    for each in (allocation, second):
        ec2.release_address(AllocationId=each)
    ec2.delete_network_interface(NetworkInterfaceId=other)
    ec2.terminate_instances(InstanceIds=[one])
    assert sim.state() == before
