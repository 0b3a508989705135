"""Replication as a person meets it: runs on demand, their quota, and an instant of the schedule."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from wavelift.base.run import SystemClock
from wavelift.cli.local_airflow import wait_for
from wavelift.ledger.jobs import find_job
from wavelift.ledger.replication_runs import RunFilter, list_runs
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication import JobOrder, create_job, delete_job

pytestmark = pytest.mark.airflow

DAG_ID = "copies.replicate"
PER_SERVER = 9
BLOCK = 512 * 1024


def _job(world: Any, server: str, seed: datetime) -> Any:
    order = JobOrder(server=server, plan=ReplicationPlan(seed_time=seed.isoformat()))
    return create_job(world.ledger, "copies", order, by="test", clock=SystemClock())


def _refused(world: Any, conf: dict[str, Any]) -> tuple[dict[str, Any], str]:
    run = world.trigger("copies", conf, dag="replicate").ends("failed")
    return run.report(), run.words("report")


def test_sms_05_sms_06_a_seed_a_delta_and_a_refusal(world: Any) -> None:
    far = datetime.now(UTC) + timedelta(days=2)
    _job(world, "copies-a", far)
    on_demand = {"servers": ["copies-a"]}

    seed = world.trigger("copies", on_demand, dag="replicate").ends("success")
    first = seed.outcome("copies-a")
    assert (first["state"], first["kinds"]) == ("completed", ["seed"])
    assert first["ami_id"] in world.aws.state()["images"]
    mapped = [row for row in seed.rows() if row["map_index"] >= 0]
    assert {row["rendered_map_index"] for row in mapped} == {"copies-a"}
    assert len(mapped) <= PER_SERVER

    world.vcenter.guest_write("copies-a", 0, 9 * BLOCK + 7, b"written by the guest" * 100)
    delta = world.trigger("copies", on_demand, dag="replicate").ends("success")
    second = delta.outcome("copies-a")
    assert (second["state"], second["kinds"]) == ("completed", ["delta"])
    assert 0 < second["blocks_sent"] < first["blocks_sent"]
    assert second["ami_id"] != first["ami_id"]
    assert len(world.snapshots_taken("copies-a")) == 2

    report, words = _refused(world, on_demand)
    (refused,) = report["refused"]
    assert (refused["server"], refused["rule"]) == ("copies-a", "quota")
    assert datetime.fromisoformat(refused["until"]) > datetime.now(UTC) + timedelta(hours=23)
    assert "quota" in words
    assert refused["until"] in words
    assert len(world.snapshots_taken("copies-a")) == 2, "a refused run touches nothing"

    seed.clear(["server.reserve", 0])
    seed.ends("success")
    assert len(world.snapshots_taken("copies-a")) == 2, "clearing a completed run does nothing"


def test_sms_09_a_read_back_and_a_deletion(world: Any) -> None:
    """After the runs above: what they stored is read back; then the job goes, and all but its AMIs with it."""
    job = find_job(world.ledger, "copies", "copies-a")
    assert job is not None
    verify = world.trigger("copies", {"mode": "verify", "jobs": [job.id]}, dag="replicate").ends("success")
    (verified,) = verify.report()["verified"]
    assert (verified["server"], verified["level"]) == ("copies-a", "full")
    assert verified["blocks_checked"] > 0
    states = {row["task_id"]: row["state"] for row in verify.rows()}
    assert (states["delete_replicas"], states["verify_recorded"]) == ("skipped", "success")

    before = world.aws.state()
    delete_job(world.ledger, job.id, by="test", clock=SystemClock())
    deletion = world.trigger("copies", {"mode": "delete", "jobs": [job.id]}, dag="replicate").ends("success")
    (deleted,) = deletion.report()["deleted"]
    assert deleted["snapshots"]
    assert world.aws.state()["images"] == before["images"]
    assert find_job(world.ledger, "copies", "copies-a") is None


def test_unknown_servers_and_keys_are_refused(world: Any) -> None:
    report, _ = _refused(world, {"servers": ["nobody"]})
    assert [one["rule"] for one in report["refused"]] == ["no_job"]
    run = world.trigger("copies", {"server": ["copies-a"]}, dag="replicate").ends("failed")
    assert "unknown keys: server" in run.words("report")


def test_air_05_an_instant_of_the_schedule_fires(world: Any) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=15)).replace(microsecond=0)
    job = _job(world, "copies-b", at)

    def ran() -> bool:
        return bool(list_runs(world.ledger, RunFilter(job_id=job.id)).items)

    wait_for(ran, timeout=120, what="the scheduled run")
    (known,) = list_runs(world.ledger, RunFilter(job_id=job.id)).items
    assert (known.scheduled_for, known.type, known.counted_at) == (at, "automatic", None)
    assert world.airflow.wait_for_run(DAG_ID, known.dag_run_id) == "success", world.airflow.describe(
        DAG_ID, known.dag_run_id
    )
    report = world.api.xcom(DAG_ID, known.dag_run_id, "report", key="report")
    assert report["scheduled"]
    assert [(one["server"], one["state"]) for one in report["outcomes"]] == [("copies-b", "completed")]
