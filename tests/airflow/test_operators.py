"""Operators and sensors in a DAG of a user's own, run in this process."""

from __future__ import annotations

import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from sqlalchemy import make_url
from tests.airflow.inprocess import Done, Lab
from tests.airflow.waves import BUCKET, MIB

from wavelift.cli.local_airflow import wait_for

pytestmark = pytest.mark.airflow

DAG_ID = "lab_tools"
WAIT_SECONDS = 120


def test_air_02_disk_files_images_of_objects_and_snapshots_and_both_sensors(
    lab: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = lab.dags.parent
    raw, vmdk = folder / "tools.raw", folder / "tools.vmdk"
    content = bytes(MIB) + bytes(range(256)) * (4 * MIB // 256) + bytes(3 * MIB)
    raw.write_bytes(content)
    subprocess.run(
        ["qemu-img", "convert", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk], check=True, timeout=60
    )
    with _switched_off_meanwhile(lab) as waited:
        run = lab.run(DAG_ID, file="lab_tools.py")
    assert waited(), "the power sensor was waiting when the VM was switched off"
    ended = run.states()
    assert ended.pop("nobody") == "failed", "a VM that is not there is not waited for"
    assert set(ended.values()) == {"success"}, run.describe()
    assert run.state == "failed", "a leaf failed"
    assert "'no-such-vm'" in capsys.readouterr().out
    try:
        _assert_uploaded_alike(lab, run, content)
        _assert_imported(lab, run, content)
    finally:
        _take_away(lab, run)
    assert not [key for key in lab.aws.state()["buckets"][BUCKET]["objects"] if key.startswith("tools/")]


@contextmanager
def _switched_off_meanwhile(lab: Lab) -> Iterator[Callable[[], bool]]:
    """Switch the VM off as soon as its sensor waits; gives whether it did."""
    url = make_url(lab.settings["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    seen: list[bool] = []

    def waits() -> bool:
        with sqlite3.connect(str(url.database), timeout=60) as database:
            rows = database.execute(
                "select state from task_instance where dag_id = ? and task_id = 'off'", (DAG_ID,)
            ).fetchall()
        return [state for (state,) in rows] == ["up_for_reschedule"]

    def switch() -> None:
        wait_for(waits, timeout=WAIT_SECONDS, what="the power sensor to wait", interval=0.1)
        lab.vcenter.set_vm("tools-vm", power="poweredOff")
        seen.append(True)

    thread = threading.Thread(target=switch)
    thread.start()
    yield lambda: bool(seen)
    thread.join()


def _assert_uploaded_alike(lab: Lab, run: Done, content: bytes) -> None:
    """Raw file and VMDK give the same manifest, and an object that decodes to the disk."""
    stored = [run.xcom(f"upload_{name}") for name in ("raw", "vmdk")]
    assert {one["capacity"] for one in stored} == {len(content)}
    assert stored[0]["content_digest"] == stored[1]["content_digest"]
    kept = {one["key"]: one["path"] for one in lab.aws.evidence()["objects"]}
    for one in stored:
        decoded = lab.dags.parent / "decoded.raw"
        subprocess.run(
            ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", kept[one["object_key"]], decoded], check=True, timeout=60
        )
        assert decoded.read_bytes() == content


def _assert_imported(lab: Lab, run: Done, content: bytes) -> None:
    first, second = (run.xcom(name) for name in ("image", "image_of_snapshot"))
    assert first["image_id"] != second["image_id"]
    watched = run.xcom("watch")
    assert (watched["task_id"], watched["image_id"]) == (first["task_id"], first["image_id"])
    read = [one for one in lab.aws.evidence()["imports"] if one["image"] == first["image_id"]]
    assert Path(read[0]["raw"]).read_bytes()[: len(content)] == content
    images = lab.aws.client("ec2").describe_images(ImageIds=[first["image_id"], second["image_id"]])["Images"]
    for image in images:
        assert {"Key": "made-by", "Value": "lab_tools"} in image["Tags"]


def _take_away(lab: Lab, run: Done) -> None:
    """What the DAG made are its user's results."""
    ec2 = lab.aws.client("ec2")
    for name in ("image", "image_of_snapshot"):
        made = run.xcom(name)
        if made:
            ec2.deregister_image(ImageId=made["image_id"])
            for snapshot in made["snapshot_ids"]:
                ec2.delete_snapshot(SnapshotId=snapshot)
    for key in ("raw.vmdk", "raw.vmdk.manifest", "vmdk.vmdk", "vmdk.vmdk.manifest"):
        lab.aws.client("s3").delete_object(Bucket=BUCKET, Key=f"tools/{key}")
