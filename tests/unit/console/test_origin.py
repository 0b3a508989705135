"""Writing with the login cookie is for this Airflow's own pages; real requests through the application."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from typing import Any, Final

import pytest
from airflow.api_fastapi.auth.managers.base_auth_manager import COOKIE_NAME_JWT_TOKEN
from fastapi import HTTPException, Request
from fastapi.testclient import TestClient

from wavelift.console.api import create_app
from wavelift.console.deps import _airflow
from wavelift.console.origin import READING

pytestmark = pytest.mark.unit

HOST: Final = "https://airflow.example.com"
COOKIE: Final = f"{COOKIE_NAME_JWT_TOKEN}=the-login"
LET_IN: Final = 401
"""The answer of a request that came as far as the login."""
WRITES: Final = sorted(
    (method, re.sub(r"\{\w+\}", "x", str(route.path)))  # type: ignore[attr-defined]
    for route in create_app().routes
    for method in getattr(route, "methods", ())
    if method not in READING
)


application: Final = cache(create_app)


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Iterator[TestClient]:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://flow.example.com:8443/prefix")

    async def nobody(token: str | None) -> Any:
        raise HTTPException(LET_IN, f"token {token}")

    monkeypatch.setattr("airflow.api_fastapi.core_api.security.resolve_user_from_token", nobody)
    with TestClient(application(), base_url=HOST) as client:
        yield client


def test_every_route_that_writes_is_found() -> None:
    assert len(WRITES) >= 19
    assert {"/cleanup", "/catalog/clear", "/jobs/x", "/runs/x/cancel", "/waves/x/apply"} <= {path for _, path in WRITES}


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_a_sibling_site_can_not_write_with_the_cookie(client: TestClient, method: str, path: str) -> None:
    for headers in (
        {"sec-fetch-site": "same-site", "origin": "https://wiki.example.com"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "https://wiki.example.com"},
        {},
    ):
        answer = client.request(method, path, headers={"cookie": COOKIE, **headers}, content="{}")
        assert (answer.status_code, "another origin" in answer.json()["detail"]) == (403, True), headers
    own = client.request(method, path, headers={"cookie": COOKIE, "sec-fetch-site": "same-origin"}, json={})
    assert own.json() == {"detail": "token the-login"}


@pytest.mark.parametrize(
    ("headers", "let_in"),
    [
        ({"sec-fetch-site": "same-origin"}, True),
        ({"sec-fetch-site": "same-origin", "origin": HOST}, True),
        ({"sec-fetch-site": "none"}, False),
        ({"sec-fetch-site": "same-site", "origin": HOST}, False),
        ({"sec-fetch-site": ""}, False),
        ({"origin": HOST}, True),
        ({"origin": f"{HOST}:443"}, True),
        ({"origin": "https://AIRFLOW.example.com"}, True),
        ({"origin": "http://airflow.example.com"}, False),
        ({"origin": f"{HOST}:8443"}, False),
        ({"origin": f"{HOST}.evil.example"}, False),
        ({"origin": "https://airflow.example.com@evil.example"}, False),
        ({"origin": "https://flow.example.com:8443"}, True),
        ({"origin": "https://flow.example.com"}, False),
        ({"origin": "null"}, False),
        ({"origin": ""}, False),
        ({"origin": "https://[airflow"}, False),
        ({"origin": "https://airflow.example.com:port"}, False),
        ({"referer": HOST}, False),
        ({"authorization": "Basic YWRtaW46YWRtaW4="}, False),
        ({"authorization": "Bearer "}, False),
        ({"authorization": "bearer a-token", "sec-fetch-site": "same-site"}, True),
        ({"authorization": "Bearer a-token"}, True),
    ],
)
def test_what_may_write_beside_a_cookie(client: TestClient, headers: dict[str, str], let_in: bool) -> None:
    answer = client.post("/jobs/x/resume", headers={"cookie": COOKIE, **headers})
    assert answer.status_code == (LET_IN if let_in else 403), answer.json()


def test_a_bearer_token_needs_no_origin_and_is_the_one_that_counts(client: TestClient) -> None:
    answer = client.post("/jobs/x/resume", headers={"authorization": "Bearer a-token", "cookie": COOKIE})
    assert answer.json() == {"detail": "token a-token"}
    assert client.post("/jobs/x/resume").json() == {"detail": "token None"}, "no login at all: the login's own answer"


@pytest.mark.parametrize("site", ["same-site", "cross-site", "none"])
def test_reading_is_not_asked_where_it_comes_from(client: TestClient, site: str) -> None:
    assert client.get("/jobs", headers={"cookie": COOKIE, "sec-fetch-site": site}).status_code == LET_IN


@pytest.mark.parametrize(
    ("headers", "token"),
    [
        ({"authorization": "bearer a-token"}, "a-token"),
        ({"authorization": "Bearer a-token", "cookie": COOKIE}, "a-token"),
        ({"authorization": "Basic YWRtaW46", "cookie": COOKIE}, "the-login"),
        ({"cookie": COOKIE}, "the-login"),
        ({}, ""),
    ],
)
def test_airflow_is_asked_as_the_caller_that_airflow_saw(headers: dict[str, str], token: str) -> None:
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    assert _airflow(Request({"type": "http", "headers": raw}))._login() == token
