"""A network's cutover begins: one open cutover per network, whoever asks for it and however often.

The REST API and :class:`NetworkCutoverOperator` reserve it for a DAG run that is made next; the run's admit task takes
the reservation, or opens what nobody reserved. Both decide by :func:`open_cutover`.
"""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.domain import Refusal
from wavelift.base.errors import RefusedError
from wavelift.base.names import run_key
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Tx, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.network_cutover import NetworkState
from wavelift.rules.replication import DEFAULT_POLICY, Policy, Rule
from wavelift.services.dataplane.network_messages import NetworkPlace

RUN_ENDED: Final = "Its DAG run ended before anything was touched"
TOO_LATE: Final = "Its DAG run did not start in time"
_BEGINS: Final = frozenset({NetworkState.RESERVED, NetworkState.EXPIRED, NetworkState.ENDED})
"""States of a run's own cutover that is admitted now, or again."""
_OVER: Final = frozenset({NetworkState.REVERTING, NetworkState.REVERTED, NetworkState.FINISHING, NetworkState.FINISHED})


def open_cutover(  # noqa: PLR0913  # what, on which terms, and how far
    ledger: Ledger,
    place: NetworkPlace,
    ctx: RunContext,
    *,
    note: str = "",
    request_id: str = "",
    state: NetworkState = NetworkState.WAITING,
    policy: Policy = DEFAULT_POLICY,
) -> NetworkCutover:
    """The cutover of ``ctx.run``. Repeated (a retry, a clear), it returns what it opened. One that ended before
    anything was touched begins anew, also its plan and approval.

    :param state: WAITING, or RESERVED for a DAG run that is made next.
    :raises RefusedError: another cutover of the network is open, or this run's own is reverted or finished.
    """
    network = place.network.network
    dead = _dead(ledger, network, ctx)
    with ledger.write(network_cutovers.lock_name(network)) as tx:
        other = network_cutovers.open_of(tx, network)
        if other is not None and other.run != ctx.run and _ended(tx, other, dead, policy, ctx):
            other = None
        mine = network_cutovers.of_dag_run(tx, ctx.run)
        reason = _refusal(mine, other, ctx)
        if not reason:
            return _open(tx, place, mine, ctx, note=note, request_id=request_id, state=state)
    refusal = Refusal(server=network, rule=Rule.CUTOVER, reason=reason)
    raise RefusedError(f"The network cutover is refused: {reason}", refusals=(refusal,), network=network)


def _dead(ledger: Ledger, network: str, ctx: RunContext) -> NetworkCutover | None:
    """The open cutover of another run that has ended, and that touched nothing: as it was before Airflow was asked."""
    with ledger.read() as tx:
        known = network_cutovers.open_of(tx, network)
    if known is None or known.run == ctx.run or known.state is not NetworkState.WAITING:
        return None
    return None if ctx.liveness.run(known.run) else known


def _ended(tx: Tx, other: NetworkCutover, dead: NetworkCutover | None, policy: Policy, ctx: RunContext) -> bool:
    """Nobody will go on with it: then it ends here."""
    now = ctx.clock.now()
    if other.state is NetworkState.RESERVED and now - other.requested_at >= policy.reservation:
        columns: dict[str, Any] = {"state": NetworkState.EXPIRED, "error": TOO_LATE}
    elif dead is not None and (dead.id, dead.version) == (other.id, other.version):
        columns = {"state": NetworkState.ENDED, "error": RUN_ENDED}
    else:
        return False
    network_cutovers.apply(tx, other, str(columns["state"]), at=now, by=ctx.run, **columns)
    return True


def _refusal(mine: NetworkCutover | None, other: NetworkCutover | None, ctx: RunContext) -> str:
    if other is not None and other.run != ctx.run:
        return f"cutover {other.id} of {other.run} is {other.state}"
    if mine is not None and mine.state in _OVER:
        return f"this run's cutover {mine.id} is {mine.state}; trigger a new run"
    return ""


def _open(  # noqa: PLR0913  # as above
    tx: Tx,
    place: NetworkPlace,
    mine: NetworkCutover | None,
    ctx: RunContext,
    *,
    note: str,
    request_id: str,
    state: NetworkState,
) -> NetworkCutover:
    if mine is not None and (mine.state not in _BEGINS or mine.state is state):
        return mine
    now, network = ctx.clock.now(), place.network.network
    columns: dict[str, Any] = {
        "state": state,
        "environment": place.environment.environment,
        "prefix": place.network.destination.prefix,
    }
    if mine is None:
        return network_cutovers.insert(
            tx,
            at=now,
            by=ctx.requester,
            run=ctx.run,
            run_key=run_key(ctx.run.dag_id, ctx.run.dag_run_id, network),
            network=network,
            requested_by=ctx.requester,
            note=note,
            request_id=request_id,
            **columns,
        )
    # Nothing that was found, approved or begun before counts any more, nor an approval of the very same plan: its
    # digest names when the cutover was asked for.
    reserved = mine.state is NetworkState.RESERVED
    columns |= {"plan": None, "before": None, "plan_digest": "", "extension_id": "", "times": None, "phase": ""}
    columns |= {"error": "", "requested_at": mine.requested_at if reserved else now}
    columns |= {"cancel_requested": mine.cancel_requested and reserved}
    return network_cutovers.apply(tx, mine, "admitted", at=now, by=ctx.requester, **columns)
