"""The tables of replication. Part of the same schema as :mod:`wavelift.ledger.tables`."""

from __future__ import annotations

from typing import Final

import sqlalchemy as sa

from wavelift.ledger.replication_records import AmiState
from wavelift.ledger.tables import ID_LENGTH, NAME_LENGTH, WORD_LENGTH, UtcTime, metadata, server_run_columns
from wavelift.ledger.tables import json_column as _json
from wavelift.ledger.tables import name_column as _name
from wavelift.ledger.tables import text_column as _text
from wavelift.ledger.tables import word_type as _word
from wavelift.rules.replication import JobState, RunState, RunType

replication_job: Final = sa.Table(
    "replication_job",
    metadata,
    sa.Column("id", sa.String(ID_LENGTH), primary_key=True),
    _name("wave"),
    _name("server"),
    _name("source"),
    _name("identity"),
    sa.Column("seed_at", UtcTime, nullable=False),
    sa.Column("frequency_hours", sa.Integer, nullable=False),
    sa.Column("scheduled_since", UtcTime, nullable=False),
    _name("license_type", WORD_LENGTH),
    _text("description"),
    sa.Column("keep_amis", sa.Integer, nullable=True),
    sa.Column("pause_after_failures", sa.Integer, nullable=False),
    _name("ami", WORD_LENGTH),
    sa.Column("force_register", sa.Boolean, nullable=False, default=False),
    sa.Column("state", _word(JobState), nullable=False),
    _text("state_reason"),
    sa.Column("failures", sa.Integer, nullable=False, default=0),
    sa.Column("failures_since", UtcTime, nullable=False),
    sa.Column("first_replication_at", UtcTime, nullable=True),
    sa.Column("term_ends_at", UtcTime, nullable=True),
    sa.Column("term_warned", sa.Integer, nullable=True),
    _name("latest_ami_id"),
    _name("created_by"),
    _name("authorised_by"),
    sa.Column("created_at", UtcTime, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("deleted_at", UtcTime, nullable=True),
    sa.Column("version", sa.Integer, nullable=False, default=0),
    sa.Index(
        "uq_replication_job_standing",
        "wave",
        "server",
        unique=True,
        sqlite_where=sa.text("deleted_at IS NULL"),
        postgresql_where=sa.text("deleted_at IS NULL"),
    ),
)

replication_run: Final = sa.Table(
    "replication_run",
    metadata,
    *server_run_columns(RunState),
    sa.Column("job_id", sa.ForeignKey("replication_job.id", name="fk_replication_run_job"), nullable=False),
    sa.Column("type", _word(RunType), nullable=False),
    _text("status"),
    _name("rule", WORD_LENGTH),
    sa.Column("refused_until", UtcTime, nullable=True),
    sa.Column("scheduled_for", UtcTime, nullable=True),
    _name("requested_by"),
    sa.Column("requested_at", UtcTime, nullable=False),
    sa.Column("counted_at", UtcTime, nullable=True),
    sa.Column("started_at", UtcTime, nullable=True),
    sa.Column("recorded_at", UtcTime, nullable=True),
    sa.Column("bytes_read", sa.BigInteger, nullable=False, default=0),
    sa.Column("bytes_sent", sa.BigInteger, nullable=False, default=0),
    sa.Column("blocks_sent", sa.BigInteger, nullable=False, default=0),
    sa.Column("duration_s", sa.Float, nullable=False, default=0.0),
    _json("result"),
    _json("superseded"),
    _text("quarantine"),
    _name("ami_id"),
    sa.Column("ami_state", _word(AmiState), nullable=True),
    sa.Index(
        # The database also enforces that a job has at most one open run.
        "uq_replication_run_open",
        "job_id",
        unique=True,
        sqlite_where=sa.text("state IN ('reserved', 'active')"),
        postgresql_where=sa.text("state IN ('reserved', 'active')"),
    ),
    # A scheduled time has at most one run; a skipped one stays skipped.
    sa.UniqueConstraint("job_id", "scheduled_for", name="uq_replication_run_instant"),
    sa.Index("ix_replication_run_job_id_counted_at", "job_id", "counted_at"),
    sa.Index("ix_replication_run_wave_state", "wave", "state"),
    sa.Index("ix_replication_run_dag_id_dag_run_id", "dag_id", "dag_run_id"),
    sa.Index("ix_replication_run_requested_at", "requested_at"),
)

disk_lineage: Final = sa.Table(
    "disk_lineage",
    metadata,
    sa.Column("job_id", sa.ForeignKey("replication_job.id", name="fk_disk_lineage_job"), primary_key=True),
    sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
    _name("address", WORD_LENGTH),
    _name("uuid"),
    _text("file"),
    sa.Column("capacity", sa.BigInteger, nullable=False),
    sa.Column("change_id", sa.String(NAME_LENGTH), nullable=True),
    _name("snapshot_id"),
    _name("bucket"),
    _text("manifest_key"),
    _name("manifest_digest"),
    sa.Column("encrypted", sa.Boolean, nullable=False, default=False),
    _name("hardware_version"),
    _name("taken_at", 64),
    _text("quarantine"),
    sa.Column("run_id", sa.ForeignKey("replication_run.id", name="fk_disk_lineage_run"), nullable=False),
    sa.Column("recorded_at", UtcTime, nullable=False),
)

wave_schedule: Final = sa.Table(
    "wave_schedule",
    metadata,
    sa.Column("wave", sa.String(NAME_LENGTH), primary_key=True),
    sa.Column("schedules", sa.JSON, nullable=False),
    sa.Column("updated_at", UtcTime, nullable=False),
    sa.Column("version", sa.Integer, nullable=False, default=0),
)
