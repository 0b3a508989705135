"""The sites' vCenters and NSX managers, by the control endpoints of their simulators."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from wavelift.simulators.hcx.sites import End, Inventory, Nic, Place, Segment, Site, Thing, Trouble, Vm
from wavelift.simulators.kit.client import Control
from wavelift.simulators.kit.process import SimulatorError

KINDS: Final = {
    "distributed": "DistributedVirtualPortgroup",
    "nsx": "DistributedVirtualPortgroup",
    "standard": "Network",
    "opaque": "OpaqueNetwork",
}
CONTAINERS: Final = {
    "pools": "resourcePool",
    "datacenters": "dataCenter",
    "clusters": "cluster",
    "hosts": "host",
}
NOT_MOVED: Final = {
    "power": "poweredOff",
    "host": "",
    "cdrom": "",
    "snapshots": [],
    "change_tracking": False,
    "consolidation_needed": False,
}
"""Of a VM's order."""


def end_of(site: Site) -> End:
    """The site with its systems."""
    nsx = NsxSystem(site.nsx, site.nsx_ca) if site.nsx else None
    return End(site, VcenterSystem(site.vcenter, site.token), nsx)


class _System:
    def __init__(self, control: Control) -> None:
        self._control = control

    def _call(self, method: str, path: str, body: object = None) -> Any:
        try:
            return self._control.control(method, path, body)
        except (SimulatorError, OSError) as error:
            raise Trouble(f"{method} {path}: {error}") from None


class VcenterSystem(_System):
    """A vCenter simulator."""

    def __init__(self, control: str, token: str) -> None:
        super().__init__(Control(control, headers={"X-Sim-Token": token}))

    def inventory(self) -> Inventory:
        found = self._call("GET", "inventory")
        networks = [_network(each) for each in found["networks"]]
        state = self._call("GET", "state")
        vms = [vm for each in state["vms"] if (vm := self._vm(each["moref"], networks)) is not None]
        containers = [
            Thing(each["moref"], each["name"], kind) for key, kind in CONTAINERS.items() for each in found[key]
        ]
        containers += [each for one in found["folders"] if (each := _folder(one)) is not None]
        stores = [Thing(each["moref"], each["name"], "datastore") for each in found["datastores"]]
        return Inventory(found["instance_uuid"], vms, networks, containers, stores)

    def vm(self, vm_id: str) -> Vm | None:
        networks = [_network(each) for each in self._call("GET", "inventory")["networks"]]
        return self._vm(vm_id, networks)

    def _vm(self, vm_id: str, networks: Sequence[Thing]) -> Vm | None:
        try:
            found = self._call("GET", f"vm/get?{urlencode({'vm': vm_id})}")
        except Trouble as error:
            if "no virtual machine" in str(error):
                return None
            raise
        return _vm(found, networks)

    def add_vm(self, vm: Vm, nics: Sequence[Nic], place: Place) -> str:
        old = {each["mac"]: each for each in vm.order["nics"]}
        cards = [{**old[nic.was], "mac": nic.mac, "network": nic.network.id, "ips": list(nic.ips)} for nic in nics]
        order = {
            **vm.order,
            **NOT_MOVED,
            "folder": place.folder,
            "pool": place.pool,
            "datastore": place.datastore,
            "nics": cards,
        }
        if not place.same:
            order |= {"uuid": "", "instance_uuid": ""}
        return str(self._call("POST", "vm/add", order)["moref"])

    def remove_vm(self, vm_id: str) -> None:
        self._call("POST", "vm/remove", {"vm": vm_id})

    def set_power(self, vm_id: str, power: str) -> None:
        self._call("POST", "vm", {"vm": vm_id, "power": power})

    def rename(self, vm_id: str, name: str) -> None:
        self._call("POST", "vm/rename", {"vm": vm_id, "name": name})

    def remove_nics(self, vm_id: str) -> None:
        for each in self._call("GET", f"vm/get?{urlencode({'vm': vm_id})}")["nics"]:
            self._call("POST", "vm/nic", {"vm": vm_id, "mac": each["mac"], "remove": True})

    def add_segment(self, segment: Segment) -> None:
        known = [_network(each) for each in self._call("GET", "inventory")["networks"]]
        if not any(segment.path == each.segment or segment.name == each.name for each in known):
            self._call("POST", "network/add", {"name": segment.name, "kind": "nsx", "segment": segment.path})


def _folder(found: Mapping[str, Any]) -> Thing | None:
    """A folder of VMs, with the path below the data centre's."""
    above, vm, below = f"{found['path']}/".partition("/vm/")
    return Thing(found["moref"], found["name"], "folder", path=below.rstrip("/")) if above and vm else None


def _network(found: Mapping[str, Any]) -> Thing:
    return Thing(found["moref"], found["name"], KINDS[found["kind"]], segment=found.get("segment", ""))


def _vm(found: Mapping[str, Any], networks: Sequence[Thing]) -> Vm:
    spec = found["spec"]
    mine = [each for each in networks if each.id in found["networks"]]
    nics = []
    for card in found["nics"]:
        network = next((each for each in mine if each.name == card["network"]), Thing("", card["network"], "Network"))
        nics.append(Nic(card["mac"], network, tuple(card["addresses"])))
    return Vm(
        found["moref"],
        spec["name"],
        spec["power"],
        tools=spec["tools"] == "running" and spec["power"] == "poweredOn",
        hardware=int(spec["hardware"].removeprefix("vmx-")),
        nics=tuple(nics),
        disks=tuple(each["capacity"] for each in spec["disks"]),
        uuid=found["uuid"],
        template=spec["template"],
        snapshots=len(spec["snapshots"]),
        iso=bool(spec["cdrom"]),
        obeys=spec["shutdown"]["how"] == "off",
        guest_id=spec["guest_id"],
        guest_name=spec["guest_full_name"],
        host_name=spec["host_name"],
        cpus=spec["cpus"],
        memory_mb=spec["memory_mb"],
        path=found["path"],
        order=spec,
    )


class NsxSystem(_System):
    """An NSX simulator."""

    def __init__(self, control: str, ca: str) -> None:
        super().__init__(Control(control, ca_file=Path(ca) if ca else None))

    def segments(self) -> list[Segment]:
        return [_segment(each) for each in self._call("GET", "segments")]

    def tiers(self) -> list[str]:
        return list(self._call("GET", "state")["tiers"])

    def make(self, name: str, *, gateway: str, tier: str) -> Segment:
        body = {"display_name": name, "connectivity_path": tier, "subnets": [{"gateway_address": gateway}]}
        path = f"/infra/segments/{re.sub('[^A-Za-z0-9_.-]+', '-', name)}"
        return _segment(self._call("POST", "segment/put", {"path": path, **body, "connectivity": "OFF"}))

    def connect(self, path: str, *, on: bool) -> None:
        order = {"path": path, "connectivity": "ON" if on else "OFF", "at_once": False}
        self._call("POST", "segment/put", order)

    def extend(self, path: str, *, extended: bool) -> None:
        self._call("POST", "segment/put", {"path": path, "extended": extended})

    def add_port(self, path: str, vm: str) -> None:
        self._call("POST", "port/add", {"segment": path, "name": vm})

    def remove_ports(self, path: str, vm: str) -> None:
        for each in self._call("GET", f"ports?{urlencode({'segment': path})}"):
            if each["display_name"] == vm:
                self._call("POST", "port/remove", {"segment": path, "id": each["id"]})


def _segment(found: Mapping[str, Any]) -> Segment:
    return Segment(
        found["path"],
        found["display_name"],
        tuple(each["gateway_address"] for each in found["subnets"]),
        found.get("connectivity_path") or "",
        found["advanced_config"]["connectivity"] == "ON",
    )
