"""Which volumes of an instance came with its launch: what EC2 tells, and what it leaves open (VIE-03)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pytest

from wavelift.adapters.aws.export_instance import INSTANCE_ID, device_order, was_launched

pytestmark = pytest.mark.unit
BEGAN: Final = datetime(2026, 1, 5, 8, tzinfo=UTC)
MAPPED: Final = frozenset({"/dev/sda1", "/dev/sdf"})


@pytest.mark.parametrize(
    ("device", "seconds", "deleted", "launched"),
    [
        ("/dev/sdf", 0, True, True),
        ("/dev/sdf", 1, False, True),
        ("/dev/sdg", 1, True, True),
        ("/dev/sdg", 1, False, False),
        ("/dev/sdg", 30, True, False),
        ("/dev/sdf", 30, True, False),
        ("/dev/sdf", -3600, True, True),
        ("/dev/sdg", -3600, True, False),
    ],
    ids=[
        "of the image",
        "of the image and kept",
        "added by the launch",
        "attached at once, as AttachVolume does",
        "attached later and then set to be deleted",
        "attached later in the place of the image's",
        "of the image, and the root volume was replaced since",
        "not of the image, and the root volume was replaced since",
    ],
)
def test_vie_03_volumes_that_came_with_the_launch(device: str, seconds: int, deleted: bool, launched: bool) -> None:
    ebs: dict[str, Any] = {"AttachTime": BEGAN + timedelta(seconds=seconds), "DeleteOnTermination": deleted}
    assert was_launched({"DeviceName": device, "Ebs": ebs}, BEGAN, MAPPED) is launched


@pytest.mark.parametrize(("seconds", "deleted", "launched"), [(1, True, True), (1, False, False), (60, True, False)])
def test_vie_03_without_the_image_the_launch_itself_tells(seconds: int, deleted: bool, launched: bool) -> None:
    ebs: dict[str, Any] = {"AttachTime": BEGAN + timedelta(seconds=seconds), "DeleteOnTermination": deleted}
    assert was_launched({"DeviceName": "/dev/sdf", "Ebs": ebs}, BEGAN, frozenset()) is launched


def test_without_times_the_image_tells() -> None:
    assert was_launched({"DeviceName": "/dev/sdf", "Ebs": {}}, BEGAN, MAPPED)
    assert not was_launched({"DeviceName": "/dev/sdg", "Ebs": {"AttachTime": BEGAN}}, None, MAPPED)


def test_devices_stand_in_their_true_order() -> None:
    devices = ["/dev/sdb", "/dev/sdb1", "/dev/sdc", "/dev/sdz", "/dev/sdaa", "/dev/sdab"]
    assert sorted(set(devices), key=device_order) == devices


def test_ids_of_instances() -> None:
    assert INSTANCE_ID.fullmatch("i-0123456789abcdef0")
    assert INSTANCE_ID.fullmatch("i-01234567")
    for wrong in (
        "",
        "i-",
        "i-0123456789abcdef",
        "I-0123456789abcdef0",
        "i-0123456789abcdefg",
        "ami-0123456789abcdef0",
        "i-01234567\n",
    ):
        assert not INSTANCE_ID.fullmatch(wrong), wrong
