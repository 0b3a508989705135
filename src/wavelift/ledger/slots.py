"""Requests for slots. Only :mod:`wavelift.services.common.slots` writes them; it decides who gets a slot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import sqlalchemy as sa

from wavelift.base.run import DagRun
from wavelift.ledger import events
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Slot
from wavelift.ledger.tables import slot
from wavelift.rules.flows import SlotKind
from wavelift.rules.queue import Place, Want

LOCK: Final = "slots"
"""The lock for granting and releasing slots. Every function that changes a slot needs it: whether a server may go
depends on all places where it needs a slot, and on everybody who waits there."""

_STANDING: Final = slot.c.released_at.is_(None)
_WAITING: Final = _STANDING & slot.c.granted_at.is_(None)
_GRANTED: Final = _STANDING & slot.c.granted_at.is_not(None)
_ORDER: Final = (slot.c.priority, slot.c.id)


@dataclass(frozen=True, slots=True)
class Waiting:
    """One place where somebody waits."""

    holder: str
    run: DagRun
    place: Place
    allowed: int | None
    priority: int
    requested_at: datetime

    @property
    def want(self) -> Want:
        return Want(self.place, self.allowed)


def standing(tx: Tx, kind: SlotKind | None = None, scope: str | None = None) -> tuple[Slot, ...]:
    """Requests that are granted or waiting, in the order of asking."""
    query = sa.select(slot).where(_STANDING).order_by(slot.c.id)
    if kind is not None:
        query = query.where(slot.c.kind == kind)
    if scope is not None:
        query = query.where(slot.c.scope == scope)
    return tuple(Slot(**row._asdict()) for row in tx.execute(query))


def of_holder(tx: Tx, holder: str) -> tuple[Slot, ...]:
    """What one holder has or waits for, in the order of asking."""
    query = sa.select(slot).where(_STANDING, slot.c.holder == holder).order_by(slot.c.id)
    return tuple(Slot(**row._asdict()) for row in tx.execute(query))


def by_id(tx: Tx, ids: Collection[int]) -> tuple[Slot, ...]:
    """Of these requests, those that are granted or waiting, in the order of asking."""
    query = sa.select(slot).where(_STANDING, slot.c.id.in_(ids)).order_by(slot.c.id)
    return tuple(Slot(**row._asdict()) for row in tx.execute(query))


def of_runs(tx: Tx, places: Collection[Place], runs: Collection[DagRun]) -> tuple[Slot, ...]:
    """Requests at these places by these DAG runs, in the order of asking."""
    by_run = sa.tuple_(slot.c.dag_id, slot.c.dag_run_id).in_([(run.dag_id, run.dag_run_id) for run in runs])
    query = sa.select(slot).where(_at(places), by_run).order_by(slot.c.id)
    return tuple(Slot(**row._asdict()) for row in tx.execute(query))


def last_asked(tx: Tx, places: Collection[Place]) -> dict[DagRun, datetime | None]:
    """The DAG runs with requests at these places, and when Airflow was last asked about each."""
    columns = (slot.c.dag_id, slot.c.dag_run_id)
    query = sa.select(*columns, sa.func.max(slot.c.asked_at)).where(_at(places)).group_by(*columns)
    return {DagRun(dag_id, dag_run_id): asked for dag_id, dag_run_id, asked in tx.execute(query)}


def granted(tx: Tx) -> dict[Place, int]:
    """How many slots of each place are granted."""
    columns = (slot.c.kind, slot.c.scope)
    query = sa.select(*columns, sa.func.count()).where(_GRANTED).group_by(*columns)
    return {Place(kind, scope): number for kind, scope, number in tx.execute(query)}


def having(tx: Tx) -> tuple[tuple[Place, tuple[str, DagRun]], ...]:
    """Every granted slot with its holder, the first to get one first."""
    columns = (slot.c.kind, slot.c.scope, slot.c.holder, slot.c.dag_id, slot.c.dag_run_id)
    query = sa.select(*columns).where(_GRANTED).order_by(slot.c.granted_at, slot.c.id)
    return tuple(
        (Place(kind, scope), (holder, DagRun(dag_id, run_id)))
        for kind, scope, holder, dag_id, run_id in tx.execute(query)
    )


def waiting(tx: Tx) -> tuple[Waiting, ...]:
    """Everybody who waits, place by place: by priority, then in the order of asking."""
    columns = (slot.c.holder, slot.c.dag_id, slot.c.dag_run_id, slot.c.kind, slot.c.scope, slot.c.allowed)
    query = sa.select(*columns, slot.c.priority, slot.c.requested_at).where(_WAITING).order_by(*_ORDER)
    return tuple(
        Waiting(holder, DagRun(dag_id, run_id), Place(kind, scope), allowed, priority, at)
        for holder, dag_id, run_id, kind, scope, allowed, priority, at in tx.execute(query)
    )


def position(tx: Tx, known: Slot) -> int:
    """1 for the next in the queue of its place."""
    ahead = (slot.c.priority < known.priority) | ((slot.c.priority == known.priority) & (slot.c.id < known.id))
    here = (slot.c.kind == known.kind) & (slot.c.scope == known.scope)
    query = sa.select(sa.func.count()).select_from(slot).where(_WAITING, here, ahead)
    return 1 + int(tx.execute(query).scalar_one())


def enqueue(
    tx: Tx, wants: Sequence[Want], *, holder: str, run: DagRun, priority: int, at: datetime
) -> tuple[Slot, ...]:
    """Put requests at the end of their queues."""
    require_lock(tx, LOCK)
    common = {"holder": holder, "dag_id": run.dag_id, "dag_run_id": run.dag_run_id, "requested_at": at}
    rows = [
        {**common, "kind": want.place.kind, "scope": want.place.scope, "allowed": want.allowed, "priority": priority}
        for want in wants
    ]
    if not rows:
        return ()
    found = tx.execute(slot.insert().returning(slot, sort_by_parameter_order=True), rows)
    made = tuple(Slot(**row._asdict()) for row in found)
    _append(tx, made, "slot.requested", at)
    return made


def ask_again(tx: Tx, known: Collection[Slot]) -> None:
    """Store that the holder asked again. An earlier check of its DAG run no longer counts."""
    require_lock(tx, LOCK)
    if known:
        ids = [each.id for each in known]
        tx.execute(slot.update().where(slot.c.id.in_(ids)).values(version=slot.c.version + 1))


def allow(tx: Tx, known: Slot, allowed: int) -> None:
    """Store with which limit the holder asks now."""
    require_lock(tx, LOCK)
    tx.execute(slot.update().where(slot.c.id == known.id).values(allowed=allowed))


def allow_all(tx: Tx, wants: Collection[Want]) -> None:
    """Store the limits of places for all who wait there."""
    require_lock(tx, LOCK)
    for want in wants:
        here = (slot.c.kind == want.place.kind) & (slot.c.scope == want.place.scope)
        other = slot.c.allowed.is_distinct_from(want.allowed)
        tx.execute(slot.update().where(_WAITING, here, other).values(allowed=want.allowed))


def prefer(tx: Tx, known: Collection[Slot], priority: int, *, by: str, at: datetime) -> None:
    """Give waiting requests of one holder another priority."""
    require_lock(tx, LOCK)
    ids = [each.id for each in known]
    tx.execute(slot.update().where(slot.c.id.in_(ids)).values(priority=priority))
    _append(tx, known, "slot.moved", at, {"priority": priority}, actor=by)


def grant(tx: Tx, known: Collection[Slot], *, at: datetime) -> None:
    require_lock(tx, LOCK)
    tx.execute(slot.update().where(slot.c.id.in_([each.id for each in known])).values(granted_at=at))
    _append(tx, known, "slot.granted", at)


def put_back(tx: Tx, known: Collection[Slot], *, at: datetime) -> None:
    """Make granted requests wait again, at the places that they had in their queues."""
    require_lock(tx, LOCK)
    if known:
        tx.execute(slot.update().where(slot.c.id.in_([each.id for each in known])).values(granted_at=None))
        _append(tx, known, "slot.put_back", at)


def release(tx: Tx, known: Collection[Slot], *, at: datetime, reason: str) -> None:
    """End requests, granted or not."""
    require_lock(tx, LOCK)
    if not known:
        return
    ids = [each.id for each in known]
    tx.execute(slot.update().where(slot.c.id.in_(ids)).values(released_at=at, release_reason=reason))
    for action, granted_too in (("slot.released", True), ("slot.withdrawn", False)):
        ended = [each for each in known if (each.granted_at is not None) is granted_too]
        _append(tx, ended, action, at, {"reason": reason} if reason else {})


def note_asked(tx: Tx, ids: Collection[int], *, at: datetime) -> None:
    """Store when Airflow was last asked about the DAG runs of these requests."""
    tx.execute(slot.update().where(slot.c.id.in_(ids), slot.c.released_at.is_(None)).values(asked_at=at))


def by_run(slots: Sequence[Slot]) -> dict[DagRun, list[Slot]]:
    """Group requests by DAG run."""
    runs: dict[DagRun, list[Slot]] = {}
    for each in slots:
        runs.setdefault(each.run, []).append(each)
    return runs


def _at(places: Collection[Place]) -> sa.ColumnElement[bool]:
    here = sa.or_(*((slot.c.kind == place.kind) & (slot.c.scope == place.scope) for place in places))
    return _STANDING & here


def _append(
    tx: Tx,
    known: Collection[Slot],
    action: str,
    at: datetime,
    more: Mapping[str, object] | None = None,
    *,
    actor: str = "",
) -> None:
    events.append_all(
        tx,
        [
            events.NewEvent(
                events.Subject("slot", each.holder, each.run),
                action,
                actor or str(each.run),
                {"kind": each.kind, "scope": each.scope, "slot": each.id, **(more or {})},
            )
            for each in known
        ],
        at=at,
    )
