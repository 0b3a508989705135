"""Whether an order to stop a source still counts: the ledger is asked in place of the connector, which has none."""

from __future__ import annotations

from wavelift.base.errors import WaveliftError
from wavelift.base.names import run_key
from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, cutovers
from wavelift.rules.cutover import CutoverState
from wavelift.services.cutover.moving import require_state, require_wanted


def why_not(ledger: Ledger, run: DagRun, server: str) -> WaveliftError | None:
    """Why a server's source must not be stopped now; None: its cutover moves, or failed and was not brought back."""
    try:
        with ledger.read() as tx:
            known = cutovers.get(tx, cutovers.cutover_id(run_key(run.dag_id, run.dag_run_id, server)))
        require_wanted(known)
        require_state(known, CutoverState.MOVING, CutoverState.FAILED)
    except WaveliftError as error:
        if error.retryable:
            raise
        return error
    return None
