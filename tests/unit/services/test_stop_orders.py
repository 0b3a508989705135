"""Whether an order to stop a source still counts, asked of the ledger."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.contexts import HandClock
from tests.ledgers import fresh_ledger, within

from wavelift.base.run import DagRun
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.rules.cutover import CutoverState
from wavelift.services.cutover.orders import why_not

pytestmark = pytest.mark.unit

RUN = DagRun("erp.cutover", "r1")
COUNTS = {CutoverState.MOVING, CutoverState.FAILED}


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return fresh_ledger(tmp_path / "ledger.db")


def _opened(ledger: Ledger, **columns: object) -> None:
    key = f"{RUN.dag_id}/{RUN.dag_run_id}/web01"
    with ledger.write(jobs.lock_name("erp")) as tx:
        cutovers.insert(tx, at=HandClock().now(), by="ana", run=RUN, run_key=key, wave="erp", server="web01", **columns)


@pytest.mark.parametrize("state", CutoverState)
def test_it_counts_while_the_cutover_moves(ledger: Ledger, state: CutoverState) -> None:
    _opened(ledger, state=state)
    refused = why_not(ledger, RUN, "web01")
    assert (refused is None) is (state in COUNTS)
    if state is CutoverState.REVERTING:
        assert "it is being reverted" in str(refused)


def test_one_that_was_cancelled_does_not_count(ledger: Ledger) -> None:
    _opened(ledger, state=CutoverState.MOVING, cancel_requested=True)
    assert "was cancelled on request" in str(why_not(ledger, RUN, "web01"))


def test_another_run_s_order_is_no_order_of_this_one(ledger: Ledger) -> None:
    _opened(ledger, state=CutoverState.MOVING)
    assert why_not(ledger, DagRun("erp.cutover", "r2"), "web01") is not None
    assert within(ledger.read(), cutovers.of_dag_run, RUN)
