"""The client of Airflow's REST API: ids of any characters, logins over private lines only, values of any form."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import unquote, urlsplit

import boto3
import pytest
import urllib3

from wavelift.adapters.aws.access import AwsAccess
from wavelift.airflow.rest import ApiClient, ApiError, path_of
from wavelift.base.errors import SpecError
from wavelift.base.net import is_private

pytestmark = pytest.mark.unit

NASTY = "a/../b?x=1#y %2F\r\né"
ELSEWHERE = ["http://airflow.example.com", "http://10.0.0.5:8080", "http://127.0.0.1.example.com", "http://localhost@x"]


class Pool:
    """Notes what is sent, and answers each call with the same body."""

    def __init__(self, body: Any) -> None:
        self.body = body
        self.asked: list[str] = []

    def request(self, method: str, url: str, **_: Any) -> urllib3.BaseHTTPResponse:
        self.asked.append(url)
        return urllib3.HTTPResponse(json.dumps(self.body).encode(), {}, 200)


def client_of(monkeypatch: pytest.MonkeyPatch, body: Any, url: str = "https://airflow") -> tuple[ApiClient, Pool]:
    client, pool = ApiClient(url, lambda: "token"), Pool(body)
    monkeypatch.setattr(client, "_pool", pool)
    return client, pool


def test_every_id_is_one_segment_of_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    body = {"dag_run_id": "r", "state": "running", "task_instances": [], "total_entries": 0, "value": 1}
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
    assert len(pool.asked) == 9
    for url in pool.asked:
        segments = urlsplit(url).path.split("/")
        assert segments[1:4] == ["api", "v2", "dags"], url
        told = [unquote(one) for one in segments[4:]]
        assert set(told) <= {NASTY, "dagRuns", "taskInstances", "xcomEntries", "state-store", "progress", "0"} | {
            "clearTaskInstances"
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
