"""What HCX and the destination's vCenter list of both sites, and how a wave's names become ids of it (HCX-01)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.extensions import Extension, Extensions
from wavelift.adapters.hcx.intents import Endpoint
from wavelift.adapters.hcx.inventory import Appliance, Inventory, InventoryVm, Item
from wavelift.adapters.vsphere import places
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import NicFacts
from wavelift.base.errors import AmbiguousError, NotFoundError
from wavelift.base.placement import Place
from wavelift.base.rest import RestClient
from wavelift.rules.findings import Findings
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.live_plans import Placement
from wavelift.rules.problem import allowed, did_you_mean, quoted
from wavelift.services.dataplane.live_messages import CardMove, PlaceRef, SiteRef

NOT_CLEAR: Final = "HCX would take any of them, or none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Both sites as HCX names them, and the service mesh between them."""

    source: Endpoint
    destination: Endpoint
    mesh_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Landed:
    """Where a server lands, with ids."""

    placement: tuple[PlaceRef, ...]
    storage: PlaceRef
    folder: Place


def site_ref(endpoint: Endpoint) -> SiteRef:
    return SiteRef(
        endpoint_id=endpoint.endpoint_id,
        endpoint_name=endpoint.endpoint_name,
        endpoint_type=endpoint.endpoint_type,
        resource_id=endpoint.resource_id,
        resource_name=endpoint.resource_name,
        resource_type=endpoint.resource_type,
    )


def find_pair(
    hcx: RestClient, environment: HcxEnvironment, *, source: str, destination: str, found: Findings
) -> Pair | None:
    """Both vCenters among those that HCX knows; None, and findings, if that is not clear.

    :param source: instance UUID of the source's vCenter. :param destination: of the destination's.
    """
    inventory = Inventory(hcx)
    here = _endpoint(inventory.endpoints(local=True), source, "source", environment.source.connection, found)
    there = _endpoint(
        inventory.endpoints(local=False), destination, "destination", environment.destination.connection, found
    )
    if here is None or there is None:
        return None
    mesh = _mesh(inventory.appliances(here.endpoint_id), environment.hcx.mesh, found)
    return None if mesh is None else Pair(source=here, destination=there, mesh_id=mesh)


def _endpoint(known: Sequence[Endpoint], uuid: str, side: str, connection: str, found: Findings) -> Endpoint | None:
    fits = [each for each in known if each.resource_id.lower() == uuid.lower()]
    if len(fits) == 1:
        return fits[0]
    names = allowed(f"{each.resource_name or each.resource_id} ({each.endpoint_name})" for each in known)
    found.error(
        "hcx.site",
        f"HCX has {'no' if not fits else 'more than one'} {side} site with the vCenter of the connection "
        f"{quoted(connection)} ({uuid})",
        why=f"the manager of the connection pairs other vCenters; {names}",
        do="Correct the connections of the environment, or pair the sites in HCX",
        row="HCX-01",
        part=f"{side} site",
    )
    return None


def _mesh(appliances: Sequence[Appliance], wanted: str | None, found: Findings) -> str | None:
    """The id; empty: HCX names none, and chooses itself."""
    named = {each.mesh_id: each.name for each in appliances if each.mesh_id}
    begins = guesses.MESH_IN_NAME.value.format(mesh=wanted)
    fits = [
        id
        for id in named
        if wanted in (None, id) or any(each.mesh_id == id and each.name.startswith(begins) for each in appliances)
    ]
    if len(fits) == 1 or (wanted is None and not fits):
        return fits[0] if fits else ""
    names = allowed(f"{name} ({id})" for id, name in named.items())
    found.error(
        "hcx.mesh",
        f"HCX has no service mesh {quoted(wanted)}"
        if wanted is not None and not fits
        else "the service mesh is not clear",
        why=f"known by the mesh's id, or by its appliances, whose names begin with the mesh's; {names}",
        do="Set 'hcx: mesh' in the environment's file to the name or the id of the mesh between the two sites",
        row="HCX-01",
        part="mesh",
    )
    return None


class Sites:
    """What HCX lists of a pair, and where a wave may land at its destination. Read once."""

    def __init__(self, hcx: RestClient, pair: Pair, destination: VsphereSession) -> None:
        inventory, there = Inventory(hcx), pair.destination.endpoint_id
        self.pair = pair
        self.vms: Mapping[str, InventoryVm] = {each.id: each for each in inventory.vms(pair.source.endpoint_id)}
        self._sources = inventory.networks(pair.source.endpoint_id)
        self._targets = inventory.networks(there)
        self._containers = {each.id for each in inventory.containers(there)}
        self._datastores = {each.id for each in inventory.datastores(there)}
        self._extensions = Extensions(hcx).list()
        self._places = places.read_places(destination)

    # --- places ---------------------------------------------------------------------------------------------------

    def land(self, target: Placement, found: Findings) -> Landed | None:
        """The places of a server; None, and findings, if one is unknown, or not clear."""
        pool = self._place("pool", target.pool, self._places.pool, self._containers, found)
        folder = self._place("folder", target.folder, self._places.folder, self._containers, found)
        store = self._place("datastore", target.datastore, self._places.datastore, self._datastores, found)
        if pool is None or folder is None or store is None:
            return None
        if len({each.data_centre_moref for each in (pool, folder, store)}) > 1:
            found.error(
                "hcx.data_centres",
                f"pool, folder and datastore lie in several data centres: {pool.path}, {folder.path}, {store.path}",
                why="a VM lies in one",
                do="Choose places of one data centre, by their paths if several have the same name",
                row="HCX-01",
            )
            return None
        placement = [
            PlaceRef(id=pool.moref, name=target.pool, type="resourcePool"),
            PlaceRef(id=folder.moref, name=target.folder, type="folder"),
        ]
        if folder.data_centre_moref in self._containers:
            placement.append(PlaceRef(id=folder.data_centre_moref, name=folder.data_centre, type="dataCenter"))
        storage = PlaceRef(id=store.moref, name=target.datastore, type="datastore")
        return Landed(placement=tuple(placement), storage=storage, folder=folder)

    def _place(
        self, field: str, name: str, find: Callable[[str], Place], listed: set[str], found: Findings
    ) -> Place | None:
        try:
            place = find(name)
        except (NotFoundError, AmbiguousError) as error:
            found.error(
                f"hcx.{field}",
                f"at the destination: {error.what}",
                why="HCX takes ids, and the name says which" if isinstance(error, NotFoundError) else NOT_CLEAR,
                do=error.next_step,
                row="HCX-01",
            )
            return None
        if place.moref in listed:
            return place
        found.error(
            f"hcx.{field}",
            f"HCX does not list the {field} {quoted(place.path)} ({place.moref}) of the destination",
            why="it can't place a VM there",
            do="Add it to the compute profile of the destination's site in HCX, or choose another one",
            row="HCX-01",
        )
        return None

    # --- networks -------------------------------------------------------------------------------------------------

    def cards(self, nics: Sequence[NicFacts], target: Placement, found: Findings) -> tuple[CardMove, ...] | None:
        """Where each card goes; None, and findings, if that is not clear for one."""
        moves = [self._card(nic, target, found) for nic in nics]
        macs = [nic.mac for nic in nics]
        for mac in sorted({mac for mac in macs if macs.count(mac) > 1}):
            found.error(
                "hcx.mac",
                f"{macs.count(mac)} of its cards have the MAC address {mac or '(none)'}",
                why="HCX tells cards apart by it",
                do="Give each card its own",
                row="HCX-01",
            )
            return None
        done = tuple(move for move in moves if move is not None)
        return done if len(done) == len(moves) else None

    def _card(self, nic: NicFacts, target: Placement, found: Findings) -> CardMove | None:
        name = target.networks.get(nic.network)
        if not nic.network or not nic.mac or name is None:
            _unmapped(nic, target, found)
            return None
        source = self._source_of(nic, found)
        if source is None:
            return None
        extension = self._extension_of(nic, source)
        if extension is None:
            found.error(
                "hcx.not_extended",
                f"network {quoted(nic.network)} of {nic.label} is not extended to the destination",
                why="the server would lose its network: its address is not routed there",
                do="Extend the network with HCX first",
                row="HCX-01",
                part=nic.label,
            )
            return None
        there = self._target_of(name, extension, nic, found)
        if there is None:
            return None
        return CardMove(
            mac=nic.mac,
            source=PlaceRef(id=source.id, name=nic.network, type=source.type),
            destination=PlaceRef(id=there.id, name=name, type=there.type),
            connected=nic.connected,
        )

    def _source_of(self, nic: NicFacts, found: Findings) -> Item | None:
        """The network as HCX calls it: by its id in vCenter, or, of a segment of NSX, by its name."""
        fits = [each for each in self._sources if each.id == nic.network_moref]
        fits = fits or [each for each in self._sources if each.name == nic.network]
        if len(fits) == 1:
            return fits[0]
        found.error(
            "hcx.source_network",
            f"HCX lists {'no network' if not fits else 'several networks'} {quoted(nic.network)} at the source"
            + ("" if fits else did_you_mean(nic.network, (each.name for each in self._sources))),
            why=NOT_CLEAR if fits else "its inventory may be older than vCenter's",
            do="Rename one of them in vCenter" if fits else "Wait until HCX lists it",
            row="HCX-01",
            part=nic.label,
        )
        return None

    def _extension_of(self, nic: NicFacts, source: Item) -> Extension | None:
        """That of the card's network between our two sites. Where HCX leaves a site out, it is not compared."""
        pair, ids = self.pair, {source.id, nic.network_moref}
        same_name = [each for each in self._sources if each.name == nic.network]
        for each in self._extensions:
            here = each.source_id in ids or (len(same_name) == 1 and each.source_name == nic.network)
            ours = each.source_endpoint in ("", pair.source.endpoint_id)
            if here and ours and each.destination_endpoint in ("", pair.destination.endpoint_id):
                return each
        return None

    def _target_of(self, name: str, extension: Extension, nic: NicFacts, found: Findings) -> Item | None:
        """The destination's network of this name, if the card's own network is extended to it."""
        named = [each for each in self._targets if each.name == name]
        fits = [each for each in named if each.id == extension.destination_id]
        if not fits and extension.destination_name == name:
            fits = named
        if len(fits) == 1:
            return fits[0]
        if not named:
            near = did_you_mean(name, (each.name for each in self._targets))
            what, why = f"HCX lists no network {quoted(name)} at the destination{near}", "the server needs one there"
        elif fits:
            what, why = f"HCX lists {len(fits)} networks {quoted(name)} at the destination", NOT_CLEAR
        else:
            there = extension.destination_name or extension.destination_id
            what = f"network {quoted(nic.network)} is extended to {quoted(there)}, and not to {quoted(name)}"
            why = "the server would keep its address on a network that does not have it"
        do = f"Write under 'target: networks' to which network {quoted(nic.network)} is extended: "
        do += quoted(extension.destination_name or extension.destination_id)
        found.error("hcx.network", what, why=why, do=do, row="HCX-01", part=nic.label)
        return None


def _unmapped(nic: NicFacts, target: Placement, found: Findings) -> None:
    if not nic.network or not nic.mac:
        lacks = "is on no network" if not nic.network else "has no MAC address"
        found.error(
            "hcx.card",
            f"{nic.label} {lacks}",
            why="HCX needs a network of the destination for each card, found by its MAC address",
            do="Remove the card, or put it on a network that is extended",
            row="HCX-01",
            part=nic.label,
        )
        return
    near = did_you_mean(nic.network, target.networks)
    found.error(
        "hcx.unmapped",
        f"network {quoted(nic.network)} of {nic.label} has no network at the destination{near}",
        why="HCX needs one for each card",
        do=f"Add {quoted(nic.network)} to 'target: networks', with the network to which it is extended",
        row="HCX-01",
        part=nic.label,
    )
