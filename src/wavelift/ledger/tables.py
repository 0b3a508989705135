"""The tables of the newest schema revision. A change here needs a new revision."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa

from wavelift.ledger.records import SnapshotState, WaveRunState
from wavelift.rules.flows import SlotKind
from wavelift.rules.lifecycle import MigrationState

TIME_FORMAT: Final = "%Y-%m-%dT%H:%M:%S.%fZ"
TIME_LENGTH: Final = 27
"""``2026-11-22T10:00:00.000000Z``: fixed width, so that it sorts by time on every database."""
ID_LENGTH: Final = 16
DAG_LENGTH: Final = 250
"""Airflow's own limit for DAG and run ids."""
NAME_LENGTH: Final = 255
KEY_LENGTH: Final = 800
"""A run key: DAG id, run id and server name with separators."""
WORD_LENGTH: Final = 32


class UtcTime(sa.types.TypeDecorator[datetime]):
    """A time, stored as UTC in ISO 8601 text. A time without a zone is refused."""

    impl = sa.String(TIME_LENGTH)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> str | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without zone reached the ledger")
        return value.astimezone(UTC).strftime(TIME_FORMAT)

    def process_result_value(self, value: str | None, dialect: sa.Dialect) -> datetime | None:
        return None if value is None else datetime.strptime(value, TIME_FORMAT).replace(tzinfo=UTC)


class Words(sa.types.TypeDecorator[tuple[str, ...]]):
    """A tuple of strings, stored as a JSON list."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: tuple[str, ...] | None, dialect: sa.Dialect) -> Any:
        return list(value or ())

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> tuple[str, ...]:
        return tuple(value or ())


def word_type(kind: type[StrEnum]) -> sa.Enum:
    """An enumeration, stored by value as text. A new member needs no new revision."""
    return sa.Enum(
        kind, native_enum=False, length=WORD_LENGTH, values_callable=lambda members: [each.value for each in members]
    )


def json_column(name: str) -> sa.Column[Any]:
    return sa.Column(name, sa.JSON(none_as_null=True), nullable=True)


def text_column(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False, default="")


def name_column(name: str, length: int = NAME_LENGTH) -> sa.Column[str]:
    return sa.Column(name, sa.String(length), nullable=False, default="")


def server_run_columns(states: type[StrEnum]) -> tuple[sa.Column[Any], ...]:
    """The columns of :class:`~wavelift.ledger.records.ServerRun`."""
    return (
        sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
        sa.Column("run_key", sa.String(KEY_LENGTH), nullable=False, unique=True),
        name_column("wave"),
        name_column("server"),
        sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
        sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
        sa.Column("state", word_type(states), nullable=False),
        sa.Column("progress_pct", sa.Integer, nullable=False, default=0),
        sa.Column("bytes_done", sa.BigInteger, nullable=False, default=0),
        sa.Column("bytes_total", sa.BigInteger, nullable=False, default=0),
        name_column("snapshot_name"),
        name_column("snapshot_vm"),
        sa.Column("snapshot_state", word_type(SnapshotState), nullable=True),
        json_column("bound"),
        text_column("error"),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
        sa.Column("updated_at", UtcTime, nullable=False),
        sa.Column("finished_at", UtcTime, nullable=True),
        sa.Column("version", sa.Integer, nullable=False, default=0),
    )


metadata: Final = sa.MetaData()

mutex: Final = sa.Table(
    # One row per named lock of PostgreSQL. SQLite allows one writer at a time.
    "mutex",
    metadata,
    sa.Column("name", sa.String(NAME_LENGTH), primary_key=True),
)

server: Final = sa.Table(
    "server",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    name_column("source"),
    name_column("identity"),
    name_column("name"),
    name_column("moref"),
    name_column("instance_uuid"),
    text_column("path"),
    json_column("facts"),
    sa.Column("first_seen", UtcTime, nullable=False),
    sa.Column("last_seen", UtcTime, nullable=False),
    sa.UniqueConstraint("source", "identity", name="uq_server_source_identity"),
)

wave_run: Final = sa.Table(
    "wave_run",
    metadata,
    sa.Column("dag_id", sa.String(DAG_LENGTH), primary_key=True),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), primary_key=True),
    name_column("wave"),
    name_column("mode", WORD_LENGTH),
    name_column("requested_by"),
    name_column("source", WORD_LENGTH),
    sa.Column("spec", sa.JSON, nullable=False),
    text_column("note"),
    sa.Column("state", word_type(WaveRunState), nullable=False),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Index("ix_wave_run_created_at", "created_at"),
)

migration: Final = sa.Table(
    "migration",
    metadata,
    *server_run_columns(MigrationState),
    sa.Column("server_id", sa.ForeignKey("server.id", name="fk_migration_server"), nullable=True),
    sa.Column("map_index", sa.Integer, nullable=False),
    name_column("connector"),
    name_column("region", WORD_LENGTH),
    text_column("phase"),
    json_column("export_result"),
    json_column("verify_result"),
    name_column("import_task_id"),
    json_column("import_verdict"),
    name_column("image_id"),
    sa.Column("snapshot_ids", Words, nullable=False, default=()),
    json_column("conversion_report"),
    name_column("instance_id"),
    json_column("launch_result"),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.ForeignKeyConstraint(
        ["dag_id", "dag_run_id"], ["wave_run.dag_id", "wave_run.dag_run_id"], name="fk_migration_wave_run"
    ),
    sa.Index("ix_migration_server_id_state", "server_id", "state"),
    sa.Index("ix_migration_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index("ix_migration_created_at", "created_at"),
)

slot: Final = sa.Table(
    # One row per request, in queue order by id. Released rows stay as history.
    "slot",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("kind", word_type(SlotKind), nullable=False),
    name_column("scope"),
    sa.Column("holder", sa.String(KEY_LENGTH), nullable=False),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("granted_at", UtcTime, nullable=True),
    sa.Column("released_at", UtcTime, nullable=True),
    text_column("release_reason"),
    sa.Column("asked_at", UtcTime, nullable=True),
    sa.Column("priority", sa.Integer, nullable=False, default=1),
    sa.Column("allowed", sa.Integer, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index(
        "uq_slot_standing",
        "kind",
        "scope",
        "holder",
        unique=True,
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    ),
    sa.Index("ix_slot_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index(
        "ix_slot_standing_holder",
        "holder",
        sqlite_where=sa.text("released_at IS NULL"),
        postgresql_where=sa.text("released_at IS NULL"),
    ),
    # Ids must not be reused: they are the order of the queue.
    sqlite_autoincrement=True,
)

event: Final = sa.Table(
    # The audit trail. Triggers of the first revision refuse UPDATE and DELETE.
    "event",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("at", UtcTime, nullable=False),
    name_column("actor"),
    name_column("action", 64),
    name_column("object_kind", WORD_LENGTH),
    sa.Column("object_id", sa.String(KEY_LENGTH), nullable=False),
    name_column("dag_id", DAG_LENGTH),
    name_column("dag_run_id", DAG_LENGTH),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Index("ix_event_object_kind_object_id", "object_kind", "object_id"),
    sa.Index("ix_event_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sqlite_autoincrement=True,
)
