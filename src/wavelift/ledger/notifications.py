"""What somebody was told: each event once, whatever runs twice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa

from wavelift.ledger.database import Tx, require_lock
from wavelift.ledger.tables import KEY_LENGTH
from wavelift.ledger.tables_cutover import notification as table

LOCK: Final = "notification"
"""Two that claim at once would both tell."""


def key_of(kind: str, subject: str) -> str:
    """A subject may be longer than a key."""
    return f"{kind}/{hashlib.sha256(subject.encode()).hexdigest()}"


def claim(tx: Tx, kind: str, subject: str, *, at: datetime, details: Mapping[str, Any]) -> bool:
    """Whether the caller is to tell of this event. False: somebody has told, or is about to.

    Needs the lock :data:`LOCK`.
    """
    require_lock(tx, LOCK)
    key = key_of(kind, subject)
    if tx.execute(sa.select(table.c.key).where(table.c.key == key)).one_or_none() is not None:
        return False
    values = {"key": key, "kind": kind, "subject": subject[:KEY_LENGTH], "at": at, "details": dict(details)}
    tx.execute(table.insert().values(**values))
    return True
