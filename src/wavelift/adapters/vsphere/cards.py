"""A VM's network cards in our words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.devices import class_name
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.properties import collect
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import NicFacts
from wavelift.base.errors import MissingPrivilegeError, NotFoundError
from wavelift.base.printable import printable

log = logging.getLogger(__name__)

_CARD: Final = vim.vm.device.VirtualEthernetCard


def ethernet(devices: Sequence[Any]) -> list[Any]:
    """The Ethernet cards among ``devices``, as vSphere tells them, by key."""
    return sorted((device for device in devices if isinstance(device, _CARD)), key=lambda device: int(device.key))


def _portgroup(card: Any) -> str:
    """The id of the distributed portgroup that the card is on; its key is its managed object id. Else empty."""
    port = getattr(card.backing, "port", None)
    return printable(getattr(port, "portgroupKey", None) or "", TEXT_LONGEST)


def portgroup_names(session: VsphereSession, devices: Sequence[Any]) -> dict[str, str]:
    """Names of the distributed portgroups that ``devices`` are on, in one call. What we may not read has no name."""
    wanted = sorted({key for card in ethernet(devices) if (key := _portgroup(card))})
    try:
        found = collect(session, vim.dvs.DistributedVirtualPortgroup, wanted, ["name"])
    except (MissingPrivilegeError, NotFoundError) as error:
        log.info("the names of the portgroups stay unknown: %s", error)
        return {}
    return {ref: str(values["name"]) for ref, values in found.items() if values.get("name")}


def nics(devices: Sequence[Any], guest_net: Sequence[Any], names: Mapping[str, str]) -> tuple[NicFacts, ...]:
    """The network cards among ``devices``, by key.

    :param guest_net: what VMware Tools report, ``guest.net``. :param names: as :func:`portgroup_names` found them.
    """
    told: dict[int, list[str]] = {}
    for entry in guest_net:
        key = int(entry.deviceConfigId or 0)
        told.setdefault(key, []).extend(
            printable(address, TEXT_LONGEST) for address in entry.ipAddress or () if address
        )
    return tuple(_nic(card, told.get(int(card.key), ()), names) for card in ethernet(devices))


def _nic(card: Any, addresses: Sequence[str], names: Mapping[str, str]) -> NicFacts:
    network, ref, kind = _network(card, names)
    start, connected, guest = connection_of(card)
    return NicFacts(
        key=card.key,
        label=printable((card.deviceInfo.label if card.deviceInfo else "") or f"card {card.key}", TEXT_LONGEST),
        kind=class_name(card).removeprefix("Virtual").lower(),
        mac=printable(card.macAddress or "", TEXT_LONGEST).lower(),
        network=network,
        network_moref=ref,
        network_kind=kind,
        start_connected=start,
        connected=connected,
        allow_guest_control=guest,
        addresses=tuple(dict.fromkeys(addresses)),
    )


def connection_of(card: Any) -> tuple[bool, bool, bool]:
    """As :attr:`NicFacts.connection`. A card without the setting is always connected."""
    at = card.connectable
    return (
        (True, True, False) if at is None else (bool(at.startConnected), bool(at.connected), bool(at.allowGuestControl))
    )


def _network(card: Any, names: Mapping[str, str]) -> tuple[str, str, str]:
    """Name, managed object id and kind of the card's network."""
    backing = card.backing
    if isinstance(backing, _CARD.DistributedVirtualPortBackingInfo):
        key = _portgroup(card)
        return names.get(key) or key, key, "distributed"
    if isinstance(backing, _CARD.OpaqueNetworkBackingInfo):
        return printable(backing.opaqueNetworkId or "", TEXT_LONGEST), "", "opaque"
    name = printable(getattr(backing, "deviceName", None) or "", TEXT_LONGEST)
    return name, moref(getattr(backing, "network", None)), "standard" if name else ""
