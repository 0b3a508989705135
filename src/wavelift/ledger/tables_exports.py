"""The table of instance exports. Part of the schema of :mod:`wavelift.ledger.tables`."""

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
from wavelift.rules.instance_export import OPEN, ExportState

_OPEN: Final = sa.text(f"state IN ({', '.join(repr(str(each)) for each in ExportState if each in OPEN)})")

instance_export: Final = sa.Table(
    "instance_export",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    sa.Column("run_key", sa.String(KEY_LENGTH), nullable=False, unique=True),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("state", word_type(ExportState), nullable=False),
    text_column("phase"),
    sa.Column("percent", sa.Integer, nullable=False, default=0),
    name_column("environment"),
    name_column("account"),
    name_column("region"),
    name_column("instance_id"),
    name_column("subject"),
    name_column("choice"),
    name_column("method"),
    name_column("target"),
    name_column("format"),
    name_column("bucket"),
    text_column("prefix"),
    sa.Column("may_reboot", sa.Boolean, nullable=False, default=False),
    name_column("request_id"),
    name_column("requested_by"),
    sa.Column("requested_at", UtcTime, nullable=False),
    text_column("note"),
    json_column("plan"),
    json_column("findings"),
    json_column("made"),
    name_column("task_id"),
    text_column("object_key"),
    sa.Column("object_bytes", sa.BigInteger, nullable=True),
    json_column("result"),
    json_column("times"),
    text_column("error"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index(
        "uq_instance_export_open",
        "account",
        "region",
        "instance_id",
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    ),
    sa.Index("ix_instance_export_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index("ix_instance_export_requested_at", "requested_at"),
)
