"""Reads both sides of a network, and finds everything that is in the way of its cutover. Changes nothing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Interface, IPv4Network
from typing import Final

from wavelift.adapters.hcx.extensions import Extension, Extensions, read_extension
from wavelift.adapters.hcx.mobility import Mobility
from wavelift.adapters.nsx.segments import Segment, Segments
from wavelift.base.domain import Finding, Severity
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.placement import NetworkUse
from wavelift.base.run import RunContext
from wavelift.base.units import counted
from wavelift.rules.findings import Findings
from wavelift.rules.network import NetworkSpec
from wavelift.rules.network_cutover import CONNECTIVITY, DESTINATION, EXTENSION, OFF, ON, SOURCE
from wavelift.services.dataplane.network_act import Sites
from wavelift.services.dataplane.network_messages import (
    FinishOrder,
    Looked,
    LookOrder,
    NetworkOrder,
    NetworkPlace,
    Occupant,
)
from wavelift.services.dataplane.source_side import state_of
from wavelift.services.dataplane.steps.network import extension_of, identity
from wavelift.services.dataplane.steps.step import State

OF_VCENTER: Final = re.compile(r"(dvportgroup|network)-\d+$")
"""How vCenter names its networks: an id of this form says for certain which one it is."""
NAMED: Final = 10
"""Machines that one finding names; of more, the number is told."""
BY_ITSELF: Final = frozenset({"network.source_off", "network.source_unread"})
"""Findings that a cutover makes by itself: of no meaning once it has begun."""


def refuse_in_the_way(order: NetworkOrder, sites: Sites, ctx: RunContext) -> None:
    """Look once more, right before a write: the plan was approved long ago.

    :raises PermanentError: something is in the way by now.
    """
    found = look(LookOrder(place=order.place, mode="cutover"), sites, ctx)
    _refuse([each for each in found.findings if each.code not in BY_ITSELF], order.place, order.step)


def refuse_to_delete(order: FinishOrder, sites: Sites, ctx: RunContext) -> None:
    """The same, right before the source network is deleted.

    :raises PermanentError: something is in the way by now.
    """
    recorded = identity(read_extension(order.records.get(EXTENSION) or {}))
    found = look(LookOrder(place=order.place, mode="finish", extension=recorded), sites, ctx)
    _refuse(found.findings, order.place, "finish")


def _refuse(findings: Iterable[Finding], place: NetworkPlace, step: str) -> None:
    errors = [each for each in findings if each.severity is Severity.ERROR]
    if errors:
        raise PermanentError(
            f"Something is in the way that was not when it was planned: {'; '.join(each.what for each in errors)}",
            next_step=errors[0].next_action,
            network=place.network.network,
            step=step,
        )


def look(order: LookOrder, sites: Sites, ctx: RunContext) -> Looked:
    """Both sides now, with findings. In mode finish what a cutover changed is as it should be."""
    looking = _Looking(order, sites, ctx)
    used = tuple(sites.uses())
    ctx.cancel.check()
    return looking.finish(used) if order.mode == "finish" else looking.begin(used)


class _Looking:
    def __init__(self, order: LookOrder, sites: Sites, ctx: RunContext) -> None:
        self.order, self.sites, self.ctx = order, sites, ctx
        self.network: NetworkSpec = order.place.network
        self.found = Findings(self.network.network)
        self.prefix = IPv4Network(self.network.destination.prefix)
        self.gateway = IPv4Interface(self.network.destination.gateway)

    def begin(self, uses: Sequence[NetworkUse]) -> Looked:
        """Before a cutover."""
        source, source_segment = self._source()
        destination = self._destination()
        extensions = Extensions(self.sites.hcx).list()
        extension = self._extension(extensions, uses)
        self._of_source(source, source_segment)
        self._of_destination(destination)
        self._of_extension(extension, extensions)
        occupants = self._occupants(uses)
        self._of_occupants(occupants)
        self._of_vcenters(uses)
        self._of_migrations(uses)
        return self._told(uses, source, extension, destination, source_segment, ports=self._ports(source_segment))

    def finish(self, uses: Sequence[NetworkUse]) -> Looked:
        """After a cutover, before its way back is given up."""
        source, source_segment = self._source()
        destination = self._destination()
        extension = self._extension(Extensions(self.sites.hcx).list(), uses)
        if extension is not None:
            self._error(
                "extended",
                f"{self.network.source.network} is extended ({extension.id})",
                why="The cutover had ended the extension: somebody made it again",
                do="Find out who did, and why; nothing can be finished while it stands",
            )
        if destination is None or not destination.routed:
            self._error(
                "not_routed",
                f"The destination does not route {self.prefix}",
                why="The way back is given up only while the destination serves",
                do="Look at the destination's segment, or revert the cutover",
            )
        if source is not None and source[CONNECTIVITY] != OFF:
            self._error(
                "source_on",
                f"The source network is connected to its router ({source[CONNECTIVITY]})",
                why="Both sides may route the prefix",
                do="Disconnect it, and find out who connected it",
            )
        self._of_occupants(self._occupants(uses))
        self._of_vcenters(uses)
        ports = self._ports(source_segment)
        if ports:
            self._warning(
                "ports",
                f"The source segment has {ports} ports",
                why="NSX deletes no segment with ports; they linger for minutes after their machines are gone",
                do="Nothing, if the machines are gone: it is waited for",
            )
        return self._told(uses, source, extension, destination, source_segment, ports=ports)

    # Reading

    def _source(self) -> tuple[State | None, Segment | None]:
        """The state of the source; and the segment, if it is one."""
        side = self.sites.source(self.order.place)
        segment = None
        if self.network.source.segment is not None and self.sites.source_nsx is not None:
            segment = Segments(self.sites.source_nsx).find(self.network.source.segment)
        if side is None:
            return None, segment
        try:
            return side.read(), segment
        except NotFoundError:
            return None, segment

    def _destination(self) -> Segment | None:
        return Segments(self.sites.destination).find(self.network.destination.segment)

    def _extension(self, extensions: Sequence[Extension], uses: Sequence[NetworkUse]) -> Extension | None:
        """The one whose source is this network, in the vCenter that HCX serves."""
        if self.order.extension is not None:
            return extension_of(extensions, str(self.order.extension.get("source", "")))
        ids = {each for use in uses[:1] for each in (*use.network.ids, use.network.moref)}
        named = [each for each in extensions if each.source_id in ids]
        if not named:  # of NSX, HCX may know another id than vCenter; that of another network of the name it is not
            named = [
                each
                for each in extensions
                if each.source_name == self.network.source.network and not (ids and OF_VCENTER.match(each.source_id))
            ]
        if len({each.source_id for each in named}) > 1:
            raise PermanentError(
                f"HCX extends {len(named)} networks called {self.network.source.network}: "
                f"{', '.join(each.id for each in named)}",
                next_step="Rename one of them at the source, so that it is clear which one is meant",
                network=self.network.network,
            )
        return extension_of(extensions, named[0].source_id) if named else None

    def _ports(self, segment: Segment | None) -> int | None:
        if segment is None or self.sites.source_nsx is None:
            return None
        return len(Segments(self.sites.source_nsx).ports(segment.path))

    def _occupants(self, uses: Iterable[NetworkUse]) -> tuple[Occupant, ...]:
        return tuple(
            Occupant(
                vm=card.name,
                path=card.path,
                power=card.power,
                template=card.template,
                mac=card.mac,
                excepted=bool({card.name, card.path} & set(self.network.exceptions)),
            )
            for use in uses
            for card in use.cards
        )

    # Findings

    def _error(self, code: str, what: str, *, why: str, do: str) -> None:
        self.found.error(f"network.{code}", what, why=why, do=do, row="HCX-06")

    def _warning(self, code: str, what: str, *, why: str, do: str) -> None:
        self.found.warning(f"network.{code}", what, why=why, do=do, row="HCX-06")

    def _of_source(self, source: State | None, segment: Segment | None) -> None:
        by_person = self.network.source.disconnect.by == "person"
        if source is None:
            if self.network.source.segment is not None or not by_person:
                self._error(
                    "source_missing",
                    "The source network is not where its file says"
                    + (f": {self.network.source.segment}" if self.network.source.segment else ""),
                    why="What is not found cannot be disconnected",
                    do="Correct 'source' in the network's file",
                )
            else:
                self._warning(
                    "source_unread",
                    "Nothing here can read whether the source network is connected to its router",
                    why="A person disconnects it, and that person's word is recorded for it",
                    do="Look twice before you confirm: two routers with one address cut machines off",
                )
            return
        if source[CONNECTIVITY] != ON:
            self._error(
                "source_off",
                f"The source network is not connected to its router ({source[CONNECTIVITY]})",
                why="The way back restores what was there before, and nobody routes the network now",
                do="Connect it, then begin; or revert the cutover that left it so",
            )
        if segment is not None:
            self._same_gateway("the source segment", segment.gateways)
            self._same_name("source", segment, self.network.source.network)

    def _of_destination(self, destination: Segment | None) -> None:
        if destination is None:
            self._error(
                "destination_missing",
                f"The destination has no segment {self.network.destination.segment}",
                why="HCX made it when the network was extended",
                do="Correct 'destination.segment' in the network's file, or extend the network",
            )
            return
        self._same_gateway("the destination segment", destination.gateways)
        self._same_name("destination", destination, self.network.destination.network)
        if destination.connectivity != OFF or not destination.unrouted:
            self._error(
                "destination_on",
                f"The destination segment is connected already (type {destination.type}, connectivity "
                f"{destination.connectivity})",
                why="Both sides would route the prefix now",
                do="Disconnect it, and find out who connected it",
            )
        for other in Segments(self.sites.destination).of_prefix(str(self.prefix)):
            if other.path != destination.path and not other.unrouted:
                self._error(
                    "routed",
                    f"The destination routes {', '.join(other.prefixes)} already, by segment {other.name}",
                    why="A prefix that overlaps would be routed twice there",
                    do="Disconnect or remove that segment",
                )
        if destination.tier and self.order.place.environment.destination.nsx:
            tier = self.order.place.environment.destination.nsx.tier
            if destination.tier != tier:
                self._error(
                    "tier",
                    f"The destination segment belongs to {destination.tier}, the environment names {tier}",
                    why="Another gateway would route the network",
                    do="Correct the environment's file, or the extension",
                )

    def _of_extension(self, extension: Extension | None, extensions: Sequence[Extension]) -> None:
        name = self.network.source.network
        if extension is None:
            self._error(
                "not_extended",
                f"HCX does not extend {name}",
                why="Only an extended network can be cut over: its machines are at the destination, its gateway is not",
                do="Correct 'source.network' in the network's file, or extend the network in HCX",
            )
            return
        self._same_gateway("the extension", (_gateway_of(extension),) if extension.gateway else ())
        if extension.mon:
            self._error(
                "mon",
                f"Mobility Optimized Networking is on for {name}",
                why="Its routes per machine would stay beside the network's own",
                do="Switch it off in HCX for this network, and wait until its routes are gone",
            )
        elif extension.mon is None:
            self._warning(
                "mon_unknown",
                "HCX does not say whether Mobility Optimized Networking is on",
                why="With it, routes per machine would stay beside the network's own",
                do="Look in HCX that it is off",
            )
        wanted = self.network.destination
        if extension.destination_id not in (wanted.segment, wanted.network, "") and (
            extension.destination_name != wanted.network
        ):
            self._error(
                "other_destination",
                f"HCX extends {name} to {extension.destination_name or extension.destination_id}",
                why=f"The network's file names {wanted.network}",
                do="Correct 'destination' in the network's file",
            )
        for other in extensions:
            if other.id != extension.id and self._overlaps(other):
                self._error(
                    "extended_twice",
                    f"HCX extends {other.source_name} ({other.id}), too, with gateway {other.gateway}",
                    why="Its addresses are those of this network: the same VLAN, by another path",
                    do="End one of the two extensions",
                )

    def _overlaps(self, other: Extension) -> bool:
        try:
            return IPv4Interface(f"{other.gateway}/{other.netmask or 32}").network.overlaps(self.prefix)
        except ValueError:
            return other.source_name == self.network.source.network

    def _same_gateway(self, where: str, gateways: Sequence[str]) -> None:
        if str(self.gateway) in gateways:
            return
        self._error(
            "gateway",
            f"The gateway of {where} is {', '.join(gateways) or 'unknown'}",
            why=f"The network's file says {self.gateway}: machines keep the gateway that they know",
            do="Correct the file, or that gateway",
        )

    def _same_name(self, side: str, segment: Segment, name: str) -> None:
        """The environment allows names, and a path is what is changed."""
        if segment.name != name:
            self._error(
                "name",
                f"The segment {segment.path} of the {side} is called {segment.name}",
                why=f"The network's file calls it {name}, and the environment's file allows by name",
                do=f"Correct '{side}.segment' or '{side}.network' in the network's file",
            )

    def _of_occupants(self, occupants: Sequence[Occupant]) -> None:
        left = [each for each in occupants if not each.excepted]
        if left:
            names = ", ".join(_shown(each) for each in left[:NAMED])
            more = f" and {len(left) - NAMED} more" if len(left) > NAMED else ""
            self._error(
                "occupied",
                f"{counted(len(left), 'network card')} on the source network: {names}{more}",
                why="These machines lose their gateway at the moment of the cutover",
                do="Migrate them, take their cards away, or list machines that may stay under 'exceptions'",
            )
        for name in self.network.exceptions:
            paths = sorted({each.path for each in occupants if each.vm == name})
            if len(paths) > 1:
                self._error(
                    "exception_unclear",
                    f"{len(paths)} machines on the source network are called {name}: {', '.join(paths[:NAMED])}",
                    why="Only one of them may be meant to stay there without a gateway",
                    do="List the path of each that may stay under 'exceptions', and not the name",
                )
        staying = sorted({each.vm for each in occupants if each.excepted})
        if staying:
            self._warning(
                "exceptions",
                f"These machines stay on the source network: {', '.join(staying)}",
                why="The network's file lists them as exceptions; they lose their gateway",
                do="Nothing, if that is meant",
            )

    def _of_vcenters(self, uses: Iterable[NetworkUse]) -> None:
        for use in uses:
            if not use.whole:
                self._error(
                    "unseen",
                    "The account of a vCenter of the source does not see all of it",
                    why="A machine that it does not see may be on the network",
                    do="Give the account the right to read from the root folder on",
                )
            if use.unread:
                names = ", ".join(each.path or each.vm for each in use.unread[:NAMED])
                self._error(
                    "unread",
                    f"vCenter does not tell on which networks these machines are: {names}",
                    why="They may be on the network",
                    do="Connect their hosts, or remove them from the inventory",
                )

    def _of_migrations(self, uses: Sequence[NetworkUse]) -> None:
        ids = sorted({card.vm for use in uses[:1] for card in use.cards})  # of the vCenter that HCX serves
        for each in Mobility(self.sites.hcx).query_entities(ids) if ids else ():
            if not each.phase.over:
                self._error(
                    "migrating",
                    f"HCX migrates {each.entity_name or each.entity_id} over this network ({each.phase.value})",
                    why="Without its extension the machine would arrive without a network",
                    do="Wait until it has arrived",
                )

    def _told(  # one message
        self,
        uses: Sequence[NetworkUse],
        source: State | None,
        extension: Extension | None,
        destination: Segment | None,
        source_segment: Segment | None,
        *,
        ports: int | None,
    ) -> Looked:
        records = {
            SOURCE: dict(source_segment.body) if source_segment is not None else None,
            EXTENSION: dict(extension.raw) if extension is not None else None,
            DESTINATION: dict(destination.body) if destination is not None else None,
        }
        return Looked(
            network=self.network.network,
            source=source,
            extension=identity(extension) if extension is not None else None,
            extension_id=extension.id if extension is not None else "",
            destination=state_of(destination) if destination is not None else None,
            records={name: body for name, body in records.items() if body is not None},
            occupants=self._occupants(uses),
            findings=tuple(self.found.all),
            ports=ports,
            at=self.ctx.clock.now(),
        )


def _gateway_of(extension: Extension) -> str:
    """``10.1.2.1/24``."""
    try:
        return str(IPv4Interface(f"{extension.gateway}/{extension.netmask}"))
    except ValueError:
        return extension.gateway


def _shown(each: Occupant) -> str:
    what = "a template" if each.template else {"poweredOn": "on", "poweredOff": "off"}.get(each.power, each.power)
    return f"{each.vm} ({what})"
