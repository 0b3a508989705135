"""What both vCenters say of a server that HCX has moved: verified, not assumed (HCX-05)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final, Literal

from wavelift.adapters.vsphere import inventory, placement, privileges
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import NicFacts
from wavelift.base.placement import Match, PlacedVm, Wanted
from wavelift.base.run import RunContext
from wavelift.rules.problem import quoted
from wavelift.services.dataplane.live_messages import CardMove, FoundThere, LiveTask, VerifyOrder

WAIT: Final = timedelta(minutes=15)
"""For what comes a while after HCX said complete: addresses of a guest that starts, a VM in vCenter's inventory."""
BEGAN_KEY: Final = "verify_began"
ON: Final = "poweredOn"
OFF: Final = "poweredOff"
HOSTS_IN_IPV6: Final = 64
"""Bits of a prefix in which a guest makes up addresses by itself, and changes them."""

Side = Literal["destination", "source"]


def kept_addresses(nics: Iterable[NicFacts]) -> tuple[str, ...]:
    """Addresses of cards that a migration must keep: not those that a card gives itself on its link."""
    found = {address for nic in nics for address in nic.addresses if not _link_local(address)}
    return tuple(sorted(found))


def _link_local(address: str) -> bool:
    try:
        return ip_address(address).is_link_local
    except ValueError:
        return True


@dataclass(slots=True)
class _Seen:
    """What was compared."""

    verified: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    unverified: list[str] = field(default_factory=list)
    uuid: str = ""
    may_come: bool = False
    """A later look may see it: nothing else is wrong."""

    def check(self, fits: bool, right: str, wrong: str) -> None:
        (self.verified if fits else self.wrong).append(right if fits else wrong)


def at_destination(order: VerifyOrder, *, session: VsphereSession, ctx: RunContext) -> FoundThere | None:
    """One VM is there, in its place, on its networks, as it was, with its MAC and IP addresses. None: look again later.

    What may come by itself is waited for, :data:`WAIT` from the first look on.
    """
    seen, task = _Seen(), order.task
    matches = _matches(session, task)
    vm = _the_one(task, matches, seen)
    if vm is not None:
        seen.uuid = vm.instance_uuid
        _place(task, vm, inventory.folder_paths(session), seen)
        _cards(task, vm, seen)
        steady = not seen.wrong
        _power(task, vm, seen)
        _addresses(task, vm, seen)
        seen.may_come = steady and bool(seen.wrong or seen.unverified) and task.before.powered_on
        if not task.before.tools_running and not seen.wrong:
            seen.may_come = False  # nobody ever told its addresses
    return _judged(order, "destination", seen, ctx)


def at_source(order: VerifyOrder, *, session: VsphereSession, ctx: RunContext) -> FoundThere | None:
    """It is gone, or, of a bulk migration, renamed, off and without a connected card. None: look again later."""
    seen, task = _Seen(), order.task
    matches = _matches(session, task)
    known = {each.vm.moref: each.vm for each in matches if "instance_uuid" in each.by}
    # Of a VM that is inaccessible, vCenter tells neither instance UUID nor cards: it is there all the same.
    for vm in placement.placed(session, [task.before.moref], gone_ok=True):
        known.setdefault(vm.moref, vm)
    own = list(known.values())
    for vm in own:
        if task.type == "bulk":
            _left_behind(task, vm, seen)
        else:
            seen.wrong.append(f"it is still at the source: {quoted(vm.path)}, {vm.power}")
    for each in matches:
        if each.vm.moref not in known and "mac" in each.by:
            seen.wrong.append(f"{quoted(each.vm.path)} at the source has a MAC address of the server")
    if not own:
        all_seen = privileges.reads_all(session)
        blind = f"{session.user} does not read the whole vCenter of the source: the VM may still be there, unseen"
        seen.check(all_seen, "it is gone from the source", blind)
    seen.may_come = bool(seen.wrong) and bool(own)
    return _judged(order, "source", seen, ctx)


def _judged(order: VerifyOrder, side: Side, seen: _Seen, ctx: RunContext) -> FoundThere | None:
    now = ctx.clock.now()
    if seen.may_come and not _waited(ctx, now):
        return None
    ctx.checkpoints.delete(BEGAN_KEY)  # a clear begins anew
    return FoundThere(
        server=order.name,
        side=side,
        passed=not seen.wrong and (order.accept_no_tools or not seen.unverified),
        verified=tuple(seen.verified),
        wrong=tuple(seen.wrong),
        unverified=tuple(seen.unverified),
        instance_uuid=seen.uuid,
        at=now,
    )


def _waited(ctx: RunContext, now: datetime) -> bool:
    """Whether the time is over, counted from the first look of this task."""
    began = ctx.checkpoints.get(BEGAN_KEY)
    if began is None:
        ctx.checkpoints.set(BEGAN_KEY, now.isoformat())
        return False
    return now - datetime.fromisoformat(str(began)) >= WAIT


def _matches(session: VsphereSession, task: LiveTask) -> Sequence[Match]:
    before = task.before
    (found,) = placement.find_vms(
        session, [Wanted(name=task.entity_name, instance_uuid=before.instance_uuid, macs=before.macs)]
    )
    return found


# --- the destination ------------------------------------------------------------------------------------------------


def _the_one(task: LiveTask, matches: Sequence[Match], seen: _Seen) -> PlacedVm | None:
    """The VM that has arrived, if there is exactly one."""
    own = [each.vm for each in matches if "instance_uuid" in each.by]
    if not own and task.type == "bulk":  # it is a new VM, with an instance UUID of its own
        own = [each.vm for each in matches if "name" in each.by and (not _keeps_mac(task) or "mac" in each.by)]
    for each in matches:
        if each.vm not in own and "mac" in each.by:
            seen.wrong.append(f"{quoted(each.vm.path)} has a MAC address of the server, too")
    if len(own) > 1:
        paths = ", ".join(quoted(vm.path) for vm in own)
        seen.wrong.append(f"there are {len(own)} VMs that may be it: {paths}")
        return None
    if not own:
        seen.wrong.append("the destination's vCenter has no such VM")
        seen.may_come = len(seen.wrong) == 1
        return None
    vm = own[0]
    if vm.unread:
        seen.wrong.append(f"vCenter tells nothing of it: {vm.unread}")
        seen.may_come = len(seen.wrong) == 1
        return None
    seen.check(not vm.template, f"one VM, {quoted(vm.path)}", f"{quoted(vm.path)} is a template")
    return vm


def _keeps_mac(task: LiveTask) -> bool:
    """Only a bulk migration can give new ones."""
    return task.type != "bulk" or bool(task.options.get("retain_mac", True))


def _power(task: LiveTask, vm: PlacedVm, seen: _Seen) -> None:
    wanted = ON if task.before.powered_on else OFF
    seen.check(vm.power == wanted, f"it is {vm.power}", f"it is {vm.power}, and should be {wanted}")


def _place(task: LiveTask, vm: PlacedVm, folders: dict[str, str], seen: _Seen) -> None:
    for place in task.placement:
        if place.type == "folder":
            wanted = folders.get(place.id, f"{place.name} ({place.id})")
            seen.check(
                vm.folder == wanted,
                f"in the folder {quoted(wanted)}",
                f"in the folder {quoted(vm.folder)}, not {wanted}",
            )
        elif place.type == "resourcePool":
            found = vm.pool.moref if vm.pool is not None else ""
            name = vm.pool.name if vm.pool is not None else "no pool"
            seen.check(
                found == place.id, f"in the pool {quoted(place.name)}", f"in the pool {quoted(name)}, not {place.name}"
            )
    stores = {store.moref: store.name for store in vm.datastores}
    only = set(stores) == {task.storage.id}
    right = only or (task.storage.id in stores and bool(vm.isos))  # an image lies on a datastore of its own
    names = ", ".join(sorted(stores.values())) or "no datastore"
    seen.check(right, f"on the datastore {quoted(task.storage.name)}", f"on {names}, not only on {task.storage.name}")


def _cards(task: LiveTask, vm: PlacedVm, seen: _Seen) -> None:
    if not _keeps_mac(task):
        _new_cards(task, vm, seen)
        return
    before, now = sorted(task.before.macs), sorted(vm.macs)
    macs = ", ".join(before) or "no card"
    seen.check(before == now, f"MAC addresses: {macs}", f"its MAC addresses are {', '.join(now) or 'none'}, not {macs}")
    by_mac = {nic.mac: nic for nic in vm.nics}
    for card in task.cards:
        nic = by_mac.get(card.mac)
        if nic is None:
            continue
        wanted = card.destination
        seen.check(
            _on(nic, card),
            f"{card.mac} on {quoted(wanted.name)}",
            f"{card.mac} on {quoted(nic.network)}, not {wanted.name}",
        )
        if card.connected and vm.power == ON and not nic.connected:
            seen.wrong.append(f"{card.mac} is disconnected, and was not")


def _on(nic: NicFacts, card: CardMove) -> bool:
    return card.destination.id == nic.network_moref or card.destination.name == nic.network


def _new_cards(task: LiveTask, vm: PlacedVm, seen: _Seen) -> None:
    """Nothing ties new addresses to old ones: the networks are counted."""
    wanted = Counter(card.destination.name for card in task.cards)
    now = Counter(nic.network for nic in vm.nics)
    words = ", ".join(sorted(wanted.elements())) or "no network"
    there = ", ".join(sorted(now.elements())) or "none"
    seen.check(wanted == now, f"on {words}; new MAC addresses, as wanted", f"its networks are {there}, not {words}")


def _addresses(task: LiveTask, vm: PlacedVm, seen: _Seen) -> None:
    before = task.before
    if not before.powered_on:
        return  # a VM that is off has no address to lose
    if not before.tools_running:
        seen.unverified.append("its IP addresses: VMware Tools did not run in it before")
        return
    if not before.addresses:
        seen.verified.append("VMware Tools told no IP address before")
        return
    if not vm.tools_running:
        seen.unverified.append("its IP addresses: VMware Tools don't run in it")
        return
    now = kept_addresses(vm.nics)
    lost = [address for address in before.addresses if not _kept(address, now)]
    told = ", ".join(before.addresses)
    seen.check(not lost, f"IP addresses: {told}", f"its IP addresses are {', '.join(now) or 'none'}, not {told}")


def _kept(address: str, now: Sequence[str]) -> bool:
    """Whether it is there; or, of IPv6, another one of the same network: guests change them by themselves."""
    if address in now:
        return True
    old = ip_address(address)
    if not isinstance(old, IPv6Address):
        return False
    network = IPv6Network((old, HOSTS_IN_IPV6), strict=False)
    return any(isinstance(new := ip_address(each), IPv6Address) and new in network for each in now)


# --- the source -----------------------------------------------------------------------------------------------------


def _left_behind(task: LiveTask, vm: PlacedVm, seen: _Seen) -> None:
    """What a bulk migration leaves must not come back as a second one."""
    if vm.unread:
        seen.wrong.append(f"the source is still there, and vCenter tells nothing of it: {vm.unread}")
        return
    path, name = quoted(vm.path), quoted(task.entity_name)
    seen.check(vm.name != task.entity_name, f"the source is renamed: {path}", f"the source is still called {name}")
    seen.check(vm.power == OFF, "the source is off", f"the source {path} is {vm.power}")
    cards = [nic.label for nic in vm.nics if nic.connected or nic.start_connected]
    seen.check(
        not cards, "no card of the source is connected", f"cards of the source are connected: {', '.join(cards)}"
    )
