"""What a person is asked to approve in a live run, and whether somebody has. Both are read in the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from wavelift.base.errors import NotApprovedError, PermanentError
from wavelift.base.run import RunContext
from wavelift.ledger import cutovers, live_migrations, waves
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.ledger.records import WaveRun
from wavelift.rules.approval import MOST_HOURS, Question
from wavelift.rules.authority import Action
from wavelift.rules.cutover_plan import Answered, refuse_unapproved
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.rules.live_plans import ResolvedLive
from wavelift.rules.wave_cutover import ApprovalChoice
from wavelift.services.live_migration.admit import LAST_YES
from wavelift.services.live_migration.runs import RUN_KIND, SWITCHOVER_KIND, frozen_live, hcx_has_window, run_subject

_SHORTEST: float = 1 / 3600
"""Hours. A question whose time is over is asked for a second, and then nobody has answered."""


def plan_question(ledger: Ledger, ctx: RunContext) -> Question:
    """Whether the run's plan may go. Nobody is asked if it went already."""
    with ledger.read() as tx:
        wave = frozen_live(waves.get(tx, ctx.run))
        found = live_migrations.of_dag_run(tx, ctx.run)
    waiting = [each for each in found if each.state is LiveState.WAITING and each.plan_digest]
    digest = waiting[0].plan_digest if waiting else ""
    return Question(
        kind=RUN_KIND,
        id=run_subject(ctx.run),
        digest=digest,
        environment=wave.environment.environment,
        action=Action.MIGRATE,
        mode=approval_of(wave) if digest else "none",
        hours=wave.approval_hours,
        not_after=wave.window.end if wave.window is not None else None,
    )


def switchover_question(ledger: Ledger, ctx: RunContext) -> Question:
    """Whether HCX may switch over what it moves. Nobody is asked if it moves nothing, or the wave does not want it."""
    with ledger.read() as tx:
        wave = frozen_live(waves.get(tx, ctx.run))
        found = [each for each in live_migrations.of_dag_run(tx, ctx.run) if each.state in IN_HCX]
    ends, now = last_yes(wave), ctx.clock.now()
    hours = _SHORTEST if ends is None else (ends - now).total_seconds() / 3600
    return Question(
        kind=SWITCHOVER_KIND,
        id=run_subject(ctx.run),
        digest=found[0].plan_digest if found else "",
        environment=wave.environment.environment,
        action=Action.MIGRATE,
        mode=("four_eyes" if wave.approve == "four_eyes" else "required") if found and ends is not None else "none",
        hours=min(max(hours, _SHORTEST), MOST_HOURS),
        # A yes holds for the whole window; until when one may come, the hours say.
        not_after=wave.window.end if wave.window is not None else None,
    )


def last_yes(wave: ResolvedLive) -> datetime | None:
    """Until when the switchover must be approved; None: it is not asked for by itself."""
    if not (wave.approve_switchover and hcx_has_window(wave)) or wave.window is None:
        return None
    return wave.window.start - LAST_YES


def approval_of(wave: ResolvedLive) -> ApprovalChoice:
    """A type that HCX can't hold back starts only after a yes, if its switchover is to be approved."""
    return (
        "required" if wave.approve == "none" and wave.approve_switchover and not hcx_has_window(wave) else wave.approve
    )


def require_approved(tx: Tx, run: WaveRun, waiting: Sequence[LiveMigration], now: datetime, ctx: RunContext) -> None:
    """:raises NotApprovedError: nobody has approved this very plan, or not any more.
    :raises PermanentError: the plan was not made to its end."""
    digests = {each.plan_digest for each in waiting}
    if len(digests) != 1 or digests == {""}:
        raise PermanentError(
            "The servers of this run have no common plan: it was not made to its end",
            next_step="Clear the plan task with all that comes after it",
            wave=run.wave,
        )
    newest = cutovers.newest_approval(tx, RUN_KIND, run_subject(ctx.run), digests.pop())
    answered = Answered(newest.answer, newest.answered_by, newest.valid_until) if newest is not None else None
    approval = approval_of(frozen_live(run))
    refusal = refuse_unapproved(answered, approval=approval, requested_by=run.requested_by, now=now)
    if refusal is not None:
        raise NotApprovedError(refusal[0], next_step=refusal[1], wave=run.wave)
