"""``/_sim/...``: what tests see and change from outside. Plain JSON, unsigned."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from wavelift.simulators.kit.message import Request, Response
from wavelift.simulators.aws.world import World

CONTROL: Final = "/_sim/"


class Control:
    """GET looks, POST changes, DELETE clears."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._routes: dict[tuple[str, str], Callable[[dict[str, Any]], Any]] = {
            ("GET", "state"): lambda _: self.state(),
            ("GET", "counters"): lambda _: world.counters.snapshot(),
            ("DELETE", "counters"): lambda _: world.counters.clear(),
            ("GET", "evidence"): lambda _: world.evidence.listing(),
            ("GET", "rules"): lambda _: world.faults.listing(),
            ("POST", "rules"): lambda values: {"id": world.faults.add(values)},
            ("DELETE", "rules"): lambda values: world.faults.clear(int(values.get("id", 0))),
            ("GET", "settings"): lambda _: world.settings.as_dict(),
            ("POST", "settings"): self._set,
            ("GET", "clock"): lambda _: {"now": world.clock.now(), "offset": world.clock.offset},
            ("POST", "clock"): self._advance,
            ("POST", "credentials"): lambda values: {"expired": world.credentials.expire(values.get("access_key", ""))},
            ("GET", "credentials"): lambda _: world.credentials.sessions(),
            ("POST", "reset"): lambda _: world.reset(),
        }

    def handle(self, request: Request) -> Response:
        name = request.path.removeprefix(CONTROL).strip("/")
        if name == "clear":
            name, method = "rules", "DELETE"
        else:
            method = request.method
        route = self._routes.get((method, name))
        if route is None:
            known = sorted({path for _, path in self._routes})
            return _json({"error": f"no {method} {request.path}; there are {known}"}, 404)
        try:
            values = json.loads(request.body.content or b"{}")
            return _json(route({**request.query(), **values}), 200)
        except (ValueError, TypeError) as error:
            return _json({"error": str(error)}, 400)

    def _set(self, values: dict[str, Any]) -> dict[str, Any]:
        self._world.settings.update(values)
        return self._world.settings.as_dict()

    def _advance(self, values: dict[str, Any]) -> dict[str, float]:
        self._world.clock.advance(float(values.get("advance", 0.0)))
        return {"now": self._world.clock.now(), "offset": self._world.clock.offset}

    def state(self) -> dict[str, Any]:
        """What is there and could have been left behind: equal before and after a test that cleans up."""
        world = self._world
        return {
            "buckets": {
                bucket.name: {
                    "objects": sorted(bucket.objects.copy()),
                    "uploads": sorted(
                        (
                            {"key": upload.key, "id": upload.id, "parts": len(upload.parts)}
                            for upload in bucket.uploads.copy().values()
                        ),
                        key=lambda row: str(row["id"]),
                    ),
                }
                for bucket in world.s3.buckets()
            },
            "snapshots": [
                {
                    "id": snapshot.id,
                    "state": snapshot.state,
                    "size_gib": snapshot.size,
                    "parent": snapshot.parent.id if snapshot.parent and not snapshot.parent.hidden else "",
                    "origin": snapshot.origin,
                    "own_blocks": len(snapshot.present),
                    "sent_twice": snapshot.puts - len(snapshot.digests),
                }
                for snapshot in sorted(world.ebs.all(), key=lambda item: item.id)
            ],
            "import_tasks": sorted(task.id for task in world.imports.all() if task.active),
            **self._ec2(),
        }

    def _ec2(self) -> dict[str, Any]:
        with self._world.moto.lock:
            ec2 = self._world.moto.ec2
            living = [
                item
                for item in (instance for row in ec2.reservations.values() for instance in row.instances)
                if item.state != "terminated"
            ]
            return {
                "images": sorted(ec2.amis),
                "instances": sorted(item.id for item in living),
                "volumes": sorted(ec2.volumes),
                "network_interfaces": sorted(ec2.enis),
            }


def _json(value: Any, status: int) -> Response:
    return Response(status, {"Content-Type": "application/json"}, json.dumps(value).encode())
