"""The body of a migration: its form, whose errors are of the request, and its sense, whose errors are of the VM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wavelift.simulators.hcx.errors import Findings
from wavelift.simulators.hcx.sites import Inventory, Nic, Thing, View, Vm

RAV: Final = "RAV"
BULK: Final = "vSphereReplication"
VMOTION: Final = "vMotion"
COLD: Final = "ColdMigration"
TRANSFER: Final = {RAV: "vSphereReplication", BULK: "vSphereReplication", VMOTION: "NO_OP", COLD: "NO_OP"}
REPLICATED: Final = frozenset({RAV, BULK})
HARDWARE: Final = {RAV: 9, BULK: 7, VMOTION: 9, COLD: 9}
COMPUTE: Final = frozenset({"resourcePool", "cluster", "host"})
PROVISIONS: Final = frozenset({"thin", "thick", "sameAsSource"})

PROFILE_WORDS: Final = {
    "removeISOs": "removeISOs",
    "removeIso": "removeISOs",
    "removeSnapshots": "removeSnapshots",
    "removeSnapshot": "removeSnapshots",
}
"""Clients differ: both are understood."""


@dataclass(frozen=True, slots=True)
class Window:
    """Seconds since the epoch."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A checked intent. ``networks`` is where each card goes, by its MAC."""

    kind: str
    vm: Vm
    window: Window | None
    networks: Mapping[str, Thing]
    pool: str
    folder: str
    datastore: str
    mesh: str
    retain_mac: bool
    force_off: bool
    intent: Mapping[str, Any]

    @property
    def size(self) -> int:
        return sum(self.vm.disks)


@dataclass(frozen=True, slots=True)
class Ends:
    """Both sites as they are at one instant."""

    source: View
    destination: View
    mesh: str
    now: float


def options(intent: Mapping[str, Any]) -> dict[str, Any]:
    """The options, as given by name or in a profile."""
    found = dict(intent["switchoverParams"].get("options") or {})
    for params, name in (("transferParams", "transferProfile"), ("switchoverParams", "switchoverProfile")):
        for each in intent[params].get(name) or ():
            word = str(each.get("option", ""))
            found.setdefault(PROFILE_WORDS.get(word, word), each.get("value"))
    return found


def plan(intent: Mapping[str, Any], ends: Ends, findings: Findings) -> Plan | None:
    """What the intent means. Errors and warnings go into ``findings``; with an error there is no plan."""
    entity = intent["entity"]["entityId"]
    vm = next((each for each in ends.source.inventory.vms if each.id == entity), None)
    if vm is None:
        findings.error("entity", f"Entity {entity} does not exist in the inventory")
        return None
    kind = intent["migrationType"]
    _check_endpoints(intent, ends, findings)
    if not _check_kind(intent, findings):
        return None
    chosen = options(intent)
    _check_vm(vm, kind, chosen, findings)
    window = _window(intent, kind, ends.now, findings)
    pool, folder = _placement(intent.get("placement") or (), ends.destination.inventory, findings)
    store = (intent.get("storage") or {}).get("defaultStorage") or {}
    _check_storage(store, ends.destination.inventory, findings)
    networks = _networks(intent.get("networkParams") or {}, vm, ends, findings)
    mesh = intent.get("servicemeshId") or ends.mesh
    if mesh != ends.mesh:
        findings.error("mesh", f"Service mesh {mesh} does not exist")
    _check_name(vm, folder, ends.destination.inventory, findings)
    if findings.errors:
        return None
    return Plan(
        kind,
        vm,
        window,
        networks,
        pool,
        folder,
        store["id"],
        mesh,
        retain_mac=kind != BULK or chosen.get("retainMac") is True,
        force_off=chosen.get("forcePowerOffVm") is True,
        intent=intent,
    )


def _check_name(vm: Vm, folder: str, there: Inventory, findings: Findings) -> None:
    paths = {each.path for each in there.containers if each.kind == "folder" and each.id == folder}
    if any(f"{path}/{vm.name}" == each.path for path in paths for each in there.vms):
        findings.error("name", f"A virtual machine named {vm.name} exists in the destination folder")


def _check_endpoints(intent: Mapping[str, Any], ends: Ends, findings: Findings) -> None:
    for name, view in (("source", ends.source), ("destination", ends.destination)):
        given, found = intent[name], view.inventory
        if given.get("endpointId") != view.end.site.endpoint:
            findings.error("endpoint", f"The {name} endpoint {given.get('endpointId')} does not exist")
        if given.get("computeResourceId") != found.uuid or given.get("resourceId", found.uuid) != found.uuid:
            findings.error("endpoint", f"The {name} compute resource {given.get('computeResourceId')} does not exist")


def _check_kind(intent: Mapping[str, Any], findings: Findings) -> bool:
    kind = intent["migrationType"]
    transfer, switchover = (
        intent["transferParams"].get("transferType"),
        intent["switchoverParams"].get("switchoverType"),
    )
    if kind not in TRANSFER:
        findings.error("type", f"Migration type {kind} is not supported")
        return False
    if transfer != TRANSFER[kind] or switchover != kind:
        findings.error("type", f"Transfer type {transfer} and switchover type {switchover} do not fit {kind}")
        return False
    return True


def _check_vm(vm: Vm, kind: str, chosen: Mapping[str, Any], findings: Findings) -> None:
    if vm.template:
        findings.error("template", f"{vm.name} is a template")
    if vm.hardware < HARDWARE[kind]:
        findings.error("hardware", f"{vm.name} has hardware version {vm.hardware}, {kind} needs {HARDWARE[kind]}")
    if (kind == COLD) == vm.on:
        findings.error("power", f"{vm.name} is {vm.power}, which {kind} does not support")
    if kind == BULK and not vm.tools:
        findings.error("tools", f"VMware Tools do not run in {vm.name}")
    if vm.snapshots and kind == BULK:
        findings.warn("snapshots", f"The snapshots of {vm.name} will be removed")
    elif vm.snapshots and chosen.get("removeSnapshots") is not True:
        findings.error("snapshots", f"{vm.name} has snapshots")
    if vm.iso and chosen.get("removeISOs") is not True:
        findings.error("iso", f"{vm.name} has a mounted ISO")
    if kind == BULK and chosen.get("retainMac") is not True:
        findings.warn("network", f"{vm.name} will get new MAC addresses")


def _window(intent: Mapping[str, Any], kind: str, now: float, findings: Findings) -> Window | None:
    given = intent["switchoverParams"].get("schedule") or {}
    start, end = given.get("startTime") or 0, given.get("expiryTime") or 0
    if not start and not end:
        return None
    if kind not in REPLICATED:
        findings.error("schedule", f"{kind} can not be scheduled")
    elif not start or end <= start:
        findings.error("schedule", "The schedule needs a start, and an expiry after it")
    elif end / 1000 <= now:
        findings.error("schedule", "The schedule is in the past")
    return Window(start / 1000, end / 1000)


def _placement(given: Sequence[Mapping[str, Any]], there: Inventory, findings: Findings) -> tuple[str, str]:
    """Ids of the resource pool, which is empty for that of a host or cluster, and of the folder."""
    known = {(each.kind, each.id) for each in there.containers}
    found = {each.get("type"): str(each.get("id")) for each in given}
    for kind, ident in found.items():
        if (kind, ident) not in known:
            findings.error("placement", f"{kind} {ident} does not exist at the destination")
    if not COMPUTE & found.keys():
        findings.error("placement", "The placement has no compute container")
    return found.get("resourcePool", ""), found.get("folder", "")


def _check_storage(given: Mapping[str, Any], there: Inventory, findings: Findings) -> None:
    if (given.get("type"), given.get("id")) not in {("datastore", each.id) for each in there.datastores}:
        findings.error("storage", f"{given.get('type')} {given.get('id')} does not exist at the destination")
    if given.get("diskProvisionType") not in PROVISIONS:
        findings.error("storage", f"Disk provision type {given.get('diskProvisionType')} is unknown")


def _networks(given: Mapping[str, Any], vm: Vm, ends: Ends, findings: Findings) -> dict[str, Thing]:
    """Where each card goes, by its MAC: a mapping of the card before a mapping of its network."""
    known = {each.id: each for each in ends.destination.networks()}
    by_mac = {str(each.get("macAddress", "")).lower(): each for each in given.get("networkMappings") or ()}
    defaults = {each.get("srcNetworkId"): each for each in given.get("defaultMappings") or ()}
    for stray in by_mac.keys() - {nic.mac.lower() for nic in vm.nics}:
        findings.error("network", f"{vm.name} has no network adapter {stray}")
    _check_mappings([*by_mac.values(), *defaults.values()], known, ends.source, findings)
    found = {}
    for nic in vm.nics:
        ids = ends.source.ids(nic.network)
        mapping = by_mac.get(nic.mac.lower()) or next((defaults[each] for each in ids if each in defaults), None)
        if mapping is None:
            findings.error("network", f"Network {nic.network.name} of {vm.name} is not mapped")
        elif mapping.get("srcNetworkId") not in ids:
            findings.error("network", f"Adapter {nic.mac} is not on network {mapping.get('srcNetworkId')}")
        elif (target := known.get(mapping.get("destNetworkId", ""))) is not None:
            found[nic.mac] = target
    return found


def _check_mappings(
    mappings: Sequence[Mapping[str, Any]], known: Mapping[str, Thing], source: View, findings: Findings
) -> None:
    sources = {ident for each in source.inventory.networks for ident in source.ids(each)}
    for each in mappings:
        target = known.get(each.get("destNetworkId", ""))
        if target is None:
            findings.error("network", f"Network {each.get('destNetworkId')} does not exist at the destination")
        elif each.get("destNetworkType", target.kind) != target.kind:
            findings.error("network", f"Network {target.id} is no {each['destNetworkType']}")
        if each.get("srcNetworkId") not in sources:
            findings.error("network", f"Network {each.get('srcNetworkId')} does not exist at the source")


def moved_nics(plan: Plan, vm: Vm) -> list[Nic]:
    """The cards at the destination: of those that the VM has now, the ones that the plan knows."""
    return [
        Nic(nic.mac if plan.retain_mac else "", plan.networks[nic.mac], nic.ips, was=nic.mac)
        for nic in vm.nics
        if nic.mac in plan.networks
    ]
