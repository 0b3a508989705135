"""Waves as a person runs them, through the REST API of a running Airflow."""

from __future__ import annotations

from typing import Any

import pytest
from tests.airflow.aside import aside
from tests.ledgers import within

from wavelift.base.run import DagRun
from wavelift.ledger.events import list_events

pytestmark = pytest.mark.airflow

PER_SERVER = 9
"""Task instances per server and flow, at most: the start of each costs CPU (``docs/architecture.md``)."""


def test_air_02_air_05_amp_07_amp_08_a_wave_in_a_running_airflow(world: Any) -> None:
    run = world.early["full"].ends("success")
    report = run.report()
    assert {one["server"]: one["state"] for one in report["outcomes"]} == dict.fromkeys(
        ("full-web", "full-win"), "completed"
    )
    for one in report["outcomes"]:
        world.assert_proven(one["server"], one["image_id"])
        assert len(world.snapshots_taken(one["server"])) == 1
    mapped = [row for row in run.rows() if row["map_index"] >= 0]
    names = {row["map_index"]: row["rendered_map_index"] for row in mapped}
    assert sorted(names.values()) == ["full-web", "full-win"]
    assert all(row["rendered_map_index"] == names[row["map_index"]] for row in mapped)
    assert all(sum(row["map_index"] == index for row in mapped) <= PER_SERVER for index in names)
    _listed_under_one_id(world, run)
    _linked(run)


def _listed_under_one_id(world: Any, run: Any) -> None:
    """AMP-07, AMP-08: list, report and instance tell of one and the same."""
    answer = world.api.call("GET", "/wavelift/migrations?wave=full&limit=1")
    assert (answer["total"], len(answer["migrations"])) == (2, 1)
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
    assert not run.outcome("full-win")["instance_id"], "launch: none is the default"


def _linked(run: Any) -> None:
    index = run.index("full-web")
    outcome = run.outcome("full-web")
    assert run.links("import_image", index)["AMI"].endswith(f"imageId={outcome['image_id']}")
    assert run.links("launch", index)["EC2 instance"].endswith(f"instanceId={outcome['instance_id']}")
    assert "VirtualMachine:vm-" in run.links("snapshot", index)["vCenter VM"]
    assert run.links("launch", run.index("full-win"))["EC2 instance"] is None


@aside("broken")
def test_air_02_one_failed_server_and_its_continuation(world: Any) -> None:
    run = world.early["broken"].ends("failed")
    states = {one["server"]: one["state"] for one in run.report()["outcomes"]}
    assert states == {"broken-a": "completed", "broken-b": "failed"}
    error = run.outcome("broken-b")["error"]
    assert "Unsupported kernel version 5.99" in error
    assert "our reading" in error
    assert run.row("report")["try_number"] == 1, "a verdict is not tried again"
    assert not world.leftovers({"broken"}), "what a failed server staged goes with its run"
    index = run.index("broken-b")
    others = {name: (run.tries(run.index(name)), run.outcome(name)) for name in ("broken-a",)}

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


@aside("late")
def test_air_03_a_missed_deadline_alerts(world: Any) -> None:
    """Fires while the run is still going; the event is written by the deadline's callback in the triggerer."""
    run = world.early["late"]
    seen = DagRun(run.dag_id, run.run_id)

    def alerts() -> list[Any]:
        events = within(
            world.ledger.read(), list_events, object_kind="wave_run", object_id=f"{seen.dag_id}/{seen.dag_run_id}"
        )
        return [event for event in events if event.action == "wave_run.late"]

    run.until("the deadline alert", alerts)
    assert alerts()[0].details == {"wave": "late", "minutes": 1}
    run.ends("success")
    assert len(alerts()) == 1


def test_air_05_a_bad_choice_in_the_form_is_refused_before_a_run(world: Any) -> None:
    for conf in ({"mode": "teleport"}, {"launch": "maybe"}, {"servers": "late-a"}):
        status, answer = world.api.request(
            "POST", "/api/v2/dags/late.migrate/dagRuns", {"logical_date": None, "conf": conf}
        )
        assert status == 400, answer
        assert next(iter(conf)) in str(answer["detail"])


def test_amp_08_an_imported_server_is_launched_from_the_list(world: Any) -> None:
    full = world.early["full"].ends("success")
    win = full.migration("full-win")
    op = world.airflow.client("op")
    started = op.call("POST", f"/wavelift/migrations/{win.id}/launch")
    world.known_run(started["dag_id"], started["dag_run_id"]).ends("success")
    instance = full.migration("full-win").instance_id
    assert op.call("GET", f"/wavelift/migrations/{win.id}")["instance_id"] == instance
    found = world.aws.client("ec2").describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
    assert found["ImageId"] == win.image_id
    read = op.call("POST", f"/wavelift/migrations/{win.id}/verify")
    swept = op.call("POST", "/wavelift/cleanup", {"wave": "full", "dry_run": True})
    confs = [_ended(world, each)["conf"] for each in (read, swept)]
    assert [{key: conf[key] for key in ("mode", "migrations", "dry_run") if key in conf} for conf in confs] == [
        {"mode": "verify", "migrations": [win.id]},
        {"mode": "cleanup", "dry_run": True},
    ]


def _ended(world: Any, started: dict[str, Any]) -> dict[str, Any]:
    """A run that our own REST route started, as Airflow knows it."""
    world.known_run(started["dag_id"], started["dag_run_id"]).ends("success")
    return dict(world.api.call("GET", f"/api/v2/dags/{started['dag_id']}/dagRuns/{started['dag_run_id']}"))
