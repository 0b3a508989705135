"""The control endpoint, ``/_sim/...``: what tests read and change from outside. Plain JSON, no authentication."""

from __future__ import annotations

import json
from typing import Any, Final

from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.kit.site import Site
from wavelift.simulators.kit.world import Routes, World

CONTROL: Final = "/_sim/"


class Control:
    """GET reads, POST changes, DELETE clears."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def handle(self, request: Request) -> Response:
        name, method = request.path.removeprefix(CONTROL).strip("/"), request.method
        try:
            values = json.loads(request.body.content or b"{}")
            if (method, name) == ("POST", "reset"):
                self._site.reset()
                return _json(None, 200)
            with self._site.gate.call(lambda: None):
                routes = _routes(self._site.world)
                if (method, name) not in routes:
                    known = sorted({"reset", *(path for _, path in routes)})
                    return _json({"error": f"no {method} {request.path}; there are {known}"}, 404)
                return _json(routes[method, name]({**request.query(), **values}), 200)
        except (ValueError, TypeError) as error:
            return _json({"error": str(error)}, 400)
        except TimeoutError as error:
            return _json({"error": str(error)}, 500)


def _routes(world: World[Any]) -> Routes:
    def change_settings(values: dict[str, Any]) -> dict[str, Any]:
        world.settings.update(values)
        return dict(world.settings.as_dict())

    def show_clock(_: dict[str, Any]) -> dict[str, float]:
        return {"now": world.clock.now(), "offset": world.clock.offset}

    def advance_clock(values: dict[str, Any]) -> dict[str, float]:
        world.clock.advance(float(values.get("advance", 0.0)))
        return show_clock(values)

    return {
        ("GET", "state"): lambda _: world.state(),
        ("GET", "counters"): lambda _: world.counters.snapshot(),
        ("DELETE", "counters"): lambda _: world.counters.clear(),
        ("GET", "evidence"): lambda _: world.evidence.listing(),
        ("GET", "rules"): lambda _: world.faults.listing(),
        ("POST", "rules"): lambda values: {"id": world.faults.add(values)},
        ("DELETE", "rules"): lambda values: world.faults.clear(int(values.get("id", 0))),
        ("GET", "settings"): lambda _: world.settings.as_dict(),
        ("POST", "settings"): change_settings,
        ("GET", "clock"): show_clock,
        ("POST", "clock"): advance_clock,
        **world.routes(),
    }


def _json(value: Any, status: int) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
