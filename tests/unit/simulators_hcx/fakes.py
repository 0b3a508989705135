"""Two sites without processes, and a manager over them that is called in place."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wavelift.simulators.hcx.sessions import PASSWORD, TOKEN_HEADER, USERNAME
from wavelift.simulators.hcx.settings import Settings
from wavelift.simulators.hcx.sites import End, Inventory, Nic, Place, Segment, Site, Thing, Vm
from wavelift.simulators.hcx.world import BASE, MESH, HcxWorld
from wavelift.simulators.kit.message import Body, Request
from wavelift.simulators.kit.world import Refusal

__test__ = False

VLAN = Thing("dvportgroup-30", "VLAN-100", "DistributedVirtualPortgroup")
PLAIN = Thing("network-7", "VM Network", "Network")
POOL, FOLDER, STORE = "resgroup-50", "group-v42", "datastore-58"
TIER = "/infra/tier-1s/cgw"
SEGMENT = "/infra/segments/apps"
GIB = 1 << 30


@dataclass
class Vcenter:
    """A vCenter that has only what HCX asks of it."""

    uuid: str
    networks: list[Thing]
    vms: dict[str, Vm] = field(default_factory=dict)
    ids: Iterator[int] = field(default_factory=lambda: itertools.count(1000))

    def inventory(self) -> Inventory:
        places = [Thing(POOL, "Compute", "resourcePool"), Thing(FOLDER, "shop", "folder", path="shop")]
        return Inventory(
            self.uuid, list(self.vms.values()), self.networks, places, [Thing(STORE, "datastore1", "datastore")]
        )

    def vm(self, vm_id: str) -> Vm | None:
        return self.vms.get(vm_id)

    def add_vm(self, vm: Vm, nics: Sequence[Nic], place: Place) -> str:
        ident = f"vm-{next(self.ids)}"
        cards = tuple(replace(nic, mac=nic.mac or f"00:50:56:00:00:{number:02x}") for number, nic in enumerate(nics))
        uuid = vm.uuid if place.same else f"new of {vm.uuid}"
        path = f"shop/{vm.name}"
        self.vms[ident] = replace(vm, id=ident, nics=cards, power="poweredOff", uuid=uuid, path=path)
        return ident

    def remove_vm(self, vm_id: str) -> None:
        del self.vms[vm_id]

    def set_power(self, vm_id: str, power: str) -> None:
        self.vms[vm_id] = replace(self.vms[vm_id], power=power)

    def rename(self, vm_id: str, name: str) -> None:
        self.vms[vm_id] = replace(self.vms[vm_id], name=name)

    def remove_nics(self, vm_id: str) -> None:
        self.vms[vm_id] = replace(self.vms[vm_id], nics=())

    def add_segment(self, segment: Segment) -> None:
        if not any(each.segment == segment.path for each in self.networks):
            self.networks.append(Thing("dvportgroup-99", segment.name, VLAN.kind, segment=segment.path))

    def named(self, name: str) -> Vm:
        return next(each for each in self.vms.values() if each.name == name)


@dataclass
class Nsx:
    found: dict[str, Segment] = field(default_factory=dict)
    ports: list[tuple[str, str]] = field(default_factory=list)
    extended: set[str] = field(default_factory=set)
    switched: list[tuple[str, bool]] = field(default_factory=list)

    def put(self, name: str, gateway: str, *, on: bool) -> Segment:
        made = Segment(f"/infra/segments/{name}", name, (gateway,), TIER, on)
        self.found[made.path] = made
        return made

    def segments(self) -> list[Segment]:
        return list(self.found.values())

    def tiers(self) -> list[str]:
        return [TIER]

    def make(self, name: str, *, gateway: str, tier: str) -> Segment:
        return self.put(name, gateway, on=False)

    def connect(self, path: str, *, on: bool) -> None:
        self.found[path] = replace(self.found[path], on=on)
        self.switched.append((path, on))

    def extend(self, path: str, *, extended: bool) -> None:
        (self.extended.add if extended else self.extended.discard)(path)

    def add_port(self, path: str, vm: str) -> None:
        self.ports.append((path, vm))

    def remove_ports(self, path: str, vm: str) -> None:
        self.ports = [each for each in self.ports if each != (path, vm)]


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Manager:
    """``call`` is a call over HTTP but for the network."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.here = Vcenter("uuid-here", [VLAN, PLAIN])
        self.there = Vcenter("uuid-there", [Thing("network-1", "VM Network", "Network")])
        self.nsx = Nsx()
        self.nsx.put("apps", "10.9.0.1/24", on=True)
        known = Settings(tick_seconds=0.0, base_sync_seconds=100.0, switchover_seconds=10.0, prepare_seconds=1.0)
        known.update(settings)
        source = End(Site("", "", "HCX-CONN", "endpoint-here", "vc1"), self.here)
        destination = End(Site("", "", "HCX-CLOUD", "endpoint-there", "vc2"), self.there, self.nsx)
        self.world = HcxWorld(folder, known, source=source, destination=destination)
        self.token = ""

    def vm(self, name: str = "app01", **fields: Any) -> Vm:
        """Add one to the source."""
        number = len(self.here.vms) + 1
        given = {
            "power": "poweredOn",
            "tools": True,
            "hardware": 19,
            "nics": (Nic(f"00:50:56:aa:00:{number:02x}", VLAN, (f"10.1.2.{number}",)),),
            "disks": (10 * GIB,),
            "uuid": f"uuid of {name}",
            "path": f"shop/{name}",
            **fields,
        }
        self.here.vms[f"vm-{number}"] = Vm(f"vm-{number}", name, **given)
        return self.here.vms[f"vm-{number}"]

    def call(
        self, method: str, path: str, body: Any = None, *, raw: bytes | None = None, kind: str = "application/json"
    ) -> Answer:
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        known = {"content-type": kind, TOKEN_HEADER: self.token, "content-length": str(len(data))}
        where, _, query = f"{BASE}{path}".partition("?")
        content = Body(_Stream(data), known, on_start=lambda: None)
        request = Request(method, where, query, known, content, "request-1")
        self.world.identify(request)
        try:
            self.world.faults.before(request)
            found = self.world.handle(request)
        except Refusal as error:
            found = self.world.render(error, request)
        return Answer(found.status, found.headers, found.body)

    def login(self) -> Manager:
        told = self.call("POST", "/sessions", {"username": USERNAME, "password": PASSWORD})
        self.token = told.headers[TOKEN_HEADER]
        return self

    def advance(self, seconds: float) -> None:
        self.world.routes()["POST", "clock"]({"advance": seconds})

    def intent(self, vm: Vm, kind: str = "RAV", **changes: Any) -> dict[str, Any]:
        """A right one. ``changes`` replace its parts."""
        replicated = kind in ("RAV", "vSphereReplication")
        schedule = changes.pop("schedule", {})
        return {
            "migrationType": kind,
            "entity": {"entityId": vm.id, "entityName": vm.name, "entityType": "VirtualMachine"},
            "source": {"endpointId": "endpoint-here", "computeResourceId": "uuid-here"},
            "destination": {"endpointId": "endpoint-there", "computeResourceId": "uuid-there"},
            "transferParams": {"transferType": "vSphereReplication" if replicated else "NO_OP", "schedule": schedule},
            "switchoverParams": {
                "switchoverType": kind,
                "schedule": schedule,
                "options": {"retainMac": True, "removeSnapshots": True, **changes.pop("options", {})},
            },
            "placement": [{"id": POOL, "type": "resourcePool"}, {"id": FOLDER, "type": "folder"}],
            "storage": {"defaultStorage": {"id": STORE, "type": "datastore", "diskProvisionType": "thin"}},
            "networkParams": {
                "networkMappings": [
                    {"macAddress": nic.mac, "srcNetworkId": nic.network.id, "destNetworkId": SEGMENT} for nic in vm.nics
                ]
            },
            "servicemeshId": MESH,
            **changes,
        }

    def validate(self, *intents: Any) -> Answer:
        return self.call("POST", "/mobility/migrations/validate", {"items": list(intents)})

    def begin(self, *intents: Any) -> list[str]:
        """Start; the ids."""
        told = self.call("POST", "/mobility/migrations/start", {"items": list(intents)})
        assert told.status == 202, told.json
        return [each["migrationId"] for each in told.json["items"]]

    def query(self, **wanted: Any) -> list[dict[str, Any]]:
        told = self.call("POST", "/migrations?action=query", {"filter": wanted, "options": {"compat": 2.1}})
        found: list[dict[str, Any]] = told.json["data"]["items"]
        return found

    def phase(self, ident: str) -> str:
        """What truly is."""
        self.world.catch_up()
        return self.world.migrations.all[ident].phase.name

    def window(self, start: float, end: float) -> dict[str, int]:
        """Seconds from now."""
        now = self.world.clock.now()
        return {"startTime": int(1000 * (now + start)), "expiryTime": int(1000 * (now + end))}


class _Stream:
    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readinto(self, buffer: memoryview, /) -> int:
        return self._file.readinto(buffer)

    def readline(self, limit: int = -1, /) -> bytes:
        return self._file.readline(limit)
