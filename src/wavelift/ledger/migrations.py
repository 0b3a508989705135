"""Migrations: what happened to each server of each run (AMP-07). Written by control-plane tasks, console and CLI.

Every change has its line in the audit trail, and state changes follow :mod:`wavelift.rules.lifecycle`. A new migration
is made by :func:`wavelift.services.migration.begin.begin_migration`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wavelift.base.domain import ExportResult, ImportResult, LaunchResult, VerifyResult
from wavelift.base.run import Clock
from wavelift.ledger import servers
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import ROWS_A_PAGE, DagRun, Migration, Page, SnapshotState
from wavelift.ledger.spine import Progress, ServerRuns, Words, containing, matching, of_run
from wavelift.ledger.tables import migration
from wavelift.rules import lifecycle
from wavelift.rules.lifecycle import MigrationState


class _Migrations(ServerRuns[Migration]):
    """A change locks the migration's row."""

    prefix = "mig-"
    step = "phase"
    begun = "created_at"

    def _require_way(self, known: Migration, to: MigrationState) -> None:
        lifecycle.require(known.state, to, migration=known.id)

    def _arrival(self, known: Migration, to: MigrationState, at: datetime) -> Mapping[str, Any]:
        return {**super()._arrival(known, to, at), "error": ""}  # that of a try that ended otherwise


_rows = _Migrations(
    migration,
    Migration,
    Words(kind="migration", noun="migration", key="migration", listing="`wavelift migrations list`"),
)
migration_id = _rows.id_of
find = _rows.find
get = _rows.get
apply = _rows.apply
open_snapshots = _rows.open_snapshots
record_snapshot_removed = _rows.snapshot_removed
request_cancel = _rows.request_cancel


# Reading


def of_dag_run(tx: Tx, run: DagRun) -> tuple[Migration, ...]:
    """All migrations of one DAG run in map order: what the report tells of."""
    return _rows.all(tx, of_run(migration, run), order=(migration.c.map_index, migration.c.id))


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationFilter:
    """Which migrations to list; what is left out does not narrow."""

    wave: str | None = None
    server: str | None = None
    states: Collection[MigrationState] | None = None
    run: DagRun | None = None
    dag_ids: Collection[str] | None = None
    """DAGs that the caller may read. An empty collection lists nothing."""
    search: str = ""
    """Part of an id, server, wave, image or instance id; case does not matter."""

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
    return _rows.page(tx, (which or MigrationFilter()).conditions(), order=newest, limit=limit, offset=offset)


def occupying(tx: Tx, server_id: int) -> tuple[Migration, ...]:
    """Migrations that have this server: not ended, or with a snapshot that may still stand."""
    standing = migration.c.snapshot_state == SnapshotState.INTENDED
    busy = migration.c.state.not_in(lifecycle.TERMINAL) | standing
    return _rows.all(tx, migration.c.server_id == server_id, busy, order=(migration.c.id,))


def count_active(tx: Tx, connector: str) -> int:
    """How many migrations of a connector have not ended."""
    active = migration.c.state.not_in(lifecycle.TERMINAL) & (migration.c.connector == connector)
    return tx.execute(sa.select(sa.func.count()).select_from(migration).where(active)).scalar_one()


# Writing: the way of one server, in order


def insert(tx: Tx, *, at: datetime, run: DagRun, run_key: str, **columns: Any) -> Migration:
    """Write a new migration as queued. Needs :data:`wavelift.ledger.servers.LOCK`."""
    require_lock(tx, servers.LOCK)
    made = _rows.begin(tx, at=at, run=run, run_key=run_key, state=MigrationState.QUEUED, **columns)
    _rows.tell(tx, made, "queued", at=at, details={"server": made.server, "to": made.state})
    return made


def advance(tx: Tx, id: str, state: MigrationState, *, phase: str = "", clock: Clock) -> Migration:
    """Go to the next state, or back to an earlier one whose task runs again.

    :raises PermanentError: when :mod:`wavelift.rules.lifecycle` knows no such way.
    """
    return _rows.note(tx, id, "advanced", clock=clock, state=state, phase=phase)


def begin_verifying(tx: Tx, id: str, *, clock: Clock) -> Migration:
    """The transfer is over. A migration whose next steps have begun meanwhile stays where it is: they run beside the
    task that tells this, and a migration taken back from ``importing`` could never be completed.
    """
    known = _rows.held(tx, id)
    if known.state is not MigrationState.TRANSFERRING:
        return known
    return apply(tx, known, "advanced", at=clock.now(), state=MigrationState.VERIFYING, phase="verifying")


def record_progress(tx: Tx, id: str, progress: Progress, *, clock: Clock) -> None:
    """Tell how far the present step is, in percent and bytes."""
    _rows.progress(tx, migration.c.id == id, progress, clock=clock)


def record_import_progress(tx: Tx, progress: Mapping[str, tuple[str, int]], *, clock: Clock) -> None:
    """Tell how far running imports are: task id → phase and percent. Those of no migration of ours are left out."""
    for task_id, (phase, percent) in progress.items():
        running = (migration.c.import_task_id == task_id) & (migration.c.state == MigrationState.IMPORTING)
        _rows.progress(tx, running, Progress(f"import: {phase}", percent), clock=clock)


def record_intent(tx: Tx, id: str, *, name: str, vm: str, clock: Clock) -> Migration:
    """Write down the snapshot's name before it is taken: the transfer begins.

    :param vm: managed object id.
    """
    return _rows.intend_snapshot(tx, id, name=name, vm=vm, clock=clock, state=MigrationState.TRANSFERRING)


def record_export(tx: Tx, id: str, result: ExportResult, *, clock: Clock) -> Migration:
    """Every disk lies in S3. What came of an earlier export is no longer this migration's: image and proof must never
    stand beside the content of another instant."""
    capacity = sum(disk.capacity for disk in result.disks)
    return _rows.note(
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
    """What the read-back found."""
    return _rows.note(tx, id, "verified", clock=clock, verify_result=result.dump(), details=result.dump())


def record_import_started(tx: Tx, id: str, task_id: str, *, clock: Clock) -> Migration:
    """AWS accepted the import under ``task_id``."""
    task = {"import_task_id": task_id}
    return _rows.note(tx, id, "import_started", clock=clock, state=MigrationState.IMPORTING, details=task, **task)


def record_import(tx: Tx, id: str, result: ImportResult, *, clock: Clock) -> Migration:
    """The image stands, and was compared with its source as the plan says."""
    return _rows.note(
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
    """What was launched, or why nothing was."""
    return _rows.note(
        tx,
        id,
        "launched" if result.instance_id else "launch_skipped",
        clock=clock,
        instance_id=result.instance_id,
        launch_result=result.dump(),
        details=result.dump(),
    )


def complete(tx: Tx, id: str, *, clock: Clock) -> Migration:
    """The server's last step is done."""
    return _rows.note(tx, id, "completed", clock=clock, state=MigrationState.COMPLETED, phase="", progress_pct=100)


def fail(tx: Tx, id: str, error: str, *, clock: Clock) -> Migration:
    """A step failed for good. A migration that already ended keeps its end and its first error."""
    return _end(tx, id, MigrationState.FAILED, error, clock)


def mark_cancelled(tx: Tx, id: str, reason: str, *, clock: Clock) -> Migration:
    """The steps have stopped because somebody asked. A migration that already ended keeps its end."""
    return _end(tx, id, MigrationState.CANCELLED, reason, clock)


def _end(tx: Tx, id: str, state: MigrationState, why: str, clock: Clock) -> Migration:
    known = _rows.held(tx, id)
    return known if known.state.terminal else _rows.end(tx, known, state, why, at=clock.now(), phase="")
