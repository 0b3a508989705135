"""Where virtual machines lie in a vCenter, and what is on a network there: as one site's worker read it."""

from __future__ import annotations

from wavelift.base.domain import Message, NicFacts


class Place(Message):
    """Something of a vCenter that has a name and an id: a folder, a resource pool, a datastore."""

    moref: str
    """Managed object id, ``resgroup-50``: HCX calls it ``id``."""
    name: str
    """As the vSphere client shows it."""
    path: str
    """Inventory path, as vSphere stores it: ``/dc1/host/cluster1/Resources/Web``."""
    data_centre: str = ""
    """Name of its data centre."""
    data_centre_moref: str = ""


class SiteNetwork(Place):
    """A network of a vCenter."""

    kind: str
    """vSphere's type: ``Network``, ``DistributedVirtualPortgroup`` or ``OpaqueNetwork``."""
    ids: tuple[str, ...]
    """All by which a card may name it: managed object ids, keys of port groups, ids of NSX's logical switch. A segment
    of NSX has a port group on each distributed switch that it spans: then there are several of a kind."""


class CardOnNetwork(Message):
    """A network card that is on a network, whatever its VM does."""

    vm: str
    """Managed object id."""
    name: str
    path: str
    power: str
    """``poweredOn``, ``poweredOff`` or ``suspended``."""
    template: bool
    instance_uuid: str = ""
    key: int
    label: str
    mac: str
    connected: bool
    start_connected: bool

    @property
    def on(self) -> bool:
        return self.power == "poweredOn"


class UnreadVm(Message):
    """A VM of which nobody knows what networks it is on."""

    vm: str
    path: str
    why: str


class NetworkUse(Message):
    """What is on a network of a vCenter."""

    network: SiteNetwork
    cards: tuple[CardOnNetwork, ...]
    """By path of the VM and key of the card."""
    unread: tuple[UnreadVm, ...] = ()
    """They may be on it, too."""
    whole: bool = True
    """Whether the account may read from the root folder on. Else VMs may be on it that the account does not see."""


class Wanted(Message):
    """A VM that is looked for. Empty: not by this."""

    name: str = ""
    """As people write it."""
    instance_uuid: str = ""
    macs: tuple[str, ...] = ()


class PlacedVm(Message):
    """A VM where it lies: everything that a live migration must find again, or must not find."""

    moref: str
    name: str
    path: str
    instance_uuid: str
    bios_uuid: str
    power: str
    """``poweredOn``, ``poweredOff`` or ``suspended``."""
    template: bool = False
    unread: str = ""
    """Why vCenter tells nothing more about it: it is inaccessible, or the account may not read it. Then all below is
    unknown, not empty."""
    hardware_version: str = ""
    """``vmx-19``."""
    tools_status: str = ""
    """vSphere's word, ``toolsOk``, ``toolsNotInstalled`` …"""
    tools_running: bool = False
    nics: tuple[NicFacts, ...] = ()
    snapshots: tuple[str, ...] = ()
    isos: tuple[str, ...] = ()
    """Datastore paths of ISO images in its drives, connected or not."""
    pool: Place | None = None
    """None of a template. Its path is not read."""
    datastores: tuple[Place, ...] = ()
    """Their paths are not read."""

    @property
    def folder(self) -> str:
        """Path of its folder."""
        return self.path.rpartition("/")[0]

    @property
    def macs(self) -> tuple[str, ...]:
        """In lower case, by key of the card."""
        return tuple(nic.mac for nic in self.nics)

    @property
    def addresses(self) -> dict[str, tuple[str, ...]] | None:
        """MAC → IPv4 and IPv6 addresses of each card, as VMware Tools report them; None while they do not run. They
        report none for a while after a start."""
        if not self.tools_running:
            return None
        return {nic.mac: tuple(sorted(nic.addresses)) for nic in self.nics}


class Match(Message):
    """A VM that may be the wanted one."""

    vm: PlacedVm
    by: tuple[str, ...]
    """What fits: of ``instance_uuid``, ``mac`` and ``name``."""
