"""Images of replicated snapshots, made once however often they are asked for."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, complete_snapshot, start_snapshot
from wavelift.adapters.aws.ec2 import DEVICES, Ec2, ImageRequest
from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.base.units import GIB
from wavelift.simulators.aws import AwsSimulator

pytestmark = pytest.mark.wire

EMPTY = hashlib.sha256().digest()


def pending(access: AwsAccess) -> str:
    token = uuid.uuid4().hex
    return start_snapshot(access, NewSnapshot(capacity=GIB, token=token, tags={"wavelift:run": "r"})).snapshot_id


@pytest.fixture
def ec2(aws: AwsSimulator, access: AwsAccess) -> Ec2:
    return Ec2(access)


@pytest.fixture
def snapshots(ec2: Ec2, access: AwsAccess) -> Iterator[list[str]]:
    """Twelve, so that names sorted as words would come in another order than the disks."""
    made = [pending(access) for _ in range(12)]
    for snapshot_id in made:
        complete_snapshot(access, snapshot_id, blocks=0, linear=EMPTY)
    yield made
    for snapshot_id in made:
        ec2.delete_snapshot(snapshot_id)


def test_inv_5_and_11_an_image_is_made_once_and_keeps_the_disks_order(
    aws: AwsSimulator, ec2: Ec2, snapshots: list[str]
) -> None:
    request = ImageRequest("wavelift-run-1", snapshots, "uefi", {"wavelift:run": "r"}, description="of run 1")
    image = ec2.register(request)
    assert (image.name, image.root_device, image.boot_mode) == ("wavelift-run-1", "/dev/sda1", "uefi")
    assert image.snapshot_ids == tuple(snapshots)
    assert image.tags == {"wavelift:run": "r"}
    described = aws.client("ec2").describe_images(ImageIds=[image.image_id])["Images"][0]
    assert (described["Architecture"], described["EnaSupport"]) == ("x86_64", True)
    assert {one["Ebs"]["VolumeType"] for one in described["BlockDeviceMappings"]} == {"gp3"}
    assert ec2.register(request) == image
    with pytest.raises(PermanentError, match="taken"):
        ec2.register(replace(request, snapshot_ids=snapshots[:1]))
    with pytest.raises(BusyError):
        ec2.delete_snapshot(snapshots[0])
    ec2.deregister(image.image_id, delete_snapshots=False)


def test_inv_5_an_answer_that_got_lost_makes_no_second_image(aws: AwsSimulator, ec2: Ec2, snapshots: list[str]) -> None:
    aws.rule(service="ec2", operation="RegisterImage", cut_response_after=0, count=1)
    request = ImageRequest("wavelift-run-2", snapshots[:1], "legacy-bios")
    image = ec2.register(request)
    assert aws.state()["images"].count(image.image_id) == 1
    ec2.deregister(image.image_id, delete_snapshots=False)


def test_only_completed_snapshots_make_an_image(ec2: Ec2, access: AwsAccess, snapshots: list[str]) -> None:
    unfinished = pending(access)
    with pytest.raises(BusyError):
        ec2.register(ImageRequest("wavelift-run-3", [snapshots[0], unfinished], "uefi"))
    ec2.delete_snapshot(unfinished)
    with pytest.raises(NotFoundError):
        ec2.register(ImageRequest("wavelift-run-3", [snapshots[0], unfinished], "uefi"))
    with pytest.raises(PermanentError, match="0 disks"):
        ec2.register(ImageRequest("wavelift-run-3", [], "uefi"))
    assert list(DEVICES) == [DEVICES[0], *sorted(DEVICES[1:])]


def test_the_encryption_default_is_told(aws: AwsSimulator, ec2: Ec2) -> None:
    assert not ec2.encryption_by_default()
    aws.client("ec2").enable_ebs_encryption_by_default()
    assert ec2.encryption_by_default()
    aws.client("ec2").disable_ebs_encryption_by_default()
