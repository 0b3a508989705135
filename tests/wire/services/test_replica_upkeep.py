"""What is done to replicas beside runs: deleted with their job (SMS-09), read back on request (invariant 1)."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import Alive, run_context
from tests.ledgers import fresh_ledger, within
from tests.rights import OPEN

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.errors import BusyError, NotFoundError, PermanentError, ProofError, SpecError
from wavelift.base.names import snapshot_name
from wavelift.base.run import CancelFlag, DagRun, SystemClock
from wavelift.base.units import BLOCK
from wavelift.ledger import SnapshotState, jobs, replication_runs, waves
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.replication import JobState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common.admit import RunRequest
from wavelift.services.dataplane.cleanup import sweep
from wavelift.services.dataplane.messages import SNAPSHOT_KIND, CleanupReport
from wavelift.services.dataplane.verify_replicated import verify_recorded
from wavelift.services.migration import admit as wave_runs
from wavelift.services.migration.report import Ended as EndedWave
from wavelift.services.migration.report import finish as finish_wave
from wavelift.services.replication.admit import admit
from wavelift.services.replication.deletion import delete_job
from wavelift.services.replication.jobs import JobOrder, create_jobs, update_job
from wavelift.services.replication.outcome import fail_run
from wavelift.services.replication.report import Ended, finish
from wavelift.services.replication.requests import runs_to_verify
from wavelift.services.replication.upkeep import DeletedJob, delete_outside

from .journey import Stage
from .replica import Replica
from .servers import noise
from .test_replicated_images import WAVE, Copies

pytestmark = pytest.mark.wire

CLOCK = SystemClock()


@pytest.fixture
def copies(stage: Stage, tmp_path: Path) -> Iterator[Copies]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        create_jobs(ledger, WAVE, [JobOrder(server="copy01", plan=ReplicationPlan())], by="test", clock=CLOCK)
        made = Copies(stage, ledger, Replica(stage, "copy01"))
        yield made
        made.discard()


def frozen_run(copies: Copies) -> Any:
    """One recorded run whose wave run has its spec, as ``admit`` freezes it."""
    one, ctx, run = copies.run()
    spec = copies.stage.wave("copy01").dump()
    within(
        copies.ledger.write(waves.LOCK),
        waves.freeze_wave_run,
        waves.NewWaveRun(
            run=run.run, wave=WAVE, mode="replicate", requested_by="test", source="api", spec=spec, note=""
        ),
        clock=CLOCK,
    )
    return one, ctx, run


def delete(copies: Copies, job_id: str, *, alive: bool = False) -> DeletedJob:
    ctx = run_context(
        DagRun(f"{WAVE}.replicate", "deleting"), requester="test", clock=CLOCK, liveness=Alive(lambda run: alive)
    )
    return delete_outside(copies.ledger, lambda *_: copies.stage.access(), job_id, ctx)


def objects(stage: Stage, run_key: str) -> list[str]:
    s3 = S3Staging(stage.access(), stage.account.bucket)
    try:
        return [entry.key for entry in s3.list("stage/") if ".manifest" in entry.key or ".journal/" in entry.key]
    finally:
        s3.close()


def test_sms_09_a_deleted_job_leaves_its_amis_and_nothing_else(stage: Stage, copies: Copies) -> None:
    one, ctx, run = frozen_run(copies)
    imported = copies.image(one, ctx).image_id
    job = run.job_id
    update_job(copies.ledger, job, by="test", clock=CLOCK, ami="register", license_type="byol")
    stage.vc.guest_write("copy01", 0, 3 * BLOCK, noise(201, 300))
    one, ctx, run = frozen_run(copies)
    registered = copies.image(one, ctx).image_id
    snapshots = list(copies.replica.made)
    assert objects(stage, run.run_key)

    delete_job(copies.ledger, job, by="test", clock=CLOCK)
    done = delete(copies, job)
    ec2 = Ec2(stage.access())
    assert set(ec2.images([imported, registered])) == {imported, registered}, "never its AMIs"
    (stays,) = ec2.images([registered])[registered].snapshot_ids
    assert set(ec2.snapshots(snapshots)) == {stays}
    assert set(done.snapshots) == set(snapshots) - {stays}
    assert any(stays in words and registered in words for words in done.kept)
    assert done.objects > 0
    assert not objects(stage, run.run_key)
    assert within(copies.ledger.read(), jobs.get, job).state is JobState.DELETED
    again = delete(copies, job)
    assert (again.snapshots, again.objects) == ((), 0), "asked again it finds nothing to do"


def test_sms_09_a_run_that_was_under_way_is_deleted_with_its_job(stage: Stage, copies: Copies) -> None:
    _, _, cut = frozen_run(copies)
    snapshots = list(copies.replica.made)
    delete_job(copies.ledger, cut.job_id, by="test", clock=CLOCK)
    assert within(copies.ledger.read(), replication_runs.get, cut.id).state == "deleted"
    assert set(delete(copies, cut.job_id).snapshots) == set(snapshots)
    assert not Ec2(stage.access()).snapshots(snapshots)


def clean_up(copies: Copies) -> CleanupReport:
    """What `wavelift cleanup` does: the run's admission, its look at vCenter, its report."""
    ctx = run_context(DagRun(f"{WAVE}.migrate", "cleaning"), requester="test", clock=CLOCK)
    request = RunRequest(WAVE, {"mode": "cleanup", "dry_run": False})
    admitted = wave_runs.admit(
        copies.ledger, request, lambda _: copies.stage.wave("copy01", wave=WAVE), ctx, rights=OPEN
    )
    with copies.stage.connect() as session:
        swept = sweep(session, copies.stage.access(), admitted, Alive(lambda run: False), dag_id=ctx.run.dag_id)
    assert finish_wave(copies.ledger, EndedWave(None, swept=swept), ctx).succeeded
    return swept


def test_sms_09_a_vsphere_snapshot_that_may_stand_keeps_the_job_until_housekeeping_looked(copies: Copies) -> None:
    """Its run ended without seeing it gone: somebody removed it by hand, or the VM is no more."""
    _, _, run = frozen_run(copies)
    within(
        copies.ledger.write(jobs.lock_name(run.wave)),
        replication_runs.record_intent,
        run.id,
        name=snapshot_name(run.run_key),
        vm="vm-4711",
        clock=CLOCK,
    )
    delete_job(copies.ledger, run.job_id, by="test", clock=CLOCK)
    with pytest.raises(BusyError, match="still removes"):
        delete(copies, run.job_id, alive=True)
    with pytest.raises(PermanentError) as caught:
        delete(copies, run.job_id)
    assert f"wavelift cleanup {WAVE}" in str(caught.value)
    assert within(copies.ledger.read(), jobs.get, run.job_id).state is JobState.DELETING
    assert [one.removed for one in clean_up(copies).leftovers if one.kind == SNAPSHOT_KIND] == [True]
    assert within(copies.ledger.read(), replication_runs.get, run.id).snapshot_state is SnapshotState.REMOVED
    assert delete(copies, run.job_id).snapshots
    assert within(copies.ledger.read(), jobs.get, run.job_id).state is JobState.DELETED


def request(mode: str, **conf: Any) -> RunRequest:
    return RunRequest(WAVE, {"mode": mode, "servers": None, "note": None, **conf})


def ask(copies: Copies, asked: RunRequest, clock: SystemClock = CLOCK) -> Any:
    wave = copies.stage.wave("copy01")
    run = DagRun(f"{WAVE}.replicate", f"manual__{asked.conf['mode']}")
    return admit(copies.ledger, asked, lambda _: wave, run_context(run, requester="test", clock=clock), rights=OPEN)


def test_a_run_that_deletes_or_verifies_admits_no_server(copies: Copies) -> None:
    _, _, run = frozen_run(copies)
    with pytest.raises(SpecError, match="active, not being deleted"):
        ask(copies, request("delete", jobs=[run.job_id]))
    with pytest.raises(SpecError, match="unknown key 'servers' in mode delete"):
        ask(copies, request("delete", jobs=[run.job_id], servers=["copy01"]))
    with pytest.raises(SpecError, match="mode: 'purge' is not a valid value"):
        ask(copies, request("purge"))
    with pytest.raises(SpecError, match="mode verify needs runs or jobs"):
        ask(copies, request("verify"))
    with pytest.raises(NotFoundError):
        ask(copies, request("verify", runs=["run-000000000000"]))
    found = ask(copies, request("verify", jobs=[run.job_id]))
    assert (found.granted, found.mode, [each.run for each in found.recorded]) == ((), "verify", [run.id])
    delete_job(copies.ledger, run.job_id, by="test", clock=CLOCK)
    found = ask(copies, request("delete", jobs=[run.job_id]))
    assert (found.granted, found.mode, found.jobs) == ((), "delete", (run.job_id,))
    assert within(copies.ledger.read(), waves.get, DagRun(f"{WAVE}.replicate", "manual__delete")).mode == "delete"
    counted = [
        each for each in within(copies.ledger.read(), replication_runs.list_runs).items if each.counted_at is not None
    ]
    assert [each.id for each in counted] == [run.id], "no other run is counted"
    delete(copies, run.job_id)


class Later(SystemClock):
    """77 days on: 13 before the end of a term that begins now."""

    def now(self) -> datetime:
        return super().now() + timedelta(days=77)


def test_sms_10_the_first_run_after_a_term_comes_near_warns(copies: Copies) -> None:
    _, _, run = frozen_run(copies)
    assert ask(copies, request("replicate")).warnings == ()
    found = ask(copies, request("replicate", note="later"), clock=Later())
    (words,) = found.warnings
    assert words.startswith("copy01: the term of its replication ends in less than 14 days (")
    assert f"wavelift jobs extend {run.job_id}" in words
    report = finish(
        copies.ledger, Ended(found, None), run_context(DagRun(f"{WAVE}.replicate", "none")), tidy=lambda *_: ""
    )
    assert report.warnings == (words,)
    assert ask(copies, request("replicate"), clock=Later()).warnings == (), "each is given once"


def test_inv_1_a_recorded_run_is_read_back_and_quarantined_when_it_lies(stage: Stage, copies: Copies) -> None:
    _, _, first = frozen_run(copies)
    fail_run(copies.ledger, first.id, "only its transfer was wanted", clock=CLOCK)
    (recorded,) = runs_to_verify(copies.ledger, WAVE, ReplicateConf(runs=[first.id], mode="verify"))
    found = verify_recorded(stage.access(), recorded, CancelFlag())
    assert found.blocks_checked * BLOCK >= recorded.disks[0].lineage.capacity
    stage.vc.guest_write("copy01", 0, 5 * BLOCK + 100, noise(203, 300))
    stage.vc.guest_write("copy01", 0, 9 * BLOCK, noise(204, 300))
    _, _, second = frozen_run(copies)
    (now,) = runs_to_verify(copies.ledger, WAVE, ReplicateConf(jobs=[second.job_id], mode="verify"))
    assert now.run == second.id
    (disk,) = now.disks
    # The snapshot of the first run under the manifest of the second: two blocks are not what was recorded.
    old = disk.lineage.model_copy(update={"snapshot_id": recorded.disks[0].lineage.snapshot_id})
    lie = now.model_copy(update={"disks": (disk.model_copy(update={"lineage": old}),)})
    with pytest.raises(ProofError) as caught:
        verify_recorded(stage.access(), lie, CancelFlag())
    assert f"at 2.5 MiB (offset {5 * BLOCK}), 4.5 MiB (offset {9 * BLOCK})" in str(caught.value)
    assert "copy01" in str(caught.value)
    run = DagRun(f"{WAVE}.replicate", "manual__verify")
    ask(copies, RunRequest(WAVE, {"mode": "verify", "jobs": [second.job_id]}))
    for _ in range(2):  # the report may be told again after a clear
        ended = Ended(None, None, wrong={second.id: str(caught.value)})
        report = finish(copies.ledger, ended, run_context(run), tidy=lambda *_: "")
        assert not report.succeeded
    assert within(copies.ledger.read(), replication_runs.get, second.id).quarantine == str(caught.value)
    with pytest.raises(SpecError, match="no recorded run"):
        runs_to_verify(copies.ledger, WAVE, ReplicateConf(jobs=[second.job_id], mode="verify"))
    Ec2(stage.access()).delete_snapshot(old.snapshot_id)
    with pytest.raises(NotFoundError, match="gone"):
        verify_recorded(stage.access(), recorded, CancelFlag())
