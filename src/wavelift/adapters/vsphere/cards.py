"""A VM's network cards in our words."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.devices import class_name
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.properties import all_refs, collect
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import NicFacts
from wavelift.base.errors import MissingPrivilegeError, NotFoundError
from wavelift.base.printable import printable
from wavelift.rules.wave import decode_name

log = logging.getLogger(__name__)

_CARD: Final = vim.vm.device.VirtualEthernetCard


def ethernet(devices: Sequence[Any]) -> list[Any]:
    """The Ethernet cards among ``devices``, as vSphere tells them, by key."""
    return sorted((device for device in devices if isinstance(device, _CARD)), key=lambda device: int(device.key))


Names = Mapping[str, tuple[str, str]]
"""Key of a port group, or id of a segment's logical switch → the network's managed object id, and its name."""


def backing_id(card: Any) -> str:
    """By what the card names its network, unless that is a standard one: the key of a distributed port group, which is
    nearly always its managed object id, or the id of NSX's logical switch. Else empty."""
    port = getattr(card.backing, "port", None)
    found = getattr(port, "portgroupKey", None) or getattr(card.backing, "opaqueNetworkId", None)
    return printable(found or "", TEXT_LONGEST)


def network_names(session: VsphereSession, devices: Sequence[Any]) -> Names:
    """The distributed port groups and NSX segments that ``devices`` are on, mostly in one call. What we may not read
    has no name."""
    cards = ethernet(devices)
    opaque = {backing_id(card) for card in cards if isinstance(card.backing, _CARD.OpaqueNetworkBackingInfo)} - {""}
    keys = {backing_id(card) for card in cards} - opaque - {""}
    try:
        known = _by_moref(session, sorted(keys))
        if keys - known.keys():
            known |= _by_id(session, vim.dvs.DistributedVirtualPortgroup, "key")
        if opaque:
            known |= _by_id(session, vim.OpaqueNetwork, "summary")
    except (MissingPrivilegeError, NotFoundError) as error:
        log.info("the names of the networks stay unknown: %s", error)
        return {}
    return known


def _by_moref(session: VsphereSession, wanted: Sequence[str]) -> dict[str, tuple[str, str]]:
    found = collect(session, vim.dvs.DistributedVirtualPortgroup, wanted, ["name"])
    return {ref: (ref, decode_name(str(values["name"]))) for ref, values in found.items() if values.get("name")}


def _by_id(session: VsphereSession, kind: Any, path: str) -> dict[str, tuple[str, str]]:
    """All networks of one kind."""
    found = collect(session, kind, all_refs(session, kind), ["name", path])
    return {
        network_id(values[path]): (ref, decode_name(str(values["name"])))
        for ref, values in found.items()
        if path in values and "name" in values
    }


def network_id(told: Any) -> str:
    """A port group's key as it is, or the id in the summary of a segment."""
    return printable(getattr(told, "opaqueNetworkId", told) or "", TEXT_LONGEST)


def standard_name(card: Any) -> str:
    """Of the standard network that a card is on; else empty."""
    return decode_name(printable(getattr(card.backing, "deviceName", None) or "", TEXT_LONGEST))


def nics(devices: Sequence[Any], guest_net: Sequence[Any], names: Names) -> tuple[NicFacts, ...]:
    """The network cards among ``devices``, by key.

    :param guest_net: what VMware Tools report, ``guest.net``. :param names: as :func:`network_names` found them.
    """
    told: dict[int, list[str]] = {}
    for entry in guest_net:
        key = int(entry.deviceConfigId or 0)
        told.setdefault(key, []).extend(
            printable(address, TEXT_LONGEST) for address in entry.ipAddress or () if address
        )
    return tuple(_nic(card, told.get(int(card.key), ()), names) for card in ethernet(devices))


def _nic(card: Any, addresses: Sequence[str], names: Names) -> NicFacts:
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


def _network(card: Any, names: Names) -> tuple[str, str, str]:
    """Name, managed object id and kind of the card's network."""
    backing = card.backing
    key = backing_id(card)
    if isinstance(backing, _CARD.DistributedVirtualPortBackingInfo):
        ref, name = names.get(key, (key, key))
        return name, ref, "distributed"
    if isinstance(backing, _CARD.OpaqueNetworkBackingInfo):
        ref, name = names.get(key, ("", key))
        return name, ref, "opaque"
    name = standard_name(card)
    return name, moref(getattr(backing, "network", None)), "standard" if name else ""
