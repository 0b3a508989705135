"""The list of the rows of every flow: complete, and each of them answers what is asked of all."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
from tests.ledgers import within

from wavelift.ledger import Ledger
from wavelift.ledger.server_runs import SERVER_RUNS, rows_of
from wavelift.ledger.spine import Rows, RunningImport, ServerRuns
from wavelift.rules.flows import CUTOVER, FLOWS, LIVE, TEST, SlotKind

from .conftest import HandClock

pytestmark = pytest.mark.unit

ROWS = pytest.mark.parametrize("rows", SERVER_RUNS, ids=lambda rows: rows.flow.name)


def test_every_flow_has_its_rows_once() -> None:
    """Without them, clean-up leaves its snapshots, and its connector can be removed while it works.

    The snapshots of a cutover are those of its replication runs, a test has none, and HCX takes its own.
    """
    assert tuple(rows.flow for rows in SERVER_RUNS) == tuple(
        flow for flow in FLOWS if flow not in (CUTOVER, TEST, LIVE)
    )


@ROWS
def test_an_id_leads_to_the_rows(rows: ServerRuns[Any]) -> None:
    assert rows_of(rows.id_of("erp.any/r1/web01")) is rows
    assert rows_of(rows.id_of_hash("0")) is rows


def test_the_id_of_another_object_leads_to_no_rows() -> None:
    assert [rows_of(id) for id in ("job-1", "web01", "", "mig")] == [None] * 4


@ROWS
def test_all_rows_answer_what_is_asked_of_every_flow(ledger: Ledger, clock: HandClock, rows: ServerRuns[Any]) -> None:
    assert within(ledger.read(), rows.count_active, "hall-a") == 0
    assert within(ledger.read(), rows.open_snapshots, "erp") == ()
    assert within(ledger.read(), rows.started_runs, "erp") == ()
    imports = [RunningImport(id="import-ami-1", phase="converting", percent=28, run="0")]
    within(ledger.write(), rows.record_import_progress, imports, clock=clock)


@ROWS
def test_a_flow_that_imports_shows_the_progress(rows: ServerRuns[Any]) -> None:
    imports = any(SlotKind.IMPORT in step.holds for step in rows.flow.steps)
    shows = type(rows).record_import_progress is not ServerRuns.record_import_progress
    assert shows is imports


@ROWS
def test_a_change_names_a_person_or_the_run_and_never_none(rows: ServerRuns[Any]) -> None:
    """A row without a run needs a name; one with a run has that."""
    assert inspect.signature(Rows.apply).parameters["by"].default is inspect.Parameter.empty
    assert inspect.signature(Rows.tell).parameters["by"].default is inspect.Parameter.empty
    assert inspect.signature(rows.apply).parameters["by"].default == ""
