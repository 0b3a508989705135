"""Requests for slots. Only :mod:`wavelift.services.common.slots` writes them; it decides who gets a slot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

import sqlalchemy as sa

from wavelift.base.run import DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Slot
from wavelift.ledger.tables import slot
from wavelift.rules.flows import SlotKind


def lock_name(kind: SlotKind, scope: str) -> str:
    """The lock for granting and releasing slots of one scope. Every function that changes a slot needs it."""
    return f"slot/{kind}/{scope}"


def standing(tx: Tx, kind: SlotKind | None = None, scope: str | None = None) -> tuple[Slot, ...]:
    """Requests that are granted or waiting, in queue order."""
    query = sa.select(slot).where(slot.c.released_at.is_(None)).order_by(slot.c.id)
    if kind is not None:
        query = query.where(slot.c.kind == kind)
    if scope is not None:
        query = query.where(slot.c.scope == scope)
    return tuple(Slot(**row._asdict()) for row in tx.execute(query))


def enqueue(tx: Tx, *, kind: SlotKind, scope: str, holder: str, run: DagRun, at: datetime) -> Slot:
    """Put a request at the end of its queue."""
    require_lock(tx, lock_name(kind, scope))
    new = slot.insert().values(
        kind=kind, scope=scope, holder=holder, dag_id=run.dag_id, dag_run_id=run.dag_run_id, requested_at=at
    )
    made = Slot(**tx.execute(new.returning(slot)).one()._asdict())
    _append(tx, made, "slot.requested", at)
    return made


def ask_again(tx: Tx, known: Slot) -> None:
    """Store that the holder asked again. An earlier check of its DAG run no longer counts."""
    require_lock(tx, lock_name(known.kind, known.scope))
    tx.execute(slot.update().where(slot.c.id == known.id).values(version=slot.c.version + 1))


def grant(tx: Tx, known: Slot, *, at: datetime) -> None:
    require_lock(tx, lock_name(known.kind, known.scope))
    tx.execute(slot.update().where(slot.c.id == known.id).values(granted_at=at))
    _append(tx, known, "slot.granted", at)


def release(tx: Tx, known: Slot, *, at: datetime, reason: str) -> None:
    """End a request, granted or not."""
    require_lock(tx, lock_name(known.kind, known.scope))
    tx.execute(slot.update().where(slot.c.id == known.id).values(released_at=at, release_reason=reason))
    _append(tx, known, "slot.released" if known.granted_at else "slot.withdrawn", at, reason)


def note_asked(tx: Tx, ids: Collection[int], *, at: datetime) -> None:
    """Store when Airflow was last asked about the DAG runs of these requests."""
    tx.execute(slot.update().where(slot.c.id.in_(ids), slot.c.released_at.is_(None)).values(asked_at=at))


def by_run(slots: Sequence[Slot]) -> dict[DagRun, list[Slot]]:
    """Group requests by DAG run."""
    runs: dict[DagRun, list[Slot]] = {}
    for each in slots:
        runs.setdefault(each.run, []).append(each)
    return runs


def _append(tx: Tx, known: Slot, action: str, at: datetime, reason: str = "") -> None:
    details = {"kind": known.kind, "scope": known.scope, "slot": known.id}
    if reason:
        details["reason"] = reason
    subject = events.Subject("slot", known.holder, known.run)
    events.append(tx, subject, action, at=at, actor=str(known.run), details=details)
