"""A migration may have no server: pre-flight refused it, or its entry of the wave found no VM."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    with op.batch_alter_table("migration") as table:  # SQLite cannot change a column: the table is copied
        table.alter_column("server_id", existing_type=sa.Integer(), nullable=True)
