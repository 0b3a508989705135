"""The rows of every flow that follow servers through DAG runs, listed once.

What concerns all flows iterates over it: clean-up, what uses a connector, the progress of imports, the audit trail.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final

from wavelift.ledger import migrations, replication_runs
from wavelift.ledger.database import Tx
from wavelift.ledger.spine import ServerRuns

SERVER_RUNS: Final[tuple[ServerRuns[Any], ...]] = (migrations.ROWS, replication_runs.ROWS)
"""In the order of :data:`wavelift.rules.flows.FLOWS`."""


def rows_of(id: str) -> ServerRuns[Any] | None:
    """The rows among which a row of this id would be. None: it has the prefix of no flow."""
    return next((rows for rows in SERVER_RUNS if id.startswith(rows.flow.prefix)), None)


def begun(tx: Tx, run_keys: Collection[str]) -> frozenset[str]:
    """Those of ``run_keys`` whose server has begun to move: its first snapshot was intended, whatever came then."""
    return (
        frozenset(key for rows in SERVER_RUNS for key in rows.with_snapshot(tx, run_keys)) if run_keys else frozenset()
    )
