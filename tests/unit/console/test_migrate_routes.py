"""New migrations through REST: their ids are told before any task has begun; cancelling them then (AMP-04, AMP-07)."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

import pytest
from tests.contexts import run_context
from tests.ledgers import within
from tests.rights import OPEN
from tests.unit.console.test_replication_routes import CLOCK, Desk, desk

from wavelift.airflow.rest import ApiError
from wavelift.base.run import DagRun, SystemClock
from wavelift.console.answers import MigrationsStarted
from wavelift.ledger import SourceServer, WaveRunState, migrations, waves
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.common.admit import RunRequest
from wavelift.services.common.reserve import CANCELLED
from wavelift.services.dataplane.messages import Admitted
from wavelift.services.migration.admit import admit
from wavelift.services.migration.begin import NewMigration, begin_migration
from wavelift.services.migration.waiting import MAKING, NOT_MADE, WAITS

__all__ = ["desk"]

pytestmark = pytest.mark.unit

PATH = "/waves/erp/migrations"


def started(desk: Desk, **body: Any) -> MigrationsStarted:
    return MigrationsStarted.model_validate(desk.post(PATH, **body))


def run_of(made: MigrationsStarted) -> DagRun:
    return DagRun(made.dag_id, made.dag_run_id)


def row(desk: Desk, id: str) -> Any:
    return desk.get(f"/migrations/{id}")


def test_amp_04_the_ids_are_in_the_answer_and_the_run_goes_on_with_them(desk: Desk) -> None:
    made = started(desk, launch="none", priority="next", note="first try")
    assert [(each.server, each.state, each.phase) for each in made.migrations] == [
        ("db01", "queued", WAITS),
        ("web01", "queued", WAITS),
    ]
    assert made.with_preflight == ["/DC0/vm/shop", "wave:erp"]
    conf = {"launch": "none", "priority": "next", "note": "first try"}
    assert desk.airflow.triggered == [("erp.migrate", made.dag_run_id, conf)]
    page = desk.get("/migrations", wave="erp", dag_run_id=made.dag_run_id)
    assert {each["id"] for each in page["migrations"]} == {each.id for each in made.migrations}
    run = within(desk.ledger.read(), waves.get, run_of(made))
    assert (run.requested_by, run.note, run.mode, run.source) == ("ana", "first try", "migrate", "api")
    (event,) = desk.get(f"/events/{made.migrations[0].id}")["events"]
    assert (event["action"], event["actor"]) == ("migration.admitted", "ana")
    # The run's own admission finds what was frozen, although the file says something else by now.
    desk.specs.text = desk.specs.text.replace("  - web01\n", "  - web09\n")
    ctx = run_context(run_of(made), requester="ana")
    kept: Admitted = admit(desk.ledger, RunRequest("erp", conf), desk.specs.wave, ctx, rights=OPEN)
    assert [plan.server for plan in kept.wave.servers][:2] == ["web01", "db01"]
    assert len(within(desk.ledger.read(), migrations.of_dag_run, run_of(made))) == 2


def test_only_the_chosen_servers_get_ids(desk: Desk) -> None:
    made = started(desk, servers=["db01"])
    assert ([each.server for each in made.migrations], made.with_preflight) == (["db01"], [])
    assert started(desk, servers=["/DC0/vm/shop"]).migrations == []


def test_what_can_not_start_leaves_nothing(desk: Desk) -> None:
    desk.airflow.paused = True
    said = desk.refused("POST", PATH, 409, {})["detail"]
    assert said.startswith("erp.migrate is paused: nothing starts; unpause it")
    desk.airflow.paused = None
    assert "Airflow has no DAG erp.migrate" in desk.refused("POST", PATH, 404, {})["detail"]
    desk.airflow.paused = False
    assert "no server 'web02'" in desk.refused("POST", PATH, 409, {"servers": ["web02"]})["detail"]
    for body, words in (
        ({"servers": []}, "servers"),
        ({"launch": "later"}, "launch"),
        ({"mode": "cleanup"}, "unknown key 'mode'"),
        ({"request_id": "a b"}, "request_id"),
    ):
        assert words in str(desk.refused("POST", PATH, 422, body)["detail"])
    desk.specs.broken = "shop.yaml:3: no such field"
    assert "no such field" in desk.refused("POST", PATH, 409, {})["detail"]
    assert desk.get("/migrations")["total"] == 0
    assert desk.airflow.triggered == []


def test_a_dag_run_that_airflow_refuses_to_make_gives_the_ids_back(desk: Desk) -> None:
    desk.airflow.refuses = ApiError("Airflow said no", status=400)
    assert "said no" in desk.refused("POST", PATH, 400, {"servers": ["web01"]})["detail"]
    [known] = desk.get("/migrations")["migrations"]
    assert (known["state"], known["error"]) == ("cancelled", NOT_MADE)
    assert (
        within(desk.ledger.read(), waves.get, DagRun("erp.migrate", known["dag_run_id"])).state is WaveRunState.FAILED
    )
    desk.airflow.refuses = None
    assert started(desk, servers=["web01"]).migrations[0].id != known["id"]


@pytest.mark.parametrize("status", [0, 502])
def test_a_run_whose_answer_was_lost_is_not_given_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    desk.airflow.refuses = ApiError("no answer", status=status)
    monkeypatch.setattr(desk.airflow, "find_run_state", lambda *_: "queued")
    assert started(desk, servers=["web01"]).migrations[0].state == "queued"


def test_the_same_request_at_the_same_moment_takes_nothing_from_the_other(desk: Desk) -> None:
    """Both asked the ledger before either had written; Airflow makes one of the two runs."""
    desk.airflow.refuses = ApiError("the run exists", status=409)
    desk.refused("POST", PATH, 409, {"servers": ["web01"], "request_id": "k1"})
    [known] = desk.get("/migrations")["migrations"]
    assert known["state"] == "queued"


def test_a_request_that_is_made_again_starts_nothing_twice(desk: Desk) -> None:
    made = started(desk, servers=["web01"], request_id="change-4711")
    assert made.dag_run_id == "on_demand__change-4711", "never the id that Airflow or a timetable gives"
    said = desk.refused("POST", PATH, 409, {"servers": ["web01"], "request_id": "change-4711"})["detail"]
    assert "This request was made before: nothing was started again" in said
    assert made.dag_run_id in said
    assert len(desk.airflow.triggered) == 1


def test_a_run_is_listed_together_with_its_wave(desk: Desk) -> None:
    assert "only together with wave" in desk.refused("GET", "/migrations?dag_run_id=r1", 422)["detail"]


# Cancel before pre-flight


def test_amp_07_cancelling_what_waits_stops_no_task_of_any_server(desk: Desk) -> None:
    """Before a mapped task is expanded it stands for every server: to fail it would stop them all."""
    made = started(desk, servers=["web01", "db01"])
    desk.airflow.tasks = [
        {"task_id": name, "map_index": -1, "state": None, "rendered_map_index": None}
        for name in ("admit", "preflight", "server.reserve")
    ]
    told = desk.post(f"/migrations/{made.migrations[0].id}/cancel")
    assert (told["state"], told["cancel_requested"], told["begun"], told["stopped_tasks"]) == (
        "queued",
        True,
        False,
        [],
    )
    assert desk.airflow.failed == []
    assert not row(desk, made.migrations[1].id)["cancel_requested"]


@pytest.mark.parametrize("state", ["success", "failed"])
def test_amp_07_a_cancel_after_the_dag_run_is_over_ends_it_at_once(desk: Desk, state: str) -> None:
    made = started(desk, servers=["web01"])
    desk.airflow.states[made.dag_run_id] = state
    told = desk.post(f"/migrations/{made.migrations[0].id}/cancel")
    assert (told["state"], told["error"], told["begun"]) == ("cancelled", CANCELLED, False)
    assert "already ended" in desk.refused("POST", f"/migrations/{made.migrations[0].id}/cancel", 409)["detail"]


def test_amp_07_a_cancel_after_the_dag_run_was_deleted_ends_it_unless_it_is_about_to_be_made(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = started(desk, servers=["web01", "db01"])
    desk.airflow.states[made.dag_run_id] = ""
    db01, web01 = (each.id for each in made.migrations)
    assert desk.post(f"/migrations/{web01}/cancel")["state"] == "queued"
    later = SystemClock().now() + MAKING
    monkeypatch.setattr(SystemClock, "now", lambda self: later + timedelta(seconds=1))
    for id in (web01, db01):
        assert desk.post(f"/migrations/{id}/cancel")["state"] == "cancelled"


def test_what_has_begun_is_stopped_by_its_own_task(desk: Desk) -> None:
    made = started(desk, servers=["web01"])
    server = SourceServer(source="vc", name="web01", moref="vm-1")
    ctx = run_context(run_of(made), "web01", clock=CLOCK, map_index=0)
    known = begin_migration(desk.ledger, NewMigration("erp", server, "hall-a", "eu-central-1"), ctx)
    assert known.id == made.migrations[0].id
    desk.airflow.tasks = [
        {"task_id": "server.reserve", "map_index": 0, "state": "deferred", "rendered_map_index": "web01"}
    ]
    told = desk.post(f"/migrations/{known.id}/cancel")
    assert (told["begun"], told["stopped_tasks"], desk.airflow.failed) == (
        True,
        ["server.reserve"],
        ["server.reserve 0"],
    )


def test_the_step_of_what_waits_is_no_task_of_the_whole_run(desk: Desk) -> None:
    made = started(desk, servers=["web01"])
    desk.airflow.tasks = [
        {
            "task_id": "server.reserve",
            "map_index": -1,
            "state": "scheduled",
            "rendered_map_index": None,
            "try_number": 0,
        }
    ]
    told = row(desk, made.migrations[0].id)
    assert (told["state"], told["phase"], told["step"]) == (MigrationState.QUEUED, WAITS, "")


def test_of_two_requests_of_one_name_at_the_same_moment_one_is_frozen_and_told(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other asks for other servers: it must not be told that those of the first are its own."""
    answers: list[Any] = []
    real = desk.specs.wave

    def wave(name: str) -> Any:
        if not answers:
            answers.append(None)
            answers[0] = desk.client.post(PATH, json={"servers": ["db01"], "request_id": "k1"})
        return real(name)

    monkeypatch.setattr(desk.specs, "wave", wave)
    said = desk.refused("POST", PATH, 409, {"servers": ["web01"], "request_id": "k1"})["detail"]
    assert "This request was made before" in said
    assert [row["server"] for row in answers[0].json()["migrations"]] == ["db01"]
    assert [known["server"] for known in desk.get("/migrations")["migrations"]] == ["db01"]
    assert len(desk.airflow.triggered) == 1


@pytest.mark.parametrize(
    "name", ["../../x", "a/b", "a?b", "a%2fb", "a\n", "", "x" * 101, "é", "\u202ea", "a b", "\x00", "\ud800"]
)
def test_a_request_id_is_a_plain_name(desk: Desk, name: str) -> None:
    answer = desk.client.post(PATH, content=json.dumps({"request_id": name}))
    assert answer.status_code == 422, answer.text
    assert desk.airflow.triggered == []


@pytest.mark.parametrize("name", ["..", ".", "-rf", "manual__1", "scheduled__2026-01-01T00:00:00+00:00", "x" * 100])
def test_a_request_id_never_is_the_name_of_another_kind_of_run(desk: Desk, name: str) -> None:
    assert started(desk, servers=["web01"], request_id=name).dag_run_id == f"on_demand__{name}"
