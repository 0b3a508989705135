"""The groups in which users were seen at their last use of a route of ours.

Tasks cannot ask Airflow's auth manager for the roles of a user. So the console remembers them, and tasks believe them
for a while (:mod:`wavelift.rules.authority`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from datetime import datetime, timedelta
from typing import Final

import sqlalchemy as sa

from wavelift.ledger.database import Ledger, Tx, require_lock
from wavelift.ledger.tables_authority import principal_group as table

FRESH: Final = timedelta(minutes=5)
"""A younger record is not written again."""


def lock_name(user: str) -> str:
    return f"principal/{user}"


def seen(tx: Tx, user: str) -> Mapping[str, datetime]:
    """Group → when the user was last seen in it. Any age."""
    rows = tx.execute(sa.select(table.c.group, table.c.seen_at).where(table.c.user == user))
    return {row.group: row.seen_at for row in rows}


def remember(ledger: Ledger, user: str, groups: Collection[str], *, at: datetime) -> bool:
    """Keep the groups in which a user is now; others are forgotten. Returns whether anything was written.

    Most calls only read: a record of the same groups is written again after :data:`FRESH`.
    """
    with ledger.read() as tx:
        known = seen(tx, user)
    if known.keys() == set(groups) and all(at - time < FRESH for time in known.values()):
        return False
    with ledger.write(lock_name(user)) as tx:
        _replace(tx, user, groups, at)
    return True


def _replace(tx: Tx, user: str, groups: Collection[str], at: datetime) -> None:
    require_lock(tx, lock_name(user))
    tx.execute(table.delete().where(table.c.user == user))
    if groups:
        tx.execute(table.insert(), [{"user": user, "group": group, "seen_at": at} for group in sorted(set(groups))])
