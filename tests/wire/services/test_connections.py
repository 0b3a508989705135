"""vCenter or AWS that can't be opened: the other one is checked all the same, in one report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.contexts import context_of

from wavelift.adapters.vsphere.session import connect
from wavelift.base.domain import Severity
from wavelift.base.errors import (
    Cancelled,
    FencedError,
    LoginError,
    NoConnectionError,
    PermanentError,
    TlsError,
    UnreachableError,
    WaveliftError,
)
from wavelift.services.dataplane import preflight
from wavelift.services.dataplane.messages import Admitted, PreflightReport
from wavelift.services.dataplane.preflight import Looked, PreflightOptions, Sides, look, run_preflight

from .journey import Stage

pytestmark = pytest.mark.wire

SILENT = UnreachableError("the host does not answer", next_step="Check the port")


def gone(name: str) -> WaveliftError:
    return NoConnectionError(f"Airflow has no connection '{name}'", next_step="Make it")


def raising(error: WaveliftError) -> Callable[[], Any]:
    def refuse() -> Any:
        raise error

    return refuse


def looked(stage: Stage, sides: Sides, *servers: str, role: str = "vmimport") -> Looked:
    return run_preflight(sides, _admitted(stage, *servers, role=role), context_of("lab.migrate/r/*"))


def _admitted(stage: Stage, *servers: str, role: str = "vmimport") -> Admitted:
    wave = stage.wave(*servers or ("web01",))
    environment = wave.environment.model_copy(update={"role": role})
    target = {"target": wave.servers[0].target.model_copy(update={"role": role})}
    plans = tuple(plan.model_copy(update=target) for plan in wave.servers)
    wave = wave.model_copy(update={"environment": environment, "servers": plans})
    return Admitted(wave=wave, mode="preflight", dag_id="lab.migrate", run_id="r", requested_by="test")


def errors(report: PreflightReport) -> dict[str, str]:
    return {one.subject: one.code for one in report.findings if one.severity is Severity.ERROR}


def test_without_vcenter_the_environment_is_still_checked(stage: Stage) -> None:
    found = looked(stage, Sides(raising(gone("vsphere_lab")), stage.access), role="vmimprt")
    assert errors(found.report) == {
        "*/connection vsphere_lab": "connection.missing",
        "*/role vmimprt": "role.missing",
    }
    assert found.report.passed == ()
    assert found.report.blind
    with pytest.raises(NoConnectionError, match="no connection 'vsphere_lab'"):
        found.believed()


def test_without_aws_the_servers_are_still_checked(stage: Stage) -> None:
    found = looked(stage, Sides(stage.connect, raising(gone("aws_lab"))), "web01", "nobody")
    assert errors(found.report) == {"*/connection aws_lab": "connection.missing", "nobody": "server.not_found"}
    assert [task.name for task in found.report.servers] == ["web01"]
    assert {one.subject for one in found.report.findings} > {"web01"}, "its own notes are told too"
    assert found.report.passed == ()
    with pytest.raises(NoConnectionError, match="no connection 'aws_lab'"):
        found.believed()


def test_both_are_told_at_once(stage: Stage) -> None:
    found = looked(stage, Sides(raising(gone("vsphere_lab")), raising(gone("aws_lab"))))
    assert set(errors(found.report)) == {"*/connection vsphere_lab", "*/connection aws_lab"}
    with pytest.raises(PermanentError, match=r"no connection 'vsphere_lab'.*no connection 'aws_lab'") as told:
        found.believed()
    assert not told.value.retryable


def test_a_wave_whose_servers_are_not_found_still_hears_of_its_environment(stage: Stage) -> None:
    found = looked(stage, Sides(stage.connect, stage.access), "nobody", role="vmimprt")
    assert errors(found.report) == {"nobody": "server.not_found", "*/role vmimprt": "role.missing"}
    assert (found.believed().passed, found.report.blind) == ((), False)


@pytest.mark.parametrize(
    ("wrong", "kind", "code", "words"),
    [
        ({"password": "wrong"}, LoginError, "connection.login", "vCenter refused the user name or password"),
        ({"ca_bundle": None}, TlsError, "connection.certificate", "is not trusted"),
        ({"port": 9}, UnreachableError, "connection.unreachable", "refuses the connection"),
    ],
    ids=["password", "certificate", "port"],
)
def test_what_is_wrong_with_the_vcenter_is_a_finding_with_a_way_out(
    stage: Stage, wrong: dict[str, Any], kind: type[WaveliftError], code: str, words: str
) -> None:
    found = looked(stage, Sides(lambda: connect(stage.config(**wrong)), stage.access))
    (finding,) = [one for one in found.report.findings if one.subject == "*/connection vsphere_lab"]
    assert (finding.code, finding.severity) == (code, Severity.ERROR)
    assert words in finding.what
    assert stage.vc.host in finding.what
    assert "connection vsphere_lab" in finding.what
    assert finding.next_action
    with pytest.raises(kind):
        found.believed()
    assert found.retryable is kind.retryable


def test_a_side_that_is_silent_hides_no_error_of_the_other(stage: Stage) -> None:
    found = looked(stage, Sides(raising(SILENT), raising(gone("aws_lab"))))
    assert not found.retryable
    with pytest.raises(PermanentError, match=r"does not answer.*no connection 'aws_lab'"):
        found.believed()
    silent = looked(stage, Sides(raising(SILENT), raising(SILENT)))
    with pytest.raises(UnreachableError) as told:
        silent.believed()
    assert told.value.retryable


@pytest.mark.parametrize("error", [Cancelled("the task was killed"), FencedError("another try owns it")])
def test_a_task_that_is_stopped_tells_nothing(stage: Stage, error: WaveliftError) -> None:
    for sides in (Sides(raising(error), stage.access), Sides(stage.connect, raising(error))):
        with pytest.raises(type(error)):
            looked(stage, sides)


def test_a_region_that_does_not_exist_is_told_by_its_name(stage: Stage) -> None:
    admitted = _admitted(stage)
    environment = admitted.wave.environment.model_copy(update={"region": "eu-centrl-1"})
    admitted = admitted.model_copy(update={"wave": admitted.wave.model_copy(update={"environment": environment})})
    found = run_preflight(Sides(stage.connect, raising(SILENT)), admitted, context_of("lab.migrate/r/*"))
    (finding,) = [one for one in found.report.findings if one.subject == "*/connection aws_lab"]
    assert "region 'eu-centrl-1'" in finding.what
    assert finding.next_action.startswith("Did you mean eu-central-1? ")
    assert not found.retryable


class Waking:
    """A vCenter that is silent for the first looks."""

    def __init__(self, stage: Stage, silent: int) -> None:
        self.stage = stage
        self.silent = silent
        self.asked = 0

    def __call__(self) -> Any:
        self.asked += 1
        if self.asked <= self.silent:
            raise SILENT
        return self.stage.connect()


@pytest.mark.parametrize(("silent", "awaited", "asked"), [(1, True, 2), (9, True, 2), (9, False, 1), (0, True, 1)])
def test_who_waits_for_it_hears_soon_of_silence(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, silent: int, awaited: bool, asked: int
) -> None:
    """A run that moves servers leaves it to the retries of its task."""
    monkeypatch.setattr(preflight, "LOOK_AGAIN_S", 0.0)
    vcenter = Waking(stage, silent)
    options = PreflightOptions(awaited=awaited)
    found = look(Sides(vcenter, stage.access), _admitted(stage), context_of("lab.migrate/r/*"), options)
    assert vcenter.asked == asked
    if silent < asked:
        assert found.believed().passed
        return
    with pytest.raises(WaveliftError) as told:
        found.believed(last=awaited)
    assert told.value.retryable is not awaited
