"""What is seen of an instance before it is exported: each of the causes of VIE-03, and whom EC2 does not know."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final
from uuid import uuid4

import pytest
from tests.wire.aws.exporting import eventually, launched, volumes_of
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.export_instance import ExportInstances
from wavelift.base.errors import MissingPrivilegeError, NotFoundError, PermanentError
from wavelift.base.units import GIB
from wavelift.rules.export_facts import InstanceFacts
from wavelift.simulators.aws import AwsSimulator, Bootstrap
from wavelift.simulators.aws.settings import ACCOUNT

pytestmark = pytest.mark.wire
NOW: Final = datetime(2026, 12, 1, 12, tzinfo=UTC)
FOREIGN: Final = "210987654321"


@pytest.fixture
def image(aws: AwsSimulator, access: AwsAccess) -> Iterator[str]:
    made = bare_image(access, disks=2)
    snapshots = Ec2(access).images([made])[made].snapshot_ids
    yield made
    aws.clear_rules()
    Ec2(access).deregister(made, delete_snapshots=False)
    for snapshot_id in snapshots:
        Ec2(access).delete_snapshot(snapshot_id)


@pytest.fixture
def instance(aws: AwsSimulator, access: AwsAccess, account: Bootstrap, image: str) -> Iterator[str]:
    made = launched(access, image, account.subnet_ids[0])
    yield made
    aws.clear_rules()
    Ec2(access).terminate([made])


def look(access: AwsAccess, instance: str) -> InstanceFacts:
    return ExportInstances(access).facts(instance, now=NOW)


def test_vie_03_what_is_seen_of_a_machine(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, image: str, instance: str
) -> None:
    facts = look(access, instance)
    assert (facts.instance_id, facts.region, facts.account, facts.caller) == (instance, aws.region, ACCOUNT, ACCOUNT)
    assert (facts.state, facts.name, facts.seen_at) == ("running", "app01", NOW)
    assert (facts.platform_details, facts.usage_operation, facts.windows) == ("Linux/UNIX", "RunInstances", False)
    assert (facts.instance_type, facts.vcpus, facts.memory) == ("t3.small", 2, 2 * GIB)
    assert (facts.boot_mode, facts.architecture, facts.root_device) == ("uefi", "x86_64", "/dev/sda1")
    ids = volumes_of(access, instance)
    assert [(one.volume_id, one.device, one.size, one.boot) for one in facts.volumes] == [
        (ids[0], "/dev/sda1", GIB, True),
        (ids[1], "/dev/sdf", GIB, False),
    ]
    assert all(one.launched and one.snapshot_id and not one.encrypted for one in facts.volumes)
    [nic] = facts.nics
    assert (nic.index, nic.subnet_id) == (0, account.subnet_ids[0])
    assert nic.mac.count(":") == 5
    assert (facts.image.image_id, facts.image.exists, facts.image.owner) == (image, True, ACCOUNT)
    assert [(one.exists, one.encrypted) for one in facts.image.snapshots] == [(True, False)] * 2
    assert (facts.instance_store, facts.product_codes) == ((), ())


def test_vie_03_volumes_attached_later_are_told_apart(aws: AwsSimulator, access: AwsAccess, instance: str) -> None:
    ec2 = access.client("ec2")
    zone = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]["Placement"]
    later = ec2.create_volume(Size=2, AvailabilityZone=zone["AvailabilityZone"], VolumeType="gp3")["VolumeId"]
    eventually(lambda: ec2.describe_volumes(VolumeIds=[later])["Volumes"][0]["State"] == "available")
    ec2.attach_volume(VolumeId=later, InstanceId=instance, Device="/dev/sdh")
    facts = look(access, instance)
    assert {one.device: (one.launched, one.size // GIB) for one in facts.volumes} == {
        "/dev/sda1": (True, 1),
        "/dev/sdf": (True, 1),
        "/dev/sdh": (False, 2),
    }
    ec2.detach_volume(VolumeId=later)
    eventually(lambda: ec2.describe_volumes(VolumeIds=[later])["Volumes"][0]["State"] == "available")
    ec2.delete_volume(VolumeId=later)


def test_vie_03_a_second_interface_is_seen(access: AwsAccess, account: Bootstrap, instance: str) -> None:
    ec2 = access.client("ec2")
    card = ec2.create_network_interface(SubnetId=account.subnet_ids[0])["NetworkInterface"]["NetworkInterfaceId"]
    attached = ec2.attach_network_interface(NetworkInterfaceId=card, InstanceId=instance, DeviceIndex=1)
    assert [(one.index, one.interface_id == card) for one in look(access, instance).nics] == [(0, False), (1, True)]
    ec2.detach_network_interface(AttachmentId=attached["AttachmentId"])
    ec2.delete_network_interface(NetworkInterfaceId=card)


def test_vie_03_an_image_that_is_gone(access: AwsAccess, image: str, instance: str) -> None:
    Ec2(access).deregister(image, delete_snapshots=False)
    facts = look(access, instance)
    assert (facts.image.image_id, facts.image.exists, facts.image.snapshots) == (image, False, ())
    assert [one.launched for one in facts.volumes] == [True, True], "the launch itself tells"


def test_vie_03_snapshots_of_the_mapping(aws: AwsSimulator, access: AwsAccess, image: str, instance: str) -> None:
    first, second = Ec2(access).images([image])[image].snapshot_ids
    aws.amend(first, encrypted=True)
    found = {one.snapshot_id: one for one in look(access, instance).image.snapshots}
    assert (found[first].encrypted, found[second].encrypted) == (True, False)
    aws.amend(first, encrypted=False)
    aws.amend(second, owner=FOREIGN)
    found = {one.snapshot_id: one for one in look(access, instance).image.snapshots}
    assert (found[first].exists, found[second].exists) == (True, False), "ours are those that this account has"
    aws.amend(image, owner=FOREIGN)
    facts = look(access, instance)
    assert facts.image.owner == FOREIGN
    assert [one.exists for one in facts.image.snapshots] == [True, True], "nobody shows them, so nobody can tell"
    aws.amend(image, owner=ACCOUNT)
    aws.amend(second, owner=ACCOUNT)


def test_vie_03_licences_and_owners(aws: AwsSimulator, access: AwsAccess, image: str, instance: str) -> None:
    aws.amend(instance, product_codes=["code1"], owner=FOREIGN)
    aws.amend(image, product_codes=["code2"])
    facts = look(access, instance)
    assert (facts.product_codes, facts.image.product_codes, facts.account) == (("code1",), ("code2",), FOREIGN)
    aws.amend(instance, product_codes=[], owner=ACCOUNT, platform="windows")
    aws.amend(instance, platform_details="Windows with SQL Server Standard", usage_operation="RunInstances:0006")
    aws.amend(image, product_codes=[])
    facts = look(access, instance)
    assert (facts.windows, facts.usage_operation) == (True, "RunInstances:0006")


def test_vie_03_instance_store_of_the_type(access: AwsAccess, account: Bootstrap, image: str) -> None:
    ec2 = access.client("ec2")
    made = ec2.run_instances(
        ImageId=image, MinCount=1, MaxCount=1, InstanceType="m5d.large", SubnetId=account.subnet_ids[0]
    )["Instances"][0]["InstanceId"]
    eventually(lambda: look(access, made).state == "running")
    facts = look(access, made)
    assert facts.instance_store == ("1 x 75 GB ssd of m5d.large",)
    assert facts.image.instance_store == ()
    Ec2(access).terminate([made])


def test_a_stopped_instance_is_seen_as_it_was_launched(access: AwsAccess, instance: str) -> None:
    """It is started again later: its launch time changes, and what came with the launch does not."""
    ec2 = access.client("ec2")
    ec2.stop_instances(InstanceIds=[instance])
    eventually(lambda: look(access, instance).state == "stopped")
    ec2.start_instances(InstanceIds=[instance])
    eventually(lambda: look(access, instance).state == "running")
    assert [one.launched for one in look(access, instance).volumes] == [True, True]


@pytest.mark.parametrize("wrong", ["", "i-1", "web01", "i-0123456789abcdef0 ", "ami-0123456789abcdef0"])
def test_what_is_no_id_is_refused_without_a_call(aws: AwsSimulator, access: AwsAccess, wrong: str) -> None:
    before = aws.counters()
    with pytest.raises(PermanentError, match="is no id of an instance"):
        look(access, wrong)
    assert aws.counters() == before


def test_an_instance_that_this_region_does_not_have(aws: AwsSimulator, access: AwsAccess) -> None:
    """Another region's id looks the same."""
    with pytest.raises(
        NotFoundError, match=rf"has no such instance in {aws.region}.*another region or account"
    ) as told:
        look(access, f"i-{uuid4().hex[:17]}")
    assert ACCOUNT in str(told.value)


def test_a_terminated_instance_is_refused(aws: AwsSimulator, access: AwsAccess, account: Bootstrap, image: str) -> None:
    made = launched(access, image, account.subnet_ids[0])
    Ec2(access).terminate([made])
    with pytest.raises(PermanentError, match="the instance is terminated"):
        look(access, made)


@pytest.mark.parametrize(
    "operation", ["DescribeInstances", "DescribeVolumes", "DescribeImages", "DescribeInstanceTypes"]
)
def test_a_missing_right_is_named(aws: AwsSimulator, access: AwsAccess, instance: str, operation: str) -> None:
    aws.rule(service="ec2", operation=operation, code="UnauthorizedOperation", status=403)
    with pytest.raises(MissingPrivilegeError, match=f"ec2:{operation}"):
        look(access, instance)


def test_a_type_that_the_region_lost_has_its_processors_still(
    access: AwsAccess, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportInstances, "_kind", lambda *_: {})
    facts: Any = look(access, instance)
    assert (facts.vcpus, facts.memory) == (2, 0)
