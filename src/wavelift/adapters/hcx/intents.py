"""An order to migrate one VM → the JSON that HCX validates and starts (HCX-01). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.guesses import MigrationType
from wavelift.base.errors import SpecError

PlacementType = Literal["resourcePool", "folder", "dataCenter", "host", "cluster"]
Provision = Literal["thin", "thick", "sameAsSource"]

WITHOUT_WINDOW: Final = frozenset({"vmotion", "cold"})
"""Types that HCX cannot schedule (S13)."""
VM_TYPE: Final = "VirtualMachine"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One side of a migration: a site and its vCenter, as the inventory of HCX names them.

    :param resource_id: instance UUID of the vCenter. :param resource_name: its name.
    """

    endpoint_id: str
    endpoint_name: str
    resource_id: str
    resource_name: str = ""
    endpoint_type: str = "VC"
    resource_type: str = "VC"

    def json(self) -> dict[str, Any]:
        return {
            "endpointId": self.endpoint_id,
            "endpointName": self.endpoint_name,
            "endpointType": self.endpoint_type,
            "computeResourceId": self.resource_id,
            "resourceId": self.resource_id,
            "resourceName": self.resource_name,
            "resourceType": self.resource_type,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """The VM. ``summary`` is what HCX's inventory says of it, sent back unchanged."""

    id: str
    name: str
    summary: Mapping[str, Any] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A resource pool, folder, data centre, host or cluster at the destination."""

    id: str
    name: str
    type: PlacementType


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """:param type: ``datastore``, or ``storagepod`` for a cluster of datastores. :param policy: id of a policy."""

    id: str
    name: str
    type: Literal["datastore", "storagepod"] = "datastore"
    provision: Provision = "sameAsSource"
    policy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """:param type: ``DistributedVirtualPortgroup``, ``NsxtSegment``, ``OpaqueNetwork``, as HCX's inventory says it."""

    id: str
    name: str
    type: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CardMapping:
    """Where one network card goes, found by its MAC address."""

    mac: str
    source: Network
    destination: Network


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """When the switchover may begin and must have begun: epoch milliseconds, UTC."""

    start_ms: int
    end_ms: int

    def __post_init__(self) -> None:
        if not 0 < self.start_ms < self.end_ms:
            raise SpecError(f"the window of the switchover ends ({self.end_ms}) before it begins ({self.start_ms})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What HCX may change at the VM.

    :param force_power_off: when the guest does not shut down in time (bulk).
    :param seed_checkpoint: keep the copied disks after a failure or a cancellation (RAV, bulk).
    """

    retain_mac: bool = True
    force_power_off: bool = False
    remove_snapshots: bool = False
    remove_isos: bool = False
    upgrade_hardware: bool = False
    upgrade_tools: bool = False
    retain_tags: bool = False
    replicate_security_tags: bool = False
    update_custom_attributes: bool = False
    seed_checkpoint: bool = False

    def json(self) -> dict[str, Any]:
        return {
            "retainMac": self.retain_mac,
            "forcePowerOffVm": self.force_power_off,
            "removeISOs": self.remove_isos,
            "removeSnapshots": self.remove_snapshots,
            "upgradeHardware": self.upgrade_hardware,
            "upgradeVMTools": self.upgrade_tools,
            "retainTags": self.retain_tags,
            "replicateSecurityTags": self.replicate_security_tags,
            "updateCustomAttributes": self.update_custom_attributes,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrationOrder:
    """Everything that HCX needs to migrate one VM.

    :param placement: at least a resource pool, cluster or host.
    :param window: only for RAV and bulk. None: RAV and bulk switch over as soon as the disks are copied.
    :param mesh_id: service mesh. Empty: HCX chooses.
    :raises SpecError: a window for a type that HCX cannot schedule, or no place to compute.
    """

    type: MigrationType
    vm: Vm
    source: Endpoint
    destination: Endpoint
    placement: tuple[Place, ...]
    storage: Storage
    cards: tuple[CardMapping, ...]
    options: Options = Options()
    window: Window | None = None
    mesh_id: str = ""

    def __post_init__(self) -> None:
        if self.window is not None and self.type in WITHOUT_WINDOW:
            raise SpecError(
                f"HCX cannot schedule a migration of type {self.type}",
                server=self.vm.name,
                next_step="Leave the window out: it is waited for before the start",
            )
        if all(place.type in ("folder", "dataCenter") for place in self.placement):
            raise SpecError(
                "the order names no place to compute",
                server=self.vm.name,
                next_step="Name a resource pool, a cluster or a host of the destination",
            )


def intent(order: MigrationOrder) -> dict[str, Any]:
    """One item for :meth:`~wavelift.adapters.hcx.mobility.Mobility.validate` and ``make_group``."""
    words = guesses.TYPES[order.type].value
    entity = {"entityId": order.vm.id, "entityName": order.vm.name, "entityType": VM_TYPE}
    item = {
        "migrationType": words.migration,
        "entity": {**entity, "summary": dict(order.vm.summary)},
        "source": order.source.json(),
        "destination": order.destination.json(),
        "transferParams": _transfer(order, words.transfer),
        "switchoverParams": {
            "switchoverType": words.switchover,
            **_schedule(order),
            "options": order.options.json(),
            "switchoverProfile": [],
        },
        "placement": [{"id": place.id, "name": place.name, "type": place.type} for place in order.placement],
        "storage": {"defaultStorage": _storage(order.storage)},
        "networkParams": {"networkMappings": [_mapping(card) for card in order.cards]},
    }
    return {**item, "servicemeshId": order.mesh_id} if order.mesh_id else item


def _schedule(order: MigrationOrder) -> dict[str, Any]:
    """The same window in both places (S7). A type that cannot be scheduled gets no field at all."""
    if order.type in WITHOUT_WINDOW:
        return {}
    window = order.window
    return {
        "schedule": {"startTime": window.start_ms if window else 0, "expiryTime": window.end_ms if window else 0},
    }


def _transfer(order: MigrationOrder, transfer: str) -> dict[str, Any]:
    options = order.options
    profile = (
        (guesses.REMOVE_SNAPSHOTS.value, options.remove_snapshots),
        (guesses.REMOVE_ISOS.value, options.remove_isos),
    )
    copied = order.type not in WITHOUT_WINDOW
    return {
        "transferType": transfer,
        **_schedule(order),
        **({"continuousSync": False, "syncInterval": guesses.SYNC_INTERVAL.value} if copied else {}),
        "longRecovery": copied and options.seed_checkpoint,
        "transferProfile": [{"option": name, "value": value} for name, value in profile],
    }


def _storage(storage: Storage) -> dict[str, Any]:
    found: dict[str, Any] = {
        "id": storage.id,
        "name": storage.name,
        "type": storage.type,
        "diskProvisionType": storage.provision,
    }
    if storage.policy:
        found["storageParams"] = [{"option": "StorageProfile", "value": storage.policy}]
    return found


def _mapping(card: CardMapping) -> dict[str, str]:
    return {
        "macAddress": card.mac,
        "srcNetworkId": card.source.id,
        "srcNetworkName": card.source.name,
        "srcNetworkType": card.source.type,
        "destNetworkId": card.destination.id,
        "destNetworkName": card.destination.name,
        "destNetworkType": card.destination.type,
    }
