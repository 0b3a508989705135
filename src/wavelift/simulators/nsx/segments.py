"""Segments, their ports, and which prefixes this site routes.

A change of connectivity is accepted first and realised later. A prefix that is switched on counts as routed from its
acceptance, one that is switched off until its realisation: between the two nobody knows what a router does.
"""

from __future__ import annotations

import copy
import ipaddress
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.nsx import invented
from wavelift.simulators.nsx.errors import NsxError
from wavelift.simulators.nsx.settings import Settings

ON: Final = "ON"
OFF: Final = "OFF"
READ_ONLY: Final = frozenset({"type", "path", "parent_path", "relative_path", "unique_id", "id", "resource_type"})
ADVANCED_DEFAULTS: Final = {"local_egress": False, "connectivity": ON, "hybrid": False, "inter_router": False}

Outcome = Callable[[str], tuple[str, int]]
"""A segment's path → what becomes of a change (a rule's outcome, empty for none), and the rule's id."""


@dataclass
class Change:
    """Of connectivity, accepted and not realised."""

    wanted: str
    due: float
    accepted: float
    """By the machine's clock."""
    outcome: str = ""
    rule: int = 0


@dataclass
class Port:
    id: str
    name: str
    gone_at: float | None = None
    """When it leaves; None: its VM is there."""


@dataclass
class Segment:
    path: str
    body: dict[str, Any]
    revision: int = 0
    realised: str = OFF
    """Connectivity that is in force."""
    extended: bool = False
    change: Change | None = None
    failed: bool = False
    ports: dict[str, Port] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def tier(self) -> str:
        """Path of its tier-1; empty for none."""
        return str(self.body.get("connectivity_path") or "")

    @property
    def connectivity(self) -> str:
        return str(self.body["advanced_config"]["connectivity"])

    def networks(self) -> list[str]:
        return [str(each["network"]) for each in self.body.get("subnets") or ()]

    @property
    def kind(self) -> str:
        routed = self.realised == ON and self.tier and self.networks()
        word = invented.ROUTED if routed else invented.DISCONNECTED
        return invented.EXTENDED[word] if self.extended else word

    def document(self) -> dict[str, Any]:
        """As NSX shows it."""
        parent = self.path.rpartition("/segments/")[0]
        fixed = {
            "resource_type": "Segment",
            "id": self.id,
            "path": self.path,
            "relative_path": self.id,
            "parent_path": parent,
            "type": self.kind,
            "_revision": self.revision,
        }
        return {**copy.deepcopy(self.body), **fixed}


class Segments:
    """All segments of the site. Thread safe."""

    def __init__(self, clock: Clock, settings: Settings, outcome: Outcome, in_force: Callable[[int], bool]) -> None:
        self._clock, self._settings = clock, settings
        self._outcome, self._in_force = outcome, in_force
        self._lock = threading.RLock()
        self._segments: dict[str, Segment] = {}
        self._pending: dict[str, float] = {}
        """Path of a deleted segment → when its deletion ends."""
        self.tiers = {f"/infra/tier-1s/{name}": name for name in settings.tiers.split(",") if name}
        self._log: list[tuple[float, str, str, str]] = []
        self._routed: dict[tuple[str, str], bool] = {}

    # --- reading --------------------------------------------------------------------------------------------------

    def get(self, path: str) -> Segment:
        with self._lock:
            self._settle()
            found = self._segments.get(path)
            if found is None:
                message = invented.NOT_FOUND_MESSAGE.format(path=path)
                raise NsxError(404, invented.NOT_FOUND_CODE, message)
            return found

    def read(self, path: str) -> dict[str, Any]:
        with self._lock:
            return self.get(path).document()

    def under(self, parent: str | None = None) -> list[dict[str, Any]]:
        """Of one parent path, such as ``/infra``; all for None."""
        with self._lock:
            self._settle()
            return [
                each.document()
                for path, each in sorted(self._segments.items())
                if parent is None or path.rpartition("/segments/")[0] == parent
            ]

    def state(self, path: str) -> dict[str, Any]:
        with self._lock:
            segment = self.get(path)
            word = invented.SUCCESS
            if segment.change is not None:
                word = invented.IN_PROGRESS
            elif segment.failed:
                word = invented.FAILED
            found: dict[str, Any] = {
                "segment_path": path,
                "state": word.said(other_words=self._settings.other_words),
                "details": [],
            }
            if segment.failed:
                found |= {"failure_message": invented.FAILURE_MESSAGE, "failure_code": invented.FAILURE_CODE}
            return found

    def ports(self, path: str) -> list[dict[str, Any]]:
        with self._lock:
            return [
                {
                    "resource_type": "SegmentPort",
                    "id": port.id,
                    "display_name": port.name,
                    "path": f"{path}/ports/{port.id}",
                    "parent_path": path,
                    "attachment": {"id": port.id},
                    "admin_state": "UP",
                }
                for port in self.get(path).ports.values()
            ]

    def prefixes(self) -> dict[str, Any]:
        """``routed``: prefix → path of the segment that routes it now. ``log``: ``[epoch, prefix, ON|OFF, path]``,
        oldest first, by the machine's clock."""
        with self._lock:
            self._settle()
            routed = {prefix: path for (path, prefix), on in self._routed.items() if on}
            return {"routed": routed, "log": [list(row) for row in sorted(self._log, key=lambda row: row[0])]}

    # --- changing -------------------------------------------------------------------------------------------------

    def put(self, path: str, body: dict[str, Any], *, whole: bool = False, at_once: bool = False) -> dict[str, Any]:
        """Make or change a segment.

        :param whole: ``body`` replaces everything, and carries the revision if there is one.
        :param at_once: realised without delay.
        """
        with self._lock:
            self._settle()
            self._refuse_pending(path)
            known = self._segments.get(path)
            self._check_revision(path, known, body, whole)
            merged = self._merged(path, known, {} if whole else dict(known.body) if known else {}, body)
            self._check_overlap(path, merged)
            segment = known or Segment(path, merged)
            before = (known.connectivity, known.tier, known.networks()) if known else None
            segment.body = merged
            segment.revision = known.revision + 1 if known else 0
            self._segments[path] = segment
            # What failed is tried again by the same request.
            if segment.failed or before != (segment.connectivity, segment.tier, segment.networks()):
                self._begin(segment, at_once=at_once or known is None)
            self._note()
            return segment.document()

    def extend(self, path: str, extended: bool) -> None:
        with self._lock:
            self.get(path).extended = extended

    def delete(self, path: str, *, force: bool = False) -> None:
        with self._lock:
            self._settle()
            self._refuse_pending(path)
            segment = self.get(path)
            if segment.ports and not force:
                message = invented.IN_USE_MESSAGE.format(path=path, count=len(segment.ports))
                raise NsxError(400, 503040, message)
            del self._segments[path]
            if self._settings.delete_seconds:
                self._pending[path] = self._clock.now() + self._settings.delete_seconds
            self._note()

    def add_port(self, path: str, name: str = "", port: str = "") -> str:
        with self._lock:
            segment, made = self.get(path), port or str(uuid.uuid4())
            segment.ports[made] = Port(made, name or made)
            return made

    def remove_port(self, path: str, port: str) -> None:
        """It lingers."""
        with self._lock:
            found = self.get(path).ports.get(port)
            if found is None:
                raise ValueError(f"{path} has no port {port}")
            found.gone_at = self._clock.now() + self._settings.port_linger_seconds
            self._settle()

    # --- inside ---------------------------------------------------------------------------------------------------

    def _refuse_pending(self, path: str) -> None:
        if path in self._pending:
            raise NsxError(400, 500045, invented.PENDING_MESSAGE.format(path=path))

    def _check_revision(self, path: str, known: Segment | None, body: dict[str, Any], whole: bool) -> None:
        if known is None or not (whole or invented.REVISION_OF_PATCH_COUNTS):
            return
        told = body.get("_revision")
        if (whole or told is not None) and told != known.revision:
            message = invented.STALE_MESSAGE.format(path=path, revision=known.revision)
            raise NsxError(412, 500090, message)

    def _merged(self, path: str, known: Segment | None, base: dict[str, Any], body: dict[str, Any]) -> dict[str, Any]:
        told = {key: value for key, value in body.items() if key not in READ_ONLY and not key.startswith("_")}
        if self._settings.patch_replaces:
            base = {key: value for key, value in base.items() if key not in {"subnets", "connectivity_path"}}
        kept = {} if self._settings.patch_replaces else base.get("advanced_config") or {}
        advanced = {**ADVANCED_DEFAULTS, **kept, **(told.get("advanced_config") or {})}
        if advanced["connectivity"] not in {ON, OFF}:
            raise NsxError(400, invented.BAD_FIELD_CODE, f"connectivity is not one of ON, OFF: {path}")
        merged = {"display_name": path.rpartition("/")[2], "admin_state": "UP", "tags": [], **base, **told}
        merged["advanced_config"] = advanced
        parent = path.rpartition("/segments/")[0]
        if parent in self.tiers:
            merged["connectivity_path"] = parent
        elif parent != "/infra":
            raise NsxError(404, invented.NOT_FOUND_CODE, invented.NOT_FOUND_MESSAGE.format(path=parent))
        tier = merged.get("connectivity_path")
        if tier and tier not in self.tiers:
            raise NsxError(400, invented.NOT_FOUND_CODE, invented.NOT_FOUND_MESSAGE.format(path=tier))
        merged["subnets"] = [_subnet(each) for each in merged.get("subnets") or ()]
        return merged

    def _check_overlap(self, path: str, body: dict[str, Any]) -> None:
        mine = [ipaddress.ip_network(each["network"]) for each in body["subnets"]]
        for other in self._segments.values():
            if other.path == path or other.tier != body.get("connectivity_path"):
                continue
            for text in other.networks():
                net = ipaddress.ip_network(text)
                if hit := next((each for each in mine if each.version == net.version and each.overlaps(net)), None):
                    message = invented.OVERLAP_MESSAGE.format(subnet=hit, other=text, path=other.path)
                    raise NsxError(400, 500105, message)

    def _begin(self, segment: Segment, *, at_once: bool) -> None:
        segment.failed = False
        if at_once:
            segment.change, segment.realised = None, segment.connectivity
            return
        outcome, rule = self._outcome(segment.path)
        if outcome == "ignored":
            segment.body["advanced_config"]["connectivity"] = segment.realised
            return
        due = self._clock.now() + self._settings.realise_seconds
        segment.change = Change(segment.connectivity, due, time.time(), outcome, rule)

    def _settle(self) -> None:
        """Let what is due happen."""
        now = self._clock.now()
        for path in [path for path, due in self._pending.items() if due <= now]:
            del self._pending[path]
        for segment in self._segments.values():
            left = {key: port for key, port in segment.ports.items() if port.gone_at is None or port.gone_at > now}
            segment.ports = left
            change = segment.change
            if change is None or (change.outcome == "stuck" and self._in_force(change.rule)) or change.due > now:
                continue
            segment.change = None
            if change.outcome == "failed":
                segment.failed = True
            else:
                segment.realised = change.wanted
            # By the machine's clock: it happened when it was due, not now that somebody looks.
            moment = time.time()
            if change.outcome != "stuck":
                moment = min(max(change.due - self._clock.offset, change.accepted), moment)
            self._note(moment)

    def _routes(self) -> Iterator[tuple[str, str]]:
        for segment in self._segments.values():
            accepted = segment.change is not None and segment.change.wanted == ON and not segment.failed
            if segment.tier and (segment.realised == ON or accepted):
                yield from ((segment.path, net) for net in segment.networks())

    def _note(self, at: float | None = None) -> None:
        now, moment = set(self._routes()), time.time() if at is None else at
        for key in [key for key, on in self._routed.items() if on and key not in now]:
            self._routed[key] = False
            self._log.append((moment, key[1], OFF, key[0]))
        for key in sorted(now):
            if not self._routed.get(key):
                self._routed[key] = True
                self._log.append((moment, key[1], ON, key[0]))


def _subnet(told: dict[str, Any]) -> dict[str, Any]:
    try:
        gateway = ipaddress.ip_interface(str(told["gateway_address"]))
    except (KeyError, ValueError) as error:
        raise NsxError(400, invented.BAD_FIELD_CODE, f"not a gateway_address: {told}") from error
    return {**told, "gateway_address": str(gateway), "network": str(gateway.network)}
