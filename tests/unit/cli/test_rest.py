"""The client of Airflow's REST API: ids of any characters, logins over private lines only, values of any form."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import pytest
import urllib3

from wavelift.adapters.aws.access import AwsAccess
from wavelift.airflow.rest import DETAIL_LONGEST, MOST_ROWS, NOT_LOGGED_IN, ApiClient, ApiError, path_of
from wavelift.base.errors import SpecError
from wavelift.base.net import is_private

pytestmark = pytest.mark.unit

NASTY = "a/../b?x=1#y %2F\r\né"
ELSEWHERE = ["http://airflow.example.com", "http://10.0.0.5:8080", "http://127.0.0.1.example.com", "http://localhost@x"]


class Pool:
    """Notes what is sent, and answers each call with the same body."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.status = 200
        self.asked: list[str] = []

    def request(self, method: str, url: str, **_: Any) -> urllib3.BaseHTTPResponse:
        self.asked.append(url)
        return urllib3.HTTPResponse(json.dumps(self.body).encode(), {}, self.status)


def client_of(monkeypatch: pytest.MonkeyPatch, body: Any, url: str = "https://airflow") -> tuple[ApiClient, Pool]:
    client, pool = ApiClient(url, lambda: "token"), Pool(body)
    monkeypatch.setattr(client, "_pool", pool)
    return client, pool


def test_every_id_is_one_segment_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    body: dict[str, Any] = {"dag_run_id": "r", "state": "running", "task_instances": [], "total_entries": 0, "value": 1}
    body["response_received"] = False
    client, pool = client_of(monkeypatch, body)
    client.trigger(NASTY)
    client.unpause(NASTY)
    client.run_state(NASTY, NASTY)
    client.find_run_state(NASTY, NASTY)
    client.task_instances(NASTY, NASTY, task_id=NASTY)
    client.xcom(NASTY, NASTY, NASTY, key=NASTY)
    client.progress(NASTY, NASTY, NASTY)
    client.fail_task(NASTY, NASTY, NASTY, 0)
    client.clear(NASTY, NASTY, [])
    client.asks(NASTY, NASTY, NASTY)
    client.answer(NASTY, NASTY, NASTY, "Approve")
    assert len(pool.asked) == 11
    for url in pool.asked:
        segments = urlsplit(url).path.split("/")
        assert segments[1:4] == ["api", "v2", "dags"], url
        told = [unquote(one) for one in segments[4:]]
        assert set(told) <= {NASTY, "dagRuns", "taskInstances", "xcomEntries", "state-store", "progress", "0"} | {
            *("clearTaskInstances", "hitlDetails", "-1")
        }, url
        assert urlsplit(url).fragment == ""


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_an_id_of_dots_does_not_go_up(name: str) -> None:
    path = path_of("wavelift", "runs", name, "cancel")
    assert urllib3.util.parse_url(f"https://airflow{path}").path == path
    assert unquote(path) == f"/wavelift/runs/{name}/cancel"


@pytest.mark.parametrize("url", ELSEWHERE)
def test_no_login_goes_over_plain_http_to_another_machine(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    client, pool = client_of(monkeypatch, {}, url)
    for ask in (
        lambda: client.raw("POST", "/auth/token", {"username": "ana", "password": "secret"}),
        lambda: client.raw("GET", "/api/v2/dags", token="token"),
        lambda: client.call("GET", "/api/v2/dags"),
    ):
        with pytest.raises(ApiError, match="plain HTTP") as told:
            ask()
        assert "secret" not in str(told.value)
    assert pool.asked == []


@pytest.mark.parametrize("url", ["http://localhost:8080", "http://127.0.0.1:8080", "http://[::1]:80", "https://x:1"])
def test_a_private_line_is_used(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    client, pool = client_of(monkeypatch, {}, url)
    client.call("GET", "/api/v2/dags")
    assert len(pool.asked) == 1


@pytest.mark.parametrize("url", ["http://[", "ftp://x", "", "http://", "//localhost.example"])
def test_what_is_no_address_is_not_private(url: str) -> None:
    assert not is_private(url)


@pytest.mark.parametrize("url", ELSEWHERE[:2])
def test_aws_keys_go_over_https_too(url: str) -> None:
    access = AwsAccess(boto3.Session("AKIAEXAMPLE", "secret", None, "eu-west-1"), endpoint_url=url)
    with pytest.raises(SpecError, match="plain HTTP"):
        access.client("sts")


@pytest.mark.parametrize(
    "value",
    [
        7,
        [],
        "text",
        {"disks": 3},
        {"disks": {"0": 3}},
        {"disks": {"0": {"done": "x"}}},
        {"disks": {"0": {"done": -1}}},
        {"disks": {"0": {"done": 1}}, "rate": "fast"},
        {"disks": {"0": {"done": 1}}, "rate": float("inf")},
        {"disks": {"0": {"done": 1}}, "rate": float("nan")},
        {"disks": {"0": {"done": 10**400}}},
    ],
)
def test_a_progress_that_somebody_else_wrote_is_none(monkeypatch: pytest.MonkeyPatch, value: Any) -> None:
    client, _ = client_of(monkeypatch, {"value": value, "updated_at": "2999-12-02T12:00:00Z"})
    assert client.progress("w.migrate", "r", "server.export") is None


OURS, AIRFLOWS = "/wavelift/migrations/mig-0/cancel?x=1", "/api/v2/dags/shop.migrate/dagRuns?limit=1"
FIELDS = [{"loc": ["body", "servers"], "msg": "must not be empty", "type": "x"}]


@pytest.mark.parametrize(
    ("path", "status", "body", "words"),
    [
        (OURS, 404, {"detail": "The ledger knows no such migration"}, "The ledger knows no such migration"),
        (OURS, 403, {"detail": "You may not trigger shop.migrate"}, "You may not trigger shop.migrate"),
        (OURS, 422, {"detail": FIELDS}, "servers: must not be empty"),
        (OURS, 401, {"detail": "Not authenticated"}, NOT_LOGGED_IN),
        # A proxy's page, or an Airflow without wavelift: no message of ours.
        (OURS, 502, "<html>", "Airflow did not serve it (502): <html> (GET /wavelift/migrations/mig-0/cancel)"),
        (OURS, 404, None, "Airflow refused it (404): no reason given (GET /wavelift/migrations/mig-0/cancel)"),
        (
            AIRFLOWS,
            409,
            {"detail": "exists"},
            "Airflow refused it (409): exists (GET /api/v2/dags/shop.migrate/dagRuns)",
        ),
        (AIRFLOWS, 403, {"detail": "Invalid JWT token"}, NOT_LOGGED_IN),
        (
            AIRFLOWS,
            403,
            {"detail": "Forbidden"},
            "Airflow refused it (403): you lack the right to do this: Forbidden "
            "(GET /api/v2/dags/shop.migrate/dagRuns)",
        ),
        (
            AIRFLOWS,
            422,
            {"detail": FIELDS},
            "Airflow refused it (422): servers: must not be empty (GET /api/v2/dags/shop.migrate/dagRuns)",
        ),
    ],
)
def test_our_own_messages_stand_alone_and_airflow_s_have_their_place(
    monkeypatch: pytest.MonkeyPatch, path: str, status: int, body: Any, words: str
) -> None:
    client, pool = client_of(monkeypatch, body)
    pool.status = status
    with pytest.raises(ApiError) as told:
        client.call("GET", path)
    assert (str(told.value), told.value.status) == (words, status)


def test_a_long_page_of_a_proxy_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    client, pool = client_of(monkeypatch, "x" * 100_000)
    pool.status = 503
    with pytest.raises(ApiError) as told:
        client.call("GET", AIRFLOWS)
    assert len(str(told.value)) < 2 * DETAIL_LONGEST


@pytest.mark.parametrize(
    ("status", "body"), [(401, {"detail": "Token Expired"}), (403, {"detail": "Invalid JWT token"})]
)
def test_an_airflow_that_started_again_gets_a_new_token(
    monkeypatch: pytest.MonkeyPatch, status: int, body: Any
) -> None:
    tokens = iter(["old", "new"])
    client, sent = ApiClient("https://airflow", lambda: next(tokens)), []

    class Restarted:
        def request(self, method: str, url: str, *, headers: Any, **_: Any) -> urllib3.BaseHTTPResponse:
            sent.append(headers["Authorization"])
            fresh = sent[-1] == "Bearer new"
            answer = {"state": "running"} if fresh else body
            return urllib3.HTTPResponse(json.dumps(answer).encode(), {}, 200 if fresh else status)

    monkeypatch.setattr(client, "_pool", Restarted())
    assert client.run_state("w.migrate", "r") == "running"
    assert sent == ["Bearer old", "Bearer new"]


def test_an_api_that_is_not_there_is_told_without_names_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    client = ApiClient("http://127.0.0.1:9", lambda: "token")
    with pytest.raises(ApiError, match=r"^No answer from http://127.0.0.1:9: [^<(]*Connection refused"):
        client.call("GET", "/api/v2/dags")


@pytest.mark.parametrize(
    ("status", "body", "paused"),
    [
        (200, {"is_paused": True}, True),
        (200, {"is_paused": False}, False),
        (404, {"detail": "not found"}, None),
        (403, {"detail": "Forbidden"}, None),
    ],
)
def test_whether_a_dag_is_paused_is_not_known_of_one_that_the_caller_may_not_see(
    monkeypatch: pytest.MonkeyPatch, status: int, body: Any, paused: bool | None
) -> None:
    client, pool = client_of(monkeypatch, body)
    pool.status = status
    assert client.is_paused("shop.migrate") is paused


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (401, {"detail": "Token Expired"}, NOT_LOGGED_IN),
        (403, {"detail": "Invalid JWT token"}, NOT_LOGGED_IN),
        (503, {"detail": "starting"}, "did not serve it"),
    ],
)
def test_no_login_and_no_answer_are_not_told_as_no_dag(
    monkeypatch: pytest.MonkeyPatch, status: int, body: Any, words: str
) -> None:
    client, pool = client_of(monkeypatch, body)
    pool.status = status
    with pytest.raises(ApiError, match=words):
        client.is_paused("shop.migrate")


QUESTIONS: dict[str, Callable[[ApiClient], Any]] = {
    "trigger": lambda api: api.trigger("w"),
    "is_paused": lambda api: api.is_paused("w"),
    "run_state": lambda api: api.run_state("w", "r"),
    "find_run_state": lambda api: api.find_run_state("w", "r"),
    "task_instances": lambda api: api.task_instances("w", "r"),
    "xcom": lambda api: api.xcom("w", "r", "t"),
    "failed_try": lambda api: api.failed_try("w", "r", "t"),
}


@pytest.mark.parametrize("ask", QUESTIONS.values(), ids=QUESTIONS)
@pytest.mark.parametrize(
    "body",
    [
        "<html>Maintenance</html>",
        None,
        [],
        7,
        {"detail": "x"},
        {"task_instances": 3, "total_entries": 1},
        {"task_instances": [3], "total_entries": 1},
        {"task_instances": [{"task_id": "a", "map_index": "x", "state": "running"}], "total_entries": 1},
        {"task_instances": [{"task_id": "a", "map_index": 1, "state": "running"}], "total_entries": "x"},
    ],
)
def test_an_answer_of_another_form_is_an_error_of_ours(
    monkeypatch: pytest.MonkeyPatch, ask: Callable[[ApiClient], Any], body: Any
) -> None:
    """Such as the page of a proxy with the status 200: it ended a command that waited for hours, and a list."""
    client, _ = client_of(monkeypatch, body)
    with pytest.raises(ApiError, match="another form") as told:
        ask(client)
    assert not told.value.status, "a command that waits bears it, as no answer at all"


def test_a_list_of_tasks_without_an_end_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"task_id": "a", "map_index": 1, "state": "running"}
    client, pool = client_of(monkeypatch, {"task_instances": [row] * 100, "total_entries": 10**9})
    with pytest.raises(ApiError, match="more than"):
        client.task_instances("w", "r")
    assert len(pool.asked) == MOST_ROWS / 100


def test_a_text_that_looks_like_json_is_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = client_of(monkeypatch, {"value": "[host01] is down"})
    assert client.xcom("w", "r", "t") == "[host01] is down"


def test_an_address_with_a_login_is_not_told(monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = client_of(monkeypatch, "<html>", "https://ana:geheim@airflow")
    with pytest.raises(ApiError, match=r"https://\*\*\*@airflow"):
        client.run_state("w", "r")


@pytest.mark.parametrize(
    ("status", "body", "asks"),
    [
        (200, {"response_received": False}, True),
        (200, {"response_received": True}, False),
        (404, {"detail": "no"}, False),
    ],
)
def test_a_task_asks_until_it_was_answered(monkeypatch: pytest.MonkeyPatch, status: int, body: Any, asks: bool) -> None:
    client, pool = client_of(monkeypatch, body)
    pool.status = status
    assert client.asks("erp.cutover", "r", "approve") is asks
    assert pool.asked == ["https://airflow/api/v2/dags/erp.cutover/dagRuns/r/taskInstances/approve/-1/hitlDetails"]
    pool.status = 403
    with pytest.raises(ApiError):
        client.asks("erp.cutover", "r", "approve")
