"""Edited results of a connector: the ledger takes only what the manifests and AWS say as well (invariants 1 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contexts import context_of, run_context
from tests.ledgers import fresh_ledger, within

from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, complete_snapshot, start_snapshot
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.vmimport import VmImport
from wavelift.base.domain import (
    ExportResult,
    ImportResult,
    ObjectVersion,
    ReplicatedDisk,
    ReplicationResult,
    StoredDisk,
    VerifyResult,
)
from wavelift.base.errors import TamperedError
from wavelift.base.names import MADE_BY, TAG_RUN, run_hash, tags
from wavelift.base.run import DagRun, MemoryCheckpoints, RunContext, SystemClock
from wavelift.base.units import GIB
from wavelift.ledger import migrations, replication_runs
from wavelift.ledger.lineage import read_lineage
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.migration.image import Staged, _instant, advance_import, record_image
from wavelift.services.migration.launch import launch
from wavelift.services.replication.admission import Asked, admit_runs
from wavelift.services.replication.image import Replicated, advance_image
from wavelift.services.replication.jobs import JobOrder, create_jobs, update_job
from wavelift.services.replication.outcome import complete_run
from wavelift.services.replication.record import record

from .journey import Journey, Stage
from .replica import Replica, Try
from .test_replicated_images import WAVE, Copies

pytestmark = pytest.mark.wire

SERVER = "pair01"
"""It has two disks."""


@pytest.fixture
def copies(stage: Stage, tmp_path: Path) -> Iterator[Copies]:
    clock = SystemClock()
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        (job,) = create_jobs(ledger, WAVE, [JobOrder(server=SERVER, plan=ReplicationPlan())], by="test", clock=clock)
        update_job(ledger, job.id, by="test", clock=clock, ami="register", license_type="byol")
        made = Copies(stage, ledger, Replica(stage, SERVER))
        yield made
        made.discard()


def of_disk(**changes: Any) -> Callable[[ReplicationResult], ReplicationResult]:
    """The result with another first disk."""

    def edit(result: ReplicationResult) -> ReplicationResult:
        return _with_first(result, result.disks[0].model_copy(update=changes))

    return edit


def of_lineage(**changes: Any) -> Callable[[ReplicationResult], ReplicationResult]:
    def edit(result: ReplicationResult) -> ReplicationResult:
        disk = result.disks[0]
        return _with_first(result, disk.model_copy(update={"lineage": disk.lineage.model_copy(update=changes)}))

    return edit


def _with_first(result: ReplicationResult, disk: ReplicatedDisk) -> ReplicationResult:
    return result.model_copy(update={"disks": (disk, *result.disks[1:])})


def _swapped_manifests(result: ReplicationResult) -> ReplicationResult:
    """The other disk's manifest: a true one of this run."""
    other = result.disks[1].lineage
    return of_lineage(manifest_key=other.manifest_key, manifest_digest=other.manifest_digest)(result)


RESULTS: dict[str, tuple[Callable[[ReplicationResult], ReplicationResult], str]] = {
    "another server": (lambda result: result.model_copy(update={"server": "web01"}), "transfer.server"),
    "another instant": (lambda result: result.model_copy(update={"snapshot": "snapshot-1"}), "snapshot"),
    "a disk less": (lambda result: result.model_copy(update={"disks": result.disks[:1]}), "disks"),
    "in another order": (lambda result: result.model_copy(update={"disks": result.disks[::-1]}), "disks"),
    "no disk": (lambda result: result.model_copy(update={"disks": ()}), "disks"),
    "the other disk boots": (of_disk(boot=False), "boot"),
    "a parent": (of_disk(parent_snapshot_id="snap-0"), "parent"),
    "a delta": (of_disk(kind="delta"), "kind"),
    "other content": (of_disk(content_digest="00" * 32), "content_digest"),
    "a change id": (of_lineage(change_id="52 aa/9"), "lineage.change_id"),
    "another disk": (of_lineage(uuid="6000C29-x"), "lineage.uuid"),
    "another file": (of_lineage(file="[ds] x/x.vmdk"), "lineage.file"),
    "another key": (of_lineage(key=2009), "lineage.key"),
    "no quarantine": (of_lineage(quarantine="none"), "lineage.quarantine"),
    "another time": (of_lineage(taken_at="2020-01-01T00:00:00Z"), "lineage.taken_at"),
    "another hardware": (of_lineage(hardware_version="vmx-99"), "lineage.hardware_version"),
    "a larger disk": (of_lineage(capacity=3 * GIB), "snapshot.size"),
    "encrypted": (of_lineage(encrypted=True), "snapshot.encrypted"),
    "another bucket": (of_lineage(bucket="mine"), "bucket"),
    "another folder": (of_lineage(manifest_key="stage/lab/0/pair01/1/disk-0.manifest"), "manifest_key"),
    "outside of the folder": (of_lineage(manifest_key="disk-0.manifest"), "manifest_key"),
    "another digest": (of_lineage(manifest_digest="00" * 32), "manifest_digest"),
    "the other disk's manifest": (_swapped_manifests, "manifest_key"),
}


def test_inv_4_no_edit_of_a_transfer_becomes_a_lineage(stage: Stage, copies: Copies) -> None:
    """``server.transfer`` was patched, and ``server.record`` cleared."""
    access = stage.access()
    one, run, ctx, result = _transferred(copies)
    foreign = _foreign_snapshot(stage)
    try:
        forged = {**RESULTS, "another snapshot": (of_lineage(snapshot_id=foreign), "snapshot.run")}
        for what, (edit, field) in forged.items():
            with pytest.raises(TamperedError) as caught:
                record(copies.ledger, access, one.task, edit(result), ctx)
            assert caught.value.field == field, what
            assert caught.value.where["server"] == SERVER
        other_vm = one.task.model_copy(update={"facts": one.task.facts.model_copy(update={"moref": "vm-0"})})
        with pytest.raises(TamperedError, match="field=vm"):
            record(copies.ledger, access, other_vm, result, ctx)
        assert within(copies.ledger.read(), read_lineage, run.job_id) == ()

        assert record(copies.ledger, access, one.task, result, ctx) == ()
        assert within(copies.ledger.read(), read_lineage, run.job_id) == tuple(disk.lineage for disk in result.disks)
    finally:
        Ec2(access).delete_snapshot(foreign)
        copies.replica.end(one, result)

    # The same for the image: the disks of the record, but in another order, or with another boot disk.
    with pytest.raises(TamperedError, match="field=transfer"):
        sent = Replicated(one.task, of_disk(boot=False)(result), None)
        advance_image(copies.ledger, access, sent, ctx, limit=5)
    assert not within(copies.ledger.read(), replication_runs.get, run.id).ami_id


def test_inv_3_a_delta_on_an_edited_lineage_is_not_recorded(stage: Stage, copies: Copies) -> None:
    """``server.reserve`` was patched: the connector builds on what it is told, and its manifest says on what."""
    _, _, run = copies.run()
    complete_run(copies.ledger, run.id, clock=SystemClock())
    told = copies.replica.lineages
    copies.replica.lineages = (told[0].model_copy(update={"change_id": "52 aa/9"}), *told[1:])
    one, _, ctx, result = _transferred(copies)
    with pytest.raises(TamperedError, match=r"field=built_on.change_id"):
        record(copies.ledger, stage.access(), one.task, result, ctx)
    copies.replica.end(one, None)
    assert within(copies.ledger.read(), read_lineage, run.job_id) == told


def _transferred(copies: Copies) -> tuple[Try, ReplicationRun, RunContext, ReplicationResult]:
    """A run up to its record."""
    one = copies.replica.begin()
    dag_id, run_id, _ = one.run_key.split("/")
    asked = Asked(servers=[SERVER])
    (run,) = admit_runs(copies.ledger, WAVE, asked, run_context(DagRun(dag_id, run_id), requester="test")).granted
    return one, run, context_of(one.run_key), copies.replica.transfer(one)


SNAPSHOTS: dict[str, dict[str, Any]] = {"snapshot.change_id": {"change_id": "52 aa/9"}, "snapshot.disks": {"uuid": "x"}}


@pytest.mark.parametrize("field", SNAPSHOTS)
def test_inv_3_a_transfer_takes_no_edited_snapshot(stage: Stage, copies: Copies, field: str) -> None:
    """``server.snapshot`` was patched: with a change id of later, the next run would miss changes."""
    one = copies.replica.begin()
    true = one.snapshot
    try:
        disk = true.disks[0].model_copy(update=SNAPSHOTS[field])
        one.snapshot = true.model_copy(update={"disks": (disk, *true.disks[1:])})
        with pytest.raises(TamperedError, match=f"field={field}"):
            copies.replica.transfer(one)
        one.snapshot = true.model_copy(update={"ref": true.ref.model_copy(update={"name": "wavelift-0"})})
        with pytest.raises(TamperedError, match="field=snapshot,"):
            copies.replica.transfer(one)
        assert not stage.aws.state()["snapshots"], "nothing was begun"
    finally:
        copies.replica.end(one, None)


def _foreign_snapshot(stage: Stage) -> str:
    """A completed EBS snapshot of another run of ours."""
    ours = tags("other", SERVER, "other.replicate/r1/pair01")
    wanted = NewSnapshot(capacity=GIB, token="foreign", tags=ours, description=f"{MADE_BY}other")
    made = start_snapshot(stage.access(), wanted).snapshot_id
    complete_snapshot(stage.access(), made, blocks=0, linear=b"")
    return made


# --- the one-time import ----------------------------------------------------------------------------------------------


def of_staged(**changes: Any) -> Callable[[ExportResult], ExportResult]:
    def edit(export: ExportResult) -> ExportResult:
        return export.model_copy(update={"disks": (export.disks[0].model_copy(update=changes), *export.disks[1:])})

    return edit


def _other_object(export: ExportResult) -> ExportResult:
    """The boot disk's manifest with the data disk's object, which was stored by this run as well."""
    return of_staged(object_key=export.disks[1].object_key)(export)


EXPORTS: dict[str, tuple[Callable[[ExportResult], ExportResult], str]] = {
    "another server": (lambda export: export.model_copy(update={"server": "web01"}), "export.server"),
    "another instant": (lambda export: export.model_copy(update={"snapshot": "snapshot-1"}), "snapshot"),
    "a disk less": (lambda export: export.model_copy(update={"disks": export.disks[:1]}), "disks"),
    "in another order": (lambda export: export.model_copy(update={"disks": export.disks[::-1]}), "disks"),
    "the other disk boots": (of_staged(boot=False), "boot"),
    "another bucket": (of_staged(bucket="mine"), "bucket"),
    "another object": (of_staged(object_key="stage/lab/0/web01/1/disk-0.vmdk"), "object_key"),
    "the other disk's object": (_other_object, "object_key"),
    "another manifest": (of_staged(manifest_key="stage/lab/0/web01/1/disk-0.manifest"), "manifest_key"),
    "another digest": (of_staged(manifest_digest="00" * 32), "manifest_digest"),
    "other content": (of_staged(content_digest="00" * 32), "content_digest"),
    "another size": (of_staged(capacity=GIB), "capacity"),
    "another key": (of_staged(key=2009), "key"),
    "another object's checksum": (of_staged(version=ObjectVersion(checksum="AAAA-1")), "object_checksum"),
    "another object's length": (of_staged(object_bytes=4096), "object_bytes"),
}
PROOFS: dict[str, Callable[[VerifyResult], VerifyResult | None]] = {
    "verified": lambda _: None,
    "verified.server": lambda found: found.model_copy(update={"server": "web01"}),
    "verified.level": lambda found: found.model_copy(update={"level": "off"}),
    "verified.mismatches": lambda found: found.model_copy(update={"mismatches": 1}),
    "verified.manifests": lambda found: found.model_copy(update={"manifests": ("00" * 32,)}),
    "verified.bytes_verified": lambda found: found.model_copy(update={"bytes_verified": 1 << 50}),
}
IMAGES: dict[str, Callable[[ImportResult], ImportResult]] = {
    "task_id": lambda image: image.model_copy(update={"task_id": "import-ami-0"}),
    "image_id": lambda image: image.model_copy(update={"image_id": "ami-0"}),
    "snapshot_ids": lambda image: image.model_copy(update={"snapshot_ids": image.snapshot_ids[::-1]}),
    "report.snapshot_id": lambda image: image.model_copy(update={"report": image.report[::-1]}),
    "report.changed": lambda image: image.model_copy(
        update={"report": tuple(disk.model_copy(update={"boot": False}) for disk in image.report)}
    ),
}


def test_inv_1_no_edit_of_an_export_is_imported_and_no_other_image_launched(stage: Stage) -> None:
    """``server.export``, ``server.verify``, ``server.import_image`` or ``server.compare`` was patched."""
    journey = stage.journey(SERVER, defaults={"launch": "none"})
    (task,) = journey.preflight()
    ledger, access, ctx = journey.ledger, journey.access, journey.ctx(task, "import")
    journey.reserve(task)
    journey.outcome.snapshot = journey.take_snapshot(task)
    export = journey.outcome.export = journey.export(task)
    journey.remove(task)
    verified = journey.outcome.verified = journey.verify(task)
    id, imports = migrations.migration_id(ctx.run_key), len(stage.aws.evidence()["imports"])

    def refused(staged: Staged) -> str:
        with pytest.raises(TamperedError) as caught:
            advance_import(ledger, access, staged, ctx, limit=5)
        return caught.value.field

    for what, (edit, field) in EXPORTS.items():
        assert refused(Staged(task, edit(export), verified)) == field, what
    for field, forge in PROOFS.items():
        assert refused(Staged(task, export, forge(verified))) == field
    assert within(ledger.read(), migrations.get, id).export_result is None
    assert len(stage.aws.evidence()["imports"]) == imports

    imported = journey.import_image(task)
    assert refused(Staged(task, EXPORTS["another object"][0](export), verified)) == "object_key", "also later"
    image = journey.compare(task, imported)
    for field, swap in IMAGES.items():
        for step in (record_image, launch):
            with pytest.raises(TamperedError) as caught:
                step(ledger, access, task, swap(image), ctx)
            assert caught.value.field == field
    assert not within(ledger.read(), migrations.get, id).image_id
    journey.outcome.launched = launch(ledger, access, task, image, ctx)
    with pytest.raises(TamperedError, match="field=snapshot_ids"):
        launch(ledger, access, task, IMAGES["snapshot_ids"](image), ctx)
    journey.report({SERVER: journey.outcome})
    assert within(ledger.read(), migrations.get, id).image_id == image.image_id


def test_every_field_of_a_result_is_compared_or_is_a_figure() -> None:
    """A new field of a result must be decided upon: compared with the manifest, or no more than a figure."""
    figures = {"parts", "parts_kept", "seconds", "reader", "reader_reason"}
    compared = {"index", "address", "key", "boot", "capacity", "bucket", "object_key", "manifest_key", "data_bytes"}
    compared |= {"manifest_digest", "content_digest", "object_bytes", "version"}
    assert set(StoredDisk.model_fields) == figures | compared
    figures_of_copy = {"label", "kind_reason", "reader", "reader_reason", "bytes_read", "bytes_sent", "blocks_sent"}
    figures_of_copy |= {"blocks_audited", "seconds"}
    held = {"index", "boot", "kind", "parent_snapshot_id", "lineage", "content_digest", "data_bytes"}
    assert set(ReplicatedDisk.model_fields) == figures_of_copy | held


def test_inv_1_no_other_vm_of_the_vcenter_is_moved_as_the_server(stage: Stage) -> None:
    """``preflight`` was patched before the first ``reserve``: another VM with the path of the wave's server."""
    journey = stage.journey("web01", defaults={"launch": "none"})
    (task,), (other,) = journey.preflight(), stage.journey("db01").preflight()
    facts = other.facts.model_copy(update={"path": task.facts.path, "name": task.facts.name})
    edited = task.model_copy(update={"facts": facts})
    journey.reserve(edited)
    journey.outcome.snapshot = journey.take_snapshot(edited)
    with pytest.raises(TamperedError, match=r"field=facts\.path"):
        journey.export(edited)
    # The connector was told the path at which the VM stands, and the control plane what the wave selects.
    told = edited.model_copy(update={"facts": facts.model_copy(update={"path": other.facts.path})})
    export = journey.outcome.export = journey.export(told)
    journey.remove(edited)
    verified = journey.verify(edited)
    with pytest.raises(TamperedError, match="field=path"):
        advance_import(
            journey.ledger, journey.access, Staged(edited, export, verified), journey.ctx(edited, "import"), limit=5
        )
    journey.report({edited.name: journey.outcome})
    for each in stage.journeys[1:]:
        each.report({})


@pytest.mark.parametrize("instant", ["of this export", "of another"])
def test_inv_5_no_edit_of_a_task_s_state_reaches_the_import_of_another_run(stage: Stage, instant: str) -> None:
    """Who may clear a task may edit its entries of the task state store."""
    other = stage.journey("mute01", defaults={"launch": "none", "verify": "off"}, wave="other")
    others = other.context("mute01", "import")
    stage.aws.rule(kind="import", phase="converting", outcome="held", count=1)
    running: list[str] = []

    def edit(journey: Journey) -> None:
        (task,) = VmImport(journey.access).find({TAG_RUN: run_hash(others.run_key)})
        store = journey.stores.setdefault(("web01", "import"), MemoryCheckpoints())
        assert journey.outcome.export is not None
        own = _instant(journey.outcome.export)
        store.set("import", {"task_id": task.task_id, "instant": own if instant == "of this export" else "x"})
        running.append(task.task_id)

    def meanwhile(found: Any) -> None:
        if running:
            return
        mine = stage.journey("web01", defaults={"launch": "none", "verify": "off"})
        mine.before["import"] = lambda: edit(mine)
        done = mine.run()
        if instant == "of this export":
            assert isinstance(done.error, TamperedError)
            assert done.error.field == "task_id"
            assert done.migration is not None
            assert done.migration.import_task_id == ""
        else:
            assert done.error is None
        stage.aws.clear_rules()

    other.watch_import = meanwhile
    done = other.run()
    assert running
    assert done.error is None
    assert done.image is not None
    assert done.image.task_id == running[0]
    (image,) = Ec2(other.access).images([done.image.image_id]).values()
    assert image.tags[TAG_RUN] == run_hash(others.run_key)
