"""Live migrations through REST: refusals come before any DAG run, repeats start nothing twice."""

from __future__ import annotations

from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import within
from tests.rights import OPEN
from tests.unit.console.living import CLOCK, LIVE_RUN, live_wave, one_live, to
from tests.unit.console.test_cutover_routes import Runs
from tests.unit.console.test_replication_routes import ENVIRONMENT, Desk, desk

from wavelift.airflow.rest import ApiError
from wavelift.base.run import DagRun
from wavelift.ledger import cutovers, live_migrations, waves
from wavelift.rules.live import LiveState
from wavelift.services.common.admit import RunRequest
from wavelift.services.live_migration.admit import admit
from wavelift.services.live_migration.requests import NOT_MADE
from wavelift.services.live_migration.runs import RUN_KIND, run_subject

__all__ = ["desk"]

pytestmark = pytest.mark.unit

PATH = "/waves/erp/live"
DAG = "erp.live"


@pytest.fixture
def live(desk: Desk) -> Desk:
    desk.airflow = Runs()
    return desk


def states(desk: Desk) -> dict[str, str]:
    return {row["server"]: row["state"] for row in desk.get("/live")["migrations"]}


def freeze(desk: Desk, run: DagRun) -> None:
    spec = live_wave("erp").dump()
    asked = waves.NewWaveRun(run=run, wave="erp", mode="migrate", requested_by="ana", source="api", spec=spec)
    within(desk.ledger.write(waves.LOCK), waves.freeze_wave_run, asked, clock=CLOCK)


def test_the_ids_are_in_the_answer_and_the_run_goes_on_with_them(live: Desk) -> None:
    window = {"window_start": "2099-12-05T22:00:00+01:00", "window_end": "2099-12-06T02:00:00+01:00"}
    made = live.post(PATH, servers=["web01"], mode="migrate", note="change 4711", accept_warnings=True, **window)
    [row] = made["migrations"]
    assert (row["server"], row["state"], row["kind"]) == ("web01", "reserved", "rav")
    assert (row["requested_by"], row["window_end"]) == ("ana", "2099-12-06T01:00:00+00:00")
    [(dag_id, run_id, conf)] = live.airflow.triggered
    assert (dag_id, run_id) == (made["dag_id"], made["dag_run_id"]) == (DAG, row["dag_run_id"])
    assert conf == {"mode": "migrate", "servers": ["web01"], "accept_warnings": True, "note": "change 4711", **window}
    ctx = run_context(DagRun(dag_id, run_id), requester="ana")
    taken = admit(live.ledger, RunRequest("erp", conf), live.specs.live, ctx, rights=OPEN)
    assert taken.migrations == {"web01": row["id"]}
    assert taken.wave.accept_warnings
    assert states(live) == {"web01": "waiting"}


def test_a_plan_reserves_nothing(live: Desk) -> None:
    made = live.post(PATH, servers=["web01"])
    assert (made["mode"], made["migrations"], states(live)) == ("plan", [], {})
    assert live.airflow.triggered[0][2] == {"mode": "plan", "servers": ["web01"]}


def test_the_same_request_makes_the_same_migrations_and_no_second_run(live: Desk) -> None:
    asked = {"servers": ["web01"], "mode": "migrate", "request_id": "change-4711"}
    first = live.post(PATH, **asked)
    [known] = within(live.ledger.read(), live_migrations.of_dag_run, DagRun(DAG, first["dag_run_id"]))
    for state in (LiveState.RESERVED, LiveState.WAITING, LiveState.STARTING):
        if state is not LiveState.RESERVED:
            to(live.ledger, known, state)
        again = live.post(PATH, **asked)
        assert again["made_before"]
        assert [(each["id"], each["state"]) for each in again["migrations"]] == [(known.id, str(state))]
    assert len(live.airflow.triggered) == 1
    other = live.refused("POST", PATH, 409, {**asked, "servers": ["db01"]})
    assert "An earlier request of this name is about web01" in other["detail"]


def test_a_run_that_could_not_be_made_keeps_no_server(live: Desk) -> None:
    live.airflow.refuses = ApiError("Airflow said no", status=400)
    assert "said no" in live.refused("POST", PATH, 400, {"mode": "migrate"})["detail"]
    rows = live.get("/live")["migrations"]
    assert {(row["state"], row["error"]) for row in rows} == {("expired", NOT_MADE)}


def test_what_hcx_may_still_move_is_refused_with_its_rule(live: Desk) -> None:
    to(live.ledger, one_live(live.ledger), LiveState.STARTING, LiveState.MOVING)
    answer = live.refused("POST", PATH, 409, {"mode": "migrate"})
    assert [(each["server"], each["rule"]) for each in answer["refusals"]] == [("web01", "live_migration")]
    assert not live.airflow.triggered


def test_who_may_not_migrate_in_the_environment_does_not_even_plan(live: Desk) -> None:
    live.specs.environment = ENVIRONMENT.replace("user:ana", "user:bo")
    assert "may not migrate into" in live.refused("POST", PATH, 403, {"mode": "plan"})["detail"]
    assert not live.airflow.triggered


def test_details_tell_what_was_found(live: Desk) -> None:
    known = one_live(live.ledger)
    found = {"destination": {"passed": True}}
    to(live.ledger, known, LiveState.STARTING, LiveState.MOVING, LiveState.VERIFYING, LiveState.MOVED, found=found)
    told = live.get(f"/live/{known.id}")
    assert (told["state"], told["found"], told["approval"]) == ("moved", found, None)
    assert set(told["times"]) == {"starting", "moving", "verifying", "moved"}
    live.refused("GET", "/live/liv-nothing", 404)
    assert live.get("/live", search="web", state="moved")["total"] == 1
    live.refused("GET", "/live?dag_run_id=x", 422)


def test_what_hcx_was_not_asked_for_ends_without_a_run(live: Desk) -> None:
    known = one_live(live.ledger)
    live.airflow.states[LIVE_RUN.dag_run_id] = "running"
    told = live.post(f"/live/{known.id}/cancel")
    assert (told["state"], told["cancel_requested"], told["cancel_run"]) == ("waiting", True, "")
    live.airflow.states[LIVE_RUN.dag_run_id] = "failed"
    assert live.post(f"/live/{known.id}/cancel")["state"] == "ended"
    assert not live.airflow.triggered
    assert "nothing to cancel" in live.refused("POST", f"/live/{known.id}/cancel", 409)["detail"]


def test_what_hcx_moves_is_ended_there_by_a_run(live: Desk) -> None:
    freeze(live, LIVE_RUN)
    known = to(live.ledger, one_live(live.ledger), LiveState.STARTING)
    live.airflow.states[LIVE_RUN.dag_run_id] = "running"
    assert "being told to start" in live.refused("POST", f"/live/{known.id}/cancel", 409)["detail"]
    to(live.ledger, known, LiveState.MOVING, migration_id="m-1")
    told = live.post(f"/live/{known.id}/cancel")
    [(dag_id, run_id, conf)] = live.airflow.triggered
    assert (dag_id, run_id, conf) == (DAG, told["cancel_run"], {"mode": "cancel", "migrations": [known.id]})
    assert (told["state"], told["cancel_requested"]) == ("moving", True)
    body: dict[str, Any] = {}
    live.airflow.paused = True
    assert "is paused" in live.refused("POST", f"/live/{known.id}/cancel", 409, body)["detail"]


def test_an_answer_goes_to_airflow_and_is_in_the_ledger_at_once(live: Desk) -> None:
    """Airflow forgets one that comes within seconds of the question, if it takes the task for dead: seen."""
    freeze(live, LIVE_RUN)
    one_live(live.ledger, plan_digest="d" * 64)
    path = f"{PATH}/{LIVE_RUN.dag_run_id}/approval"
    assert "asks nothing now" in live.refused("POST", path, 409, {"answer": "approve"})["detail"]
    live.airflow.asking = {"approve"}
    told = live.post(path, answer="approve")
    assert (told["task_id"], told["answered_by"]) == ("approve", "ana")
    kept = within(live.ledger.read(), cutovers.newest_approval, RUN_KIND, run_subject(LIVE_RUN), "d" * 64)
    assert kept is not None
    assert (kept.answer, kept.answered_by) == ("approve", "ana")
    live.airflow.asking = {"approve_switchover"}
    live.post(path, answer="reject")
    assert live.airflow.answered == [
        (LIVE_RUN.dag_run_id, "approve", "Approve"),
        (LIVE_RUN.dag_run_id, "approve_switchover", "Reject"),
    ]
