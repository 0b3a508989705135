"""Who stands behind scheduled runs, groups of users, the order of waiting for slots, seals of the audit trail.

A scheduled run has the right of whoever made, changed or resumed its job. Of the jobs that stand already, the ledger
knows only who made them.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

TIME = 27
NAME = 255


def upgrade() -> None:
    with op.batch_alter_table("replication_job") as table:
        table.add_column(sa.Column("authorised_by", sa.String(NAME), nullable=False, server_default=""))
    job = sa.table("replication_job", sa.column("authorised_by"), sa.column("created_by"))
    op.get_bind().execute(sa.update(job).values(authorised_by=job.c.created_by))
    op.add_column("slot", sa.Column("priority", sa.Integer, nullable=False, server_default="1"))
    op.add_column("slot", sa.Column("allowed", sa.Integer, nullable=True))
    standing = sa.text("released_at IS NULL")
    op.create_index("ix_slot_standing_holder", "slot", ["holder"], sqlite_where=standing, postgresql_where=standing)
    op.create_table(
        "principal_group",
        sa.Column("user", sa.String(NAME), primary_key=True),
        sa.Column("group", sa.String(NAME), primary_key=True),
        sa.Column("seen_at", sa.String(TIME), nullable=False),
    )
    op.create_table(
        "event_seal",
        sa.Column("last_event_id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_event_id", sa.Integer, nullable=False),
        sa.Column("rows", sa.JSON, nullable=False),
        sa.Column("previous", sa.String(64), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("sealed_at", sa.String(TIME), nullable=False),
        sa.Column("sealed_by", sa.String(NAME), nullable=False),
    )
    _make_append_only()


def _make_append_only() -> None:
    """A seal that may be rewritten proves nothing: as for ``event`` in the first revision."""
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER event_seal_no_{verb.lower()} BEFORE {verb} ON event_seal "
                "BEGIN SELECT RAISE(ABORT, 'the event_seal table is append-only'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION wavelift_seal_append_only() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN RAISE EXCEPTION 'the event_seal table is append-only'; END $$"
    )
    op.execute(
        "CREATE TRIGGER event_seal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_seal "
        "FOR EACH STATEMENT EXECUTE FUNCTION wavelift_seal_append_only()"
    )
