"""The report of a migrate run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.contexts import HandClock, run_context
from tests.unit.services.test_replication import Desk, clock, desk, made_once

from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun
from wavelift.services.common.report import TaskOutcome
from wavelift.services.dataplane.messages import PreflightReport, ServerTask
from wavelift.services.migration.report import Ended, finish, raise_when_failed

__all__ = ["clock", "desk", "made_once"]

pytestmark = pytest.mark.unit

RUN = DagRun("erp.migrate", "r1")


def test_a_server_that_passed_and_never_began_is_no_success(desk: Desk, clock: HandClock) -> None:
    """A person marks the run failed between the pre-flight and the first server's task: Airflow skips them all."""
    tasks = tuple(
        ServerTask.model_construct(name=name, plan=SimpleNamespace(), facts=SimpleNamespace())
        for name in ("web01", "web02")
    )
    preflight = PreflightReport.model_construct(wave="erp", findings=(), servers=tasks)
    said = TaskOutcome("web02", ("server.reserve",), "a living run migrates this server")
    report = finish(desk.ledger, Ended(preflight, [TaskOutcome("web01", (), ""), said]), run_context(RUN, clock=clock))
    assert {one.server: (one.state, one.error) for one in report.outcomes} == {
        "web01": ("failed", "none of its tasks began: the run was stopped"),
        "web02": ("failed", "a living run migrates this server"),
    }
    with pytest.raises(PermanentError, match="2 of 2 servers did not get through"):
        raise_when_failed(report)
