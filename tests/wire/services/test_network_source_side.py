"""Who takes the source network from its router and gives it back: a webhook, and a class of another package (HCX-08).

A person is in ``test_network_act.py``, NSX everywhere there.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar, Final, Literal
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.gateways import GatewayAlarm
from tests.network_journey import Journey, opened, place
from tests.wire.simulators_hcx.conftest import HERE, PREFIX, Sites, running, sites

from wavelift.base.errors import PermanentError, UnreachableError, WaveliftError
from wavelift.base.rest import RestClient, RestPlace
from wavelift.services.dataplane import source_side
from wavelift.services.dataplane.network_act import Sites as Clients
from wavelift.simulators.kit import tls

__all__ = ["running", "sites"]
pytestmark = pytest.mark.wire
THERE: Final = "/infra/segments/L2E_VLAN-100"
ROUTER: Final = "router"
HOOKED: Final = {"network": "VLAN-100", "disconnect": {"by": "webhook", "connection": "hook"}}
TIMEOUT_S: Final = 1.0
PATIENCE_S: Final = 6.0


@dataclass
class Webhook:
    """A router behind it. ``trouble`` is what it does with the next calls of a method; ``answers`` what it says then in
    its own words."""

    hcx: Any
    routed: bool = True
    seen: list[tuple[str, Any]] = field(default_factory=list)
    logins: set[str] = field(default_factory=set)
    trouble: dict[str, list[int | Literal["late"]]] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)

    def turn(self, *, on: bool) -> None:
        if on is not self.routed:
            self.hcx.route(PREFIX, routed=on)
        self.routed = on

    def call(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        assert parts.path in ("/gateways", "/gateways/")
        self.seen.append((method, body if method == "POST" else {k: v[0] for k, v in parse_qs(parts.query).items()}))
        left = self.trouble.get(method)
        trouble = left.pop(0) if left else 200
        if trouble == "late":
            time.sleep(TIMEOUT_S + 0.5)
        elif trouble != 200:
            return trouble, {"error": "the switch does not answer"}
        if method in self.answers:
            return 200, self.answers[method]
        if method == "POST":
            self.turn(on=body["state"] == "connected")
        return 200, {"state": "connected" if self.routed else "disconnected"}


@contextmanager
def served(hook: Webhook, folder: Path, *, patience_s: float = PATIENCE_S) -> Iterator[RestClient]:
    """It listens, and a client of it as the operator makes one: path in the address, a bearer token."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            return

        def _answer(self) -> None:
            size = int(self.headers.get("Content-Length") or 0)
            hook.logins.add(str(self.headers.get("Authorization")))
            status, found = hook.call(self.command, self.path, json.loads(self.rfile.read(size)) if size else None)
            text = json.dumps(found).encode()
            try:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)
            except OSError:  # whoever asked has gone
                self.close_connection = True

        do_GET = do_POST = _answer  # http.server's names

    made = tls.make(folder, host="127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.socket = made.context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    where = RestPlace(
        system="webhook",
        host="127.0.0.1",
        port=server.server_address[1],
        base="/gateways",
        ca_bundle=str(made.ca_file),
        patience_s=patience_s,
        timeout_s=TIMEOUT_S,
    )
    try:
        with RestClient(where, headers={"Authorization": "Bearer opensesame"}) as client:
            yield client
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def a_journey(sites: Sites, by: str, webhook: RestClient | None = None, **way: Any) -> Iterator[Journey]:
    """The source is no segment: a router of the tests' world routes it."""

    def tick(seconds: float) -> None:
        for each in (sites.hcx, sites.there):
            each.advance(seconds)

    source = {"network": "VLAN-100", "disconnect": {"by": by, **way}}
    with opened(sites.hcx, sites.there) as both:
        clients: Clients = replace(both, webhook=webhook)
        yield Journey(clients, place(segment=None, source=source), tick)


@pytest.fixture
def router(sites: Sites) -> None:
    sites.here.put_segment(HERE, advanced_config={"connectivity": "OFF"})
    sites.hcx.route(PREFIX, routed=True)


@pytest.fixture
def hook(sites: Sites, router: None) -> Webhook:
    return Webhook(sites.hcx)


def routing(sites: Sites) -> list[str]:
    return GatewayAlarm([sites.here, sites.hcx], [sites.there]).routing(PREFIX)


def test_hcx_08_a_webhook_disconnects_and_connects_again(sites: Sites, hook: Webhook, tmp_path: Path) -> None:
    with served(hook, tmp_path) as client, a_journey(sites, "webhook", client, connection="gateways") as journey:
        assert journey.look().source == {"connectivity": "ON", "by": "webhook"}
        source, *_ = journey.forward()
        assert (source.state["connectivity"], source.changed, source.read_back) == ("OFF", True, True)
        assert routing(sites) == [THERE]
        *_, source = journey.back()
        assert source.state["connectivity"] == "ON"
    assert routing(sites) == [ROUTER]
    about = {"network": "web", "prefix": PREFIX}
    more = {"cutover": "net-1", "source_network": "VLAN-100", "gateway": "10.1.2.1/24"}
    assert [body for method, body in hook.seen if method == "POST"] == [
        {**about, **more, "state": "disconnected"},
        {**about, **more, "state": "connected"},
    ]
    assert all(body == about for method, body in hook.seen if method == "GET")
    assert hook.logins == {"Bearer opensesame"}


@pytest.mark.parametrize("trouble", [500, 503, 429, "late"])
def test_hcx_08_a_moment_of_trouble_is_borne(
    sites: Sites, hook: Webhook, tmp_path: Path, trouble: int | Literal["late"]
) -> None:
    with served(hook, tmp_path) as client, a_journey(sites, "webhook", client, connection="gateways") as journey:
        journey.look()
        hook.trouble = {"GET": [trouble], "POST": [trouble, trouble]}
        assert journey.act("source", "forward").state["connectivity"] == "OFF"
        assert not any(hook.trouble.values())
    assert routing(sites) == []


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"POST": {"state": "connected"}}, "asked for 'disconnected' and answers 'connected'"),
        ({"POST": {"ok": True}}, "no 'state' of connected or disconnected"),
        ({"GET": {"state": "up"}}, "no 'state' of connected or disconnected, but up"),
        ({"GET": ["connected"]}, "webhook"),
    ],
)
def test_hcx_08_an_answer_that_says_something_else_is_no_change(
    sites: Sites, hook: Webhook, tmp_path: Path, answers: dict[str, Any], words: str
) -> None:
    with served(hook, tmp_path) as client, a_journey(sites, "webhook", client, connection="gateways") as journey:
        journey.look()
        hook.answers = answers
        with pytest.raises(WaveliftError, match=words):
            journey.act("source", "forward")
        with pytest.raises(WaveliftError):
            journey.act("extension", "forward")
    assert routing(sites) == [ROUTER]


def test_hcx_08_a_webhook_that_is_away_changes_nothing(sites: Sites, hook: Webhook, tmp_path: Path) -> None:
    with (
        served(hook, tmp_path, patience_s=0.5) as client,
        a_journey(sites, "webhook", client, connection="gateways") as journey,
    ):
        journey.look()
        hook.trouble = {"POST": [503] * 100}
        with pytest.raises(UnreachableError):
            journey.act("source", "forward")
        hook.trouble = {"GET": [403] * 2}
        with pytest.raises(WaveliftError):
            journey.act("source", "forward")
    assert routing(sites) == [ROUTER]


class Switch:
    """What a package could install. The world is that of one test."""

    world: ClassVar[Any] = None
    on: ClassVar[bool] = True
    made_with: ClassVar[dict[str, Any]] = {}

    def __init__(self, **about: Any) -> None:
        type(self).made_with = about

    def read(self) -> str:
        return "connected" if self.on else "disconnected"

    def disconnect(self) -> None:
        self._turn(on=False)

    def connect(self) -> None:
        self._turn(on=True)

    def _turn(self, *, on: bool) -> None:
        type(self).on = on
        self.world.route(PREFIX, routed=on)


def test_hcx_08_an_installed_class_disconnects_and_connects_again(
    sites: Sites, router: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Switch, "world", sites.hcx)
    monkeypatch.setattr(Switch, "on", True)
    entry = EntryPoint("acme_switch", f"{__name__}:Switch", "wavelift.network_steps")
    monkeypatch.setattr(source_side, "installed", lambda group: {"acme_switch": entry} if "steps" in group else {})
    with a_journey(sites, "acme_switch", arguments={"vlan": "100"}) as journey:
        assert journey.look().source == {"connectivity": "ON", "by": "acme_switch"}
        journey.forward()
        assert routing(sites) == [THERE]
        journey.back()
    assert routing(sites) == [ROUTER]
    about = {"network": "VLAN-100", "prefix": PREFIX, "gateway": "10.1.2.1/24", "arguments": {"vlan": "100"}}
    assert Switch.made_with == about


def test_hcx_08_a_class_that_is_not_here_or_says_nothing_is_told(
    sites: Sites, router: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        a_journey(sites, "acme_switch") as journey,
        pytest.raises(PermanentError, match="No package on this worker has a network step 'acme_switch'"),
    ):
        journey.look()
    monkeypatch.setattr(Switch, "read", lambda self: "perhaps")
    entry = EntryPoint("acme_switch", f"{__name__}:Switch", "wavelift.network_steps")
    monkeypatch.setattr(source_side, "installed", lambda group: {"acme_switch": entry})
    with (
        a_journey(sites, "acme_switch") as journey,
        pytest.raises(PermanentError, match="The network step 'acme_switch' says 'perhaps'"),
    ):
        journey.look()


class Echo(Webhook):
    """It says in its errors what it was sent."""

    def call(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        said = {"error": f"cannot parse 'Authorization: {max(self.logins)}'", "state": max(self.logins)}
        return (400 if method == "POST" else 200), said


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_hcx_08_a_webhook_that_repeats_its_login_puts_it_into_no_error(tmp_path: Path, method: str) -> None:
    """Errors are logged, kept by Airflow, and told to people."""
    with served(Echo(None), tmp_path) as client, pytest.raises(WaveliftError) as caught:
        side = source_side.WebhookSide(client, place("webhook", source=HOOKED).network)
        side.read() if method == "GET" else side.write({"connectivity": "OFF"})
    assert "Bearer" in str(caught.value) or "***" in str(caught.value)
    assert "opensesame" not in f"{caught.value!r} {caught.value}"


@pytest.mark.parametrize("status", [301, 302, 307])
def test_hcx_08_an_answer_that_leads_elsewhere_is_none(tmp_path: Path, status: int) -> None:
    """As of a login page in front of it, also where its body looks right."""

    class Elsewhere(Webhook):
        def call(self, method: str, target: str, body: Any) -> tuple[int, Any]:
            return status, {"state": "disconnected"}

    with served(Elsewhere(None), tmp_path) as client:
        side = source_side.WebhookSide(client, place("webhook", source=HOOKED).network)
        for ask in (side.read, lambda: side.write({"connectivity": "OFF"})):
            with pytest.raises(WaveliftError, match="leads elsewhere"):
                ask()
