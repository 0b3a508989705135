"""Network extensions, and the jobs that make and remove them."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Any, Final

from wavelift.simulators.hcx.errors import HcxError, answer
from wavelift.simulators.hcx.forms import ANY, ENDPOINT, FLAG, TEXT, check_form, malformed
from wavelift.simulators.hcx.invented import EXTENSION_BROKEN, EXTENSION_BUSY, EXTENSION_GOOD, SEGMENT_NAME
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.hcx.sites import SEGMENT, End, Segment, Thing, Trouble
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.faults import Faults
from wavelift.simulators.kit.message import Response

FEATURES: Final = {"egressOptimization": FLAG, "mobilityOptimizedNetworking": FLAG, "proximityRouting": FLAG}
NETWORK: Final = dict.fromkeys(("networkId", "networkName", "networkType"), TEXT)
APPLIANCE: Final = dict.fromkeys(("applianceId", "applianceName", "applianceType"), TEXT)
CREATE: Final = {
    "vcGuid": TEXT,
    "gateway": TEXT,
    "netmask": TEXT,
    "dns": [TEXT],
    "source": ENDPOINT,
    "destination": ENDPOINT,
    "destinationNetwork": {"gatewayId": TEXT, **NETWORK},
    "features": FEATURES,
    "sourceAppliance": APPLIANCE,
    "destinationAppliance": APPLIANCE,
    "sourceNetwork": {**NETWORK, "dvsId": TEXT, "dvsName": TEXT, "dvsMaxMtu": ANY, "layer2Id": TEXT},
}
EXTENSIBLE: Final = frozenset({"DistributedVirtualPortgroup", "OpaqueNetwork", SEGMENT})
APPLIANCE_TYPE: Final = "HCX-NET-EXT"


@dataclass(slots=True)
class Extension:
    id: str
    network: Thing
    """At the source."""
    interface: IPv4Interface
    """The gateway, with prefix length."""
    tier: str
    segment: Segment
    created: float
    uuids: tuple[str, str]
    """Of the vCenters of both sites."""
    mon: bool = False
    busy: str = ""
    """The job that removes it."""
    broken: bool = False
    listed_until: float | None = None
    """It is removed, and still listed."""


@dataclass(frozen=True, slots=True)
class Order:
    network: Thing
    interface: IPv4Interface
    tier: str
    uuids: tuple[str, str]
    mon: bool


@dataclass(slots=True)
class Job:
    id: str
    created: float
    due: float
    act: Callable[[float], str]
    """Does its work at a time; what went wrong."""
    done: bool = False
    """Its work is done: whoever polls may learn of it later."""
    failed: str = ""
    polls: int = 0
    finished: float = 0.0


class Extensions:
    """Not safe for threads: its caller holds a lock."""

    def __init__(
        self,
        source: End,
        destination: End,
        *,
        clock: Clock,
        settings: Settings,
        faults: Faults[Any],
        appliance: str,
    ) -> None:
        self._source, self._destination = source, destination
        self._clock, self._settings, self._faults = clock, settings, faults
        self.appliance = appliance
        self.all: dict[str, Extension] = {}
        self.jobs: dict[str, Job] = {}
        self.log: list[list[Any]] = []
        """[time, what, network] of every change."""

    def catch_up(self) -> None:
        now = self._clock.now()
        for job in sorted((each for each in self.jobs.values() if not each.done and each.due <= now), key=_due):
            try:
                job.failed = job.act(job.due)
            except Trouble as error:
                job.failed = str(error)
            job.done, job.finished = True, job.due
        for each in [one for one in self.all.values() if one.listed_until is not None and one.listed_until <= now]:
            del self.all[each.id]

    def count(self) -> int:
        """Networks of the appliance."""
        return len(self.all)

    # the list

    def listing(self) -> Response:
        return answer({"items": [self._item(each) for each in self.all.values()]})

    def _item(self, each: Extension) -> dict[str, Any]:
        word = EXTENSION_BUSY if each.busy else EXTENSION_BROKEN if each.broken else EXTENSION_GOOD
        return {
            "stretchId": each.id,
            "vcGuid": each.uuids[0],
            "gateway": str(each.interface.ip),
            "netmask": str(each.interface.netmask),
            "creationDate": int(1000 * each.created),
            "source": _endpoint(self._source, each.uuids[0]),
            "destination": _endpoint(self._destination, each.uuids[1]),
            "sourceNetwork": _network(each.network),
            "destinationNetwork": {
                "networkId": each.segment.path,
                "networkName": each.segment.name,
                "networkType": SEGMENT,
                "gatewayId": each.tier,
            },
            "sourceAppliance": appliance_of(self.appliance, "I1"),
            "destinationAppliance": appliance_of(self.appliance, "R1"),
            "features": {
                "proximityRouting": False,
                "egressOptimization": False,
                "mobilityOptimizedNetworking": each.mon,
            },
            "operationStatus": {"state": word.said(other_words=self._settings.other_words)},
        }

    # making

    def create(self, body: Any, *, with_job: bool) -> Response:
        """With a job the extension comes at its end; without, it is there at once."""
        order = self._order(body)
        if with_job:
            job = self._job(self._settings.extend_seconds, lambda at: self._make(order, at))
            return answer({"id": job.id})
        ident = str(uuid.uuid4())
        if failed := self._make(order, self._clock.now(), ident):
            raise HcxError(400, "extension", failed)
        return answer({"data": {"stretchId": ident}, "errors": [], "warnings": []}, 202)

    def extend(self, network: str, gateway: str, tier: str) -> str:
        """At once, for tests: the new extension's id. ``network`` is a name or an id. Raises ValueError."""
        found = next((each for each in self._networks() if network in (each.name, each.id)), None)
        if found is None:
            raise ValueError(f"no network {network} at the source")
        interface, view = IPv4Interface(gateway), self._destination.look()
        uuids = (self._source.vcenter.inventory().uuid, view.inventory.uuid)
        ident = str(uuid.uuid4())
        failed = self._make(Order(found, interface, tier, uuids, mon=False), self._clock.now(), ident)
        if failed:
            raise ValueError(failed)
        return ident

    def _order(self, body: Any) -> Order:
        check_form(body, CREATE, "request")
        here, there = self._source.look(), self._destination.look()
        if body.get("vcGuid") != here.inventory.uuid:
            raise malformed(f"vCenter {body.get('vcGuid')} does not exist")
        target = body.get("destination") or {}
        if target.get("endpointId") != self._destination.site.endpoint:
            raise malformed(f"The destination endpoint {target.get('endpointId')} does not exist")
        if target.get("resourceId", there.inventory.uuid) != there.inventory.uuid:
            raise malformed(f"The destination resource {target.get('resourceId')} does not exist")
        appliance = (body.get("sourceAppliance") or {}).get("applianceId")
        if appliance != f"{self.appliance}-I1":
            raise malformed(f"The appliance {appliance} does not exist")
        if self.count() >= self._settings.extensions_per_appliance:
            raise HcxError(400, "extension", "The appliance extends as many networks as it can")
        tier = (body.get("destinationNetwork") or {}).get("gatewayId")
        if self._destination.nsx is None or tier not in self._destination.nsx.tiers():
            raise malformed(f"The gateway {tier} does not exist at the destination")
        given = body.get("sourceNetwork") or {}
        network = next((each for each in self._networks() if each.id == given.get("networkId")), None)
        if network is None or given.get("networkType") != network.kind:
            raise malformed(f"The network {given.get('networkId')} does not exist at the source")
        if network.kind not in EXTENSIBLE:
            raise HcxError(400, "extension", f"Networks of type {network.kind} can not be extended")
        try:
            interface = IPv4Interface(f"{body.get('gateway')}/{body.get('netmask')}")
        except ValueError:
            raise malformed("gateway and netmask must be an IPv4 address and its mask") from None
        mon = (body.get("features") or {}).get("mobilityOptimizedNetworking") is True
        return Order(network, interface, tier, (here.inventory.uuid, there.inventory.uuid), mon)

    def _networks(self) -> list[Thing]:
        """A network of vCenter that is a segment can be named by both ids."""
        view = self._source.look()
        found = {each.id: each for each in (*view.networks(), *view.inventory.networks)}
        return list(found.values())

    def _make(self, order: Order, at: float, ident: str = "") -> str:
        names = {each.network.name for each in self.all.values()}
        if order.network.name in names:
            return f"Network {order.network.name} is extended already"
        nsx = self._destination.nsx
        if nsx is None:
            return "The destination has no NSX"
        wanted = order.interface.network
        rivals = [
            (each, IPv4Interface(gateway))
            for each in nsx.segments()
            for gateway in each.gateways
            if each.tier == order.tier and ":" not in gateway and IPv4Interface(gateway).network.overlaps(wanted)
        ]
        if any(found.network != wanted for _, found in rivals):
            return f"{wanted} overlaps with a network of {order.tier}"
        if rivals:
            segment = rivals[0][0]
            nsx.connect(segment.path, on=False)
        else:
            name = SEGMENT_NAME.said(other_words=self._settings.other_words).format(network=order.network.name)
            segment = nsx.make(name, gateway=str(order.interface), tier=order.tier)
        nsx.extend(segment.path, extended=True)
        self._destination.vcenter.add_segment(segment)
        made = Extension(
            ident or str(uuid.uuid4()),
            order.network,
            order.interface,
            order.tier,
            segment,
            at,
            order.uuids,
            mon=order.mon,
        )
        self.all[made.id] = made
        self._note(at, "extended", made)
        return ""

    # changing and removing

    def _found(self, ident: str) -> Extension:
        found = self.all.get(ident)
        if found is None or found.listed_until is not None:
            raise HcxError(404, "extension", f"The network extension {ident} does not exist")
        if found.busy:
            raise HcxError(400, "extension", f"An operation of the network extension {ident} is in progress")
        return found

    def change(self, ident: str, body: Any) -> Response:
        """Switch Mobility Optimized Networking on or off."""
        check_form(body, {"features": FEATURES}, "request")
        found = self._found(ident)
        features = body.get("features") or {}
        if "mobilityOptimizedNetworking" not in features:
            raise malformed("features.mobilityOptimizedNetworking is missing")
        self.set_mon(found.id, on=features["mobilityOptimizedNetworking"])
        return answer({"warnings": [], "errors": []}, 202)

    def set_mon(self, ident: str, *, on: bool) -> None:
        self.all[ident].mon = on
        self._note(self._clock.now(), "mon on" if on else "mon off", self.all[ident])

    def remove(self, ident: str, *, connect: bool, with_job: bool) -> Response:
        found = self._found(ident)
        job = self._job(self._settings.unextend_seconds, lambda at: self._remove(found, connect, at))
        found.busy, found.broken = job.id, False
        if with_job:
            return answer({"id": job.id})
        return answer({"warnings": [], "errors": []}, 202)

    def _remove(self, found: Extension, connect: bool, at: float) -> str:
        found.busy = ""
        fails = self._settings.unextend_fails
        for rule in self._faults.take("unextend", service="hcx", operation="unextend", key=found.network.name):
            fails = rule.outcome
        if found.mon:
            fails = "kept"
        if fails == "kept":
            found.broken = True
            self._note(at, "unextend failed", found)
            return "The network extension could not be removed"
        nsx = self._destination.nsx
        if nsx is not None:
            nsx.extend(found.segment.path, extended=False)
            if connect and not fails and not self._settings.destination_stays_off:
                nsx.connect(found.segment.path, on=True)
        found.listed_until = at + self._settings.extension_lingers_seconds
        self._note(at, "unextended", found)
        return "The network extension was removed, but not all of its parts" if fails else ""

    # jobs

    def _job(self, seconds: float, act: Callable[[float], str]) -> Job:
        now = self._clock.now()
        made = Job(str(uuid.uuid4()), now, now + seconds, act)
        self.jobs[made.id] = made
        return made

    def job(self, ident: str) -> Response:
        found = self.jobs.get(ident)
        if found is None:
            raise HcxError(404, "extension", f"The job {ident} does not exist")
        found.polls += 1
        done = found.done and found.polls > self._settings.job_polls
        share = min(1.0, (self._clock.now() - found.created) / max(found.due - found.created, 0.001))
        failed = done and bool(found.failed)
        end = self._settings.job_end
        return answer(
            {
                "jobId": found.id,
                "enterprise": "DEFAULT",
                "organization": "DEFAULT",
                "username": "hcx",
                "isQueued": False,
                "isCancelled": failed and end == "isCancelled",
                "isRolledBack": failed and end == "isRolledBack",
                "createTimeEpoch": int(1000 * found.created),
                "absoluteExpireTimeEpoch": int(1000 * (found.created + 86400)),
                "startTime": int(1000 * found.created),
                "endTime": int(1000 * found.finished) if done else 0,
                "percentComplete": 100 if done else min(99, int(100 * share)),
                "isDone": done,
                "didFail": failed and end == "didFail",
                "timeToExecute": 0,
            }
        )

    def _note(self, at: float, what: str, each: Extension) -> None:
        self.log.append([at, what, each.network.name])


def _due(job: Job) -> float:
    return job.due


def _endpoint(end: End, vcenter: str) -> dict[str, str]:
    return {
        "endpointId": end.site.endpoint,
        "endpointName": end.site.name,
        "endpointType": "VC",
        "resourceId": vcenter,
        "resourceName": end.site.vcenter_name,
        "resourceType": "VC",
    }


def _network(network: Thing) -> dict[str, str]:
    return {"networkId": network.id, "networkName": network.name, "networkType": network.kind}


def appliance_of(appliance: str, end: str) -> dict[str, str]:
    return {"applianceId": f"{appliance}-{end}", "applianceName": f"SM-NE-{end}", "applianceType": APPLIANCE_TYPE}
