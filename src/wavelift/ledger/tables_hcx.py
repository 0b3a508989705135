"""The tables of live migrations with HCX and of network cutovers.

Part of the schema of :mod:`wavelift.ledger.tables`.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from wavelift.ledger.tables import (
    DAG_LENGTH,
    ID_LENGTH,
    KEY_LENGTH,
    UtcTime,
    json_column,
    metadata,
    name_column,
    text_column,
    word_type,
)
from wavelift.ledger.tables_cutover import DIGEST_LENGTH
from wavelift.rules.live import OPEN as LIVE_OPEN
from wavelift.rules.live import LiveState
from wavelift.rules.network_cutover import OPEN as NETWORK_OPEN
from wavelift.rules.network_cutover import NetworkState

_LIVE: Final = sa.text(f"state IN ({', '.join(repr(str(each)) for each in LiveState if each in LIVE_OPEN)})")
_NETWORK: Final = sa.text(f"state IN ({', '.join(repr(str(each)) for each in NetworkState if each in NETWORK_OPEN)})")

live_migration: Final = sa.Table(
    "live_migration",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    sa.Column("run_key", sa.String(KEY_LENGTH), nullable=False, unique=True),
    name_column("wave"),
    name_column("server"),
    name_column("environment"),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("state", word_type(LiveState), nullable=False),
    text_column("phase"),
    sa.Column("percent", sa.Integer, nullable=False, default=0),
    sa.Column("bytes_done", sa.BigInteger, nullable=True),
    sa.Column("bytes_total", sa.BigInteger, nullable=True),
    name_column("kind"),
    name_column("request_id"),
    name_column("requested_by"),
    sa.Column("requested_at", UtcTime, nullable=False),
    text_column("note"),
    name_column("manager"),
    name_column("mesh"),
    name_column("instance_uuid"),
    name_column("entity_id"),
    name_column("group_name"),
    name_column("group_id"),
    name_column("migration_id"),
    sa.Column("window_start", UtcTime, nullable=True),
    sa.Column("window_end", UtcTime, nullable=True),
    name_column("plan_digest", DIGEST_LENGTH),
    json_column("before"),
    json_column("found"),
    json_column("times"),
    text_column("error"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index(
        "uq_live_migration_open",
        "wave",
        "server",
        unique=True,
        sqlite_where=_LIVE,
        postgresql_where=_LIVE,
    ),
    sa.Index("ix_live_migration_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index("ix_live_migration_manager_state", "manager", "state"),
    sa.Index("ix_live_migration_requested_at", "requested_at"),
)

network_cutover: Final = sa.Table(
    "network_cutover",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    sa.Column("run_key", sa.String(KEY_LENGTH), nullable=False, unique=True),
    name_column("network"),
    name_column("environment"),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("state", word_type(NetworkState), nullable=False),
    text_column("phase"),
    name_column("request_id"),
    name_column("requested_by"),
    sa.Column("requested_at", UtcTime, nullable=False),
    text_column("note"),
    name_column("prefix"),
    name_column("extension_id"),
    name_column("plan_digest", DIGEST_LENGTH),
    json_column("plan"),
    json_column("before"),
    json_column("after"),
    json_column("probes"),
    json_column("times"),
    name_column("revert_run", DAG_LENGTH),
    name_column("finish_run", DAG_LENGTH),
    text_column("error"),
    text_column("alert"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("soak_until", UtcTime, nullable=True),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index(
        "uq_network_cutover_open",
        "network",
        unique=True,
        sqlite_where=_NETWORK,
        postgresql_where=_NETWORK,
    ),
    sa.Index("ix_network_cutover_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index("ix_network_cutover_requested_at", "requested_at"),
)
