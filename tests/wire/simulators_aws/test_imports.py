"""ImportImage: real conversions, changed boot disks, refusals and ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
MIB = 1 << 20
Refused = Callable[..., ClientError]
Disk = Callable[..., bytes]
Encode = Callable[[bytes], bytes]


def _put(s3: Any, key: str, body: bytes) -> str:
    s3.put_object(Bucket="staging", Key=key, Body=body)
    return key


def _blocks(image: bytes) -> dict[int, bytes]:
    pieces = {index: image[index * BLOCK : (index + 1) * BLOCK] for index in range(-(-len(image) // BLOCK))}
    return {index: piece for index, piece in pieces.items() if piece.strip(b"\0")}


@pytest.fixture
def tidy(ec2: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Removes what an import left, at the end."""
    tasks: list[dict[str, Any]] = []
    yield tasks.append
    for task in tasks:
        ec2.deregister_image(ImageId=task["ImageId"])
        for detail in task["SnapshotDetails"]:
            ec2.delete_snapshot(SnapshotId=detail["SnapshotId"])


def test_conversion_gives_the_disks_bytes_outside_of_the_recorded_ranges(
    sim: AwsSimulator,
    s3: Any,
    ec2: Any,
    key: str,
    disk: Disk,
    stream_vmdk: Encode,
    qemu_vmdk: Encode,
    import_image: Any,
    finished: Any,
    read_snapshot: Any,
    tidy: Any,
) -> None:
    boot, data = disk(16, seed=1), disk(8, seed=2)
    keys = [_put(s3, f"{key}-boot", stream_vmdk(boot)), _put(s3, f"{key}-data", qemu_vmdk(data))]
    before = sim.state()
    tags = [{"ResourceType": "import-image-task", "Tags": [{"Key": "wavelift:run", "Value": "r"}]}]
    answer = import_image(*keys, BootMode="uefi", LicenseType="BYOL", Description="web", TagSpecifications=tags)
    assert (answer["Status"], answer["Tags"]) == ("active", tags[0]["Tags"])
    task = finished(answer["ImportTaskId"])
    tidy(task)
    assert task["Status"] == "completed"
    assert task["Tags"] == tags[0]["Tags"]
    assert "Progress" not in task
    details = task["SnapshotDetails"]
    assert [detail["UserBucket"]["S3Key"] for detail in details] == keys[::-1]  # no order is promised
    snapshots = [detail["SnapshotId"] for detail in sorted(details, key=lambda one: str(one["DeviceName"]))]
    kept = sorted(
        (row for row in sim.evidence()["imports"] if row["task"] == task["ImportTaskId"]),
        key=lambda row: int(row["number"]),
    )
    assert [row["snapshot"] for row in kept] == snapshots
    assert Path(kept[0]["raw"]).read_bytes()[: len(boot)] == boot
    assert kept[1]["changed"] == []
    assert read_snapshot(snapshots[1]) == _blocks(data)
    got, ranges = read_snapshot(snapshots[0]), kept[0]["changed"]
    assert ranges
    image = bytearray(len(boot))
    for index, piece in got.items():
        image[index * BLOCK : (index + 1) * BLOCK] = piece
    assert image != boot
    for row in ranges:
        cut = slice(row["offset"], row["offset"] + row["length"])
        assert image[cut] != boot[cut]
        image[cut] = boot[cut]
    assert image == boot
    shown = ec2.describe_images(ImageIds=[task["ImageId"]])["Images"][0]
    mappings = [
        (item["DeviceName"], item["Ebs"]["SnapshotId"], item["Ebs"]["VolumeSize"])
        for item in shown["BlockDeviceMappings"]
    ]
    assert mappings == [("/dev/sda1", snapshots[0], 1), ("/dev/xvdb", snapshots[1], 1)]
    assert (shown["BootMode"], shown["Architecture"], shown["PlatformDetails"]) == ("uefi", "x86_64", "Linux/UNIX")
    assert (shown["Name"], shown["State"], shown.get("Tags", [])) == (task["ImportTaskId"], "available", [])
    after = sim.state()
    assert after["import_tasks"] == []
    assert len(after["snapshots"]) == len(before["snapshots"]) + 2


def test_phases_pass_by_and_tasks_are_found(
    sim: AwsSimulator,
    s3: Any,
    ec2: Any,
    key: str,
    disk: Disk,
    qemu_vmdk: Encode,
    import_image: Any,
    finished: Any,
    tidy: Any,
) -> None:
    sim.settings(phase_seconds=0.4)
    answer = import_image(_put(s3, key, qemu_vmdk(disk(2))))
    task_id, messages, deadline = answer["ImportTaskId"], [], time.monotonic() + 60
    while time.monotonic() < deadline:
        task = ec2.describe_import_image_tasks(ImportTaskIds=[task_id])["ImportImageTasks"][0]
        if task["Status"] == "completed":
            break
        assert task["Status"] == "active"
        assert task["Progress"].isdigit()
        if task["StatusMessage"] not in messages:
            messages.append(task["StatusMessage"])
        time.sleep(0.02)
    assert messages[0] == "pending"
    assert messages[-1] == "preparing ami"
    assert {"validating", "converting", "booting"} <= set(messages)
    tidy(finished(task_id))
    pages = list(ec2.get_paginator("describe_import_image_tasks").paginate(PaginationConfig={"PageSize": 1}))
    assert task_id in {item["ImportTaskId"] for page in pages for item in page["ImportImageTasks"]}
    active = ec2.describe_import_image_tasks(Filters=[{"Name": "task-state", "Values": ["active"]}])
    assert active["ImportImageTasks"] == []


def test_other_words_for_the_same_phases(
    sim: AwsSimulator,
    s3: Any,
    ec2: Any,
    key: str,
    disk: Disk,
    qemu_vmdk: Encode,
    import_image: Any,
    finished: Any,
    tidy: Any,
) -> None:
    sim.settings(other_words=True, phase_seconds=0.1)
    answer = import_image(_put(s3, key, qemu_vmdk(disk(2))))
    assert answer["Status"] == "contemplating"
    assert "Progress" not in answer
    task = finished(answer["ImportTaskId"])
    tidy(task)
    assert task["Status"] == "completed"


def test_unchanged_boot_disk_on_request(
    sim: AwsSimulator,
    s3: Any,
    key: str,
    disk: Disk,
    stream_vmdk: Encode,
    import_image: Any,
    finished: Any,
    read_snapshot: Any,
    tidy: Any,
) -> None:
    sim.settings(change_boot_disk=False)
    image = disk(4)
    task = finished(import_image(_put(s3, key, stream_vmdk(image)))["ImportTaskId"])
    tidy(task)
    assert read_snapshot(task["SnapshotDetails"][0]["SnapshotId"]) == _blocks(image)


def test_import_from_an_ebs_snapshot(
    sim: AwsSimulator,
    s3: Any,
    ec2: Any,
    key: str,
    disk: Disk,
    stream_vmdk: Encode,
    import_image: Any,
    finished: Any,
    tidy: Any,
    refused: Refused,
) -> None:
    first = finished(import_image(_put(s3, key, stream_vmdk(disk(2))))["ImportTaskId"])
    tidy(first)
    source = first["SnapshotDetails"][0]["SnapshotId"]
    answer = import_image(DiskContainers=[{"SnapshotId": source}])
    task = finished(answer["ImportTaskId"])
    tidy(task)
    made = task["SnapshotDetails"][0]["SnapshotId"]
    assert made != source
    kept = next(row for row in sim.evidence()["imports"] if row["task"] == task["ImportTaskId"])
    ebs = sim.client("ebs")
    changed = {
        row["BlockIndex"]
        for row in ebs.list_changed_blocks(FirstSnapshotId=source, SecondSnapshotId=made)["ChangedBlocks"]
    }
    assert changed == {row["offset"] // BLOCK for row in kept["changed"]}
    refused("InvalidSnapshot.NotFound", import_image, DiskContainers=[{"SnapshotId": "snap-0123456789abcdef0"}])


@pytest.mark.parametrize("spoil", ["truncated", "no footer", "text", "corrupt grain"])
def test_broken_image_ends_deleted_and_leaves_nothing(
    sim: AwsSimulator, s3: Any, key: str, disk: Disk, stream_vmdk: Encode, import_image: Any, finished: Any, spoil: str
) -> None:
    body = bytearray(stream_vmdk(disk(4)))
    if spoil == "truncated":
        body = body[: len(body) // 2]
    elif spoil == "no footer":
        body = body[:-1024]
    elif spoil == "text":
        body = bytearray(b"not a disk" * 1000)
    else:
        body[65536 + 5000] ^= 0xFF
    before = sim.state()
    _put(s3, key, bytes(body))
    task = finished(import_image(key)["ImportTaskId"])
    assert task["Status"] == "deleted"
    validation = "ClientError: Disk validation failed [Unsupported VMDK File Format]"
    expected = (
        "ServerError: an internal error has occurred during conversion." if spoil == "corrupt grain" else validation
    )
    assert task["StatusMessage"] == expected
    s3.delete_object(Bucket="staging", Key=key)
    assert sim.state() == before


def test_role_and_object_are_checked_first(
    sim: AwsSimulator, s3: Any, ec2: Any, key: str, disk: Disk, qemu_vmdk: Encode, import_image: Any, refused: Refused
) -> None:
    _put(s3, key, qemu_vmdk(disk(2)))
    iam = sim.client("iam")
    before = sim.state()
    refused("InvalidParameter", import_image, key, RoleName="absent")
    policy = iam.get_role_policy(RoleName="vmimport", PolicyName="vmimport-staging")["PolicyDocument"]
    trust = iam.get_role(RoleName="vmimport")["Role"]["AssumeRolePolicyDocument"]
    iam.create_role(RoleName="other", AssumeRolePolicyDocument=json.dumps(trust))
    error = refused("InvalidParameter", import_image, key, RoleName="other")
    assert "does not exist or does not have sufficient permissions" in str(error)
    elsewhere = json.dumps(policy).replace("arn:aws:s3:::staging", "arn:aws:s3:::elsewhere")
    iam.put_role_policy(RoleName="other", PolicyName="p", PolicyDocument=elsewhere)
    refused("InvalidParameter", import_image, key, RoleName="other")
    managed = iam.create_policy(PolicyName="managed", PolicyDocument=json.dumps(policy))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="other", PolicyArn=managed)
    loose = json.loads(json.dumps(trust))
    del loose["Statement"][0]["Condition"]
    iam.update_assume_role_policy(RoleName="other", PolicyDocument=json.dumps(loose))
    refused("InvalidParameter", import_image, key, RoleName="other")
    iam.update_assume_role_policy(RoleName="other", PolicyDocument=json.dumps(trust))
    refused("DryRunOperation", import_image, key, RoleName="other", DryRun=True)
    refused("InvalidParameter", import_image, key + "-absent")
    iam.detach_role_policy(RoleName="other", PolicyArn=managed)
    iam.delete_policy(PolicyArn=managed)
    iam.delete_role_policy(RoleName="other", PolicyName="p")
    iam.delete_role(RoleName="other")
    assert sim.state() == before


def test_parameters_are_checked(import_image: Any, refused: Refused) -> None:
    for code, bad in (
        ("InvalidParameterValue", {"BootMode": "uefi-preferred"}),
        ("InvalidParameterValue", {"Architecture": "arm64"}),
        ("InvalidParameterCombination", {"LicenseType": "BYOL", "UsageOperation": "RunInstances"}),
        ("InvalidParameter", {"LicenseType": "AWS", "Platform": "Linux"}),
        ("MissingParameter", {"DiskContainers": []}),
        ("InvalidParameter", {"DiskContainers": [{"Format": "VMDK", "Url": f"s3://staging/{n}"} for n in range(22)]}),
    ):
        refused(code, import_image, "some/key", **bad)


def test_limit_cancel_and_token(
    sim: AwsSimulator,
    s3: Any,
    ec2: Any,
    key: str,
    disk: Disk,
    qemu_vmdk: Encode,
    import_image: Any,
    finished: Any,
    refused: Refused,
) -> None:
    before = sim.state()
    _put(s3, key, qemu_vmdk(disk(2)))
    sim.settings(import_limit=2)
    sim.rule(kind="import", key=f"*{key}", phase="validated", outcome="stuck")
    first = import_image(key, ClientToken=f"{key}-1")["ImportTaskId"]
    second = import_image(key, ClientToken=f"{key}-2")["ImportTaskId"]
    refused("ResourceCountLimitExceeded", import_image, key, ClientToken=f"{key}-3")
    assert import_image(key, ClientToken=f"{key}-1")["ImportTaskId"] == first
    refused("IdempotentParameterMismatch", import_image, key, ClientToken=f"{key}-1", BootMode="uefi")
    assert sim.state()["import_tasks"] == sorted((first, second))
    for task_id in (first, second):
        assert ec2.cancel_import_task(ImportTaskId=task_id)["PreviousState"] == "active"
        task = finished(task_id)
        assert task["Status"] == "deleted"
    refused("IncorrectState", ec2.cancel_import_task, ImportTaskId=first)
    refused("InvalidConversionTaskId", ec2.describe_import_image_tasks, ImportTaskIds=["import-ami-0"])
    s3.delete_object(Bucket="staging", Key=key)
    assert sim.state() == before


def test_ordered_end_with_a_given_message(
    sim: AwsSimulator, s3: Any, key: str, disk: Disk, qemu_vmdk: Encode, import_image: Any, finished: Any
) -> None:
    message = "ClientError: Missing OS files."
    sim.rule(kind="import", key=f"*{key}", phase="booting", message=message, count=1)
    task = finished(import_image(_put(s3, key, qemu_vmdk(disk(2))))["ImportTaskId"])
    assert (task["Status"], task["StatusMessage"]) == ("deleted", message)


def test_flip_hits_a_grains_compressed_data_and_breaks_the_import(
    sim: AwsSimulator, s3: Any, key: str, disk: Disk, stream_vmdk: Encode, import_image: Any, finished: Any, sha: Any
) -> None:
    image = disk(16)
    body = stream_vmdk(image)
    sim.rule(kind="flip", key=f"*{key}", count=1)
    upload = s3.create_multipart_upload(Bucket="staging", Key=key, ChecksumAlgorithm="SHA256")
    where = {"Bucket": "staging", "Key": key, "UploadId": upload["UploadId"]}
    etag = s3.upload_part(**where, PartNumber=1, Body=body, ChecksumSHA256=sha(body))["ETag"]
    parts = [{"PartNumber": 1, "ETag": etag, "ChecksumSHA256": sha(body)}]
    s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    flip = next(row for row in sim.evidence()["flips"] if row["key"] == key)
    got = s3.get_object(Bucket="staging", Key=key)["Body"].read()
    assert [at for at in range(len(body)) if got[at] != body[at]] == [flip["object_offset"]]
    grain = image[flip["disk_offset"] : flip["disk_offset"] + (64 << 10)]
    assert grain.strip(b"\0")
    kept = next(row for row in sim.evidence()["objects"] if row["key"] == key)
    assert Path(kept["path"]).read_bytes() == got
    assert finished(import_image(key)["ImportTaskId"])["Status"] == "deleted"
    s3.delete_object(Bucket="staging", Key=key)
    assert Path(kept["path"]).read_bytes() == got
