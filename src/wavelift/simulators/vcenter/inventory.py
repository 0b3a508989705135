"""The inventory of a simulated vCenter: typed input, written as JSON for the Go program. Sizes are bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

Controller = Literal["pvscsi", "lsi", "lsilogic", "lsisas", "sata", "ide", "nvme"]
NetworkKind = Literal["standard", "distributed", "nsx", "opaque"]
"""An NSX segment is a distributed port group of kind nsx on a newer switch, and an opaque network on an older one."""
Certificate = Literal["ca", "self_signed", "expired", "wrong_name"]


@dataclass(frozen=True)
class SimDisk:
    """One virtual disk. `raw` is never written: guests' writes go into layers of the simulator."""

    raw: Path | None = None
    capacity: int = 0
    """0: the size of `raw`. A multiple of 512 bytes. vCenter also reports it in KiB, rounded down."""
    controller: Controller = "pvscsi"
    bus: int = 0
    unit: int = 0
    mode: Literal["persistent", "independent_persistent", "independent_nonpersistent"] = "persistent"
    rdm: Literal["", "virtual", "physical"] = ""
    sharing: Literal["", "sharingNone", "sharingMultiWriter"] = ""
    bus_sharing: Literal["", "noSharing", "virtualSharing", "physicalSharing"] = ""
    encrypted: bool = False
    thick: bool = False


@dataclass(frozen=True)
class SimNic:
    """One network card. Its addresses are held while the VM runs and the card is connected, with Tools or without."""

    ips: Sequence[str] = ()
    network: str = "VM Network"
    network_kind: NetworkKind = "standard"
    """Of its network, which the first card that names it makes."""
    kind: Literal["vmxnet3", "vmxnet2", "e1000", "e1000e", "pcnet32"] = "vmxnet3"
    start_connected: bool = True
    connected: bool | None = None
    """Of a VM that runs from the start; None: as `start_connected`."""
    allow_guest_control: bool = True
    mac: str = ""


@dataclass(frozen=True)
class SimShutdown:
    """What the guest does when VMware Tools ask it to shut down. `reboot`: off, and by itself on again. Seconds; 0 is
    the option `task_seconds`."""

    how: Literal["off", "ignore", "reboot"] = "off"
    after: float = 0.0
    back: float = 0.0


@dataclass(frozen=True)
class SimVm:
    """One virtual machine. Two may have the same name in different folders.

    `name` is as people write it; vSphere stores ``/``, ``\\`` and ``%`` as escapes. `folder` is as vSphere stores it.
    """

    name: str
    disks: Sequence[SimDisk] = ()
    folder: str = ""
    """Below the datacenter's vm folder, as "prod/web"."""
    guest_id: str = "otherLinux64Guest"
    guest_full_name: str = ""
    firmware: Literal["bios", "efi"] = "bios"
    secure_boot: bool = False
    power: Literal["poweredOn", "poweredOff", "suspended"] = "poweredOn"
    tools: Literal["running", "not_running", "not_installed"] = "running"
    ip: str = ""
    """Of its only card; for others, see `nics`."""
    nics: Sequence[SimNic] | None = None
    """None: one card that holds `ip`."""
    shutdown: SimShutdown = SimShutdown()
    host_name: str = ""
    file_systems: Sequence[tuple[str, str]] = ()
    """Mount point or drive letter, and type. () is as before vSphere 7, which reports no types."""
    host: str = ""
    """Name of a SimHost; "": spread over all."""
    datastore: str = ""
    cpus: int = 2
    memory_mb: int = 2048
    hardware: str = "vmx-19"
    template: bool = False
    cdrom: str = ""
    """An ISO's datastore path: then the drive is connected."""
    snapshots: Sequence[str] = ()
    consolidation_needed: bool = False
    encrypted: bool = False
    change_tracking: bool = False
    annotation: str = ""
    ft: Literal["", "primary", "secondary"] = ""
    """One half of a fault-tolerant pair. Both halves have the same name."""
    managed_by: str = ""
    """Extension and type of a managed VM: "com.vmware.vim.eam/cluster-agent"."""
    product: str = ""
    """The product name of an appliance."""
    on_delta: bool = False
    """Its disks run on delta files, but its snapshot tree is empty and vCenter does not ask for consolidation."""
    uuid: str = ""
    """Of its BIOS; "": made from where it lies."""
    instance_uuid: str = ""
    pool: str = ""
    """A resource pool below the cluster's root pool, as "Compute/Web"."""
    inner_ips: Sequence[str] = ()
    """Addresses that VMware Tools report of interfaces inside the guest, such as docker0, which no card has."""
    tools_after: float = 0.0
    """Seconds from a start until VMware Tools report."""


@dataclass(frozen=True)
class SimHost:
    """One ESXi host with its own HTTPS server at `address` (a free port). Lease URLs point there."""

    name: str = "127.0.0.11"
    address: str = "127.0.0.11"
    version: str = "8.0.3"
    build: str = "24022510"
    certificate: Certificate = "ca"
    thumbprint: str = ""
    """If set, vCenter reports it instead of the true SHA-1."""
    connection: Literal["connected", "disconnected", "notResponding"] = "connected"


@dataclass(frozen=True)
class SimDatastore:
    name: str = "datastore1"
    type: Literal["VMFS5", "VMFS6", "NFS", "vsan"] = "VMFS6"
    capacity: int = 16 << 40
    free: int = 8 << 40


@dataclass(frozen=True)
class SimUser:
    """`privileges` None means all. `without` removes some.

    `no_access` are inventory paths ("/dc1/vm/secret", "/dc2") on which the user has the role *No access*, with
    propagation: they and what is below them can't be seen or used. `below` is the only path on which the user has a
    role at all, with propagation; "" is the root folder. What is above it can be walked through, and no more.
    """

    name: str
    password: str = field(repr=False)
    privileges: Sequence[str] | None = None
    without: Sequence[str] = ()
    no_access: Sequence[str] = ()
    below: str = ""


ADMIN = SimUser("administrator@vsphere.local", "simulator!1")
DEFAULT_HOSTS = (SimHost(), SimHost(name="127.0.0.12", address="127.0.0.12"))


class Options(TypedDict, total=False):
    """How the vCenter behaves. The defaults are the hard case for a client. Times are seconds, sizes bytes."""

    datacenter: str
    body: Literal["footer", "qemu"]
    lease_timeout: float
    lease_ready_after: float
    lease_host: Literal["esxi", "*", "vcenter"]
    lease_blocks_removal: bool
    lease_exclusive: bool
    clock_skew: float
    task_seconds: float
    session_timeout: float
    vmfs_lock: bool
    evidence: bool
    changed_area_window: int
    tracking_with_snapshots: Literal["refuse", "accept"]
    certificate: Certificate
    extra_vms: int
    api_version: str
    cache_bodies: bool
    instance_uuid: str


def to_plain(vm: SimVm) -> dict[str, Any]:
    """As JSON has it."""
    plain: dict[str, Any] = json.loads(json.dumps(asdict(vm), default=str))
    return plain


def to_json(
    vms: Sequence[SimVm],
    *,
    hosts: Sequence[SimHost] = DEFAULT_HOSTS,
    datastores: Sequence[SimDatastore] = (SimDatastore(),),
    users: Sequence[SimUser] = (ADMIN,),
    options: Options | None = None,
) -> str:
    """The text of the inventory file. The readiness line names the first user."""
    return json.dumps(
        {
            "options": options or {},
            "users": [asdict(u) for u in users],
            "hosts": [asdict(h) for h in hosts],
            "datastores": [asdict(d) for d in datastores],
            "vms": [asdict(v) for v in vms],
        },
        default=str,
        indent=1,
    )
