"""What the commands of cutovers, test instances and backups ask of the REST API, and when they end with status 1."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, cast

import pytest
from tests.unit.cli import cutover_samples as samples
from typer.testing import CliRunner, Result

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.tries import FAILURE_KEY
from wavelift.cli import backup, cutover
from wavelift.cli.main import app
from wavelift.cli.watch import Waiting, step_row
from wavelift.console.cutover_answers import CutoverRow

pytestmark = pytest.mark.unit

RUN = {"dag_id": "erp.cutover", "dag_run_id": "on_demand__1", "dag_paused": False}
ONE = samples.cutover(wave="erp", dag_id="erp.cutover", dag_run_id="on_demand__1")
CUT = ONE["id"]
STARTED = {**RUN, "mode": "cutover", "cutovers": [ONE], "made_before": False}
PAGE = {"total": 1, "limit": 500, "offset": 0}


class Api:
    """Airflow and our routes: answers by method and path; a run ends at the first look."""

    url = "http://airflow"

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.left: dict[tuple[str, str], Any] = {}
        self.tasks: list[dict[str, Any]] = []
        self.state = "success"
        self.paused: bool | None = False
        self.unpaused: list[str] = []

    def call(self, method: str, path: str, body: Any = None) -> Any:
        name = f"{method} {path.split('?')[0].removeprefix('/wavelift')}"
        self.asked.append((name, body))
        answer = self.answers[name]
        if isinstance(answer, ApiError):
            raise answer
        return answer

    def is_paused(self, dag_id: str) -> bool | None:
        return self.paused

    def held_runs(self, dag_id: str) -> int:
        return 0

    def unpause(self, dag_id: str) -> None:
        self.unpaused.append(dag_id)

    def task_instances(self, dag_id: str, run_id: str, **_: Any) -> list[dict[str, Any]]:
        return self.tasks

    def run_state(self, dag_id: str, run_id: str) -> str:
        return self.state

    def xcom(self, dag_id: str, run_id: str, task: str, *, key: str = "return_value", **_: Any) -> Any:
        return self.left.get((task, key))

    def wait_for_run(self, dag_id: str, run_id: str, *, every: Callable[[], None], **_: Any) -> str:
        every()
        return self.state


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api()
    for module in (cutover, backup):
        monkeypatch.setattr(module, "client", lambda: made)
    monkeypatch.setenv("TZ", "UTC")
    return made


def call(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_start_sends_what_was_given_and_prints_ids_and_how_to_approve(api: Api) -> None:
    api.answers["POST /waves/erp/cutovers"] = STARTED
    window = ("--from", "2099-12-05T22:00:00+01:00", "--to", "2099-12-06T02:00:00+01:00")
    done = call(
        "cutover", "start", "erp", "erp-db01", *window, "--note", "n", "--request-id", "k1", "--priority", "next"
    )
    assert done.exit_code == 0, done.output
    body = {
        "mode": "cutover",
        "servers": ["erp-db01"],
        "window_start": "2099-12-05T22:00:00+01:00",
        "window_end": "2099-12-06T02:00:00+01:00",
        "note": "n",
        "request_id": "k1",
        "priority": "next",
    }
    assert api.asked == [("POST /waves/erp/cutovers", body)]
    assert f"{CUT} erp-db01" in done.stderr
    assert "`wavelift cutover approve erp on_demand__1`" in done.stderr


def test_start_with_wait_shows_how_to_approve_and_ends_as_the_run(api: Api) -> None:
    api.answers = {
        "POST /waves/erp/cutovers": STARTED,
        "GET /cutovers": {**PAGE, "cutovers": [{**ONE, "state": "waiting", "phase": "planned"}]},
    }
    api.tasks = [{"task_id": "approve", "map_index": -1, "state": "awaiting_input", "try_number": 1}]
    done = call("cutover", "start", "erp", "--wait", "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["state"] == "success"
    assert "approve: waits for approval; `wavelift cutover approve erp on_demand__1` gives it" in done.stderr
    assert "waiting (planned)" in done.stderr
    api.state = "failed"
    api.left[("report", FAILURE_KEY)] = {"what": "erp-db01: it broke"}
    done = call("cutover", "start", "erp", "--wait")
    assert (done.exit_code, "erp-db01: it broke" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("dag_id", "words"), [("erp.cutover", "the instance starts"), ("erp.test", "earlier tiers are checked")]
)
def test_a_step_waits_for_what_its_own_flow_says(api: Api, dag_id: str, words: str) -> None:
    api.tasks = [{"task_id": "server.launch", "map_index": 0, "rendered_map_index": "web01", "state": "deferred"}]
    assert Waiting(cast(ApiClient, api), dag_id, "r").lines() == [f"server.launch of web01: {words}"]
    row = CutoverRow.model_validate({**samples.MOVES, "dag_id": dag_id, "step": "launch", "step_state": "deferred"})
    assert step_row("web01", row).note == words


@pytest.mark.parametrize("environment", ["prod", "migrate", "test"])
@pytest.mark.parametrize(("task", "words"), [("reserve", "waits for a slot"), ("begin", "waits for AWS")])
def test_a_step_of_an_export_waits_for_what_its_flow_says(api: Api, environment: str, task: str, words: str) -> None:
    """Also where the environment has the name of a wave's flow."""
    api.tasks = [{"task_id": task, "map_index": -1, "rendered_map_index": None, "state": "deferred"}]
    (line,) = Waiting(cast(ApiClient, api), f"instance_export.{environment}", "r").lines()
    assert line == f"{task}: {words}"


def test_a_refusal_is_told_with_status_1(api: Api) -> None:
    api.answers["POST /waves/erp/cutovers"] = ApiError("web01: cutover cut-1 is going", status=409)
    done = call("cutover", "start", "erp", "web01")
    assert (done.exit_code, done.stderr.strip()) == (1, "web01: cutover cut-1 is going")
    api.paused = None
    done = call("cutover", "plan", "erp")
    assert (done.exit_code, "only a wave whose file has a 'cutover' section has one" in done.stderr) == (1, True)


def test_a_wrong_time_is_not_sent(api: Api) -> None:
    done = call("cutover", "start", "erp", "--from", "tonight")
    assert (done.exit_code, "is not a time" in done.stderr, api.asked) == (1, True, [])


def test_a_paused_dag_is_unpaused_and_that_is_told(api: Api) -> None:
    api.paused = True
    api.answers["POST /waves/erp/cutovers"] = STARTED
    done = call("cutover", "start", "erp")
    assert (done.exit_code, api.unpaused) == (0, ["erp.cutover"])
    assert "erp.cutover was paused; it is unpaused now" in done.stderr


def test_a_plan_is_printed_and_tells_by_its_status_whether_all_can_go(api: Api) -> None:
    api.answers["POST /waves/erp/cutovers"] = {**RUN, "mode": "plan", "cutovers": []}
    server = {"server": "web01", "goes": True}
    api.left = {
        ("plan", "return_value"): {"digest": "d", "servers": ["web01"]},
        ("plan", "report"): {"servers": [server]},
        ("plan", "words"): "web01, tier web\n  1. Shut the guest down\n     back: Start it",
    }
    done = call("cutover", "plan", "erp", "web01")
    assert (done.exit_code, done.stdout) == (0, "web01, tier web\n  1. Shut the guest down\n     back: Start it\n")
    assert api.asked[0][1] == {"mode": "plan", "servers": ["web01"]}
    api.left["plan", "report"] = {"servers": [server, {"server": "db01", "goes": False}]}
    done = call("cutover", "plan", "erp", "--json")
    assert (done.exit_code, len(json.loads(done.stdout)["servers"])) == (1, 2)
    api.state, api.left = "failed", {("report", FAILURE_KEY): {"what": "vCenter is away"}}
    assert "vCenter is away" in call("cutover", "plan", "erp").stderr


def test_prepare_tells_each_server_also_when_one_failed(api: Api) -> None:
    api.answers["POST /waves/erp/cutovers"] = {**RUN, "mode": "prepare", "cutovers": []}
    api.state = "failed"
    api.left = {
        ("prepare", "report"): {
            "servers": [
                {
                    "server": "web01",
                    "interface": "eni-1",
                    "address": "10.0.0.5",
                    "switch_after": "2026-12-02T10:00:00Z",
                },
                {"server": "db01", "error": "the address is taken"},
            ]
        },
        ("report", FAILURE_KEY): {"what": "db01 failed"},
    }
    done = call("cutover", "prepare", "erp")
    assert done.exit_code == 1
    assert "web01: interface eni-1 with 10.0.0.5; switch it after 2026-12-02 10:00 UTC" in done.stdout
    assert "db01: failed: the address is taken" in done.stdout
    assert "db01 failed" in done.stderr


def test_prepare_is_taken_back(api: Api) -> None:
    api.answers["POST /waves/erp/cutovers"] = {**RUN, "mode": "prepare", "cutovers": []}
    told = {"server": "web01", "undone": True, "words": "ttl: the zone is gone"}
    api.left = {("prepare", "report"): {"servers": [told]}}
    done = call("cutover", "prepare", "erp", "--undo")
    assert "web01: taken back; ttl: the zone is gone" in done.stdout
    assert api.asked == [("POST /waves/erp/cutovers", {"mode": "prepare", "undo": True})]


@pytest.mark.parametrize(("verb", "words"), [("approve", "ana approved the plan"), ("reject", "ana rejected the plan")])
def test_an_answer_is_given(api: Api, verb: str, words: str) -> None:
    path = "POST /waves/erp/cutovers/on_demand__1/approval"
    api.answers[path] = {**RUN, "task_id": "approve", "answer": verb, "answered_by": "ana"}
    done = call("cutover", verb, "erp", "on_demand__1")
    assert (done.exit_code, words in done.stdout, api.asked) == (0, True, [(path, {"answer": verb})])
    api.answers[path] = {**api.answers[path], "task_id": "approve_finalize"}
    assert "that the way back is given up" in call("cutover", verb, "erp", "on_demand__1").stdout


def test_a_step_is_confirmed_by_its_name(api: Api) -> None:
    path = f"POST /cutovers/{CUT}/confirm"
    api.answers[path] = {**samples.PERSON, "cutover": CUT}
    name = str(samples.PERSON["name"])
    done = call("cutover", "confirm", CUT, name)
    assert (done.exit_code, api.asked) == (0, [(path, {"step": name})])
    assert f"'{name}' is confirmed as done" in done.stdout


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("ended", "is cancelled: its source was not touched"),
        ("waiting", "goes no further; it ends when erp.cutover, run on_demand__1 comes to it"),
        ("moving", f"stops at its next step; `wavelift cutover show {CUT}` says how to go back"),
    ],
)
def test_cancel_tells_what_comes_next(api: Api, state: str, words: str) -> None:
    api.answers[f"POST /cutovers/{CUT}/cancel"] = {**ONE, "state": state}
    assert words in call("cutover", "cancel", CUT).stdout


@pytest.mark.parametrize("verb", ["revert", "finalize"])
def test_several_are_ended_by_a_run_each(api: Api, verb: str) -> None:
    other = {**ONE, "id": "cut-2", "server": "web01"}
    for row in (ONE, other):
        api.answers[f"GET /cutovers/{row['id']}"] = row
        api.answers[f"POST /cutovers/{row['id']}/{verb}"] = {**RUN, "mode": verb, "cutover": row}
    done = call("cutover", verb, CUT, "cut-2", CUT, "--json")
    assert (done.exit_code, [row["id"] for row in json.loads(done.stdout)]) == (0, [CUT, "cut-2"])
    posts = [name for name, _ in api.asked if name.startswith("POST")]
    assert posts == [f"POST /cutovers/{CUT}/{verb}", f"POST /cutovers/cut-2/{verb}"]
    api.state = "failed"
    assert call("cutover", verb, CUT).exit_code == 1
    assert call("cutover", verb, CUT, "--no-wait").exit_code == 0


def test_images_are_tried_and_their_results_printed(api: Api) -> None:
    run = {**RUN, "dag_id": "erp.test", "made_before": False}
    mine, others = {**samples.TEST, "wave": "erp"}, {**samples.ENDED_TEST, "dag_run_id": "another"}
    api.answers = {"POST /waves/erp/tests": run, "GET /tests": {**PAGE, "tests": [mine, others]}}
    done = call("cutover", "test", "erp", "erp-db01", "--hours", "2", "--run", "run-1", "--json")
    assert [row["id"] for row in json.loads(done.stdout)["tests"]] == [mine["id"]]
    assert api.asked[0][1] == {"servers": ["erp-db01"], "runs": ["run-1"], "hours": 2.0}
    api.state = "failed"
    api.left[("report", FAILURE_KEY)] = {"what": "1 of 1 tests failed"}
    done = call("cutover", "test", "erp")
    assert (done.exit_code, "1 of 1 tests failed" in done.stderr) == (1, True)
    path = f"POST /tests/{mine['id']}/end"
    api.answers[path], api.state = {**run, "test": mine}, "success"
    assert "is terminated" in call("cutover", "end-test", mine["id"]).stdout


def test_a_backup_is_made_and_awaited(api: Api) -> None:
    row = samples.BACKUP
    started = {**RUN, "dag_id": "instance_backup", "backup": row["id"], "made_before": False}
    api.answers = {"POST /backups": started, "GET /backups": {**PAGE, "backups": [row, samples.BROKEN_BACKUP]}}
    done = call("backup", CUT, "--reboot", "--json")
    assert [each["id"] for each in json.loads(done.stdout)["backups"]] == [row["id"]]
    assert api.asked[0] == ("POST /backups", {"subject": CUT, "reboot": True})
    api.state = "failed"
    api.left[("backup", FAILURE_KEY)] = {"what": "AWS said no"}
    done = call("backup", CUT)
    assert (done.exit_code, "AWS said no" in done.stderr) == (1, True)
