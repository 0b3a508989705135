"""Runs of replication jobs (SMS-08): reading, and writing what happens on the way.

Every change is one transaction with its line in the audit trail. Whether a run may start is decided in
:mod:`wavelift.services.replication.admission`; how it ends, in :mod:`wavelift.services.replication`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.errors import BusyError, NotFoundError
from wavelift.base.names import run_hash
from wavelift.base.run import Clock, DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.jobs import ROWS_A_PAGE, lock_name
from wavelift.ledger.records import Page, SnapshotState
from wavelift.ledger.replication_records import AmiState, ReplicationRun, SupersededDisk
from wavelift.ledger.replication_tables import replication_run
from wavelift.rules.replication import OPEN, RunState, RunType, require_run_way


def run_id(run_key: str) -> str:
    """The id that a person sees, known before the row is written."""
    return f"run-{run_hash(run_key)}"


# Reading


def find(tx: Tx, id: str) -> ReplicationRun | None:
    """One run, None when there is none."""
    row = tx.execute(sa.select(replication_run).where(replication_run.c.id == id)).one_or_none()
    return ReplicationRun(**row._asdict()) if row else None


def get(tx: Tx, id: str) -> ReplicationRun:
    """:raises NotFoundError: when there is none."""
    known = find(tx, id)
    if known is None:
        raise NotFoundError(
            "The ledger knows no such replication run", next_step="See the list of replication runs.", run=id
        )
    return known


def current_runs(tx: Tx, job_ids: Collection[str]) -> dict[str, ReplicationRun]:
    """Job id → its run that is reserved or active, for those that have one."""
    query = sa.select(replication_run).where(replication_run.c.job_id.in_(job_ids), replication_run.c.state.in_(OPEN))
    return {run.job_id: run for run in _all(tx, query)}


def served_instants(tx: Tx, job_ids: Collection[str]) -> dict[str, datetime]:
    """Job id → the newest of its scheduled instants that has a run, whatever became of it."""
    columns = replication_run.c
    newest = sa.func.max(columns.scheduled_for, type_=columns.scheduled_for.type).label("newest")
    query = sa.select(columns.job_id, newest).where(columns.job_id.in_(job_ids), columns.scheduled_for.is_not(None))
    return {row.job_id: row.newest for row in tx.execute(query.group_by(columns.job_id))}


def open_snapshots(tx: Tx) -> tuple[ReplicationRun, ...]:
    """Runs whose vSphere snapshot may stand: intended, and not seen to be gone (invariant 4)."""
    query = sa.select(replication_run).where(replication_run.c.snapshot_state == SnapshotState.INTENDED)
    return _all(tx, query.order_by(replication_run.c.requested_at, replication_run.c.id))


_MOST_FAILURES: Final = 100
"""As many as ``pause_after_failures`` may ask for."""
MOST_UNFINISHED: Final = 20
"""More failures in a row than this are of no interest: AWS keeps what they left for two days."""


def unfinished_before(tx: Tx, known: ReplicationRun) -> tuple[ReplicationRun, ...]:
    """The job's runs that failed before ``known`` and after the recorded run before it, newest first: one of them may
    have left a seed that ``known`` goes on with. A cancelled or a quarantined run leaves none."""
    columns = replication_run.c
    others = (columns.job_id == known.job_id) & (columns.id != known.id)
    earlier = columns.requested_at < known.requested_at
    recorded = sa.select(sa.func.max(columns.requested_at, type_=columns.requested_at.type)).where(
        others, earlier, columns.recorded_at.is_not(None)
    )
    failed = (
        sa.select(replication_run)
        .where(others, earlier, columns.state == RunState.FAILED, columns.recorded_at.is_(None))
        .where(columns.started_at.is_not(None), columns.quarantine == "")
        .order_by(columns.requested_at.desc(), columns.id)
        .limit(MOST_UNFINISHED)
    )
    since = tx.execute(recorded).scalar()
    return tuple(run for run in _all(tx, failed) if since is None or run.requested_at > since)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list; what is left out does not narrow."""

    job_id: str | None = None
    wave: str | None = None
    server: str | None = None
    states: Collection[RunState] | None = None
    types: Collection[RunType] | None = None
    run: DagRun | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. An empty collection lists nothing."""
    started: bool = False
    """Only those that began: they may have made something outside."""
    search: str = ""
    """Part of an id, job id, server, wave, status or AMI id; case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        columns = replication_run.c
        equal = {columns.job_id: self.job_id, columns.wave: self.wave, columns.server: self.server}
        among = {columns.state: self.states, columns.type: self.types, columns.wave: self.waves}
        found = [column == value for column, value in equal.items() if value is not None]
        found += [column.in_(values) for column, values in among.items() if values is not None]
        if self.run is not None:
            found.append(_of_dag_run(self.run))
        if self.started:
            found.append(columns.started_at.is_not(None))
        if self.search:
            searched = (columns.id, columns.job_id, columns.server, columns.wave, columns.status, columns.ami_id)
            found.append(sa.or_(*(column.icontains(self.search, autoescape=True) for column in searched)))
        return found


def list_runs(
    tx: Tx, which: RunFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[ReplicationRun]:
    """One page of runs, newest request first."""
    conditions = (which or RunFilter()).conditions()
    rows = (
        sa.select(replication_run)
        .where(*conditions)
        .order_by(replication_run.c.requested_at.desc(), replication_run.c.id)
        .limit(limit)
        .offset(offset)
    )
    total = tx.execute(sa.select(sa.func.count()).select_from(replication_run).where(*conditions)).scalar_one()
    return Page(items=_all(tx, rows), total=total, limit=limit, offset=offset)


# Writing: what happens on the way


def record_progress(
    tx: Tx,
    id: str,
    *,
    status: str,
    progress_pct: int,
    bytes_done: int | None = None,
    bytes_total: int | None = None,
    clock: Clock,
) -> None:
    """Tell how far the present step is, in percent and bytes. No line in the audit trail: there would be thousands.

    A run that has ended keeps its last words.
    """
    require_lock(tx)
    values: dict[str, Any] = {
        "status": status,
        "progress_pct": max(0, min(100, progress_pct)),
        "updated_at": clock.now(),
    }
    if bytes_done is not None:
        values["bytes_done"] = bytes_done
    if bytes_total is not None:
        values["bytes_total"] = bytes_total
    running = (replication_run.c.id == id) & (replication_run.c.state == RunState.ACTIVE)
    tx.execute(replication_run.update().where(running).values(**values))


def record_import_progress(tx: Tx, progress: Mapping[str, tuple[str, int]], *, clock: Clock) -> None:
    """Tell how far running conversions are: run hash → phase and percent. Those of no run of ours are left out."""
    require_lock(tx)
    for run, (phase, percent) in progress.items():
        values = {"status": f"Converting: {phase}", "progress_pct": max(0, min(100, percent))}
        active = (replication_run.c.id == f"run-{run}") & (replication_run.c.state == RunState.ACTIVE)
        tx.execute(replication_run.update().where(active).values(**values, updated_at=clock.now()))


def record_intent(tx: Tx, id: str, *, name: str, vm: str, clock: Clock) -> ReplicationRun:
    """Write down the snapshot's name before it is taken, so that it is found whatever dies in between (invariant 4).

    :param vm: managed object id.
    """
    return _note(
        tx,
        id,
        "snapshot_intended",
        clock=clock,
        snapshot_state=SnapshotState.INTENDED,
        snapshot_name=name,
        snapshot_vm=vm,
    )


def record_snapshot_removed(tx: Tx, id: str, *, by: str = "", clock: Clock) -> ReplicationRun:
    """vCenter was seen without the snapshot.

    :param by: who removed it, when it was not the run itself (housekeeping).
    """
    return _note(tx, id, "snapshot_removed", clock=clock, by=by, snapshot_state=SnapshotState.REMOVED)


# For admission and the end of a run


def of_dag_run(tx: Tx, run: DagRun) -> tuple[ReplicationRun, ...]:
    """All replication runs of one DAG run, by server."""
    return _all(tx, sa.select(replication_run).where(_of_dag_run(run)).order_by(replication_run.c.server))


def open_of_wave(tx: Tx, wave: str) -> tuple[ReplicationRun, ...]:
    """Runs of a wave that are reserved or active."""
    mine = (replication_run.c.wave == wave) & replication_run.c.state.in_(OPEN)
    return _all(tx, sa.select(replication_run).where(mine))


def open_of_job(tx: Tx, job_id: str) -> tuple[ReplicationRun, ...]:
    """The run of a job that is reserved or active: one at most."""
    mine = (replication_run.c.job_id == job_id) & replication_run.c.state.in_(OPEN)
    return _all(tx, sa.select(replication_run).where(mine))


def grants_since(tx: Tx, wave: str, since: datetime) -> dict[str, tuple[datetime, ...]]:
    """Job id → when its counted runs were granted, of those after ``since``."""
    columns = replication_run.c
    query = sa.select(columns.job_id, columns.counted_at).where(columns.wave == wave, columns.counted_at > since)
    found: dict[str, tuple[datetime, ...]] = {}
    for job_id, at in tx.execute(query):
        found[job_id] = (*found.get(job_id, ()), at)
    return found


def newest_instants(tx: Tx, wave: str, since: datetime) -> dict[str, datetime]:
    """Job id → its newest instant that has a run, of those not before ``since``."""
    columns = replication_run.c
    newest = sa.func.max(columns.scheduled_for, type_=columns.scheduled_for.type).label("newest")
    query = sa.select(columns.job_id, newest).where(columns.wave == wave, columns.scheduled_for >= since)
    return {row.job_id: row.newest for row in tx.execute(query.group_by(columns.job_id))}


def available_amis(tx: Tx, job_id: str) -> tuple[ReplicationRun, ...]:
    """Runs of a job whose AMIs are registered, newest first."""
    mine = (replication_run.c.job_id == job_id) & (replication_run.c.ami_state == AmiState.AVAILABLE)
    query = sa.select(replication_run).where(mine)
    return _all(tx, query.order_by(replication_run.c.finished_at.desc(), replication_run.c.id))


def superseded_of(tx: Tx, job_id: str) -> tuple[SupersededDisk, ...]:
    """The EBS snapshots that the runs of a job replaced."""
    mine = (replication_run.c.job_id == job_id) & replication_run.c.superseded.is_not(None)
    found = tx.execute(sa.select(replication_run.c.superseded).where(mine)).scalars()
    return tuple(SupersededDisk.load(disk) for disks in found for disk in disks)


def failures_in_a_row(tx: Tx, job_id: str, since: datetime) -> int:
    """How many of the job's last runs failed, counted back to the last one that completed, or to ``since``."""
    columns = replication_run.c
    query = (
        sa.select(columns.state)
        .where(
            columns.job_id == job_id,
            columns.state.in_((RunState.FAILED, RunState.COMPLETED)),
            columns.finished_at >= since,
        )
        .order_by(columns.finished_at.desc(), columns.version.desc())
        .limit(_MOST_FAILURES)
    )
    failures = 0
    for state in tx.execute(query).scalars():
        if state is not RunState.FAILED:
            break
        failures += 1
    return failures


def insert(tx: Tx, *, at: datetime, by: str, run: DagRun, run_key: str, **columns: Any) -> ReplicationRun:
    """Write a new run. The caller's transaction holds the wave's lock."""
    values = {
        "id": run_id(run_key),
        "run_key": run_key,
        "dag_id": run.dag_id,
        "dag_run_id": run.dag_run_id,
        "requested_by": by,
        "requested_at": at,
        "updated_at": at,
    }
    new = replication_run.insert().values(**values, **columns).returning(replication_run)
    made = ReplicationRun(**tx.execute(new).one()._asdict())
    details = {"job": made.job_id, "server": made.server, "type": made.type, "to": made.state}
    if made.rule:
        details |= {"rule": made.rule, "reason": made.status}
    _append(tx, made, str(made.state), at, by=by, details=details)
    return made


def apply(
    tx: Tx,
    known: ReplicationRun,
    action: str,
    *,
    at: datetime,
    by: str = "",
    to: RunState | None = None,
    details: Mapping[str, Any] | None = None,
    **columns: Any,
) -> ReplicationRun:
    """Change a run and tell the audit trail."""
    story = dict(details or {})
    if to is not None:
        require_run_way(known.state, to, run=known.id)
        columns |= {"state": to, "finished_at": at if to.terminal else None}
        if to.terminal and known.started_at is not None:
            columns["duration_s"] = max(0.0, (at - known.started_at).total_seconds())
        story |= {"from": known.state, "to": to}
    same = (replication_run.c.id == known.id) & (replication_run.c.version == known.version)
    change = replication_run.update().where(same).values(updated_at=at, version=known.version + 1, **columns)
    row = tx.execute(change.returning(replication_run)).one_or_none()
    if row is None:
        raise BusyError(
            "Another process changed this replication run at the same moment",
            next_step="The task tries again by itself.",
            run=known.id,
            server=known.server,
        )
    changed = ReplicationRun(**row._asdict())
    _append(tx, changed, action, at, by=by, details=story)
    return changed


def _append(tx: Tx, known: ReplicationRun, action: str, at: datetime, *, by: str, details: Mapping[str, Any]) -> None:
    events.append(
        tx,
        at=at,
        actor=by or str(known.run),
        action=f"replication_run.{action}",
        object_kind="replication_run",
        object_id=known.id,
        run=known.run,
        details=details,
    )


def _note(tx: Tx, id: str, action: str, *, clock: Clock, by: str = "", **columns: Any) -> ReplicationRun:
    known = get(tx, id)
    require_lock(tx, lock_name(known.wave))
    return apply(tx, known, action, at=clock.now(), by=by, **columns)


def _all(tx: Tx, query: sa.Select[Any]) -> tuple[ReplicationRun, ...]:
    return tuple(ReplicationRun(**row._asdict()) for row in tx.execute(query))


def _of_dag_run(run: DagRun) -> sa.ColumnElement[bool]:
    return (replication_run.c.dag_id == run.dag_id) & (replication_run.c.dag_run_id == run.dag_run_id)
