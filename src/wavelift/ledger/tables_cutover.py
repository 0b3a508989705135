"""The tables of cutovers, their steps and approvals, of test instances, backups and notifications.

Part of the schema of :mod:`wavelift.ledger.tables`.
"""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from wavelift.ledger.tables import (
    DAG_LENGTH,
    ID_LENGTH,
    KEY_LENGTH,
    NAME_LENGTH,
    WORD_LENGTH,
    UtcTime,
    Words,
    json_column,
    metadata,
    name_column,
    text_column,
    word_type,
)
from wavelift.rules.cutover import OPEN, BackupState, CutoverState, StepState, TrialState

DIGEST_LENGTH: Final = 64
_OPEN: Final = sa.text(f"state IN ({', '.join(repr(str(state)) for state in CutoverState if state in OPEN)})")

cutover: Final = sa.Table(
    "cutover",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    sa.Column("run_key", sa.String(KEY_LENGTH), nullable=False, unique=True),
    name_column("wave"),
    name_column("server"),
    name_column("environment"),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("state", word_type(CutoverState), nullable=False),
    text_column("phase"),
    name_column("request_id"),
    name_column("requested_by"),
    sa.Column("requested_at", UtcTime, nullable=False),
    text_column("note"),
    name_column("tier"),
    sa.Column("tier_index", sa.Integer, nullable=False, default=0),
    sa.Column("window_start", UtcTime, nullable=True),
    sa.Column("window_end", UtcTime, nullable=True),
    name_column("job_id"),
    json_column("forecast"),
    name_column("plan_digest", DIGEST_LENGTH),
    json_column("source"),
    sa.Column("presync_runs", Words, nullable=False, default=()),
    name_column("run_id"),
    name_column("image_id"),
    name_column("instance_id"),
    name_column("private_ip"),
    json_column("target"),
    json_column("checks"),
    json_column("times"),
    name_column("verify_run", DAG_LENGTH),
    name_column("revert_run", DAG_LENGTH),
    name_column("finalize_run", DAG_LENGTH),
    text_column("error"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, default=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index(
        # The database also enforces that a server of a wave has at most one open cutover.
        "uq_cutover_open",
        "wave",
        "server",
        unique=True,
        sqlite_where=_OPEN,
        postgresql_where=_OPEN,
    ),
    sa.Index("ix_cutover_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index("ix_cutover_wave_state", "wave", "state"),
    sa.Index("ix_cutover_requested_at", "requested_at"),
)

cutover_step: Final = sa.Table(
    # The subject is no foreign key: other flows have undoable steps, too.
    "cutover_step",
    metadata,
    sa.Column("subject_kind", sa.String(WORD_LENGTH), primary_key=True),
    sa.Column("subject_id", sa.String(KEY_LENGTH), primary_key=True),
    sa.Column("name", sa.String(KEY_LENGTH), primary_key=True),
    sa.Column("position", sa.Integer, nullable=False),
    name_column("kind", WORD_LENGTH),
    sa.Column("state", word_type(StepState), nullable=False),
    text_column("words"),
    text_column("undo_words"),
    json_column("spec"),
    json_column("before"),
    json_column("wanted"),
    json_column("wait"),
    text_column("error"),
    sa.Column("changed_at", UtcTime, nullable=True),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=0),
)

approval: Final = sa.Table(
    "approval",
    metadata,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("subject_kind", sa.String(WORD_LENGTH), nullable=False),
    sa.Column("subject_id", sa.String(KEY_LENGTH), nullable=False),
    sa.Column("digest", sa.String(DIGEST_LENGTH), nullable=False),
    name_column("answer", WORD_LENGTH),
    name_column("answered_by"),
    name_column("requested_by"),
    sa.Column("answered_at", UtcTime, nullable=False),
    sa.Column("valid_until", UtcTime, nullable=False),
    text_column("note"),
    sa.Index("ix_approval_subject", "subject_kind", "subject_id"),
    sqlite_autoincrement=True,
)

test_instance: Final = sa.Table(
    "test_instance",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    sa.Column("run_key", sa.String(KEY_LENGTH), nullable=False, unique=True),
    name_column("wave"),
    name_column("server"),
    name_column("environment"),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("state", word_type(TrialState), nullable=False),
    text_column("phase"),
    name_column("requested_by"),
    name_column("run_id"),
    name_column("image_id"),
    name_column("instance_id"),
    name_column("private_ip"),
    json_column("target"),
    json_column("checks"),
    sa.Column("passed", sa.Boolean, nullable=True),
    text_column("error"),
    sa.Column("launched_at", UtcTime, nullable=True),
    sa.Column("ends_at", UtcTime, nullable=True),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index("ix_test_instance_wave_state", "wave", "state"),
    sa.Index("ix_test_instance_dag_id_dag_run_id", "dag_id", "dag_run_id"),
)

backup: Final = sa.Table(
    "backup",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    name_column("wave"),
    name_column("server"),
    name_column("environment"),
    name_column("subject"),
    sa.Column("dag_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("dag_run_id", sa.String(DAG_LENGTH), nullable=False),
    sa.Column("state", word_type(BackupState), nullable=False),
    sa.Column("reboot", sa.Boolean, nullable=False, default=False),
    name_column("instance_id"),
    name_column("image_id"),
    name_column("template_id"),
    sa.Column("template_version", sa.Integer, nullable=True),
    json_column("target"),
    name_column("requested_by"),
    text_column("error"),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("finished_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index("ix_backup_subject", "subject"),
    sa.UniqueConstraint("dag_id", "dag_run_id", "subject", name="uq_backup_run"),
)

notification: Final = sa.Table(
    # One row per event that somebody was told about: it is told once.
    "notification",
    metadata,
    sa.Column("key", sa.String(NAME_LENGTH), primary_key=True),
    name_column("kind", WORD_LENGTH),
    sa.Column("subject", sa.String(KEY_LENGTH), nullable=False),
    sa.Column("at", UtcTime, nullable=False),
    json_column("details"),
)
