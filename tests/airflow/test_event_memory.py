"""A job without runs for a month, through the real DAG: change tracking is not used if vCenter may have lost events."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pyVmomi import vim
from tests.airflow.inprocess import Lab
from tests.ledgers import within

from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.run import CancelFlag, SystemClock
from wavelift.ledger import jobs, lineage
from wavelift.ledger.replication_tables import replication_run
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication.jobs import JobOrder, create_jobs

pytestmark = [pytest.mark.airflow, pytest.mark.proof]

SERVER = "aged-a"
BLOCK = 512 * 1024
THEIRS = "before the patch"
MONTH_S = 31 * 86400.0


@pytest.fixture
def session(lab: Lab) -> Iterator[VsphereSession]:
    """An administrator's."""
    sim = lab.vcenter
    config = VsphereConfig(
        host=sim.host, port=sim.port, username=sim.username, password=sim.password, ca_bundle=str(sim.ca_file)
    )
    with connect(config) as opened:
        yield opened
    sim.reset_clock()


def replicate(lab: Lab) -> dict[str, Any]:
    """One more run, a day after the last as far as the quota knows; what its report says of the server."""
    with lab.ledger.write("test") as tx:
        at = replication_run.c.counted_at
        for row in tx.execute(sa.select(replication_run.c.id, at).where(at.is_not(None))).all():
            one = replication_run.c.id == row.id
            tx.execute(replication_run.update().where(one).values(counted_at=row.counted_at - timedelta(days=2)))
    return lab.run("aged.replicate", {"servers": [SERVER]}).ends("success").outcome(SERVER)


def assert_frozen(lab: Lab) -> None:
    """What EBS holds of the last run is what its vSphere snapshot froze, byte for byte."""
    (job,) = within(lab.ledger.read(), jobs.standing, "aged")
    (disk,) = within(lab.ledger.read(), lineage.read_lineage, job.id)
    frozen = Path(lab.snapshots_taken(SERVER)[-1]["disks"][0]["file"]).read_bytes()
    ebs = lab.aws.client("ebs")
    content = bytearray(len(frozen))
    for block in ebs.list_snapshot_blocks(SnapshotId=disk.snapshot_id)["Blocks"]:
        where = {"BlockIndex": block["BlockIndex"], "BlockToken": block["BlockToken"]}
        at = block["BlockIndex"] * BLOCK
        content[at : at + BLOCK] = ebs.get_snapshot_block(SnapshotId=disk.snapshot_id, **where)["BlockData"].read()
    assert content == frozen


def test_inv_3_a_revert_that_vcenter_forgot_while_the_job_rested(lab: Lab, session: VsphereSession) -> None:
    def done(call: Any) -> Any:
        return wait_for_task(session, session.change(call), timeout=60, cancel=CancelFlag(), what="their work")

    seed_time = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    order = JobOrder(server=SERVER, plan=ReplicationPlan(seed_time=seed_time))
    create_jobs(lab.ledger, "aged", [order], by="op", clock=SystemClock())
    lab.vcenter.rule(kind="folder", action="unlocked", vm=SERVER, times=0)
    for _ in range(2):
        replicate(lab)
    believed = replicate(lab)
    assert believed["kinds"] == ["delta"]
    assert believed["bytes_read"] < 8 * 1024 * 1024, "its change tracking is believed by now"

    target = session.managed(vim.VirtualMachine, lab.machine(SERVER)["moref"])
    theirs = done(partial(target.CreateSnapshot_Task, THEIRS, "", False, False))
    for block in range(12):
        lab.vcenter.guest_write(SERVER, 0, block * BLOCK + 1024, b"undone by the revert" * 20)
    replicate(lab)
    lab.vcenter.rule(kind="revert_keeps_change_id", vm=SERVER)
    lab.vcenter.set_vm(SERVER, revert_to=THEIRS)
    lab.vcenter.set_vm(SERVER, power="poweredOn")
    done(partial(theirs.RemoveSnapshot_Task, False))
    lab.vcenter.forward_clock(MONTH_S)

    after = replicate(lab)
    assert after["kinds"] == ["delta"]
    assert after["bytes_read"] >= 8 * 1024 * 1024
    assert_frozen(lab)
