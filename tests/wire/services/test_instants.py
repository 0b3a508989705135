"""What is remembered of an import is of one instant: a server that is exported or sent again never gets the image of
the one before (invariants 5 and 6)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import context_of
from tests.ledgers import fresh_ledger, within

from wavelift.adapters.aws.ec2 import Ec2, ImageRequest
from wavelift.base.domain import ReplicationResult
from wavelift.base.errors import MissingPrivilegeError, PermanentError, RemoteJobError
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.base.run import MemoryCheckpoints, RunContext, SystemClock
from wavelift.base.units import BLOCK, MIB
from wavelift.ledger import migrations, replication_runs
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting
from wavelift.services.dataplane.snapshot import take_snapshot
from wavelift.services.dataplane.verify_replicated import verify_replicated
from wavelift.services.migration.launch import launch
from wavelift.services.replication.image import tidy_run
from wavelift.services.replication.jobs import JobOrder, create_jobs, update_job
from wavelift.services.replication.outcome import fail_run
from wavelift.services.replication.record import record

from .journey import Journey, Outcome, Stage
from .replica import Replica, Try, assert_snapshot_equals
from .servers import noise
from .test_replicated_images import WAVE, Copies

pytestmark = pytest.mark.wire


def _refuse_tags(stage: Stage) -> None:
    """An administrator forgot ec2:CreateTags for images: the import is completed, and its task fails."""
    stage.aws.rule(service="ec2", operation="CreateTags", code="UnauthorizedOperation", status=403)


def _again(journey: Journey, seed: int) -> Outcome:
    """The guest writes, and a person clears the server from ``reserve``: every checkpoint is still there."""
    journey.stage.vc.guest_write("web01", 0, 5 * MIB, noise(seed, MIB))
    return journey.run()


def _images(stage: Stage) -> set[str]:
    return set(stage.aws.state()["images"])


def _row(done: Outcome) -> Any:
    assert done.migration is not None
    return done.migration


@pytest.mark.parametrize("launched", [pytest.param("running", marks=pytest.mark.proof), "none"])
def test_inv_6_a_server_exported_anew_after_its_import_gets_an_image_of_the_new_export(
    stage: Stage, launched: str
) -> None:
    journey = stage.journey("web01", defaults={"launch": launched})
    before = _images(stage)
    _refuse_tags(stage)
    first = journey.run()
    assert isinstance(first.error, MissingPrivilegeError)
    assert first.phase == "import"
    stage.clear_rules()
    (old,) = _images(stage) - before
    done = _again(journey, 301)
    assert done.error is None
    assert done.image is not None
    stage.assert_imports_equal_source(done)
    assert _images(stage) - before == {done.image.image_id}, "what was imported of the other instant is gone"
    assert done.image.image_id != old
    row = _row(done)
    assert (row.state, row.error, row.image_id) == ("completed", "", done.image.image_id)


def test_inv_4_a_backup_that_has_the_tags_of_the_run_is_not_ours_to_remove(stage: Stage) -> None:
    """AWS Backup and lifecycle policies copy the tags of the instance to the image that they make of it."""
    journey = stage.journey("web01", defaults={"launch": "none"})
    first = journey.run()
    assert first.image is not None
    ec2 = Ec2(journey.access)
    snapshot_ids = ec2.images([first.image.image_id])[first.image.image_id].snapshot_ids
    ours = {TAG_RUN: run_hash(_row(first).run_key)}
    backup = ec2.register(ImageRequest(name="AwsBackup_web01", snapshot_ids=snapshot_ids, tags=ours, boot_mode=""))
    try:
        done = _again(journey, 303)
        assert done.error is None
        assert done.image is not None
        assert {backup.image_id, done.image.image_id} <= _images(stage)
        assert first.image.image_id not in _images(stage)
        assert ec2.snapshots(snapshot_ids).keys() == set(snapshot_ids)
    finally:
        ec2.deregister(backup.image_id, delete_snapshots=True)


def test_inv_6_only_the_import_is_cleared_and_the_same_image_is_found(stage: Stage) -> None:
    """Nothing was read again: the instant is the same, and so is the import. It ends as if it had never failed."""
    journey = stage.journey("web01", defaults={"launch": "none"})
    _refuse_tags(stage)
    first = journey.run()
    assert isinstance(first.error, MissingPrivilegeError)
    stage.clear_rules()
    assert _row(first).state == "failed"
    task = journey.retask(journey.preflight()[0])
    image = journey.compare(task, journey.import_image(task))
    launch(journey.ledger, journey.access, task, image, journey.ctx(task, "launch"))
    journey.report({"web01": journey.outcome})
    row = _row(journey.outcome)
    assert (row.state, row.error, row.image_id) == ("completed", "", image.image_id)
    assert row.import_task_id == _row(first).import_task_id, "one import for one export"


def test_inv_12_an_instance_of_the_older_image_stays_and_stops_its_twin(stage: Stage) -> None:
    """Who else may name an image: an instance. Neither is ours to take away, nor to double."""
    journey = stage.journey("web01")
    first = journey.run()
    assert first.image is not None
    assert first.launched is not None
    done = _again(journey, 302)
    assert isinstance(done.error, PermanentError)
    assert done.phase == "launch"
    assert first.launched.instance_id in str(done.error)
    assert done.image is not None
    assert done.image.image_id != first.image.image_id
    stage.assert_imports_equal_source(done)
    assert {first.image.image_id, done.image.image_id} <= _images(stage)
    ec2 = Ec2(journey.access)
    ec2.terminate([first.launched.instance_id])
    task = journey.preflight()[0]
    again = launch(journey.ledger, journey.access, task, done.image, journey.ctx(task, "launch"))
    found = ec2.describe_instances([again.instance_id])[again.instance_id]
    assert found.image_id == done.image.image_id
    assert first.image.image_id not in _images(stage), "once nobody names it, it goes"
    row = within(journey.ledger.read(), migrations.get, _row(done).id)
    assert (row.state, row.error, row.instance_id) == ("completed", "", again.instance_id)


@pytest.mark.proof
def test_inv_6_a_second_import_that_fails_leaves_no_image_beside_another_content(stage: Stage) -> None:
    """The older image is no result of the newer export, and the only one that there is: it stays and is told."""
    journey = stage.journey("web01", defaults={"launch": "none"})
    first = journey.run()
    assert first.image is not None
    stage.aws.rule(kind="import", outcome="deleted", message="ClientError: Unsupported kernel version 5.99")
    done = _again(journey, 303)
    assert isinstance(done.error, RemoteJobError)
    row = _row(done)
    assert (row.state, row.image_id, row.snapshot_ids, row.conversion_report) == ("failed", "", (), None)
    assert done.report is not None
    assert first.image.image_id in " ".join(done.report.unclean)
    journey.discard_image(first.image.image_id)


@pytest.mark.proof
def test_inv_6_an_import_under_way_of_an_older_export_is_ended(stage: Stage) -> None:
    stage.aws.rule(kind="import", outcome="stuck", phase="converting", count=1)
    journey = stage.journey("web01", defaults={"launch": "none"})

    class Cleared(Exception):
        pass

    def clear(found: ImportRunning | ImportWaiting | InQueue) -> None:
        if isinstance(found, ImportRunning) and found.phase == "converting":
            raise Cleared

    journey.watch_import = clear
    with pytest.raises(Cleared):
        journey.run()
    journey.watch_import = lambda found: None
    done = _again(journey, 304)
    assert done.error is None
    stage.assert_imports_equal_source(done)
    assert not stage.aws.state()["import_tasks"], "the stuck one was cancelled"


# --- replicas ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def copies(stage: Stage, tmp_path: Path) -> Iterator[Copies]:
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        create_jobs(ledger, WAVE, [JobOrder(server="copy01", plan=ReplicationPlan())], by="test", clock=SystemClock())
        made = Copies(stage, ledger, Replica(stage, "copy01"))
        yield made
        made.discard()


def _send_again(copies: Copies, one: Try, ctx: RunContext) -> None:
    """The run is cleared from ``reserve``: a new vSphere snapshot is read, and recorded in place of the first."""
    copies.stage.vc.guest_write("copy01", 0, 6 * BLOCK, noise(311, 300))
    with copies.stage.connect() as session:
        one.snapshot = take_snapshot(session, one.task, context_of(one.run_key), replicates=True)
    result = copies.replica.transfer(one)
    assert record(copies.ledger, copies.stage.access(), one.task, result, ctx) == ()
    copies.verified = verify_replicated(copies.stage.access(), one.task, result, (), ctx)
    copies.replica.end(one, result)


def _assert_frozen(stage: Stage, image_id: str, one: Try, result: ReplicationResult) -> None:
    """The image's own snapshot holds what the vSphere snapshot froze; nothing of wavelift is asked."""
    (image,) = stage.aws.client("ec2").describe_images(ImageIds=[image_id])["Images"]
    (device,), (disk,) = image["BlockDeviceMappings"], result.disks
    held = disk.lineage.model_copy(update={"snapshot_id": device["Ebs"]["SnapshotId"]})
    frozen = stage.frozen_disk(one.snapshot.ref.moref, disk.lineage.key)
    assert_snapshot_equals(stage, disk.model_copy(update={"lineage": held}), frozen)


def test_inv_6_a_replica_sent_anew_after_its_import_gets_an_image_of_the_new_snapshots(
    stage: Stage, copies: Copies
) -> None:
    before = _images(stage)
    stage.aws.settings(change_boot_disk=False)
    try:
        one, ctx, run = copies.run()
        _refuse_tags(stage)
        with pytest.raises(MissingPrivilegeError):
            copies.image(one, ctx)
        (old,) = _images(stage) - before
        fail_run(copies.ledger, run.id, "tagging was refused", clock=SystemClock())
        stage.clear_rules()
        _send_again(copies, one, ctx)
        made = copies.image(one, ctx)
        _assert_frozen(stage, made.image_id, one, copies.replica.results[-1])
    finally:
        stage.aws.settings(change_boot_disk=True)
    assert made.image_id != old
    assert _images(stage) - before == {made.image_id}
    known = within(copies.ledger.read(), replication_runs.get, run.id)
    assert (known.state, known.ami_id, known.error) == ("completed", made.image_id, "")
    wanted = [disk.lineage.snapshot_id for disk in copies.replica.results[-1].disks]
    assert set(Ec2(stage.access()).snapshots(wanted)) == set(wanted), "the lineage stays"
    tidy_run(copies.ledger, stage.access(), one.task.plan, known)


def test_inv_6_a_registered_image_is_of_the_snapshots_that_were_recorded_last(stage: Stage, copies: Copies) -> None:
    """RegisterImage has no token: the image's name is what is remembered, and it names the instant too."""
    before = _images(stage)
    one, ctx, run = copies.run()
    update_job(copies.ledger, run.job_id, by="test", clock=SystemClock(), ami="register", license_type="byol")
    # The image is made, and the try dies before the ledger knows it.
    stage.aws.rule(service="ec2", operation="RegisterImage", cut_response_after=0, count=1)
    stage.aws.rule(service="ec2", operation="DescribeImages", code="UnauthorizedOperation", status=403, skip=1)
    with pytest.raises(MissingPrivilegeError):
        copies.image(one, ctx)
    stage.clear_rules()
    (old,) = _images(stage) - before
    fail_run(copies.ledger, run.id, "looking was refused", clock=SystemClock())
    one.checkpoints = MemoryCheckpoints()  # what the transfer remembers is not what this is about
    _send_again(copies, one, ctx)
    made = copies.image(one, ctx)
    assert _images(stage) - before == {made.image_id}
    assert old != made.image_id
    _assert_frozen(stage, made.image_id, one, copies.replica.results[-1])
    tidy_run(copies.ledger, stage.access(), one.task.plan, within(copies.ledger.read(), replication_runs.get, run.id))
