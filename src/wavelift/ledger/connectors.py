"""The registry of connectors: the places that read a vCenter, each an Airflow queue (SMS-01, AMP-05).

A wave may name a queue that nobody registered: registering adds health, maintenance and a place in the list.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from wavelift.base.catalog import ConnectorHealth
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.run import Clock
from wavelift.ledger import events, servers
from wavelift.ledger.catalog_records import Connector
from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.tables_catalog import connector

Usage = Callable[[Tx, str], Sequence[str]]
"""``(transaction, connector)`` → what uses it, in words; nothing when it may go."""


def lock_name(name: str) -> str:
    """The lock under which one connector changes. Every function that changes it needs this lock."""
    return f"connector/{name}"


def list_connectors(tx: Tx) -> tuple[Connector, ...]:
    """All registered connectors by name."""
    return tuple(Connector(**row._asdict()) for row in tx.execute(sa.select(connector).order_by(connector.c.name)))


def find(tx: Tx, name: str) -> Connector | None:
    """One connector, None when nobody registered it."""
    row = tx.execute(sa.select(connector).where(connector.c.name == name)).one_or_none()
    return Connector(**row._asdict()) if row else None


def in_maintenance(tx: Tx, name: str) -> str | None:
    """Why nothing new may begin on a connector; None when it may. For the transaction that begins it (AMP-05)."""
    query = sa.select(connector.c.maintenance, connector.c.maintenance_reason).where(connector.c.name == name)
    row = tx.execute(query).one_or_none()
    return (row.maintenance_reason or "no reason given") if row and row.maintenance else None


def register(
    tx: Tx,
    name: str,
    *,
    connection: str,
    aws_conn_id: str,
    region: str,
    description: str = "",
    by: str,
    clock: Clock,
) -> Connector:
    """Register a connector, or change what is known of one; maintenance and health stay as they are."""
    now = clock.now()
    values = {"connection": connection, "aws_conn_id": aws_conn_id, "region": region, "description": description}
    require_lock(tx, lock_name(name))
    known = find(tx, name)
    if known is None:
        new = connector.insert().values(name=name, registered_at=now, registered_by=by, **values)
        tx.execute(new)
        _append(tx, name, "registered", now, by, values)
    elif any(getattr(known, field) != value for field, value in values.items()):
        tx.execute(connector.update().where(connector.c.name == name).values(**values))
        _append(tx, name, "changed", now, by, values)
    return _get(tx, name)


def set_maintenance(tx: Tx, name: str, *, on: bool, reason: str = "", by: str, clock: Clock) -> Connector:
    """Let nothing new begin on a connector, or let it again (AMP-05). Twice the same changes nothing.

    :raises NotFoundError: nobody registered it.
    """
    now = clock.now()
    require_lock(tx, lock_name(name))
    known = _get(tx, name)
    reason = reason if on else ""
    if (known.maintenance, known.maintenance_reason) != (on, reason):
        values = {"maintenance": on, "maintenance_reason": reason}
        tx.execute(connector.update().where(connector.c.name == name).values(**values))
        _append(tx, name, "maintenance_on" if on else "maintenance_off", now, by, {"reason": reason})
    return _get(tx, name)


def record_health(tx: Tx, health: ConnectorHealth, *, by: str, clock: Clock) -> Connector | None:
    """Keep what a connector found; None when nobody registered it (the run's result tells it all the same)."""
    now = clock.now()
    require_lock(tx, lock_name(health.connector))
    if find(tx, health.connector) is None:
        return None
    same = connector.c.name == health.connector
    tx.execute(connector.update().where(same).values(health=health.dump(), checked_at=now))
    failed = [check.name for check in health.checks if not check.ok]
    _append(tx, health.connector, "checked", now, by, {"ok": health.ok, "failed": failed})
    return _get(tx, health.connector)


def disassociate(tx: Tx, name: str, *, used_by: Usage, by: str, clock: Clock) -> None:
    """Forget a connector that nothing uses (SMS-01).

    Needs the locks of those who begin something on it, :func:`lock_name` and :data:`~wavelift.ledger.servers.LOCK`:
    nobody starts between the question and the answer.

    :param used_by: asked within the transaction.
    :raises NotFoundError: nobody registered it. :raises PermanentError: something uses it; says what.
    """
    now = clock.now()
    require_lock(tx, lock_name(name), servers.LOCK)
    _get(tx, name)
    users = list(used_by(tx, name))
    if users:
        raise PermanentError(
            f"The connector is in use: {'; '.join(users)}",
            next_step="Let these end, or delete them, then try again.",
            connector=name,
        )
    tx.execute(connector.delete().where(connector.c.name == name))
    _append(tx, name, "disassociated", now, by, {})


def _get(tx: Tx, name: str) -> Connector:
    known = find(tx, name)
    if known is None:
        raise NotFoundError(
            "No connector is registered under this name", next_step="See `wavelift connectors list`.", connector=name
        )
    return known


def _append(tx: Tx, name: str, action: str, at: datetime, by: str, details: Mapping[str, Any]) -> None:
    events.append(
        tx, at=at, actor=by, action=f"connector.{action}", object_kind="connector", object_id=name, details=details
    )
