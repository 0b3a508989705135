"""Which cutover a run in mode revert or finish is about. Only one run at a time ends a cutover.

A revert is refused while a task of the run that it takes back may still act.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, Literal

from wavelift.base.domain import Refusal
from wavelift.base.errors import RefusedError, SpecError
from wavelift.base.run import DagRun, RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.network_cutover import REVERTIBLE, NetworkState
from wavelift.rules.replication import Rule

End = Literal["revert", "finish"]
MAY: Final = {
    "revert": REVERTIBLE,
    "finish": frozenset({NetworkState.SWITCHED, NetworkState.FINISHING}),
}
"""Mode → states from which it may begin, or go on."""
GOAL: Final = {"revert": NetworkState.REVERTED, "finish": NetworkState.FINISHED}
_LIST: Final = "List them with `wavelift network list`"


def chosen(ledger: Ledger, network: str, cutover: str) -> NetworkCutover:
    """The cutover that a conf names, or the open one of the network.

    :raises SpecError: it is of another network, or none is open. :raises NotFoundError: there is no such cutover.
    """
    with ledger.read() as tx:
        known = network_cutovers.get(tx, cutover) if cutover else network_cutovers.open_of(tx, network)
    if known is None:
        raise SpecError("No cutover of this network is open", network=network, next_step=_LIST)
    if known.network != network:
        raise SpecError(f"{known.id} is of network {known.network}", network=network, next_step=_LIST)
    return known


def claim(ledger: Ledger, known: NetworkCutover, mode: End, ctx: RunContext) -> NetworkCutover:
    """This run ends the cutover, and no other does at the same time. May be repeated.

    :raises RefusedError: it can't be ended so now, or another run that lives is about it.
    :raises BusyError: it was changed since ``known`` was read.
    """
    require_endable(known, mode, ctx)
    column = f"{mode}_run"
    if getattr(known, column) == ctx.run.dag_run_id:
        return known
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        # As it was when Airflow was asked, or apply refuses: another run may have claimed it since.
        changes: dict[str, Any] = {column: ctx.run.dag_run_id}
        return network_cutovers.apply(
            tx, known, f"{mode}_asked", at=ctx.clock.now(), by=ctx.requester, details=changes, **changes
        )


def require_endable(known: NetworkCutover, mode: End, ctx: RunContext) -> None:
    """:raises RefusedError: it can't be ended so now, or another run that lives is about it."""
    reason = next(_reasons(known, mode, ctx), None)
    if reason is not None:
        refusal = Refusal(server=known.network, rule=Rule.CUTOVER, reason=reason)
        raise RefusedError(f"Mode {mode} is refused: {reason}", refusals=(refusal,), network=known.network)


def rival(known: NetworkCutover, ctx: RunContext, *modes: End) -> str:
    """Another run that lives and reverts or finishes the cutover; empty: none."""
    ids = [str(getattr(known, f"{mode}_run")) for mode in modes or ("revert", "finish")]
    runs = [DagRun(known.dag_id, id) for id in ids if id]
    return next((run.dag_run_id for run in runs if run != ctx.run and ctx.liveness.run(run)), "")


def may_still_act(known: NetworkCutover, ctx: RunContext) -> bool:
    """Whether tasks of the run that opened the cutover may act: it lives, and its report has not closed the cutover."""
    return known.state is NetworkState.GOING and known.run != ctx.run and ctx.liveness.run(known.run)


def _reasons(known: NetworkCutover, mode: End, ctx: RunContext) -> Iterator[str]:
    if getattr(known, f"{mode}_run") == ctx.run.dag_run_id and known.state is GOAL[mode]:
        return  # its task was cleared: it is done
    if known.state not in MAY[mode]:
        yield f"cutover {known.id} is {known.state}{_hint(known, mode)}"
    elif mode == "finish" and known.soak_until is not None and ctx.clock.now() < known.soak_until:
        yield f"cutover {known.id} soaks until {utc_minute(known.soak_until)}; before, nobody gives its way back up"
    elif may_still_act(known, ctx):
        yield f"cutover {known.id} is under way in {known.run}; cancel it, or mark that run failed first"
    elif other := rival(known, ctx):
        yield f"run {other} is about cutover {known.id} already"


def _hint(known: NetworkCutover, mode: End) -> str:
    if mode == "revert" and known.state in (NetworkState.FINISHING, NetworkState.FINISHED):
        return "; its way back was given up"
    if mode == "revert" and not known.state.terminal:
        return "; nothing was touched: cancel it"
    if mode == "finish" and known.state.touched:
        return "; only one that was switched can be finished"
    return ""
