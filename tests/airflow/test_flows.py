"""The migrate DAG of a wave, run in this process: what its tasks do, refuse and tell."""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.airflow.waves import BUCKET

from wavelift.base.names import run_hash

pytestmark = pytest.mark.airflow

PER_SERVER = 9
"""Task instances per server and flow, at most: the start of each costs CPU (``docs/architecture.md``)."""


@pytest.fixture(scope="module")
def full(lab: Lab) -> Done:
    """A wave of three servers, done."""
    return lab.run("full.migrate", {"note": "all of it"})


def test_air_02_air_05_amp_07_a_wave_of_three_servers(lab: Lab, full: Done) -> None:
    full.ends("success")
    report = full.report()
    assert {one["server"]: one["state"] for one in report["outcomes"]} == dict.fromkeys(
        ("full-web", "full-db", "full-win"), "completed"
    )
    for one in report["outcomes"]:
        lab.assert_proven(one["server"], one["image_id"])
        assert len(lab.snapshots_taken(one["server"])) == 1
    mapped = [row for row in full.rows() if row["map_index"] >= 0]
    names = {row["map_index"]: row["rendered_map_index"] for row in mapped}
    assert sorted(names.values()) == ["full-db", "full-web", "full-win"]
    assert all(row["rendered_map_index"] == names[row["map_index"]] for row in mapped)
    assert all(sum(row["map_index"] == index for row in mapped) <= PER_SERVER for index in names)
    assert full.outcome("full-web")["instance_id"]
    assert not full.outcome("full-db")["instance_id"], "launch: none is the default"
    known = full.migration("full-web")
    assert (known.state, known.progress_pct, known.bytes_done) == ("completed", 100, known.bytes_total)


def test_inv_1_a_whole_image_is_read_back_by_a_task_near_aws(lab: Lab, full: Done) -> None:
    index = full.index("full-db")
    assert full.row("compare", index)["state"] == "success"
    imported, compared = full.xcom("import_image", index=index), full.xcom("compare", index=index)
    assert (imported["report"], len(compared["report"])) == ([], 2)
    assert full.migration("full-db").conversion_report == compared["report"]


@pytest.mark.proof
def test_inv_1_a_data_disk_that_the_conversion_changed_is_no_result(lab: Lab) -> None:
    """Found by ``compare``: nothing is launched, and the ledger names no image; a person decides about it."""
    lab.aws.settings(change_data_disks=True)
    try:
        run = lab.run("changed.migrate").ends("failed")
    finally:
        lab.aws.settings(change_data_disks=False)
    index = run.index("changed-a")
    assert (run.row("compare", index)["state"], run.row("compare", index)["try_number"]) == ("failed", 1)
    assert run.row("launch", index)["state"] == "upstream_failed"
    assert "changed a data disk" in run.outcome("changed-a")["error"]
    assert not run.migration("changed-a").image_id
    image_id = run.xcom("import_image", index=index)["image_id"]
    assert f"image {image_id} was made but never proven" in " ".join(run.report()["unclean"])
    ec2 = lab.aws.client("ec2")
    (image,) = ec2.describe_images(ImageIds=[image_id])["Images"]
    ec2.deregister_image(ImageId=image_id)
    for device in image["BlockDeviceMappings"]:
        ec2.delete_snapshot(SnapshotId=device["Ebs"]["SnapshotId"])
    kept = [key for key in lab.aws.state()["buckets"][BUCKET]["objects"] if "/changed/" in key]
    assert [key.rpartition(".")[2] for key in kept] == ["manifest"] * 2, "what a cleared `compare` needs"
    for key in kept:
        lab.aws.client("s3").delete_object(Bucket=BUCKET, Key=key)


@pytest.mark.proof
def test_a_sample_costs_no_process_of_its_own(lab: Lab) -> None:
    run = lab.run("sampled.migrate").ends("success")
    row = run.row("compare", 0)
    assert (row["state"], row["try_number"]) == ("skipped", 0)
    assert run.row("launch", 0)["state"] == "success"
    assert run.migration("sampled-a").conversion_report
    lab.assert_proven("sampled-a", run.outcome("sampled-a")["image_id"])


def test_air_02_one_failed_server_stops_no_other(lab: Lab) -> None:
    run = lab.run("broken.migrate").ends("failed")
    states = {one["server"]: one["state"] for one in run.report()["outcomes"]}
    assert states == {"broken-a": "completed", "broken-b": "failed"}
    error = run.outcome("broken-b")["error"]
    assert "Unsupported kernel version 5.99" in error
    assert "our reading" in error
    assert run.row("report")["try_number"] == 1, "a verdict is not tried again"
    assert not lab.leftovers({"broken"}), "what a failed server staged goes with its run"


def test_inv_1_a_flipped_byte_is_found_and_named_before_the_import(lab: Lab) -> None:
    """One byte inside a grain's compressed data changes after the upload, before ``verify``: as ``DEMO_FAULT=flip``."""
    lab.aws.rule(kind="flip", key="*flipped-a/*/disk-1.vmdk", count=1)
    run = lab.run("flipped.migrate").ends("failed")
    (flip,) = lab.aws.evidence()["flips"]
    index = run.index("flipped-a")
    assert run.row("verify", index)["try_number"] == 1, "no retry can cure it"
    words = run.words("verify", index)
    for part in ("server=flipped-a", "disk=disk 1 (SCSI 0:1)", f"offset={flip['disk_offset']} ("):
        assert part in words, words
    assert run.row("import_image", index)["state"] == "upstream_failed", "nothing unproven is imported"
    assert run.outcome("flipped-a")["error"] == words
    assert run.outcome("flipped-b")["state"] == "completed"
    lab.assert_proven("flipped-b", run.outcome("flipped-b")["image_id"])


@pytest.mark.proof
def test_inv_9_a_cut_export_is_tried_again_and_continued(lab: Lab) -> None:
    """A cut line within a try; then the task's retry, with what its checkpoint kept: the state store outlives it."""
    lab.vcenter.rule(kind="nfc", action="cut", vm="cut-a", bytes=2 << 20)
    lab.aws.rule(service="s3", operation="UploadPart", code="OperationAborted", status=409, count=1)
    run = lab.run("cut.migrate").ends("success")
    assert run.row("export", 0)["try_number"] == 2
    assert len(lab.snapshots_taken("cut-a")) == 1
    lab.assert_proven("cut-a", run.outcome("cut-a")["image_id"])


@pytest.mark.parametrize("mode", ["plan", pytest.param("preflight", marks=pytest.mark.proof)])
def test_plan_and_preflight_create_nothing(lab: Lab, mode: str) -> None:
    before = (lab.machine("modes-a"), lab.vcenter.counters()["methods"].get("CreateSnapshot_Task", 0))
    run = lab.run("modes.migrate", {"mode": mode}).ends("success")
    report = run.xcom("preflight", key="report")
    assert [one["name"] for one in report["servers"]] == ["modes-a"]
    assert not [one for one in report["findings"] if one["severity"] == "error"]
    assert run.xcom("preflight") == []
    assert run.row("report")["state"] == "success"
    assert {row["state"] for row in run.rows() if row["task_id"].startswith("server.")} == {"skipped"}
    after = (lab.machine("modes-a"), lab.vcenter.counters()["methods"].get("CreateSnapshot_Task", 0))
    assert after == before
    assert not [key for key in lab.aws.state()["buckets"][BUCKET]["objects"] if "/modes/" in key]
    assert not [one for one in lab.ended() if one.dag_run_id == run.run_id]


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"bogus": 1}, ("unknown key 'bogus'", "servers, launch, mode, priority, note")),
        ({"servers": ["modes-a", "modes-z"]}, ("no server 'modes-z'", "modes-a")),
        ({"mode": "cleanup", "dry_run": "no"}, ("dry_run: must be true or false", "not 'no'")),
    ],
    ids=["unknown key", "unknown server", "not a switch"],
)
def test_admission_refuses_in_words(lab: Lab, conf: dict[str, Any], words: tuple[str, str]) -> None:
    run = lab.run("modes.migrate", conf).ends("failed")
    assert run.row("admit")["try_number"] == 1, "no retry can cure it"
    said = run.words("admit")
    assert all(part in said for part in words), said
    assert run.row("preflight")["state"] == "upstream_failed"
    assert said in run.words("report")


def test_inv_12_a_launch_beside_its_running_source_is_refused_without_a_choice(lab: Lab, full: Done) -> None:
    db = full.migration("full-db")
    run = lab.run("full.migrate", {"mode": "launch", "migrations": [db.id]}).ends("failed")
    assert "allow_twin" in run.words("launch_imported")
    assert not full.migration("full-db").instance_id


def test_amp_08_an_imported_server_is_launched_later(lab: Lab, full: Done) -> None:
    win = full.migration("full-win")
    lab.run("full.migrate", {"mode": "launch", "migrations": [win.id]}).ends("success")
    instance = full.migration("full-win").instance_id
    found = lab.aws.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert found["ImageId"] == win.image_id
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert tags["wavelift:run"] == win.id.removeprefix("mig-")


@pytest.mark.proof
def test_an_image_is_read_back_again(lab: Lab, full: Done) -> None:
    db = full.migration("full-db")
    run = lab.run("full.migrate", {"mode": "verify", "migrations": [db.id]}).ends("success")
    (read,) = run.xcom("verify_imported")
    assert (read["server"], len(read["disks"])) == ("full-db", 2)
    assert [disk["changed"] == [] for disk in read["disks"]] == [False, True], "only the boot disk was converted"


def test_cleanup_lists_and_removes_what_ended_runs_left(lab: Lab, full: Done) -> None:
    known = run_hash(f"{full.dag_id}/{full.run_id}/full-web")
    unknown = "0123456789ab"
    s3 = lab.aws.client("s3")
    for owner in (known, unknown):
        s3.put_object(Bucket=BUCKET, Key=f"staging/full/{owner}/full-web/disk-0.vmdk", Body=b"left")
        s3.create_multipart_upload(Bucket=BUCKET, Key=f"staging/full/{owner}/full-web/disk-1.vmdk")
    try:
        listed = _swept(lab, dry_run=True)
        assert {(one["kind"], one["owner"], one["removed"]) for one in listed} == {
            ("staged disk", "ended run", False),
            ("upload", "ended run", False),
            ("staged disk", "unknown", False),
            ("upload", "unknown", False),
        }
        assert len(lab.uploads(known)) == 1
        removed = _swept(lab, dry_run=False)
        assert {(one["run"], one["removed"]) for one in removed} == {(known, True), (unknown, False)}
        left = lab.aws.state()["buckets"][BUCKET]
        assert [key for key in left["objects"] if key.endswith(".vmdk") and "/full/" in key] == [
            f"staging/full/{unknown}/full-web/disk-0.vmdk"
        ]
        assert [one["key"] for one in lab.uploads("/full/")] == [f"staging/full/{unknown}/full-web/disk-1.vmdk"]
        assert {one.snapshot_state for one in lab.ended() if one.wave == "full"} == {"removed"}
    finally:
        s3.delete_object(Bucket=BUCKET, Key=f"staging/full/{unknown}/full-web/disk-0.vmdk")
        for one in lab.uploads(unknown):
            s3.abort_multipart_upload(Bucket=BUCKET, Key=one["key"], UploadId=one["id"])


def _swept(lab: Lab, *, dry_run: bool) -> list[dict[str, Any]]:
    run = lab.run("full.migrate", {"mode": "cleanup", "dry_run": dry_run}).ends("success")
    report = run.xcom("preflight", key="report")
    assert report["dry_run"] is dry_run
    return list(report["leftovers"])
