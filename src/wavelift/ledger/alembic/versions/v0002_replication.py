"""Replication jobs and runs, what disks' next runs build on, and the schedules of waves."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

ID = 16
TIME = 27
WORD = 32
NAME = 255
DAG = 250
KEY = 800


def upgrade() -> None:
    _create_job()
    _create_run()
    _create_lineage()
    op.create_table(
        "wave_schedule",
        sa.Column("wave", sa.String(NAME), primary_key=True),
        _required("schedules", sa.JSON()),
        _required("updated_at", sa.String(TIME)),
        _required("version", sa.Integer()),
    )


def _required(name: str, kind: sa.types.TypeEngine[Any]) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=False)


def _create_job() -> None:
    op.create_table(
        "replication_job",
        sa.Column("id", sa.String(ID), primary_key=True),
        *(_required(name, sa.String(NAME)) for name in ("wave", "server", "source", "identity")),
        _required("seed_at", sa.String(TIME)),
        _required("frequency_hours", sa.Integer()),
        _required("scheduled_since", sa.String(TIME)),
        _required("license_type", sa.String(WORD)),
        _required("description", sa.Text()),
        sa.Column("keep_amis", sa.Integer),
        _required("pause_after_failures", sa.Integer()),
        _required("ami", sa.String(WORD)),
        _required("force_register", sa.Boolean()),
        _required("state", sa.String(WORD)),
        _required("state_reason", sa.Text()),
        _required("failures", sa.Integer()),
        _required("failures_since", sa.String(TIME)),
        sa.Column("first_replication_at", sa.String(TIME)),
        sa.Column("term_ends_at", sa.String(TIME)),
        sa.Column("term_warned", sa.Integer),
        *(_required(name, sa.String(NAME)) for name in ("latest_ami_id", "created_by")),
        _required("created_at", sa.String(TIME)),
        _required("updated_at", sa.String(TIME)),
        sa.Column("deleted_at", sa.String(TIME)),
        _required("version", sa.Integer()),
    )
    _unique_where("uq_replication_job_standing", "replication_job", ["wave", "server"], "deleted_at IS NULL")


def _create_run() -> None:
    op.create_table(
        "replication_run",
        sa.Column("id", sa.String(ID), primary_key=True),
        sa.Column("run_key", sa.String(KEY), nullable=False, unique=True),
        sa.Column(
            "job_id", sa.String(ID), sa.ForeignKey("replication_job.id", name="fk_replication_run_job"), nullable=False
        ),
        *(_required(name, sa.String(NAME)) for name in ("wave", "server")),
        *(_required(name, sa.String(WORD)) for name in ("type", "state")),
        _required("status", sa.Text()),
        _required("rule", sa.String(WORD)),
        sa.Column("refused_until", sa.String(TIME)),
        sa.Column("scheduled_for", sa.String(TIME)),
        *(_required(name, sa.String(DAG)) for name in ("dag_id", "dag_run_id")),
        _required("requested_by", sa.String(NAME)),
        _required("requested_at", sa.String(TIME)),
        *(sa.Column(name, sa.String(TIME)) for name in ("counted_at", "started_at", "recorded_at", "finished_at")),
        _required("progress_pct", sa.Integer()),
        *(
            _required(name, sa.BigInteger())
            for name in ("bytes_done", "bytes_total", "bytes_read", "bytes_sent", "blocks_sent")
        ),
        _required("duration_s", sa.Float()),
        *(sa.Column(name, sa.JSON) for name in ("result", "superseded")),
        _required("quarantine", sa.Text()),
        _required("ami_id", sa.String(NAME)),
        sa.Column("ami_state", sa.String(WORD)),
        *(_required(name, sa.String(NAME)) for name in ("snapshot_name", "snapshot_vm", "snapshot_ref")),
        sa.Column("snapshot_state", sa.String(WORD)),
        _required("error", sa.Text()),
        _required("cancel_requested", sa.Boolean()),
        _required("updated_at", sa.String(TIME)),
        _required("version", sa.Integer()),
        sa.UniqueConstraint("job_id", "scheduled_for", name="uq_replication_run_instant"),
    )
    _unique_where("uq_replication_run_open", "replication_run", ["job_id"], "state IN ('reserved', 'active')")
    for columns in (["job_id", "counted_at"], ["wave", "state"], ["dag_id", "dag_run_id"], ["requested_at"]):
        op.create_index(f"ix_replication_run_{'_'.join(columns)}", "replication_run", columns)


def _create_lineage() -> None:
    op.create_table(
        "disk_lineage",
        sa.Column(
            "job_id", sa.String(ID), sa.ForeignKey("replication_job.id", name="fk_disk_lineage_job"), primary_key=True
        ),
        sa.Column("key", sa.Integer, primary_key=True, autoincrement=False),
        _required("address", sa.String(WORD)),
        _required("uuid", sa.String(NAME)),
        _required("file", sa.Text()),
        _required("capacity", sa.BigInteger()),
        sa.Column("change_id", sa.String(NAME)),
        *(_required(name, sa.String(NAME)) for name in ("snapshot_id", "bucket")),
        _required("manifest_key", sa.Text()),
        _required("manifest_digest", sa.String(NAME)),
        _required("encrypted", sa.Boolean()),
        _required("hardware_version", sa.String(NAME)),
        _required("taken_at", sa.String(64)),
        _required("quarantine", sa.Text()),
        sa.Column(
            "run_id", sa.String(ID), sa.ForeignKey("replication_run.id", name="fk_disk_lineage_run"), nullable=False
        ),
        _required("recorded_at", sa.String(TIME)),
    )


def _unique_where(name: str, table: str, columns: list[str], where: str) -> None:
    condition = sa.text(where)
    op.create_index(name, table, columns, unique=True, sqlite_where=condition, postgresql_where=condition)
