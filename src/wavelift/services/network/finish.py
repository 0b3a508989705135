"""Giving the way back up: the source network is deleted, and the destination's segment gets its name."""

from __future__ import annotations

from typing import Any, Final

from wavelift.base.errors import BusyError, PermanentError
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.authority import Action
from wavelift.rules.network_cutover import DESTINATION, NetworkState, wanted
from wavelift.services.common.authority import require_again
from wavelift.services.dataplane.network_messages import Finished, FinishOrder, Looked
from wavelift.services.network.approvals import finish_digest, require_approved
from wavelift.services.network.ending import rival
from wavelift.services.network.messages import NO_WAY_BACK, changed, told
from wavelift.services.network.orders import Desk, acting_token
from wavelift.services.network.plan import blocking, states_before
from wavelift.services.network.runs import ended_by, place_of, reopen

FIRST_ORDER: Final = "finish_first"
"""In the state after: the run that was first permitted to delete the source, see :func:`run_since`."""


def run_since(ctx: RunContext, clears: int) -> str:
    """A DAG run since its last clear. :param clears: Airflow's count of them."""
    return f"{ctx.run.dag_run_id}#{clears}"


def finish_lines(ledger: Ledger, looked: Looked, ctx: RunContext) -> list[str]:
    """What is given up, for who approves it.

    :raises PermanentError: something is in the way, or the soak time is not over.
    """
    with ledger.read() as tx:
        known = ended_by(tx, ctx, "finish")
        spec = place_of(tx, known).network
    if known.state is NetworkState.SWITCHED:
        _refuse(known, looked, ctx)
    source = f"deletes {spec.source.deleted}" if spec.source.deleted else f"leaves {spec.source.network} to a person"
    renames = f", and renames {spec.destination.segment} to {spec.rename_to}" if spec.rename_to else ""
    since = known.moment("switched")
    return [
        f"{known.network}: the destination routes {known.prefix} since {utc_minute(since) if since else 'then'}",
        f"  finishing it {source}{renames}",
        f"  {NO_WAY_BACK}",
    ]


def order_finish(ledger: Ledger, looked: Looked, ctx: RunContext, desk: Desk) -> FinishOrder:
    """From here on nothing goes back. May be repeated.

    :raises PermanentError: the soak time is not over; something is in the way; the cutover is in another state.
    :raises NotApprovedError: nobody has approved it. :raises DeniedError: whoever asked may not cut over.
    """
    require_again(ledger, ctx, Action.CUT_OVER, rights=desk.rights)
    with ledger.read() as tx:
        known = ended_by(tx, ctx, "finish")
    other = rival(known, ctx)
    if other:
        raise PermanentError(
            f"Run {other} is about this cutover", next_step="Wait until it has ended", cutover=known.id
        )
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.version != known.version:
            raise BusyError("The cutover was changed at the same moment", cutover=known.id)
        if now.state is not NetworkState.FINISHING:
            _refuse(now, looked, ctx)
            require_approved(tx, finish_digest(now), ctx)
            columns: dict[str, Any] = {
                "state": NetworkState.FINISHING,
                "phase": "the way back is given up",
                "error": "",
                "after": changed(now.after, {FIRST_ORDER: run_since(ctx, desk.clear_number)}),
            }
            now = network_cutovers.note_time(tx, now, "finishing", at=ctx.clock.now(), by=ctx.run, **columns)
        place = place_of(tx, now)
    reopen(ledger, ctx)
    made = FinishOrder(
        cutover=now.id,
        place=place,
        records=(now.before or {}).get("records") or {},
        destination=wanted(DESTINATION, states_before(now)[DESTINATION]),
        digest=now.plan_digest,
        clear_number=desk.clear_number,
    )
    return made.model_copy(update={"token": acting_token(place, made.bound, now, ctx, desk)})


def finished(ledger: Ledger, done: Finished, ctx: RunContext) -> NetworkCutover:
    """It is done. May be repeated."""
    with ledger.read() as tx:
        known = ended_by(tx, ctx, "finish")
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.state is NetworkState.FINISHED:
            return now
        if now.state is not NetworkState.FINISHING or done.cutover != now.id:
            raise PermanentError(
                f"The cutover is {now.state}, and what was finished is {done.cutover}",
                next_step="Clear order_finish with downstream",
                cutover=now.id,
            )
        columns: dict[str, Any] = {
            "state": NetworkState.FINISHED,
            "phase": "; ".join(("finished", *done.notes)),
            "error": "",
            "after": changed(now.after, {"finished": done.dump()}),
        }
        return network_cutovers.note_time(tx, now, "finished", at=done.at, by=ctx.run, **columns)


def _refuse(known: NetworkCutover, looked: Looked, ctx: RunContext) -> None:
    if known.state is not NetworkState.SWITCHED:
        raise PermanentError(
            f"The cutover is {known.state}: only one that was switched can be finished",
            next_step=f"See `wavelift network show {known.id}`",
            cutover=known.id,
        )
    if known.soak_until is not None and ctx.clock.now() < known.soak_until:
        raise PermanentError(
            f"The cutover soaks until {utc_minute(known.soak_until)}",
            next_step="Trigger the run again then",
            cutover=known.id,
        )
    found = blocking(looked.findings)
    if looked.network != known.network or found:
        raise PermanentError(
            f"It can't be finished: {told(found) or 'another network was looked at'}",
            next_step="Remove the causes, then clear look_again with downstream",
            cutover=known.id,
        )
