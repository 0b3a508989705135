"""What no ledger can store and no answer can hold is refused with 422 on every route, wherever it stands."""

from __future__ import annotations

import re
from typing import Any, Final
from urllib.parse import quote

import pytest
from tests.unit.console.test_replication_routes import Desk, desk

from wavelift.console.answers import WrongRequest
from wavelift.console.api import create_app

__all__ = ["desk"]

pytestmark = pytest.mark.unit

ROUTES: Final = sorted(
    (method, str(route.path))  # type: ignore[attr-defined]
    for route in create_app().routes
    for method in getattr(route, "methods", ())
)
WITH_ID: Final = [(method, path) for method, path in ROUTES if "{" in path]
WITH_BODY: Final = [(method, path) for method, path in ROUTES if method in ("POST", "PATCH")]
BODIES: Final = {
    "NaN": "not finite",
    "-Infinity": "not finite",
    "1e999": "not finite",
    '{"wave": NaN}': "not finite",
    '{"servers": [[{"x": Infinity}]]}': "not finite",
    '{"wave": "a\\u0000"}': "NUL",
    '{"a\\u0000": 1}': "NUL",
    '{"connection": "\\ud800"}': "surrogate",
    '{"\\udfff": []}': "surrogate",
    '{"days": 9223372036854775808}': "64 bits",
    '{"days": -9223372036854775809}': "64 bits",
}


def place(path: str, value: str = "x") -> str:
    return re.sub(r"\{\w+\}", value, path)


def refused(answer: Any) -> str:
    assert answer.status_code == 422, answer.text
    return str(WrongRequest.model_validate(answer.json()).detail)


@pytest.mark.parametrize(("method", "path"), WITH_BODY)
def test_a_body_of_such_values_is_refused(desk: Desk, method: str, path: str) -> None:
    for body, words in BODIES.items():
        headers = {"content-type": "application/json"}
        assert words in refused(desk.client.request(method, place(path), content=body, headers=headers)), body


@pytest.mark.parametrize(("method", "path"), WITH_ID)
def test_an_id_of_such_characters_is_refused(desk: Desk, method: str, path: str) -> None:
    assert "NUL" in refused(desk.client.request(method, place(path, "a%00b")))


@pytest.mark.parametrize("query", ["search=%00", "%00=1", "tag=a%00", "wave=%00"])
def test_a_query_of_such_characters_is_refused(desk: Desk, query: str) -> None:
    for path in ("/jobs", "/runs", "/catalog", "/migrations"):
        assert "NUL" in refused(desk.client.get(f"{path}?{query}"))


@pytest.mark.parametrize("number", [2**31, 2**63 - 1, 2**63, 10**30, -1, "1e3", "NaN", "٣x"])
def test_a_window_out_of_range_is_refused(desk: Desk, number: Any) -> None:
    job = desk.job()
    for path in ("/jobs", "/runs", "/catalog", "/migrations", f"/jobs/{job}/runs"):
        for name in ("offset", "limit"):
            refused(desk.client.get(f"{path}?{name}={quote(str(number))}"))
    refused(desk.client.get(f"/events/{job}?limit={quote(str(number))}"))


def test_the_largest_window_is_served(desk: Desk) -> None:
    job = desk.job()
    assert desk.get(f"/events/{job}", after=2**63 - 1)["events"] == []
    refused(desk.client.get(f"/events/{job}?after={2**63}"))
    assert desk.get("/jobs", offset=10_000_000)["jobs"] == []


@pytest.mark.parametrize("body", [b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"a":', b"\x00", b"null"])
@pytest.mark.parametrize("kind", ["application/json", "text/plain", "application/x-www-form-urlencoded", ""])
def test_a_body_that_is_no_json_is_refused(desk: Desk, body: bytes, kind: str) -> None:
    answer = desk.client.post("/cleanup", content=body, headers={"content-type": kind} if kind else {})
    assert answer.status_code in (400, 422), answer.text
    WrongRequest.model_validate(answer.json())


def test_texts_are_as_long_as_the_ledger_s_columns(desk: Desk) -> None:
    for path, body in (
        ("/connectors", {"name": "a", "connection": "c" * 251}),
        ("/connectors", {"name": "a", "connection": ""}),
        ("/connectors", {"name": "a", "connection": "a\nb"}),
        ("/catalog/import", {"connection": "a\nb"}),
        ("/connectors", {"name": "a", "connection": "c", "region": "r" * 33}),
        ("/connectors", {"name": "a", "connection": "c", "aws_conn_id": "r" * 251}),
        ("/connectors", {"name": "a", "connection": "c", "description": "r" * 1001}),
        ("/connectors/a/maintenance", {"on": True, "reason": "r" * 1001}),
        ("/jobs/job-x/pause", {"reason": "r" * 1001}),
        ("/catalog/import", {"connection": "c" * 251}),
        ("/catalog/clear", {"connection": "c" * 251}),
        ("/cleanup", {"wave": "../x"}),
    ):
        refused(desk.client.post(path, json=body))
