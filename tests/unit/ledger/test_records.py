"""What is written comes back: wave runs, servers, migrations, events."""

from __future__ import annotations

from dataclasses import FrozenInstanceError
from datetime import UTC, datetime, timedelta, timezone

import pytest
import sqlalchemy as sa
from tests.contexts import run_context
from tests.ledgers import within

from wavelift.base.domain import (
    ChangedRange,
    ConvertedDisk,
    ExportResult,
    ImportResult,
    LaunchResult,
    StoredDisk,
    VerifyResult,
)
from wavelift.base.errors import NotFoundError, PermanentError, WaveliftError
from wavelift.base.names import run_hash
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import (
    Ledger,
    Migration,
    Progress,
    SnapshotState,
    SourceServer,
    WaveRunState,
    events,
    migrations,
    servers,
    waves,
)
from wavelift.ledger.events import list_events
from wavelift.ledger.migrations import MigrationFilter
from wavelift.ledger.spine import RunningImport
from wavelift.ledger.tables import wave_run
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.migration.begin import NewMigration, begin_migration

pytestmark = pytest.mark.unit


def _begin(ledger: Ledger, run: DagRun, clock: Clock, name: str = "web01", *, map_index: int = -1) -> Migration:
    server = SourceServer(source="vc-1", name=name, moref=f"vm-{name}", instance_uuid=f"uuid-{name}")
    wanted = NewMigration("erp", server, "hall-a", "eu-central-1")
    return begin_migration(ledger, wanted, run_context(run, name, clock=clock, map_index=map_index))


@pytest.fixture
def web01(ledger: Ledger, run: DagRun, clock: Clock) -> Migration:
    return _begin(ledger, run, clock)


def _disk(index: int, capacity: int) -> StoredDisk:
    return StoredDisk(
        index=index,
        address=f"SCSI 0:{index}",
        key=2000 + index,
        boot=index == 0,
        capacity=capacity,
        bucket="staging",
        object_key=f"disk-{index}.vmdk",
        object_bytes=10,
        manifest_key=f"disk-{index}.manifest",
        manifest_digest="aa",
        content_digest="bb",
        data_bytes=8,
        parts=1,
    )


def test_a_disk_of_a_version_that_did_not_tell_its_reader_is_the_same_disk() -> None:
    told = _disk(0, 10).dump()
    older = {name: value for name, value in told.items() if name not in ("reader", "reader_reason")}
    assert StoredDisk.load(older) == _disk(0, 10)
    assert set(told) - set(older) == {"reader", "reader_reason"}


# Wave runs


def test_a_run_keeps_the_spec_that_was_frozen_first(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    again = within(
        ledger.write(waves.LOCK),
        waves.freeze_wave_run,
        waves.NewWaveRun(
            run=run, wave="erp", mode="migrate", requested_by="bob", source="api", spec={"servers": ["edited"]}
        ),
        clock=clock,
    )

    assert again.spec == {"servers": ["web01"]}
    assert again.requested_by == "ana"
    assert within(ledger.read(), waves.get, run) == again


def test_a_finished_run_reopens_when_its_admission_is_cleared(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    ended = within(ledger.write(waves.LOCK), waves.finish_wave_run, run, WaveRunState.FAILED, clock=clock)
    assert (ended.state, ended.finished_at) == (WaveRunState.FAILED, clock.now() - timedelta(seconds=1))

    again = within(
        ledger.write(waves.LOCK),
        waves.freeze_wave_run,
        waves.NewWaveRun(run=run, wave="erp", mode="migrate", requested_by="ana", source="ui", spec={}),
        clock=clock,
    )

    assert (again.state, again.finished_at, again.spec) == (WaveRunState.RUNNING, None, {"servers": ["web01"]})
    assert [event.action for event in within(ledger.read(), list_events, object_kind="wave_run")] == [
        "wave_run.frozen",
        "wave_run.failed",
        "wave_run.reopened",
    ]


def test_an_unknown_run_is_named(ledger: Ledger, clock: Clock) -> None:
    lost = DagRun("erp.migrate", "never")
    assert within(ledger.read(), waves.find, lost) is None
    with pytest.raises(NotFoundError, match=r"dag=erp.migrate, run=never.*`admit`"):
        within(ledger.read(), waves.get, lost)
    with pytest.raises(NotFoundError):
        within(ledger.write(waves.LOCK), waves.finish_wave_run, lost, WaveRunState.COMPLETED, clock=clock)


# Times


def test_times_are_kept_as_utc_in_text_that_sorts(ledger: Ledger, run: DagRun) -> None:
    berlin = datetime(2026, 11, 22, 1, 30, 0, 5, tzinfo=timezone(timedelta(hours=1)))
    with ledger.write() as tx:
        tx.execute(wave_run.update().values(finished_at=berlin))
        raw = tx.exec_driver_sql("SELECT finished_at FROM wave_run").scalar()

    assert raw == "2026-11-22T00:30:00.000005Z"
    found = within(ledger.read(), waves.get, run).finished_at
    assert found == berlin
    assert found is not None
    assert found.tzinfo is UTC


def test_a_time_without_zone_is_refused(ledger: Ledger, run: DagRun) -> None:
    with pytest.raises(WaveliftError, match="without zone"), ledger.write() as tx:
        tx.execute(wave_run.update().values(finished_at=datetime(2026, 11, 22)))
    assert within(ledger.read(), waves.get, run).finished_at is None


# Migrations


def test_amp_04_amp_07_the_task_id_is_known_before_the_row(web01: Migration) -> None:
    key = "erp.migrate/manual__1/web01"
    assert web01.id == f"mig-{run_hash(key)}" == migrations.migration_id(key)
    assert web01.state is MigrationState.QUEUED
    with pytest.raises(FrozenInstanceError):
        web01.state = MigrationState.FAILED  # type: ignore[misc]


def test_amp_07_the_whole_way_of_a_server(ledger: Ledger, run: DagRun, clock: Clock, web01: Migration) -> None:
    m = web01.id
    intended = within(ledger.write(), migrations.record_intent, m, name="wavelift-abc", vm="vm-1", clock=clock)
    assert (intended.state, intended.snapshot_state) == (MigrationState.TRANSFERRING, SnapshotState.INTENDED)
    assert within(ledger.read(), migrations.ROWS.open_snapshots, "erp") == (intended,)

    within(
        ledger.write(),
        migrations.record_progress,
        m,
        Progress("exporting", 140, bytes_done=5, bytes_total=30),
        clock=clock,
    )
    moving = within(ledger.read(), migrations.get, m)
    assert (moving.progress_pct, moving.phase, moving.bytes_done, moving.bytes_total) == (100, "exporting", 5, 30)

    export = ExportResult(server="web01", snapshot="wavelift-abc", disks=(_disk(0, 1 << 40), _disk(1, 1 << 41)))
    exported = within(ledger.write(), migrations.record_export, m, export, clock=clock)
    assert exported.bytes_total == 3 << 40
    assert ExportResult.load(exported.export_result) == export
    assert (
        within(ledger.write(), migrations.record_snapshot_removed, m, clock=clock).snapshot_state
        is SnapshotState.REMOVED
    )
    assert within(ledger.read(), migrations.ROWS.open_snapshots, "erp") == ()

    within(ledger.write(), migrations.advance, m, MigrationState.VERIFYING, phase="reading back", clock=clock)
    proof = VerifyResult(server="web01", level="full", bytes_verified=3 << 40, bytes_read_back=20)
    assert (
        VerifyResult.load(within(ledger.write(), migrations.record_verify, m, proof, clock=clock).verify_result)
        == proof
    )

    started = within(ledger.write(), migrations.record_import_started, m, "import-ami-1", clock=clock)
    assert (started.state, started.import_task_id) == (MigrationState.IMPORTING, "import-ami-1")
    imports = [
        RunningImport(id="import-ami-1", phase="converting", percent=28, run=""),
        RunningImport(id="import-ami-2", phase="booting", percent=70, run=m.removeprefix("mig-")),
    ]
    within(ledger.write(), migrations.ROWS.record_import_progress, imports, clock=clock)
    shown = within(ledger.read(), migrations.get, m)
    assert (shown.phase, shown.progress_pct) == ("import: converting", 28)
    report = ConvertedDisk(
        index=0, snapshot_id="snap-1", boot=True, blocks_compared=9, changed=(ChangedRange(offset=0, length=512),)
    )
    image = ImportResult(
        server="web01", task_id="import-ami-1", image_id="ami-1", snapshot_ids=("snap-1", "snap-2"), report=(report,)
    )
    imported = within(ledger.write(), migrations.record_import, m, image, clock=clock)
    assert (imported.image_id, imported.snapshot_ids) == ("ami-1", ("snap-1", "snap-2"))
    assert [ConvertedDisk.load(disk) for disk in imported.conversion_report or []] == [report]

    within(ledger.write(), migrations.advance, m, MigrationState.LAUNCHING, clock=clock)
    launched = within(
        ledger.write(), migrations.record_launch, m, LaunchResult(server="web01", instance_id="i-1"), clock=clock
    )
    assert launched.instance_id == "i-1"
    done = within(ledger.write(), migrations.complete, m, clock=clock)
    assert (done.state, done.progress_pct, done.finished_at) == (MigrationState.COMPLETED, 100, done.updated_at)
    assert within(ledger.read(), migrations.get, m) == done
    assert [event.action.removeprefix("migration.") for event in within(ledger.read(), list_events, object_id=m)] == [
        "queued",
        "snapshot_intended",
        "exported",
        "snapshot_removed",
        "advanced",
        "verified",
        "import_started",
        "imported",
        "advanced",
        "launched",
        "completed",
    ]


def test_a_transfer_that_is_told_late_takes_an_import_not_back(ledger: Ledger, clock: Clock, web01: Migration) -> None:
    """``release`` runs beside ``import_image``: whichever comes last must not undo the other."""
    m = web01.id
    within(ledger.write(), migrations.record_intent, m, name="wavelift-abc", vm="vm-1", clock=clock)
    assert within(ledger.write(), migrations.begin_verifying, m, clock=clock).state is MigrationState.VERIFYING
    importing = within(ledger.write(), migrations.record_import_started, m, "import-ami-1", clock=clock)
    assert within(ledger.write(), migrations.begin_verifying, m, clock=clock) == importing
    assert within(ledger.write(), migrations.complete, m, clock=clock).state is MigrationState.COMPLETED


def test_an_order_that_the_rules_do_not_know_changes_nothing(ledger: Ledger, clock: Clock, web01: Migration) -> None:
    with pytest.raises(PermanentError, match="queued") as caught:
        within(ledger.write(), migrations.advance, web01.id, MigrationState.LAUNCHING, clock=clock)
    assert web01.id in str(caught.value)
    assert within(ledger.read(), migrations.get, web01.id) == web01
    assert len(within(ledger.read(), list_events, object_id=web01.id)) == 1


def test_the_first_end_stays(ledger: Ledger, clock: Clock, web01: Migration) -> None:
    failed = within(ledger.write(), migrations.fail, web01.id, "disk SCSI 0:1 is an RDM", clock=clock)
    assert (failed.state, failed.error) == (MigrationState.FAILED, "disk SCSI 0:1 is an RDM")

    assert within(ledger.write(), migrations.fail, web01.id, "and then the report", clock=clock) == failed
    assert within(ledger.write(), migrations.mark_cancelled, web01.id, "too late", clock=clock) == failed


def test_amp_07_cancel_is_a_wish_that_names_who_had_it(ledger: Ledger, clock: Clock, web01: Migration) -> None:
    asked = within(ledger.write(), migrations.request_cancel, web01.id, by="bob", clock=clock)
    assert within(ledger.write(), migrations.request_cancel, web01.id, by="eve", clock=clock) == asked

    assert within(ledger.read(), migrations.get, web01.id).cancel_requested
    assert asked.state is MigrationState.QUEUED
    (event,) = (event for event in within(ledger.read(), list_events) if event.action == "migration.cancel_requested")
    assert (event.actor, event.object_id, event.dag_id) == ("bob", web01.id, "erp.migrate")
    within(ledger.write(), migrations.mark_cancelled, web01.id, "cancelled by bob", clock=clock)
    with pytest.raises(PermanentError, match="already ended: it is cancelled"):
        within(ledger.write(), migrations.request_cancel, web01.id, by="bob", clock=clock)


def test_amp_07_a_refused_migration_is_listed_and_never_began(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    with ledger.write(servers.LOCK) as tx:
        known = migrations.insert_ended(
            tx,
            at=clock.now(),
            run=run,
            run_key="erp.migrate/manual__1/win01",
            state=MigrationState.REFUSED,
            error="Hard disk 2 is a raw device mapping",
            wave="erp",
            server="win01",
            connector="hall-a",
        )
    begun = _begin(ledger, run, clock)
    assert (known.server_id, known.map_index, known.finished_at) == (None, -1, known.created_at)

    def found(*states: MigrationState) -> list[str]:
        return [
            each.id for each in within(ledger.read(), migrations.list_migrations, MigrationFilter(states=states)).items
        ]

    assert found(MigrationState.REFUSED) == [known.id]
    assert found(MigrationState.FAILED) == []
    assert within(ledger.read(), migrations.ROWS.started_runs, "erp") == ((run, "web01"),), "it made nothing outside"
    assert within(ledger.read(), migrations.ROWS.count_active, "hall-a") == 1
    assert begun.server_id is not None
    assert [each.id for each in within(ledger.read(), migrations.occupying, begun.server_id)] == [begun.id]
    (event,) = within(ledger.read(), list_events, object_kind="migration", object_id=known.id)
    assert (event.action, event.details["error"]) == ("migration.refused", "Hard disk 2 is a raw device mapping")
    with pytest.raises(PermanentError, match=r"already ended: it is refused .*Nothing needs to be cancelled"):
        within(ledger.write(), migrations.request_cancel, known.id, by="bob", clock=clock)
    with pytest.raises(PermanentError, match="from refused to importing"):
        within(ledger.write(), migrations.record_import_started, known.id, "import-ami-1", clock=clock)
    assert within(ledger.read(), migrations.get, known.id) == known


def test_an_end_that_is_told_again_is_no_event(ledger: Ledger, clock: Clock, web01: Migration) -> None:
    failed = within(ledger.write(), migrations.fail, web01.id, "no", clock=clock)

    def refuse(known: Migration) -> Migration:
        with ledger.write() as tx:
            return migrations.end_anew(tx, known, MigrationState.REFUSED, "the VM is a template", at=clock.now())

    refused = refuse(failed)
    assert (refused.state, refused.error) == (MigrationState.REFUSED, "the VM is a template")
    assert refuse(refused) == refused
    assert [each.action for each in within(ledger.read(), list_events, object_id=web01.id)] == [
        "migration.queued",
        "migration.failed",
        "migration.refused",
    ]


def test_an_unknown_migration_is_named(ledger: Ledger, clock: Clock) -> None:
    assert within(ledger.read(), migrations.find, "mig-0") is None
    with pytest.raises(NotFoundError, match=r"migration=mig-0.*migrations list"):
        within(ledger.write(), migrations.fail, "mig-0", "x", clock=clock)


def test_amp_07_lists_are_newest_first_paged_and_searchable(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    made = [_begin(ledger, run, clock, name=f"web{number:02}", map_index=number) for number in range(7)]
    within(ledger.write(), migrations.fail, made[3].id, "no", clock=clock)
    newest = [each.server for each in reversed(made)]

    page = within(ledger.read(), migrations.list_migrations, limit=3, offset=3)
    assert ([each.server for each in page.items], page.total) == (newest[3:6], 7)

    def servers(which: MigrationFilter) -> list[str]:
        return [each.server for each in within(ledger.read(), migrations.list_migrations, which).items]

    assert servers(MigrationFilter(states=[MigrationState.FAILED])) == ["web03"]
    assert servers(MigrationFilter(search="WEB05")) == ["web05"]
    assert servers(MigrationFilter(search=made[2].id)) == ["web02"]
    assert servers(MigrationFilter(search="%")) == []
    assert servers(MigrationFilter(search="web_5")) == []
    assert servers(MigrationFilter(server="web01", wave="erp", run=run)) == ["web01"]
    assert servers(MigrationFilter(wave="other")) == []
    assert servers(MigrationFilter(dag_ids=["erp.migrate"])) == newest
    assert servers(MigrationFilter(dag_ids=[])) == []
    assert [each.server for each in within(ledger.read(), migrations.of_dag_run, run)] == [each.server for each in made]


# Servers


def test_a_server_is_remembered_through_a_new_name(ledger: Ledger, run: DagRun, clock: Clock, web01: Migration) -> None:
    first = within(ledger.read(), servers.find, source="vc-1", identity="uuid-web01")
    assert first is not None
    renamed = SourceServer(source="vc-1", name="web01-old", moref="vm-9", instance_uuid="uuid-web01", facts={"cpus": 2})
    within(ledger.write(), migrations.fail, web01.id, "x", clock=clock)
    begin_migration(
        ledger, NewMigration("erp", renamed, "hall-a", "eu-central-1"), run_context(run, "web01-old", clock=clock)
    )

    seen = within(ledger.read(), servers.find, source="vc-1", identity="uuid-web01")
    assert seen is not None
    assert (seen.id, seen.name, seen.moref, seen.facts) == (first.id, "web01-old", "vm-9", {"cpus": 2})
    assert seen.first_seen == first.first_seen < seen.last_seen


# Events


def test_events_keep_their_order_and_can_be_narrowed(ledger: Ledger, clock: Clock) -> None:
    for number in range(3):
        within(
            ledger.write(),
            events.append,
            events.Subject("image", f"ami-{number}", DagRun(f"w{number}.migrate", "r")),
            "cleanup.deleted",
            at=clock.now(),
            actor="ana",
            details={"number": number},
        )

    found = within(ledger.read(), list_events, object_kind="image")
    assert [event.details["number"] for event in found] == [0, 1, 2]
    assert [event.id for event in within(ledger.read(), list_events, after=found[0].id, limit=1)] == [found[1].id]
    with ledger.read() as tx:
        assert tx.execute(sa.text("SELECT count(*) FROM event")).scalar() == 3
