"""Import tasks: how the states that AWS reports are interpreted, and which errors its failures become."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import pytest

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.import_failures import KNOWN_FAILURES
from wavelift.adapters.aws.vmimport import (
    ImportDisk,
    ImportRequest,
    ImportState,
    VmImport,
    explain_import_failure,
    read_status,
)
from wavelift.base.errors import PermanentError, RemoteJobError

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("status", "message", "state", "phase"),
    [
        ("active", "pending", ImportState.RUNNING, "pending"),
        ("active", "preparing ami", ImportState.RUNNING, "preparing ami"),
        ("active", "", ImportState.RUNNING, "active"),
        ("converting", "x", ImportState.RUNNING, "converting"),
        ("never seen before", "", ImportState.RUNNING, "never seen before"),
        ("", "", ImportState.RUNNING, ""),
        ("completed", "", ImportState.COMPLETED, "completed"),
        ("deleting", "ClientError: x", ImportState.FAILED, "deleting"),
        ("deleted", "ClientError: x", ImportState.FAILED, "deleted"),
    ],
)
def test_only_terminal_states_are_believed(status: str, message: str, state: ImportState, phase: str) -> None:
    read = read_status({"ImportTaskId": "import-ami-1", "Status": status, "StatusMessage": message})
    assert (read.state, read.phase, read.message) == (state, phase, message)


def test_a_completed_task_gives_image_and_snapshots_by_disk() -> None:
    details: list[dict[str, Any]] = [
        {"SnapshotId": "snap-b", "UserBucket": {"S3Bucket": "s", "S3Key": "f/disk-1.vmdk"}},
        {"SnapshotId": "snap-a", "UserBucket": {"S3Bucket": "s", "S3Key": "f/disk-0.vmdk"}},
    ]
    read = read_status(
        {
            "ImportTaskId": "import-ami-1",
            "Status": "completed",
            "ImageId": "ami-1",
            "Progress": "100",
            "SnapshotDetails": details,
            "Tags": [{"Key": "wavelift:run", "Value": "abc"}],
        }
    )
    assert read.image_id == "ami-1"
    assert read.progress == 100
    assert read.snapshot_ids == ("snap-b", "snap-a")
    assert read.snapshot_by_key == {"f/disk-0.vmdk": "snap-a", "f/disk-1.vmdk": "snap-b"}
    assert read.tags == {"wavelift:run": "abc"}
    assert read.finished


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (
            "ClientError: Disk validation failed [We do not have access to the given resource. Reason 403 Forbidden]",
            "role.bucket",
        ),
        ("The service role vmimport provided does not exist or does not have sufficient permissions", "role.missing"),
        ("ClientError: Unsupported kernel version 4.15.0-1021-aws", "linux.kernel"),
        ("ClientError: unable to detect default kernel", "linux.grub"),
        (
            "FirstBootFailure: the Windows instance failed to boot and establish network connectivity.",
            "boot.network",
        ),
        ("ClientError: Invalid configuration - Could not read fstab", "linux.multiboot"),
        ("ClientError: Unsupported configuration - Logical volume group activation failed", "linux.lvm"),
        ("ClientError: No valid partitions. Not a valid volume.", "boot.missing"),
        ("ClientError: Unknown OS / Missing OS files.", "boot.missing"),
        ("ClientError: EFI partition detected. UEFI booting is not supported in EC2.", "boot.mode"),
        ("ClientError: Uncompressed data has invalid length", "object.format"),
        ("The given S3 bucket is not local to the region", "bucket.region"),
        ("ClientError: Windows activation failed", "licence"),
        ("User initiated task cancelation", "cancelled"),
        ("ServerError: an internal error has occurred during conversion", "aws.internal"),
        ("ClientError: the moon is full", "unknown"),
        ("", "unknown"),
    ],
)
def test_amp_08_failures_get_a_reading_and_a_next_step(message: str, code: str) -> None:
    reading = explain_import_failure(message)
    assert reading.code == code
    assert reading.reading
    assert reading.next_step
    assert reading.source


def test_every_known_failure_has_a_code_of_its_own_and_a_source() -> None:
    codes = [known.explanation.code for known in KNOWN_FAILURES]
    assert len(set(codes)) == len(codes)
    assert all(known.explanation.source for known in KNOWN_FAILURES)


def test_a_failure_carries_the_vendors_words_and_says_whether_a_retry_helps() -> None:
    lost = read_status(
        {
            "ImportTaskId": "import-ami-9",
            "Status": "deleted",
            "StatusMessage": "ClientError: Unsupported kernel version 9",
        }
    )
    error = lost.failure(server="web01")
    assert isinstance(error, RemoteJobError)
    assert not error.retryable
    assert "Unsupported kernel version 9" in str(error)
    assert "task=import-ami-9" in str(error)
    assert "server=web01" in str(error)
    inside = dataclasses.replace(lost, message="ServerError: an internal error has occurred during conversion")
    assert inside.failure().retryable


DISK = ImportDisk(bucket="staging", key="f/disk-0.vmdk")


def test_inv_11_the_order_of_disks_is_kept_and_empty_values_are_left_to_aws() -> None:
    second = ImportDisk(bucket="staging", key="f/disk-1.vmdk", description="data")
    parameters = ImportRequest([DISK, second], "token-1", tags={"wavelift:run": "abc"}).parameters()
    assert parameters == {
        "DiskContainers": [
            {"Format": "VMDK", "UserBucket": {"S3Bucket": "staging", "S3Key": "f/disk-0.vmdk"}},
            {"Format": "VMDK", "UserBucket": {"S3Bucket": "staging", "S3Key": "f/disk-1.vmdk"}, "Description": "data"},
        ],
        "ClientToken": "token-1",
        "RoleName": "vmimport",
        "Architecture": "x86_64",
        "TagSpecifications": [{"ResourceType": "import-image-task", "Tags": [{"Key": "wavelift:run", "Value": "abc"}]}],
    }


def test_a_key_implies_encryption() -> None:
    assert ImportRequest([DISK], "t", kms_key="alias/k").parameters()["Encrypted"] is True


@pytest.mark.parametrize(
    "request_",
    [
        ImportRequest([], "t"),
        ImportRequest([DISK] * 22, "t"),
        ImportRequest([ImportDisk(snapshot_id="snap-1")], "t", boot_mode="uefi"),
    ],
)
def test_what_aws_would_fail_later_is_refused_before(request_: ImportRequest) -> None:
    with pytest.raises(PermanentError):
        request_.check()


def test_uefi_from_snapshots_with_a_platform_is_fine() -> None:
    ImportRequest([ImportDisk(snapshot_id="snap-1")], "t", boot_mode="uefi", platform="Linux").check()


def test_inv_7_what_a_triggerer_watches_is_one_describe_call() -> None:
    asked: list[list[str]] = []

    class Client:
        def client(self, service: str) -> Client:
            return self

        def get_paginator(self, operation: str) -> Client:
            assert operation == "describe_import_image_tasks"
            return self

        def paginate(self, ImportTaskIds: list[str]) -> list[dict[str, Any]]:
            asked.append(ImportTaskIds)
            tasks = [{"ImportTaskId": each, "Status": "active"} for each in ImportTaskIds]
            return [{"ImportImageTasks": tasks}]

    names = [f"import-ami-{number:017x}" for number in range(200)]
    found = VmImport(cast(AwsAccess, Client())).describe(names)
    assert list(found) == names
    assert asked == [names]
