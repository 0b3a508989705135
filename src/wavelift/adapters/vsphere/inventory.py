"""Finding servers, and all their facts, in a bounded number of calls.

Light properties of every VM come by one traversal in pages of 500; devices only for the chosen ones: for N VMs at
most ceil(N / 500) + 10 calls.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.cards import Names, network_names, nics
from wavelift.adapters.vsphere.devices import LARGEST, disks, others
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.properties import Row, Values, collect, snapshot_nodes, traverse
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tagging import vm_tags
from wavelift.base.domain import DiskFacts, FileSystem, ServerFacts
from wavelift.base.errors import AmbiguousError, LoginError, MissingPrivilegeError, NotFoundError, WaveliftError
from wavelift.base.printable import printable
from wavelift.rules.inventory_names import select
from wavelift.rules.wave import Selector, decode_name

OWNER: Final = (
    "summary.config.annotation",
    "summary.config.ftInfo",
    "summary.config.guestId",
    "summary.config.managedBy",
    "summary.config.product",
)
"""What :func:`managed_by` and :func:`is_secondary` look at."""

LIGHT: Final = (
    "name",
    "parent",
    "parentVApp",
    *OWNER,
    "summary.config.template",
    "summary.config.instanceUuid",
    "runtime.powerState",
    "runtime.connectionState",
)

_FACTS: Final = (
    "capability.changeTrackingSupported",
    "config.bootOptions",
    "config.changeTrackingEnabled",
    "config.firmware",
    "config.ftInfo",
    "config.guestFullName",
    "config.guestId",
    "config.hardware.device",
    "config.hardware.memoryMB",
    "config.hardware.numCPU",
    "config.instanceUuid",
    "config.keyId",
    "config.template",
    "config.uuid",
    "config.version",
    "guest.disk",
    "guest.ipAddress",
    "guest.net",
    "guest.toolsRunningStatus",
    "guest.toolsStatus",
    "layoutEx",
    "runtime.consolidationNeeded",
    "runtime.host",
    "runtime.powerState",
    "snapshot.rootSnapshotList",
)

_VAPP: Final = ("name", "parentFolder", "parentVApp")
_PARENTS: Final[dict[Any, tuple[str, ...]]] = {vim.VirtualApp: _VAPP}

_VCLS: Final = "vSphere Cluster Service"
"""How the notes of vCLS agents begin; those of newer releases are crx guests, most are managed by EAM."""

_VCENTER: Final = "vCenter"
"""In the product name of the vCenter appliance, which no extension manages."""

DEEPEST: Final = 200
"""Folders above a VM. An answer whose folders are each other's parents has no end."""

_NEAR: Final = 3
"""Names offered when one is not found."""


@dataclass(frozen=True, slots=True)
class VmSummary:
    """One VM as a list shows it."""

    moref: str
    name: str
    path: str
    instance_uuid: str
    power: str
    template: bool
    connection_state: str
    """``connected``, or ``disconnected``, ``orphaned``, ``inaccessible``, ``invalid``: then there are no more facts."""
    managed_by: str = ""
    """Whose the VM is, where it is no customer's server: vSphere's own agents, appliances."""

    @property
    def why_not(self) -> str:
        """Why a folder or tag does not mean it; who names it by name or path gets it, with a finding."""
        return "a template" if self.template else self.managed_by


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A VM that a folder or tag holds and that is no server."""

    path: str
    why: str


@dataclass(frozen=True, slots=True)
class Resolution:
    """What one selector came to: servers, or an error; for a folder or tag perhaps both."""

    selector: Selector
    servers: tuple[ServerFacts, ...] = ()
    errors: tuple[WaveliftError, ...] = ()
    left_out: tuple[LeftOut, ...] = ()


def _parent(values: Values) -> Any:
    """A vApp hangs in a folder or another vApp (its ``parent`` is a resource pool), all else in its parent."""
    return values.get("parentFolder") or values.get("parentVApp") or values.get("parent")


def paths_of(rows: Iterable[Row]) -> dict[str, str]:
    """moref → inventory path, built from the parents that the same traversal brought. The root folder has no name."""
    rows = list(rows)
    parents = {row.moref: moref(_parent(row.values)) for row in rows}
    names = {row.moref: str(row.values.get("name", row.moref)) for row in rows}
    known: dict[str, str] = {}
    for row in rows:
        above: list[str] = []
        ref = row.moref
        while ref in names and ref not in known and len(above) < DEEPEST:
            above.append(ref)
            ref = parents.get(ref, "")
        for ref in reversed(above):
            known[ref] = f"{known.get(parents.get(ref, ''), '')}/{names[ref]}"
    return {row.moref: known[row.moref] for row in rows}


def folder_paths(session: VsphereSession) -> dict[str, str]:
    """moref → inventory path of everything that VMs hang in; in one call per 500 folders, without their VMs."""
    rows = traverse(
        session,
        [(vim.Folder, ("name", "parent")), (vim.Datacenter, ("name", "parent")), (vim.VirtualApp, _VAPP)],
    )
    root = moref(session.content.rootFolder)
    return paths_of(row for row in rows if row.moref != root)


def path_below(folders: Mapping[str, str], values: Values) -> str:
    """The inventory path of a VM whose light properties are ``values``; below nothing when its folder is not seen."""
    return f"{folders.get(moref(_parent(values)), '')}/{values.get('name', '')}"


def list_summaries(session: VsphereSession) -> list[VmSummary]:
    """Every VM that the account may see, by path; of a fault-tolerant pair the primary."""
    rows = traverse(
        session,
        [
            (vim.VirtualMachine, LIGHT),
            (vim.Folder, ("name", "parent")),
            (vim.Datacenter, ("name", "parent")),
            (vim.VirtualApp, _VAPP),
        ],
    )
    root = moref(session.content.rootFolder)
    paths = paths_of(row for row in rows if row.moref != root)
    unique = {row.moref: row for row in rows if row.kind == "VirtualMachine" and not is_secondary(row.values)}
    return sorted(
        (summary_of(row.moref, row.values, paths[row.moref]) for row in unique.values()),
        key=lambda vm: (vm.path, vm.moref),
    )


def summary_of(ref: str, values: Values, path: str) -> VmSummary:
    """Of the properties :data:`LIGHT`."""
    return VmSummary(
        moref=ref,
        name=decode_name(str(values.get("name", ""))),
        path=path,
        instance_uuid=_text(values, "summary.config.instanceUuid"),
        power=_text(values, "runtime.powerState"),
        template=bool(values.get("summary.config.template")),
        connection_state=_text(values, "runtime.connectionState"),
        managed_by=managed_by(values),
    )


def is_secondary(values: Values) -> bool:
    """Whether the VM is the shadow half of a fault-tolerant pair: of one name, one path and one BIOS UUID with its
    primary, and nobody's to touch. Roles count from 1, the primary's."""
    return int(getattr(values.get("summary.config.ftInfo"), "role", None) or 0) > 1


def managed_by(values: Values) -> str:
    """Whose the VM is when it is no customer's server; empty when nothing says so."""
    owner = values.get("summary.config.managedBy")
    if owner is not None:
        return _plain(f"managed by {owner.extensionKey} ({owner.type})")
    if str(values.get("summary.config.guestId") or "").startswith("crx"):
        return "an agent that runs inside ESXi (crx)"
    if str(values.get("summary.config.annotation") or "").lstrip().startswith(_VCLS):
        return "an agent of vSphere Cluster Services"
    product = str(getattr(values.get("summary.config.product"), "name", None) or "")
    return _plain(f"an appliance of vSphere ({product})") if _VCENTER in product else ""


# --- choosing -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Chosen:
    """What one selector means."""

    vms: list[VmSummary]
    left_out: tuple[LeftOut, ...] = ()


def choose(summaries: Sequence[VmSummary], selector: Selector, tags: Mapping[str, Collection[str]]) -> Chosen:
    """The VMs that ``selector`` means; a folder means every VM below it, a tag every VM with it, without what is no
    server of anybody's.

    :param tags: VM's moref → its tags as ``category:tag``; only looked at for a tag.
    :raises NotFoundError: none. :raises AmbiguousError: several for a name or path; lists them.
    """
    if selector.kind == "tag":
        hits = [vm for vm in summaries if selector.value in tags.get(vm.moref, ())]
    else:
        hits = select(selector, summaries, lambda vm: vm.path)
    left_out = tuple(LeftOut(vm.path, vm.why_not) for vm in hits if vm.why_not) if selector.many else ()
    found = [vm for vm in hits if not (selector.many and vm.why_not)]
    if not found:
        others = f"; left out: {_listed(left_out)}" if left_out else _near(summaries, selector)
        raise NotFoundError(
            f"no VM fits {selector.kind} '{selector.value}'{others}",
            next_step="Check the spelling (case counts) and that the vCenter account may see the VM",
            server=selector.value,
        )
    if len(found) > 1 and not selector.many:
        places = ", ".join(f"{vm.path} ({vm.moref})" for vm in found)
        raise AmbiguousError(
            f"{len(found)} VMs fit {selector.kind} '{selector.value}': {places}",
            next_step="Name the one that is meant by 'path:'; two VMs of one path must be renamed in vCenter",
            server=selector.value,
        )
    return Chosen(found, left_out)


def _listed(left_out: Sequence[LeftOut]) -> str:
    shown = [f"{each.path} ({each.why})" for each in left_out[:_NEAR]]
    return ", ".join(shown) + (f" and {len(left_out) - _NEAR} more" if len(left_out) > _NEAR else "")


def _near(summaries: Sequence[VmSummary], selector: Selector) -> str:
    leaf = decode_name(selector.value.rstrip("/").rsplit("/", 1)[-1]).casefold()
    near = [vm.path for vm in summaries if vm.name.casefold() == leaf][:_NEAR]
    return f"; near: {', '.join(near)}" if near else ""


def resolve(session: VsphereSession, selectors: Sequence[Selector]) -> list[Resolution]:
    """One outcome per selector, in their order: a bad selector stops only itself."""
    summaries = list_summaries(session)
    tags, untagged = _tags(session, selectors)
    chosen: list[Chosen] = []
    errors: list[tuple[WaveliftError, ...]] = []
    for selector in selectors:
        try:
            if selector.kind == "tag" and untagged is not None:
                raise untagged
            chosen.append(choose(summaries, selector, tags))
            errors.append(())
        except (NotFoundError, AmbiguousError, MissingPrivilegeError, LoginError) as error:
            chosen.append(Chosen([]))
            errors.append((error,))
    known = _facts_or_errors(session, [vm for each in chosen for vm in each.vms])
    resolutions: list[Resolution] = []
    for selector, each, refusals in zip(selectors, chosen, errors, strict=True):
        outcomes = [known[vm.moref] for vm in each.vms]
        resolutions.append(
            Resolution(
                selector=selector,
                servers=tuple(outcome for outcome in outcomes if isinstance(outcome, ServerFacts)),
                errors=refusals + tuple(outcome for outcome in outcomes if isinstance(outcome, WaveliftError)),
                left_out=each.left_out,
            )
        )
    return resolutions


def _tags(
    session: VsphereSession, selectors: Sequence[Selector]
) -> tuple[Mapping[str, Collection[str]], WaveliftError | None]:
    """The VMs' tags if a selector needs them, or why they can't be told."""
    if not any(selector.kind == "tag" for selector in selectors):
        return {}, None
    try:
        return vm_tags(session), None
    except (NotFoundError, MissingPrivilegeError, LoginError) as error:
        return {}, error


def facts(session: VsphereSession, morefs: Sequence[str]) -> list[ServerFacts]:
    """Facts of known VMs, in their order, without a look at the others: guards ask often.

    :raises WaveliftError: the first VM that is gone or tells nothing.
    """
    by_ref = summaries_of(session, morefs)
    missing = [ref for ref in morefs if ref not in by_ref]
    if missing:
        raise NotFoundError("vCenter no longer has this VM", next_step="Look at the inventory", object=missing[0])
    known = _facts_or_errors(session, [by_ref[ref] for ref in morefs])
    servers: list[ServerFacts] = []
    for ref in morefs:
        outcome = known[ref]
        if isinstance(outcome, WaveliftError):
            raise outcome
        servers.append(outcome)
    return servers


def path_of(session: VsphereSession, ref: str) -> str:
    """Where a VM stands in the inventory now. :raises NotFoundError: it is gone."""
    found = summaries_of(session, [ref])
    if ref not in found:
        raise NotFoundError("vCenter no longer has this VM", next_step="Look at the inventory", object=ref)
    return found[ref].path


def summaries_of(session: VsphereSession, morefs: Sequence[str]) -> dict[str, VmSummary]:
    """Like :func:`list_summaries`, but up from the VMs: one call per kind of parent and level of folders. VMs that are
    gone are absent."""
    found = collect(session, vim.VirtualMachine, morefs, LIGHT)
    rows = {ref: Row(ref, "VirtualMachine", values) for ref, values in found.items()}
    level = list(rows.values())
    while level:
        above = {parent._moId: type(parent) for row in level if (parent := _parent(row.values)) is not None}
        level = []
        for kind in set(above.values()):
            refs = [ref for ref, its in above.items() if its is kind and ref not in rows]
            values = collect(session, kind, refs, _PARENTS.get(kind, ("name", "parent")))
            level += [Row(ref, kind.__name__, its) for ref, its in values.items()]
        rows |= {row.moref: row for row in level}
    root = moref(session.content.rootFolder)
    paths = paths_of(row for row in rows.values() if row.moref != root)
    return {ref: summary_of(ref, rows[ref].values, paths[ref]) for ref in found}


# --- facts ----------------------------------------------------------------------------------------------------------


def _facts_or_errors(session: VsphereSession, vms: Sequence[VmSummary]) -> dict[str, ServerFacts | WaveliftError]:
    values = collect(session, vim.VirtualMachine, [vm.moref for vm in vms], _FACTS)
    host_refs = [moref(item.get("runtime.host")) for item in values.values() if item.get("runtime.host")]
    hosts = collect(session, vim.HostSystem, host_refs, ("name", "summary.config.product.version"))
    devices = [device for item in values.values() for device in item.get("config.hardware.device") or ()]
    networks = network_names(session, devices)
    known: dict[str, ServerFacts | WaveliftError] = {}
    for vm in vms:
        try:
            known[vm.moref] = _server(vm, values.get(vm.moref), hosts, networks)
        except WaveliftError as error:
            known[vm.moref] = error
    return known


def _server(vm: VmSummary, values: Values | None, hosts: dict[str, Values], networks: Names) -> ServerFacts:
    if values is None:
        raise NotFoundError("the VM vanished while it was being read", server=vm.name, object=vm.moref)
    if "config.hardware.device" not in values:
        raise untold(vm)
    devices = values["config.hardware.device"]
    hardware = others(devices)
    host_ref = moref(values.get("runtime.host"))
    host = hosts.get(host_ref, {})
    return ServerFacts(
        name=vm.name,
        moref=vm.moref,
        instance_uuid=_text(values, "config.instanceUuid") or vm.instance_uuid,
        bios_uuid=_text(values, "config.uuid"),
        path=vm.path,
        power=_text(values, "runtime.powerState"),
        guest_id=_text(values, "config.guestId"),
        guest_full_name=_text(values, "config.guestFullName"),
        firmware=_text(values, "config.firmware") or "bios",
        secure_boot=bool(getattr(values.get("config.bootOptions"), "efiSecureBootEnabled", None)),
        hardware_version=_text(values, "config.version"),
        tools_status=_text(values, "guest.toolsStatus"),
        tools_running=_text(values, "guest.toolsRunningStatus") == "guestToolsRunning",
        host=_text(host, "name"),
        host_moref=host_ref,
        host_version=_text(host, "summary.config.product.version"),
        cpus=int(values.get("config.hardware.numCPU") or 0),
        memory_mib=int(values.get("config.hardware.memoryMB") or 0),
        cbt_supported=bool(values.get("capability.changeTrackingSupported")),
        cbt_enabled=bool(values.get("config.changeTrackingEnabled")),
        consolidation_needed=bool(values.get("runtime.consolidationNeeded")),
        snapshots=tuple(_plain(node.name) for node in snapshot_nodes(values.get("snapshot.rootSnapshotList"))),
        encrypted=values.get("config.keyId") is not None,
        template=bool(values.get("config.template")),
        managed_by=vm.managed_by,
        fault_tolerant=values.get("config.ftInfo") is not None,
        ip_addresses=_addresses(values),
        file_systems=tuple(
            FileSystem(path=_plain(disk.diskPath or ""), kind=_plain(getattr(disk, "filesystemType", None) or ""))
            for disk in values.get("guest.disk") or ()
        ),
        cdrom_connected=hardware.cdrom_connected,
        nics=nics(devices, values.get("guest.net") or (), networks),
        passthrough_devices=hardware.passthrough_devices,
        vtpm=hardware.vtpm,
        disks=_with_allocation(
            disks(devices, values.get("config.bootOptions"), server=vm.name), values.get("layoutEx")
        ),
    )


def _with_allocation(found: Sequence[DiskFacts], layout: Any) -> tuple[DiskFacts, ...]:
    """Thin disks with the sizes of their files. Object stores such as vSAN show no extent: nothing is told then."""
    sizes = {file.key: int(file.size) for file in getattr(layout, "file", None) or () if str(file.type) == "diskExtent"}
    chains = {entry.key: entry.chain for entry in getattr(layout, "disk", None) or ()}
    allocated = {
        key: sum(sizes.get(file, 0) for unit in chain for file in unit.fileKey) for key, chain in chains.items()
    }
    return tuple(
        disk.model_copy(update={"allocated": min(max(allocated.get(disk.key, 0), 0), LARGEST) or None})
        if disk.thin
        else disk
        for disk in found
    )


def _plain(text: object) -> str:
    return printable(text, TEXT_LONGEST)


def _text(values: Values, path: str) -> str:
    value = values.get(path)
    return "" if value is None else _plain(value)  # a text of an enumeration too: pyvmomi takes any


def untold(vm: VmSummary) -> WaveliftError:
    """Why a VM that vCenter lists has no hardware."""
    if vm.connection_state not in ("", "connected"):
        return WaveliftError(
            f"vCenter tells nothing about the VM: it is {vm.connection_state}",
            next_step="Bring its host or datastore back, or remove the VM from the inventory",
            server=vm.name,
            object=vm.moref,
        )
    return MissingPrivilegeError(
        "the vCenter account may not read the VM's configuration",
        next_step="Give it System.Read on the VM ('wavelift vsphere role' prints the whole role)",
        privilege="System.Read",
        server=vm.name,
        object=vm.moref,
    )


def _addresses(values: Values) -> tuple[str, ...]:
    found = [values.get("guest.ipAddress")]
    found += [address for card in values.get("guest.net") or () for address in card.ipAddress or ()]
    return tuple(dict.fromkeys(_plain(address) for address in found if address))
