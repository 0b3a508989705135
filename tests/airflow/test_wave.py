"""Waves as a person runs them, through the REST API of a running Airflow."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.base.names import run_hash
from wavelift.ledger import DagRun
from wavelift.ledger.events import list_events

pytestmark = pytest.mark.airflow

PER_SERVER = 8
"""Task instances per server and flow, at most (DESIGN, DAGs)."""


def test_air_02_air_05_amp_07_amp_08_a_wave_of_three_servers(world: Any) -> None:
    run = world.early["full"].ends("success")
    report = run.report()
    assert {one["server"]: one["state"] for one in report["outcomes"]} == dict.fromkeys(
        ("full-web", "full-db", "full-win"), "completed"
    )
    for one in report["outcomes"]:
        world.assert_proven(one["server"], one["image_id"])
        assert len(world.snapshots_taken(one["server"])) == 1
    mapped = [row for row in run.rows() if row["map_index"] >= 0]
    names = {row["map_index"]: row["rendered_map_index"] for row in mapped}
    assert sorted(names.values()) == ["full-db", "full-web", "full-win"]
    assert all(row["rendered_map_index"] == names[row["map_index"]] for row in mapped)
    assert all(sum(row["map_index"] == index for row in mapped) <= PER_SERVER for index in names)
    _listed_under_one_id(world, run)
    _linked(run)


def _listed_under_one_id(world: Any, run: Any) -> None:
    """AMP-07, AMP-08: list, report and instance tell of one and the same."""
    answer = world.api.call("GET", "/wavelift/migrations?wave=full&limit=2")
    assert (answer["total"], len(answer["migrations"])) == (3, 2)
    listed = world.api.call("GET", "/wavelift/migrations?wave=full&search=full-web")["migrations"]
    assert [row["server"] for row in listed] == ["full-web"]
    row, outcome = listed[0], run.outcome("full-web")
    assert (row["id"], row["image_id"], row["instance_id"]) == (
        outcome["migration"],
        outcome["image_id"],
        outcome["instance_id"],
    )
    assert (row["state"], row["progress_pct"], row["bytes_done"]) == ("completed", 100, row["bytes_total"])
    instance = world.aws.client("ec2").describe_instances(InstanceIds=[row["instance_id"]])
    tags = {tag["Key"]: tag["Value"] for tag in instance["Reservations"][0]["Instances"][0]["Tags"]}
    assert tags["wavelift:run"] == row["id"].removeprefix("mig-")
    assert not run.outcome("full-db")["instance_id"], "launch: none is the default"


def _linked(run: Any) -> None:
    index = run.index("full-web")
    outcome = run.outcome("full-web")
    assert run.links("import_image", index)["AMI"].endswith(f"imageId={outcome['image_id']}")
    assert run.links("launch", index)["EC2 instance"].endswith(f"instanceId={outcome['instance_id']}")
    assert "VirtualMachine:vm-" in run.links("snapshot", index)["vCenter VM"]
    assert run.links("launch", run.index("full-db"))["EC2 instance"] is None


def test_air_02_one_failed_server_and_its_continuation(world: Any) -> None:
    run = world.early["broken"].ends("failed")
    states = {one["server"]: one["state"] for one in run.report()["outcomes"]}
    assert states == {"broken-a": "completed", "broken-b": "failed", "broken-c": "completed"}
    error = run.outcome("broken-b")["error"]
    assert "Unsupported kernel version 5.99" in error
    assert "our reading" in error
    assert run.row("report")["try_number"] == 1, "a verdict is not tried again"
    assert not world.leftovers({"broken"}), "what a failed server staged goes with its run"
    index = run.index("broken-b")
    others = {name: (run.tries(run.index(name)), run.outcome(name)) for name in ("broken-a", "broken-c")}

    cleared = run.clear(["server.reserve", index])
    assert {row["map_index"] for row in cleared} == {index, -1}
    run.ends("success")

    assert run.outcome("broken-b")["state"] == "completed"
    world.assert_proven("broken-b", run.outcome("broken-b")["image_id"])
    assert len(world.snapshots_taken("broken-b")) == 2
    for name, (tries, outcome) in others.items():
        assert run.tries(run.index(name)) == tries
        assert run.outcome(name) == outcome
        assert len(world.snapshots_taken(name)) == 1


def test_air_03_a_missed_deadline_alerts(world: Any) -> None:
    """Fires while the run is still going; the event is written by the deadline's callback in the triggerer."""
    run = world.early["late"]
    seen = DagRun(run.dag_id, run.run_id)

    def alerts() -> list[Any]:
        events = list_events(world.ledger, object_kind="wave_run", object_id=f"{seen.dag_id}/{seen.dag_run_id}")
        return [event for event in events if event.action == "wave_run.late"]

    run.until("the deadline alert", alerts, timeout=150)
    assert alerts()[0].details == {"wave": "late", "minutes": 1}
    run.ends("success")
    assert len(alerts()) == 1


def test_plan_and_preflight_create_nothing(world: Any) -> None:
    before = world.machine("modes-a")
    calls = world.vcenter.counters()["methods"].get("CreateSnapshot_Task", 0) if not world.active else None
    runs = [world.trigger("modes", {"mode": mode}) for mode in ("plan", "preflight")]
    for run in runs:
        run.ends("success")
        report = world.api.xcom(run.dag_id, run.run_id, "preflight", key="report")
        assert [one["name"] for one in report["servers"]] == ["modes-a"]
        assert not [one for one in report["findings"] if one["severity"] == "error"]
        assert world.api.xcom(run.dag_id, run.run_id, "preflight") == []
        assert run.row("report")["state"] == "success"
        assert not [row for row in run.rows() if row["map_index"] >= 0 and row["state"] != "skipped"]
    assert world.machine("modes-a") == before
    assert not world.snapshots_taken("modes-a")
    assert not [key for key in world.aws.state()["buckets"]["wavelift-tests"]["objects"] if "/modes/" in key]
    if calls is not None:
        assert world.vcenter.counters()["methods"].get("CreateSnapshot_Task", 0) == calls
    assert not [one for one in world.ended() if one.wave == "modes"]


@pytest.mark.parametrize(
    ("conf", "words"),
    [
        ({"bogus": 1}, ("unknown keys: bogus", "servers, launch, mode, note")),
        ({"servers": ["modes-a", "modes-z"]}, ("no server 'modes-z'", "modes-a")),
        ({"mode": "cleanup", "dry_run": "no"}, ("dry_run is 'no'", "true, false")),
    ],
    ids=["unknown key", "unknown server", "not a switch"],
)
def test_admission_refuses_in_words(world: Any, conf: dict[str, Any], words: tuple[str, str]) -> None:
    run = world.trigger("modes", conf).ends("failed")
    assert run.row("admit")["try_number"] == 1, "no retry can cure it"
    said = run.words("admit")
    assert all(part in said for part in words), said
    assert run.row("preflight")["state"] == "upstream_failed"


def test_air_05_a_bad_choice_in_the_form_is_refused_before_a_run(world: Any) -> None:
    for conf in ({"mode": "teleport"}, {"launch": "maybe"}, {"servers": "modes-a"}):
        status, answer = world.api.request(
            "POST", "/api/v2/dags/modes.migrate/dagRuns", {"logical_date": None, "conf": conf}
        )
        assert status == 400, answer
        assert next(iter(conf)) in str(answer["detail"])


def test_amp_08_an_imported_server_is_launched_from_the_list(world: Any) -> None:
    world.early["full"].ends("success")
    full = world.early["full"]
    off, running = full.migration("full-win"), full.migration("full-db")
    launches = [_start(world, f"/wavelift/migrations/{one.id}/launch") for one in (off, running)]
    verify = _start(world, f"/wavelift/migrations/{running.id}/verify")

    launches[0].ends("success")
    instance = full.migration("full-win").instance_id
    assert world.api.call("GET", f"/wavelift/migrations/{off.id}")["instance_id"] == instance
    found = world.aws.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert found["ImageId"] == off.image_id

    launches[1].ends("failed")  # its source runs, and nobody chose a twin (invariant 12)
    assert "allow_twin" in launches[1].words("launch_imported")
    assert not full.migration("full-db").instance_id

    verify.ends("success")
    (read,) = world.api.xcom(verify.dag_id, verify.run_id, "verify_imported")
    assert (read["server"], len(read["disks"])) == ("full-db", 2)
    assert [disk["changed"] == [] for disk in read["disks"]] == [False, True], "only the boot disk was converted"


def _start(world: Any, path: str, body: Any = None) -> Any:
    """A run that our own REST route starts."""
    started = world.api.call("POST", path, body)
    run = type(world.early["full"])(world, started["dag_id"], started["dag_run_id"])
    world.active.append(run)
    return run


def test_cleanup_lists_and_removes_what_ended_runs_left(world: Any) -> None:
    full = world.early["full"].ends("success")
    known = run_hash(f"{full.dag_id}/{full.run_id}/full-web")
    unknown = "0123456789ab"
    s3 = world.aws.client("s3")
    for owner in (known, unknown):
        s3.put_object(Bucket="wavelift-tests", Key=f"staging/full/{owner}/full-web/disk-0.vmdk", Body=b"left")
        s3.create_multipart_upload(Bucket="wavelift-tests", Key=f"staging/full/{owner}/full-web/disk-1.vmdk")
    try:
        listed = _swept(world, dry_run=True)
        assert {(one["kind"], one["owner"], one["removed"]) for one in listed} == {
            ("staged disk", "ended run", False),
            ("upload", "ended run", False),
            ("staged disk", "unknown", False),
            ("upload", "unknown", False),
        }
        assert len(world.uploads(known)) == 1
        removed = _swept(world, dry_run=False)
        assert {(one["run"], one["removed"]) for one in removed} == {(known, True), (unknown, False)}
        left = world.aws.state()["buckets"]["wavelift-tests"]
        assert [key for key in left["objects"] if key.endswith(".vmdk") and "/full/" in key] == [
            f"staging/full/{unknown}/full-web/disk-0.vmdk"
        ]
        assert [one["key"] for one in world.uploads("/full/")] == [f"staging/full/{unknown}/full-web/disk-1.vmdk"]
        assert {one.snapshot_state for one in world.ended() if one.wave == "full"} == {"removed"}
    finally:
        s3.delete_object(Bucket="wavelift-tests", Key=f"staging/full/{unknown}/full-web/disk-0.vmdk")
        for one in world.uploads(unknown):
            s3.abort_multipart_upload(Bucket="wavelift-tests", Key=one["key"], UploadId=one["id"])


def _swept(world: Any, *, dry_run: bool) -> list[dict[str, Any]]:
    """What a clean-up run tells of wave ``full``: other waves run meanwhile, and their snapshots are living ones."""
    run = _start(world, "/wavelift/cleanup", {"wave": "full", "dry_run": dry_run}).ends("success")
    report = world.api.xcom(run.dag_id, run.run_id, "preflight", key="report")
    assert report["dry_run"] is dry_run
    found = [one for one in report["leftovers"] if "/full/" in one["name"]]
    assert all(one["owner"] == "living run" for one in report["leftovers"] if one not in found), report
    return found
