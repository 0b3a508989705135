"""Instance exports through REST: refusals come before any DAG run, repeats start nothing twice, cancel (VIE-06)."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import within
from tests.rights import OPEN
from tests.unit.console.exporting import BUCKET, CLOCK, EXPORT_DAG, EXPORT_RUN, INSTANCE, one_export, to
from tests.unit.console.test_answers import migrate
from tests.unit.console.test_cutover_routes import Runs
from tests.unit.console.test_replication_routes import ENVIRONMENT, Desk, desk

from wavelift.airflow.rest import ApiError
from wavelift.base.rates import TransferProgress
from wavelift.base.run import DagRun
from wavelift.ledger import events, exports
from wavelift.rules.export_flows import CHAIN
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.reserve import NOT_MADE
from wavelift.services.instance_export.admit import admit

__all__ = ["desk"]

pytestmark = pytest.mark.unit

OTHER = "i-0fedcba9876543210"
ASKED = {"environment": "lab", "instance": INSTANCE}


@pytest.fixture
def exporting(desk: Desk) -> Desk:
    desk.airflow = Runs()
    return desk


def tasks(desk: Desk, **states: str | None) -> None:
    """Airflow's task instances of the run: those that are named, all others not scheduled yet."""
    desk.airflow.tasks = [
        {"task_id": step.name, "map_index": -1, "state": states.get(step.name), "try_number": 1} for step in CHAIN
    ]
    desk.airflow.states[EXPORT_RUN.dag_run_id] = "running"


def is_admitted(desk: Desk, run: DagRun, conf: Any) -> str:
    """What the run's own `admit` opens or takes."""
    load = lambda name: desk.specs.granting(name).environment  # noqa: E731  # as the operator's
    request = RunRequest(wave="lab", conf=conf)
    _, known = admit(desk.ledger, request, load, run_context(run, requester="ana"), rights=OPEN)  # type: ignore[arg-type]
    assert known is not None
    return known.id


# Starting


def test_amp_10_the_id_is_in_the_answer_and_the_run_goes_on_with_it(exporting: Desk) -> None:
    more = {"method": "direct", "prefix": "out/", "controller": "pvscsi", "verify": "full", "note": "change 4711"}
    made = exporting.post("/exports", **ASKED, may_reboot=True, **more)
    row = made["export"]
    assert (row["state"], row["instance_id"], row["bucket"], row["prefix"]) == ("queued", INSTANCE, BUCKET, "out/")
    assert (row["choice"], row["method"], row["may_reboot"], row["note"]) == ("direct", "", True, "change 4711")
    assert (row["requested_by"], row["location"], row["account"]) == ("ana", "", "123456789012")
    [(dag_id, run_id, conf)] = exporting.airflow.triggered
    assert (dag_id, run_id) == (made["dag_id"], made["dag_run_id"]) == (EXPORT_DAG, row["dag_run_id"])
    assert conf == {"instance": INSTANCE, "may_reboot": True, **more}
    assert is_admitted(exporting, DagRun(dag_id, run_id), conf) == row["id"]
    assert exporting.get("/exports")["total"] == 1, "it took the reservation"


def test_a_check_and_a_setup_reserve_nothing(exporting: Desk) -> None:
    checked = exporting.post("/exports", **ASKED, mode="check")
    made = exporting.post("/exports/setup", environment="lab", grant=True)
    assert [(each["mode"], each["export"]) for each in (checked, made)] == [("check", None), ("setup", None)]
    confs = [conf for *_, conf in exporting.airflow.triggered]
    assert confs == [{"mode": "check", "instance": INSTANCE}, {"mode": "setup", "grant": True}]
    assert exporting.get("/exports")["total"] == 0


def test_the_same_request_makes_the_same_export_and_no_second_run(exporting: Desk) -> None:
    asked = {**ASKED, "request_id": "change-4711"}
    first = exporting.post("/exports", **asked)
    run = DagRun(EXPORT_DAG, first["dag_run_id"])
    assert run.dag_run_id == "on_demand__export.change-4711"
    again = exporting.post("/exports", **asked)
    assert (again["made_before"], again["export"]["id"]) == (True, first["export"]["id"])
    is_admitted(exporting, run, exporting.airflow.triggered[0][2])
    known = within(exporting.ledger.read(), exports.of_dag_run, run)
    assert known is not None
    for states in ((), (ExportState.CHECKING, ExportState.ACTIVE), (ExportState.VERIFYING, ExportState.COMPLETED)):
        to(exporting.ledger, known, *states)
        again = exporting.post("/exports", **asked)
        assert (again["made_before"], again["export"]["id"]) == (True, known.id)
    assert len(exporting.airflow.triggered) == 1
    other = exporting.refused("POST", "/exports", 409, {**asked, "instance": OTHER})
    assert f"An earlier request of this name is about {INSTANCE}" in other["detail"]
    checked = exporting.post("/exports", **asked, mode="check")
    assert not checked["made_before"], "each mode has names of its own"
    assert exporting.post("/exports", **asked, mode="check")["made_before"]
    assert len(exporting.airflow.triggered) == 2


def test_a_run_that_could_not_be_made_keeps_no_instance(exporting: Desk) -> None:
    exporting.airflow.refuses = ApiError("Airflow said no", status=400)
    assert "said no" in exporting.refused("POST", "/exports", 400, ASKED)["detail"]
    [row] = exporting.get("/exports")["exports"]
    assert (row["state"], row["error"]) == ("failed", NOT_MADE)
    exporting.airflow.refuses = None
    assert exporting.post("/exports", **ASKED)["export"]["state"] == "queued"


def test_a_second_export_of_the_instance_is_refused_before_any_run(exporting: Desk) -> None:
    known = to(exporting.ledger, one_export(exporting.ledger), ExportState.CHECKING, ExportState.ACTIVE)
    exporting.airflow.states[EXPORT_RUN.dag_run_id] = "running"
    answer = exporting.refused("POST", "/exports", 409, ASKED)
    assert [(each["server"], each["rule"]) for each in answer["refusals"]] == [(INSTANCE, "export")]
    assert known.id in answer["detail"]
    assert not exporting.airflow.triggered


def test_who_may_not_administer_the_environment_does_not_even_check(exporting: Desk) -> None:
    exporting.specs.environment = ENVIRONMENT.replace("administer: ['user:ana']", "administer: ['user:bo']")
    for path, body in (("/exports", {**ASKED, "mode": "check"}), ("/exports/setup", {"environment": "lab"})):
        assert "may not administer" in exporting.refused("POST", path, 403, body)["detail"]
    assert not exporting.airflow.triggered
    told = within(exporting.ledger.read(), events.list_events, object_kind="environment")
    assert [(each.action, each.actor) for each in told] == [("authority.refused", "ana")] * 2


def test_an_environment_without_exports_says_so(exporting: Desk) -> None:
    exporting.specs.environment = ENVIRONMENT.replace("exports: {name: acme}\n", "")
    exporting.airflow.paused = None  # Airflow has no such DAG
    for path, body in (("/exports", ASKED), ("/exports/setup", {"environment": "lab"})):
        assert "its file has no 'exports'" in exporting.refused("POST", path, 409, body)["detail"]


def test_nothing_starts_in_a_dag_that_is_paused(exporting: Desk) -> None:
    exporting.airflow.paused = True
    assert "is paused" in exporting.refused("POST", "/exports", 409, ASKED)["detail"]
    assert exporting.get("/exports")["total"] == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"instance": "i-1"}, "'i-1' is not the id of an instance"),
        ({"target": "citrix", "method": "instance", "format": "ova"}, "no ova for target citrix; allowed: vhd"),
        ({"target": "microsoft", "method": "direct"}, "writes nothing for target microsoft"),
        ({"prefix": "../x"}, "no '..'"),
        ({"prefix": "x" * 513}, "512 characters"),
        ({"verify": "off"}, "an export is always verified"),
        ({"method": "ovf"}, "allowed: auto, instance, image"),
        ({"mode": "setup"}, "allowed: export, check"),
        ({"grant": True}, "unknown key 'grant'"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_with_what_is_allowed(
    exporting: Desk, given: dict[str, Any], words: str
) -> None:
    answer = exporting.refused("POST", "/exports", 422, {**ASKED, **given})
    [told] = answer["detail"]
    assert words in told["msg"]
    assert not exporting.airflow.triggered


def test_what_a_migration_made_is_told_to_who_may_read_the_migration(
    exporting: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = migrate(exporting.ledger)
    asked = {**ASKED, "instance": known.id}
    assert "has no instance" in exporting.refused("POST", "/exports", 409, asked)["detail"]
    monkeypatch.setattr(exporting.rights, "read", False)
    assert "may not read erp.migrate" in exporting.refused("POST", "/exports", 403, asked)["detail"]
    exporting.refused("POST", "/exports", 404, {**ASKED, "instance": "mig-0123456789ab"})


# Reading


def test_the_list_shows_the_last_seven_days_unless_asked_otherwise(exporting: Desk) -> None:
    ledger, now = exporting.ledger, CLOCK.now()
    old = one_export(ledger, at=now - timedelta(days=7, minutes=1), instance=OTHER)
    new = one_export(
        ledger, run=DagRun(EXPORT_DAG, "manual__2"), at=now - timedelta(days=6), subject="mig-0123456789ab"
    )

    def listed(**query: Any) -> list[str]:
        return [row["id"] for row in exporting.get("/exports", **query)["exports"]]

    assert listed() == [new.id]
    assert listed(all=True) == [new.id, old.id]
    assert listed(since=(now - timedelta(days=8)).isoformat()) == [new.id, old.id]
    assert listed(since=(now - timedelta(days=5)).isoformat()) == []
    assert listed(environment="lab", dag_run_id=EXPORT_RUN.dag_run_id) == [old.id], "however old it is"
    assert listed(instance="mig-0123456789ab") == listed(instance=INSTANCE) == [new.id]
    assert listed(instance=OTHER) == []
    assert listed(state="queued", environment="lab", search="0123456789AB") == [new.id]
    assert listed(state="failed") == listed(environment="other") == []
    assert listed(all=True, limit=1, offset=1) == [old.id]
    exporting.refused("GET", "/exports?dag_run_id=x", 422)
    exporting.refused("GET", "/exports?since=2026-12-01T10:00:00", 422)
    for path in ("/exports", "/events"):  # an instant that UTC has no year for
        exporting.refused("GET", f"{path}?since=0001-01-01T00:00:00%2B14:00", 422)


def test_a_list_is_empty_for_who_may_read_no_dag(exporting: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    known = one_export(exporting.ledger)
    monkeypatch.setattr(exporting.rights, "read", False)
    assert exporting.get("/exports")["total"] == 0
    exporting.refused("GET", f"/exports/{known.id}", 403)
    exporting.refused("GET", "/exports/exp-nothing", 404)


def test_a_row_tells_how_much_of_the_volumes_was_read(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    to(exporting.ledger, known, ExportState.CHECKING, ExportState.ACTIVE, method="direct")
    tasks(exporting, admit="success", check="success", reserve="success", begin="success", read="running")
    exporting.airflow.moved = TransferProgress(done=30, total=120, sent=7, rate=5.4)
    [row] = exporting.get("/exports")["exports"]
    assert (row["step"], row["percent"], row["bytes_done"], row["bytes_total"], row["rate"]) == ("read", 25, 30, 120, 5)
    assert row == {name: value for name, value in exporting.get(f"/exports/{known.id}").items() if name in row}


def test_a_row_tells_how_far_aws_is_by_the_ledger(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    columns = {"method": "instance", "percent": 40, "phase": "AWS: converting", "task_id": f"export-{INSTANCE}"}
    to(exporting.ledger, known, ExportState.CHECKING, ExportState.ACTIVE, **columns)
    tasks(exporting, admit="success", check="success", reserve="success", begin="deferred")
    exporting.airflow.moved = TransferProgress(done=1, total=2, sent=1, rate=1)  # of no task of this run
    [row] = exporting.get("/exports")["exports"]
    assert (row["step"], row["percent"], row["phase"], row["bytes_done"]) == ("begin", 40, "AWS: converting", None)


def test_details_tell_what_was_seen_chosen_made_and_found(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    result, made = {"level": "opened", "opened": ["disk1.vmdk"]}, {"attempt": 1, "method": "instance"}
    told: dict[str, Any] = {"findings": [{"code": "export.reboot"}], "plan": {"why": "nothing forbids it"}}
    columns = {"method": "instance", "object_key": "export-i-1.ova", "object_bytes": 7, "result": result, "made": made}
    to(exporting.ledger, known, ExportState.CHECKING, ExportState.ACTIVE, **told)
    to(exporting.ledger, known, ExportState.VERIFYING, ExportState.COMPLETED, **columns)
    found = exporting.get(f"/exports/{known.id}")
    assert (found["why"], found["findings"], found["result"]) == ("nothing forbids it", told["findings"], result)
    assert (found["location"], found["object_bytes"]) == (f"s3://{BUCKET}/export-i-1.ova", 7)
    assert (found["made"], list(found["times"])) == (made, ["admitted"])
    assert found["step"] == "", "of an ended one Airflow is not asked"


def test_the_audit_trail_of_an_export_is_told_to_who_may_read_it(
    exporting: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = to(exporting.ledger, one_export(exporting.ledger), ExportState.CHECKING)
    told = exporting.get(f"/events/{known.id}")["events"]
    assert [(each["action"], each["actor"]) for each in told] == [
        ("instance_export.queued", "ana"),
        ("instance_export.checking", "ana"),
    ]
    monkeypatch.setattr(exporting.rights, "read", False)
    exporting.refused("GET", f"/events/{known.id}", 403)
    assert "instance export (exp-…)" in exporting.refused("GET", "/events/xyz-1", 422)["detail"]


# Cancelling


def test_vie_06_cancel_marks_the_row_then_fails_the_running_task(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    to(exporting.ledger, known, ExportState.CHECKING, ExportState.ACTIVE, method="direct")
    tasks(exporting, admit="success", check="success", reserve="success", begin="success", read="running")
    told = exporting.post(f"/exports/{known.id}/cancel")
    assert (told["state"], told["cancel_requested"], told["stopped_tasks"]) == ("cancelling", True, ["read"])
    assert exporting.airflow.failed == ["read -1"]
    again = exporting.post(f"/exports/{known.id}/cancel")
    assert (again["state"], again["stopped_tasks"]) == ("cancelling", [])


def test_an_export_that_waits_is_stopped_where_it_waits(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    tasks(exporting, admit="success", check="success", reserve="deferred")
    assert exporting.post(f"/exports/{known.id}/cancel")["stopped_tasks"] == ["reserve"]
    assert exporting.airflow.failed == ["reserve -1"]


def test_what_is_between_two_tasks_is_stopped_before_the_next(exporting: Desk) -> None:
    known = to(exporting.ledger, one_export(exporting.ledger), ExportState.CHECKING)
    tasks(exporting, admit="success", check="success")
    assert exporting.post(f"/exports/{known.id}/cancel")["stopped_tasks"] == ["reserve"]


def test_what_made_nothing_and_whose_run_is_over_ends_at_once(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    exporting.airflow.states[EXPORT_RUN.dag_run_id] = "failed"
    told = exporting.post(f"/exports/{known.id}/cancel")
    assert (told["state"], told["stopped_tasks"], exporting.airflow.failed) == ("cancelled", [], [])
    assert "nothing to cancel" in exporting.refused("POST", f"/exports/{known.id}/cancel", 409)["detail"]


def test_what_is_cancelled_while_its_run_is_being_made_is_marked(
    exporting: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow does not know the run yet: its `admit` will see the mark."""
    known = one_export(exporting.ledger, times=None)

    def unknown(*_: Any, **__: Any) -> Any:
        raise ApiError("no such run", status=404)

    monkeypatch.setattr(exporting.airflow, "task_instances", unknown)
    told = exporting.post(f"/exports/{known.id}/cancel")
    assert (told["state"], told["stopped_tasks"]) == ("cancelling", [])


@pytest.mark.parametrize("states", [(), (ExportState.COMPLETED,)])
def test_vie_06_it_is_too_late_while_the_final_image_is_written(
    exporting: Desk, states: tuple[ExportState, ...]
) -> None:
    columns = {"method": "instance", "object_key": "export-i-1.ova"}
    known = to(exporting.ledger, one_export(exporting.ledger), ExportState.CHECKING, ExportState.ACTIVE, **columns)
    to(exporting.ledger, known, ExportState.VERIFYING, *states)
    tasks(exporting, admit="success", check="success", reserve="success", begin="success", read="skipped")
    answer = exporting.refused("POST", f"/exports/{known.id}/cancel", 409)
    assert "too late: the final image is being written" in answer["detail"]
    assert exporting.airflow.failed == []


def test_it_is_too_late_when_the_ova_is_committed_and_nobody_told_the_ledger_yet(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    to(exporting.ledger, known, ExportState.CHECKING, ExportState.ACTIVE, method="direct")
    done = dict.fromkeys(("admit", "check", "reserve", "begin", "read"), "success")
    tasks(exporting, **done, verify="running")
    answer = exporting.refused("POST", f"/exports/{known.id}/cancel", 409)
    assert "too late: the final image is being written" in answer["detail"]
    tasks(exporting, **done, verify="failed")
    assert exporting.post(f"/exports/{known.id}/cancel")["state"] == "cancelling", "it is found wrong and removed"


def test_who_may_not_administer_the_environment_cancels_nothing(exporting: Desk) -> None:
    known = one_export(exporting.ledger)
    tasks(exporting, admit="running")
    exporting.specs.environment = ENVIRONMENT.replace("administer: ['user:ana']", "administer: ['user:bo']")
    assert "may not administer" in exporting.refused("POST", f"/exports/{known.id}/cancel", 403)["detail"]
    assert (exporting.airflow.failed, within(exporting.ledger.read(), exports.get, known.id)) == ([], known)
