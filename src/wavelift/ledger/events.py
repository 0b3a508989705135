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
from wavelift.ledger.tables import event

EVENTS_A_PAGE: Final = 200


@dataclass(frozen=True, slots=True)
class Subject:
    """What an event is about."""

    kind: str
    id: str
    run: DagRun | None = None
    """The DAG run that it belongs to."""


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
