"""What people ask of cutovers from outside a DAG run: reserve them for a run that is made next, and cancel."""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import Clock, DagRun, RunContext
from wavelift.ledger import Ledger, cutovers, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.conf import CutoverConf
from wavelift.rules.cutover import CutoverState
from wavelift.rules.cutover_plan import opening
from wavelift.rules.plans import ResolvedWave
from wavelift.services.common.reserve import CANCELLED, refuse_in_maintenance, require_same_servers
from wavelift.services.common.reserve import NOT_MADE as NOT_MADE
from wavelift.services.cutover.admit import chosen_servers, refuse_under_way, wanted_of
from wavelift.services.cutover.opening import Terms, open_cutovers

UNTOUCHED: Final = frozenset({CutoverState.RESERVED, CutoverState.WAITING, CutoverState.GOING})
CANCELLABLE: Final = UNTOUCHED | {CutoverState.MOVING}


def reserve(
    ledger: Ledger, wave: ResolvedWave, conf: CutoverConf, ctx: RunContext, *, request_id: str = ""
) -> tuple[Cutover, ...]:
    """What a run with this conf would be refused for is refused here. In mode cutover its cutovers are reserved under
    the id of the run, all of them or none; the other modes open none.

    :raises SpecError: an unknown server, or one without cutover section; a window that is none, or over.
    :raises RefusedError: a server has another open cutover, or no replication job; the connector is in maintenance.
    """
    servers, chosen = chosen_servers(ledger, wave, conf.servers)
    spec = next((plan.cutover.window for plan in chosen.servers if plan.cutover is not None), None)
    window = opening(conf.window_start, conf.window_end, spec, ctx.clock.now())
    if conf.mode == "prepare":
        refuse_under_way(ledger, wave.wave, servers, ctx)
    if conf.mode != "cutover":
        return ()
    with ledger.read() as tx:
        refuse_in_maintenance(tx, wave.connector, wave=wave.wave)
    terms = Terms(opening=window, note=conf.note or "", request_id=request_id)
    return open_cutovers(ledger, wave.wave, wanted_of(chosen, servers), terms, ctx, state=CutoverState.RESERVED)


def made_before(ledger: Ledger, run: DagRun, conf: CutoverConf) -> tuple[Cutover, ...]:
    """The cutovers that an earlier request of the same name has.

    :raises PermanentError: that one was about other servers.
    """
    with ledger.read() as tx:
        found = cutovers.of_dag_run(tx, run)
    require_same_servers({each.server for each in found}, conf.servers, run)
    return found


def give_back(ledger: Ledger, run: DagRun, clock: Clock) -> None:
    """The DAG run could not be made: its reservations keep no server from another cutover."""
    with ledger.read() as tx:
        found = cutovers.of_dag_run(tx, run)
    if not found:
        return
    with ledger.write(jobs.lock_name(found[0].wave)) as tx:
        for each in cutovers.of_dag_run(tx, run):
            if each.state is CutoverState.RESERVED:
                columns: dict[str, Any] = {"state": CutoverState.EXPIRED, "error": NOT_MADE}
                cutovers.apply(tx, each, "expired", at=clock.now(), by=each.requested_by, **columns)


def cancel(ledger: Ledger, id: str, *, by: str, clock: Clock, over: bool) -> Cutover:
    """The cutover goes no further. What was not touched ends when its run comes to it; what was touched fails there,
    and is reverted where its plan says so. May be repeated.

    :param over: its DAG run has ended or is not there: nothing comes to it any more.
    :raises PermanentError: it is over, or it is switched, failed, or on its way back.
    """
    with ledger.read() as tx:
        wave = cutovers.get(tx, id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = cutovers.get(tx, id, lock=True)
        if known.state not in CANCELLABLE:
            raise PermanentError(
                f"The cutover is {known.state}: there is nothing to cancel",
                next_step="Nothing: it is over"
                if known.state.terminal
                else f"`wavelift cutover revert {id}` goes back",
                cutover=id,
                server=known.server,
            )
        ends = over and known.state in UNTOUCHED
        if known.cancel_requested and not ends:
            return known
        columns: dict[str, Any] = {"cancel_requested": True}
        if ends:
            columns |= {"state": CutoverState.ENDED, "error": CANCELLED}
        return cutovers.apply(tx, known, "cancel_requested", at=clock.now(), by=by, **columns)
