"""Every card of a vCenter that is on a network.

A card names its network by its backing: a port group by its key, a segment of NSX by the id of its logical switch, a
standard network by its object. A network's own list of VMs is not asked: a vCenter need not know it of a VM that is off
or whose host is away.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.cards import backing_id, connection_of, ethernet, standard_name
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.inventory import LIGHT, VmSummary, folder_paths, path_below, summary_of, untold
from wavelift.adapters.vsphere.privileges import reads_all
from wavelift.adapters.vsphere.properties import PAGE, Values, all_refs, collect
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.placement import CardOnNetwork, NetworkUse, SiteNetwork, UnreadVm
from wavelift.base.printable import printable

HARDWARE: Final = "config.hardware.device"


def hardware_pages(session: VsphereSession, paths: Sequence[str]) -> Iterator[dict[str, Values]]:
    """Every VM that the account sees, with these properties: moref → values, page by page. Devices of many VMs are
    large: no more than one page is in memory. A VM that is made meanwhile is not among them."""
    refs = all_refs(session, vim.VirtualMachine)
    for start in range(0, len(refs), PAGE):
        yield collect(session, vim.VirtualMachine, refs[start : start + PAGE], paths)


def cards_on(session: VsphereSession, network: SiteNetwork) -> NetworkUse:
    """All cards on a network of all VMs, of templates and of what is off, in one pass over the vCenter: for N VMs
    ceil(N / 500) calls, and some ten more.

    :param network: as :meth:`~wavelift.adapters.vsphere.places.Places.network` gave it.
    """
    whole = reads_all(session)
    folders = folder_paths(session)
    cards: list[CardOnNetwork] = []
    unread: list[UnreadVm] = []
    for page in hardware_pages(session, (HARDWARE, *LIGHT)):
        for ref, values in page.items():
            vm = summary_of(ref, values, path_below(folders, values))
            if HARDWARE in values:
                cards += [_card(vm, card) for card in ethernet(values[HARDWARE]) if _is_on(card, network)]
            else:
                unread.append(UnreadVm(vm=ref, path=vm.path, why=untold(vm).what))
    return NetworkUse(
        network=network,
        cards=tuple(sorted(cards, key=lambda card: (card.path, card.vm, card.key))),
        unread=tuple(sorted(unread, key=lambda vm: (vm.path, vm.vm))),
        whole=whole,
    )


def _is_on(card: Any, network: SiteNetwork) -> bool:
    if found := backing_id(card):
        return found in network.ids
    if ref := moref(getattr(card.backing, "network", None)):
        return ref in network.ids
    # As of a VM whose host lacks the network: only its name is left.
    return network.kind == "Network" and standard_name(card) == network.name


def _card(vm: VmSummary, card: Any) -> CardOnNetwork:
    start, connected, _ = connection_of(card)
    return CardOnNetwork(
        vm=vm.moref,
        name=vm.name,
        path=vm.path,
        power=vm.power,
        template=vm.template,
        instance_uuid=vm.instance_uuid,
        key=int(card.key),
        label=printable((card.deviceInfo.label if card.deviceInfo else "") or f"card {card.key}", TEXT_LONGEST),
        mac=printable(card.macAddress or "", TEXT_LONGEST).lower(),
        connected=connected,
        start_connected=start,
    )
