"""Exports of instances to S3."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"

ID = 16
TIME = 27
WORD = 32
NAME = 255
DAG = 250
KEY = 800


def upgrade() -> None:
    open_states = sa.text("state IN ('queued', 'checking', 'active', 'verifying', 'cancelling')")
    names = (
        "environment",
        "account",
        "region",
        "instance_id",
        "subject",
        "choice",
        "method",
        "target",
        "format",
        "bucket",
        "request_id",
        "requested_by",
        "task_id",
    )
    op.create_table(
        "instance_export",
        sa.Column("id", sa.String(ID), primary_key=True),
        sa.Column("run_key", sa.String(KEY), nullable=False, unique=True),
        sa.Column("dag_id", sa.String(DAG), nullable=False),
        sa.Column("dag_run_id", sa.String(DAG), nullable=False),
        sa.Column("state", sa.String(WORD), nullable=False),
        *(sa.Column(name, sa.Text(), nullable=False) for name in ("phase", "prefix", "note", "object_key", "error")),
        *(sa.Column(name, sa.String(NAME), nullable=False) for name in names),
        *(sa.Column(name, sa.String(TIME), nullable=False) for name in ("requested_at", "updated_at")),
        sa.Column("finished_at", sa.String(TIME)),
        *(sa.Column(name, sa.Integer(), nullable=False) for name in ("percent", "version")),
        *(sa.Column(name, sa.Boolean(), nullable=False) for name in ("may_reboot", "cancel_requested")),
        sa.Column("object_bytes", sa.BigInteger()),
        *(sa.Column(name, sa.JSON()) for name in ("plan", "findings", "made", "result", "times")),
    )
    op.create_index(
        "uq_instance_export_open",
        "instance_export",
        ["account", "region", "instance_id"],
        unique=True,
        sqlite_where=open_states,
        postgresql_where=open_states,
    )
    op.create_index("ix_instance_export_dag_id_dag_run_id", "instance_export", ["dag_id", "dag_run_id"])
    op.create_index("ix_instance_export_requested_at", "instance_export", ["requested_at"])
