"""The last decision before anything is touched: the plan is the one that was approved, and it ends in its window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from wavelift.base.errors import PermanentError
from wavelift.base.run import RunContext
from wavelift.base.times import utc_minute
from wavelift.base.units import human_seconds
from wavelift.ledger import cutovers, jobs, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import WaveRun
from wavelift.rules.authority import Action
from wavelift.rules.cutover import CutoverState
from wavelift.rules.cutover_plan import Opening
from wavelift.services.common.authority import Rights, require_again
from wavelift.services.cutover.approvals import opening_of, require_approved

NEW_RUN: Final = "Trigger a new run"
CANCELLED: Final = "It was cancelled before its source was touched"


@dataclass(frozen=True, slots=True)
class Gone:
    """Who goes, and why others do not.

    :param servers: by name. :param left: server → why it is left alone.
    """

    servers: tuple[str, ...]
    left: Mapping[str, str]


def wait_for_window(ledger: Ledger, ctx: RunContext) -> datetime | None:
    """When the run's window begins, if it has not; None: it is open.

    :raises PermanentError: it is over, or no server is left that could go.
    """
    with ledger.read() as tx:
        found = [each for each in cutovers.of_dag_run(tx, ctx.run) if not each.state.terminal]
    if not found:
        raise PermanentError("No server of this run is left to cut over", next_step=NEW_RUN)
    if any(each.state.withholds for each in found):  # it went already, and goes on
        return None
    opening, now = opening_of(found), ctx.clock.now()
    _require_open(opening, now)
    return opening.start if opening.start is not None and now < opening.start else None


def go(ledger: Ledger, ctx: RunContext, *, rights: Rights) -> Gone:
    """Let the run's cutovers go, all in one transaction with the admission of replication runs.

    Repeated, it lets nobody go twice. A server whose cutover would not end in the window is left alone.

    :raises NotApprovedError: nobody has approved this very plan, or not any more.
    :raises PermanentError: the window is over; the plan is not of one piece; no server is left.
    :raises DeniedError: whoever asked for the run may not cut over any more.
    """
    require_again(ledger, ctx, Action.CUT_OVER, rights=rights)
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
    with ledger.write(jobs.lock_name(run.wave)) as tx:
        now = ctx.clock.now()
        found = cutovers.of_dag_run(tx, ctx.run)
        waiting = [each for each in found if each.state is CutoverState.WAITING]
        went = [each.server for each in found if each.state.withholds]
        left = {}
        if waiting:
            _require_open(opening_of(waiting), now)
            _require_approved(tx, run, waiting, now, ctx)
            left = {each.server: why for each in waiting if (why := _why_left(each, now))}
            for each in waiting:
                _let_go(tx, each, left.get(each.server, ""), now, ctx)
    going = (*went, *(each.server for each in waiting if each.server not in left))
    if not going:
        words = "; ".join(f"{server}: {why}" for server, why in left.items())
        raise PermanentError(f"No server can go: {words or 'none is waiting'}", next_step=NEW_RUN, wave=run.wave)
    return Gone(tuple(sorted(going)), left)


def _require_open(opening: Opening, now: datetime) -> None:
    if opening.over(now):
        assert opening.end is not None
        raise PermanentError(
            f"The window was over at {utc_minute(opening.end)}",
            next_step="Trigger a new run with another window",
        )


def _require_approved(tx: Tx, run: WaveRun, waiting: Sequence[Cutover], now: datetime, ctx: RunContext) -> None:
    digests = {each.plan_digest for each in waiting}
    if len(digests) != 1 or digests == {""}:
        raise PermanentError(
            "The servers of this run have no common plan: it was not made to its end",
            next_step="Clear the plan task with all that comes after it",
            wave=run.wave,
        )
    require_approved(tx, run, digests.pop(), now=now, ctx=ctx)


def _why_left(known: Cutover, now: datetime) -> str:
    if known.cancel_requested:
        return CANCELLED
    opening = Opening(known.window_start, known.window_end)
    seconds = float((known.forecast or {}).get("reachable_p90_s", 0.0))
    if not opening.ends_before(now, seconds):
        return ""
    assert opening.end is not None
    return f"its downtime may be {human_seconds(seconds)} (P90), and the window ends at {utc_minute(opening.end)}"


def _let_go(tx: Tx, known: Cutover, why_left: str, now: datetime, ctx: RunContext) -> None:
    if why_left:
        cutovers.apply(tx, known, "left", at=now, by=ctx.run, state=CutoverState.ENDED, error=why_left)
    else:
        cutovers.note_time(tx, known, "going", at=now, by=ctx.run, state=CutoverState.GOING, phase="", error="")
