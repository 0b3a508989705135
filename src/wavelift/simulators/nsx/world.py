"""The simulated NSX: finds out what is called, checks the login, and answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wavelift.simulators.kit import faults
from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.kit.world import Refusal, Routes, World
from wavelift.simulators.nsx import invented
from wavelift.simulators.nsx.cloud import CSP, PROXY, Cloud
from wavelift.simulators.nsx.errors import CloudError, NsxError, PlainError, failure
from wavelift.simulators.nsx.faults import Rule
from wavelift.simulators.nsx.fields import ADVANCED_FIELDS, SEGMENT_FIELDS, SUBNET_FIELDS
from wavelift.simulators.nsx.segments import Segments
from wavelift.simulators.nsx.settings import ORG, PASSWORD, REFRESH_TOKEN, SDDC, USERNAME, Settings

REQUESTS: Final = "requests"
POLICY: Final = "/policy/api/v1"
_SEGMENT: Final = r"(?P<path>/infra(?:/tier-1s/[^/]+)?/segments/[^/]+)"
_PARENT: Final = r"(?P<path>/infra(?:/tier-1s/[^/]+)?)"
CALLS: Final = tuple(
    (method, re.compile(pattern), operation)
    for method, pattern, operation in (
        ("GET", _SEGMENT, "ReadSegment"),
        ("PUT", _SEGMENT, "PutSegment"),
        ("PATCH", _SEGMENT, "PatchSegment"),
        ("DELETE", _SEGMENT, "DeleteSegment"),
        ("GET", f"{_SEGMENT}/state", "ReadState"),
        ("GET", f"{_SEGMENT}/ports", "ListPorts"),
        ("GET", f"{_PARENT}/segments", "ListSegments"),
        ("GET", r"(?P<path>/infra/tier-1s)", "ListTiers"),
        ("GET", r"(?P<path>/infra/tier-1s/[^/]+)", "ReadTier"),
    )
)


@dataclass(frozen=True)
class Asked:
    """A request as it came, for a test that compares two clients. No header: these hold the login."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


class NsxWorld(World[Settings]):
    """One site's NSX."""

    rules = Rule
    evidence_kinds = (REQUESTS,)

    def __init__(self, folder: Path, settings: Settings) -> None:
        super().__init__(folder, settings)
        self.cloud = Cloud(self.clock, settings)
        self.segments = Segments(self.clock, settings, self._outcome, self.faults.has)
        self._answers: dict[str, Callable[[Request], Any]] = {
            "ReadSegment": lambda request: self.segments.read(request.target),
            "PutSegment": lambda request: self.segments.put(request.target, _body(request), whole=True),
            "PatchSegment": self._patch,
            "DeleteSegment": self._delete,
            "ForceDeleteSegment": self._delete,
            "ReadState": lambda request: self.segments.state(request.target),
            "ListPorts": lambda request: self._page(request, self.segments.ports(request.target)),
            "ListSegments": self._list,
            "ListTiers": lambda request: self._page(request, [_tier(path) for path in sorted(self.segments.tiers)]),
            "ReadTier": self._read_tier,
        }

    # --- what every world has -------------------------------------------------------------------------------------

    def identify(self, request: Request) -> None:
        path = request.path
        if path.startswith(f"{CSP}/"):
            request.service, request.operation = "csp", "Authorize"
        elif path.startswith("/vmc/api/"):
            request.service, request.operation = "vmc", "ReadSddc"
        else:
            self._identify_policy(request)

    def _identify_policy(self, request: Request) -> None:
        request.service = "nsx"
        start = f"{PROXY if self.settings.vmc else ''}{POLICY}"
        if not request.path.startswith(f"{start}/"):
            raise PlainError(404, "<html><body>Not Found</body></html>")
        rest = request.path.removeprefix(start)
        for method, pattern, operation in CALLS:
            match = pattern.fullmatch(rest)
            if match is not None and method == request.method:
                request.operation, request.target = operation, match["path"]
                if operation == "DeleteSegment" and request.query().get("force") == "true":
                    request.operation = "ForceDeleteSegment"
                return

    def handle(self, request: Request) -> Response:
        if request.service == "csp":
            return _json(self._exchange(request))
        if request.service == "vmc":
            return _json(self._sddc(request))
        if self.settings.vmc:
            self.cloud.check_token(request)
        else:
            self.cloud.check_basic(request)
        answer = self._answers.get(request.operation)
        if answer is None:
            raise NsxError(404, invented.NOT_FOUND_CODE, f"no {request.method} {request.path}")
        if self.settings.evidence:
            body = _body(request) if request.body.content else None
            self.evidence.keep(REQUESTS, Asked(request.method, request.raw_path, request.query(), body))
        found = answer(request)
        return Response(200) if found is None else _json(found)

    def failure(self, rule: faults.Rule, service: str) -> Refusal:
        return failure(rule, service)

    def render(self, error: Refusal, request: Request) -> Response:
        assert isinstance(error, NsxError | CloudError | PlainError)
        return error.response()

    def state(self) -> dict[str, Any]:
        return {
            "segments": [{k: v for k, v in each.items() if k != "_revision"} for each in self.segments.under()],
            "ports": {each["path"]: len(self.segments.ports(each["path"])) for each in self.segments.under()},
            "tiers": sorted(self.segments.tiers),
        }

    def hello(self) -> dict[str, Any]:
        told = {"username": USERNAME, "password": PASSWORD, "vmc": self.settings.vmc}
        return told | ({"org": ORG, "sddc": SDDC, "refresh_token": REFRESH_TOKEN} if self.settings.vmc else {})

    def routes(self) -> Routes:
        store = self.segments
        found: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
            ("GET", "segments"): lambda _: store.under(),
            ("GET", "segment/get"): lambda values: store.read(values["path"]),
            ("POST", "segment/get"): lambda values: store.read(values["path"]),
            ("POST", "segment/put"): self._control_put,
            ("POST", "segment/delete"): lambda values: store.delete(values["path"], force=bool(values.get("force"))),
            ("POST", "port/add"): lambda values: {
                "id": store.add_port(values["segment"], values.get("name", ""), values.get("id", ""))
            },
            ("POST", "port/remove"): lambda values: store.remove_port(values["segment"], values["id"]),
            ("GET", "ports"): lambda values: store.ports(values["segment"]),
            ("GET", "prefixes"): lambda _: store.prefixes(),
            ("POST", "tier/put"): lambda values: store.tiers.update({f"/infra/tier-1s/{values['id']}": values["id"]}),
            ("POST", "tokens/expire"): lambda _: {"expired": self.cloud.expire()},
        }
        return {key: _told(call) for key, call in found.items()}

    # --- calls ----------------------------------------------------------------------------------------------------

    def _outcome(self, path: str) -> tuple[str, int]:
        rules = self.faults.take("realise", service="nsx", operation="PatchSegment", key=path)
        return (rules[0].outcome, rules[0].id) if rules else ("", 0)

    def _exchange(self, request: Request) -> dict[str, Any]:
        if not self.settings.vmc or request.method != "POST":
            raise PlainError(404, "<html><body>Not Found</body></html>")
        if request.path not in {f"{CSP}/authorize", f"{CSP}/api-tokens/authorize"}:
            raise CloudError(404, "not found")
        return self.cloud.exchange(request)

    def _sddc(self, request: Request) -> dict[str, Any]:
        if not self.settings.vmc or request.method != "GET":
            raise PlainError(404, "<html><body>Not Found</body></html>")
        return self.cloud.sddc(request)

    def _patch(self, request: Request) -> None:
        self.segments.put(request.target, _body(request))

    def _delete(self, request: Request) -> None:
        self.segments.delete(request.target, force=request.operation == "ForceDeleteSegment")

    def _control_put(self, values: dict[str, Any]) -> dict[str, Any]:
        """``path`` and a segment's fields; ``connectivity`` for that of ``advanced_config``; ``extended``;
        ``at_once`` (default): realised without delay."""
        told = dict(values)
        path, at_once = told.pop("path"), bool(told.pop("at_once", True))
        extended, connectivity = told.pop("extended", None), told.pop("connectivity", None)
        if connectivity is not None:
            told["advanced_config"] = {**told.get("advanced_config", {}), "connectivity": connectivity}
        self.segments.put(path, told, at_once=at_once)
        if extended is not None:
            self.segments.extend(path, bool(extended))
        return self.segments.read(path)

    def _list(self, request: Request) -> dict[str, Any]:
        if request.target != "/infra" and request.target not in self.segments.tiers:
            raise NsxError(404, invented.NOT_FOUND_CODE, invented.NOT_FOUND_MESSAGE.format(path=request.target))
        return self._page(request, self.segments.under(request.target))

    def _read_tier(self, request: Request) -> dict[str, Any]:
        if request.target not in self.segments.tiers:
            raise NsxError(404, invented.NOT_FOUND_CODE, invented.NOT_FOUND_MESSAGE.format(path=request.target))
        return _tier(request.target)

    def _page(self, request: Request, rows: list[dict[str, Any]]) -> dict[str, Any]:
        query = request.query()
        size = min(int(query.get("page_size") or 1000), self.settings.page_size)
        cursor = query.get("cursor", "")
        if cursor and not re.fullmatch(r"c[0-9]+", cursor):
            raise NsxError(400, invented.BAD_QUERY_CODE, "the cursor is not valid")
        first = int(cursor.removeprefix("c") or 0)
        more = {"cursor": f"c{first + size}"} if first + size < len(rows) else {}
        return {"results": rows[first : first + size], "result_count": len(rows), **more}


def _told(call: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    """The control endpoint knows no error of NSX's."""

    def tell(values: dict[str, Any]) -> Any:
        try:
            return call(values)
        except KeyError as error:
            raise ValueError(f"the call wants {error}") from error
        except NsxError as error:
            raise ValueError(f"{error.code}: {error.message}") from error

    return tell


def _tier(path: str) -> dict[str, Any]:
    name = path.rpartition("/")[2]
    return {"resource_type": "Tier1", "id": name, "display_name": name, "path": path, "parent_path": "/infra"}


def _body(request: Request) -> dict[str, Any]:
    if not request.headers.get("content-type", "").startswith("application/json"):
        raise NsxError(415, invented.BAD_BODY_CODE, "JSON is wanted")
    try:
        found = json.loads(request.body.content)
    except ValueError as error:
        raise NsxError(400, invented.BAD_BODY_CODE, f"the body is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise NsxError(400, invented.BAD_BODY_CODE, "the body is no JSON object")
    _check_fields(found, SEGMENT_FIELDS)
    _check_fields(found.get("advanced_config") or {}, ADVANCED_FIELDS)
    for subnet in found.get("subnets") or ():
        _check_fields(subnet, SUBNET_FIELDS)
    return found


def _check_fields(told: Any, known: frozenset[str]) -> None:
    if not isinstance(told, dict) or (unknown := sorted(set(told) - known)):
        raise NsxError(400, invented.BAD_FIELD_CODE, f"a segment has no {unknown if isinstance(told, dict) else told}")


def _json(value: Any) -> Response:
    return Response(200, {"Content-Type": "application/json"}, json.dumps(value).encode())
