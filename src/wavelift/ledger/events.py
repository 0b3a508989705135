"""The audit trail: who did what to which object, and when. Events are never changed or deleted."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.run import DagRun
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Event
from wavelift.ledger.replication_tables import replication_job
from wavelift.ledger.tables import event

EVENTS_A_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about."""

    kind: str
    id: str
    run: DagRun | None = None
    """The DAG run that it belongs to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """What the reader may see: events of these DAGs, and of these objects, whose events may belong to no DAG."""

    dag_ids: Collection[str]
    waves: Collection[str]
    """Whose replication jobs."""
    connectors: Collection[str]

    def condition(self) -> sa.ColumnElement[bool]:
        jobs = sa.select(replication_job.c.id).where(replication_job.c.wave.in_(self.waves))
        return event.c.dag_id.in_(self.dag_ids) | (event.c.dag_id == "") & (
            (event.c.object_kind == "replication_job") & event.c.object_id.in_(jobs)
            | (event.c.object_kind == "connector") & event.c.object_id.in_(self.connectors)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventFilter:
    """Which events to list. Fields that are not set do not restrict it.

    :param readable: None: all of them.
    :param action: the whole word, or its beginning up to a dot, such as ``slot.``.
    :param since: and later. :param until: and earlier, without that instant.
    :param before: with smaller ids.
    """

    readable: Readable | None = None
    object_kind: str | None = None
    object_id: str | None = None
    dag_ids: Collection[str] | None = None
    wave: str | None = None
    """With ``dag_ids``: also the replication jobs of this wave."""
    actor: str | None = None
    action: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    before: int | None = None

    def conditions(self) -> list[sa.ColumnElement[bool]]:
        found = [] if self.readable is None else [self.readable.condition()]
        for name in ("object_kind", "object_id", "actor"):
            if (wanted := getattr(self, name)) is not None:
                found.append(event.c[name] == wanted)
        if self.action is not None:
            dotted = self.action.endswith(".")
            found.append(
                event.c.action.startswith(self.action, autoescape=True) if dotted else event.c.action == self.action
            )
        if self.dag_ids is not None:
            jobs = sa.select(replication_job.c.id).where(replication_job.c.wave == self.wave)
            of_jobs = (event.c.object_kind == "replication_job") & event.c.object_id.in_(jobs)
            found.append(event.c.dag_id.in_(self.dag_ids) | of_jobs)
        if self.since is not None:
            found.append(event.c.at >= self.since)
        if self.until is not None:
            found.append(event.c.at < self.until)
        if self.before is not None:
            found.append(event.c.id < self.before)
        return found


@dataclass(frozen=True, slots=True)
class NewEvent:
    """One event that is to be written."""

    subject: Subject
    action: str
    actor: str
    details: Mapping[str, Any] = field(default_factory=dict)


def append(
    tx: Tx, subject: Subject, action: str, *, at: datetime, actor: str, details: Mapping[str, Any] | None = None
) -> None:
    """Write one event, in the transaction that makes the change."""
    append_all(tx, [NewEvent(subject, action, actor, details or {})], at=at)


def append_all(tx: Tx, new: Collection[NewEvent], *, at: datetime) -> None:
    """Write events of one instant in this order, in the transaction that makes the changes."""
    require_lock(tx)
    rows = [
        {
            "at": at,
            "actor": one.actor,
            "action": one.action,
            "object_kind": one.subject.kind,
            "object_id": one.subject.id,
            "dag_id": one.subject.run.dag_id if one.subject.run else "",
            "dag_run_id": one.subject.run.dag_run_id if one.subject.run else "",
            "details": dict(one.details),
        }
        for one in new
    ]
    if rows:
        tx.execute(event.insert(), rows)


def last_details(tx: Tx, *, object_id: str, action: str) -> Mapping[str, Any] | None:
    """The details of the newest event of this kind; None if there is none."""
    chosen = (event.c.object_id == object_id) & (event.c.action == action)
    query = sa.select(event.c.details).where(chosen).order_by(event.c.id.desc()).limit(1)
    found: Mapping[str, Any] | None = tx.execute(query).scalar_one_or_none()
    return found


def list_events(
    tx: Tx, *, object_kind: str | None = None, object_id: str | None = None, after: int = 0, limit: int = EVENTS_A_PAGE
) -> tuple[Event, ...]:
    """Events in the order in which they were written, beginning after the id ``after``."""
    query = sa.select(event).where(event.c.id > after).order_by(event.c.id).limit(limit)
    if object_kind is not None:
        query = query.where(event.c.object_kind == object_kind)
    if object_id is not None:
        query = query.where(event.c.object_id == object_id)
    return tuple(Event(**row._asdict()) for row in tx.execute(query))


def newest_events(tx: Tx, which: EventFilter, *, limit: int = EVENTS_A_PAGE) -> tuple[Event, ...]:
    """Events that match, the newest first. More: ``before`` the last one."""
    query = sa.select(event).where(*which.conditions()).order_by(event.c.id.desc()).limit(limit)
    return tuple(Event(**row._asdict()) for row in tx.execute(query))
