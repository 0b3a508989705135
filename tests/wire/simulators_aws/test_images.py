"""Images and snapshots of volumes, and launch templates."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
Refused = Callable[..., ClientError]
Launch = Callable[..., str]


def _instance(ec2: Any, instance_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return found


def test_an_image_has_what_the_volumes_hold(
    sim: AwsSimulator,
    ec2: Any,
    base: Bootstrap,
    launch: Launch,
    read_snapshot: Callable[[str], dict[int, bytes]],
    refused: Refused,
) -> None:
    before = sim.state()
    sim.settings(image_seconds=300, instance_pending_seconds=0.2)
    second = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    one = launch(SubnetId=base.subnet_ids[0], BlockDeviceMappings=[second])
    root, data = (item["Ebs"]["VolumeId"] for item in _instance(ec2, one)["BlockDeviceMappings"])
    sim.write_volume(root, 3, b"written")
    sim.write_volume(data, 0, b"data")
    tags = [
        {"ResourceType": kind, "Tags": [{"Key": "wavelift:backup", "Value": kind}]} for kind in ("image", "snapshot")
    ]
    request: dict[str, Any] = {"InstanceId": one, "Name": f"backup-{uuid.uuid4().hex[:8]}", "TagSpecifications": tags}
    made = ec2.create_image(**request, NoReboot=True)["ImageId"]
    refused("InvalidAMIName.Duplicate", ec2.create_image, **request)
    sim.write_volume(root, 3, b"later")

    def image() -> dict[str, Any]:
        found: dict[str, Any] = ec2.describe_images(ImageIds=[made])["Images"][0]
        return found

    assert (image()["State"], image()["BootMode"]) == ("pending", "uefi")
    assert image()["Tags"] == [{"Key": "wavelift:backup", "Value": "image"}]
    refused("InvalidAMIID.Unavailable", launch, ImageId=made)
    ids = {item["DeviceName"]: item["Ebs"]["SnapshotId"] for item in image()["BlockDeviceMappings"]}
    rows = ec2.describe_snapshots(SnapshotIds=list(ids.values()))["Snapshots"]
    assert {(row["State"], row["VolumeId"], row["Tags"][0]["Value"]) for row in rows} == {
        ("pending", root, "snapshot"),
        ("pending", data, "snapshot"),
    }
    assert sim.state()["instance_states"][one]["reboots"] == 0
    sim.advance(301)
    assert image()["State"] == "available"
    assert read_snapshot(ids["/dev/sda1"]) == {0: b"b" * BLOCK, 3: b"written".ljust(BLOCK, b"\0")}
    assert read_snapshot(ids["/dev/xvdb"]) == {0: b"data".ljust(BLOCK, b"\0")}
    copy = launch(ImageId=made, SubnetId=base.subnet_ids[0])
    again = ec2.create_image(InstanceId=one, Name=f"{request['Name']}-2")["ImageId"]
    assert sim.state()["instance_states"][one] == {"state": "running", "reboots": 1}
    sim.advance(301)
    mappings = ec2.describe_images(ImageIds=[again])["Images"][0]["BlockDeviceMappings"]
    newer = {item["DeviceName"]: item["Ebs"]["SnapshotId"] for item in mappings}
    assert read_snapshot(newer["/dev/sda1"])[3] == b"later".ljust(BLOCK, b"\0")
    ec2.terminate_instances(InstanceIds=[one, copy])
    for each, snapshots in ((made, ids), (again, newer)):
        ec2.deregister_image(ImageId=each)
        for snapshot in snapshots.values():
            ec2.delete_snapshot(SnapshotId=snapshot)
    refused("IncorrectState", ec2.create_image, InstanceId=one, Name="of nothing")
    assert sim.state() == before


def test_a_volume_outlives_the_snapshot_that_it_was_made_from(
    sim: AwsSimulator, ec2: Any, ebs: Any, base: Bootstrap, launch: Launch, sha: Any, read_snapshot: Any
) -> None:
    block = b"s" * BLOCK
    source = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
    put = {"SnapshotId": source, "BlockIndex": 5, "BlockData": block, "DataLength": BLOCK}
    ebs.put_snapshot_block(**put, Checksum=sha(block), ChecksumAlgorithm="SHA256")
    ebs.complete_snapshot(SnapshotId=source, ChangedBlocksCount=1)
    mapping = {"DeviceName": "/dev/xvdb", "Ebs": {"SnapshotId": source, "DeleteOnTermination": True}}
    one = launch(SubnetId=base.subnet_ids[0], BlockDeviceMappings=[mapping])
    ec2.delete_snapshot(SnapshotId=source)
    devices = {item["DeviceName"]: item["Ebs"]["VolumeId"] for item in _instance(ec2, one)["BlockDeviceMappings"]}
    sim.settings(image_seconds=60)
    made = ec2.create_snapshot(VolumeId=devices["/dev/xvdb"], Description="by hand")
    assert made["State"] == "pending"
    sim.advance(61)
    assert read_snapshot(made["SnapshotId"]) == {5: block}
    ec2.delete_snapshot(SnapshotId=made["SnapshotId"])


def test_an_image_may_fail(sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch) -> None:
    one = launch(SubnetId=base.subnet_ids[0])
    sim.rule(kind="failed_image", key=one, count=1)
    made = ec2.create_image(InstanceId=one, Name=f"bad-{uuid.uuid4().hex[:8]}", NoReboot=True)["ImageId"]
    sim.advance(1)
    image = ec2.describe_images(ImageIds=[made])["Images"][0]
    assert image["State"] == "failed"
    ec2.deregister_image(ImageId=made)
    ec2.delete_snapshot(SnapshotId=image["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])


def test_launch_templates(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, ami: str, launch: Launch, refused: Refused
) -> None:
    before, name = sim.state(), f"backup-{uuid.uuid4().hex[:8]}"
    data: dict[str, Any] = {
        "ImageId": ami,
        "InstanceType": "t3.large",
        "NetworkInterfaces": [{"DeviceIndex": 0, "SubnetId": base.subnet_ids[1], "Groups": [base.security_group_id]}],
        "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}],
    }
    request: dict[str, Any] = {
        "LaunchTemplateName": name,
        "LaunchTemplateData": data,
        "ClientToken": uuid.uuid4().hex,
        "TagSpecifications": [{"ResourceType": "launch-template", "Tags": [{"Key": "of", "Value": "template"}]}],
    }
    made = ec2.create_launch_template(**request)["LaunchTemplate"]["LaunchTemplateId"]
    assert ec2.create_launch_template(**request)["LaunchTemplate"]["LaunchTemplateId"] == made
    other = {**request, "LaunchTemplateData": {**data, "InstanceType": "t3.small"}}
    refused("IdempotentParameterMismatch", ec2.create_launch_template, **other)
    taken = "InvalidLaunchTemplateName.AlreadyExistsException"
    refused(taken, ec2.create_launch_template, **{**other, "ClientToken": uuid.uuid4().hex})
    version = {
        "LaunchTemplateId": made,
        "SourceVersion": "1",
        "LaunchTemplateData": {"InstanceType": "t3.medium"},
        "ClientToken": uuid.uuid4().hex,
    }
    for _ in range(2):
        shown = ec2.create_launch_template_version(**version)["LaunchTemplateVersion"]
        assert (shown["VersionNumber"], shown["LaunchTemplateData"]["ImageId"]) == (2, ami)
    assert sim.state()["launch_templates"] == {name: 2}
    one = launch(ImageId=None, InstanceType=None, LaunchTemplate={"LaunchTemplateName": name, "Version": "2"})
    found = _instance(ec2, one)
    assert (found["InstanceType"], found["SubnetId"]) == ("t3.medium", base.subnet_ids[1])
    assert {tag["Key"]: tag["Value"] for tag in found["Tags"]} == {
        "a": "b",
        "aws:ec2launchtemplate:id": made,
        "aws:ec2launchtemplate:version": "2",
    }
    ec2.terminate_instances(InstanceIds=[one])
    ec2.delete_launch_template(LaunchTemplateId=made)
    assert sim.state() == before
