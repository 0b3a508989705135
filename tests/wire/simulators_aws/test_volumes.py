"""Volumes: what the guest writes, snapshots of several at one instant, and volumes attached later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.simulators.kit.process import SimulatorError

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
GIB = 1 << 30
Refused = Callable[..., ClientError]
Launch = Callable[..., str]
TWO_DISKS = [{"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}]


def _instance(ec2: Any, instance_id: str) -> dict[str, Any]:
    found: dict[str, Any] = ec2.describe_instances(InstanceIds=[instance_id])["Reservations"][0]["Instances"][0]
    return found


def _volumes(ec2: Any, instance_id: str) -> dict[str, str]:
    rows = _instance(ec2, instance_id)["BlockDeviceMappings"]
    return {row["DeviceName"]: row["Ebs"]["VolumeId"] for row in rows}


def test_a_guest_writes_at_any_offset_and_what_is_around_stays(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, read_snapshot: Any
) -> None:
    root = _volumes(ec2, launch(SubnetId=base.subnet_ids[0]))["/dev/sda1"]
    sim.write_at(root, 100, b"inside of the image's first block")
    sim.write_at(root, 3 * BLOCK - 2, b"over")
    sim.write_at(root, 2 * GIB - 3, b"end")
    with pytest.raises(SimulatorError, match="do not fit"):
        sim.write_at(root, 2 * GIB - 2, b"end")
    made = ec2.create_snapshot(VolumeId=root)["SnapshotId"]
    sim.advance(1)
    sim.write_at(root, 0, b"later")
    blocks = read_snapshot(made)
    first = bytearray(b"b" * BLOCK)
    first[100:133] = b"inside of the image's first block"
    assert blocks == {
        0: bytes(first),
        2: bytes(BLOCK - 2) + b"ov",
        3: b"er".ljust(BLOCK, b"\0"),
        2 * GIB // BLOCK - 1: bytes(BLOCK - 3) + b"end",
    }
    again = ec2.create_snapshot(VolumeId=root)["SnapshotId"]
    sim.advance(1)
    assert read_snapshot(again)[0] == b"later" + bytes(first)[5:]
    for one in (made, again):
        ec2.delete_snapshot(SnapshotId=one)


def test_snapshots_of_an_instance_are_of_one_instant(
    sim: AwsSimulator, ec2: Any, ebs: Any, base: Bootstrap, launch: Launch, read_snapshot: Any, refused: Refused
) -> None:
    before = sim.state()
    sim.settings(image_seconds=60)
    tagged = [{"ResourceType": "volume", "Tags": [{"Key": "disk", "Value": "of web"}]}]
    one = launch(SubnetId=base.subnet_ids[0], BlockDeviceMappings=TWO_DISKS, TagSpecifications=tagged)
    volumes = _volumes(ec2, one)
    sim.write_at(volumes["/dev/xvdb"], 0, b"data")
    tags = [{"Key": "wavelift:run", "Value": "r"}]
    request = {
        "InstanceSpecification": {"InstanceId": one},
        "Description": "of one instant",
        "TagSpecifications": [{"ResourceType": "snapshot", "Tags": tags}],
        "CopyTagsFromSource": "volume",
    }
    made = ec2.create_snapshots(**request)["Snapshots"]
    sim.write_at(volumes["/dev/xvdb"], 0, b"later")
    by_volume = {row["VolumeId"]: row for row in made}
    assert set(by_volume) == set(volumes.values())
    row = by_volume[volumes["/dev/xvdb"]]
    assert (row["State"], row["VolumeSize"], row["Description"]) == ("pending", 1, "of one instant")
    assert (row["Encrypted"], row["OwnerId"]) == (False, "123456789012")
    assert {tag["Key"]: tag["Value"] for tag in row["Tags"]} == {"wavelift:run": "r", "disk": "of web"}
    found = ec2.describe_snapshots(Filters=[{"Name": "tag:wavelift:run", "Values": ["r"]}])["Snapshots"]
    assert {item["SnapshotId"] for item in found} == {item["SnapshotId"] for item in made}
    refused("ValidationException", ebs.list_snapshot_blocks, SnapshotId=row["SnapshotId"])
    sim.advance(61)
    assert read_snapshot(row["SnapshotId"]) == {0: b"data".ljust(BLOCK, b"\0")}
    assert read_snapshot(by_volume[volumes["/dev/sda1"]]["SnapshotId"]) == {0: b"b" * BLOCK}
    data_only = ec2.create_snapshots(InstanceSpecification={"InstanceId": one, "ExcludeBootVolume": True})["Snapshots"]
    assert [item["VolumeId"] for item in data_only] == [volumes["/dev/xvdb"]]
    chosen = {"InstanceId": one, "ExcludeDataVolumeIds": [volumes["/dev/xvdb"]]}
    boot_only = ec2.create_snapshots(InstanceSpecification=chosen)["Snapshots"]
    assert [item["VolumeId"] for item in boot_only] == [volumes["/dev/sda1"]]
    nothing = {**chosen, "ExcludeBootVolume": True}
    refused("InvalidParameterValue", ec2.create_snapshots, InstanceSpecification=nothing)
    wrong = {"InstanceId": one, "ExcludeDataVolumeIds": [volumes["/dev/sda1"]]}
    refused("InvalidParameterValue", ec2.create_snapshots, InstanceSpecification=wrong)
    unknown = {"InstanceId": "i-0123456789abcdef0"}
    refused("InvalidInstanceID.NotFound", ec2.create_snapshots, InstanceSpecification=unknown)
    refused(
        "InvalidParameterValue",
        ec2.create_snapshots,
        **{**request, "TagSpecifications": [{"ResourceType": "image", "Tags": tags}]},
    )
    ec2.terminate_instances(InstanceIds=[one])
    refused("IncorrectState", ec2.create_snapshots, InstanceSpecification={"InstanceId": one})
    sim.advance(61)
    assert read_snapshot(row["SnapshotId"]) == {0: b"data".ljust(BLOCK, b"\0")}  # the instance is not needed any more
    for item in (*made, *data_only, *boot_only):
        ec2.delete_snapshot(SnapshotId=item["SnapshotId"])
    assert sim.state() == before


def test_a_snapshot_is_encrypted_as_its_volume(sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch) -> None:
    mapping = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 1, "Encrypted": True, "DeleteOnTermination": True}}
    one = launch(SubnetId=base.subnet_ids[0], BlockDeviceMappings=[mapping])
    volumes = _volumes(ec2, one)
    made = ec2.create_snapshots(InstanceSpecification={"InstanceId": one})["Snapshots"]
    assert {row["VolumeId"]: row["Encrypted"] for row in made} == {
        volumes["/dev/sda1"]: False,
        volumes["/dev/xvdb"]: True,
    }
    secret = next(row["SnapshotId"] for row in made if row["Encrypted"])
    shown = ec2.describe_snapshots(SnapshotIds=[secret])["Snapshots"][0]
    volume = ec2.describe_volumes(VolumeIds=[volumes["/dev/xvdb"]])["Volumes"][0]
    assert shown["Encrypted"] is True
    assert shown["KmsKeyId"] == volume["KmsKeyId"]
    for row in made:
        ec2.delete_snapshot(SnapshotId=row["SnapshotId"])


def test_a_volume_is_attached_after_the_launch(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch, boot_snapshot: str, refused: Refused
) -> None:
    zone = f"{sim.region}a"
    one = launch(SubnetId=base.subnet_ids[0])
    sim.advance(3600)
    too_small = {"AvailabilityZone": zone, "SnapshotId": boot_snapshot, "Size": 1}
    refused("InvalidParameterValue", ec2.create_volume, **too_small)
    volume = ec2.create_volume(AvailabilityZone=zone, SnapshotId=boot_snapshot, Size=3)["VolumeId"]
    elsewhere = ec2.create_volume(AvailabilityZone=f"{sim.region}b", Size=1)["VolumeId"]
    place = {"VolumeId": volume, "InstanceId": one}
    refused("InvalidParameterValue", ec2.attach_volume, **place, Device="/dev/sda1")
    refused("InvalidVolume.ZoneMismatch", ec2.attach_volume, **{**place, "VolumeId": elsewhere}, Device="/dev/xvdf")
    ec2.attach_volume(**place, Device="/dev/xvdf")
    refused("VolumeInUse", ec2.attach_volume, **place, Device="/dev/xvdg")
    found = _instance(ec2, one)
    rows = {row["DeviceName"]: row["Ebs"] for row in found["BlockDeviceMappings"]}
    assert (rows["/dev/xvdf"]["AttachTime"] - rows["/dev/sda1"]["AttachTime"]).total_seconds() >= 3600
    assert rows["/dev/sda1"]["AttachTime"] == found["LaunchTime"]
    assert rows["/dev/xvdf"]["DeleteOnTermination"] is False
    shown = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]
    assert (shown["State"], shown["SnapshotId"], shown["Attachments"][0]["InstanceId"]) == (
        "in-use",
        boot_snapshot,
        one,
    )
    ec2.detach_volume(VolumeId=volume)
    for each in (volume, elsewhere):
        ec2.delete_volume(VolumeId=each)


def test_a_stopped_instance_is_launched_anew_and_its_volumes_stay_attached(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch
) -> None:
    one = launch(SubnetId=base.subnet_ids[0])
    before = _instance(ec2, one)
    ec2.stop_instances(InstanceIds=[one])
    sim.advance(600)
    ec2.start_instances(InstanceIds=[one])
    after = _instance(ec2, one)
    assert (after["LaunchTime"] - before["LaunchTime"]).total_seconds() >= 600
    attached = [row["BlockDeviceMappings"][0]["Ebs"]["AttachTime"] for row in (before, after)]
    assert attached[0] == attached[1]


def test_resources_as_no_call_makes_them(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, ami: str, boot_snapshot: str, launch: Launch
) -> None:
    windows = {"platform": "windows", "platform_details": "Windows", "usage_operation": "RunInstances:0002"}
    sim.amend(ami, product_codes=["abc123"], owner="210987654321", boot_mode="uefi-preferred", **windows)
    one = launch(SubnetId=base.subnet_ids[0])
    found = _instance(ec2, one)
    codes = [{"ProductCodeId": "abc123", "ProductCodeType": "marketplace"}]
    image = ec2.describe_images(ImageIds=[ami])["Images"][0]
    for row in (found, image):
        assert (row["Platform"], row["PlatformDetails"], row["UsageOperation"]) == tuple(windows.values())
        assert (row["ProductCodes"], row["BootMode"]) == (codes, "uefi-preferred")
    assert image["OwnerId"] == "210987654321"
    by_code = ec2.describe_images(Filters=[{"Name": "product-code", "Values": ["abc123"]}])["Images"]
    assert [row["ImageId"] for row in by_code] == [ami]
    assert found["CpuOptions"] == {"CoreCount": 1, "ThreadsPerCore": 2}
    sim.amend(one, owner="210987654321", usage_operation="RunInstances:0006")
    reservation = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]
    assert reservation["OwnerId"] == "210987654321"
    assert reservation["Instances"][0]["UsageOperation"] == "RunInstances:0006"
    sim.amend(boot_snapshot, owner="210987654321", product_codes=["abc123"], encrypted=True)
    snapshot = ec2.describe_snapshots(SnapshotIds=[boot_snapshot])["Snapshots"][0]
    assert (snapshot["OwnerId"], snapshot["Encrypted"]) == ("210987654321", True)
    told = ec2.describe_snapshot_attribute(SnapshotId=boot_snapshot, Attribute="productCodes")
    assert told["ProductCodes"] == codes
    sim.amend(one, owner="123456789012")
    for name, field in ((one, "colour"), ("i-0123456789abcdef0", "platform"), ("vol-1", "owner")):
        with pytest.raises(SimulatorError):
            sim.amend(name, **{field: "x"})


def test_an_instance_store_volume_is_in_the_image_s_mapping_only(
    sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch
) -> None:
    """EC2 shows instance-store volumes in no instance's block device mapping."""
    store = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    one = launch(SubnetId=base.subnet_ids[0], BlockDeviceMappings=[store])
    assert set(_volumes(ec2, one)) == {"/dev/sda1"}


def test_a_large_volume_costs_no_disk(sim: AwsSimulator, ec2: Any, base: Bootstrap, launch: Launch) -> None:
    mapping = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 2048}}
    one = launch(SubnetId=base.subnet_ids[0], BlockDeviceMappings=[mapping])
    root = _volumes(ec2, one)["/dev/sda1"]
    sim.write_at(root, (2 << 40) - 4, b"last")
    made = ec2.create_snapshot(VolumeId=root)
    assert made["VolumeSize"] == 2048
    used = sum(path.stat().st_blocks * 512 for path in sim.state_folder.rglob("*.blocks"))
    assert used < 64 << 20
    ec2.delete_snapshot(SnapshotId=made["SnapshotId"])


def test_a_snapshot_that_is_read_may_be_throttled_or_go(
    sim: AwsSimulator, ec2: Any, ebs: Any, base: Bootstrap, launch: Launch, list_blocks: Any, refused: Refused
) -> None:
    root = _volumes(ec2, launch(SubnetId=base.subnet_ids[0]))["/dev/sda1"]
    made = ec2.create_snapshot(VolumeId=root)["SnapshotId"]
    sim.advance(1)
    block = next(iter(list_blocks(made)))
    read = {"SnapshotId": made, "BlockIndex": 0, "BlockToken": block["BlockToken"]}
    sim.rule(service="ebs", operation="GetSnapshotBlock", throttle=True, count=1)
    refused("RequestThrottledException", ebs.get_snapshot_block, **read)
    assert ebs.get_snapshot_block(**read)["BlockData"].read() == b"b" * BLOCK
    ec2.delete_snapshot(SnapshotId=made)
    refused("ResourceNotFoundException", ebs.get_snapshot_block, **read)
