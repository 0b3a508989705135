"""ImportImage: real conversions, changed boot disks, refusals and ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.eventually import eventually
from tests.wire.simulators_aws.lab import Lab, Refused

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
MIB = 1 << 20
Encode = Callable[[bytes], bytes]


def _put(s3: Any, key: str, body: bytes) -> str:
    s3.put_object(Bucket="staging", Key=key, Body=body)
    return key


def _blocks(image: bytes) -> dict[int, bytes]:
    pieces = {index: image[index * BLOCK : (index + 1) * BLOCK] for index in range(-(-len(image) // BLOCK))}
    return {index: piece for index, piece in pieces.items() if piece.strip(b"\0")}


def test_conversion_gives_the_disks_bytes_outside_of_the_recorded_ranges(
    lab: Lab, stream_vmdk: Encode, qemu_vmdk: Encode, read_snapshot: Any
) -> None:
    boot, data = lab.disk(16, seed=1), lab.disk(8, seed=2)
    keys = [_put(lab.s3, f"{lab.key}-boot", stream_vmdk(boot)), _put(lab.s3, f"{lab.key}-data", qemu_vmdk(data))]
    before = lab.sim.state()
    tags = [{"ResourceType": "import-image-task", "Tags": [{"Key": "wavelift:run", "Value": "r"}]}]
    answer = lab.import_image(*keys, BootMode="uefi", LicenseType="BYOL", Description="web", TagSpecifications=tags)
    assert (answer["Status"], answer["Tags"]) == ("active", tags[0]["Tags"])
    task = lab.finished(answer["ImportTaskId"])
    lab.tidy(task)
    assert task["Status"] == "completed"
    assert task["Tags"] == tags[0]["Tags"]
    assert "Progress" not in task
    details = task["SnapshotDetails"]
    assert [detail["UserBucket"]["S3Key"] for detail in details] == keys[::-1]  # no order is promised
    snapshots = [detail["SnapshotId"] for detail in sorted(details, key=lambda one: str(one["DeviceName"]))]
    kept = sorted(
        (row for row in lab.sim.evidence()["imports"] if row["task"] == task["ImportTaskId"]),
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
    shown = lab.ec2.describe_images(ImageIds=[task["ImageId"]])["Images"][0]
    mappings = [
        (item["DeviceName"], item["Ebs"]["SnapshotId"], item["Ebs"]["VolumeSize"])
        for item in shown["BlockDeviceMappings"]
    ]
    assert mappings == [("/dev/sda1", snapshots[0], 1), ("/dev/xvdb", snapshots[1], 1)]
    assert (shown["BootMode"], shown["Architecture"], shown["PlatformDetails"]) == ("uefi", "x86_64", "Linux/UNIX")
    assert (shown["Name"], shown["State"], shown.get("Tags", [])) == (task["ImportTaskId"], "available", [])
    after = lab.sim.state()
    assert after["import_tasks"] == []
    assert len(after["snapshots"]) == len(before["snapshots"]) + 2


def test_phases_pass_by_and_tasks_are_found(lab: Lab, qemu_vmdk: Encode) -> None:
    lab.sim.settings(phase_seconds=0.4)
    answer = lab.import_image(_put(lab.s3, lab.key, qemu_vmdk(lab.disk(2))))
    task_id, messages, deadline = answer["ImportTaskId"], [], time.monotonic() + 60
    while time.monotonic() < deadline:
        task = lab.ec2.describe_import_image_tasks(ImportTaskIds=[task_id])["ImportImageTasks"][0]
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
    lab.tidy(lab.finished(task_id))
    pages = list(lab.ec2.get_paginator("describe_import_image_tasks").paginate(PaginationConfig={"PageSize": 1}))
    assert task_id in {item["ImportTaskId"] for page in pages for item in page["ImportImageTasks"]}
    active = lab.ec2.describe_import_image_tasks(Filters=[{"Name": "task-state", "Values": ["active"]}])
    assert active["ImportImageTasks"] == []


def test_other_words_for_the_same_phases(lab: Lab, qemu_vmdk: Encode) -> None:
    lab.sim.settings(other_words=True, phase_seconds=0.1)
    answer = lab.import_image(_put(lab.s3, lab.key, qemu_vmdk(lab.disk(2))))
    assert answer["Status"] == "contemplating"
    assert "Progress" not in answer
    task = lab.finished(answer["ImportTaskId"])
    lab.tidy(task)
    assert task["Status"] == "completed"


def test_unchanged_boot_disk_on_request(lab: Lab, stream_vmdk: Encode, read_snapshot: Any) -> None:
    lab.sim.settings(change_boot_disk=False)
    image = lab.disk(4)
    task = lab.finished(lab.import_image(_put(lab.s3, lab.key, stream_vmdk(image)))["ImportTaskId"])
    lab.tidy(task)
    assert read_snapshot(task["SnapshotDetails"][0]["SnapshotId"]) == _blocks(image)


def test_import_from_an_ebs_snapshot(lab: Lab, stream_vmdk: Encode) -> None:
    first = lab.finished(lab.import_image(_put(lab.s3, lab.key, stream_vmdk(lab.disk(2))))["ImportTaskId"])
    lab.tidy(first)
    source = first["SnapshotDetails"][0]["SnapshotId"]
    answer = lab.import_image(DiskContainers=[{"SnapshotId": source}])
    task = lab.finished(answer["ImportTaskId"])
    lab.tidy(task)
    made = task["SnapshotDetails"][0]["SnapshotId"]
    assert made != source
    kept = next(row for row in lab.sim.evidence()["imports"] if row["task"] == task["ImportTaskId"])
    ebs = lab.sim.client("ebs")
    changed = {
        row["BlockIndex"]
        for row in ebs.list_changed_blocks(FirstSnapshotId=source, SecondSnapshotId=made)["ChangedBlocks"]
    }
    assert changed == {row["offset"] // BLOCK for row in kept["changed"]}
    lab.refused("InvalidSnapshot.NotFound", lab.import_image, DiskContainers=[{"SnapshotId": "snap-0123456789abcdef0"}])


@pytest.mark.parametrize("spoil", ["truncated", "no footer", "text", "corrupt grain"])
def test_broken_image_ends_deleted_and_leaves_nothing(lab: Lab, stream_vmdk: Encode, spoil: str) -> None:
    body = bytearray(stream_vmdk(lab.disk(4)))
    if spoil == "truncated":
        body = body[: len(body) // 2]
    elif spoil == "no footer":
        body = body[:-1024]
    elif spoil == "text":
        body = bytearray(b"not a disk" * 1000)
    else:
        body[65536 + 5000] ^= 0xFF
    before = lab.sim.state()
    _put(lab.s3, lab.key, bytes(body))
    task = lab.finished(lab.import_image(lab.key)["ImportTaskId"])
    assert task["Status"] == "deleted"
    validation = "ClientError: Disk validation failed [Unsupported VMDK File Format]"
    expected = (
        "ServerError: an internal error has occurred during conversion." if spoil == "corrupt grain" else validation
    )
    assert task["StatusMessage"] == expected
    lab.s3.delete_object(Bucket="staging", Key=lab.key)
    assert lab.sim.state() == before


def test_role_and_object_are_checked_first(lab: Lab, qemu_vmdk: Encode) -> None:
    _put(lab.s3, lab.key, qemu_vmdk(lab.disk(2)))
    iam = lab.sim.client("iam")
    before = lab.sim.state()
    lab.refused("InvalidParameter", lab.import_image, lab.key, RoleName="absent")
    policy = iam.get_role_policy(RoleName="vmimport", PolicyName="vmimport-staging")["PolicyDocument"]
    trust = iam.get_role(RoleName="vmimport")["Role"]["AssumeRolePolicyDocument"]
    iam.create_role(RoleName="other", AssumeRolePolicyDocument=json.dumps(trust))
    error = lab.refused("InvalidParameter", lab.import_image, lab.key, RoleName="other")
    assert "does not exist or does not have sufficient permissions" in str(error)
    elsewhere = json.dumps(policy).replace("arn:aws:s3:::staging", "arn:aws:s3:::elsewhere")
    iam.put_role_policy(RoleName="other", PolicyName="p", PolicyDocument=elsewhere)
    lab.refused("InvalidParameter", lab.import_image, lab.key, RoleName="other")
    managed = iam.create_policy(PolicyName="managed", PolicyDocument=json.dumps(policy))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="other", PolicyArn=managed)
    loose = json.loads(json.dumps(trust))
    del loose["Statement"][0]["Condition"]
    iam.update_assume_role_policy(RoleName="other", PolicyDocument=json.dumps(loose))
    lab.refused("InvalidParameter", lab.import_image, lab.key, RoleName="other")
    iam.update_assume_role_policy(RoleName="other", PolicyDocument=json.dumps(trust))
    lab.refused("DryRunOperation", lab.import_image, lab.key, RoleName="other", DryRun=True)
    lab.refused("InvalidParameter", lab.import_image, lab.key + "-absent")
    iam.detach_role_policy(RoleName="other", PolicyArn=managed)
    iam.delete_policy(PolicyArn=managed)
    iam.delete_role_policy(RoleName="other", PolicyName="p")
    iam.delete_role(RoleName="other")
    assert lab.sim.state() == before


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


def test_limit_cancel_and_token(lab: Lab, qemu_vmdk: Encode) -> None:
    before = lab.sim.state()
    _put(lab.s3, lab.key, qemu_vmdk(lab.disk(2)))
    lab.sim.settings(import_limit=2)
    lab.sim.rule(kind="import", key=f"*{lab.key}", phase="validated", outcome="stuck")
    first = lab.import_image(lab.key, ClientToken=f"{lab.key}-1")["ImportTaskId"]
    second = lab.import_image(lab.key, ClientToken=f"{lab.key}-2")["ImportTaskId"]
    lab.refused("ResourceCountLimitExceeded", lab.import_image, lab.key, ClientToken=f"{lab.key}-3")
    assert lab.import_image(lab.key, ClientToken=f"{lab.key}-1")["ImportTaskId"] == first
    lab.refused("IdempotentParameterMismatch", lab.import_image, lab.key, ClientToken=f"{lab.key}-1", BootMode="uefi")
    assert lab.sim.state()["import_tasks"] == sorted((first, second))
    for task_id in (first, second):
        assert lab.ec2.cancel_import_task(ImportTaskId=task_id)["PreviousState"] == "active"
        task = lab.finished(task_id)
        assert task["Status"] == "deleted"
    lab.refused("IncorrectState", lab.ec2.cancel_import_task, ImportTaskId=first)
    lab.refused("InvalidConversionTaskId", lab.ec2.describe_import_image_tasks, ImportTaskIds=["import-ami-0"])
    lab.s3.delete_object(Bucket="staging", Key=lab.key)
    assert lab.sim.state() == before


def test_ordered_end_with_a_given_message(lab: Lab, qemu_vmdk: Encode) -> None:
    message = "ClientError: Missing OS files."
    lab.sim.rule(kind="import", key=f"*{lab.key}", phase="booting", message=message, count=1)
    task = lab.finished(lab.import_image(_put(lab.s3, lab.key, qemu_vmdk(lab.disk(2))))["ImportTaskId"])
    assert (task["Status"], task["StatusMessage"]) == ("deleted", message)


def test_flip_hits_a_grains_compressed_data_and_breaks_the_import(lab: Lab, stream_vmdk: Encode, sha: Any) -> None:
    image = lab.disk(16)
    body = stream_vmdk(image)
    lab.sim.rule(kind="flip", key=f"*{lab.key}", count=1)
    upload = lab.s3.create_multipart_upload(Bucket="staging", Key=lab.key, ChecksumAlgorithm="SHA256")
    where = {"Bucket": "staging", "Key": lab.key, "UploadId": upload["UploadId"]}
    etag = lab.s3.upload_part(**where, PartNumber=1, Body=body, ChecksumSHA256=sha(body))["ETag"]
    parts = [{"PartNumber": 1, "ETag": etag, "ChecksumSHA256": sha(body)}]
    lab.s3.complete_multipart_upload(**where, MultipartUpload={"Parts": parts})
    flip = next(row for row in lab.sim.evidence()["flips"] if row["key"] == lab.key)
    got = lab.s3.get_object(Bucket="staging", Key=lab.key)["Body"].read()
    assert [at for at in range(len(body)) if got[at] != body[at]] == [flip["object_offset"]]
    grain = image[flip["disk_offset"] : flip["disk_offset"] + (64 << 10)]
    assert grain.strip(b"\0")
    kept = next(row for row in lab.sim.evidence()["objects"] if row["key"] == lab.key)
    assert Path(kept["path"]).read_bytes() == got
    assert lab.finished(lab.import_image(lab.key)["ImportTaskId"])["Status"] == "deleted"
    lab.s3.delete_object(Bucket="staging", Key=lab.key)
    assert Path(kept["path"]).read_bytes() == got


def test_the_object_is_read_when_the_work_begins_not_when_the_task_is_submitted(
    lab: Lab, stream_vmdk: Encode, read_snapshot: Any
) -> None:
    lab.sim.settings(change_boot_disk=False)
    first, second = lab.disk(4, seed=1), lab.disk(4, seed=2)
    lab.sim.rule(kind="import", key=f"*{lab.key}", phase="converting", outcome="held")
    task_id = lab.import_image(_put(lab.s3, lab.key, stream_vmdk(first)))["ImportTaskId"]
    assert eventually(lambda: lab.sim.rules()[0]["applied"])
    _put(lab.s3, lab.key, stream_vmdk(second))
    assert lab.ec2.describe_import_image_tasks(ImportTaskIds=[task_id])["ImportImageTasks"][0]["Status"] == "active"
    lab.sim.clear_rules()
    task = lab.finished(task_id)
    lab.tidy(task)
    assert read_snapshot(task["SnapshotDetails"][0]["SnapshotId"]) == _blocks(second)
