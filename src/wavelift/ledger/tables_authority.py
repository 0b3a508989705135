"""The tables of rights, and of seals of the audit trail. Part of the schema of :mod:`wavelift.ledger.tables`."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from wavelift.ledger.tables import NAME_LENGTH, UtcTime, metadata, name_column

DIGEST_LENGTH: Final = 64
"""SHA-256, hex."""

principal_group: Final = sa.Table(
    # The groups in which a user was seen at the last use of a route of ours.
    "principal_group",
    metadata,
    sa.Column("user", sa.String(NAME_LENGTH), primary_key=True),
    sa.Column("group", sa.String(NAME_LENGTH), primary_key=True),
    sa.Column("seen_at", UtcTime, nullable=False),
)

event_seal: Final = sa.Table(
    # One row per group of sealed events (:mod:`wavelift.rules.seals`). Triggers refuse UPDATE and DELETE here too.
    "event_seal",
    metadata,
    sa.Column("last_event_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_event_id", sa.Integer, nullable=False),
    sa.Column("rows", sa.JSON, nullable=False),
    sa.Column("previous", sa.String(DIGEST_LENGTH), nullable=False),
    sa.Column("digest", sa.String(DIGEST_LENGTH), nullable=False),
    sa.Column("sealed_at", UtcTime, nullable=False),
    name_column("sealed_by"),
)
