"""Seals of the audit trail: made, read with their events, and compared with the events as they are now.

No transaction that writes an event knows of seals: a chain inside them would let only one at a time write events.
Events are read as the database holds them, not as values: a row that somebody damaged must be told, not stop the check.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa

from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.tables import TIME_FORMAT, event
from wavelift.ledger.tables_authority import event_seal
from wavelift.rules.seals import EVENTS_A_SEAL, SETTLED, Check, Difference, Seal, Sealing, canonical

LOCK: Final = "event_seal"
"""Two that seal at once would seal the same events."""
_CHUNK: Final = 200
"""Events in memory at a time."""
_BEFORE_ALL: Final = -(2**63)
"""Less than every id. The database gives positive ones; another was put there by hand."""
_PLAIN: Final = ("actor", "action", "object_kind", "object_id", "dag_id", "dag_run_id")


@dataclass(frozen=True, slots=True)
class SealedEvents:
    """A seal and the lines of its events as they are now."""

    seal: Seal
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of the check of one seal."""

    seal: Seal
    difference: Difference | None


@dataclass(frozen=True, slots=True)
class Extent:
    """How far the seals reach.

    :param unsealed: events after the last seal.
    """

    last_event_id: int
    digest: str
    unsealed: int


def seal_next(tx: Tx, *, by: str, now: datetime, settled: timedelta = SETTLED) -> Seal | None:
    """Seal the next group of events. None: no event is old enough.

    The first event that is too young ends the group, whatever comes after it: clocks of two machines may differ.
    """
    require_lock(tx, LOCK)
    before = last_seal(tx)
    sealing, youngest = Sealing(), (now - settled).strftime(TIME_FORMAT)
    after = before.last_event_id if before else 0
    for id, at, line in _events(tx, after, limit=EVENTS_A_SEAL):
        if at > youngest or sealing.full:
            break
        sealing.take(id, line)
    if not sealing.rows:
        return None
    seal = sealing.seal(previous=before.digest if before else "", at=now.strftime(TIME_FORMAT), by=by)
    values = {**seal.model_dump(mode="json"), "sealed_at": now}
    tx.execute(event_seal.insert().values(**values))
    return seal


def last_seal(tx: Tx) -> Seal | None:
    return _newest(tx, sa.true())


def sealed_after(tx: Tx, last_event_id: int) -> Iterator[SealedEvents]:
    """The seals after the one that ends with this event, in their order; of the events only those that they list."""
    for seal in _seals(tx, last_event_id):
        listed = {id for id, _ in seal.rows}
        events = _events(tx, seal.first_event_id - 1, until=seal.last_event_id)
        yield SealedEvents(seal, tuple(line for id, _, line in events if id in listed))


def check_after(tx: Tx, last_event_id: int) -> Iterator[Checked]:
    """Compare the seals after the one that ends with this event with their events, one by one.

    Every event between a seal and the one before belongs to it. An event that it does not list was written later, or
    its transaction was committed more than :data:`~wavelift.rules.seals.SETTLED` late.
    """
    before = _newest(tx, event_seal.c.last_event_id <= last_event_id)
    previous, after = (before.digest, before.last_event_id) if before else ("", _BEFORE_ALL)
    for seal in _seals(tx, last_event_id):
        check = Check(seal, previous)
        for id, _, line in _events(tx, after, until=seal.last_event_id):
            check.take(id, line.encode())
        yield Checked(seal, check.end())
        previous, after = seal.digest, seal.last_event_id


def extent(tx: Tx) -> Extent:
    last = last_seal(tx)
    id, digest = (last.last_event_id, last.digest) if last else (0, "")
    return Extent(id, digest, tx.execute(sa.select(sa.func.count()).where(event.c.id > id)).scalar_one())


def _seals(tx: Tx, after: int) -> Iterator[Seal]:
    """One at a time, and at most so many: the caller asks again for those after the last one."""
    ids = sa.select(event_seal.c.last_event_id).where(event_seal.c.last_event_id > after)
    for id in tx.execute(ids.order_by(event_seal.c.last_event_id).limit(_CHUNK)).scalars().all():
        if seal := _newest(tx, event_seal.c.last_event_id == id):
            yield seal


def _newest(tx: Tx, which: sa.ColumnElement[bool]) -> Seal | None:
    raw = [sa.cast(event_seal.c.rows, sa.Text).label("rows"), sa.type_coerce(event_seal.c.sealed_at, sa.String)]
    plain = [column for column in event_seal.c if column.name not in ("rows", "sealed_at")]
    query = sa.select(*plain, *raw).where(which).order_by(event_seal.c.last_event_id.desc()).limit(1)
    row = tx.execute(query).one_or_none()
    return _seal(row._asdict()) if row else None


def _seal(row: dict[str, Any]) -> Seal:
    """One that somebody damaged is one that covers nothing and follows none."""
    try:
        return Seal.model_validate({**row, "rows": json.loads(row["rows"])})
    except (TypeError, ValueError, RecursionError):
        told = {"previous": "damaged", "digest": "damaged", "sealed_at": "", "sealed_by": "", "rows": ()}
        return Seal.model_validate({**row, **told})


def _events(
    tx: Tx, after: int, *, until: int | None = None, limit: int | None = None
) -> Iterator[tuple[int, str, str]]:
    """Id, time and line of each event after this id, in the order of the ids; a few in memory at a time."""
    columns = [event.c.id, *(sa.type_coerce(event.c[name], sa.String).label(name) for name in ("at", *_PLAIN))]
    query = sa.select(*columns, sa.cast(event.c.details, sa.Text).label("details")).order_by(event.c.id)
    if until is not None:
        query = query.where(event.c.id <= until)
    given = 0
    while True:
        most = _CHUNK if limit is None else min(_CHUNK, limit - given)
        rows = tx.execute(query.where(event.c.id > after).limit(most)).all() if most else []
        for row in rows:
            yield row.id, str(row.at), _line(row._asdict())
        if len(rows) < most or not rows:
            return
        after, given = rows[-1].id, given + len(rows)


def _line(told: dict[str, Any]) -> str:
    try:
        details = json.loads(told["details"])
    except (TypeError, ValueError, RecursionError):
        details = {"damaged": repr(told["details"])}
    return canonical({**told, "details": details})
