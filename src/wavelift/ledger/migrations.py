"""Migrations: one row per server and run of a wave (AMP-07). Control-plane tasks, the console and the CLI write them.

Every change writes an event to the audit trail. State changes follow :mod:`wavelift.rules.lifecycle`.
:func:`wavelift.services.migration.begin.begin_migration` creates a migration.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wavelift.base.domain import ExportResult, ImportResult, LaunchResult, VerifyResult
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import servers
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import ROWS_A_PAGE, Migration, Page, SnapshotState
from wavelift.ledger.spine import Progress, RunningImport, ServerRuns, Words, containing, matching, of_run
from wavelift.ledger.tables import migration
from wavelift.rules import lifecycle
from wavelift.rules.lifecycle import MigrationState


class _Migrations(ServerRuns[Migration]):
    """A change locks the row of the migration."""

    step = "phase"
    begun = "created_at"
    started = "server_id"

    def _require_way(self, known: Migration, to: MigrationState) -> None:
        lifecycle.require(known.state, to, migration=known.id)

    def _arrival(self, known: Migration, to: MigrationState, at: datetime) -> Mapping[str, Any]:
        return {**super()._arrival(known, to, at), "error": ""}  # removes the error of an earlier try

    def count_active(self, tx: Tx, connector: str) -> int:
        active = migration.c.state.not_in(lifecycle.TERMINAL) & (migration.c.connector == connector)
        return tx.execute(sa.select(sa.func.count()).select_from(migration).where(active)).scalar_one()

    def record_import_progress(self, tx: Tx, imports: Collection[RunningImport], *, clock: Clock) -> None:
        """A migration knows the id of its import."""
        for each in imports:
            running = (migration.c.import_task_id == each.id) & (migration.c.state == MigrationState.IMPORTING)
            self.progress(tx, running, Progress(f"import: {each.phase}", each.percent), clock=clock)


ROWS = _Migrations(
    migration,
    Migration,
    Words(kind="migration", noun="migration", key="migration", listing="`wavelift migrations list`"),
)
migration_id = ROWS.id_of
find = ROWS.find
get = ROWS.get
apply = ROWS.apply
record_snapshot_removed = ROWS.snapshot_removed
request_cancel = ROWS.request_cancel


# Reading


def of_dag_run(tx: Tx, run: DagRun) -> tuple[Migration, ...]:
    """All migrations of one DAG run, in the order of their map indexes."""
    return ROWS.all(tx, of_run(migration, run), order=(migration.c.map_index, migration.c.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFilter:
    """Which migrations to list. A field that is not set does not restrict the list."""

    wave: str | None = None
    server: str | None = None
    states: Collection[MigrationState] | None = None
    run: DagRun | None = None
    dag_ids: Collection[str] | None = None
    """DAGs that the caller may read. If it is empty, the list is empty."""
    search: str = ""
    """Part of an id, server, wave, image id or instance id. Case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        equal = {"wave": self.wave, "server": self.server}
        found = matching(migration, equal, {"state": self.states, "dag_id": self.dag_ids})
        if self.run is not None:
            found.append(of_run(migration, self.run))
        if self.search:
            found.append(containing(migration, self.search, ("id", "server", "wave", "image_id", "instance_id")))
        return found


def list_migrations(
    tx: Tx, which: MigrationFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[Migration]:
    """One page of migrations, newest first."""
    newest = (migration.c.created_at.desc(), migration.c.id)
    return ROWS.page(tx, (which or MigrationFilter()).conditions(), order=newest, limit=limit, offset=offset)


def occupying(tx: Tx, server_id: int) -> tuple[Migration, ...]:
    """Migrations that block a new one of this server: they have not ended, or their snapshot may still exist."""
    standing = migration.c.snapshot_state == SnapshotState.INTENDED
    busy = migration.c.state.not_in(lifecycle.TERMINAL) | standing
    return ROWS.all(tx, migration.c.server_id == server_id, busy, order=(migration.c.id,))


def waiting(tx: Tx, *, wave: str | None = None, connector: str | None = None) -> tuple[Migration, ...]:
    """Migrations of which nothing has begun and that have not ended (:attr:`Migration.waits`), oldest first."""
    open_ones = migration.c.server_id.is_(None) & migration.c.state.not_in(lifecycle.TERMINAL)
    where = matching(migration, {"wave": wave, "connector": connector}, {})
    return ROWS.all(tx, open_ones, *where, order=(migration.c.created_at, migration.c.id))


# Writing: the steps of one server, in order


def insert(
    tx: Tx, *, at: datetime, run: DagRun, run_key: str, action: str = "queued", by: str = "", **columns: Any
) -> Migration:
    """Create a migration in the state QUEUED. Needs :data:`wavelift.ledger.servers.LOCK`.

    :param action: of its event. :param by: who asked for it, if it was not the run itself.
    """
    require_lock(tx, servers.LOCK)
    made = ROWS.begin(tx, at=at, run=run, run_key=run_key, state=MigrationState.QUEUED, **columns)
    ROWS.tell(tx, made, action, at=at, by=by or run, details={"server": made.server, "to": made.state})
    return made


def insert_ended(
    tx: Tx, *, at: datetime, run: DagRun, run_key: str, state: MigrationState, error: str, **columns: Any
) -> Migration:
    """Create a migration that ended before it began: it was refused.

    Needs :data:`wavelift.ledger.servers.LOCK`, so that no ``reserve`` creates the same one at the same moment.
    """
    require_lock(tx, servers.LOCK)
    place = {"map_index": -1, "state": state, "error": error, "finished_at": at}
    made = ROWS.begin(tx, at=at, run=run, run_key=run_key, **place, **columns)
    ROWS.tell(tx, made, str(state), at=at, by=run, details={"server": made.server, "to": state, "error": error})
    return made


def end_anew(tx: Tx, known: Migration, state: MigrationState, error: str, *, at: datetime) -> Migration:
    """Change how an ended migration ended. The same again changes nothing.

    :raises PermanentError: :mod:`wavelift.rules.lifecycle` does not allow it.
    """
    if (known.state, known.error) == (state, error):
        return known
    return ROWS.end(tx, known, state, error, at=at, phase="")


def advance(tx: Tx, id: str, state: MigrationState, *, phase: str = "", clock: Clock) -> Migration:
    """Set the next state, or an earlier one whose task runs again.

    :raises PermanentError: :mod:`wavelift.rules.lifecycle` does not allow the change.
    """
    return ROWS.note(tx, id, "advanced", clock=clock, state=state, phase=phase)


def begin_verifying(tx: Tx, id: str, *, clock: Clock) -> Migration:
    """The transfer has ended. If a later step has already begun, the state does not change: later steps run in parallel
    with the task that calls this, and a migration that goes back from ``importing`` could never complete.
    """
    known = ROWS.held(tx, id)
    if known.state is not MigrationState.TRANSFERRING:
        return known
    return apply(tx, known, "advanced", at=clock.now(), state=MigrationState.VERIFYING, phase="verifying")


def record_progress(tx: Tx, id: str, progress: Progress, *, clock: Clock) -> None:
    """Store the progress of the current step. This writes no event."""
    ROWS.progress(tx, migration.c.id == id, progress, clock=clock)


def record_intent(tx: Tx, id: str, *, name: str, vm: str, clock: Clock) -> Migration:
    """Store the snapshot's name before the snapshot is taken, and begin the transfer.

    :param vm: managed object id.
    """
    return ROWS.intend_snapshot(tx, id, name=name, vm=vm, clock=clock, state=MigrationState.TRANSFERRING)


def record_export(tx: Tx, id: str, result: ExportResult, *, clock: Clock) -> Migration:
    """Every disk is in S3. The image and the verification of an earlier export are removed: they belong to another
    snapshot."""
    capacity = sum(disk.capacity for disk in result.disks)
    return ROWS.note(
        tx,
        id,
        "exported",
        clock=clock,
        export_result=result.dump(),
        bytes_done=capacity,
        bytes_total=capacity,
        verify_result=None,
        import_task_id="",
        image_id="",
        snapshot_ids=(),
        conversion_report=None,
    )


def record_verify(tx: Tx, id: str, result: VerifyResult, *, clock: Clock) -> Migration:
    """Store the result of the read-back."""
    return ROWS.note(tx, id, "verified", clock=clock, verify_result=result.dump(), details=result.dump())


def record_source_changed(tx: Tx, id: str, why: str, where: Mapping[str, object], *, clock: Clock) -> Migration:
    """A staged disk is not the one that was exported: what was imported of it is no result."""
    told = {name: str(value) for name, value in where.items()}
    return ROWS.note(tx, id, "source_changed", clock=clock, details={"why": why, **told})


def record_verdict(tx: Tx, id: str, verdict: Mapping[str, Any], *, clock: Clock) -> Migration:
    """Whether the import read the disks that were exported (``services.dataplane.importing.accept_once``)."""
    return ROWS.note(tx, id, "import_judged", clock=clock, details=verdict, import_verdict=dict(verdict))


def record_import_started(tx: Tx, id: str, task_id: str, *, clock: Clock) -> Migration:
    """AWS accepted the import; ``task_id`` is its id."""
    task = {"import_task_id": task_id}
    return ROWS.note(tx, id, "import_started", clock=clock, state=MigrationState.IMPORTING, details=task, **task)


def record_import(tx: Tx, id: str, result: ImportResult, *, clock: Clock) -> Migration:
    """The image exists, and was compared with its source as the plan requires."""
    return ROWS.note(
        tx,
        id,
        "imported",
        clock=clock,
        state=MigrationState.IMPORTING,
        import_task_id=result.task_id,
        image_id=result.image_id,
        snapshot_ids=result.snapshot_ids,
        conversion_report=[disk.dump() for disk in result.report],
        details={"image_id": result.image_id},
    )


def record_launch(tx: Tx, id: str, result: LaunchResult, *, clock: Clock) -> Migration:
    """Store the launched instance, or why there is none."""
    return ROWS.note(
        tx,
        id,
        "launched" if result.instance_id else "launch_skipped",
        clock=clock,
        instance_id=result.instance_id,
        launch_result=result.dump(),
        details=result.dump(),
    )


def complete(tx: Tx, id: str, *, clock: Clock) -> Migration:
    """The last step of the server has ended."""
    return ROWS.note(tx, id, "completed", clock=clock, state=MigrationState.COMPLETED, phase="", progress_pct=100)


def fail(tx: Tx, id: str, error: str, *, clock: Clock) -> Migration:
    """A step failed permanently. A migration that has already ended does not change."""
    return _end(tx, id, MigrationState.FAILED, error, clock)


def mark_cancelled(tx: Tx, id: str, reason: str, *, clock: Clock) -> Migration:
    """The steps were stopped on request. A migration that has already ended does not change."""
    return _end(tx, id, MigrationState.CANCELLED, reason, clock)


def _end(tx: Tx, id: str, state: MigrationState, why: str, clock: Clock) -> Migration:
    known = ROWS.held(tx, id)
    return known if known.state.terminal else ROWS.end(tx, known, state, why, at=clock.now(), phase="")
