"""Instances to export, and what each test of exports leaves: nothing."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from typing import Any, Final

from tests.wire.aws.proving import until

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.services.dataplane.steps.poll import instance_is

__test__ = False

LONGEST_S: Final = 30.0


def run_tags() -> dict[str, str]:
    """Of a run of this test's own."""
    return {"wavelift:run": uuid.uuid4().hex[:12], "wavelift:wave": "instance_export.lab", "wavelift:server": "i"}


def launched(access: AwsAccess, image_id: str, subnet_id: str, **values: Any) -> str:
    """An instance of an image, once it runs; its id. Whoever calls terminates it."""
    request = LaunchRequest(image_id, "t3.small", subnet_id, uuid.uuid4().hex, tags={"Name": "app01"}, **values)
    instance = Ec2(access).launch(request).instance_id
    until(access, instance_is(instance, "running"))
    return instance


def volumes_of(access: AwsAccess, instance_id: str) -> list[str]:
    """Ids, the root volume first."""
    answer = access.client("ec2").describe_instances(InstanceIds=[instance_id])
    instance = answer["Reservations"][0]["Instances"][0]
    rows = sorted(instance["BlockDeviceMappings"], key=lambda row: row["DeviceName"] != instance["RootDeviceName"])
    return [row["Ebs"]["VolumeId"] for row in rows]


def eventually(look: Callable[[], Any]) -> Any:
    """What ``look`` returns once that is true."""
    ends = time.monotonic() + LONGEST_S
    while not (found := look()):
        assert time.monotonic() < ends, found
        time.sleep(0.02)
    return found
