"""Cutovers with their steps and approvals, test instances, backups, notifications."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

ID = 16
TIME = 27
WORD = 32
DIGEST = 64
NAME = 255
DAG = 250
KEY = 800


def upgrade() -> None:
    _create_cutover()
    _create_step_and_approval()
    _create_test_instance()
    _create_backup()
    op.create_table(
        "notification",
        sa.Column("key", sa.String(NAME), primary_key=True),
        _required("kind", sa.String(WORD)),
        _required("subject", sa.String(KEY)),
        _required("at", sa.String(TIME)),
        sa.Column("details", sa.JSON),
    )


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


def _run() -> list[sa.Column[Any]]:
    return [_required(name, sa.String(DAG)) for name in ("dag_id", "dag_run_id")]


def _create_cutover() -> None:
    open_states = sa.text(
        "state IN ('reserved', 'waiting', 'going', 'moving', 'switched', 'failed', 'reverting', 'finalizing')"
    )
    op.create_table(
        "cutover",
        sa.Column("id", sa.String(ID), primary_key=True),
        sa.Column("run_key", sa.String(KEY), nullable=False, unique=True),
        *_names("wave", "server", "environment", "request_id", "requested_by", "tier", "job_id"),
        *_run(),
        _required("state", sa.String(WORD)),
        *_texts("phase", "note", "error"),
        _required("requested_at", sa.String(TIME)),
        _required("tier_index", sa.Integer()),
        *_times("window_start", "window_end"),
        *_values("forecast", "source", "target", "checks", "times"),
        _required("plan_digest", sa.String(DIGEST)),
        _required("presync_runs", sa.JSON()),
        *_names("run_id", "image_id", "instance_id", "private_ip"),
        *(_required(name, sa.String(DAG)) for name in ("verify_run", "revert_run", "finalize_run")),
        _required("cancel_requested", sa.Boolean()),
        _required("updated_at", sa.String(TIME)),
        *_times("finished_at"),
        _required("version", sa.Integer()),
    )
    op.create_index(
        "uq_cutover_open",
        "cutover",
        ["wave", "server"],
        unique=True,
        sqlite_where=open_states,
        postgresql_where=open_states,
    )
    op.create_index("ix_cutover_dag_id_dag_run_id", "cutover", ["dag_id", "dag_run_id"])
    op.create_index("ix_cutover_wave_state", "cutover", ["wave", "state"])
    op.create_index("ix_cutover_requested_at", "cutover", ["requested_at"])


def _create_step_and_approval() -> None:
    op.create_table(
        "cutover_step",
        sa.Column("subject_kind", sa.String(WORD), primary_key=True),
        sa.Column("subject_id", sa.String(KEY), primary_key=True),
        sa.Column("name", sa.String(KEY), primary_key=True),
        _required("position", sa.Integer()),
        _required("kind", sa.String(WORD)),
        _required("state", sa.String(WORD)),
        *_texts("words", "undo_words", "error"),
        *_values("spec", "before", "wanted", "wait"),
        *_times("changed_at"),
        _required("updated_at", sa.String(TIME)),
        _required("version", sa.Integer()),
    )
    op.create_table(
        "approval",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
        _required("subject_kind", sa.String(WORD)),
        _required("subject_id", sa.String(KEY)),
        _required("digest", sa.String(DIGEST)),
        _required("answer", sa.String(WORD)),
        *_names("answered_by", "requested_by"),
        _required("answered_at", sa.String(TIME)),
        _required("valid_until", sa.String(TIME)),
        *_texts("note"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_approval_subject", "approval", ["subject_kind", "subject_id"])


def _create_test_instance() -> None:
    op.create_table(
        "test_instance",
        sa.Column("id", sa.String(ID), primary_key=True),
        sa.Column("run_key", sa.String(KEY), nullable=False, unique=True),
        *_names("wave", "server", "environment", "requested_by", "run_id", "image_id", "instance_id", "private_ip"),
        *_run(),
        _required("state", sa.String(WORD)),
        *_texts("phase", "error"),
        *_values("target", "checks"),
        sa.Column("passed", sa.Boolean),
        *_times("launched_at", "ends_at"),
        *(_required(name, sa.String(TIME)) for name in ("created_at", "updated_at")),
        *_times("finished_at"),
        _required("version", sa.Integer()),
    )
    op.create_index("ix_test_instance_wave_state", "test_instance", ["wave", "state"])
    op.create_index("ix_test_instance_dag_id_dag_run_id", "test_instance", ["dag_id", "dag_run_id"])


def _create_backup() -> None:
    op.create_table(
        "backup",
        sa.Column("id", sa.String(ID), primary_key=True),
        *_names("wave", "server", "environment", "subject", "instance_id", "image_id", "template_id", "requested_by"),
        *_run(),
        _required("state", sa.String(WORD)),
        _required("reboot", sa.Boolean()),
        sa.Column("template_version", sa.Integer),
        *_values("target"),
        *_texts("error"),
        *(_required(name, sa.String(TIME)) for name in ("created_at", "updated_at")),
        *_times("finished_at"),
        _required("version", sa.Integer()),
        sa.UniqueConstraint("dag_id", "dag_run_id", "subject", name="uq_backup_run"),
    )
    op.create_index("ix_backup_subject", "backup", ["subject"])
