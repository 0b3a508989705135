"""Entries that select the same VM stop this VM and no other."""

from __future__ import annotations

import pytest
from tests.contexts import context_of

from wavelift.base.domain import Severity
from wavelift.services.dataplane.messages import Admitted, PreflightReport
from wavelift.services.dataplane.preflight import Sides, run_preflight

from .journey import Stage

pytestmark = pytest.mark.wire


def look(stage: Stage, *servers: str | dict[str, str]) -> PreflightReport:
    wave = stage.wave(*servers)
    admitted = Admitted(wave=wave, mode="preflight", dag_id="lab.migrate", run_id="r", requested_by="test")
    sides = Sides(stage.connect, stage.access)
    return run_preflight(sides, admitted, context_of("lab.migrate/r/*")).believed()


def test_a_vm_that_two_entries_select_stops_alone(stage: Stage) -> None:
    report = look(stage, "web01", {"path": "/dc1/vm/shop/web01"}, "mute01", "nobody")
    assert [task.name for task in report.passed] == ["mute01"]
    stopped = {one.subject: one for one in report.findings if one.severity is Severity.ERROR}
    assert {subject: one.code for subject, one in stopped.items()} == {
        "web01": "server.ambiguous",
        "nobody": "server.not_found",
    }
    assert "name 'web01' and path '/dc1/vm/shop/web01'" in stopped["web01"].what
