"""Which cutovers a run in mode revert or finalize is about. Only one run at a time ends a cutover."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any, Final, Literal

from wavelift.base.domain import Refusal
from wavelift.base.errors import PermanentError, RefusedError, SpecError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import cutovers, jobs, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.database import Ledger
from wavelift.rules.conf import CutoverConf
from wavelift.rules.cutover import REVERTIBLE, CutoverState
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.rules.replication import Rule
from wavelift.services.common.admit import frozen_wave

End = Literal["revert", "finalize"]
MAY: Final = {
    "revert": REVERTIBLE,
    "finalize": frozenset({CutoverState.SWITCHED, CutoverState.FINALIZING}),
}
"""Mode → states from which it may begin, or go on."""
DONE: Final = {"revert": CutoverState.REVERTED, "finalize": CutoverState.FINALIZED}


def chosen(ledger: Ledger, wave: str, conf: CutoverConf, ctx: RunContext) -> tuple[Cutover, ...]:
    """The cutovers that a conf names by id or by server, by server; with neither, all open ones that can be ended so.

    :raises SpecError: what it names is not of this wave, or has no open cutover; or there is none at all.
    """
    mode = _mode(conf)
    with ledger.read() as tx:
        found = {each.id: each for each in (cutovers.get(tx, id) for id in conf.cutovers or ())}
        standing = cutovers.open_of(tx, wave)
    for each in found.values():
        if each.wave != wave:
            raise SpecError(f"{each.id} belongs to wave {each.wave}", wave=wave, next_step="Trigger that wave's DAG")
    lost = sorted(set(conf.servers or ()) - {each.server for each in standing})
    if lost:
        raise SpecError(
            f"No cutover of {', '.join(lost)} is open", wave=wave, next_step="List them with `wavelift cutover list`"
        )
    if conf.servers:
        found |= {each.id: each for each in standing if each.server in conf.servers}
    if conf.cutovers is None and conf.servers is None:
        found = {each.id: each for each in standing if _refusal(each, mode, ctx) is None}
    if not found:
        raise SpecError(
            f"No cutover of this wave is open that mode {mode} could end",
            wave=wave,
            next_step="List them with `wavelift cutover list`",
        )
    return tuple(sorted(found.values(), key=lambda each: each.server))


def claim(ledger: Ledger, wave: str, asked: Sequence[Cutover], mode: End, ctx: RunContext) -> tuple[Cutover, ...]:
    """This run ends these cutovers, and no other does at the same time. All of them or none. May be repeated.

    :raises RefusedError: one is in a state that can't be ended so, or another run that lives is about it.
    """
    require_endable(wave, asked, mode, ctx)
    column, now = f"{mode}_run", ctx.clock.now()
    with ledger.write(jobs.lock_name(wave)) as tx:
        claimed = []
        for each in asked:
            # As it was when Airflow was asked, or apply refuses: another run may have claimed it since.
            if getattr(each, column) == ctx.run.dag_run_id:
                claimed.append(each)
            else:
                changes: dict[str, Any] = {column: ctx.run.dag_run_id}
                claimed.append(cutovers.apply(tx, each, f"{mode}_asked", at=now, by=ctx.requester, **changes))
    return tuple(claimed)


def require_endable(wave: str, asked: Sequence[Cutover], mode: End, ctx: RunContext) -> None:
    """:raises RefusedError: one is in a state that can't be ended so, or another run that lives is about it."""
    refused = [refusal for each in asked if (refusal := _refusal(each, mode, ctx)) is not None]
    if refused:
        words = "; ".join(f"{each.server}: {each.reason}" for each in refused)
        raise RefusedError(f"Mode {mode} is refused: {words}", refusals=tuple(refused), wave=wave)


def opened_with(ledger: Ledger, found: Collection[Cutover]) -> ResolvedWave:
    """The wave as the runs that opened these cutovers froze it: no present file is needed to go back.

    :raises NotFoundError: such a run was never admitted. :raises PermanentError: they lie in several environments.
    """
    newest_first = sorted(found, key=lambda each: each.requested_at, reverse=True)
    with ledger.read() as tx:
        frozen = [(each, frozen_wave(waves.get(tx, each.run))) for each in newest_first]
    base = frozen[0][1]
    where = {each.environment.environment for _, each in frozen}
    if len(where) > 1:
        raise PermanentError(
            f"These cutovers lie in several environments: {', '.join(sorted(where))}",
            next_step="Trigger one run for those of each environment",
            wave=base.wave,
        )
    plans: dict[tuple[str, str], ServerPlan] = {}
    for each, wave in frozen:
        for plan in wave.servers:
            if plan.server == each.server or plan.selector.many:
                plans.setdefault((plan.selector.kind, plan.selector.value), plan)
    return base.model_copy(update={"servers": tuple(plans.values())})


def opened_by(found: Collection[Cutover]) -> set[DagRun]:
    return {each.run for each in found}


def _mode(conf: CutoverConf) -> End:
    return "revert" if conf.mode == "revert" else "finalize"


def _refusal(known: Cutover, mode: End, ctx: RunContext) -> Refusal | None:
    reason = next(_reasons(known, mode, ctx), None)
    return Refusal(server=known.server, rule=Rule.CUTOVER, reason=reason) if reason is not None else None


def _reasons(known: Cutover, mode: End, ctx: RunContext) -> Iterator[str]:
    """Why this run may not end this cutover."""
    if getattr(known, f"{mode}_run") == ctx.run.dag_run_id and known.state is DONE[mode]:
        return
    if known.state not in MAY[mode]:
        yield f"cutover {known.id} is {known.state}{_hint(known, mode)}"
        return
    if known.state is CutoverState.MOVING and known.run != ctx.run and ctx.liveness.run(known.run):
        yield f"cutover {known.id} is under way in {known.run}; mark that run failed first"
    rival = getattr(known, f"{mode}_run")
    if rival and rival != ctx.run.dag_run_id and ctx.liveness.run(DagRun(known.run.dag_id, rival)):
        yield f"run {rival} is about cutover {known.id} already"


def _hint(known: Cutover, mode: End) -> str:
    if mode == "revert" and not known.state.touched and not known.state.terminal:
        return "; its source was not touched: mark its run failed"
    if mode == "finalize" and known.state.touched:
        return "; only one that was switched can be finalized"
    return ""
