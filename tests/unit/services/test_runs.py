"""The report of a replicate run, and what the reports of all flows share."""

from __future__ import annotations

import pytest
from tests.rights import OPEN
from tests.unit.services.test_frozen import wave
from tests.unit.services.test_refused import RDM, ROLE, wrong
from tests.unit.services.test_replication import Desk, clock, desk, made_once

from wavelift.base.domain import Finding
from wavelift.base.errors import Cancelled, FencedError, PermanentError, UnreachableError
from wavelift.base.run import DagRun
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.report import TaskOutcome, tidied
from wavelift.services.dataplane.messages import PreflightReport, ServerTask
from wavelift.services.replication.admit import admit
from wavelift.services.replication.report import Ended, ReplicationReport, ServerEnd, finish, raise_when_failed

__all__ = ["clock", "desk", "made_once"]

pytestmark = pytest.mark.unit

RUN = DagRun("erp.replicate", "r1")


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


# A replicate run whose pre-flight keeps servers back


def _report(
    desk: Desk, *findings: Finding, found: tuple[str, ...], failed: tuple[ServerEnd, ...] = ()
) -> ReplicationReport:
    """Of a run of ``web01`` and ``win01``, of which the pre-flight found some."""
    for name in ("web01", "win01"):
        desk.create(name)
    tasks = tuple(ServerTask.model_construct(name=name) for name in found)
    preflight = PreflightReport.model_construct(wave="erp", findings=findings, servers=tasks)
    ctx = desk.ctx(RUN)
    admit(desk.ledger, RunRequest("erp", {}), lambda _: wave("web01", "win01"), ctx, rights=OPEN)
    ended = Ended(None, preflight, failed)
    report = finish(desk.ledger, ended, ctx, tidy=lambda *_: "")
    assert finish(desk.ledger, ended, ctx, tidy=lambda *_: "") == report, "it may be told again"
    return report


def _told(report: ReplicationReport) -> str:
    with pytest.raises(PermanentError) as caught:
        raise_when_failed(report)
    return str(caught.value)


def test_a_server_that_is_kept_back_is_not_told_to_clear_a_task_that_it_has_not(desk: Desk) -> None:
    said = ServerEnd(TaskOutcome("web01", (CONTINUE_FROM,), "the connector is in maintenance"))
    words = _told(_report(desk, wrong("win01/disk 2", RDM), found=("web01", "win01"), failed=(said,)))
    assert words.splitlines() == [
        "web01 failed: the connector is in maintenance",
        f"win01 refused by the pre-flight: {RDM}. Change it [wave=erp]. Remove the cause, then trigger erp.replicate "
        'again with servers: win01 (as conf: {"servers": ["win01"]})',
        f"To continue web01: remove the cause, then clear the task {CONTINUE_FROM} of each, with downstream",
    ]


def test_an_error_of_the_whole_wave_keeps_every_server_back(desk: Desk) -> None:
    words = _told(_report(desk, wrong("*/role", ROLE), found=("web01",)))
    assert words.splitlines()[:2] == [
        "The pre-flight refused every server of this run",
        f"web01, win01 refused by the pre-flight: {ROLE}. Change it [wave=erp]. Remove the cause, then trigger "
        'erp.replicate again with servers: web01, win01 (as conf: {"servers": ["web01", "win01"]})',
    ]
    assert "*" not in words


def test_a_server_that_the_wave_no_longer_finds_is_kept_back(desk: Desk) -> None:
    words = _told(_report(desk, found=("web01",)))
    assert "win01 refused by the pre-flight: the wave's file does not list the server" in words
    assert "again with servers: win01 " in words
    assert f"To continue web01: remove the cause, then clear the task {CONTINUE_FROM}" in words
