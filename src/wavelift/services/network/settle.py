"""A network's cutover has arrived: at the destination, or back at the source."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.rules.cutover import StepState
from wavelift.rules.network_cutover import DESTINATION, SOURCE, STEPS, NetworkState, undone
from wavelift.services.dataplane.network_messages import Acted, Probed, ProbeOrder
from wavelift.services.network.messages import changed
from wavelift.services.network.orders import GO_ON, rows_of, write_acted
from wavelift.services.network.runs import ended_by, opened_by, place_of


def probe_order(ledger: Ledger, ctx: RunContext) -> ProbeOrder:
    """What is asked once the destination routes; perhaps nothing, as the file says."""
    with ledger.read() as tx:
        known = opened_by(tx, ctx)
        spec = place_of(tx, known).network
    checks = spec.probes.checks if spec.probes is not None else ()
    return ProbeOrder(cutover=known.id, network=known.network, checks=checks, since=ctx.clock.now())


def settle(ledger: Ledger, acted: Acted, probed: Probed, ctx: RunContext) -> NetworkCutover:
    """The destination routes the network, and was probed: the soak time begins. May be repeated.

    :raises PermanentError: it was cancelled, is not under way, or something of it was not done.
    """
    with ledger.read() as tx:
        known = opened_by(tx, ctx)
        spec = place_of(tx, known).network
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.state is NetworkState.SWITCHED:
            return now
        _require_going(now)
        if probed.cutover != now.id:
            raise PermanentError(
                "The network was not probed",
                next_step="Clear the probe task with downstream",
                cutover=now.id,
            )
        now = write_acted(tx, now, acted, DESTINATION, "forward", ctx)
        open_steps = [row.name for row in rows_of(tx, now).values() if row.state is not StepState.SETTLED]
        if open_steps:
            raise PermanentError(
                f"Steps are not done: {', '.join(open_steps)}",
                next_step=GO_ON,
                cutover=now.id,
            )
        at = ctx.clock.now()
        now = network_cutovers.note_time(tx, now, "probed", at=probed.at, by=ctx.run, probes=probed.dump())
        columns: dict[str, Any] = {
            "state": NetworkState.SWITCHED,
            "phase": "the destination routes the network",
            "error": "",
            "alert": "",
            "after": changed(now.after, {"note": acted.note, "at": acted.at.isoformat()}),
            "soak_until": at + timedelta(hours=spec.soak_hours),
        }
        return network_cutovers.note_time(tx, now, "switched", at=at, by=ctx.run, **columns)


def reverted(ledger: Ledger, acted: Acted | None, ctx: RunContext) -> NetworkCutover:
    """The source routes the network again. May be repeated.

    :param acted: what connecting the source returned.
    :raises PermanentError: something was not undone.
    """
    with ledger.read() as tx:
        known = ended_by(tx, ctx, "revert")
    with ledger.write(network_cutovers.lock_name(known.network)) as tx:
        now = network_cutovers.get(tx, known.id, lock=True)
        if now.state is NetworkState.REVERTED:
            return now
        if now.state is not NetworkState.REVERTING or acted is None:
            raise PermanentError(
                f"The cutover is {now.state}, and nothing shows that it is undone",
                next_step="Clear order_isolate with downstream",
                cutover=now.id,
            )
        now = write_acted(tx, now, acted, SOURCE, "back", ctx)
        states = {name: row.state for name, row in rows_of(tx, now).items() if name in STEPS}
        if not undone(states.values()):
            left = ", ".join(name for name, state in states.items() if not undone([state]))
            raise PermanentError(f"Not undone: {left}", next_step="Clear order_isolate with downstream", cutover=now.id)
        columns: dict[str, Any] = {
            "state": NetworkState.REVERTED,
            "phase": "the source routes the network",
            "alert": "",
        }
        return network_cutovers.note_time(tx, now, "reverted", at=ctx.clock.now(), by=ctx.run, **columns)


def _require_going(known: NetworkCutover) -> None:
    if known.cancel_requested:
        raise PermanentError("The cutover was cancelled on request", next_step=GO_ON, cutover=known.id)
    if known.state is not NetworkState.GOING:
        raise PermanentError(f"The cutover is {known.state}, not under way", next_step=GO_ON, cutover=known.id)
