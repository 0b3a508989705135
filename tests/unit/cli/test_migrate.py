"""``wavelift migrate``, and the cancel of what it began, against an API of the test's own."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.unit.cli.answers import migration
from tests.unit.cli.test_replication import Api, Use, call, use

from wavelift.airflow.rest import ApiError

__all__ = ["use"]

pytestmark = pytest.mark.unit

DAG, RUN, ID = "erp.migrate", "on_demand__1", "mig-0b6f9c1d2e3a"
POST, LIST = "POST /wavelift/waves/erp/migrations", "GET /wavelift/migrations"
WAITS: dict[str, Any] = {
    "wave": "erp", "server": "web01", "dag_id": DAG, "dag_run_id": RUN,
    "state": "queued", "phase": "waits for pre-flight",
    "progress_pct": 0, "bytes_done": 0, "bytes_total": 0, "import_task_id": "", "image_id": "", "instance_id": "",
    "finished_at": None,
}  # fmt: skip
STARTED = {"dag_id": DAG, "dag_run_id": RUN, "migrations": [migration(**WAITS)], "with_preflight": []}
DONE = migration(wave="erp", server="web01", dag_id=DAG, dag_run_id=RUN)


def page(*rows: Any) -> dict[str, Any]:
    return {"migrations": list(rows), "total": len(rows), "limit": 500, "offset": 0}


@pytest.fixture
def begin(use: Use, monkeypatch: pytest.MonkeyPatch) -> Any:
    def made(*rows: Any, held: int = 0, **changes: Any) -> Api:
        api = use(
            {POST: STARTED, LIST: page(*rows), **changes.pop("answers", {})}, xcom=[{"name": "web01", "bytes": 1}]
        )
        api.state = changes.get("state", "success")
        monkeypatch.setattr(api, "held_runs", lambda dag_id: held, raising=False)
        return api

    return made


def test_amp_04_the_ids_are_printed_at_once_and_the_end_is_awaited(begin: Any) -> None:
    api = begin(DONE)
    done = call("migrate", "erp", "--server", "web01", "--launch", "none", "--priority", "next", "--note", "x")
    assert (done.exit_code, "ami-0a1b2c3d4e5f60718" in done.stdout) == (0, True), done.output
    assert (POST, {"servers": ["web01"], "launch": "none", "priority": "next", "note": "x"}) in api.asked
    assert f"{ID} web01" in done.stderr
    assert f"{LIST}?wave=erp&dag_run_id={RUN}&limit=500" in [path for path, _ in api.asked]
    assert (api.unpaused, f"{DAG} was paused; it is unpaused now" in done.stderr) == ([DAG], True)


def test_without_options_all_goes_as_the_file_says(begin: Any) -> None:
    api = begin(DONE)
    assert call("migrate", "erp", "--no-wait").exit_code == 0
    assert api.asked == [(POST, {})]


def test_a_program_gets_the_ids_or_the_result_as_json(begin: Any) -> None:
    begin(DONE)
    assert json.loads(call("migrate", "erp", "--no-wait", "--json").stdout) == STARTED
    told = json.loads(call("migrate", "erp", "--json").stdout)
    assert (told["state"], told["migrations"]) == ("success", [DONE])


def test_a_server_that_did_not_get_through_is_status_1(begin: Any) -> None:
    begin({**DONE, "state": "failed", "error": "no route"}, state="failed")
    done = call("migrate", "erp")
    assert (done.exit_code, "no route" in done.stdout, "ended as failed" in done.stderr) == (1, True, True), done.output


def test_servers_of_a_folder_get_ids_later(begin: Any) -> None:
    begin(answers={POST: {**STARTED, "migrations": [], "with_preflight": ["/DC0/vm/shop"]}})
    done = call("migrate", "erp", "--no-wait")
    assert "the servers of /DC0/vm/shop get ids when pre-flight has found them" in done.stderr


def test_a_dag_that_somebody_paused_with_runs_in_it_is_left_alone(begin: Any) -> None:
    api = begin(held=2)
    done = call("migrate", "erp")
    assert (done.exit_code, api.asked, api.unpaused) == (1, [], []), done.output
    assert "2 runs of it wait and would go on" in done.stderr


def test_a_refusal_is_one_line(begin: Any) -> None:
    begin(answers={POST: ApiError("The wave has no server 'web09'", status=409)})
    done = call("migrate", "erp", "--server", "web09")
    assert (done.exit_code, done.stdout) == (1, "")
    assert done.stderr.splitlines()[-1] == "The wave has no server 'web09'"


@pytest.mark.parametrize(
    ("state", "words"),
    [
        ("queued", f"{ID} (web01) does not begin; it is listed as cancelled when {DAG}, run {RUN} comes to it"),
        ("cancelled", f"{ID} (web01) is cancelled: nothing of it had begun, and its DAG run is over"),
    ],
)
def test_amp_07_cancelling_what_waits_promises_no_removal(use: Use, state: str, words: str) -> None:
    answer = {**migration(**WAITS), "state": state, "cancel_requested": True, "stopped_tasks": [], "begun": False}
    use({f"POST /wavelift/migrations/{ID}/cancel": answer})
    assert call("migrations", "cancel", ID).stdout.split() == words.split()


def test_what_waits_is_listed_as_waiting(use: Use) -> None:
    use({LIST: page(migration(**WAITS), migration(**{**WAITS, "server": "db01", "cancel_requested": True}))})
    shown = " ".join(call("migrations", "list").stdout.split())
    assert "queued: waits for pre-flight" in shown
    assert "being cancelled" in shown
