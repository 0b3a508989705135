"""Source VMs as earlier migrations found them."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import sqlalchemy as sa

from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.records import Server, SourceServer
from wavelift.ledger.tables import server

LOCK: Final = "servers"
"""The lock for storing servers and beginning migrations."""


def remember(tx: Tx, seen: SourceServer, *, at: datetime) -> int:
    """Store what is known of a server now. Returns the id of its row. Needs :data:`LOCK`."""
    require_lock(tx, LOCK)
    values = {
        "name": seen.name,
        "moref": seen.moref,
        "instance_uuid": seen.instance_uuid,
        "path": seen.path,
        "last_seen": at,
    }
    if seen.facts is not None:
        values["facts"] = seen.facts
    same = (server.c.source == seen.source) & (server.c.identity == seen.identity)
    known = tx.execute(sa.select(server.c.id).where(same)).scalar()
    if known is None:
        new = server.insert().values(source=seen.source, identity=seen.identity, first_seen=at, **values)
        known = tx.execute(new.returning(server.c.id)).scalar_one()
    else:
        tx.execute(server.update().where(server.c.id == known).values(**values))
    return int(known)


def find(tx: Tx, *, source: str, identity: str) -> Server | None:
    """A server by its vCenter and instance UUID or managed object id; None if no migration ever found it."""
    row = tx.execute(sa.select(server).where(server.c.source == source, server.c.identity == identity)).one_or_none()
    return Server(**row._asdict()) if row else None
