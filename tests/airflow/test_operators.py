"""Operators and sensors in a DAG of a user's own."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from wavelift.cli.local_airflow import wait_for

pytestmark = pytest.mark.airflow

DAG_ID = "lab_tools"
BUCKET = "wavelift-tests"
MIB = 1024 * 1024


def test_air_02_disk_files_images_of_objects_and_snapshots_and_both_sensors(world: Any) -> None:
    folder = world.dags.parent
    raw, vmdk = folder / "tools.raw", folder / "tools.vmdk"
    content = bytes(MIB) + bytes(range(256)) * (4 * MIB // 256) + bytes(3 * MIB)
    raw.write_bytes(content)
    subprocess.run(
        ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk], check=True, timeout=60
    )
    run_id = world.airflow.trigger(DAG_ID)

    def states() -> dict[str, str]:
        return {row["task_id"]: row["state"] for row in world.api.task_instances(DAG_ID, run_id)}

    wait_for(lambda: states().get("off") == "up_for_reschedule", timeout=120, what="the power sensor to wait")
    world.vcenter.set_vm("tools-vm", power="poweredOff")
    state = world.airflow.wait_for_run(DAG_ID, run_id)
    said = world.airflow.describe(DAG_ID, run_id)
    ended = states()
    assert ended.pop("nobody") == "failed", "a VM that is not there is not waited for"
    assert set(ended.values()) == {"success"}, said
    assert state == "failed", "a leaf failed"
    assert "'no-such-vm'" in world.airflow.task_log(DAG_ID, run_id, "nobody")
    try:
        _assert_uploaded_alike(world, run_id, content)
        _assert_imported(world, run_id, content)
    finally:
        _take_away(world, run_id)
    assert not [key for key in world.aws.state()["buckets"][BUCKET]["objects"] if key.startswith("tools/")]


def _assert_uploaded_alike(world: Any, run_id: str, content: bytes) -> None:
    """Raw file and VMDK give the same manifest, and an object that decodes to the disk."""
    stored = [world.api.xcom(DAG_ID, run_id, f"upload_{name}") for name in ("raw", "vmdk")]
    assert {one["capacity"] for one in stored} == {len(content)}
    assert stored[0]["content_digest"] == stored[1]["content_digest"]
    kept = {one["key"]: one["path"] for one in world.aws.evidence()["objects"]}
    for one in stored:
        decoded = world.dags.parent / "decoded.raw"
        subprocess.run(
            ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", kept[one["object_key"]], decoded], check=True, timeout=60
        )
        assert decoded.read_bytes() == content


def _assert_imported(world: Any, run_id: str, content: bytes) -> None:
    first, second = (world.api.xcom(DAG_ID, run_id, name) for name in ("image", "image_of_snapshot"))
    assert first["image_id"] != second["image_id"]
    watched = world.api.xcom(DAG_ID, run_id, "watch")
    assert (watched["task_id"], watched["image_id"]) == (first["task_id"], first["image_id"])
    read = [one for one in world.aws.evidence()["imports"] if one["image"] == first["image_id"]]
    assert Path(read[0]["raw"]).read_bytes()[: len(content)] == content
    images = world.aws.client("ec2").describe_images(ImageIds=[first["image_id"], second["image_id"]])["Images"]
    for image in images:
        assert {"Key": "made-by", "Value": "lab_tools"} in image["Tags"]


def _take_away(world: Any, run_id: str) -> None:
    """What the DAG made are its user's results."""
    ec2 = world.aws.client("ec2")
    for name in ("image", "image_of_snapshot"):
        made = world.api.xcom(DAG_ID, run_id, name)
        if made:
            ec2.deregister_image(ImageId=made["image_id"])
            for snapshot in made["snapshot_ids"]:
                ec2.delete_snapshot(SnapshotId=snapshot)
    for key in ("raw.vmdk", "raw.vmdk.manifest", "vmdk.vmdk", "vmdk.vmdk.manifest"):
        world.aws.client("s3").delete_object(Bucket=BUCKET, Key=f"tools/{key}")
