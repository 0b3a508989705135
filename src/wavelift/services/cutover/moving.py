"""What the tasks of one server's cutover share: its row, how it goes on, and how it fails."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from wavelift.base.domain import LaunchResult
from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun, RunContext
from wavelift.ledger import Ledger, Tx, cutovers, jobs, replication_runs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.replication.outcome import fail_run

OF_ONE_STOP = ("down", "recorded", "image")
"""Moments that belong to one stop of the source: when it is stopped again, they come again."""
LAUNCHING = "launching"
"""Moment: from then on there may be an instance of which the ledger does not know yet."""
_NOTED = (CutoverState.GOING, CutoverState.MOVING, CutoverState.FAILED, CutoverState.SWITCHED)
_OVER: Mapping[CutoverState, str] = {
    CutoverState.REVERTING: "it is being reverted",
    CutoverState.REVERTED: "it was reverted",
    CutoverState.FINALIZING: "it is being finalized",
    CutoverState.FINALIZED: "it was finalized",
    CutoverState.ENDED: "it ended before its source was touched",
    CutoverState.EXPIRED: "it ended before its source was touched",
}


def of_server(tx: Tx, ctx: RunContext, *, lock: bool = False) -> Cutover:
    """The cutover that a server has in this DAG run. :raises NotFoundError: it was never admitted."""
    return cutovers.ROWS.get(tx, cutovers.cutover_id(ctx.run_key), lock=lock)


def require_wanted(known: Cutover) -> None:
    """:raises PermanentError: a person cancelled it."""
    if known.cancel_requested:
        raise PermanentError(
            "The cutover was cancelled on request",
            server=known.server,
            cutover=known.id,
            next_step="Revert it"
            if known.state.touched
            else "Nothing was touched: trigger a new one when it is wanted",
        )


def require_state(known: Cutover, *allowed: CutoverState) -> None:
    """:raises PermanentError: it is in another state."""
    if known.state in allowed:
        return
    why = _OVER.get(known.state, f"it is {known.state}")
    raise PermanentError(
        f"The cutover does not go on: {why}",
        server=known.server,
        cutover=known.id,
        next_step="Trigger a new cutover of this server"
        if known.state in _OVER
        else f"Clear the server's {CONTINUE_FROM} task, or the run's admit task if nothing was approved yet",
    )


def moving(ledger: Ledger, task: ServerTask, ctx: RunContext) -> Cutover:
    """The server's cutover, whose source was stopped. One that failed, and of which a task was cleared, goes on.

    :raises PermanentError: it is over, was cancelled, or its window is over and the plan says to go back then.
    """
    with ledger.read() as tx:
        known = of_server(tx, ctx)
    if known.state is CutoverState.SWITCHED:
        return known
    require_wanted(known)
    require_state(known, CutoverState.MOVING, CutoverState.FAILED)
    _require_window(known, task, ctx.clock.now())
    if known.state is CutoverState.MOVING:
        return known
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        known, at = of_server(tx, ctx, lock=True), ctx.clock.now()
        if known.state is not CutoverState.FAILED:
            return known
        return cutovers.apply(tx, known, "continued", at=at, by=ctx.run, state=CutoverState.MOVING, error="")


def _require_window(known: Cutover, task: ServerTask, now: datetime) -> None:
    goes_back = task.plan.cutover is not None and task.plan.cutover.on_window_end == "revert"
    if goes_back and known.window_end is not None and now > known.window_end:
        raise PermanentError(
            f"The window ended at {known.window_end:%Y-%m-%d %H:%M} UTC, and this server was not switched",
            server=known.server,
            cutover=known.id,
            next_step="Revert the cutover: its plan says on_window_end: revert",
        )


def note(ledger: Ledger, ctx: RunContext, moments: Mapping[str, datetime], **columns: Any) -> Cutover:
    """Write when something happened, and what else is known by then. A moment that is written already stays.

    :raises PermanentError: the cutover goes back, or is over.
    """
    with ledger.read() as tx:
        wave = of_server(tx, ctx).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = of_server(tx, ctx, lock=True)
        require_state(known, *_NOTED)
        times = {**{name: at.isoformat() for name, at in moments.items()}, **(known.times or {})}
        changes = {name: value for name, value in columns.items() if getattr(known, name) != value}
        if times == (known.times or {}) and not changes:
            return known
        action = ".".join(moments) or "noted"
        return cutovers.apply(tx, known, action, at=ctx.clock.now(), by=ctx.run, times=times, **changes)


def tell(ledger: Ledger, ctx: RunContext, phase: str) -> None:
    """What the cutover does now, for lists."""
    note(ledger, ctx, {}, phase=phase)


def fail(ledger: Ledger, run: DagRun, id: str, words: str, ctx: RunContext) -> None:
    """A server's tasks failed for good. Before its source was touched, its cutover ends; after that it has failed, and
    must go on or back. A cutover in any other state stays as it is.
    """
    with ledger.read() as tx:
        known = cutovers.find(tx, id)
    if known is None or known.state not in (CutoverState.GOING, CutoverState.MOVING):
        return
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        known = cutovers.ROWS.get(tx, id, lock=True)
        if known.state not in (CutoverState.GOING, CutoverState.MOVING):
            return
        touched = known.state is CutoverState.MOVING
        state = CutoverState.FAILED if touched else CutoverState.ENDED
        cutovers.apply(tx, known, str(state), at=ctx.clock.now(), by=run, state=state, error=words)
        synced = replication_runs.find(tx, replication_runs.run_id(known.run_key))
    if not touched and synced is not None:
        fail_run(ledger, synced.id, words, clock=ctx.clock)


def last_start(known: Cutover) -> datetime | None:
    """Until when the source may be stopped: its downtime, as P90 of the forecast, must end in the window. None: there
    is no window."""
    if known.window_end is None:
        return None
    return known.window_end - timedelta(seconds=float((known.forecast or {}).get("reachable_p90_s") or 0.0))


def launched(known: Cutover) -> LaunchResult:
    return LaunchResult(server=known.server, instance_id=known.instance_id, private_ip=known.private_ip)
