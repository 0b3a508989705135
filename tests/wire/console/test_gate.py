"""The gate on the wire: clients that send half a request or read no answer stop nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser
from fastapi.responses import PlainTextResponse
from jwt import InvalidTokenError
from tests.console_server import ANSWERED_S, Server, answer_of, bearer, head
from tests.eventually import eventually
from tests.ledgers import fresh_ledger

from wavelift.console import access, deps, gate
from wavelift.console.api import create_app

pytestmark = pytest.mark.wire

LIMITS: Final = partial(gate.Limits, of_user=30, body_seconds=2.0, answer_bytes=16 << 20, send_seconds=10.0)
BIG: Final = 12 << 20
"""Far more than the buffers of a connection."""


class Manager:
    """Airflow's auth manager: the token is the user's name; everybody may read everything."""

    async def get_user_from_token(self, token: str) -> SimpleAuthManagerUser:
        if token not in ("ana", "eve"):
            raise InvalidTokenError
        return SimpleAuthManagerUser(username=token, role="viewer")

    def is_authorized_dag(self, **_: Any) -> bool:
        return True

    def get_authorized_dag_ids(self, **_: Any) -> set[str]:
        return {"erp.replicate", "erp.migrate"}


@pytest.fixture
def go() -> threading.Event:
    """Lets the route ``/slow`` answer."""
    return threading.Event()


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, go: threading.Event) -> Iterator[Server]:
    monkeypatch.setattr("airflow.api_fastapi.core_api.security.get_auth_manager", Manager)
    monkeypatch.setattr(access, "get_auth_manager", Manager)
    monkeypatch.setattr(access, "_team", lambda dag_id: None)
    monkeypatch.setattr(gate, "Limits", LIMITS)
    app = create_app()

    @app.get("/slow")
    def slow() -> str:
        go.wait(ANSWERED_S)
        return "done"

    @app.get("/big")
    def big() -> PlainTextResponse:
        return PlainTextResponse("x" * BIG)

    with fresh_ledger(tmp_path / "wavelift.db") as ledger:
        app.dependency_overrides[deps._ledger] = lambda: ledger
        made = Server(app)
        try:
            yield made
        finally:
            go.set()
            made.close()


def test_half_requests_without_a_login_hold_nothing(server: Server) -> None:
    for _ in range(40):
        server.send(head()[:-2])
        server.send(head(bearer("ana"), method="POST")[:-2])
    halves = [server.send(head(method="POST", length=100) + b"{") for _ in range(40)]
    forged = [server.send(head(bearer("mallory"), method="POST", length=100) + b"{") for _ in range(40)]
    assert server.ask(bearer("ana"))[0] == 200
    assert {answer_of(one)[0] for one in halves} == {401}, "answered without waiting for the body"
    assert {answer_of(one)[0] for one in forged} == {403}


def test_half_bodies_of_one_user_delay_nobody_else_and_end(server: Server) -> None:
    halves = [server.send(head(bearer("eve"), method="POST", length=100) + b"{") for _ in range(20)]
    chunked = server.send(head(bearer("eve"), "Transfer-Encoding: chunked", method="POST") + b"1\r\n{\r\n")
    assert server.ask(bearer("ana"))[0] == 200
    assert server.ask(bearer("eve"))[0] == 200, "a body that is still read takes no place of its own user, too"
    told = [answer_of(one) for one in (*halves, chunked)]
    assert {status for status, *_ in told} == {408}
    assert all("connection: close" in words for *_, words in told)
    assert server.ask(bearer("eve"))[0] == 200


def test_a_client_that_drips_its_body_is_stopped(server: Server) -> None:
    one = server.send(head(bearer("eve"), method="POST", length=100))
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(0.1):
            try:
                one.sendall(b" ")
            except OSError:
                return

    dripping = threading.Thread(target=drip)
    dripping.start()
    try:
        assert answer_of(one)[0] == 408
    finally:
        stop.set()
        dripping.join()


@pytest.mark.parametrize("length", ["262145", "9" * 19])
def test_a_body_that_is_told_too_long_is_not_read(server: Server, length: str) -> None:
    one = server.send(head(bearer("ana"), f"Content-Length: {length}", method="POST"))
    assert answer_of(one)[:2] == (413, {"detail": "The request's body has more than 262144 bytes"})


def test_a_body_that_grows_too_long_is_not_read_on(server: Server) -> None:
    one = server.send(head(bearer("ana"), "Transfer-Encoding: chunked", method="POST"))
    part = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    one.sendall(part * 9)
    assert answer_of(one)[0] == 413


def test_who_reads_no_answer_holds_no_place(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", gate.log.name)
    deaf = [server.send(head(bearer("eve"), path="/big"), window=4096) for _ in range(16)]
    for one in deaf:
        assert one.recv(12) == b"HTTP/1.1 200", "the route has answered"
    assert server.ask(bearer("ana"))[0] == 200
    assert server.ask(bearer("eve"))[0] == 200
    assert "did not read its answer" not in caplog.text, "nobody had to wait until a deaf client was given up"
    assert eventually(lambda: caplog.text.count("did not read its answer") == len(deaf))
    for one in deaf:
        count = 0
        while more := one.recv(1 << 20):
            count += len(more)
        assert count < BIG, "what was not read in time is not sent any more"


def test_one_user_takes_half_of_the_places_and_has_its_requests_counted(server: Server, go: threading.Event) -> None:
    slow = [server.send(head(bearer("eve"), path="/slow")) for _ in range(30)]
    eventually(lambda: server.ask(bearer("eve"))[0] == 429)
    status, body, words = server.ask(bearer("eve"))
    assert (status, "30 of your requests" in body["detail"], "retry-after: 5" in words) == (429, True, True)
    for _ in range(20):
        assert server.ask(bearer("ana"))[0] == 200
    go.set()
    assert {answer_of(one)[:2] for one in slow} == {(200, "done")}
    assert server.ask(bearer("eve"))[0] == 200


@pytest.mark.parametrize(
    "lines",
    [
        ["Authorization: bearer ana"],
        ["Authorization: BEARER ana"],
        ["AUTHORIZATION: bEaReR ana"],
        ["Authorization: Basic cHJveHk6c2VjcmV0", f"Cookie: {COOKIE_NAME_JWT_TOKEN}=ana"],
        ["Authorization: Digest x", f"Cookie: other=1; {COOKIE_NAME_JWT_TOKEN}=ana"],
        [f"Cookie: {COOKIE_NAME_JWT_TOKEN}=eve", "Authorization: bearer ana"],
    ],
)
def test_a_login_is_found_as_airflow_finds_it(server: Server, lines: list[str]) -> None:
    assert server.ask(*lines)[0] == 200


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([], 401),
        (["Authorization: Basic YW5h"], 401),
        (["Authorization: Bearer "], 401),
        (["Authorization: Bearer mallory", f"Cookie: {COOKIE_NAME_JWT_TOKEN}=ana"], 403),
    ],
)
def test_without_a_login_nothing_is_told(server: Server, lines: list[str], status: int) -> None:
    for path in ("/jobs", "/nowhere", "/openapi.json", "/docs"):
        assert server.ask(*lines, path=path)[0] == status, path
