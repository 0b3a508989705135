"""Replication jobs, and the one row per wave that the timetable reads (SMS-03, SMS-04).

Every change has its line in the audit trail, needs the lock of the job's wave, and writes the wave's schedule anew.
Whether it may be made is decided in :mod:`wavelift.services.replication`, the only writer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wavelift.base.names import run_hash
from wavelift.ledger.catalog_records import CatalogServer, ServerJob
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import ROWS_A_PAGE, DagRun, Page
from wavelift.ledger.replication_records import ReplicationJob, WaveSchedule
from wavelift.ledger.replication_tables import replication_job as job
from wavelift.ledger.replication_tables import wave_schedule
from wavelift.ledger.spine import Rows, Words, containing, matching
from wavelift.rules.replication import JobState, require_job_way
from wavelift.rules.schedule import Schedule


def lock_name(wave: str) -> str:
    """The lock under which jobs and runs of one wave change."""
    return f"replication/{wave}"


class _Jobs(Rows[ReplicationJob]):
    def _require_lock(self, tx: Tx, known: ReplicationJob) -> None:
        require_lock(tx, lock_name(known.wave))

    def _require_way(self, known: ReplicationJob, to: JobState) -> None:
        require_job_way(known.state, to, job=known.id)


_rows = _Jobs(
    job,
    ReplicationJob,
    Words(
        kind="replication_job",
        noun="replication job",
        key="job",
        listing="the list of replication jobs",
        busy="Try again.",
    ),
)
find = _rows.find
get = _rows.get
change = _rows.apply
"""Change one of many jobs. The caller calls :func:`reschedule` once after them."""


# Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list; what is left out does not narrow, except that deleted ones are shown only by ``states``."""

    wave: str | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. An empty collection lists nothing."""
    states: Collection[JobState] | None = None
    search: str = ""
    """Part of an id, server, wave, description or AMI id; case does not matter."""

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found = matching(job, {"wave": self.wave}, {"wave": self.waves, "state": self.states})
        if self.states is None:
            found.append(job.c.deleted_at.is_(None))
        if self.search:
            found.append(containing(job, self.search, ("id", "server", "wave", "description", "latest_ami_id")))
        return found


def list_jobs(
    tx: Tx, which: JobFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[ReplicationJob]:
    """One page of jobs by wave and server."""
    order = (job.c.wave, job.c.server, job.c.id)
    return _rows.page(tx, (which or JobFilter()).conditions(), order=order, limit=limit, offset=offset)


def jobs_of_servers(tx: Tx, servers: Sequence[CatalogServer]) -> dict[str, ServerJob]:
    """Catalogue id → replication job, for the rows of one page (SMS-02): the one that stands, else the newest deleted.

    A job belongs to a server of a connection by instance UUID or managed object id, never by name.
    """
    ids = {(server.connection, server.identity): server.id for server in servers}
    mine = job.c.source.in_({source for source, _ in ids}) & job.c.identity.in_({identity for _, identity in ids})
    found = _rows.all(tx, mine, order=(job.c.deleted_at.is_(None), job.c.created_at))
    return {
        ids[each.source, each.identity]: ServerJob(
            id=each.id, state=str(each.state), terminated=each.state is JobState.DELETED
        )
        for each in found
        if (each.source, each.identity) in ids
    }


def wave_schedule_of(tx: Tx, wave: str) -> WaveSchedule | None:
    """The wave's row, None when it never had a job."""
    row = tx.execute(sa.select(wave_schedule).where(wave_schedule.c.wave == wave)).one_or_none()
    return WaveSchedule(**row._asdict()) if row else None


def read_schedules(tx: Tx, wave: str) -> dict[str, Schedule]:
    """Server → schedule of the wave's active jobs. Reads exactly one row: for the timetable."""
    known = wave_schedule_of(tx, wave)
    return {} if known is None else {server: Schedule.load(value) for server, value in known.schedules.items()}


def find_standing(tx: Tx, wave: str, server: str) -> ReplicationJob | None:
    """The job of a server that isn't deleted."""
    found = _rows.all(tx, job.c.wave == wave, job.c.server == server, job.c.deleted_at.is_(None))
    return found[0] if found else None


def standing(tx: Tx, wave: str) -> tuple[ReplicationJob, ...]:
    """Jobs of a wave that aren't deleted, by server."""
    return _rows.all(tx, job.c.wave == wave, job.c.deleted_at.is_(None), order=(job.c.server,))


def standing_by_wave(tx: Tx) -> dict[str, int]:
    """Wave → how many of its jobs aren't deleted, for waves that have one."""
    query = sa.select(job.c.wave, sa.func.count()).where(job.c.deleted_at.is_(None)).group_by(job.c.wave)
    return {row[0]: row[1] for row in tx.execute(query)}


# Writing


def insert(
    tx: Tx, *, at: datetime, by: str, wave: str, server: str, reschedule_wave: bool = True, **columns: Any
) -> ReplicationJob:
    """Write a new job as active.

    :param reschedule_wave: False when the caller makes many jobs and calls :func:`reschedule` once after them.
    """
    earlier = sa.select(sa.func.count()).select_from(job).where(job.c.wave == wave, job.c.server == server)
    made = _rows.insert(
        tx,
        id=f"job-{run_hash(f'{wave}/{server}/{tx.execute(earlier).scalar_one()}')}",
        wave=wave,
        server=server,
        state=JobState.ACTIVE,
        failures_since=at,
        created_by=by,
        created_at=at,
        updated_at=at,
        **columns,
    )
    _rows.tell(tx, made, "created", at=at, by=by, details={"server": server, "schedule": made.schedule.dump()})
    if reschedule_wave:
        reschedule(tx, wave, at=at)
    return made


def apply(
    tx: Tx,
    known: ReplicationJob,
    action: str,
    *,
    at: datetime,
    by: str | DagRun,
    details: Mapping[str, Any] | None = None,
    **columns: Any,
) -> ReplicationJob:
    """Change a job, tell the audit trail, and write the wave's schedule anew."""
    changed = change(tx, known, action, at=at, by=by, details=details, **columns)
    reschedule(tx, known.wave, at=at)
    return changed


def reschedule(tx: Tx, wave: str, *, at: datetime) -> None:
    """Write the wave's row from its active jobs."""
    schedules = {each.server: each.schedule.dump() for each in standing(tx, wave) if each.state is JobState.ACTIVE}
    mine = wave_schedule.c.wave == wave
    values = {"schedules": schedules, "updated_at": at}
    change = wave_schedule.update().where(mine).values(**values, version=wave_schedule.c.version + 1)
    if tx.execute(change).rowcount == 0:
        tx.execute(wave_schedule.insert().values(wave=wave, **values))
