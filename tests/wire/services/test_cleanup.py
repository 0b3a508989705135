"""``wavelift cleanup``: what ended runs left is found by tag and name; nothing else is touched (invariants 4, 5)."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.contexts import Alive, context_of

from wavelift.adapters.aws.ebs_snapshot import NewSnapshot, complete_snapshot, start_snapshot
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, VmImport
from wavelift.adapters.vsphere import snapshots
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import MissingPrivilegeError, PermanentError, TamperedError, WaveliftError
from wavelift.base.names import MADE_BY, SNAPSHOT_PREFIX, run_hash, snapshot_name, tags
from wavelift.base.run import CancelFlag, MemoryCheckpoints
from wavelift.base.units import BLOCK, GIB, MIB
from wavelift.services.dataplane.cleanup import sweep
from wavelift.services.dataplane.messages import Admitted, CleanupReport, KnownRun, StandingSnapshot
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.dataplane.unfinished import SeedNote
from wavelift.services.dataplane.upload import Upload, upload_disk
from wavelift.transfer.journal import JournalIdentity

from .journey import Stage

pytestmark = pytest.mark.wire

ENDED, LIVING, FOREIGN = "lab.migrate/ended/web01", "lab.migrate/living/off01", "elsewhere/ran/mute01"
OTHER = "another.migrate/ended/empty01"
"""Of another wave over the same vCenter, bucket and account. Its run has ended."""


def _wave_of(key: str) -> str:
    return "another" if key == OTHER else "lab"


def _leave(stage: Stage, key: str) -> str:
    """A snapshot, an unfinished upload, a staged disk and a running import of a run; the import's id."""
    server = key.rpartition("/")[2]
    plan = stage.wave(server, wave=_wave_of(key)).servers[0]
    (vm,) = [one["moref"] for one in stage.vc.state()["vms"] if one["name"] == server]
    with stage.connect() as session:
        snapshots.ensure_snapshot(session, vm, snapshot_name(key), "", quiesce="never", cancel=CancelFlag())
    with ServerStaging.of(stage.access(), plan, key) as staging:
        staging.s3.multipart(staging.object_key(1, "an instant"), metadata={})
        staging.s3.put_object(staging.manifest_key(0, "an instant"), b"a manifest")
        staging.s3.put_object(staging.object_key(0, "an instant"), b"a disk")
        disk = ImportDisk(bucket=staging.bucket, key=staging.object_key(0, "an instant"))
    stage.aws.rule(kind="import", outcome="stuck", phase="pending", count=1)
    request = ImportRequest(disks=[disk], client_token=f"left-{run_hash(key)}", tags=tags(_wave_of(key), server, key))
    return VmImport(stage.access()).import_image(request)


def _sweep(
    stage: Stage,
    *,
    dry_run: bool,
    known: tuple[str, ...] = (ENDED, LIVING),
    standing: tuple[StandingSnapshot, ...] = (),
) -> CleanupReport:
    admitted = Admitted(
        wave=stage.wave("web01"),
        mode="cleanup",
        dag_id="lab.migrate",
        run_id="cleaning",
        requested_by="tester",
        runs=tuple(
            KnownRun(dag_id=dag, run_id=run, servers=(server,))
            for dag, run, server in (key.split("/", 2) for key in known)
        ),
        standing=standing,
        dry_run=dry_run,
    )
    with stage.connect() as session:
        alive = Alive(lambda run: run.dag_run_id == "living")
        return sweep(session, stage.access(), admitted, alive, dag_id="lab.migrate")


def _kinds(report: CleanupReport, key: str) -> dict[str, tuple[str, bool]]:
    return {one.kind: (one.owner, one.removed) for one in report.leftovers if one.run == run_hash(key)}


def test_inv_4_what_an_ended_run_left_is_removed_and_nothing_else(stage: Stage) -> None:
    imports = {key: _leave(stage, key) for key in (ENDED, LIVING, FOREIGN, OTHER)}
    kinds = ("vSphere snapshot", "upload", "staged disk", "import task")
    try:
        before = (stage.vc.state()["vms"], stage.aws.state())
        listed = _sweep(stage, dry_run=True)
        assert _kinds(listed, ENDED) == dict.fromkeys(kinds, ("ended run", False))
        assert (stage.vc.state()["vms"], stage.aws.state()) == before

        done = _sweep(stage, dry_run=False)
        assert _kinds(done, ENDED) == dict.fromkeys(kinds, ("ended run", True))
        assert _kinds(done, LIVING) == dict.fromkeys(kinds, ("living run", False))
        assert _kinds(done, FOREIGN) == dict.fromkeys(kinds[1:], ("unknown", False)), "with our wave's name, in AWS"
        assert _kinds(done, OTHER) == _kinds(listed, OTHER) == {}, "another wave's is neither shown nor removed"
        assert not any(one.error for one in done.leftovers)

        status = VmImport(stage.access()).describe(imports.values())
        assert [key for key, id in imports.items() if not status[id].finished] == [LIVING, FOREIGN, OTHER]
        standing = [one["name"] for vm in stage.vc.state()["vms"] for one in vm["snapshots"]]
        assert sorted(standing) == sorted(snapshot_name(key) for key in (LIVING, FOREIGN, OTHER))
        assert _kinds(_sweep(stage, dry_run=True), ENDED) == {}
    finally:
        _take_back(stage, imports)


def test_inv_4_a_half_made_ebs_snapshot_goes_but_not_one_that_the_next_run_goes_on_with(stage: Stage) -> None:
    access = stage.access()
    controller: dict[str, Any] = {"controller": "SCSI", "controller_class": "scsi", "backing": "flat"}
    disk = DiskFacts(key=2000, bus=0, unit=0, capacity=GIB, label="Hard disk 1", file="[ds] a", **controller)

    def started(wave: str, number: int) -> str:
        ours = tags(wave, "web01", ENDED)
        words = f"{MADE_BY}half" if number < 3 else "Created by the lifecycle manager"
        made = start_snapshot(access, NewSnapshot(capacity=GIB, token=f"{wave}-{number}", tags=ours, description=words))
        return made.snapshot_id

    forgotten, left, elsewhere = started("lab", 0), started("lab", 1), started("another", 2)
    backup = started("lab", 3)  # of an instance of ours, with its tags
    with ServerStaging.of(access, stage.wave("web01").servers[0], ENDED) as staging:
        note = SeedNote.of(disk, JournalIdentity(left, "an instant", GIB), {})
        staging.s3.put_object(staging.seed_key(0), note.model_dump_json().encode())
        staging.s3.put_object(staging.seed_key(1), b"no note")
        try:
            done = _sweep(stage, dry_run=False)
            assert [one.name for one in done.leftovers if one.kind == "EBS snapshot"] == [forgotten]
            assert {row["id"] for row in stage.aws.state()["snapshots"]} == {left, elsewhere, backup}
        finally:
            staging.discard()
            for snapshot_id in (forgotten, left, elsewhere, backup):
                Ec2(access).delete_snapshot(snapshot_id)


def test_inv_4_an_ebs_snapshot_that_was_completed_since_it_was_listed_stays(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its run recorded it, and ended, before its turn came: a lineage names it."""
    access = stage.access()
    ours = tags("lab", "web01", ENDED)
    made = start_snapshot(access, NewSnapshot(capacity=GIB, token="late", tags=ours, description=f"{MADE_BY}half"))
    listed = Ec2.snapshots_with

    def completed_afterwards(self: Ec2, wanted: dict[str, str]) -> Any:
        found = listed(self, wanted)
        complete_snapshot(access, made.snapshot_id, blocks=0, linear=b"")
        return found

    monkeypatch.setattr(Ec2, "snapshots_with", completed_afterwards)
    try:
        (told,) = [one for one in _sweep(stage, dry_run=False).leftovers if one.kind == "EBS snapshot"]
        assert (told.name, told.removed) == (made.snapshot_id, False)
        assert {row["id"]: row["state"] for row in stage.aws.state()["snapshots"]} == {made.snapshot_id: "completed"}
    finally:
        Ec2(access).delete_snapshot(made.snapshot_id)


def test_what_cannot_be_removed_is_told_and_the_rest_goes(stage: Stage) -> None:
    imports = {ENDED: _leave(stage, ENDED)}
    stage.vc.rule(kind="fault", method="RemoveSnapshot_Task", fault="NoPermission", args={"privilegeId": "p"}, times=0)
    try:
        report = _sweep(stage, dry_run=False)
        told = {one.kind: (one.removed, one.error) for one in report.leftovers}
        assert told.pop("vSphere snapshot")[0] is False
        assert [one.error for one in report.leftovers if "lacks p" in one.error] != []
        assert set(told.values()) == {(True, "")}
    finally:
        stage.clear_rules()
        _take_back(stage, imports)


def test_inv_4_a_snapshot_that_went_another_way_is_told_to_the_ledger(stage: Stage) -> None:
    """Somebody removed it in vCenter, or the VM is gone: only the ledger knows of it, and a job's deletion waits."""

    def standing(key: str, vm: str, connection: str = "vsphere_lab") -> StandingSnapshot:
        return StandingSnapshot(
            server=key.rpartition("/")[2], connection=connection, vm=vm, name=snapshot_name(key), run=run_hash(key)
        )

    (vm,) = [one["moref"] for one in stage.vc.state()["vms"] if one["name"] == "web01"]
    gone, elsewhere = "lab.migrate/ended/gone01", "lab.migrate/ended/far01"
    rows = (standing(ENDED, vm), standing(gone, "vm-4711"), standing(LIVING, vm), standing(elsewhere, vm, "vsphere_2"))
    known = (ENDED, LIVING, gone, elsewhere)
    listed = _sweep(stage, dry_run=True, known=known, standing=rows)
    assert [(one.run, one.owner, one.removed) for one in listed.leftovers] == [
        (run_hash(ENDED), "ended run", False),
        (run_hash(gone), "ended run", False),
        (run_hash(LIVING), "living run", False),
    ]
    assert all("vCenter shows none" in one.name for one in listed.leftovers)
    done = _sweep(stage, dry_run=False, known=known, standing=rows)
    assert [(one.run, one.removed, one.error) for one in done.leftovers] == [
        (run_hash(ENDED), True, ""),
        (run_hash(gone), True, ""),
        (run_hash(LIVING), False, ""),
    ]


@pytest.mark.parametrize("name", ["before-the-upgrade", snapshot_name(LIVING)])
def test_inv_4_an_edited_clean_up_removes_no_snapshot_but_its_run_s_own(stage: Stage, name: str) -> None:
    """``standing`` came by XCom: the name could be that of a customer's snapshot, on any VM of the vCenter."""
    with stage.connect() as session:
        (vm,) = [one["moref"] for one in stage.vc.state()["vms"] if one["name"] == "web01"]
        machine = session.managed(vim.VirtualMachine, vm)
        _done(session, machine.CreateSnapshot_Task(name, "", False, False))
        try:
            row = StandingSnapshot(server="web01", connection="vsphere_lab", vm=vm, name=name, run=run_hash(ENDED))
            with pytest.raises(PermanentError, match="another name than its run's"):
                _sweep(stage, dry_run=False, standing=(row,))
            assert [one.name for one in machine.snapshot.rootSnapshotList] == [name]
            if not name.startswith(SNAPSHOT_PREFIX):
                with pytest.raises(PermanentError, match="only snapshots of wavelift"):
                    snapshots.remove_snapshot(session, vm, name, cancel=CancelFlag())
        finally:
            _done(session, machine.RemoveAllSnapshots_Task())


def test_inv_4_an_edited_clean_up_takes_no_run_of_another_wave_for_its_own(stage: Stage) -> None:
    """``runs`` came by XCom: a living run of another wave could be told as an ended one."""
    with pytest.raises(TamperedError, match="another wave's runs") as caught:
        _sweep(stage, dry_run=False, known=(ENDED, OTHER))
    assert caught.value.where["found"] == "another.migrate"
    known = KnownRun.load({"dag_id": "lab.migrate", "run_id": "ended", "hashes": [run_hash(OTHER)]})
    assert known.hashes == frozenset(), "a hash is not believed"


def _done(session: VsphereSession, task: Any) -> None:
    wait_for_task(session, task, timeout=30, cancel=CancelFlag(), what="the test's own snapshot")


def test_a_vm_that_may_not_be_looked_at_keeps_its_snapshot_in_the_ledger(stage: Stage) -> None:
    (vm,) = [one["moref"] for one in stage.vc.state()["vms"] if one["name"] == "web01"]
    row = StandingSnapshot(
        server="web01", connection="vsphere_lab", vm=vm, name=snapshot_name(ENDED), run=run_hash(ENDED)
    )
    stage.vc.rule(kind="fault", method="RetrievePropertiesEx", fault="NoPermission", args={"privilegeId": "p"}, skip=1)
    try:
        (left,) = _sweep(stage, dry_run=False, standing=(row,)).leftovers
    finally:
        stage.clear_rules()
    assert not left.removed
    assert left.error


def _take_back(stage: Stage, imports: dict[str, str]) -> None:
    """The test's own end: everything of every run."""
    for key, task_id in imports.items():
        VmImport(stage.access()).cancel(task_id)
        plan = stage.wave(key.rpartition("/")[2], wave=_wave_of(key)).servers[0]
        with ServerStaging.of(stage.access(), plan, key) as staging:
            staging.discard()
        with stage.connect() as session:
            for ref in snapshots.find_ours(session):
                if ref.name == snapshot_name(key):
                    snapshots.remove_snapshot(session, ref.vm, ref.name, cancel=CancelFlag())


# --- a disk that lies on the worker ---------------------------------------------------------------------------------


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "disk.raw"
    with path.open("wb") as out:
        out.truncate(24 * MIB + 512)
        out.seek(2 * MIB)
        out.write(random.Random(3).randbytes(18 * MIB))
    return path


def _upload(stage: Stage, path: Path, store: MemoryCheckpoints, *, image_format: str = "auto") -> Any:
    ctx = context_of("upload/run/disk", checkpoints=store)
    return upload_disk(
        stage.access(),
        Upload(str(path), stage.account.bucket, "by-hand/disk.vmdk", image_format),
        ctx,
    )


def _forget(stage: Stage) -> None:
    for key in ("by-hand/disk.vmdk", "by-hand/disk.vmdk.manifest"):
        stage.aws.client("s3").delete_object(Bucket=stage.account.bucket, Key=key)


def test_a_disk_file_goes_up_with_the_same_proof(stage: Stage, image: Path) -> None:
    store = MemoryCheckpoints()
    stage.aws.rule(service="s3", operation="UploadPart", part=3, code="OperationAborted", status=409, count=1)
    with pytest.raises(WaveliftError):
        _upload(stage, image, store)
    stored = _upload(stage, image, store)
    assert stored.capacity == 24 * MIB + 512
    assert stored.parts_kept >= 1
    kept = {one["key"]: Path(one["path"]) for one in stage.aws.evidence()["objects"]}[stored.object_key]
    again = _upload(stage, kept, MemoryCheckpoints())
    _forget(stage)
    assert again.content_digest == stored.content_digest, "read as VMDK it is the same disk"
    assert stored.data_bytes % BLOCK == 0


def test_a_disk_file_that_may_not_go_up_leaves_no_upload(stage: Stage, image: Path) -> None:
    stage.aws.rule(service="s3", operation="UploadPart", code="AccessDenied", status=403)
    with pytest.raises(MissingPrivilegeError, match="s3:PutObject"):
        _upload(stage, image, MemoryCheckpoints())
    assert stage.aws.state()["buckets"][stage.account.bucket]["uploads"] == []
