"""Images and instances: checks that moto lacks."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
Refused = Callable[..., ClientError]


@pytest.fixture
def snapshot(sim: AwsSimulator, ebs: Any, ec2: Any, sha: Any) -> Iterator[str]:
    data = b"x" * BLOCK
    snapshot_id: str = ebs.start_snapshot(VolumeSize=2)["SnapshotId"]
    ebs.put_snapshot_block(
        SnapshotId=snapshot_id,
        BlockIndex=0,
        BlockData=data,
        DataLength=BLOCK,
        Checksum=sha(data),
        ChecksumAlgorithm="SHA256",
    )
    ebs.complete_snapshot(SnapshotId=snapshot_id, ChangedBlocksCount=1)
    yield snapshot_id
    ec2.delete_snapshot(SnapshotId=snapshot_id)


@pytest.fixture
def image(ec2: Any, snapshot: str) -> Iterator[str]:
    image_id: str = ec2.register_image(**_registration(snapshot))["ImageId"]
    yield image_id
    ec2.deregister_image(ImageId=image_id)


def _registration(snapshot: str) -> dict[str, Any]:
    return {
        "Name": f"image-{uuid.uuid4().hex[:8]}",
        "Architecture": "x86_64",
        "VirtualizationType": "hvm",
        "RootDeviceName": "/dev/sda1",
        "BootMode": "uefi",
        "EnaSupport": True,
        "TpmSupport": "v2.0",
        "BlockDeviceMappings": [
            {"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": snapshot, "VolumeType": "gp3", "VolumeSize": 4}},
            {"DeviceName": "/dev/xvdb", "Ebs": {"SnapshotId": snapshot, "DeleteOnTermination": True}},
        ],
        "TagSpecifications": [{"ResourceType": "image", "Tags": [{"Key": "wavelift:run", "Value": "r"}]}],
    }


def test_register_image_keeps_what_it_was_told(ec2: Any, snapshot: str, image: str, refused: Refused) -> None:
    shown = ec2.describe_images(ImageIds=[image])["Images"][0]
    assert (shown["BootMode"], shown["TpmSupport"], shown["EnaSupport"]) == ("uefi", "v2.0", True)
    assert shown["Tags"] == [{"Key": "wavelift:run", "Value": "r"}]
    assert [(item["DeviceName"], item["Ebs"]["VolumeSize"]) for item in shown["BlockDeviceMappings"]] == [
        ("/dev/sda1", 4),
        ("/dev/xvdb", 2),
    ]
    refused("InvalidAMIName.Duplicate", ec2.register_image, **{**_registration(snapshot), "Name": shown["Name"]})
    refused("InvalidSnapshot.NotFound", ec2.register_image, **_registration("snap-0123456789abcdef0"))
    refused("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=snapshot)


def test_launch_is_idempotent_and_its_address_is_its_own(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, image: str, snapshot: str, refused: Refused
) -> None:
    before = sim.state()
    request = {
        "ImageId": image,
        "MinCount": 1,
        "MaxCount": 1,
        "InstanceType": "t3.small",
        "SubnetId": base.subnet_ids[0],
        "SecurityGroupIds": [base.security_group_id],
        "PrivateIpAddress": "10.20.1.99",
        "ClientToken": uuid.uuid4().hex,
        "TagSpecifications": [
            {"ResourceType": "instance", "Tags": [{"Key": "wavelift:run", "Value": "r"}]},
            {"ResourceType": "volume", "Tags": [{"Key": "wavelift:run", "Value": "r"}]},
        ],
    }
    started = ec2.run_instances(**request)["Instances"][0]
    assert started["State"]["Name"] == "pending"
    assert ec2.run_instances(**request)["Instances"][0]["InstanceId"] == started["InstanceId"]
    refused("IdempotentParameterMismatch", ec2.run_instances, **{**request, "InstanceType": "t3.large"})
    other = {**request, "ClientToken": uuid.uuid4().hex}
    refused("InvalidIPAddress.InUse", ec2.run_instances, **other)
    refused("InvalidParameterValue", ec2.run_instances, **{**other, "PrivateIpAddress": "10.99.0.4"})
    refused("InvalidAMIID.NotFound", ec2.run_instances, **{**other, "ImageId": "ami-0123456789abcdef0"})
    refused(
        "InvalidParameterValue",
        ec2.run_instances,
        **{**other, "PrivateIpAddress": "10.20.1.98", "InstanceType": "z9.huge"},
    )
    found = _wait_running(ec2, started["InstanceId"])
    assert (found["PrivateIpAddress"], found["SubnetId"], found["BootMode"]) == (
        "10.20.1.99",
        base.subnet_ids[0],
        "uefi",
    )
    assert found["SecurityGroups"][0]["GroupId"] == base.security_group_id
    ids = [item["Ebs"]["VolumeId"] for item in found["BlockDeviceMappings"]]
    volumes = ec2.describe_volumes(VolumeIds=ids)["Volumes"]
    assert sorted((item["SnapshotId"], item["Size"], item["Tags"][0]["Value"]) for item in volumes) == [
        (snapshot, 2, "r"),
        (snapshot, 4, "r"),
    ]
    tagged = ec2.describe_instances(Filters=[{"Name": "tag:wavelift:run", "Values": ["r"]}])["Reservations"]
    assert started["InstanceId"] in {item["InstanceId"] for row in tagged for item in row["Instances"]}
    ec2.terminate_instances(InstanceIds=[started["InstanceId"]])
    assert sim.state() == before
    again = ec2.run_instances(**other)["Instances"][0]
    assert again["PrivateIpAddress"] == "10.20.1.99"
    ec2.terminate_instances(InstanceIds=[again["InstanceId"]])


def test_addresses_of_a_subnet_are_really_held(ec2: Any, base: Bootstrap, image: str, refused: Refused) -> None:
    """By interfaces that no instance has, too; a full subnet takes no instance."""
    small = ec2.create_subnet(VpcId=base.vpc_id, CidrBlock="10.20.200.0/28")["Subnet"]["SubnetId"]

    def free() -> int:
        return int(ec2.describe_subnets(SubnetIds=[small])["Subnets"][0]["AvailableIpAddressCount"])

    assert free() == 11
    listed = [{"PrivateIpAddress": f"10.20.200.{last}", "Primary": last == 4} for last in range(4, 13)]
    held = ec2.create_network_interface(SubnetId=small, PrivateIpAddresses=listed)["NetworkInterface"]
    assert free() == 2
    where = {"ImageId": image, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small", "SubnetId": small}
    refused("InvalidIPAddress.InUse", ec2.run_instances, **where, PrivateIpAddress="10.20.200.12")
    refused("InvalidParameterValue", ec2.run_instances, **where, PrivateIpAddress="10.20.200.3")
    two = [ec2.run_instances(**where)["Instances"][0] for _ in range(2)]
    assert {one["PrivateIpAddress"] for one in two} == {"10.20.200.13", "10.20.200.14"}, "not one that is held"
    assert free() == 0
    refused("InsufficientFreeAddressesInSubnet", ec2.run_instances, **where)
    second = [{"Name": "addresses.private-ip-address", "Values": ["10.20.200.12", "10.20.200.99"]}]
    (found,) = ec2.describe_network_interfaces(Filters=second)["NetworkInterfaces"]
    assert found["NetworkInterfaceId"] == held["NetworkInterfaceId"]
    ec2.terminate_instances(InstanceIds=[one["InstanceId"] for one in two])
    ec2.delete_network_interface(NetworkInterfaceId=held["NetworkInterfaceId"])
    assert free() == 11
    ec2.delete_subnet(SubnetId=small)


def _wait_running(ec2: Any, instance_id: str) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    states = []
    while time.monotonic() < deadline:
        found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
        states.append(found["State"]["Name"])
        if states[-1] == "running":
            return found
        time.sleep(0.05)
    raise AssertionError(states)


def test_tags_and_keys(sim: AwsSimulator, ec2: Any, base: Bootstrap, snapshot: str, refused: Refused) -> None:
    ec2.create_tags(Resources=[snapshot], Tags=[{"Key": "Name", "Value": "web/disk-0"}])
    found = ec2.describe_snapshots(Filters=[{"Name": "tag:Name", "Values": ["web/disk-0"]}])["Snapshots"]
    assert [item["SnapshotId"] for item in found] == [snapshot]
    kms = sim.client("kms")
    assert kms.describe_key(KeyId=base.kms_key_arn)["KeyMetadata"]["Arn"] == base.kms_key_arn
    refused("NotFoundException", kms.describe_key, KeyId="11111111-2222-3333-4444-555555555555")
