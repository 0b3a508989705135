"""Wave runs, migrations, slots, events."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

TIME = 27
WORD = 32
NAME = 255
DAG = 250
KEY = 800


def upgrade() -> None:
    op.create_table("mutex", sa.Column("name", sa.String(NAME), primary_key=True))
    _create_server()
    _create_wave_run()
    _create_migration()
    _create_slot()
    _create_event()


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _create_server() -> None:
    op.create_table(
        "server",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        *(_required(name, sa.String(NAME)) for name in ("source", "identity", "name", "moref", "instance_uuid")),
        _required("path", sa.Text()),
        sa.Column("facts", sa.JSON),
        _required("first_seen", sa.String(TIME)),
        _required("last_seen", sa.String(TIME)),
        sa.UniqueConstraint("source", "identity", name="uq_server_source_identity"),
    )


def _create_wave_run() -> None:
    op.create_table(
        "wave_run",
        sa.Column("dag_id", sa.String(DAG), primary_key=True),
        sa.Column("dag_run_id", sa.String(DAG), primary_key=True),
        _required("wave", sa.String(NAME)),
        _required("mode", sa.String(WORD)),
        _required("requested_by", sa.String(NAME)),
        _required("source", sa.String(WORD)),
        _required("spec", sa.JSON()),
        _required("note", sa.Text()),
        _required("state", sa.String(WORD)),
        _required("created_at", sa.String(TIME)),
        sa.Column("finished_at", sa.String(TIME)),
    )
    op.create_index("ix_wave_run_created_at", "wave_run", ["created_at"])


def _create_migration() -> None:
    op.create_table(
        "migration",
        sa.Column("id", sa.String(16), primary_key=True),
        sa.Column("run_key", sa.String(KEY), nullable=False, unique=True),
        _required("wave", sa.String(NAME)),
        _required("server", sa.String(NAME)),
        sa.Column("server_id", sa.Integer, sa.ForeignKey("server.id", name="fk_migration_server"), nullable=False),
        _required("dag_id", sa.String(DAG)),
        _required("dag_run_id", sa.String(DAG)),
        _required("map_index", sa.Integer()),
        _required("connector", sa.String(NAME)),
        _required("region", sa.String(WORD)),
        _required("state", sa.String(WORD)),
        _required("phase", sa.Text()),
        _required("progress_pct", sa.Integer()),
        _required("bytes_done", sa.BigInteger()),
        _required("bytes_total", sa.BigInteger()),
        *(_required(name, sa.String(NAME)) for name in ("snapshot_name", "snapshot_vm", "snapshot_ref")),
        sa.Column("snapshot_state", sa.String(WORD)),
        sa.Column("export_result", sa.JSON),
        sa.Column("verify_result", sa.JSON),
        _required("import_task_id", sa.String(NAME)),
        _required("image_id", sa.String(NAME)),
        _required("snapshot_ids", sa.JSON()),
        sa.Column("conversion_report", sa.JSON),
        _required("instance_id", sa.String(NAME)),
        sa.Column("launch_result", sa.JSON),
        _required("error", sa.Text()),
        _required("cancel_requested", sa.Boolean()),
        _required("created_at", sa.String(TIME)),
        _required("updated_at", sa.String(TIME)),
        sa.Column("finished_at", sa.String(TIME)),
        _required("version", sa.Integer()),
        sa.ForeignKeyConstraint(
            ["dag_id", "dag_run_id"], ["wave_run.dag_id", "wave_run.dag_run_id"], name="fk_migration_wave_run"
        ),
    )
    op.create_index("ix_migration_server_id_state", "migration", ["server_id", "state"])
    op.create_index("ix_migration_dag_id_dag_run_id", "migration", ["dag_id", "dag_run_id"])
    op.create_index("ix_migration_created_at", "migration", ["created_at"])


def _create_slot() -> None:
    op.create_table(
        "slot",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _required("kind", sa.String(WORD)),
        _required("scope", sa.String(NAME)),
        _required("holder", sa.String(KEY)),
        _required("dag_id", sa.String(DAG)),
        _required("dag_run_id", sa.String(DAG)),
        _required("requested_at", sa.String(TIME)),
        sa.Column("granted_at", sa.String(TIME)),
        sa.Column("released_at", sa.String(TIME)),
        _required("release_reason", sa.Text()),
        sa.Column("asked_at", sa.String(TIME)),
        _required("version", sa.Integer()),
        sqlite_autoincrement=True,
    )
    standing = sa.text("released_at IS NULL")
    op.create_index(
        "uq_slot_standing",
        "slot",
        ["kind", "scope", "holder"],
        unique=True,
        sqlite_where=standing,
        postgresql_where=standing,
    )
    op.create_index("ix_slot_dag_id_dag_run_id", "slot", ["dag_id", "dag_run_id"])


def _create_event() -> None:
    op.create_table(
        "event",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _required("at", sa.String(TIME)),
        _required("actor", sa.String(NAME)),
        _required("action", sa.String(64)),
        _required("object_kind", sa.String(WORD)),
        _required("object_id", sa.String(KEY)),
        _required("dag_id", sa.String(DAG)),
        _required("dag_run_id", sa.String(DAG)),
        _required("details", sa.JSON()),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_event_object_kind_object_id", "event", ["object_kind", "object_id"])
    op.create_index("ix_event_dag_id_dag_run_id", "event", ["dag_id", "dag_run_id"])
    _make_append_only()


def _make_append_only() -> None:
    """The audit trail can be added to, not rewritten; whoever may must drop the trigger first, and that shows."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER event_no_{verb.lower()} BEFORE {verb} ON event "
                "BEGIN SELECT RAISE(ABORT, 'the event table is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION wavelift_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the event table is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER event_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event "
        "FOR EACH STATEMENT EXECUTE FUNCTION wavelift_append_only()"
    )
