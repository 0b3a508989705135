"""Connectors, and the catalogue of the servers that they see."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

TIME = 27
ID = 16
WORD = 32
NAME = 255
DAG = 250


def upgrade() -> None:
    _create_connector()
    _create_catalog()
    _create_catalog_server()


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _create_connector() -> None:
    op.create_table(
        "connector",
        sa.Column("name", sa.String(NAME), primary_key=True),
        _required("connection", sa.String(NAME)),
        _required("aws_conn_id", sa.String(NAME)),
        _required("region", sa.String(WORD)),
        _required("description", sa.Text()),
        _required("maintenance", sa.Boolean()),
        _required("maintenance_reason", sa.Text()),
        sa.Column("health", sa.JSON),
        sa.Column("checked_at", sa.String(TIME)),
        _required("registered_at", sa.String(TIME)),
        _required("registered_by", sa.String(NAME)),
    )


def _create_catalog() -> None:
    op.create_table(
        "catalog",
        sa.Column("connection", sa.String(NAME), primary_key=True),
        _required("connector", sa.String(NAME)),
        _required("state", sa.String(WORD)),
        _required("state_before", sa.String(WORD)),
        _required("generation", sa.Integer()),
        _required("merged_pages", sa.JSON()),
        *(_required(name, sa.String(NAME)) for name in ("manager_id", "manager_name")),
        _required("manager_type", sa.String(WORD)),
        *(_required(name, sa.Text()) for name in ("manager_product", "tags_unknown", "error")),
        sa.Column("imported_at", sa.String(TIME)),
        _required("modified_at", sa.String(TIME)),
        *(_required(name, sa.String(DAG)) for name in ("dag_id", "dag_run_id")),
    )


def _create_catalog_server() -> None:
    op.create_table(
        "catalog_server",
        sa.Column("id", sa.String(ID), primary_key=True),
        sa.Column("connection", sa.String(NAME), sa.ForeignKey("catalog.connection"), nullable=False),
        _required("identity", sa.String(NAME)),
        _required("type", sa.String(WORD)),
        _required("name", sa.String(NAME)),
        _required("path", sa.Text()),
        _required("manager_name", sa.String(NAME)),
        _required("manager_type", sa.String(WORD)),
        *(
            _required(name, sa.String(NAME))
            for name in ("manager_id", "vm_id", "instance_uuid", "guest_id", "guest_full_name")
        ),
        *(_required(name, sa.String(WORD)) for name in ("power", "connection_state")),
        _required("template", sa.Boolean()),
        *(_required(name, sa.Integer()) for name in ("cpus", "memory_mib")),
        _required("disk_bytes", sa.BigInteger()),
        _required("tags", sa.JSON()),
        _required("gone", sa.Boolean()),
        *(_required(name, sa.String(TIME)) for name in ("first_seen", "last_seen")),
        *(_required(name, sa.Integer()) for name in ("first_generation", "changed_generation", "seen_generation")),
        sa.Column("gone_generation", sa.Integer),
        sa.UniqueConstraint("connection", "identity", name="uq_catalog_server_connection_identity"),
    )
    op.create_index("ix_catalog_server_name", "catalog_server", ["name"])
