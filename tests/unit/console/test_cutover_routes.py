"""Cutovers, test instances and backups through REST: refusals come before any DAG run, repeats start nothing twice."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from fastapi.routing import APIRoute
from tests.contexts import run_context
from tests.ledgers import within
from tests.rights import OPEN
from tests.unit.console.cutting import CLOCK, CUT, CUTOVER_DAG, RUN, cuttable, freeze, insert, one_of_each, to
from tests.unit.console.test_replication_routes import ENVIRONMENT, Airflow, Desk, desk

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.run import DagRun
from wavelift.console.answering import OPTIONS
from wavelift.console.cutovers import ASKING
from wavelift.ledger import cutovers, events, jobs, trials
from wavelift.ledger.cutovers import CUTOVER_KIND, RUN_KIND, run_subject
from wavelift.rules.cutover import CutoverState, StepState, TrialState
from wavelift.services.common.admit import RunRequest
from wavelift.services.cutover.admit import admit
from wavelift.services.cutover.requests import NOT_MADE

__all__ = ["desk"]

pytestmark = pytest.mark.unit

PATH = "/waves/erp/cutovers"


class Runs(Airflow):
    """Airflow that knows the runs which were made, and refuses to make one twice."""

    def trigger(self, dag_id: str, conf: Any = None, *, run_id: str = "", note: str = "") -> str:
        if any(run_id == each[1] for each in self.triggered):
            raise ApiError("the run exists", status=409)
        return super().trigger(dag_id, conf, run_id=run_id, note=note)

    def find_run_state(self, dag_id: str, run_id: str) -> str:
        made = any(run_id == each[1] for each in self.triggered)
        return self.states.get(run_id, "running" if made else "")


@pytest.fixture
def cutting(desk: Desk) -> Desk:
    cuttable(desk)
    desk.airflow = Runs()
    for server in ("web01", "db01"):
        desk.job(server)
    return desk


def states(desk: Desk) -> dict[str, str]:
    return {row["server"]: row["state"] for row in desk.get("/cutovers")["cutovers"]}


def test_the_ids_are_in_the_answer_and_the_run_goes_on_with_them(cutting: Desk) -> None:
    window = {"window_start": "2099-12-05T22:00:00+01:00", "window_end": "2099-12-06T02:00:00+01:00"}
    made = cutting.post(PATH, servers=["web01"], mode="cutover", note="change 4711", priority="later", **window)
    [row] = made["cutovers"]
    assert (row["server"], row["state"], row["serves"], row["downtime_s"]) == ("web01", "reserved", "source", None)
    assert (row["requested_by"], row["window_end"]) == ("ana", "2099-12-06T01:00:00+00:00")
    [(dag_id, run_id, conf)] = cutting.airflow.triggered
    assert (dag_id, run_id) == (made["dag_id"], made["dag_run_id"]) == (CUTOVER_DAG, row["dag_run_id"])
    assert conf == {"mode": "cutover", "servers": ["web01"], "priority": "later", "note": "change 4711", **window}
    ctx = run_context(DagRun(dag_id, run_id), requester="ana")
    taken = admit(cutting.ledger, RunRequest("erp", conf), cutting.specs.wave, ctx, rights=OPEN)
    assert taken.cutovers == {"web01": row["id"]}
    assert states(cutting) == {"web01": "waiting"}


def test_a_run_without_names_is_about_those_that_were_reserved(cutting: Desk) -> None:
    cutting.post(PATH, mode="cutover")
    [(_, _, conf)] = cutting.airflow.triggered
    assert sorted(conf["servers"]) == ["db01", "web01"]


@pytest.mark.parametrize("mode", ["plan", "prepare"])
def test_modes_that_cut_nothing_over_reserve_nothing(cutting: Desk, mode: str) -> None:
    made = cutting.post(PATH, servers=["web01"], mode=mode)
    assert (made["mode"], made["cutovers"], states(cutting)) == (mode, [], {})
    assert cutting.airflow.triggered[0][2] == {"mode": mode, "servers": ["web01"]}


def test_what_was_prepared_is_taken_back_by_a_run(cutting: Desk) -> None:
    cutting.post(PATH, mode="prepare", undo=True)
    cutting.post(PATH, mode="plan", undo=False)
    assert [conf for _, _, conf in cutting.airflow.triggered] == [{"mode": "prepare", "undo": True}, {"mode": "plan"}]


def test_the_same_request_makes_the_same_cutovers_and_no_second_run(cutting: Desk) -> None:
    asked = {"servers": ["web01"], "mode": "cutover", "request_id": "change-4711"}
    first = cutting.post(PATH, **asked)
    for state in ("reserved", "waiting", "ended"):
        if state != "reserved":
            [known] = within(cutting.ledger.read(), cutovers.of_dag_run, DagRun(CUTOVER_DAG, first["dag_run_id"]))
            to(cutting.ledger, known, CutoverState(state))
        again = cutting.post(PATH, **asked)
        assert again["made_before"]
        assert [(each["id"], each["state"]) for each in again["cutovers"]] == [(first["cutovers"][0]["id"], state)]
        assert again["dag_run_id"] == first["dag_run_id"] == "on_demand__cutover.change-4711"
    assert len(cutting.airflow.triggered) == 1
    other = cutting.refused("POST", PATH, 409, {**asked, "servers": ["db01"]})
    assert "An earlier request of this name is about web01" in other["detail"]


def test_a_request_whose_run_was_never_made_is_made_when_it_is_repeated(cutting: Desk) -> None:
    asked = {"servers": ["web01"], "mode": "cutover", "request_id": "k1"}
    cutting.airflow.refuses = ApiError("Airflow said no", status=400)
    assert "said no" in cutting.refused("POST", PATH, 400, asked)["detail"]
    [row] = cutting.get("/cutovers")["cutovers"]
    assert (row["state"], row["error"]) == ("expired", NOT_MADE)
    cutting.airflow.refuses = None
    made = cutting.post(PATH, **asked)
    assert [(each["id"], each["state"]) for each in made["cutovers"]] == [(row["id"], "reserved")]
    assert (made["made_before"], len(cutting.airflow.triggered)) == (False, 1)


def test_a_plan_that_is_asked_for_again_is_no_second_run(cutting: Desk) -> None:
    made = [cutting.post(PATH, servers=["web01"], request_id="k1") for _ in range(2)]
    assert [each["made_before"] for each in made] == [False, True]
    assert made[0]["dag_run_id"] == made[1]["dag_run_id"]
    cutting.post(PATH, servers=["web01"], request_id="k1", mode="cutover")
    assert len(cutting.airflow.triggered) == 2, "a plan's name does not keep a cutover from being made"


def test_what_can_not_start_leaves_nothing(cutting: Desk) -> None:
    cuts: dict[str, Any] = {"mode": "cutover", "servers": ["web01"]}
    cutting.airflow.paused = True
    assert f"{CUTOVER_DAG} is paused" in cutting.refused("POST", PATH, 409, cuts)["detail"]
    cutting.airflow.paused = None
    assert f"Airflow has no DAG {CUTOVER_DAG}" in cutting.refused("POST", PATH, 404, cuts)["detail"]
    cutting.airflow.paused = False
    body: dict[str, Any]
    past = {"window_end": "2020-01-01T00:00:00+00:00"}
    turned = {"window_start": "2099-01-02T00:00:00+00:00", "window_end": "2099-01-01T00:00:00+00:00"}
    for body, words in (
        ({**cuts, "servers": ["web09"]}, "no server 'web09'"),
        ({**cuts, **past}, "The window was over"),
        ({"mode": "plan", **past}, "The window was over"),
        ({**cuts, **turned}, "begins only at"),
    ):
        assert words in cutting.refused("POST", PATH, 409, body)["detail"]
    for body, words in (
        ({"mode": "revert"}, "mode"),
        ({"servers": []}, "servers"),
        ({**cuts, "window_start": "2099-01-01T00:00:00"}, "window_start"),
        ({**cuts, "request_id": "a b"}, "request_id"),
        ({**cuts, "undo": True}, "undo is of mode prepare"),
        ({**cuts, "now": True}, "unknown key 'now'"),
    ):
        assert words in str(cutting.refused("POST", PATH, 422, body)["detail"])
    cutting.specs.broken = "erp.yaml:3: no such field"
    assert "no such field" in cutting.refused("POST", PATH, 409, cuts)["detail"]
    assert (states(cutting), cutting.airflow.triggered) == ({}, [])


def test_one_open_cutover_per_server_all_or_none(cutting: Desk) -> None:
    first = cutting.post(PATH, servers=["web01"], mode="cutover")
    refused = cutting.refused("POST", PATH, 409, {"mode": "cutover"})
    assert [each["server"] for each in refused["refusals"]] == ["web01"]
    assert first["cutovers"][0]["id"] in refused["detail"]
    assert states(cutting) == {"web01": "reserved"}


def test_to_go_before_all_others_one_must_administer(cutting: Desk) -> None:
    cutting.specs.environment = cutting.specs.environment.replace("administer: ['user:ana']", "administer: ['user:bo']")
    assert "administer" in cutting.refused("POST", PATH, 403, {"mode": "cutover", "priority": "next"})["detail"]
    assert states(cutting) == {}
    cutting.post(PATH, mode="cutover", priority="later")


# One cutover


def moved(desk: Desk, *states: CutoverState, **columns: Any) -> None:
    freeze(desk, RUN)
    made = insert(desk.ledger, instance_id="i-1")
    to(desk.ledger, made, CutoverState.GOING, CutoverState.MOVING, *states, **columns)


def test_one_is_told_whole(cutting: Desk) -> None:
    at = CLOCK.now()
    times = {
        "stopping": (at - timedelta(minutes=30)).isoformat(),
        "switched": (at - timedelta(minutes=20)).isoformat(),
    }
    moved(cutting, CutoverState.SWITCHED, times=times, plan_digest="d" * 64)
    step = {"name": "dns app01", "kind": "dns", "words": "Point app01", "undo_words": "Point it back", "spec": {"x": 1}}
    with cutting.ledger.write(jobs.lock_name("erp")) as tx:
        cutovers.plan_steps(tx, CUTOVER_KIND, CUT, [step], at=at)
        [row] = cutovers.steps_of(tx, CUTOVER_KIND, CUT)
        wait = {"wait": "x", "words": "until all name servers have it"}
        seen: dict[str, Any] = {"before": ["10.0.0.1"], "wanted": ["10.1.0.1"], "wait": wait}
        cutovers.change_step(tx, row, to=StepState.INTENDED, at=at, by="ana", **seen)
        who: dict[str, Any] = {"answer": "approve", "by": "bo", "requested_by": "ana"}
        cutovers.approve(tx, RUN_KIND, run_subject(RUN), "d" * 64, valid=timedelta(hours=1), clock=CLOCK, **who)
    told = cutting.get(f"/cutovers/{CUT}")
    assert (told["state"], told["serves"], told["downtime_s"]) == ("switched", "instance", 600)
    [step_told] = told["steps"]
    assert (step_told["before"], step_told["wanted"]) == (["10.0.0.1"], ["10.1.0.1"])
    assert (step_told["undo_words"], step_told["waits"]) == ("Point it back", "until all name servers have it")
    assert (told["approval"]["answer"], told["approval"]["answered_by"]) == ("approve", "bo")
    assert set(told["times"]) == {"stopping", "switched"}
    assert "spec" not in step_told


def test_lists_are_filtered(cutting: Desk) -> None:
    moved(cutting)
    insert(cutting.ledger, server="db01")
    assert [row["server"] for row in cutting.get("/cutovers", state="moving")["cutovers"]] == ["web01"]
    assert cutting.get("/cutovers", wave="shop")["total"] == 0
    assert cutting.get("/cutovers", wave="erp", dag_run_id=RUN.dag_run_id, server="db01")["total"] == 1
    assert cutting.get("/cutovers", search="WEB")["total"] == 1
    assert "only together with wave" in cutting.refused("GET", "/cutovers?dag_run_id=r1", 422)["detail"]


@pytest.mark.parametrize("verb", ["revert", "finalize"])
def test_it_is_ended_by_a_run_of_its_own(cutting: Desk, verb: str) -> None:
    moved(cutting, CutoverState.SWITCHED)
    made = cutting.post(f"/cutovers/{CUT}/{verb}")
    [(dag_id, run_id, conf)] = cutting.airflow.triggered
    assert (dag_id, run_id, conf) == (CUTOVER_DAG, made["dag_run_id"], {"mode": verb, "cutovers": [CUT]})
    assert made["cutover"]["id"] == CUT


def test_what_can_not_be_ended_so_is_said_at_once(cutting: Desk) -> None:
    freeze(cutting, RUN)
    made = insert(cutting.ledger)
    said = cutting.refused("POST", f"/cutovers/{CUT}/revert", 409)["detail"]
    assert "its source was not touched" in said
    to(cutting.ledger, made, CutoverState.GOING, CutoverState.MOVING, CutoverState.FAILED)
    assert "only one that was switched" in cutting.refused("POST", f"/cutovers/{CUT}/finalize", 409)["detail"]
    cutting.airflow.paused = True
    assert "is paused" in cutting.refused("POST", f"/cutovers/{CUT}/revert", 409)["detail"]
    assert cutting.airflow.triggered == []


@pytest.mark.parametrize("verb", ["revert", "finalize"])
def test_the_right_counts_where_it_landed(cutting: Desk, verb: str) -> None:
    """The wave's file says another environment by now."""
    moved(cutting, CutoverState.SWITCHED)
    granting = cutting.specs.granting
    elsewhere = ENVIRONMENT.replace("user:ana", "user:bo")

    def asked(environment: str) -> Any:
        cutting.specs.environment = elsewhere if environment == "lab" else ENVIRONMENT
        return granting(environment)

    cutting.specs.granting = asked  # type: ignore[method-assign]
    cutting.specs.environment_of = lambda wave: "new"  # type: ignore[method-assign]
    said = cutting.refused("POST", f"/cutovers/{CUT}/{verb}", 403)["detail"]
    assert "may not cut over in" in said
    assert cutting.airflow.triggered == []


def test_cancelling_what_waits_lasts_until_its_run_comes_to_it(cutting: Desk) -> None:
    row = cutting.post(PATH, servers=["web01"], mode="cutover")["cutovers"][0]
    cancelled = cutting.post(f"/cutovers/{row['id']}/cancel")
    assert (cancelled["state"], cancelled["cancel_requested"]) == ("reserved", True)
    [(dag_id, run_id, conf)] = cutting.airflow.triggered
    admit(cutting.ledger, RunRequest("erp", conf), cutting.specs.wave, run_context(DagRun(dag_id, run_id)), rights=OPEN)
    [row] = cutting.get("/cutovers")["cutovers"]
    assert (row["state"], row["cancel_requested"]) == ("waiting", True), "go reads it"


def test_cancelling_after_the_run_is_over_ends_it(cutting: Desk) -> None:
    freeze(cutting, RUN)
    insert(cutting.ledger)
    cutting.airflow.states[RUN.dag_run_id] = "failed"
    assert cutting.post(f"/cutovers/{CUT}/cancel")["state"] == "ended"
    assert "nothing to cancel" in cutting.refused("POST", f"/cutovers/{CUT}/cancel", 409)["detail"]


def test_what_is_switched_is_not_cancelled_but_reverted(cutting: Desk) -> None:
    moved(cutting, CutoverState.SWITCHED)
    assert f"revert {CUT}" in cutting.refused("POST", f"/cutovers/{CUT}/cancel", 409)["detail"]


# Answers of people


def test_an_answer_is_given_to_airflow_as_the_caller(cutting: Desk) -> None:
    freeze(cutting, RUN)
    insert(cutting.ledger)
    path = f"{PATH}/{RUN.dag_run_id}/approval"
    assert "asks nothing now" in cutting.refused("POST", path, 409, {"answer": "approve"})["detail"]
    cutting.airflow.asking = {"approve"}
    told = cutting.post(path, answer="approve")
    assert (told["task_id"], told["answered_by"]) == ("approve", "ana")
    cutting.airflow.asking = {"approve_finalize"}
    cutting.post(path, answer="reject")
    assert cutting.airflow.answered == [
        (RUN.dag_run_id, "approve", "Approve"),
        (RUN.dag_run_id, "approve_finalize", "Reject"),
    ]
    cutting.refused("POST", path, 422, {"answer": "maybe"})


def test_an_answer_is_in_the_ledger_at_once(cutting: Desk) -> None:
    """Airflow forgets one that comes within seconds of the question, if it takes the task for dead: seen."""
    freeze(cutting, RUN)
    insert(cutting.ledger, state=CutoverState.WAITING, plan_digest="d" * 64)
    cutting.airflow.asking = {"approve"}
    cutting.post(f"{PATH}/{RUN.dag_run_id}/approval", answer="approve")
    with cutting.ledger.read() as tx:
        kept = cutovers.newest_approval(tx, RUN_KIND, run_subject(RUN), "d" * 64)
    assert kept is not None
    assert (kept.answer, kept.answered_by) == ("approve", "ana")


def test_of_four_eyes_two_are_the_requester_s(cutting: Desk) -> None:
    cutting.specs.text = cutting.specs.text.replace("approval: required", "approval: four_eyes")
    freeze(cutting, RUN)
    cutting.airflow.asking = {"approve"}
    path = f"{PATH}/{RUN.dag_run_id}/approval"
    assert "another person" in cutting.refused("POST", path, 409, {"answer": "approve"})["detail"]
    assert cutting.airflow.answered == []
    cutting.post(path, answer="reject")


def test_a_step_of_a_person_is_confirmed(cutting: Desk) -> None:
    moved(cutting)
    name = "person Call the carrier, then say: ok/done"
    step = {"name": name, "kind": "person", "words": "Call", "undo_words": "Call again", "spec": {"ask": "Call"}}
    with cutting.ledger.write(jobs.lock_name("erp")) as tx:
        cutovers.plan_steps(tx, CUTOVER_KIND, CUT, [step], at=CLOCK.now())
    path = f"/cutovers/{CUT}/confirm"
    assert "Nothing is asked of a person" in cutting.refused("POST", path, 409, {"step": name})["detail"]
    assert "no step 'other'" in cutting.refused("POST", path, 404, {"step": "other"})["detail"]
    with cutting.ledger.write(jobs.lock_name("erp")) as tx:
        [row] = cutovers.steps_of(tx, CUTOVER_KIND, CUT)
        cutovers.change_step(tx, row, to=StepState.INTENDED, at=CLOCK.now(), by="ana", before={}, wanted={})
    told = cutting.post(path, step=name)
    assert (told["cutover"], told["name"], told["state"]) == (CUT, name, "intended")
    with cutting.ledger.read() as tx:
        said = events.list_events(tx, object_kind="cutover_step")[-1]
    assert (said.action, said.actor, said.details) == ("step.confirmed", "ana", {"answer": "done"})


# Test instances and backups


def test_images_are_tried_by_a_run_of_the_test_dag(cutting: Desk) -> None:
    body = {"servers": ["web01"], "runs": ["run-1"], "hours": 2, "note": "n", "request_id": "k1"}
    made = [cutting.post("/waves/erp/tests", **body) for _ in range(2)]
    assert [each["made_before"] for each in made] == [False, True]
    conf = {"mode": "test", "servers": ["web01"], "runs": ["run-1"], "hours": 2.0, "note": "n"}
    assert cutting.airflow.triggered == [("erp.test", made[0]["dag_run_id"], conf)]
    cutting.refused("POST", "/waves/erp/tests", 422, {"hours": 0})
    cutting.specs.environment = ENVIRONMENT
    assert "no isolation" in cutting.refused("POST", "/waves/erp/tests", 409, {})["detail"]


def test_a_test_instance_is_listed_and_ended(desk: Desk) -> None:
    made = one_of_each(desk)
    [row] = desk.get("/tests", wave="erp")["tests"]
    assert (row["id"], row["state"], row["passed"]) == (made.test, "launching", None)
    assert desk.get("/tests", state="passed")["total"] == 0
    started = desk.post(f"/tests/{made.test}/end")
    assert desk.airflow.triggered == [("erp.test", started["dag_run_id"], {"mode": "end", "tests": [made.test]})]
    with desk.ledger.write(jobs.lock_name("erp")) as tx:
        for state in (TrialState.ENDING, TrialState.ENDED):
            trials.apply(tx, trials.get(tx, made.test), "end", at=CLOCK.now(), by="ana", state=state)
    assert "has ended" in desk.refused("POST", f"/tests/{made.test}/end", 409)["detail"]


def test_a_backup_is_made_by_a_run_and_its_id_is_told(desk: Desk) -> None:
    made = one_of_each(desk)
    desk.airflow = Runs()
    answers = [desk.post("/backups", subject=made.cutover, reboot=True, request_id="k1") for _ in range(2)]
    assert [each["made_before"] for each in answers] == [False, True]
    conf = {"subject": made.cutover, "reboot": True}
    assert desk.airflow.triggered == [("instance_backup", answers[0]["dag_run_id"], conf)]
    assert answers[0]["backup"] == answers[1]["backup"]
    [row] = desk.get("/backups", subject=made.cutover)["backups"]
    assert (row["subject"], row["state"], row["reboot"]) == (made.cutover, "making", False)
    assert "is no id of" in desk.refused("POST", "/backups", 404, {"subject": "run-1"})["detail"]
    assert desk.refused("POST", "/backups", 404, {"subject": "mig-000000000000"})
    insert(desk.ledger, server="web02")
    lacking = cutovers.cutover_id(f"{RUN.dag_id}/{RUN.dag_run_id}/web02")
    assert "has no instance" in desk.refused("POST", "/backups", 409, {"subject": lacking})["detail"]


def test_the_answer_is_one_that_airflow_s_own_route_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its place, its body, and the options of its operator; the double above knows none of them."""
    from airflow.api_fastapi.core_api.datamodels.hitl import UpdateHITLDetailPayload
    from airflow.api_fastapi.core_api.routes.public.hitl import task_instances_hitl_router
    from airflow.providers.standard.operators.hitl import ApprovalOperator

    sent: list[tuple[str, str, Any]] = []

    def call(self: ApiClient, method: str, path: str, body: Any = None, **_: Any) -> None:
        sent.append((method, path, body))

    monkeypatch.setattr(ApiClient, "call", call)
    client = ApiClient("https://airflow", lambda: "token")
    for option in OPTIONS.values():
        client.answer("erp.cutover", "on_demand__1", next(iter(ASKING.questions)), option)
    for method, path, body in sent:
        place = path.removeprefix("/api/v2")
        [route] = [
            each
            for each in task_instances_hitl_router.routes
            if isinstance(each, APIRoute) and method in each.methods and each.path_regex.match(place)
        ]
        found = route.path_regex.match(place)
        assert found is not None
        told = {"dag_id": "erp.cutover", "dag_run_id": "on_demand__1", "task_id": "approve", "map_index": "-1"}
        assert found.groupdict() == told
        UpdateHITLDetailPayload.model_validate(body)
    assert [body["chosen_options"] for _, _, body in sent] == [[ApprovalOperator.APPROVE], [ApprovalOperator.REJECT]]
