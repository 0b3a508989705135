"""Runs of replication jobs (SMS-08): reading, and writing what happens on the way.

Every change has its line in the audit trail, and needs the lock of the run's wave
(:func:`wavelift.ledger.jobs.lock_name`).
Whether a run may start is decided in :mod:`wavelift.services.replication.admission`; how it ends, in
:mod:`wavelift.services.replication`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.run import Clock
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.jobs import lock_name
from wavelift.ledger.records import ROWS_A_PAGE, DagRun, Page
from wavelift.ledger.replication_records import AmiState, ReplicationRun, SupersededDisk
from wavelift.ledger.replication_tables import replication_run
from wavelift.ledger.spine import Progress, ServerRuns, Words, containing, matching, of_run
from wavelift.rules.replication import OPEN, RunState, RunType, require_run_way

_MOST_FAILURES: Final = 100
"""As many as ``pause_after_failures`` may ask for."""
MOST_UNFINISHED: Final = 20
"""More failures in a row than this are of no interest: AWS keeps what they left for two days."""


class _Runs(ServerRuns[ReplicationRun]):
    """A change needs the lock of the run's wave."""

    prefix = "run-"
    step = "status"
    begun = "requested_at"

    def held(self, tx: Tx, id: str) -> ReplicationRun:
        known = self.get(tx, id)
        self._require_lock(tx, known)
        return known

    def _require_lock(self, tx: Tx, known: ReplicationRun) -> None:
        require_lock(tx, lock_name(known.wave))

    def _require_way(self, known: ReplicationRun, to: RunState) -> None:
        require_run_way(known.state, to, run=known.id)

    def _arrival(self, known: ReplicationRun, to: RunState, at: datetime) -> Mapping[str, Any]:
        found = super()._arrival(known, to, at)
        if not to.terminal or known.started_at is None:
            return found
        return {**found, "duration_s": max(0.0, (at - known.started_at).total_seconds())}


_rows = _Runs(
    replication_run,
    ReplicationRun,
    Words(kind="replication_run", noun="replication run", key="run", listing="the list of replication runs"),
)
run_id = _rows.id_of
find = _rows.find
get = _rows.get
apply = _rows.apply
end = _rows.end
open_snapshots = _rows.open_snapshots
record_intent = _rows.intend_snapshot
record_snapshot_removed = _rows.snapshot_removed
request_cancel = _rows.request_cancel


# Reading


def of_dag_run(tx: Tx, run: DagRun) -> tuple[ReplicationRun, ...]:
    """All replication runs of one DAG run, by server: what the report tells of."""
    return _rows.all(tx, of_run(replication_run, run), order=(replication_run.c.server,))


def current_runs(tx: Tx, job_ids: Collection[str]) -> dict[str, ReplicationRun]:
    """Job id → its run that is reserved or active, for those that have one."""
    return {run.job_id: run for run in _open(tx, replication_run.c.job_id.in_(job_ids))}


def served_instants(tx: Tx, job_ids: Collection[str]) -> dict[str, datetime]:
    """Job id → the newest of its scheduled instants that has a run, whatever became of it."""
    columns = replication_run.c
    return _newest(tx, columns.job_id.in_(job_ids), columns.scheduled_for.is_not(None))


def unfinished_before(tx: Tx, known: ReplicationRun) -> tuple[ReplicationRun, ...]:
    """The job's runs that failed before ``known`` and after the recorded run before it, newest first: one of them may
    have left a seed that ``known`` goes on with. A cancelled or a quarantined run leaves none."""
    columns = replication_run.c
    others = (columns.job_id == known.job_id) & (columns.id != known.id)
    earlier = columns.requested_at < known.requested_at
    recorded = sa.select(sa.func.max(columns.requested_at, type_=columns.requested_at.type)).where(
        others, earlier, columns.recorded_at.is_not(None)
    )
    failed = (columns.state == RunState.FAILED) & columns.recorded_at.is_(None)
    tried = columns.started_at.is_not(None) & (columns.quarantine == "")
    newest = (columns.requested_at.desc(), columns.id)
    since = tx.execute(recorded).scalar()
    found = _rows.all(tx, others, earlier, failed, tried, order=newest, limit=MOST_UNFINISHED)
    return tuple(run for run in found if since is None or run.requested_at > since)


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
        equal = {"job_id": self.job_id, "wave": self.wave, "server": self.server}
        among = {"state": self.states, "type": self.types, "wave": self.waves}
        found = matching(replication_run, equal, among)
        if self.run is not None:
            found.append(of_run(replication_run, self.run))
        if self.started:
            found.append(replication_run.c.started_at.is_not(None))
        if self.search:
            names = ("id", "job_id", "server", "wave", "status", "ami_id")
            found.append(containing(replication_run, self.search, names))
        return found


def list_runs(
    tx: Tx, which: RunFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[ReplicationRun]:
    """One page of runs, newest request first."""
    newest = (replication_run.c.requested_at.desc(), replication_run.c.id)
    return _rows.page(tx, (which or RunFilter()).conditions(), order=newest, limit=limit, offset=offset)


# Writing: what happens on the way


def record_progress(tx: Tx, id: str, progress: Progress, *, clock: Clock) -> None:
    """Tell how far the present step is, in percent and bytes. A run that has ended keeps its last words."""
    active = (replication_run.c.id == id) & (replication_run.c.state == RunState.ACTIVE)
    _rows.progress(tx, active, progress, clock=clock)


def record_import_progress(tx: Tx, progress: Mapping[str, tuple[str, int]], *, clock: Clock) -> None:
    """Tell how far running conversions are: run hash → phase and percent. Those of no run of ours are left out."""
    for run, (phase, percent) in progress.items():
        record_progress(tx, f"{_rows.prefix}{run}", Progress(f"Converting: {phase}", percent), clock=clock)


# For admission and the end of a run


def open_of_wave(tx: Tx, wave: str) -> tuple[ReplicationRun, ...]:
    """Runs of a wave that are reserved or active."""
    return _open(tx, replication_run.c.wave == wave)


def open_of_job(tx: Tx, job_id: str) -> tuple[ReplicationRun, ...]:
    """The run of a job that is reserved or active: one at most."""
    return _open(tx, replication_run.c.job_id == job_id)


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
    return _newest(tx, replication_run.c.wave == wave, replication_run.c.scheduled_for >= since)


def available_amis(tx: Tx, job_id: str) -> tuple[ReplicationRun, ...]:
    """Runs of a job whose AMIs are registered, newest first."""
    columns = replication_run.c
    newest = (columns.finished_at.desc(), columns.id)
    return _rows.all(tx, columns.job_id == job_id, columns.ami_state == AmiState.AVAILABLE, order=newest)


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
    """Write a new run."""
    made = _rows.begin(tx, at=at, run=run, run_key=run_key, requested_by=by, **columns)
    details = {"job": made.job_id, "server": made.server, "type": made.type, "to": made.state}
    if made.rule:
        details |= {"rule": made.rule, "reason": made.status}
    _rows.tell(tx, made, str(made.state), at=at, by=by, details=details)
    return made


def _open(tx: Tx, where: sa.ColumnElement[bool]) -> tuple[ReplicationRun, ...]:
    return _rows.all(tx, where, replication_run.c.state.in_(OPEN))


def _newest(tx: Tx, *where: sa.ColumnElement[bool]) -> dict[str, datetime]:
    """Job id → the newest instant of its runs that meet the conditions."""
    columns = replication_run.c
    newest = sa.func.max(columns.scheduled_for, type_=columns.scheduled_for.type).label("newest")
    query = sa.select(columns.job_id, newest).where(*where).group_by(columns.job_id)
    return {row.job_id: row.newest for row in tx.execute(query)}
