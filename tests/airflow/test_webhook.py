"""The webhook that disconnects a network: its connection, what it is asked, and every way in which it can fail."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk import BaseHook, Connection
from tests.network_world import spec
from tests.webhook import Webhook, serve

from wavelift.airflow.hooks import rest as hooks_rest
from wavelift.airflow.hooks.webhook import WebhookHook
from wavelift.base import rest
from wavelift.base.errors import SpecError, TlsError, UnreachableError, WaveliftError
from wavelift.base.patience import RetryPolicy
from wavelift.rules.network_cutover import OFF, ON
from wavelift.services.dataplane.source_side import WebhookSide

pytestmark = pytest.mark.airflow

NETWORK = spec(source={"network": "VLAN-12", "disconnect": {"by": "webhook", "connection": "router"}})


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    monkeypatch.setattr(hooks_rest, "patience_s", lambda: 1.0)
    monkeypatch.setattr(rest, "PAUSES", RetryPolicy(base_s=0.01, cap_s=0.05))
    with serve(tmp_path) as running:
        yield running


def connection(monkeypatch: pytest.MonkeyPatch, hook: Webhook, **changes: Any) -> None:
    fields: dict[str, Any] = {
        "host": f"https://{hook.host}/routers/hall-a",
        "port": hook.port,
        "password": "a secret",
        "extra": json.dumps({"ca_bundle": str(hook.ca_file)}),
        **changes,
    }
    made = Connection(conn_id="router", conn_type="http", **fields)
    monkeypatch.setattr(BaseHook, "get_connection", classmethod(lambda cls, conn_id: made))


@pytest.fixture
def side(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebhookSide]:
    connection(monkeypatch, hook)
    with WebhookHook("router", timeout_s=0.4).get_conn() as client:
        yield WebhookSide(client, NETWORK, "net-1")


def test_it_is_asked_by_its_own_path_and_told_all_that_it_needs(hook: Webhook, side: WebhookSide) -> None:
    assert side.read() == {"connectivity": ON, "by": "webhook"}
    side.write({"connectivity": OFF})
    assert (hook.state, side.read()["connectivity"]) == ("disconnected", OFF)
    (method, path, login, _), (posted, _, _, body), _ = hook.asked
    assert (method, posted, login) == ("GET", "POST", "Bearer a secret")
    assert path == "/routers/hall-a?network=web&prefix=10.1.2.0%2F24"
    assert body == {
        "cutover": "net-1",
        "network": "web",
        "source_network": "VLAN-12",
        "prefix": "10.1.2.0/24",
        "gateway": "10.1.2.1/24",
        "state": "disconnected",
    }


def test_a_login_is_sent_as_basic(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    connection(monkeypatch, hook, host=hook.host, login="wavelift")
    with WebhookHook("router", timeout_s=5).get_conn() as client:
        WebhookSide(client, NETWORK).read()
    assert hook.asked[0][1] == "/?network=web&prefix=10.1.2.0%2F24"
    assert hook.asked[0][2] == f"Basic {base64.b64encode(b'wavelift:a secret').decode()}"


@pytest.mark.parametrize("changes", [{"schema": "http"}, {"host": "http://127.0.0.1"}, {"host": ""}])
def test_its_secret_never_goes_over_http(hook: Webhook, monkeypatch: pytest.MonkeyPatch, changes: Any) -> None:
    connection(monkeypatch, hook, **changes)
    with pytest.raises(SpecError):
        WebhookHook("router", timeout_s=5).get_conn()
    assert not hook.asked


def test_an_authority_that_nobody_named_is_refused(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    connection(monkeypatch, hook, extra="{}")
    with WebhookHook("router", timeout_s=5).get_conn() as client, pytest.raises(TlsError):
        WebhookSide(client, NETWORK).read()
    assert not hook.asked


@pytest.mark.parametrize("fault", ["500", "silent"])
def test_what_passes_by_itself_is_borne(hook: Webhook, side: WebhookSide, fault: str) -> None:
    """Also when it did as told and its answer was lost: it is told the state that is wanted, and told again."""
    hook.failing = [fault]
    side.write({"connectivity": OFF})
    assert hook.state == "disconnected"
    assert len(hook.asked) == 2


@pytest.mark.parametrize(
    ("fault", "error", "word"),
    [
        ("500", WaveliftError, "500"),
        ("silent", UnreachableError, "127.0.0.1"),
        ("refuses", WaveliftError, "403"),
        ("html", WaveliftError, "JSON|state"),
    ],
)
def test_what_does_not_pass_fails_in_words(
    hook: Webhook, side: WebhookSide, fault: str, error: type[WaveliftError], word: str
) -> None:
    hook.failing = [fault] * 1000
    for call in (side.read, lambda: side.write({"connectivity": OFF})):
        with pytest.raises(error, match=word) as raised:
            call()
        assert "a secret" not in str(raised.value)
    hook.failing = []


def test_an_answer_that_is_not_what_was_asked_for_is_an_error(hook: Webhook, side: WebhookSide) -> None:
    hook.answer = lambda method, body: (200, b'{"state": "connected"}')  # type: ignore[method-assign]
    with pytest.raises(WaveliftError, match="was asked for 'disconnected' and answers 'connected'"):
        side.write({"connectivity": OFF})
    hook.answer = lambda method, body: (200, b'{"state": "maybe"}')  # type: ignore[method-assign]
    with pytest.raises(WaveliftError, match="but maybe"):
        side.read()
