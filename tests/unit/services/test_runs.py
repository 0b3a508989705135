"""The report of a migrate run."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.contexts import HandClock, run_context
from tests.unit.services.test_replication import Desk, clock, desk, made_once

from wavelift.base.errors import Cancelled, FencedError, PermanentError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.services.common.report import TaskOutcome, tidied
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


@pytest.mark.parametrize("stopped", [FencedError("another try"), Cancelled("stopped")])
def test_a_report_that_must_stop_does_not_go_on_to_the_next_server(stopped: Exception) -> None:
    def tidy() -> str:
        raise stopped

    with pytest.raises(type(stopped)):
        tidied("web01", "its image may still lie in AWS", tidy)


def test_what_could_not_be_tidied_is_told() -> None:
    def tidy() -> str:
        raise UnreachableError("no connection")

    assert tidied("web01", "its image may still lie in AWS", tidy) == (
        "web01: its image may still lie in AWS: no connection"
    )
    assert tidied("web01", "", lambda: "") == ""
