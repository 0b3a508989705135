"""Finding VMs again by what they are, wherever they lie, with what a live migration must keep.

After a live migration a VM is in another vCenter, where its name, its instance UUID or its MAC addresses may be new;
and there may be two that look like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.cards import Names, ethernet, network_names, nics
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.inventory import VmSummary, list_summaries, summaries_of, untold
from wavelift.adapters.vsphere.networks import HARDWARE, hardware_pages
from wavelift.adapters.vsphere.properties import Values, collect, snapshot_nodes
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import NotFoundError
from wavelift.base.placement import Match, Place, PlacedVm, Wanted
from wavelift.base.printable import printable
from wavelift.rules.wave import decode_name

_PATHS: Final = (
    HARDWARE,
    "config.uuid",
    "config.version",
    "datastore",
    "guest.net",
    "guest.toolsRunningStatus",
    "guest.toolsStatus",
    "resourcePool",
    "snapshot.rootSnapshotList",
)


def find_vms(session: VsphereSession, wanted: Sequence[Wanted], *, by_mac: bool = True) -> list[tuple[Match, ...]]:
    """Per wanted VM all that fit by instance UUID, by name or by one of its MACs, by path; templates too.

    :param by_mac: look at the cards of all VMs, in one pass however many are wanted: for N VMs ceil(N / 500) calls with
        large answers. False finds by UUID and name only.
    """
    summaries = list_summaries(session)
    macs = _macs(session, {mac.lower() for one in wanted for mac in one.macs}) if by_mac else {}
    fits = [_fits(one, summaries, macs) for one in wanted]
    known = {vm.moref: vm for vm in placed(session, {ref for each in fits for ref in each}, gone_ok=True)}
    return [
        tuple(
            Match(vm=known[vm.moref], by=each[vm.moref]) for vm in summaries if vm.moref in each and vm.moref in known
        )
        for each in fits
    ]


def _fits(wanted: Wanted, summaries: Sequence[VmSummary], macs: Mapping[str, set[str]]) -> dict[str, tuple[str, ...]]:
    """moref → by what it fits."""
    own = {mac.lower() for mac in wanted.macs}
    found = {}
    for vm in summaries:
        by = {
            "instance_uuid": bool(wanted.instance_uuid) and vm.instance_uuid.lower() == wanted.instance_uuid.lower(),
            "mac": bool(own & macs.get(vm.moref, set())),
            "name": bool(wanted.name) and vm.name == wanted.name,
        }
        if any(by.values()):
            found[vm.moref] = tuple(name for name, fits in by.items() if fits)
    return found


def _macs(session: VsphereSession, wanted: set[str]) -> dict[str, set[str]]:
    """moref → which of these addresses its cards have."""
    found: dict[str, set[str]] = {}
    if not wanted:
        return found
    for page in hardware_pages(session, [HARDWARE]):
        for ref, values in page.items():
            held = {str(card.macAddress or "").lower() for card in ethernet(values.get(HARDWARE) or ())}
            if held & wanted:
                found[ref] = held & wanted
    return found


def placed(session: VsphereSession, morefs: Iterable[str], *, gone_ok: bool = False) -> list[PlacedVm]:
    """VMs whose ids are known, in their order.

    :param gone_ok: leave out those that are gone.
    :raises NotFoundError: one is gone.
    """
    refs = list(dict.fromkeys(morefs))
    summaries = summaries_of(session, refs)
    values = collect(session, vim.VirtualMachine, refs, _PATHS)
    gone = [ref for ref in refs if ref not in summaries or ref not in values]
    if gone and not gone_ok:
        raise NotFoundError("vCenter no longer has this VM", next_step="Look at the inventory", object=gone[0])
    there = {ref: values[ref] for ref in refs if ref not in gone}
    names = network_names(session, [device for each in there.values() for device in each.get(HARDWARE) or ()])
    places = _places(session, there.values())
    return [_vm(summaries[ref], each, names, places) for ref, each in there.items()]


def _places(session: VsphereSession, vms: Iterable[Values]) -> dict[str, Place]:
    """The pools and datastores that they are in."""
    objects = [one for values in vms for one in (values.get("resourcePool"), *(values.get("datastore") or ())) if one]
    found: dict[str, Place] = {}
    for kind in {type(one) for one in objects}:
        refs = [moref(one) for one in objects if type(one) is kind]
        for ref, values in collect(session, kind, refs, ["name"]).items():
            found[ref] = Place(moref=ref, name=decode_name(_text(values, "name")), path="")
    return found


def _vm(summary: VmSummary, values: Values, names: Names, places: Mapping[str, Place]) -> PlacedVm:
    devices = values.get(HARDWARE) or ()
    return PlacedVm(
        moref=summary.moref,
        name=summary.name,
        path=summary.path,
        instance_uuid=summary.instance_uuid,
        bios_uuid=_text(values, "config.uuid"),
        power=summary.power,
        template=summary.template,
        unread="" if HARDWARE in values else untold(summary).what,
        hardware_version=_text(values, "config.version"),
        tools_status=_text(values, "guest.toolsStatus"),
        tools_running=_text(values, "guest.toolsRunningStatus") == "guestToolsRunning",
        nics=nics(devices, values.get("guest.net") or (), names),
        snapshots=tuple(_plain(node.name) for node in snapshot_nodes(values.get("snapshot.rootSnapshotList"))),
        isos=tuple(_plain(iso) for device in devices if (iso := _iso(device))),
        pool=places.get(moref(values.get("resourcePool"))),
        datastores=tuple(places[ref] for one in values.get("datastore") or () if (ref := moref(one)) in places),
    )


def _iso(device: Any) -> str:
    """The datastore path of the image in a drive; empty without one."""
    backing = getattr(device, "backing", None)
    return str(backing.fileName or "") if isinstance(backing, vim.vm.device.VirtualCdrom.IsoBackingInfo) else ""


def _plain(text: object) -> str:
    return printable(text, TEXT_LONGEST)


def _text(values: Values, path: str) -> str:
    return _plain(values.get(path) or "")
