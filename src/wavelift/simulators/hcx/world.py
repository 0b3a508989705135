"""The simulated manager: finds out what is called, checks the session, and answers."""

from __future__ import annotations

import json
import re
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from wavelift.simulators.hcx.errors import HcxError, render
from wavelift.simulators.hcx.extensions import Extensions
from wavelift.simulators.hcx.faults import Rule, failure
from wavelift.simulators.hcx.forms import malformed
from wavelift.simulators.hcx.intents import Ends
from wavelift.simulators.hcx.inventory import Inventories
from wavelift.simulators.hcx.migrations import Migrations
from wavelift.simulators.hcx.mobility import Mobility
from wavelift.simulators.hcx.router import Router
from wavelift.simulators.hcx.sessions import TOKEN_HEADER, Sessions
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.hcx.sites import End, Trouble
from wavelift.simulators.kit import faults
from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.kit.world import Refusal, Routes, World

BASE: Final = "/hybridity/api"
MESH: Final = "servicemesh-1"
APPLIANCE: Final = "appliance-ne"
CLOSE_SECONDS: Final = 10.0
_LIST: Final = "/service/inventory"
CALLS: Final = tuple(
    (method, re.compile(pattern), operation)
    for method, pattern, operation in (
        ("POST", "/sessions", "Login"),
        ("GET", "/cloudConfigs", "ListClouds"),
        ("POST", f"{_LIST}/resourcecontainer/list", "ListResources"),
        ("POST", f"{_LIST}/virtualmachines", "ListVirtualMachines"),
        ("POST", f"{_LIST}/networks", "ListNetworks"),
        ("POST", f"{_LIST}/containers", "ListContainers"),
        ("POST", f"{_LIST}/datastores", "ListDatastores"),
        ("POST", "/interconnect/appliances/query", "QueryAppliances"),
        ("POST", "/mobility/migrations/validate", "Validate"),
        ("POST", "/mobility/migrations/start", "Start"),
        ("POST", "/mobility/migrations/forceCancel", "ForceCancel"),
        ("POST", "/migrations", "Query"),
        ("POST", "/mobility/groups", "MakeGroups"),
        ("POST", "/mobility/groups/query", "QueryGroups"),
        ("POST", "/mobility/groups/intents", "ReadIntents"),
        ("POST", "/mobility/groups/start", "StartGroups"),
        ("POST", "/mobility/groups/delete", "DeleteGroups"),
        ("POST", "/migration/queryMobilityGroups", "ListGroups"),
        ("GET", "/jobs/(?P<id>[^/]+)", "ReadJob"),
        ("GET", "/l2Extensions", "ListExtensions"),
        ("POST", "/l2Extensions", "Extend"),
        ("DELETE", "/l2Extensions/(?P<id>[^/]+)", "Unextend"),
        ("POST", "/networkExtensions", "ExtendNetwork"),
        ("PUT", "/networkExtensions/(?P<id>[^/]+)", "ChangeNetwork"),
        ("DELETE", "/networkExtensions/(?P<id>[^/]+)", "UnextendNetwork"),
    )
)
GENERATION: Final = {
    "Extend": "l2",
    "Unextend": "l2",
    "ExtendNetwork": "network",
    "ChangeNetwork": "network",
    "UnextendNetwork": "network",
}
"""Which generation of the calls an operation belongs to."""
QUERIES: Final = {
    "Query": frozenset({"action"}),
    "Unextend": frozenset({"connectToLocalRouter"}),
    "UnextendNetwork": frozenset({"connectToLocalRouter", "forceOperation"}),
}


class HcxWorld(World[Settings]):
    """One manager, and its pair of sites."""

    rules = Rule

    def __init__(self, folder: Path, settings: Settings, *, source: End, destination: End) -> None:
        super().__init__(folder, settings)
        self._source, self._destination = source, destination
        self.sessions = Sessions(self.clock, settings)
        self.router = Router()
        self.extensions = Extensions(
            source, destination, clock=self.clock, settings=settings, faults=self.faults, appliance=APPLIANCE
        )
        self.migrations = Migrations(source, destination, clock=self.clock, settings=settings, faults=self.faults)
        self.mobility = Mobility(self.migrations, settings=settings, faults=self.faults, look=self._ends)
        self._inventories = Inventories(source, destination, settings=settings, extensions=self.extensions, mesh=MESH)
        self._lock = threading.RLock()
        self._closing = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="ticker", daemon=True)
        if settings.tick_seconds:
            self._ticker.start()

    def _ends(self) -> Ends:
        return Ends(self._source.look(), self._destination.look(), MESH, self.clock.now())

    # time

    def catch_up(self) -> None:
        """Do everything that is due."""
        with self._lock:
            self.migrations.catch_up()
            self.extensions.catch_up()

    def _tick(self) -> None:
        """The manager works on while nobody asks."""
        while not self._closing.wait(max(self.settings.tick_seconds, 0.01)):
            try:
                self.catch_up()
            except Exception:  # the next tick, or a call, tries again
                traceback.print_exc()

    def close(self) -> None:
        self._closing.set()
        if self._ticker.is_alive():
            self._ticker.join(CLOSE_SECONDS)
            if self._ticker.is_alive():
                raise TimeoutError("the manager's work did not end")

    # calls

    def identify(self, request: Request) -> None:
        request.service = "hcx"
        if not request.path.startswith(f"{BASE}/"):
            return
        rest = request.path.removeprefix(BASE)
        for method, pattern, operation in CALLS:
            match = pattern.fullmatch(rest)
            if match is not None and method == request.method:
                request.operation, request.target = operation, match.groupdict().get("id", "")

    def handle(self, request: Request) -> Response:
        if request.operation == "Login":
            return self.sessions.log_in(_body(request))
        self.sessions.check(request.headers.get(TOKEN_HEADER, ""))
        if not request.operation or not self._served(request.operation):
            raise HcxError(404, "call", f"No {request.method} {request.path}")
        query = request.query()
        if unknown := set(query) - QUERIES.get(request.operation, frozenset()):
            raise malformed(f"Unknown parameter {sorted(unknown)[0]}")
        if request.operation == "Query" and query.get("action") != "query":
            raise malformed(f"Unknown action {query.get('action')}")
        body = _body(request) if request.method in {"POST", "PUT"} else {}
        with self._lock:
            try:
                self.catch_up()
                return self._answer(request, body, query)
            except Trouble as error:
                raise HcxError(500, "internal", str(error)) from None

    def _served(self, operation: str) -> bool:
        return self.settings.extensions in (GENERATION.get(operation, "both"), "both") or operation not in GENERATION

    def _answer(self, request: Request, body: Any, query: dict[str, str]) -> Response:
        now, ident = self.clock.now(), request.target
        mobility, extensions, inventories = self.mobility, self.extensions, self._inventories
        answers: dict[str, Callable[[], Response]] = {
            "ListClouds": inventories.clouds,
            "ListResources": lambda: inventories.resources(body),
            "ListVirtualMachines": lambda: inventories.virtual_machines(body),
            "ListNetworks": lambda: inventories.networks(body),
            "ListContainers": lambda: inventories.containers(body),
            "ListDatastores": lambda: inventories.datastores(body),
            "QueryAppliances": lambda: inventories.appliances(body),
            "Validate": lambda: mobility.validate(body),
            "Start": lambda: mobility.start(body),
            "ForceCancel": lambda: mobility.cancel(body),
            "Query": lambda: mobility.query(body, now),
            "MakeGroups": lambda: mobility.make_groups(body, now),
            "QueryGroups": lambda: mobility.query_groups(body),
            "ReadIntents": lambda: mobility.group_intents(body),
            "StartGroups": lambda: mobility.start_groups(body, now),
            "DeleteGroups": lambda: mobility.delete_groups(body),
            "ListGroups": lambda: mobility.list_groups(body),
            "ReadJob": lambda: extensions.job(ident),
            "ListExtensions": extensions.listing,
            "Extend": lambda: extensions.create(body, with_job=True),
            "Unextend": lambda: extensions.remove(ident, connect=_flag(query), with_job=True),
            "ExtendNetwork": lambda: extensions.create(body, with_job=False),
            "ChangeNetwork": lambda: extensions.change(ident, body),
            "UnextendNetwork": lambda: extensions.remove(ident, connect=_flag(query), with_job=False),
        }
        return answers[request.operation]()

    def failure(self, rule: faults.Rule, service: str) -> HcxError:
        return failure(rule, service)

    def render(self, error: Refusal, request: Request) -> Response:
        assert isinstance(error, HcxError)
        return render(error, other_words=self.settings.other_words)

    # control

    def state(self) -> dict[str, Any]:
        """Ended migrations are history, as are groups that were started."""
        with self._lock:
            self.catch_up()
            return {
                "migrations": [each["vm"] for each in self.migrations.listing() if not each["ended"]],
                "drafts": sorted(each.name for each in self.mobility.groups.values() if not each.started),
                "extensions": sorted(each.network.name for each in self.extensions.all.values()),
            }

    def routes(self) -> Routes:
        return {
            ("POST", "clock"): self._advance,
            ("POST", "sessions/expire"): lambda _: {"expired": self.sessions.expire(), "logins": self.sessions.logins},
            ("GET", "migrations"): lambda _: self._caught_up(self.migrations.listing),
            ("GET", "extensions"): lambda _: self._caught_up(lambda: list(self.extensions.log)),
            ("POST", "extension"): self._extend,
            ("POST", "mon"): self._mon,
            ("POST", "router"): lambda values: self.router.put(values["prefix"], routed=bool(values["routed"])),
            ("GET", "prefixes"): lambda _: self.router.prefixes(),
        }

    def _caught_up(self, read: Callable[[], Any]) -> Any:
        with self._lock:
            self.catch_up()
            return read()

    def _advance(self, values: dict[str, Any]) -> dict[str, float]:
        """What is due by then has happened when this returns."""
        self.clock.advance(float(values.get("advance", 0.0)))
        self.catch_up()
        return {"now": self.clock.now(), "offset": self.clock.offset}

    def _extend(self, values: dict[str, Any]) -> dict[str, str]:
        with self._lock:
            return {"id": self.extensions.extend(values["network"], values["gateway"], values["tier"])}

    def _mon(self, values: dict[str, Any]) -> None:
        with self._lock:
            self.extensions.set_mon(values["id"], on=bool(values["on"]))


def _flag(query: dict[str, str]) -> bool:
    value = query.get("connectToLocalRouter", "false")
    if value not in ("true", "false"):
        raise malformed(f"connectToLocalRouter is {value!r}")
    return value == "true"


def _body(request: Request) -> Any:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise HcxError(415, "shape", "Content-Type must be application/json")
    try:
        found = json.loads(request.body.content)
    except ValueError:
        raise malformed("The body is no JSON") from None
    if not isinstance(found, dict):
        raise malformed("The body must be an object")
    return found
