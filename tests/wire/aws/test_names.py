"""Names of VMs as people give them, through every call that carries one: no service refuses any."""

from __future__ import annotations

import uuid

import pytest
from tests.unit.aws.test_texts import NAMES
from tests.wire.aws.disk_replica import Replica, make_content

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, ImageRequest
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, VmImport
from wavelift.base.names import staging_prefix, tags
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_goes_into_objects_and_imports(
    aws: AwsSimulator, access: AwsAccess, account: Bootstrap, name: str
) -> None:
    run = f"d/{uuid.uuid4()}/{name}"
    staging = S3Staging(access, account.bucket, tags=tags("wave", name, run))
    key = f"{staging_prefix('stage', 'wave', run, name)}/disk-0.vmdk"
    try:
        staging.put_object(key, b"no disk", metadata={"wavelift-server": name})
        assert [one.key for one in staging.list(key)] == [key]
        task = VmImport(access).import_image(
            ImportRequest(
                disks=[ImportDisk(bucket=account.bucket, key=key, description=f"{name} SCSI 0:0")],
                client_token=uuid.uuid4().hex,
                tags=tags("wave", name, run),
                description=f"wave/{name}",
            )
        )
        (found,) = VmImport(access).find(tags("wave", name, run))
        assert found.task_id == task
        VmImport(access).cancel(task)
    finally:
        staging.delete(key)
        staging.close()


@pytest.mark.parametrize("name", ["サーバ 本番 🚀", "💾" * 300, "tab\there\x01"])
def test_a_name_goes_into_snapshots_and_images(replica: Replica, access: AwsAccess, name: str) -> None:
    marks = tags("wave", name, f"d/r/{name}")
    started, _ = replica.send(make_content(), tags=marks, description=f"wavelift: wave/{name} disk 0")
    image = Ec2(access).register(
        ImageRequest(
            name=f"wavelift-{uuid.uuid4().hex[:12]}",
            snapshot_ids=[started.snapshot_id],
            boot_mode="uefi",
            description=f"wave/{name}",
            tags=marks,
        )
    )
    try:
        found = Ec2(access).find_ours(marks)
        assert [one.image_id for one in found.images] == [image.image_id]
        assert [one.snapshot_id for one in found.snapshots] == [started.snapshot_id]
    finally:
        Ec2(access).deregister(image.image_id, delete_snapshots=False)
