"""Migrations: what happened to each server of each run (AMP-07). Written by control-plane tasks, console and CLI.

Every change is one transaction with its line in the audit trail, and state changes follow
:mod:`wavelift.rules.lifecycle`. A new migration is made by :func:`wavelift.services.common.slots.begin_migration`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.domain import ExportResult, ImportResult, LaunchResult, VerifyResult
from wavelift.base.errors import BusyError, NotFoundError, PermanentError
from wavelift.base.names import run_hash
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Migration, Page, SnapshotState
from wavelift.ledger.tables import migration
from wavelift.rules import lifecycle
from wavelift.rules.lifecycle import MigrationState

ROWS_A_PAGE: Final = 50
"""SMS-08's default."""


def migration_id(run_key: str) -> str:
    """The task id that a person sees, known before the first row is written (AMP-04)."""
    return f"mig-{run_hash(run_key)}"


# Reading


def find(tx: Tx, id: str, *, lock: bool = False) -> Migration | None:
    """One migration, locked until the transaction ends when ``lock``."""
    query = sa.select(migration).where(migration.c.id == id)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return Migration(**row._asdict()) if row else None


def get(tx: Tx, id: str, *, lock: bool = False) -> Migration:
    """:raises NotFoundError: when there is none."""
    known = find(tx, id, lock=lock)
    if known is None:
        raise NotFoundError(
            "The ledger knows no such migration", next_step="See `wavelift migrations list`.", migration=id
        )
    return known


def of_dag_run(tx: Tx, run: DagRun) -> tuple[Migration, ...]:
    """All migrations of one DAG run in map order: what the report tells of."""
    query = sa.select(migration).where(_of_run(run)).order_by(migration.c.map_index, migration.c.id)
    return _all(tx, query)


def open_snapshots(tx: Tx) -> tuple[Migration, ...]:
    """Migrations whose vSphere snapshot may stand: intended, and not seen to be gone (invariant 4)."""
    query = sa.select(migration).where(migration.c.snapshot_state == SnapshotState.INTENDED)
    return _all(tx, query.order_by(migration.c.created_at, migration.c.id))


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
        found: list[sa.ColumnElement[bool]] = []
        if self.wave is not None:
            found.append(migration.c.wave == self.wave)
        if self.server is not None:
            found.append(migration.c.server == self.server)
        if self.states is not None:
            found.append(migration.c.state.in_(self.states))
        if self.run is not None:
            found.append(_of_run(self.run))
        if self.dag_ids is not None:
            found.append(migration.c.dag_id.in_(self.dag_ids))
        if self.search:
            columns = (
                migration.c.id,
                migration.c.server,
                migration.c.wave,
                migration.c.image_id,
                migration.c.instance_id,
            )
            found.append(sa.or_(*(column.icontains(self.search, autoescape=True) for column in columns)))
        return found


def list_migrations(
    tx: Tx, which: MigrationFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[Migration]:
    """One page of migrations, newest first."""
    conditions = (which or MigrationFilter()).conditions()
    rows = (
        sa.select(migration)
        .where(*conditions)
        .order_by(migration.c.created_at.desc(), migration.c.id)
        .limit(limit)
        .offset(offset)
    )
    total = tx.execute(sa.select(sa.func.count()).select_from(migration).where(*conditions)).scalar_one()
    return Page(items=_all(tx, rows), total=total, limit=limit, offset=offset)


# Writing: the way of one server, in order


def advance(tx: Tx, id: str, state: MigrationState, *, phase: str = "", clock: Clock) -> Migration:
    """Go to the next state, or back to an earlier one whose task runs again.

    :raises PermanentError: when :mod:`wavelift.rules.lifecycle` knows no such way.
    """
    return _change(tx, id, "advanced", clock=clock, to=state, phase=phase)


def begin_verifying(tx: Tx, id: str, *, clock: Clock) -> Migration:
    """The transfer is over. A migration whose next steps have begun meanwhile stays where it is: they run beside the
    task that tells this, and a migration taken back from ``importing`` could never be completed.
    """
    known = get(tx, id, lock=True)
    if known.state is not MigrationState.TRANSFERRING:
        return known
    return apply(tx, known, "advanced", at=clock.now(), to=MigrationState.VERIFYING, phase="verifying")


def record_progress(
    tx: Tx,
    id: str,
    *,
    phase: str,
    progress_pct: int,
    bytes_done: int | None = None,
    bytes_total: int | None = None,
    clock: Clock,
) -> None:
    """Tell how far the present step is, in percent and bytes. No line in the audit trail: there would be thousands."""
    require_lock(tx)
    values: dict[str, Any] = {"phase": phase, "progress_pct": max(0, min(100, progress_pct)), "updated_at": clock.now()}
    if bytes_done is not None:
        values["bytes_done"] = bytes_done
    if bytes_total is not None:
        values["bytes_total"] = bytes_total
    tx.execute(migration.update().where(migration.c.id == id).values(**values))


def record_import_progress(tx: Tx, progress: Mapping[str, tuple[str, int]], *, clock: Clock) -> None:
    """Tell how far running imports are: task id → phase and percent. Those of no migration of ours are left out."""
    require_lock(tx)
    for task_id, (phase, percent) in progress.items():
        running = (migration.c.import_task_id == task_id) & (migration.c.state == MigrationState.IMPORTING)
        values = {"phase": f"import: {phase}", "progress_pct": max(0, min(100, percent)), "updated_at": clock.now()}
        tx.execute(migration.update().where(running).values(**values))


def record_intent(tx: Tx, id: str, *, name: str, vm: str, clock: Clock) -> Migration:
    """Write down the snapshot's name before it is taken, so that it is found whatever dies in between (invariant 4).

    :param vm: managed object id.
    """
    return _change(
        tx,
        id,
        "snapshot_intended",
        clock=clock,
        to=MigrationState.TRANSFERRING,
        snapshot_state=SnapshotState.INTENDED,
        snapshot_name=name,
        snapshot_vm=vm,
    )


def record_snapshot_removed(tx: Tx, id: str, *, by: str = "", clock: Clock) -> Migration:
    """vCenter was seen without the snapshot.

    :param by: who removed it, when it was not the run itself (housekeeping).
    """
    return _change(tx, id, "snapshot_removed", clock=clock, by=by, snapshot_state=SnapshotState.REMOVED)


def record_export(tx: Tx, id: str, result: ExportResult, *, clock: Clock) -> Migration:
    """Every disk lies in S3. What came of an earlier export is no longer this migration's: image and proof must never
    stand beside the content of another instant."""
    capacity = sum(disk.capacity for disk in result.disks)
    return _change(
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
    return _change(tx, id, "verified", clock=clock, verify_result=result.dump(), details=result.dump())


def record_import_started(tx: Tx, id: str, task_id: str, *, clock: Clock) -> Migration:
    """AWS accepted the import under ``task_id``."""
    return _change(
        tx,
        id,
        "import_started",
        clock=clock,
        to=MigrationState.IMPORTING,
        import_task_id=task_id,
        details={"import_task_id": task_id},
    )


def record_import(tx: Tx, id: str, result: ImportResult, *, clock: Clock) -> Migration:
    """The image stands, and was compared with its source as the plan says."""
    return _change(
        tx,
        id,
        "imported",
        clock=clock,
        to=MigrationState.IMPORTING,
        import_task_id=result.task_id,
        image_id=result.image_id,
        snapshot_ids=result.snapshot_ids,
        conversion_report=[disk.dump() for disk in result.report],
        details={"image_id": result.image_id},
    )


def record_launch(tx: Tx, id: str, result: LaunchResult, *, clock: Clock) -> Migration:
    """What was launched, or why nothing was."""
    return _change(
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
    return _change(tx, id, "completed", clock=clock, to=MigrationState.COMPLETED, phase="", progress_pct=100)


def fail(tx: Tx, id: str, error: str, *, clock: Clock) -> Migration:
    """A step failed for good. A migration that already ended keeps its end and its first error."""
    return _end(tx, id, MigrationState.FAILED, error, clock)


def mark_cancelled(tx: Tx, id: str, reason: str, *, clock: Clock) -> Migration:
    """The steps have stopped because somebody asked. A migration that already ended keeps its end."""
    return _end(tx, id, MigrationState.CANCELLED, reason, clock)


def request_cancel(tx: Tx, id: str, *, by: str, clock: Clock) -> Migration:
    """Ask a queued or active migration to stop (AMP-07). The caller ends its tasks; those of the control plane look at
    this before they write. Asking twice changes nothing.

    :raises PermanentError: when it has ended.
    """
    known = get(tx, id, lock=True)
    if known.state.terminal:
        raise PermanentError(
            f"The migration has already ended as {known.state}",
            next_step="Nothing needs to be cancelled.",
            migration=id,
            server=known.server,
        )
    if known.cancel_requested:
        return known
    return apply(tx, known, "cancel_requested", at=clock.now(), by=by, cancel_requested=True)


# For admission


def occupying(tx: Tx, server_id: int) -> tuple[Migration, ...]:
    """Migrations that have this server: not ended, or with a snapshot that may still stand."""
    standing = migration.c.snapshot_state == SnapshotState.INTENDED
    busy = migration.c.state.not_in(lifecycle.TERMINAL) | standing
    return _all(tx, sa.select(migration).where(migration.c.server_id == server_id, busy).order_by(migration.c.id))


def count_active(tx: Tx, connector: str) -> int:
    """How many migrations of a connector have not ended."""
    active = migration.c.state.not_in(lifecycle.TERMINAL) & (migration.c.connector == connector)
    return tx.execute(sa.select(sa.func.count()).select_from(migration).where(active)).scalar_one()


def insert(tx: Tx, *, at: datetime, run: DagRun, run_key: str, **columns: Any) -> Migration:
    """Write a new migration as queued. The caller's transaction holds the lock ``servers``."""
    id = migration_id(run_key)
    tx.execute(
        migration.insert().values(
            id=id,
            run_key=run_key,
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            state=MigrationState.QUEUED,
            created_at=at,
            updated_at=at,
            **columns,
        )
    )
    made = get(tx, id)
    _append(tx, made, "queued", at, details={"server": made.server, "to": made.state})
    return made


def apply(
    tx: Tx,
    known: Migration,
    action: str,
    *,
    at: datetime,
    by: str = "",
    to: MigrationState | None = None,
    details: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Migration:
    """Change a locked row and tell the audit trail."""
    story = dict(details or {})
    if to is not None:
        lifecycle.require(known.state, to, migration=known.id)
        columns |= {"state": to, "finished_at": at if to.terminal else None}
        columns.setdefault("error", "")  # of a try that ended otherwise
        story |= {"from": known.state, "to": to}
    same = (migration.c.id == known.id) & (migration.c.version == known.version)
    done = tx.execute(migration.update().where(same).values(updated_at=at, version=known.version + 1, **columns))
    if done.rowcount != 1:
        raise BusyError(
            "Another process changed this migration at the same moment",
            next_step="The task tries again by itself.",
            migration=known.id,
            server=known.server,
        )
    _append(tx, known, action, at, by=by, details=story)
    return get(tx, known.id)


def _append(tx: Tx, known: Migration, action: str, at: datetime, *, by: str = "", details: Mapping[str, Any]) -> None:
    events.append(
        tx,
        at=at,
        actor=by or str(known.run),
        action=f"migration.{action}",
        object_kind="migration",
        object_id=known.id,
        run=known.run,
        details=details,
    )


def _change(
    tx: Tx,
    id: str,
    action: str,
    *,
    clock: Clock,
    by: str = "",
    to: MigrationState | None = None,
    details: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Migration:
    known = get(tx, id, lock=True)
    return apply(tx, known, action, at=clock.now(), by=by, to=to, details=details, **columns)


def _end(tx: Tx, id: str, state: MigrationState, why: str, clock: Clock) -> Migration:
    known = get(tx, id, lock=True)
    if known.state.terminal:
        return known
    return apply(tx, known, str(state), at=clock.now(), to=state, error=why, phase="", details={"error": why})


def _all(tx: Tx, query: sa.Select[Any]) -> tuple[Migration, ...]:
    return tuple(Migration(**row._asdict()) for row in tx.execute(query))


def _of_run(run: DagRun) -> sa.ColumnElement[bool]:
    return (migration.c.dag_id == run.dag_id) & (migration.c.dag_run_id == run.dag_run_id)
