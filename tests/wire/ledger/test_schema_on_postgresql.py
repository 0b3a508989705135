"""The revisions make the same tables on PostgreSQL, and the audit trail is append-only there too."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from tests.unit.ledger.test_revisions import _ours

from wavelift.base.errors import WaveliftError
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, tables

pytestmark = pytest.mark.wire


def test_the_revisions_make_the_tables(ledger: Ledger) -> None:
    with ledger.read() as tx:
        context = MigrationContext.configure(tx, opts={"include_object": _ours, "compare_type": True})
        assert compare_metadata(context, tables.metadata) == []


@pytest.mark.parametrize("statement", ["UPDATE event SET actor = 'bob'", "DELETE FROM event", "TRUNCATE event"])
def test_the_audit_trail_cannot_be_rewritten(ledger: Ledger, run: DagRun, statement: str) -> None:
    with pytest.raises(WaveliftError, match="append-only"):
        with ledger.write() as tx:
            tx.execute(sa.text(statement))
