"""The managed object id of a vSphere snapshot goes: nothing wrote it, a snapshot is found by its name."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    for table in ("migration", "replication_run"):
        op.drop_column(table, "snapshot_ref")
