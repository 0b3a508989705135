"""Run by Alembic. The connection comes from the caller, which also owns the transaction."""

from __future__ import annotations

from alembic import context

from wavelift.ledger import (  # noqa: F401 - their tables join the metadata
    replication_tables,
    tables_authority,
    tables_catalog,
    tables_cutover,
    tables_exports,
    tables_hcx,
)
from wavelift.ledger.revisions import VERSION_TABLE
from wavelift.ledger.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
)
context.run_migrations()
