"""What the manager needs of a site: its vCenter, and its NSX if it has one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, Final, Protocol

SEGMENT: Final = "NsxtSegment"


class Trouble(Exception):
    """A vCenter or NSX refused an order, or did not answer."""


@dataclass(frozen=True, slots=True)
class Site:
    """One site, as :func:`.launcher.start` is told of it. ``vcenter`` and ``nsx`` are addresses of control
    endpoints."""

    vcenter: str
    token: str = field(repr=False)
    """Of the vCenter's control endpoint."""
    name: str
    """The endpoint's name."""
    endpoint: str
    """The endpoint's id."""
    vcenter_name: str = ""
    nsx: str = ""
    nsx_ca: str = ""


class RunningVcenter(Protocol):
    """A vCenter simulator."""

    control_url: str
    token: str
    host: str


class RunningNsx(Protocol):
    """An NSX simulator."""

    control_url: str
    ca_file: Path | None


def site(vcenter: RunningVcenter, nsx: RunningNsx | None = None, *, name: str) -> Site:
    """The site of these simulators. Its ids follow from its name."""
    return Site(
        vcenter=vcenter.control_url,
        token=vcenter.token,
        name=name,
        endpoint=f"20260101000000000-{name.lower()}",
        vcenter_name=vcenter.host,
        nsx=nsx.control_url if nsx else "",
        nsx_ca=str(nsx.ca_file or "") if nsx else "",
    )


@dataclass(frozen=True, slots=True)
class Thing:
    """Something in an inventory. ``kind`` is HCX's word for it."""

    id: str
    name: str
    kind: str
    segment: str = ""
    """Of a network of vCenter: the path of the NSX segment that it is."""
    path: str = ""
    """Of a folder: as it begins the paths of its VMs."""


@dataclass(frozen=True, slots=True)
class Nic:
    mac: str
    network: Thing
    ips: tuple[str, ...] = ()
    was: str = ""
    """MAC of the source's card, of a card that arrives."""


@dataclass(frozen=True, slots=True)
class Vm:
    """A virtual machine as its vCenter has it. Sizes are bytes."""

    id: str
    name: str
    power: str
    tools: bool
    """VMware Tools run."""
    hardware: int
    nics: tuple[Nic, ...]
    disks: tuple[int, ...]
    uuid: str = ""
    template: bool = False
    snapshots: int = 0
    iso: bool = False
    obeys: bool = True
    """The guest shuts down when it is asked to."""
    guest_id: str = ""
    guest_name: str = ""
    host_name: str = ""
    cpus: int = 1
    memory_mb: int = 1024
    path: str = ""
    """Of its folder and name."""
    order: Mapping[str, Any] = field(default_factory=dict)
    """What makes the same VM in another vCenter, in the words of the vCenter simulator."""

    @property
    def on(self) -> bool:
        return self.power == "poweredOn"


@dataclass(frozen=True, slots=True)
class Inventory:
    uuid: str
    """The vCenter's instance UUID."""
    vms: Sequence[Vm]
    networks: Sequence[Thing]
    """Kinds: DistributedVirtualPortgroup, Network, OpaqueNetwork."""
    containers: Sequence[Thing]
    """Kinds: resourcePool, folder, dataCenter, cluster, host."""
    datastores: Sequence[Thing]


@dataclass(frozen=True, slots=True)
class Segment:
    path: str
    name: str
    gateways: tuple[str, ...]
    """With prefix length, as ``10.1.2.1/24``."""
    tier: str
    on: bool

    @property
    def id(self) -> str:
        return self.path.rpartition("/")[2]

    def prefixes(self) -> list[str]:
        return [str(ip_interface(each).network) for each in self.gateways]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a VM arrives: ids of containers."""

    pool: str
    folder: str
    datastore: str
    same: bool
    """It is the same VM, with its UUIDs; else a copy with new ones."""


class Vcenter(Protocol):
    """Orders raise Trouble."""

    def inventory(self) -> Inventory: ...

    def vm(self, vm_id: str) -> Vm | None: ...

    def add_vm(self, vm: Vm, nics: Sequence[Nic], place: Place) -> str:
        """Make a VM like ``vm`` with these cards, off; its id. A card without MAC gets a new one."""

    def remove_vm(self, vm_id: str) -> None: ...

    def set_power(self, vm_id: str, power: str) -> None: ...

    def rename(self, vm_id: str, name: str) -> None: ...

    def remove_nics(self, vm_id: str) -> None: ...

    def add_segment(self, segment: Segment) -> None:
        """Make the network that a segment is, unless it is there."""


class Nsx(Protocol):
    """Orders raise Trouble."""

    def segments(self) -> list[Segment]: ...

    def tiers(self) -> list[str]:
        """Paths of the tier-1 gateways."""

    def make(self, name: str, *, gateway: str, tier: str) -> Segment:
        """A segment with its gateway OFF."""

    def connect(self, path: str, *, on: bool) -> None: ...

    def extend(self, path: str, *, extended: bool) -> None: ...

    def add_port(self, path: str, vm: str) -> None: ...

    def remove_ports(self, path: str, vm: str) -> None: ...


@dataclass(frozen=True, slots=True)
class End:
    """A site with its systems."""

    site: Site
    vcenter: Vcenter
    nsx: Nsx | None = None

    def look(self) -> View:
        return View(self, self.vcenter.inventory(), tuple(self.nsx.segments()) if self.nsx else ())


@dataclass(frozen=True, slots=True)
class View:
    """A site as it is at one instant. A segment and the network of its name in vCenter are the same."""

    end: End
    inventory: Inventory
    segments: Sequence[Segment]

    def networks(self) -> list[Thing]:
        """Of HCX's inventory: the segments by their path, and the other networks of vCenter."""
        own = [each for each in self.inventory.networks if self.of(each) is None]
        return [Thing(each.path, each.name, SEGMENT) for each in self.segments] + own

    def of(self, network: Thing) -> Segment | None:
        """The segment that a network is, by its path; on a vCenter that does not know it, by its name."""
        if network.kind == SEGMENT:
            return next((each for each in self.segments if each.path == network.id), None)
        paths = [each for each in self.segments if each.path == network.segment]
        return next(iter(paths or [each for each in self.segments if each.name == network.name]), None)

    def ids(self, network: Thing) -> list[str]:
        """Of a network of vCenter: its own, and the path of the segment that it is."""
        segment = self.of(network)
        return [network.id, *([segment.path] if segment else [])]
