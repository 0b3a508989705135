"""The right of the person behind a run, asked of vCenter in pre-flight: one call per person (AMP-03)."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tests.contexts import context_of
from tests.wire.services.servers import LIMITED

from wavelift.base.domain import Severity
from wavelift.rules.environment import VcenterCheck
from wavelift.services.dataplane.messages import Admitted, PreflightReport
from wavelift.services.dataplane.preflight import PreflightOptions, RequesterCheck, Sides, run_preflight

from .journey import Stage

pytestmark = pytest.mark.wire

ADMIN = "VSPHERE.LOCAL\\Administrator"
"""As vCenter shows who is signed in; the simulator's user is ``administrator@vsphere.local``."""


def look(
    stage: Stage, principals: Mapping[str, str], mode: VcenterCheck = "require", user: str = "ana"
) -> PreflightReport:
    wave = stage.wave("web01", "mute01")
    admitted = Admitted(wave=wave, mode="preflight", dag_id="lab.migrate", run_id="r", requested_by="test")
    options = PreflightOptions(requesters=RequesterCheck(mode, principals, user))
    sides = Sides(stage.connect, stage.access)
    return run_preflight(sides, admitted, context_of("lab.migrate/r/*"), options).believed()


def told(report: PreflightReport) -> dict[str, tuple[str, Severity]]:
    found = [one for one in report.findings if one.code.startswith("requester.")]
    return {one.subject: (one.code, one.severity) for one in found}


def asked(stage: Stage) -> int:
    return sum(
        calls.get("FetchUserPrivilegeOnEntities", 0)
        for calls in stage.vc.counters().values()
        if isinstance(calls, dict)
    )


def test_who_may_export_goes_and_costs_one_call_for_the_wave(stage: Stage) -> None:
    before = asked(stage)
    report = look(stage, {"*": ADMIN})
    assert not told(report)
    assert len(report.passed) == 2
    assert asked(stage) - before == 1


def test_who_may_not_export_is_refused_by_name_whatever_the_service_account_may(stage: Stage) -> None:
    report = look(stage, {"*": LIMITED.name})
    assert told(report) == dict.fromkeys(("web01", "mute01"), ("requester.may_not_export", Severity.ERROR))
    assert not report.passed
    words = next(one.what for one in report.findings if one.code == "requester.may_not_export")
    assert words == "limited@vsphere.local lacks VApp.Export on the VM (link: requester_in_vcenter)"


def test_each_server_of_a_scheduled_run_has_the_right_of_whoever_ordered_it(stage: Stage) -> None:
    report = look(stage, {"web01": ADMIN, "mute01": LIMITED.name})
    assert [task.name for task in report.passed] == ["web01"]
    assert told(report) == {"mute01": ("requester.may_not_export", Severity.ERROR)}


@pytest.mark.parametrize("fault", ["", "InvalidArgument"])
def test_whom_vcenter_does_not_know_is_refused(stage: Stage, fault: str) -> None:
    """What vCenter says then is not documented."""
    if fault:
        stage.vc.rule(kind="fault", method="FetchUserPrivilegeOnEntities", fault=fault)
    report = look(stage, {"*": "CORP\\nobody"})
    assert told(report) == dict.fromkeys(("web01", "mute01"), ("requester.unknown", Severity.ERROR))
    assert "vCenter knows no user 'CORP\\nobody'" in {one.what.partition(" (")[0] for one in report.findings}


@pytest.mark.parametrize(
    ("user", "who", "entry"),
    [("ana", "'ana'", "vcenter: {users: {ana: 'CORP\\ana'}}"), ("", "the user behind the run", "{NAME: 'CORP\\NAME'}")],
)
def test_a_user_without_a_name_in_vcenter_is_refused_and_not_asked_about(
    stage: Stage, user: str, who: str, entry: str
) -> None:
    """Empty: the schedule's run. The words show what to write, and where."""
    before = asked(stage)
    report = look(stage, {"*": ""}, user=user)
    finding = next(one for one in report.findings if one.code == "requester.unmapped")
    assert f"environments/principals.yaml does not say who {who} is in vCenter" in finding.what
    assert entry in finding.next_action
    assert r"vcenter: {pattern: 'CORP\{user}'}" in finding.next_action
    assert "vcenter_check: off" in finding.next_action
    assert told(report) == dict.fromkeys(("web01", "mute01"), ("requester.unmapped", Severity.ERROR))
    assert asked(stage) == before


@pytest.mark.parametrize("mode", ["mapped", "off"])
def test_where_nobody_is_asked_a_note_says_so(stage: Stage, mode: VcenterCheck) -> None:
    report = look(stage, {}, mode)
    assert told(report) == dict.fromkeys(("web01", "mute01"), ("requester.not_checked", Severity.INFO))
    assert len(report.passed) == 2
    assert {mode in one.why for one in report.findings if one.code == "requester.not_checked"} == {True}
