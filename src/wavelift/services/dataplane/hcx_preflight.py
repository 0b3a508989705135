"""What pre-flight finds out about a wave's servers in HCX and in both vCenters. It changes nothing (HCX-01)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from wavelift.adapters.hcx.mobility import Mobility
from wavelift.adapters.hcx.phases import Progress
from wavelift.adapters.vsphere import inventory, placement, privileges
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import Finding, ServerFacts
from wavelift.base.errors import WaveliftError
from wavelift.base.placement import Match, Wanted
from wavelift.base.rest import RestClient
from wavelift.base.run import RunContext
from wavelift.rules.findings import WHOLE_WAVE, Findings, subject_of
from wavelift.rules.grants import Grant
from wavelift.rules.live_plans import LivePlan, ResolvedLive
from wavelift.rules.preflight import sorted_findings
from wavelift.rules.preflight_hcx import LiveFacts, check_options, check_vm
from wavelift.rules.preflight_requester import check_requester
from wavelift.rules.preflight_source import version
from wavelift.rules.problem import quoted
from wavelift.services.dataplane.grants import rights_of
from wavelift.services.dataplane.hcx_sites import Landed, Sites, find_pair, site_ref
from wavelift.services.dataplane.hcx_verify import kept_addresses
from wavelift.services.dataplane.live_messages import CardMove, LiveReport, LiveTask, VmBefore

VERIFIED: Final = "verified, not assumed: what stays at the source, or is there twice, must be seen"


@dataclass(slots=True)
class _Server:
    """One entry of the wave with its VM, and what is to be said of it."""

    plan: LivePlan
    known: LiveFacts
    found: Findings
    landed: Landed | None = None
    cards: tuple[CardMove, ...] | None = None

    @property
    def facts(self) -> ServerFacts:
        return self.known.facts


@dataclass(slots=True)
class _Looked:
    servers: list[_Server]
    findings: list[Finding] = field(default_factory=list)


def preflight(
    wave: ResolvedLive,
    *,
    hcx: RestClient,
    source: VsphereSession,
    destination: VsphereSession,
    ctx: RunContext,
    grant: Grant | None = None,
) -> LiveReport:
    """Resolve every server and its targets to ids, and check what its type of migration needs.

    :param grant: whom the source's vCenter is asked about. None: no person's right is asked about.
    """
    looked = _find(source, wave)
    _look_at_hcx(hcx, looked.servers)
    whole = Findings(WHOLE_WAVE)
    _rights(source, wave.environment.source.connection, "source", whole)
    _rights(destination, wave.environment.destination.connection, "destination", whole)
    for each in looked.servers:
        each.found.all += check_vm(each.plan.server, each.known, wave.type, wave.options)
    if grant is not None:
        _look_at_requesters(source, looked.servers, grant)
    ctx.cancel.check()
    uuids = {"source": source.about.instance_uuid, "destination": destination.about.instance_uuid}
    pair = find_pair(hcx, wave.environment, **uuids, found=whole)
    tasks: list[LiveTask] = []
    if pair is not None and looked.servers:
        sites = Sites(hcx, pair, destination)
        ctx.cancel.check()
        for each in looked.servers:
            each.landed = sites.land(each.plan.target, each.found)
            each.cards = sites.cards(each.facts.nics, each.plan.target, each.found)
        _look_at_destination(destination, looked.servers)
        tasks = [task for each in looked.servers if (task := _task(each, wave, sites)) is not None]
    findings = [*whole.all, *check_options(wave.options), *looked.findings]
    for each in looked.servers:
        findings += each.found.all
    return LiveReport(
        wave=wave.wave,
        manager=wave.environment.hcx.connection,
        tasks=tuple(tasks),
        findings=tuple(sorted_findings(findings)),
        at=ctx.clock.now(),
    )


# --- the source -----------------------------------------------------------------------------------------------------


def _find(source: VsphereSession, wave: ResolvedLive) -> _Looked:
    """The VMs that the wave's entries mean. One that is not found, or not clear, stops no other."""
    resolutions = inventory.resolve(source, [plan.selector for plan in wave.servers])
    looked = _Looked([])
    placed = {vm.moref: vm for vm in placement.placed(source, _refs(resolutions), gone_ok=True)}
    by_vm: dict[str, str] = {}
    for plan, resolution in zip(wave.servers, resolutions, strict=True):
        found = Findings(subject_of(plan.server))
        looked.findings += [_not_found(plan, error) for error in resolution.errors]
        for facts in resolution.servers:
            first = by_vm.setdefault(facts.moref, plan.server)
            if first != plan.server:
                found.error(
                    "hcx.twice",
                    f"it is the same VM as {quoted(first)} ({facts.path})",
                    why="HCX takes one migration of a VM",
                    do="Remove one of the entries",
                    row="HCX-01",
                )
            isos = placed[facts.moref].isos if facts.moref in placed else facts.cdrom_connected
            looked.servers.append(_Server(plan, LiveFacts(facts=facts, isos=isos), found))
    return looked


def _refs(resolutions: Sequence[inventory.Resolution]) -> list[str]:
    return [facts.moref for each in resolutions for facts in each.servers]


def _not_found(plan: LivePlan, error: WaveliftError) -> Finding:
    found = Findings(subject_of(plan.server))
    found.error(
        "server.not_found",
        error.what,
        why="nothing can be moved that is not found, or not clear",
        do=error.next_step or "Correct the entry in the wave's file",
        row="HCX-01",
    )
    return found.all[0]


def _rights(session: VsphereSession, connection: str, side: str, found: Findings) -> None:
    if not privileges.reads_all(session):
        found.error(
            "hcx.reads_not_all",
            f"the account of {quoted(connection)} does not read the whole vCenter of the {side}",
            why=VERIFIED,
            do="Give it the role 'Read-only' on the root folder of the vCenter, with propagation",
            row="HCX-05",
            part=f"{side} vCenter",
        )


def _look_at_requesters(session: VsphereSession, servers: Sequence[_Server], grant: Grant) -> None:
    """What vCenter says of the person behind the run: one call for each person, mostly one per wave (AMP-03)."""
    by_principal: dict[str | None, list[_Server]] = {}
    for each in servers:
        by_principal.setdefault(grant.principal(each.plan.server), []).append(each)
    for principal, theirs in by_principal.items():
        known = rights_of(session, grant, principal, [each.facts.moref for each in theirs])
        for each in theirs:
            check_requester(known[each.facts.moref], each.found)


# --- HCX ------------------------------------------------------------------------------------------------------------


def _look_at_hcx(hcx: RestClient, servers: Sequence[_Server]) -> None:
    """What HCX moves already: one query for all."""
    refs = sorted({each.facts.moref for each in servers})
    by_entity: dict[str, list[Progress]] = {}
    for row in Mobility(hcx).query_entities(refs) if refs else ():
        if not row.phase.over:
            by_entity.setdefault(row.entity_id, []).append(row)
    for each in servers:
        rows = by_entity.get(each.facts.moref, ())
        begun = [row for row in rows if row.begun]
        each.known = LiveFacts(
            facts=each.facts,
            isos=each.known.isos,
            moving="; ".join(f"{row.migration_id} ({row.words})" for row in begun),
            drafts=len(rows) - len(begun),
        )


# --- the destination ------------------------------------------------------------------------------------------------


def _look_at_destination(session: VsphereSession, servers: Sequence[_Server]) -> None:
    """Whether something of a server is there already: the verification would find two."""
    wanted = [
        Wanted(name=each.facts.name, instance_uuid=each.facts.instance_uuid, macs=_macs(each.facts)) for each in servers
    ]
    for each, matches in zip(servers, placement.find_vms(session, wanted), strict=True):
        for match in matches:
            _there_already(each, match)


def _there_already(server: _Server, match: Match) -> None:
    by = {"instance_uuid": "its instance UUID", "mac": "one of its MAC addresses"}
    fits = [words for name, words in by.items() if name in match.by]
    if not fits and server.landed is not None and match.vm.folder == server.landed.folder.path:
        fits = ["its name, in the target folder"]
    if fits:
        server.found.error(
            "hcx.there_already",
            f"the VM {quoted(match.vm.path)} of the destination has {' and '.join(fits)}",
            why="two VMs would be taken for the same one, or get in each other's way",
            do="Remove or change that VM, if it is not the server itself, migrated before",
            row="HCX-05",
        )


def _task(server: _Server, wave: ResolvedLive, sites: Sites) -> LiveTask | None:
    facts, entity = server.facts, sites.vms.get(server.facts.moref)
    if entity is None:
        server.found.error(
            "hcx.unlisted",
            f"HCX's inventory does not list the VM {quoted(facts.path)} ({facts.moref})",
            why="HCX migrates only what it lists; its inventory may be older than vCenter's",
            do="Wait until HCX lists it, or add its cluster to the compute profile of the source's site in HCX",
            row="HCX-01",
        )
        return None
    if server.landed is None or server.cards is None:
        return None
    return LiveTask(
        name=server.plan.server,
        type=wave.type,
        entity_id=entity.id,
        entity_name=entity.name,
        summary=dict(entity.summary),
        before=_before(server.known),
        source=site_ref(sites.pair.source),
        destination=site_ref(sites.pair.destination),
        mesh_id=sites.pair.mesh_id,
        placement=server.landed.placement,
        storage=server.landed.storage,
        provision=server.plan.target.provision,
        cards=server.cards,
        options=_options(wave),
    )


def _options(wave: ResolvedLive) -> Mapping[str, bool]:
    return wave.options.model_dump()


def _before(known: LiveFacts) -> VmBefore:
    facts = known.facts
    return VmBefore(
        instance_uuid=facts.instance_uuid,
        moref=facts.moref,
        path=facts.path,
        powered_on=facts.power == "poweredOn",
        macs=_macs(facts),
        addresses=kept_addresses(facts.nics),
        tools_running=facts.tools_running,
        hardware_version=next(iter(version(facts.hardware_version)), 0),
        snapshots=bool(facts.snapshots),
        iso=bool(known.isos),
    )


def _macs(facts: ServerFacts) -> tuple[str, ...]:
    return tuple(nic.mac for nic in facts.nics if nic.mac)
