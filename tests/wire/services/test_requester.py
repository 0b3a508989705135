"""What vCenter is asked about a grant (AMP-03): the right of the person behind a run, in pre-flight by one call per
person and before the snapshot; and which VM it is that moves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from tests.contexts import context_of
from tests.wire.services.servers import LIMITED

from wavelift.base.domain import ServerFacts, Severity
from wavelift.base.errors import GrantError
from wavelift.rules.environment import VcenterCheck
from wavelift.rules.grants import Grant
from wavelift.services.dataplane import grants
from wavelift.services.dataplane.messages import Admitted, PreflightReport
from wavelift.services.dataplane.preflight import PreflightOptions, Sides, run_preflight

from .journey import Stage

pytestmark = pytest.mark.wire

ADMIN = "VSPHERE.LOCAL\\Administrator"
"""As vCenter shows who is signed in; the simulator's user is ``administrator@vsphere.local``."""


def granted(**changes: Any) -> Grant:
    """For a person who may."""
    values: dict[str, Any] = {
        "scope": "move",
        "user": "test",
        "action": "migrate",
        "environment": "lab",
        "dag_id": "lab.migrate",
    }
    values |= {
        "run_id": "r",
        "server": "web01",
        "vcenter": "vsphere_lab",
        "connector": "hall-a",
        "plan": "a" * 64,
        "principals": {"*": ADMIN},
    }
    return Grant(**(values | changes))


def look(
    stage: Stage, principals: Mapping[str, str], mode: VcenterCheck = "require", user: str = "ana"
) -> PreflightReport:
    wave = stage.wave("web01", "mute01")
    admitted = Admitted(wave=wave, mode="preflight", dag_id="lab.migrate", run_id="r", requested_by="test")
    options = PreflightOptions(grant=granted(scope="look", user=user, principals=principals, vcenter_check=mode))
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


# Before the snapshot


@pytest.fixture(scope="module")
def seen() -> dict[str, ServerFacts]:
    return {}


@pytest.fixture
def facts(stage: Stage, seen: dict[str, ServerFacts]) -> dict[str, ServerFacts]:
    """What pre-flight sees of two servers."""
    if not seen:
        seen |= {task.name: task.facts for task in look(stage, {"*": ADMIN}).servers}
    return seen


def test_the_granted_vm_must_stand_where_the_wave_selects_it(stage: Stage, facts: dict[str, ServerFacts]) -> None:
    """Before the first `reserve`, whoever edits XComs can have another VM signed: all of it but its place."""
    ours, other = facts["web01"], facts["mute01"]
    with stage.connect() as session:
        grants.verify_source(session, granted(), ours.moref, ours.path)
        with pytest.raises(GrantError) as refused:
            grants.verify_source(session, granted(), other.moref, ours.path)
    where = refused.value.where
    assert (refused.value.field, where["link"], where["found"]) == ("path", "grant_verified", other.path)


@pytest.mark.parametrize(
    ("principals", "mode", "said"),
    [
        ({"*": LIMITED.name}, "require", "lacks VApp.Export on the VM"),
        ({"web01": "CORP\\nobody"}, "require", "vCenter knows no user"),
        ({"*": ""}, "require", "does not say who"),
        ({"*": ADMIN}, "require", ""),
        ({"other": LIMITED.name}, "mapped", ""),
        ({}, "off", ""),
    ],
)
def test_what_pre_flight_let_pass_is_asked_again_of_the_one_vm(
    stage: Stage, facts: dict[str, ServerFacts], principals: dict[str, str], mode: VcenterCheck, said: str
) -> None:
    """Its answer came by XCom, and may be days old."""
    grant = granted(principals=principals, vcenter_check=mode)
    with stage.connect() as session:
        if not said:
            grants.verify_source(session, grant, facts["web01"].moref, facts["web01"].path)
            return
        with pytest.raises(GrantError, match=said) as refused:
            grants.verify_source(session, grant, facts["web01"].moref, facts["web01"].path)
    assert refused.value.where["link"] == "requester_in_vcenter"
    assert refused.value.next_step


def test_a_vm_that_only_a_tag_selects_must_have_it(
    stage: Stage, facts: dict[str, ServerFacts], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, mute = facts["web01"], facts["mute01"]
    vm = ours.moref
    monkeypatch.setattr(grants, "vm_tags", lambda session: {vm: ("move:now", "tier:web")})
    with stage.connect() as session:
        grants.verify_source(session, granted(tags=("move:later", "move:now")), vm, ours.path)
        for tags, other in ((("move:later",), ours), (("move:now",), mute)):
            with pytest.raises(GrantError, match="has no tag") as refused:
                grants.verify_source(session, granted(tags=tags), other.moref, other.path)
            assert refused.value.field == "tags"
