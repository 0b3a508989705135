"""The audit trail: who did what to which object, and when. Events are never changed or deleted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


def append(
    tx: Tx, subject: Subject, action: str, *, at: datetime, actor: str, details: Mapping[str, Any] | None = None
) -> None:
    """Write one event, in the transaction that makes the change."""
    require_lock(tx)
    run = subject.run or DagRun("", "")
    tx.execute(
        event.insert().values(
            at=at,
            actor=actor,
            action=action,
            object_kind=subject.kind,
            object_id=subject.id,
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            details=dict(details or {}),
        )
    )


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
