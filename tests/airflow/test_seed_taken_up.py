"""The replicate DAG over two runs: the seed that the first one left unfinished is the second one's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tests.airflow.inprocess import Lab
from tests.ledgers import within

from wavelift.base.run import SystemClock
from wavelift.ledger import jobs
from wavelift.ledger.lineage import read_lineage
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = [pytest.mark.airflow, pytest.mark.proof]

DAG_ID = "seeds.replicate"
BLOCK = 512 * 1024
SENT = 14
"""Blocks of 22: 60 %."""


def test_inv_6_a_seed_that_failed_is_taken_up_by_the_next_run(lab: Lab) -> None:
    order = JobOrder(
        server="seeds-a", plan=ReplicationPlan(seed_time=(datetime.now(UTC) + timedelta(days=2)).isoformat())
    )
    create_jobs(lab.ledger, "seeds", [order], by="op", clock=SystemClock())
    before = {row["id"] for row in lab.aws.state()["snapshots"]}
    denied = {"service": "ebs", "operation": "PutSnapshotBlock", "code": "AccessDeniedException", "status": 403}
    lab.aws.rule(**denied, skip=SENT)
    first = lab.run(DAG_ID, {"servers": ["seeds-a"]}).ends("failed")
    lab.aws.clear_rules()
    assert "ebs:PutSnapshotBlock" in first.outcome("seeds-a")["error"]
    ((left, state),) = ((row["id"], row["state"]) for row in lab.aws.state()["snapshots"] if row["id"] not in before)
    assert state == "pending"
    assert not lab.machine("seeds-a")["snapshots"]

    lab.vcenter.guest_write("seeds-a", 0, 2 * BLOCK, b"of another instant" * 100)
    lab.vcenter.guest_write("seeds-a", 0, 4 * BLOCK, bytes(BLOCK))
    second = lab.run(DAG_ID, {"servers": ["seeds-a"]}).ends("success")
    outcome = second.outcome("seeds-a")
    assert outcome["kinds"] == ["seed"]
    assert outcome["blocks_sent"] <= 23 - SENT + 2
    (job,) = within(lab.ledger.read(), jobs.standing, "seeds")
    (disk,) = within(lab.ledger.read(), read_lineage, job.id)
    assert disk.snapshot_id == left
    lab.assert_snapshot_holds(left, Path(lab.snapshots_taken("seeds-a")[-1]["disks"][0]["file"]))
    assert not lab.leftovers({"seeds"})
