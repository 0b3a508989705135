"""What people and other DAGs ask of a network's cutover from outside its DAG runs: reserve one for a run that is made
next, cancel it, and give a person's word."""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.names import ON_DEMAND
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import Ledger, network_cutovers
from wavelift.ledger.cutover_records import StepRow
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND
from wavelift.rules.conf import NetworkConf
from wavelift.rules.flows import NETWORK
from wavelift.rules.network_cutover import NetworkState
from wavelift.services.common import persons
from wavelift.services.common.reserve import CANCELLED, NOT_MADE
from wavelift.services.dataplane.network_messages import NetworkPlace
from wavelift.services.network.ending import chosen, require_endable
from wavelift.services.network.opening import open_cutover

UNTOUCHED: Final = frozenset({NetworkState.RESERVED, NetworkState.WAITING})
CANCELLABLE: Final = UNTOUCHED | {NetworkState.GOING}
BEING_MADE: Final = frozenset({NetworkState.RESERVED, NetworkState.EXPIRED})
"""States in which the DAG run of a cutover may not be there."""


def named_run(network: str, conf: NetworkConf, request_id: str) -> DagRun:
    """The DAG run of a request that the caller named: asked with this name again, it is the same."""
    return DagRun(NETWORK.dag_id(network), f"{ON_DEMAND}{conf.mode}.{request_id}")


def reserve(
    ledger: Ledger, place: NetworkPlace, conf: NetworkConf, ctx: RunContext, *, request_id: str = ""
) -> NetworkCutover | None:
    """What a run with this conf would be refused for is refused here. In mode cutover, the cutover is reserved under
    the id of the run; in modes revert and finish it is the one that the run would end; mode plan has none.

    Asked again for the same run, it is the same cutover.

    :raises SpecError: no such cutover. :raises RefusedError: another cutover of the network is open, or the named one
        can't be ended so.
    """
    if conf.mode == "plan":
        return None
    if conf.mode == "cutover":
        state = NetworkState.RESERVED
        return open_cutover(ledger, place, ctx, note=conf.note or "", request_id=request_id, state=state)
    known = chosen(ledger, place.network.network, conf.cutover or "")
    require_endable(known, conf.mode, ctx)
    return known


def made_before(ledger: Ledger, run: DagRun) -> NetworkCutover | None:
    """The cutover that an earlier request of the same name has, if its DAG run was made."""
    with ledger.read() as tx:
        known = network_cutovers.of_dag_run(tx, run) or network_cutovers.ended_by(tx, run)
    return known if known is not None and known.state not in BEING_MADE else None


def give_back(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    """The DAG run could not be made: its reservation keeps the network from no other cutover."""
    with ledger.read() as tx:
        known = network_cutovers.of_dag_run(tx, run)
    if known is None:
        return
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.state is NetworkState.RESERVED:
            columns: dict[str, Any] = {"state": NetworkState.EXPIRED, "error": NOT_MADE}
            network_cutovers.apply(tx, now, "expired", at=clock.now(), by=now.requested_by, **columns)


def cancel(ledger: Ledger, id: str, *, by: str, clock: Clock, over: bool) -> NetworkCutover:
    """The cutover goes no further. One that touched nothing ends when its run comes to it; what was touched fails
    there, and is reverted where its file says so. May be repeated.

    :param over: its DAG run has ended or is not there: nothing comes to it any more.
    :raises PermanentError: it is over, switched, failed, on its way back, or its run has ended on its way.
    """
    with ledger.read() as tx:
        network = network_cutovers.get(tx, id).network
    with ledger.write(network_cutovers.lock_name(network)) as tx:
        known = network_cutovers.get(tx, id, lock=True)
        if known.state not in CANCELLABLE or (over and known.state is NetworkState.GOING):
            raise PermanentError(
                f"The cutover is {known.state}{', and its run has ended' if over else ''}: there is nothing to cancel",
                next_step=_instead(known),
                cutover=id,
            )
        ends = over and known.state in UNTOUCHED
        if known.cancel_requested and not ends:
            return known
        columns: dict[str, Any] = {"cancel_requested": True}
        if ends:
            columns |= {"state": NetworkState.ENDED, "error": CANCELLED}
        return network_cutovers.apply(tx, known, "cancel_requested", at=clock.now(), by=by, **columns)


def confirm(ledger: Ledger, id: str, step: str, by: str, *, said: str, clock: Clock) -> StepRow:
    """Somebody says that they did what a step asks of a person, or that they undid it.

    A word that comes late, after the cutover has turned, would else count for the other direction: nothing reads the
    network then, and nobody would route it.

    :param said: ``done`` or ``undone``.
    :raises NotFoundError: there is no such step. :raises PermanentError: nothing is asked of a person there now, or the
        opposite.
    """
    with ledger.read() as tx:
        network = network_cutovers.get(tx, id).network
    with ledger.write(network_cutovers.lock_name(network)) as tx:
        return persons.confirm(tx, NETWORK_KIND, id, step, by, said=said, at=clock.now())


def _instead(known: NetworkCutover) -> str:
    if known.state.terminal:
        return "Nothing: it is over"
    if known.state is NetworkState.FINISHING:
        return "Nothing goes back any more: let its run in mode finish end"
    if known.state is NetworkState.REVERTING:
        return "It goes back: let its run in mode revert end"
    return f"`wavelift network revert {known.id}` goes back"
