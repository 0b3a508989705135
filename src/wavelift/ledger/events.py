"""The audit trail: who, what, when, on which object. It only grows."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.base.run import DagRun
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Event
from wavelift.ledger.tables import event

EVENTS_A_PAGE: Final = 200


def append(
    tx: Tx,
    *,
    at: datetime,
    actor: str,
    action: str,
    object_kind: str,
    object_id: str,
    run: DagRun | None = None,
    details: Mapping[str, Any] | None = None,
) -> None:
    """Write one line within the transaction that makes the change. A change outside the ledger has one of its own."""
    require_lock(tx)
    tx.execute(
        event.insert().values(
            at=at,
            actor=actor,
            action=action,
            object_kind=object_kind,
            object_id=object_id,
            dag_id=run.dag_id if run else "",
            dag_run_id=run.dag_run_id if run else "",
            details=dict(details or {}),
        )
    )


def list_events(
    tx: Tx,
    *,
    object_kind: str | None = None,
    object_id: str | None = None,
    after: int = 0,
    limit: int = EVENTS_A_PAGE,
) -> tuple[Event, ...]:
    """Events in the order in which they were written, from the one behind id ``after`` on."""
    query = sa.select(event).where(event.c.id > after).order_by(event.c.id).limit(limit)
    if object_kind is not None:
        query = query.where(event.c.object_kind == object_kind)
    if object_id is not None:
        query = query.where(event.c.object_id == object_id)
    return tuple(Event(**row._asdict()) for row in tx.execute(query))
