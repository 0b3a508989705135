"""Names of folders, resource pools, datastores and networks, and their managed object ids; for HCX, which takes ids.

A name that several have is an error that lists them: HCX would take any of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from pyVmomi import vim

from wavelift.adapters.vsphere.cards import network_id
from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.inventory import paths_of
from wavelift.adapters.vsphere.properties import Row, collect, traverse
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import AmbiguousError, NotFoundError
from wavelift.base.placement import Place, SiteNetwork
from wavelift.base.printable import printable
from wavelift.rules.inventory_names import select
from wavelift.rules.problem import did_you_mean
from wavelift.rules.wave import Selector, decode_name

_NAMED: Final = ("name", "parent")
_PORT_GROUP: Final = "DistributedVirtualPortgroup"
_OPAQUE: Final = "OpaqueNetwork"
NETWORK_KINDS: Final = ("Network", _PORT_GROUP, _OPAQUE)

P = TypeVar("P", bound=Place)


@dataclass(frozen=True, slots=True)
class Places:
    """What one vCenter has, as far as the account sees it."""

    folders: tuple[Place, ...]
    """Of VMs; also the data centre's own, which is called ``vm``."""
    pools: tuple[Place, ...]
    """Also a cluster's own, which is called ``Resources``. No vApps."""
    datastores: tuple[Place, ...]
    networks: tuple[SiteNetwork, ...]

    def folder(self, name: str) -> Place:
        """By name or inventory path. :raises NotFoundError: none. :raises AmbiguousError: several."""
        return _one("folder of VMs", name, self.folders)

    def pool(self, name: str) -> Place:
        """As :meth:`folder`."""
        return _one("resource pool", name, self.pools)

    def datastore(self, name: str) -> Place:
        """As :meth:`folder`."""
        return _one("datastore", name, self.datastores)

    def network(self, name: str) -> SiteNetwork:
        """As :meth:`folder`. The port groups of one segment of NSX on several switches are one network."""
        found = _fit(name, self.networks)
        segments = [set(network.ids) for network in found]
        if len(found) > 1 and set.intersection(*segments):
            ids = sorted(set().union(*segments))
            return found[0].model_copy(update={"ids": tuple(ids)})
        return _one("network", name, self.networks)


def _fit(name: str, places: Sequence[P]) -> list[P]:
    kind: Any = "path" if name.startswith("/") else "name"
    return select(Selector(kind=kind, value=name), places, lambda place: place.path)


def _one(what: str, name: str, places: Sequence[P]) -> P:
    found = _fit(name, places)
    if len(found) == 1:
        return found[0]
    if not found:
        near = did_you_mean(name, (place.path if name.startswith("/") else place.name for place in places))
        raise NotFoundError(
            f"vCenter has no {what} '{name}'{near}",
            next_step="Check the spelling (case counts) and that the vCenter account may see it",
            name=name,
        )
    choices = ", ".join(f"{place.path} ({place.moref})" for place in found)
    raise AmbiguousError(
        f"{len(found)} have the name '{name}' of a {what}: {choices}",
        next_step="Name it by its path; two of one path must be renamed in vCenter",
        name=name,
    )


def read_places(session: VsphereSession) -> Places:
    """In one traversal, and at most three calls about the networks."""
    rows = traverse(
        session,
        [
            (vim.Folder, (*_NAMED, "childType")),
            (vim.Datacenter, _NAMED),
            (vim.ComputeResource, _NAMED),
            (vim.ResourcePool, _NAMED),
            (vim.Datastore, _NAMED),
            (vim.Network, _NAMED),
        ],
        places=True,
    )
    root = moref(session.content.rootFolder)
    below = {row.moref: row for row in rows if row.moref != root}
    paths = paths_of(below.values())
    centres = _data_centres(below, paths)

    def of(kinds: Iterable[str]) -> list[Row]:
        found = [row for row in below.values() if row.kind in kinds and "name" in row.values]
        return sorted(found, key=lambda row: (paths[row.moref], row.moref))

    def fields(row: Row) -> dict[str, str]:
        centre, name = centres[row.moref]
        return {
            "moref": row.moref,
            "name": decode_name(str(row.values["name"])),
            "path": paths[row.moref],
            "data_centre": name,
            "data_centre_moref": centre,
        }

    networks = of(NETWORK_KINDS)
    ids = _network_ids(session, networks)
    return Places(
        folders=tuple(Place(**fields(row)) for row in of(["Folder"]) if _holds_vms(row)),
        pools=tuple(Place(**fields(row)) for row in of(["ResourcePool"])),
        datastores=tuple(Place(**fields(row)) for row in of(["Datastore"])),
        networks=tuple(SiteNetwork(**fields(row), kind=row.kind, ids=ids[row.moref]) for row in networks),
    )


def _holds_vms(row: Row) -> bool:
    return "VirtualMachine" in (row.values.get("childType") or ())


def _data_centres(rows: Mapping[str, Row], paths: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """moref → id and name of the data centre that it lies in; empty for what lies in none."""
    centres = {paths[ref]: (ref, decode_name(str(row.values["name"]))) for ref, row in rows.items() if _is_centre(row)}
    found: dict[str, tuple[str, str]] = {}
    for ref in rows:
        above = paths[ref].split("/")
        tops = ("/".join(above[:end]) for end in range(len(above), 1, -1))
        found[ref] = next((centres[top] for top in tops if top in centres), ("", ""))
    return found


def _is_centre(row: Row) -> bool:
    return row.kind == "Datacenter" and "name" in row.values


def _network_ids(session: VsphereSession, networks: Sequence[Row]) -> dict[str, tuple[str, ...]]:
    """moref → all by which cards name the network."""
    refs = {kind: [row.moref for row in networks if row.kind == kind] for kind in NETWORK_KINDS}
    keys = collect(session, vim.dvs.DistributedVirtualPortgroup, refs[_PORT_GROUP], ["key"])
    summaries = collect(session, vim.OpaqueNetwork, refs[_OPAQUE], ["summary"])
    names = [str(row.values["name"]) for row in networks]
    # A segment of NSX is a port group of one name on each switch. Configurations are large: only those that may be one.
    alike = [row.moref for row in networks if row.kind == _PORT_GROUP and names.count(str(row.values["name"])) > 1]
    configs = collect(session, vim.dvs.DistributedVirtualPortgroup, alike, ["config"])
    found: dict[str, tuple[str, ...]] = {}
    for row in networks:
        told = (
            network_id(keys.get(row.moref, {}).get("key")),
            network_id(summaries.get(row.moref, {}).get("summary")),
            _logical_switch(configs.get(row.moref, {}).get("config")),
        )
        found[row.moref] = tuple(dict.fromkeys(filter(None, (row.moref, *told))))
    return found


def _logical_switch(config: Any) -> str:
    return printable(getattr(config, "logicalSwitchUuid", None) or "", TEXT_LONGEST)
