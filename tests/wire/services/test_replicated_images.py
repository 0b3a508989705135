"""From recorded EBS snapshots to an AMI: the proof, ImportImage, RegisterImage, retention, and what is tidied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import context_of, run_context
from tests.ledgers import fresh_ledger, within

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.errors import MissingPrivilegeError, PermanentError, ProofError, RefusedError, TamperedError
from wavelift.base.run import DagRun, RunContext, SystemClock
from wavelift.base.units import BLOCK
from wavelift.ledger import Ledger, replication_runs
from wavelift.ledger.lineage import read_lineage
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.slots import standing
from wavelift.rules.flows import SlotKind
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting
from wavelift.services.dataplane.replication_messages import VerifiedRun
from wavelift.services.dataplane.verify_replicated import verify_replicated
from wavelift.services.replication.admission import Asked, admit_runs
from wavelift.services.replication.image import MadeImage, Replicated, advance_image, tidy_run
from wavelift.services.replication.jobs import JobOrder, create_jobs, update_job
from wavelift.services.replication.outcome import fail_run, quarantine_run
from wavelift.services.replication.record import record

from .journey import Stage
from .replica import Replica, Try
from .servers import noise

pytestmark = pytest.mark.wire

WAVE = "lab"


@dataclass
class Copies:
    """A server's job in a ledger, and its runs over both simulators."""

    stage: Stage
    ledger: Ledger
    replica: Replica
    images: list[str] = field(default_factory=list)
    number: int = 0
    verified: VerifiedRun | None = None
    """Of the last transfer."""

    def run(self, *, cleared: bool = False) -> tuple[Try, RunContext, ReplicationRun]:
        """One run, transferred and recorded; ``cleared``: between the two, so that another instant is recorded."""
        self.number += 1
        one = self.replica.begin()
        if cleared:
            self.replica.transfer(one)
            one = self.replica.again(one)
        dag_id, run_id, _ = one.run_key.split("/")
        asked = Asked(servers=[self.replica.server])
        admitted = admit_runs(self.ledger, WAVE, asked, run_context(DagRun(dag_id, run_id), requester="test"))
        assert not admitted.refused, admitted
        ctx = context_of(one.run_key)
        result = self.replica.transfer(one)
        assert record(self.ledger, self.stage.access(), one.task, result, ctx) == ()
        self.verified = verify_replicated(self.stage.access(), one.task, result, (), ctx)
        self.replica.end(one, result)
        return one, ctx, admitted.granted[0]

    def image(self, one: Try, ctx: RunContext) -> MadeImage:
        for _ in range(1200):
            sent = Replicated(one.task, self.replica.results[-1], self.verified)
            found = advance_image(self.ledger, self.stage.access(), sent, ctx, limit=5)
            if isinstance(found, MadeImage):
                self.images.append(found.image_id)
                return found
            assert isinstance(found, ImportRunning | ImportWaiting)
            ctx.clock.sleep(0.1)
        raise AssertionError("the import did not end")

    def discard(self) -> None:
        for image_id in self.images:
            Ec2(self.stage.access()).deregister(image_id, delete_snapshots=True)
        self.replica.discard()


@pytest.fixture
def copies(stage: Stage, tmp_path: Path) -> Iterator[Copies]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        replica = Replica(stage, "copy01")
        create_jobs(ledger, WAVE, [JobOrder(server="copy01", plan=ReplicationPlan())], by="test", clock=SystemClock())
        made = Copies(stage, ledger, replica)
        yield made
        made.discard()


def test_inv_1_what_ebs_holds_is_read_back_and_a_lie_is_found(stage: Stage, copies: Copies) -> None:
    one, ctx, run = copies.run()
    seed = copies.replica.results[-1]
    task = one.task.model_copy(update={"plan": one.task.plan.model_copy(update={"verify": "full"})})
    found = verify_replicated(stage.access(), task, seed, (), ctx)
    assert found.blocks_checked * BLOCK >= seed.disks[0].lineage.capacity
    before = copies.replica.lineages
    stage.vc.guest_write("copy01", 0, 5 * BLOCK + 100, noise(101, 300))
    one, ctx, run = _second(copies, run)
    delta = copies.replica.results[-1]
    assert verify_replicated(stage.access(), task, delta, before, ctx).blocks_checked == delta.disks[0].blocks_sent == 1
    (disk,) = delta.disks
    wrong = disk.model_copy(update={"lineage": disk.lineage.model_copy(update={"snapshot_id": before[0].snapshot_id})})
    with pytest.raises(ProofError) as caught:
        verify_replicated(stage.access(), task, delta.model_copy(update={"disks": (wrong,)}), before, ctx)
    assert caught.value.where["offset"] == 5 * BLOCK
    quarantine_run(copies.ledger, run.id, str(caught.value), clock=SystemClock())
    fail_run(copies.ledger, run.id, str(caught.value), clock=SystemClock())
    assert not within(copies.ledger.read(), read_lineage, run.job_id), "the next run is a seed"
    assert not tidy_run(
        copies.ledger, stage.access(), task.plan, within(copies.ledger.read(), replication_runs.get, run.id)
    )
    gone = Ec2(stage.access()).snapshots([disk.lineage.snapshot_id, before[0].snapshot_id])
    assert not gone, "neither the quarantined snapshot nor the one that it replaced is needed"


def test_inv_4_a_completed_run_leaves_its_image_its_lineage_and_nothing_of_another_instant(
    stage: Stage, copies: Copies
) -> None:
    one, ctx, run = copies.run(cleared=True)
    made = copies.image(one, ctx)
    ec2 = Ec2(stage.access())
    tidy_run(copies.ledger, stage.access(), one.task.plan, within(copies.ledger.read(), replication_runs.get, run.id))
    lineage = {disk.snapshot_id for disk in within(copies.ledger.read(), read_lineage, run.job_id)}
    of_image = set(ec2.images([made.image_id])[made.image_id].snapshot_ids)
    assert of_image
    assert {each["id"] for each in stage.aws.state()["snapshots"]} == lineage | of_image


def test_inv_4_no_image_is_made_of_an_instant_that_is_not_the_recorded_one(stage: Stage, copies: Copies) -> None:
    one, ctx, _ = copies.run()
    (disk,) = copies.replica.results[-1].disks
    other = disk.model_copy(update={"lineage": disk.lineage.model_copy(update={"snapshot_id": "snap-of-another"})})
    copies.replica.results.append(copies.replica.results[-1].model_copy(update={"disks": (other,)}))
    with pytest.raises(PermanentError, match="no recorded disks"):
        copies.image(one, ctx)


def test_inv_1_no_image_is_made_of_what_was_not_read_back(stage: Stage, copies: Copies) -> None:
    """``verify`` was marked as a success, or is of the instant before the other tasks were cleared."""
    one, ctx, _ = copies.run()
    true = copies.verified
    assert true is not None
    edits: list[dict[str, Any]] = [
        {"snapshots": ("snap-of-before",)},
        {"snapshots": ()},
        {"level": "off"},
        {"server": "web01"},
    ]
    for wrong in (None, *(true.model_copy(update=edit) for edit in edits)):
        copies.verified = wrong
        with pytest.raises(TamperedError, match="field=verified"):
            copies.image(one, ctx)
    assert not stage.aws.state()["images"]
    copies.verified = true
    assert copies.image(one, ctx).image_id


def _second(copies: Copies, first: ReplicationRun) -> tuple[Try, RunContext, ReplicationRun]:
    """Another run, once the first has ended."""
    fail_run(copies.ledger, first.id, "only its transfer was wanted", clock=SystemClock())
    return copies.run()


def test_sms_05_images_come_and_go_and_the_lineage_stays(stage: Stage, copies: Copies) -> None:
    one, ctx, run = copies.run()
    update_job(copies.ledger, run.job_id, by="test", clock=SystemClock(), keep_amis=1)
    fail_run(copies.ledger, run.id, "the conversion failed", clock=SystemClock())
    assert within(copies.ledger.read(), read_lineage, run.job_id), "which costs nothing but itself"
    first = copies.image(one, ctx)  # its task was cleared
    assert within(copies.ledger.read(), replication_runs.get, run.id).state == "completed"
    assert copies.image(one, ctx).image_id == first.image_id, "asked again it makes no second"
    update_job(copies.ledger, run.job_id, by="test", clock=SystemClock(), ami="register", license_type="aws")
    stage.vc.guest_write("copy01", 0, 7 * BLOCK, noise(102, 300))
    one, ctx, run = copies.run()
    with pytest.raises(RefusedError, match="billing"):
        copies.image(one, ctx)
    update_job(copies.ledger, run.job_id, by="test", clock=SystemClock(), license_type="byol")
    second = copies.image(one, ctx)
    assert second.deregistered == (first.image_id,)
    ec2 = Ec2(stage.access())
    assert set(ec2.images([first.image_id, second.image_id])) == {second.image_id}
    kept = {disk.snapshot_id for disk in within(copies.ledger.read(), read_lineage, run.job_id)}
    assert set(ec2.images([second.image_id])[second.image_id].snapshot_ids) == kept
    tidy_run(copies.ledger, stage.access(), one.task.plan, within(copies.ledger.read(), replication_runs.get, run.id))
    assert set(ec2.snapshots(kept)) == kept
    left: Any = within(copies.ledger.read(), replication_runs.get, run.id).superseded
    assert not ec2.snapshots([disk["snapshot_id"] for disk in left])


def test_inv_8_a_replica_whose_import_is_refused_keeps_no_place(stage: Stage, copies: Copies) -> None:
    one, ctx, run = copies.run()
    stage.aws.rule(service="ec2", operation="ImportImage", code="UnauthorizedOperation", status=403)
    with pytest.raises(MissingPrivilegeError):
        copies.image(one, ctx)
    kept = {each.kind for each in within(copies.ledger.read(), standing)}
    assert kept == {SlotKind.ACCOUNT}, "others wait to import; the account's slot stays until the run has ended"
    stage.clear_rules()
    made = copies.image(one, ctx)
    assert not within(copies.ledger.read(), standing)
    assert within(copies.ledger.read(), replication_runs.get, run.id).ami_id == made.image_id
