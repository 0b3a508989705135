"""What a person is asked to approve in a cutover run, and whether somebody has.

Both are read in the ledger: nothing that came by XCom says what is asked, or that it was approved.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from wavelift.base.errors import NotApprovedError
from wavelift.base.run import RunContext
from wavelift.ledger import cutovers, waves
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.records import WaveRun
from wavelift.rules.approval import Question
from wavelift.rules.cutover import CutoverState
from wavelift.rules.cutover_plan import Answered, Opening, digest_of_steps, refuse_unapproved
from wavelift.rules.plans import ServerPlan
from wavelift.rules.wave_cutover import ApprovalChoice
from wavelift.services.common.admit import frozen_wave


def plan_question(ledger: Ledger, ctx: RunContext) -> Question:
    """Whether the run's plan may go. Nobody is asked if it went already."""
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        found = cutovers.of_dag_run(tx, ctx.run)
    waiting = [each for each in found if each.state is CutoverState.WAITING and each.plan_digest]
    digest = waiting[0].plan_digest if waiting else ""
    return _question(run, digest, opening_of(found), ctx)


def finalize_question(ledger: Ledger, ctx: RunContext) -> Question:
    """Whether the way back may be given up."""
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        digest = _digest_to_finalize(tx, ctx)
    return _question(run, digest, Opening(), ctx)


def require_approved(tx: Tx, run: WaveRun, digest: str, *, now: datetime, ctx: RunContext) -> None:
    """:raises NotApprovedError: nobody has approved what has this digest, or not any more."""
    newest = cutovers.newest_approval(tx, cutovers.RUN_KIND, cutovers.run_subject(ctx.run), digest)
    answered = Answered(newest.answer, newest.answered_by, newest.valid_until) if newest is not None else None
    approval = approval_of(frozen_wave(run).servers)
    refusal = refuse_unapproved(answered, approval=approval, requested_by=run.requested_by, now=now)
    if refusal is not None:
        raise NotApprovedError(refusal[0], next_step=refusal[1], wave=run.wave)


def require_finalize_approved(ledger: Ledger, ctx: RunContext) -> None:
    """:raises NotApprovedError: nobody has approved that the way back of these cutovers is given up."""
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        require_approved(tx, run, _digest_to_finalize(tx, ctx), now=ctx.clock.now(), ctx=ctx)


def approval_of(plans: Sequence[ServerPlan]) -> ApprovalChoice:
    """The strictest that one of them wants."""
    wanted = {plan.cutover.approval for plan in plans if plan.cutover is not None}
    strict: tuple[ApprovalChoice, ...] = ("four_eyes", "required")
    return next((mode for mode in strict if mode in wanted), "none")


def opening_of(found: Sequence[Cutover]) -> Opening:
    """The window of a run's cutovers, which is the same for all."""
    return Opening(found[0].window_start, found[0].window_end) if found else Opening()


def _digest_to_finalize(tx: Tx, ctx: RunContext) -> str:
    asked = cutovers.ended_by(tx, ctx.run)
    return digest_of_steps(
        [{"finalize": each.id, "server": each.server, "instance": each.instance_id} for each in asked]
    )


def _question(run: WaveRun, digest: str, opening: Opening, ctx: RunContext) -> Question:
    wave = frozen_wave(run)
    hours = min((plan.cutover.approval_hours for plan in wave.servers if plan.cutover is not None), default=24.0)
    return Question(
        kind=cutovers.RUN_KIND,
        id=cutovers.run_subject(ctx.run),
        digest=digest,
        environment=wave.environment.environment,
        mode=approval_of(wave.servers) if digest else "none",
        hours=hours,
        not_after=opening.end,
    )
