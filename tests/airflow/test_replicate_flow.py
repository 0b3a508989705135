"""The replicate DAG, run in this process: seed, delta, the quota on demand, reading back, deleting."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.airflow.inprocess import Done, Lab
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.base.times import utc_minute
from wavelift.ledger import jobs
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.deletion import delete_job
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = pytest.mark.airflow

DAG_ID = "copies.replicate"
PER_SERVER = 9
BLOCK = 512 * 1024
ON_DEMAND = {"servers": ["copies-a"]}


@pytest.fixture(scope="module")
def copied(lab: Lab) -> tuple[Done, Done]:
    """A seed, the guest writes, a delta."""
    order = JobOrder(
        server="copies-a", plan=ReplicationPlan(seed_time=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    )
    create_jobs(lab.ledger, "copies", [order], by="op", clock=SystemClock())
    seed = lab.run(DAG_ID, ON_DEMAND)
    lab.vcenter.guest_write("copies-a", 0, 9 * BLOCK + 7, b"written by the guest" * 100)
    return seed, lab.run(DAG_ID, ON_DEMAND)


def test_sms_05_a_seed_and_a_delta(lab: Lab, copied: tuple[Done, Done]) -> None:
    seed, delta = (run.ends("success") for run in copied)
    first, second = (run.outcome("copies-a") for run in (seed, delta))
    assert (first["state"], first["kinds"]) == ("completed", ["seed"])
    assert first["ami_id"] in lab.aws.state()["images"]
    mapped = [row for row in seed.rows() if row["map_index"] >= 0]
    assert {row["rendered_map_index"] for row in mapped} == {"copies-a"}
    assert len(mapped) <= PER_SERVER
    assert (second["state"], second["kinds"]) == ("completed", ["delta"])
    assert 0 < second["blocks_sent"] < first["blocks_sent"]
    assert second["ami_id"] != first["ami_id"]
    assert len(lab.snapshots_taken("copies-a")) == 2


def test_sms_06_a_third_run_on_demand_is_refused_in_words(lab: Lab, copied: tuple[Done, Done]) -> None:
    report, words = _refused(lab, ON_DEMAND)
    (refused,) = report["refused"]
    assert (refused["server"], refused["rule"]) == ("copies-a", "quota")
    assert datetime.fromisoformat(refused["until"]) > datetime.now(UTC) + timedelta(hours=23)
    assert "quota" in words
    assert utc_minute(datetime.fromisoformat(refused["until"])) in words
    assert len(lab.snapshots_taken("copies-a")) == 2, "a refused run touches nothing"


def test_unknown_servers_and_keys_are_refused(lab: Lab) -> None:
    report, _ = _refused(lab, {"servers": ["nobody"]})
    assert [one["rule"] for one in report["refused"]] == ["no_job"]
    run = lab.run(DAG_ID, {"server": ["copies-a"]}).ends("failed")
    assert "unknown key 'server'" in run.words("report")


def test_sms_09_a_read_back_and_a_deletion(lab: Lab, copied: tuple[Done, Done]) -> None:
    """What the runs stored is read back; then the job goes, and all but its AMIs with it."""
    (job,) = within(lab.ledger.read(), jobs.standing, "copies")
    verify = lab.run(DAG_ID, {"mode": "verify", "jobs": [job.id]}).ends("success")
    (verified,) = verify.report()["verified"]
    assert (verified["server"], verified["level"]) == ("copies-a", "full")
    assert verified["blocks_checked"] > 0
    states = verify.states()
    assert (states["delete_replicas"], states["verify_recorded"]) == ("skipped", "success")

    before = lab.aws.state()
    delete_job(lab.ledger, job.id, by="test", clock=SystemClock())
    deletion = lab.run(DAG_ID, {"mode": "delete", "jobs": [job.id]}).ends("success")
    (deleted,) = deletion.report()["deleted"]
    assert deleted["snapshots"]
    assert lab.aws.state()["images"] == before["images"]
    assert within(lab.ledger.read(), jobs.standing, "copies") == ()


def _refused(lab: Lab, conf: dict[str, Any]) -> tuple[dict[str, Any], str]:
    run = lab.run(DAG_ID, conf).ends("failed")
    return run.report(), run.words("report")
