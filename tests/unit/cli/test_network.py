"""What the commands of networks' cutovers ask of the REST API, what they print, and when they end with status 1."""

from __future__ import annotations

import json
from typing import Any, Final

import pytest
from tests.unit.cli.test_cutover import Api, call

from wavelift.airflow.rest import ApiError
from wavelift.base.tries import FAILURE_KEY
from wavelift.cli import network

pytestmark = pytest.mark.unit

NET: Final = "net-0b6f9c1d2e3a"
RUN: Final = {"dag_id": "web.network_cutover", "dag_run_id": "on_demand__1", "dag_paused": False}
ONE: Final[dict[str, Any]] = {
    "id": NET,
    "network": "web",
    "environment": "cloud",
    "state": "switched",
    "phase": "the destination routes the network",
    "prefix": "10.1.2.0/24",
    "extension_id": "ext-1",
    "requested_by": "ana",
    "requested_at": "2026-12-05T20:00:05+00:00",
    "request_id": "",
    "note": "change 4711",
    "revert_run": "",
    "finish_run": "",
    "error": "",
    "alert": "",
    "cancel_requested": False,
    "soak_until": "2026-12-06T20:30:00+00:00",
    "dag_id": "web.network_cutover",
    "dag_run_id": "on_demand__1",
    "updated_at": "2026-12-05T20:30:00+00:00",
    "finished_at": None,
}
STEP: Final[dict[str, Any]] = {
    "name": "source",
    "kind": "person",
    "state": "intended",
    "words": "Disconnect VLAN-12 from its router",
    "undo_words": "Connect VLAN-12 to its router",
    "before": {"connectivity": "ON"},
    "wanted": {"connectivity": "OFF"},
    "waits": "until somebody confirms",
    "error": "",
    "changed_at": "2026-12-05T20:10:00+00:00",
}
DETAILS: Final[dict[str, Any]] = {
    **ONE,
    "steps": [],
    "approval": None,
    "plan": None,
    "plan_digest": "d",
    "before": None,
    "after": None,
    "probes": {"passed": ["tcp 10.1.2.1:22"]},
    "times": {"going": "2026-12-05T20:10:00+00:00", "switched": "2026-12-05T20:30:00+00:00"},
    "run_key": "k",
    "version": 9,
}
PAGE: Final = {"total": 1, "limit": 50, "offset": 0}
ASK: Final = "POST /networks/web/cutovers"


def started(mode: str = "cutover", **changes: Any) -> dict[str, Any]:
    cutover = None if mode == "plan" else {**ONE, "state": "reserved"}
    return {**RUN, "mode": mode, "cutover": cutover, "made_before": False, **changes}


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    monkeypatch.setattr(network, "client", lambda: made)
    monkeypatch.setenv("TZ", "UTC")
    return made


def test_cutover_sends_what_was_given_and_tells_the_id_and_how_to_approve(api: Api) -> None:
    api.answers[ASK] = started()
    done = call("network", "cutover", "web", "--note", "n", "--request-id", "k1")
    assert done.exit_code == 0, done.output
    assert api.asked == [(ASK, {"mode": "cutover", "note": "n", "request_id": "k1"})]
    assert f"{NET} 10.1.2.0/24" in done.stderr
    assert "`wavelift network approve web on_demand__1`" in done.stderr
    api.answers[ASK] = started(made_before=True)
    assert "nothing was started" in call("network", "cutover", "web", "--request-id", "k1").stderr


def test_cutover_with_wait_ends_as_its_run(api: Api) -> None:
    api.answers = {ASK: started(), f"GET /network_cutovers/{NET}": ONE}
    done = call("network", "cutover", "web", "--wait", "--json")
    assert (done.exit_code, json.loads(done.stdout)["state"]) == (0, "switched")
    api.state = "failed"
    api.answers[f"GET /network_cutovers/{NET}"] = {**ONE, "state": "failed", "alert": "nobody routes 10.1.2.0/24"}
    api.left["report", FAILURE_KEY] = {"what": "unextend: HCX refused"}
    done = call("network", "cutover", "web", "--wait")
    assert done.exit_code == 1
    assert "nobody routes 10.1.2.0/24" in done.stdout
    assert "unextend: HCX refused" in done.stderr


def test_a_plan_is_printed_and_ends_with_status_1_while_something_is_in_the_way(api: Api) -> None:
    api.answers[ASK] = started("plan")
    api.left = {("record", "report"): {"digest": "d"}, ("record", "words"): "web: the gateway moves\n  1. Disconnect"}
    done = call("network", "plan", "web")
    assert (done.exit_code, done.stdout) == (0, "web: the gateway moves\n  1. Disconnect\n")
    assert api.asked == [(ASK, {"mode": "plan"})]
    api.state = "failed"
    done = call("network", "plan", "web", "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (1, {"digest": "d"})
    api.left = {("report", FAILURE_KEY): {"what": "HCX is away"}}
    done = call("network", "plan", "web")
    assert (done.exit_code, "HCX is away" in done.stderr) == (1, True)


@pytest.mark.parametrize(("verb", "state"), [("revert", "reverted"), ("finish", "finished")])
def test_the_ends_are_asked_by_id_and_followed(api: Api, verb: str, state: str) -> None:
    api.answers = {
        f"GET /network_cutovers/{NET}": {**ONE, "state": state},
        f"POST /network_cutovers/{NET}/{verb}": started(verb, dag_run_id="on_demand__2"),
    }
    done = call("network", verb, NET)
    assert done.exit_code == 0, done.output
    assert f"POST /network_cutovers/{NET}/{verb}" in [name for name, _ in api.asked]
    assert state in done.stdout
    api.state = "failed"
    assert call("network", verb, NET).exit_code == 1
    api.answers[f"POST /network_cutovers/{NET}/{verb}"] = ApiError("soaks until tomorrow", status=409)
    done = call("network", verb, NET)
    assert (done.exit_code, done.stderr.strip()) == (1, "soaks until tomorrow")


def test_a_dag_that_is_not_there_or_paused_is_told(api: Api) -> None:
    api.paused = None
    done = call("network", "cutover", "web")
    assert (done.exit_code, "networks/web.yaml" in done.stderr, api.asked) == (1, True, [])
    api.paused = True
    api.answers[ASK] = started()
    assert call("network", "cutover", "web").exit_code == 0
    assert api.unpaused == ["web.network_cutover"]


def test_the_list_shows_what_somebody_must_know(api: Api) -> None:
    row = {**ONE, "state": "failed", "alert": "nobody routes 10.1.2.0/24", "error": "unextend: HCX refused"}
    api.answers["GET /network_cutovers"] = {**PAGE, "total": 7, "cutovers": [row]}
    done = call("network", "list", "--network", "web", "--state", "failed")
    assert done.exit_code == 0
    assert f"{NET} web: nobody routes 10.1.2.0/24" in done.stdout
    assert f"{NET} web: unextend: HCX refused" in done.stdout
    assert "1 of 7" in done.stdout
    api.answers["GET /network_cutovers"] = {**PAGE, "total": 0, "cutovers": []}
    assert call("network", "list").exit_code == 0


def test_the_networks_of_the_files_are_listed(api: Api) -> None:
    row = {"network": "web", "environment": "cloud", "description": "", "disconnect_by": "nsx", "on_failure": "revert"}
    known = {**row, "dag_id": RUN["dag_id"], "stale": True, "cutover": ONE}
    api.answers["GET /networks"] = {"networks": [known]}
    done = call("network", "list", "--files")
    assert (done.exit_code, NET in done.stdout, "its file is invalid now" in done.stdout) == (0, True, True)


@pytest.mark.parametrize(
    ("state", "steps", "words"),
    [
        ("waiting", [], "wavelift network approve web on_demand__1"),
        ("going", [STEP], f"wavelift network confirm {NET}"),
        ("going", [], f"wavelift network cancel {NET}"),
        ("switched", [], f"wavelift network finish {NET}"),
        ("failed", [], f"wavelift network revert {NET}"),
        ("reverting", [], "clear order_isolate"),
        ("finishing", [], "clear order_finish"),
    ],
)
def test_show_says_what_to_do_next(api: Api, state: str, steps: list[Any], words: str) -> None:
    api.answers[f"GET /network_cutovers/{NET}"] = {**DETAILS, "state": state, "steps": steps}
    done = call("network", "show", NET)
    assert done.exit_code == 0, done.output
    assert words in " ".join(done.stdout.split())
    assert "tcp 10.1.2.1:22" in done.stdout


@pytest.mark.parametrize(("verb", "words"), [("approve", "ana approved the plan"), ("reject", "ana rejected the plan")])
def test_an_answer_is_given(api: Api, verb: str, words: str) -> None:
    path = "POST /networks/web/cutovers/on_demand__1/approval"
    api.answers[path] = {**RUN, "task_id": "approve", "answer": verb, "answered_by": "ana"}
    done = call("network", verb, "web", "on_demand__1")
    assert (done.exit_code, words in done.stdout, api.asked) == (0, True, [(path, {"answer": verb})])
    api.answers[path] = {**api.answers[path], "task_id": "approve_finish"}
    assert "that the way back is given up" in call("network", verb, "web", "on_demand__1").stdout


@pytest.mark.parametrize(("state", "word"), [("intended", "done"), ("undoing", "undone")])
def test_a_step_is_confirmed_as_what_was_said(api: Api, state: str, word: str) -> None:
    path = f"POST /network_cutovers/{NET}/confirm"
    api.answers[path] = {**STEP, "state": state, "cutover": NET}
    flags = ["--undone"] if word == "undone" else []
    done = call("network", "confirm", NET, "source", *flags)
    assert (done.exit_code, api.asked) == (0, [(path, {"step": "source", "answer": word})])
    assert f"'source' is confirmed as {word}" in done.stdout


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("ended", "is cancelled: nothing was touched"),
        ("waiting", "goes no further; it ends when"),
        ("going", "stops at its next step"),
    ],
)
def test_cancel_tells_what_becomes_of_it(api: Api, state: str, words: str) -> None:
    api.answers[f"POST /network_cutovers/{NET}/cancel"] = {**ONE, "state": state, "cancel_requested": True}
    done = call("network", "cancel", NET)
    assert (done.exit_code, words in done.stdout) == (0, True)
