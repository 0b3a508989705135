"""The registry of connectors. A connector is an Airflow queue whose workers can reach a vCenter (SMS-01, AMP-05).

A wave may use a queue that is not registered. A registered connector is listed, and has health checks and a
maintenance mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
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
"""Maps a transaction and a connector's name to a list of what uses it, for people to read."""


def lock_name(name: str) -> str:
    """The lock under which one connector changes. Every function that changes it needs this lock."""
    return f"connector/{name}"


def list_connectors(tx: Tx) -> tuple[Connector, ...]:
    """All registered connectors, sorted by name."""
    return tuple(Connector(**row._asdict()) for row in tx.execute(sa.select(connector).order_by(connector.c.name)))


def find(tx: Tx, name: str) -> Connector | None:
    """One connector; None if it is not registered."""
    row = tx.execute(sa.select(connector).where(connector.c.name == name)).one_or_none()
    return Connector(**row._asdict()) if row else None


def registered_with(tx: Tx, connection: str) -> tuple[str, ...]:
    """Names of the connectors that are registered with this vSphere connection."""
    query = sa.select(connector.c.name).where(connector.c.connection == connection).order_by(connector.c.name)
    return tuple(tx.execute(query).scalars())


def in_maintenance(tx: Tx, name: str) -> str | None:
    """The reason for a connector's maintenance; None if it is not in maintenance (AMP-05).

    Call it in the transaction that begins something on the connector.
    """
    return all_in_maintenance(tx).get(name)


def all_in_maintenance(tx: Tx) -> dict[str, str]:
    """The connectors that are in maintenance, each with the reason."""
    query = sa.select(connector.c.name, connector.c.maintenance_reason).where(connector.c.maintenance)
    return {name: reason or "no reason given" for name, reason in tx.execute(query)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """What a person enters about a connector."""

    connection: str
    aws_conn_id: str
    region: str
    description: str = ""


def register(tx: Tx, name: str, said: Registration, *, by: str, clock: Clock) -> Connector:
    """Register a connector, or change its registration. Maintenance and health do not change."""
    now = clock.now()
    values = asdict(said)
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
    """Set or clear a connector's maintenance mode (AMP-05). In this mode no new migration begins on it.

    :raises NotFoundError: it is not registered.
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
    """Store the result of a health check. None if the connector is not registered."""
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
    """Delete a connector that nothing uses (SMS-01).

    Needs two locks, :func:`lock_name` and :data:`~wavelift.ledger.servers.LOCK`, so that no migration begins between
    the check and the deletion.

    :param used_by: lists what uses the connector. It is called in this transaction.
    :raises NotFoundError: it is not registered. :raises PermanentError: something uses it; the message says what.
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
    events.append(tx, events.Subject("connector", name), f"connector.{action}", at=at, actor=by, details=details)
