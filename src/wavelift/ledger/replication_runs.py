"""Runs of replication jobs (SMS-08).

Every change needs the lock of the run's wave (:func:`wavelift.ledger.jobs.lock_name`) and writes an event to the audit
trail. :mod:`wavelift.services.replication` decides whether a run may start and how it ends.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.run import Clock, DagRun
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.jobs import lock_name
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.replication_records import AmiState, ReplicationRun, SupersededDisk
from wavelift.ledger.replication_tables import replication_run
from wavelift.ledger.spine import Progress, RunningImport, ServerRuns, Words, containing, matching, of_run
from wavelift.rules.replication import OPEN, RunState, RunType, require_run_way

_MOST_FAILURES: Final = 100
"""The highest value of ``pause_after_failures``."""
MOST_UNFINISHED: Final = 20
"""No more failed runs than this are searched. AWS keeps unfinished EBS snapshots for two days."""


class _Runs(ServerRuns[ReplicationRun]):
    """A change needs the lock of the run's wave."""

    step = "status"
    begun = "requested_at"
    started = "started_at"

    def held(self, tx: Tx, id: str) -> ReplicationRun:
        known = self.get(tx, id)
        require_lock(tx, *self.locks(known))
        return known

    def locks(self, known: ReplicationRun) -> tuple[str, ...]:
        return (lock_name(known.wave),)

    def count_active(self, tx: Tx, connector: str) -> int:
        """None: a run has a job, and the job keeps the connector in use between its runs too."""
        return 0

    def record_import_progress(self, tx: Tx, imports: Collection[RunningImport], *, clock: Clock) -> None:
        """The import has the run's tag."""
        for each in imports:
            if each.run:
                progress = Progress(f"Converting: {each.phase}", each.percent)
                record_progress(tx, self.id_of_hash(each.run), progress, clock=clock)

    def _require_way(self, known: ReplicationRun, to: RunState) -> None:
        require_run_way(known.state, to, run=known.id)

    def _arrival(self, known: ReplicationRun, to: RunState, at: datetime) -> Mapping[str, Any]:
        found = super()._arrival(known, to, at)
        if not to.terminal or known.started_at is None:
            return found
        return {**found, "duration_s": max(0.0, (at - known.started_at).total_seconds())}


ROWS = _Runs(
    replication_run,
    ReplicationRun,
    Words(kind="replication_run", noun="replication run", key="run", listing="the list of replication runs"),
)
run_id = ROWS.id_of
find = ROWS.find
get = ROWS.get
apply = ROWS.apply
end = ROWS.end
record_intent = ROWS.intend_snapshot
record_snapshot_removed = ROWS.snapshot_removed
request_cancel = ROWS.request_cancel


# Reading


def of_dag_run(tx: Tx, run: DagRun) -> tuple[ReplicationRun, ...]:
    """All replication runs of one DAG run, sorted by server."""
    return ROWS.all(tx, of_run(replication_run, run), order=(replication_run.c.server,))


def current_runs(tx: Tx, job_ids: Collection[str]) -> dict[str, ReplicationRun]:
    """Map each job id to its reserved or active run. Jobs without one are left out."""
    return {run.job_id: run for run in _open(tx, replication_run.c.job_id.in_(job_ids))}


def served_instants(tx: Tx, job_ids: Collection[str]) -> dict[str, datetime]:
    """Map each job id to its newest scheduled time that has a run, in any state."""
    columns = replication_run.c
    return _newest(tx, columns.job_id.in_(job_ids), columns.scheduled_for.is_not(None))


def unfinished_before(tx: Tx, known: ReplicationRun) -> tuple[ReplicationRun, ...]:
    """The job's failed runs between ``known`` and the recorded run before it, newest first.

    One of them may have left an unfinished full copy that ``known`` continues. Cancelled and quarantined runs do not.
    """
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
    found = ROWS.all(tx, others, earlier, failed, tried, order=newest, limit=MOST_UNFINISHED)
    return tuple(run for run in found if since is None or run.requested_at > since)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs to list. A field that is not set does not restrict the list."""

    job_id: str | None = None
    wave: str | None = None
    server: str | None = None
    states: Collection[RunState] | None = None
    types: Collection[RunType] | None = None
    run: DagRun | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. If it is empty, the list is empty."""
    started: bool = False
    """True: only runs that began. They may have created objects in vSphere and AWS."""
    search: str = ""
    """Part of an id, job id, server, wave, status or AMI id. Case does not matter."""

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
    return ROWS.page(tx, (which or RunFilter()).conditions(), order=newest, limit=limit, offset=offset)


# Progress


def record_progress(tx: Tx, id: str, progress: Progress, *, clock: Clock) -> None:
    """Store the progress of the current step. This writes no event. A run that has ended does not change."""
    active = (replication_run.c.id == id) & (replication_run.c.state == RunState.ACTIVE)
    ROWS.progress(tx, active, progress, clock=clock)


# For admission and the end of a run


def dag_runs_of(tx: Tx, *, jobs: Collection[str] = (), ids: Collection[str] = ()) -> set[DagRun]:
    """The DAG runs of all runs of these jobs, and of the runs with these ids."""
    columns = (replication_run.c.dag_id, replication_run.c.dag_run_id)
    query = sa.select(*columns).where(replication_run.c.job_id.in_(jobs) | replication_run.c.id.in_(ids)).distinct()
    return {DagRun(dag_id, dag_run_id) for dag_id, dag_run_id in tx.execute(query)}


def open_of_wave(tx: Tx, wave: str) -> tuple[ReplicationRun, ...]:
    """Runs of a wave that are reserved or active."""
    return _open(tx, replication_run.c.wave == wave)


def open_of_job(tx: Tx, job_id: str) -> tuple[ReplicationRun, ...]:
    """The runs of a job that are reserved or active: at most one."""
    return _open(tx, replication_run.c.job_id == job_id)


def grants_since(tx: Tx, wave: str, since: datetime) -> dict[str, tuple[datetime, ...]]:
    """Map each job id to the times after ``since`` at which its counted runs were granted."""
    columns = replication_run.c
    query = sa.select(columns.job_id, columns.counted_at).where(columns.wave == wave, columns.counted_at > since)
    found: dict[str, tuple[datetime, ...]] = {}
    for job_id, at in tx.execute(query):
        found[job_id] = (*found.get(job_id, ()), at)
    return found


def newest_instants(tx: Tx, wave: str, since: datetime) -> dict[str, datetime]:
    """Map each job id to its newest scheduled time, not before ``since``, that has a run."""
    return _newest(tx, replication_run.c.wave == wave, replication_run.c.scheduled_for >= since)


def available_amis(tx: Tx, job_id: str) -> tuple[ReplicationRun, ...]:
    """Runs of a job whose AMIs are registered, newest first."""
    columns = replication_run.c
    newest = (columns.finished_at.desc(), columns.id)
    return ROWS.all(tx, columns.job_id == job_id, columns.ami_state == AmiState.AVAILABLE, order=newest)


def superseded_of(tx: Tx, job_id: str) -> tuple[SupersededDisk, ...]:
    """The EBS snapshots that the runs of a job replaced."""
    mine = (replication_run.c.job_id == job_id) & replication_run.c.superseded.is_not(None)
    found = tx.execute(sa.select(replication_run.c.superseded).where(mine)).scalars()
    return tuple(SupersededDisk.load(disk) for disks in found for disk in disks)


def failures_in_a_row(tx: Tx, job_id: str, since: datetime) -> int:
    """The number of the job's runs that failed since the last one that completed, and since ``since``.

    A failed run of a cutover is not counted: somebody watches it, and the schedule must not stop for it.
    """
    columns = replication_run.c
    query = (
        sa.select(columns.state)
        .where(
            columns.job_id == job_id,
            columns.state.in_((RunState.FAILED, RunState.COMPLETED)),
            columns.finished_at >= since,
            (columns.state == RunState.COMPLETED) | (columns.type != RunType.CUTOVER),
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
    """Create a run."""
    made = ROWS.begin(tx, at=at, run=run, run_key=run_key, requested_by=by, **columns)
    details = {"job": made.job_id, "server": made.server, "type": made.type, "to": made.state}
    if made.rule:
        details |= {"rule": made.rule, "reason": made.status}
    ROWS.tell(tx, made, str(made.state), at=at, by=by or run, details=details)
    return made


def _open(tx: Tx, where: sa.ColumnElement[bool]) -> tuple[ReplicationRun, ...]:
    return ROWS.all(tx, where, replication_run.c.state.in_(OPEN))


def _newest(tx: Tx, *where: sa.ColumnElement[bool]) -> dict[str, datetime]:
    """Map each job id to the newest scheduled time of its runs for which all conditions hold."""
    columns = replication_run.c
    newest = sa.func.max(columns.scheduled_for, type_=columns.scheduled_for.type).label("newest")
    query = sa.select(columns.job_id, newest).where(*where).group_by(columns.job_id)
    return {row.job_id: row.newest for row in tx.execute(query)}
