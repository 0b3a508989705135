"""Live migrations with HCX, and cutovers of networks."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

ID = 16
TIME = 27
WORD = 32
DIGEST = 64
NAME = 255
DAG = 250
KEY = 800


def upgrade() -> None:
    _create_live_migration()
    _create_network_cutover()


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _names(*names: str) -> list[sa.Column[Any]]:
    return [_required(name, sa.String(NAME)) for name in names]


def _texts(*names: str) -> list[sa.Column[Any]]:
    return [_required(name, sa.Text()) for name in names]


def _values(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.JSON) for name in names]


def _times(*names: str) -> list[sa.Column[Any]]:
    return [sa.Column(name, sa.String(TIME)) for name in names]


def _of_run() -> list[sa.Column[Any]]:
    return [
        sa.Column("id", sa.String(ID), primary_key=True),
        sa.Column("run_key", sa.String(KEY), nullable=False, unique=True),
        *(_required(name, sa.String(DAG)) for name in ("dag_id", "dag_run_id")),
        _required("state", sa.String(WORD)),
        *_texts("phase", "note", "error"),
        *_names("environment", "request_id", "requested_by"),
        *(_required(name, sa.String(TIME)) for name in ("requested_at", "updated_at")),
        *_times("finished_at"),
        _required("plan_digest", sa.String(DIGEST)),
        _required("cancel_requested", sa.Boolean()),
        _required("version", sa.Integer()),
    ]


def _create_live_migration() -> None:
    open_states = sa.text("state IN ('reserved', 'waiting', 'starting', 'moving', 'verifying')")
    op.create_table(
        "live_migration",
        *_of_run(),
        *_names("wave", "server", "kind", "manager", "mesh", "instance_uuid", "entity_id"),
        *_names("group_name", "group_id", "migration_id"),
        _required("percent", sa.Integer()),
        sa.Column("bytes_done", sa.BigInteger),
        sa.Column("bytes_total", sa.BigInteger),
        *_times("window_start", "window_end"),
        *_values("before", "found", "times"),
    )
    op.create_index(
        "uq_live_migration_open",
        "live_migration",
        ["wave", "server"],
        unique=True,
        sqlite_where=open_states,
        postgresql_where=open_states,
    )
    op.create_index("ix_live_migration_dag_id_dag_run_id", "live_migration", ["dag_id", "dag_run_id"])
    op.create_index("ix_live_migration_manager_state", "live_migration", ["manager", "state"])
    op.create_index("ix_live_migration_requested_at", "live_migration", ["requested_at"])


def _create_network_cutover() -> None:
    open_states = sa.text("state IN ('reserved', 'waiting', 'going', 'switched', 'failed', 'reverting', 'finishing')")
    op.create_table(
        "network_cutover",
        *_of_run(),
        *_names("network", "prefix", "extension_id"),
        *(_required(name, sa.String(DAG)) for name in ("revert_run", "finish_run")),
        *_texts("alert"),
        *_values("plan", "before", "after", "probes", "times"),
        *_times("soak_until"),
    )
    op.create_index(
        "uq_network_cutover_open",
        "network_cutover",
        ["network"],
        unique=True,
        sqlite_where=open_states,
        postgresql_where=open_states,
    )
    op.create_index("ix_network_cutover_dag_id_dag_run_id", "network_cutover", ["dag_id", "dag_run_id"])
    op.create_index("ix_network_cutover_requested_at", "network_cutover", ["requested_at"])
