"""Replication jobs, and the one row per wave that the timetable reads (SMS-03, SMS-04).

A change is one transaction with its line in the audit trail and the wave's new schedule. Whether it may be made is
decided in :mod:`wavelift.services.replication`, the only writer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.errors import BusyError, NotFoundError
from wavelift.base.names import run_hash
from wavelift.base.run import DagRun
from wavelift.ledger import events
from wavelift.ledger.catalog_records import CatalogServer, ServerJob
from wavelift.ledger.database import Tx
from wavelift.ledger.records import Page
from wavelift.ledger.replication_records import ReplicationJob, WaveSchedule
from wavelift.ledger.replication_tables import replication_job as job
from wavelift.ledger.replication_tables import wave_schedule
from wavelift.rules.replication import JobState, require_job_way
from wavelift.rules.schedule import Schedule

ROWS_A_PAGE: Final = 50
"""SMS-08's default."""


def lock_name(wave: str) -> str:
    """The lock under which jobs and runs of one wave change."""
    return f"replication/{wave}"


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
        found: list[sa.ColumnElement[bool]] = [
            job.c.deleted_at.is_(None) if self.states is None else job.c.state.in_(self.states)
        ]
        if self.wave is not None:
            found.append(job.c.wave == self.wave)
        if self.waves is not None:
            found.append(job.c.wave.in_(self.waves))
        if self.search:
            columns = (job.c.id, job.c.server, job.c.wave, job.c.description, job.c.latest_ami_id)
            found.append(sa.or_(*(column.icontains(self.search, autoescape=True) for column in columns)))
        return found


def list_jobs(
    tx: Tx, which: JobFilter | None = None, *, limit: int = ROWS_A_PAGE, offset: int = 0
) -> Page[ReplicationJob]:
    """One page of jobs by wave and server."""
    conditions = (which or JobFilter()).conditions()
    rows = sa.select(job).where(*conditions).order_by(job.c.wave, job.c.server, job.c.id).limit(limit).offset(offset)
    total = tx.execute(sa.select(sa.func.count()).select_from(job).where(*conditions)).scalar_one()
    return Page(items=_all(tx, rows), total=total, limit=limit, offset=offset)


def jobs_of_servers(tx: Tx, servers: Sequence[CatalogServer]) -> dict[str, ServerJob]:
    """Catalogue id → replication job, for the rows of one page (SMS-02): the one that stands, else the newest deleted.

    A job belongs to a server of a connection by instance UUID or managed object id, never by name.
    """
    ids = {(server.connection, server.identity): server.id for server in servers}
    mine = job.c.source.in_({source for source, _ in ids}) & job.c.identity.in_({identity for _, identity in ids})
    query = sa.select(job).where(mine).order_by(job.c.deleted_at.is_(None), job.c.created_at)
    found = _all(tx, query)
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


# Within a transaction that holds the wave's lock


def find(tx: Tx, id: str, *, lock: bool = False) -> ReplicationJob | None:
    """One job, locked until the transaction ends when ``lock``."""
    query = sa.select(job).where(job.c.id == id)
    row = tx.execute(query.with_for_update() if lock else query).one_or_none()
    return ReplicationJob(**row._asdict()) if row else None


def get(tx: Tx, id: str, *, lock: bool = False) -> ReplicationJob:
    """:raises NotFoundError: when there is none; a deleted one is found."""
    known = find(tx, id, lock=lock)
    if known is None:
        raise NotFoundError(
            "The ledger knows no such replication job", next_step="See the list of replication jobs.", job=id
        )
    return known


def find_standing(tx: Tx, wave: str, server: str) -> ReplicationJob | None:
    """The job of a server that isn't deleted."""
    query = sa.select(job).where(job.c.wave == wave, job.c.server == server, job.c.deleted_at.is_(None))
    row = tx.execute(query).one_or_none()
    return ReplicationJob(**row._asdict()) if row else None


def standing(tx: Tx, wave: str) -> tuple[ReplicationJob, ...]:
    """Jobs of a wave that aren't deleted, by server."""
    return _all(tx, sa.select(job).where(job.c.wave == wave, job.c.deleted_at.is_(None)).order_by(job.c.server))


def standing_by_wave(tx: Tx) -> dict[str, int]:
    """Wave → how many of its jobs aren't deleted, for waves that have one."""
    query = sa.select(job.c.wave, sa.func.count()).where(job.c.deleted_at.is_(None)).group_by(job.c.wave)
    return {row[0]: row[1] for row in tx.execute(query)}


def insert(
    tx: Tx, *, at: datetime, by: str, wave: str, server: str, reschedule_wave: bool = True, **columns: Any
) -> ReplicationJob:
    """Write a new job as active."""
    earlier = sa.select(sa.func.count()).select_from(job).where(job.c.wave == wave, job.c.server == server)
    id = f"job-{run_hash(f'{wave}/{server}/{tx.execute(earlier).scalar_one()}')}"
    values = {
        "id": id,
        "wave": wave,
        "server": server,
        "state": JobState.ACTIVE,
        "failures_since": at,
        "created_by": by,
        "created_at": at,
        "updated_at": at,
    }
    made = ReplicationJob(**tx.execute(job.insert().values(**values, **columns).returning(job)).one()._asdict())
    _append(tx, made, "created", at, by=by, details={"server": server, "schedule": made.schedule.dump()})
    if reschedule_wave:
        reschedule(tx, wave, at=at)
    return made


def apply(
    tx: Tx,
    known: ReplicationJob,
    action: str,
    *,
    at: datetime,
    by: str,
    to: JobState | None = None,
    run: DagRun | None = None,
    details: Mapping[str, Any] | None = None,
    reschedule_wave: bool = True,
    **columns: Any,
) -> ReplicationJob:
    """Change a job, tell the audit trail, and write the wave's schedule anew.

    :param reschedule_wave: False when the caller changes many jobs and calls :func:`reschedule` once after them.
    """
    story = dict(details or {})
    if to is not None:
        require_job_way(known.state, to, job=known.id)
        columns["state"] = to
        story |= {"from": known.state, "to": to}
    same = (job.c.id == known.id) & (job.c.version == known.version)
    change = job.update().where(same).values(updated_at=at, version=known.version + 1, **columns)
    row = tx.execute(change.returning(job)).one_or_none()
    if row is None:
        raise BusyError(
            "Another process changed this replication job at the same moment",
            next_step="Try again.",
            job=known.id,
            server=known.server,
        )
    changed = ReplicationJob(**row._asdict())
    _append(tx, changed, action, at, by=by, run=run, details=story)
    if reschedule_wave:
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


def _append(
    tx: Tx,
    known: ReplicationJob,
    action: str,
    at: datetime,
    *,
    by: str,
    run: DagRun | None = None,
    details: Mapping[str, Any],
) -> None:
    events.append(
        tx,
        at=at,
        actor=by,
        action=f"replication_job.{action}",
        object_kind="replication_job",
        object_id=known.id,
        run=run,
        details=details,
    )


def _all(tx: Tx, query: sa.Select[Any]) -> tuple[ReplicationJob, ...]:
    return tuple(ReplicationJob(**row._asdict()) for row in tx.execute(query))
