"""Both ways: exports run with exactly the rights that ``iam show`` prints for them, and use every one (SMS-13)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final
from uuid import uuid4

import pytest
from tests.eventually import eventually

from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.export_bucket import ExportBuckets
from wavelift.adapters.aws.export_instance import ExportInstances
from wavelift.adapters.aws.export_sources import ExportSources, SnapshotsRequest, image_name
from wavelift.adapters.aws.instance_exports import (
    CancelResult,
    ImageExportRequest,
    InstanceExportRequest,
    InstanceExports,
)
from wavelift.base.errors import UnreachableError
from wavelift.base.run import SystemClock
from wavelift.rules.export_accounts import export_account
from wavelift.rules.policies import Staging, identity_policy, role_policy
from wavelift.services.dataplane.export_messages import ExportOrder
from wavelift.services.dataplane.export_staging import made_with, run_of
from wavelift.simulators.aws.settings import ACCOUNT

from .export_lab import EXPORT, PREFIX, ExportLab

pytestmark = pytest.mark.wire
HELD: Final = "exporter"


@pytest.fixture
def printed(lab: ExportLab) -> Iterator[set[tuple[str, str]]]:
    """What is printed for exports; the lab's access is held to it. The bucket keeps versions, as an enterprise's."""
    s3, admin = lab.sim.client("s3"), lab.access
    rule = [{"ObjectOwnership": "BucketOwnerPreferred"}]
    s3.put_bucket_ownership_controls(Bucket=lab.bucket, OwnershipControls={"Rules": rule})
    s3.put_bucket_versioning(Bucket=lab.bucket, VersioningConfiguration={"Status": "Enabled"})
    ExportBuckets(admin, ACCOUNT).grant(lab.bucket, export_account(lab.sim.region))
    role = f"arn:aws:iam::{ACCOUNT}:role/vmimport"
    staging = Staging("staging", exports=lab.bucket)
    of_role, iam = {"RoleName": "vmimport", "PolicyName": "exports"}, lab.sim.client("iam")
    iam.put_role_policy(**of_role, PolicyDocument=json.dumps(role_policy(staging)))
    managed = iam.create_policy(PolicyName="managed", PolicyDocument=json.dumps(role_policy(staging)))["Policy"]["Arn"]
    iam.attach_role_policy(RoleName="vmimport", PolicyArn=managed)
    document = identity_policy("caller", staging, role_arn=role, features=["export"])
    lab.access = lab.sim_access(lab.sim.hold(HELD, [document]))
    yield {(one["Sid"], action) for one in document["Statement"] for action in one["Action"]}
    lab.access = admin
    lab.sim.let_go()
    iam.delete_role_policy(**of_role)
    iam.detach_role_policy(RoleName="vmimport", PolicyArn=managed)
    iam.delete_policy(PolicyArn=managed)
    found = s3.list_object_versions(Bucket=lab.bucket)
    for one in (*found.get("Versions", ()), *found.get("DeleteMarkers", ())):
        s3.delete_object(Bucket=lab.bucket, Key=one["Key"], VersionId=one["VersionId"])


def test_sms_13_exports_have_the_rights_that_they_use_and_no_others(
    lab: ExportLab, printed: set[tuple[str, str]]
) -> None:
    facts = ExportInstances(lab.access).facts(lab.instance, now=SystemClock().now())
    assert [one.volume_id for one in facts.volumes] == list(lab.volumes)
    assert ExportBuckets(lab.access, ACCOUNT).facts(lab.bucket).unknown == ()
    role = AccountChecks(lab.access).role("vmimport", bucket=lab.bucket, exports=lab.bucket)
    assert (role.exists, role.trust_problem, role.missing_actions, role.unknown) == (True, "", (), "")
    _direct(lab)
    _by_aws(lab)
    held = lab.sim.held()[HELD]
    assert held["denied"] == []
    used = {(one["sid"], one["action"]) for one in held["used"]}
    assert printed - used == set()


def _direct(lab: ExportLab) -> None:
    """With another try, and what is left is removed."""
    plan, sources = lab.plan(), ExportSources(lab.access)
    tags = made_with(plan)
    taken = sources.take(SnapshotsRequest(lab.instance, lab.volumes, uuid4().hex, tags, f"export {EXPORT}"))
    ids = [one.snapshot_id for one in taken.snapshots]
    lab.made += ids
    lab.sim.advance(lab.sim.settings()["image_seconds"] + 1)
    assert all(one.completed for one in sources.look(ids).values())
    disks: list[Any] = [
        {
            "index": number,
            "volume_id": one.volume_id,
            "device": "",
            "snapshot_id": one.snapshot_id,
            "capacity": one.size,
        }
        for number, one in enumerate(taken.snapshots)
    ]
    order = ExportOrder.model_validate(
        {"plan": plan, "key": f"{PREFIX}{EXPORT}.ova", "disks": disks, "instant": taken.started}
    )
    context = lab.context()
    lab.sim.rule(service="s3", operation="CompleteMultipartUpload", status=500)
    with pytest.raises(UnreachableError):
        lab.read(order, context)
    lab.sim.clear_rules()
    written = lab.read(order, context)
    assert written.parts_kept == written.parts
    assert lab.verify(order, written, context).level == "full"
    lab.discard(order)
    abandoned = lab.context()
    lab.sim.rule(service="s3", operation="CompleteMultipartUpload", status=500)
    with pytest.raises(UnreachableError):
        lab.read(order, abandoned)
    lab.sim.clear_rules()
    assert lab.discard(order)
    assert set(sources.remove(tags).snapshots) == set(ids)


def _by_aws(lab: ExportLab) -> None:
    """Both kinds of tasks are cancelled; an identity that may not do that would leave them."""
    plan, api, sources = lab.plan(), InstanceExports(lab.access), ExportSources(lab.access)
    tags = made_with(plan)
    client = lab.sim.client("ec2")
    one_disk = client.run_instances(
        ImageId=_of_one_disk(lab), MinCount=1, MaxCount=1, InstanceType="t3.small", SubnetId=lab.subnet
    )["Instances"][0]
    machine = one_disk["InstanceId"]
    lab.sim.advance(lab.sim.settings()["instance_pending_seconds"])
    try:
        lab.sim.rule(kind="export", phase="converting", outcome="held")
        task = api.start(InstanceExportRequest(machine, "vmware", "ova", lab.bucket, PREFIX, tags))
        image = sources.make_image(machine, image_name(run_of(EXPORT), 0), reboot=False, tags=tags).image_id
        lab.sim.advance(lab.sim.settings()["image_seconds"] + 1)
        assert sources.image(image).state == "available"
        second = api.export_image(ImageExportRequest(image, "vmdk", lab.bucket, PREFIX, uuid4().hex, tags))
        assert api.count_active() == 2
        for one in (task, second):
            assert api.cancel(one.task_id).result is CancelResult.CANCELLED
        assert eventually(lambda: api.count_active() == 0)
        assert sources.remove(tags).images == (image,)
    finally:
        lab.sim.clear_rules()
        client.terminate_instances(InstanceIds=[machine])
        client.deregister_image(ImageId=one_disk["ImageId"])


def _of_one_disk(lab: ExportLab) -> str:
    """An image of the first disk of the lab's."""
    client = lab.sim.client("ec2")
    [image] = client.describe_images(ImageIds=[lab.image])["Images"]
    root = next(row for row in image["BlockDeviceMappings"] if row["DeviceName"] == image["RootDeviceName"])
    mapping = {"DeviceName": root["DeviceName"], "Ebs": {"SnapshotId": root["Ebs"]["SnapshotId"]}}
    made: str = client.register_image(
        Name=f"one-disk-{uuid4().hex[:8]}",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName=root["DeviceName"],
        BlockDeviceMappings=[mapping],
    )["ImageId"]
    return made
