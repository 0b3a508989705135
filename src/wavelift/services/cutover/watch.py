"""Upkeep of open cutovers: sources that must stay off are watched, and a server that nobody serves is an alarm.

Both only tell, unless a server's file says ``fence: enforce``: then a source that is on, or connected, is disconnected
again.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from wavelift.base.domain import Instant, Message
from wavelift.base.errors import WaveliftError
from wavelift.base.run import DagRun, Requester, RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, cutovers, events, jobs
from wavelift.ledger.cutover_records import Cutover
from wavelift.rules.authority import Action
from wavelift.rules.cutover import CutoverState, SourceBefore
from wavelift.services.common.authority import Rights
from wavelift.services.cutover.back import ALERT, alert, grant_for
from wavelift.services.cutover.plans import plan_of_cutover
from wavelift.services.dataplane.cutover_messages import SeenSource, SourceToStart, WatchedSource

WATCHED: Final = (CutoverState.SWITCHED, CutoverState.MOVING, CutoverState.FAILED, CutoverState.FINALIZING)
FENCE_LIFETIME: Final = timedelta(minutes=2)
"""Of the grant to fence a source again. A revert waits until it is over: it must not fence what has just come back."""
LONGEST_DOWN: Final = timedelta(minutes=60)
"""How long a server may be down before people are told although its run goes on, where its file has no
``downtime_minutes``."""
FENCE_GRANTED: Final = "fence_granted"
"""Moment of a cutover: the newest grant to fence its source again."""


class Alert(Message):
    """Somebody must act. Of the same words of one cutover there is one, until something else was told."""

    cutover: str
    server: str
    wave: str
    words: str
    since: Instant
    about: str = ""
    """What tells it from others of the same cutover and instant."""


class Judged(Message):
    """What the looks at sources showed, and which are to be fenced again."""

    wrong: tuple[Alert, ...] = ()
    fence: tuple[SourceToStart, ...] = ()


def watched(ledger: Ledger, connector: str) -> tuple[WatchedSource, ...]:
    """The sources on a connector that were stopped and fenced, and must stay so."""
    with ledger.read() as tx:
        found = cutovers.everything_open(tx, *WATCHED)
    kept = []
    for each in found:
        if each.source is None or each.moment("down") is None:
            continue
        before = SourceBefore.load(each.source)
        if before.connector == connector:
            kept.append(WatchedSource(server=each.server, cutover=each.id, connection=before.connection, vm=before.vm))
    return tuple(kept)


def judge(ledger: Ledger, seen: Collection[SeenSource], ctx: RunContext, *, rights: Rights, key_file: Path) -> Judged:
    """Alert for each source that is not as it must be, once for each change; grant the fence where its file says so.

    The right to fence is that of whoever asked for the cutover, as it is now.
    """
    wrong: list[Alert] = []
    fence: list[SourceToStart] = []
    for each in seen:
        if not (each.error or each.wrong):
            continue
        with ledger.read() as tx:
            known = cutovers.find(tx, each.cutover)
        if known is None or known.state not in WATCHED or known.source is None:
            continue
        if each.error:
            # Once a day: the error's own words may differ at each look.
            today = f"{ctx.clock.now():%Y-%m-%d}"
            words = f"{known.server}: {today}, nobody can tell whether its source stays off: it could not be looked at"
            wrong.append(_alert_once(ledger, known, "fence", words, ctx))
            continue
        words = f"{known.server}: its source must stay off, and {each.wrong}"
        wrong.append(_alert_once(ledger, known, "fence", words, ctx))
        if _enforces(ledger, known, ctx, rights):
            granted = _grant(ledger, known, ctx, key_file)
            fence += [granted] if granted is not None else []
    return Judged(wrong=tuple(wrong), fence=tuple(fence))


def _enforces(ledger: Ledger, known: Cutover, ctx: RunContext, rights: Rights) -> bool:
    try:
        plan = plan_of_cutover(ledger, known)
    except WaveliftError:
        return False
    if plan.cutover is None or plan.cutover.fence != "enforce":
        return False
    bench = rights.at(known.environment or plan.target.environment)
    with ledger.read() as tx:
        denial = bench.decide(tx, Requester(known.requested_by), Action.CUT_OVER, now=ctx.clock.now())
    return denial is None


def _grant(ledger: Ledger, known: Cutover, ctx: RunContext, key_file: Path) -> SourceToStart | None:
    now = ctx.clock.now()
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        known = cutovers.get(tx, known.id, lock=True)
        if known.state not in WATCHED or known.source is None:
            return None
        times = {**(known.times or {}), FENCE_GRANTED: now.isoformat()}
        cutovers.apply(tx, known, FENCE_GRANTED, at=now, by=str(ctx.run), times=times)
    environment = known.environment or plan_of_cutover(ledger, known).target.environment
    source = SourceToStart(
        server=known.server, cutover=known.id, environment=environment, before=SourceBefore.load(known.source)
    )
    return grant_for(source, key_file, ctx, lifetime=FENCE_LIFETIME)


def alarm(ledger: Ledger, ctx: RunContext) -> tuple[Alert, ...]:
    """Alert for each server that perhaps nobody serves: its source was touched, it is not switched, and no run is about
    it any more, or it has been down for too long. Once for each change of its cutover."""
    with ledger.read() as tx:
        found = cutovers.everything_open(tx, CutoverState.MOVING, CutoverState.FAILED, CutoverState.REVERTING)
    told = []
    for each in found:
        runs = {DagRun(each.dag_id, id) for id in (each.dag_run_id, each.revert_run) if id}
        if any(ctx.liveness.run(run) for run in runs):
            if words := _down_too_long(ledger, each, ctx.clock.now()):
                told.append(_alert_once(ledger, each, "nobody_serves", words, ctx))
            continue
        way_out = "clear the undo task of its last revert" if each.revert_run else "revert it, or clear its failed task"
        words = (
            f"{each.server}: perhaps nobody serves it. Its cutover {each.id} is {each.state}, and no run is about it "
            f"any more: {way_out}. {each.error}".rstrip()
        )
        told.append(_alert_once(ledger, each, "nobody_serves", words, ctx))
    return tuple(told)


def _down_too_long(ledger: Ledger, known: Cutover, now: datetime) -> str:
    """Why somebody should look at a cutover whose run goes on; empty: it is in time. What waits, such as a step that a
    person does, waits without limit."""
    # What was switched serves until its way back begins.
    back = known.state is CutoverState.REVERTING and known.moment("switched") is not None
    since = known.moment("reverting" if back else "down")
    bound = _downtime(ledger, known)
    if since is None or now - since <= bound:
        return ""
    return (
        f"{known.server}: perhaps nobody has served it since {utc_minute(since)}, longer than "
        f"{bound.total_seconds() / 60:g} minutes. Its cutover {known.id} is {known.state}, and its run goes on: see "
        f"what it waits for with `wavelift cutover show {known.id}`"
    )


def _downtime(ledger: Ledger, known: Cutover) -> timedelta:
    try:
        plan = plan_of_cutover(ledger, known)
    except WaveliftError:
        return LONGEST_DOWN
    minutes = plan.cutover.downtime_minutes if plan.cutover is not None else None
    return LONGEST_DOWN if minutes is None else timedelta(minutes=minutes)


def _alert_once(ledger: Ledger, known: Cutover, kind: str, words: str, ctx: RunContext) -> Alert:
    """The same words of the same kind are told once, until something else was."""
    since = ctx.clock.now()
    with ledger.write(jobs.lock_name(known.wave)) as tx:
        last = events.last_details(tx, object_id=known.id, action=ALERT)
        if last is not None and (last.get("kind"), last.get("words")) == (kind, words):
            since = datetime.fromisoformat(str(last["at"]))
        else:
            alert(tx, known, kind, words, at=since, by=str(ctx.run))
    return Alert(cutover=known.id, server=known.server, wave=known.wave, words=words, since=since)
