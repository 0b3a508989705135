"""The admit task of a cutover run: which servers, in which window; frozen for the run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

from wavelift.base.domain import Refusal
from wavelift.base.errors import RefusedError, SpecError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.authority import Action
from wavelift.rules.conf import CutoverConf
from wavelift.rules.cutover_plan import MAX_SERVERS, Opening, opening
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.rules.problem import MAX_LISTED, allowed, did_you_mean, quoted
from wavelift.rules.replication import Rule
from wavelift.services.common.admit import RunRequest, freeze, frozen_spec, lost_of
from wavelift.services.common.authority import Rights, require_run, require_where
from wavelift.services.common.reserve import refuse_in_maintenance
from wavelift.services.cutover.ending import chosen, claim, opened_by, opened_with
from wavelift.services.cutover.opening import Terms, Wanted, open_cutovers
from wavelift.services.dataplane.cutover_messages import AdmittedCutover

Load = Callable[[str], ResolvedWave]


def admit(ledger: Ledger, request: RunRequest, load: Load, ctx: RunContext, *, rights: Rights) -> AdmittedCutover:
    """Check the conf, freeze the spec for the run, and open its cutovers, or claim those that it ends.

    A repeated call keeps the spec that was frozen first. Modes plan and prepare open no cutover.

    :raises SpecError: an unknown key, value or server; a server without cutover section; a window that is none, or
        over; too many servers; the present files allow no run.
    :raises RefusedError: a server has another open cutover, or no replication job; or can't be ended so.
    :raises DeniedError: whoever asked may not cut over there.
    """
    conf = CutoverConf.read(request.conf, wave=request.wave)
    if conf.mode in ("revert", "finalize"):
        return _ends(ledger, request, conf, ctx, rights=rights)
    known = frozen_spec(ledger, request, lost_of(load), ctx)
    wave = ResolvedWave.load(known) if known else load(request.wave)
    _require(ledger, wave, conf, ctx, rights=rights)
    servers, wave = chosen_servers(ledger, wave, conf.servers)
    spec = next((plan.cutover.window for plan in wave.servers if plan.cutover is not None), None)
    found = opening(conf.window_start, conf.window_end, spec, ctx.clock.now())
    opened: Sequence[Cutover] = ()
    if conf.mode == "cutover":
        if known is None:
            with ledger.read() as tx:
                refuse_in_maintenance(tx, wave.connector, wave=wave.wave)
        terms = Terms(opening=found, note=conf.note or "")
        opened = open_cutovers(ledger, wave.wave, wanted_of(wave, servers), terms, ctx)
    elif conf.mode == "prepare":
        refuse_under_way(ledger, wave.wave, servers, ctx)
    freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
    return _message(wave, conf, ctx, servers, opened, found)


def chosen_servers(
    ledger: Ledger, wave: ResolvedWave, names: Sequence[str] | None
) -> tuple[tuple[str, ...], ResolvedWave]:
    """The names of the servers, and the wave with the entries that may hold them, as they are cut over.

    What a folder or tag holds is known by its replication jobs.

    :raises SpecError: the wave has no such server, or it has no cutover section; none at all; too many.
    """
    single = {plan.server: plan for plan in wave.servers if not plan.selector.many}
    groups = [plan for plan in wave.servers if plan.selector.many and plan.cutover is not None]
    with ledger.read() as tx:
        held = [job.server for job in jobs.standing(tx, wave.wave) if job.server not in single] if groups else []
    known = [name for name, plan in single.items() if plan.cutover is not None] + held
    servers = tuple(dict.fromkeys(known if names is None else names))
    _refuse_unknown(wave.wave, servers, known, single)
    if len(servers) > MAX_SERVERS:
        raise SpecError(
            f"{len(servers)} servers are chosen; a run cuts over {MAX_SERVERS} at most",
            wave=wave.wave,
            next_step="Choose fewer servers, and trigger another run for the others",
        )
    plans = [plan for name, plan in single.items() if name in servers]
    if len(plans) < len(servers):
        plans += groups
    return servers, wave.model_copy(update={"servers": tuple(plan.cutting_over() for plan in plans)})


def wanted_of(wave: ResolvedWave, servers: Collection[str]) -> list[Wanted]:
    """What is to be opened for these servers of :func:`chosen_servers`."""
    plans = {plan.server: plan.cutover for plan in wave.servers if plan.cutover is not None and not plan.selector.many}
    environment = wave.environment.environment
    found = []
    for name in servers:
        plan = plans.get(name)
        tier: dict[str, Any] = {"tier": plan.tier, "tier_index": plan.tier_index} if plan is not None else {}
        found.append(Wanted(server=name, environment=environment, **tier))
    return found


def _refuse_unknown(wave: str, servers: Sequence[str], known: Sequence[str], single: dict[str, ServerPlan]) -> None:
    lacking = [name for name in servers if name in single and name not in known]
    if lacking:
        raise SpecError(
            f"{', '.join(lacking[:MAX_LISTED])}: no cutover section says how to cut over",
            wave=wave,
            next_step="Add one to the server's entry or to the wave's file, or choose other servers",
        )
    unknown = [f"{quoted(name)}{did_you_mean(name, known)}" for name in servers if name not in known]
    if unknown or not servers:
        what = ", ".join(unknown[:MAX_LISTED]) if unknown else "with a cutover section"
        raise SpecError(f"The wave has no server {what}", wave=wave, next_step=f"Choose others; {allowed(known)}")


def refuse_under_way(ledger: Ledger, wave: str, servers: Sequence[str], ctx: RunContext) -> None:
    """``prepare`` would change what a cutover that is under way has read."""
    with ledger.read() as tx:
        others = [each for each in cutovers.open_of(tx, wave, servers) if each.state.withholds and each.run != ctx.run]
    refused = [
        Refusal(server=each.server, rule=Rule.CUTOVER, reason=f"cutover {each.id} of {each.run} is {each.state}")
        for each in others
    ]
    if refused:
        words = "; ".join(f"{each.server}: {each.reason}" for each in refused)
        raise RefusedError(f"Nothing can be prepared: {words}", refusals=tuple(refused), wave=wave)


def _ends(
    ledger: Ledger, request: RunRequest, conf: CutoverConf, ctx: RunContext, *, rights: Rights
) -> AdmittedCutover:
    """A run that goes back or gives the way back up needs no files but those that say who may."""
    found = chosen(ledger, request.wave, conf, ctx)
    require_where(ledger, opened_by(found), Action.CUT_OVER, ctx, rights=rights)
    wave = opened_with(ledger, found)
    _require(ledger, wave, conf, ctx, rights=rights)
    claimed = claim(ledger, request.wave, found, "revert" if conf.mode == "revert" else "finalize", ctx)
    freeze(ledger, request, ctx, mode=conf.mode, spec=wave.dump())
    return _message(wave, conf, ctx, tuple(each.server for each in claimed), claimed, Opening())


def _require(ledger: Ledger, wave: ResolvedWave, conf: CutoverConf, ctx: RunContext, *, rights: Rights) -> None:
    environment = wave.environment.environment
    require_run(ledger, environment, Action.CUT_OVER, ctx, rights=rights)
    if conf.priority == "next":
        require_run(ledger, environment, Action.ADMINISTER, ctx, rights=rights)


def _message(  # one message
    wave: ResolvedWave,
    conf: CutoverConf,
    ctx: RunContext,
    servers: Sequence[str],
    found: Sequence[Cutover],
    window: Opening,
) -> AdmittedCutover:
    return AdmittedCutover(
        wave=wave,
        mode=conf.mode,
        dag_id=ctx.run.dag_id,
        run_id=ctx.run.dag_run_id,
        requested_by=ctx.requester,
        servers=tuple(servers),
        cutovers={each.server: each.id for each in found},
        window_start=window.start,
        window_end=window.end,
    )
