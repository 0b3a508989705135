"""What a server's row is bound to from its first reservation on: the VM, its frozen plan, its map index. Whether the
import of a migration read the disks that were exported."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    for table in ("migration", "replication_run"):
        op.add_column(table, sa.Column("bound", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("migration", sa.Column("import_verdict", sa.JSON(none_as_null=True), nullable=True))
