"""Replication jobs, and one row per wave with the schedules that the timetable reads (SMS-03, SMS-04).

Every change needs the lock of the job's wave, writes an event to the audit trail, and updates the wave's schedules.
Only :mod:`wavelift.services.replication` writes jobs; it decides what is allowed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.names import run_hash
from wavelift.base.run import DagRun
from wavelift.ledger.catalog_records import CatalogServer, ServerJob
from wavelift.ledger.database import Tx
from wavelift.ledger.records import ROWS_A_PAGE, Page
from wavelift.ledger.replication_records import ReplicationJob, WaveSchedule
from wavelift.ledger.replication_tables import replication_job as job
from wavelift.ledger.replication_tables import wave_schedule
from wavelift.ledger.spine import Rows, Words, containing, matching
from wavelift.rules.replication import JobState, require_job_way
from wavelift.rules.schedule import Schedule

PREFIX: Final = "job-"
"""The prefix of ids."""


def lock_name(wave: str) -> str:
    """The lock for changes of the jobs and runs of one wave."""
    return f"replication/{wave}"


class _Jobs(Rows[ReplicationJob]):
    def locks(self, known: ReplicationJob) -> tuple[str, ...]:
        return (lock_name(known.wave),)

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
"""Like :func:`apply`, but the caller calls :func:`reschedule` after its last change."""


# Reading


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFilter:
    """Which jobs to list. Fields that are not set do not restrict it, but deleted jobs need ``states``."""

    wave: str | None = None
    waves: Collection[str] | None = None
    """Waves that the caller may read. If it is empty, the list is empty."""
    states: Collection[JobState] | None = None
    search: str = ""
    """Part of an id, server, wave, description or AMI id. Case does not matter."""

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
    """One page of jobs, sorted by wave and server."""
    order = (job.c.wave, job.c.server, job.c.id)
    return _rows.page(tx, (which or JobFilter()).conditions(), order=order, limit=limit, offset=offset)


def jobs_of_servers(tx: Tx, servers: Sequence[CatalogServer]) -> dict[str, ServerJob]:
    """Map the catalogue ids of one page to replication jobs (SMS-02). A deleted job counts only if no other one exists.

    Jobs and servers are matched by instance UUID or managed object id, never by name.
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
    """The schedules of a wave; None if it never had a job."""
    row = tx.execute(sa.select(wave_schedule).where(wave_schedule.c.wave == wave)).one_or_none()
    return WaveSchedule(**row._asdict()) if row else None


def read_schedules(tx: Tx, wave: str) -> dict[str, Schedule]:
    """Map the servers of a wave's active jobs to their schedules. The timetable calls this; it reads one row."""
    known = wave_schedule_of(tx, wave)
    return {} if known is None else {server: Schedule.load(value) for server, value in known.schedules.items()}


def find_standing(tx: Tx, wave: str, server: str) -> ReplicationJob | None:
    """The job of a server, unless it is deleted."""
    found = _rows.all(tx, job.c.wave == wave, job.c.server == server, job.c.deleted_at.is_(None))
    return found[0] if found else None


def standing(tx: Tx, wave: str) -> tuple[ReplicationJob, ...]:
    """The jobs of a wave that are not deleted, sorted by server."""
    return _rows.all(tx, job.c.wave == wave, job.c.deleted_at.is_(None), order=(job.c.server,))


def standing_by_wave(tx: Tx) -> dict[str, int]:
    """Map each wave to the number of its jobs that are not deleted. Waves without one are left out."""
    query = sa.select(job.c.wave, sa.func.count()).where(job.c.deleted_at.is_(None)).group_by(job.c.wave)
    return {row[0]: row[1] for row in tx.execute(query)}


# Writing


def insert(tx: Tx, *, at: datetime, by: str, wave: str, server: str, **columns: Any) -> ReplicationJob:
    """Create a job in the state ACTIVE. The caller calls :func:`reschedule` after its last job."""
    earlier = sa.select(sa.func.count()).select_from(job).where(job.c.wave == wave, job.c.server == server)
    made = _rows.insert(
        tx,
        id=f"{PREFIX}{run_hash(f'{wave}/{server}/{tx.execute(earlier).scalar_one()}')}",
        wave=wave,
        server=server,
        state=JobState.ACTIVE,
        failures_since=at,
        created_by=by,
        authorised_by=by,
        created_at=at,
        updated_at=at,
        **columns,
    )
    _rows.tell(tx, made, "created", at=at, by=by, details={"server": server, "schedule": made.schedule.dump()})
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
    """Change a job, write an event, and update the wave's schedules."""
    changed = change(tx, known, action, at=at, by=by, details=details, **columns)
    reschedule(tx, known.wave, at=at)
    return changed


def reschedule(tx: Tx, wave: str, *, at: datetime) -> None:
    """Write the wave's schedules from its active jobs."""
    schedules = {each.server: each.schedule.dump() for each in standing(tx, wave) if each.state is JobState.ACTIVE}
    mine = wave_schedule.c.wave == wave
    values = {"schedules": schedules, "updated_at": at}
    change = wave_schedule.update().where(mine).values(**values, version=wave_schedule.c.version + 1)
    if tx.execute(change).rowcount == 0:
        tx.execute(wave_schedule.insert().values(wave=wave, **values))
