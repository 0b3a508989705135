"""What becomes of the answer to a question: it counts or not, by the rights of this moment, and the ledger keeps it.

Only the ledger says that something was approved. Airflow's state of the task that asked is no approval: whoever may
edit a DAG run may mark that task a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from wavelift.base.errors import TamperedError
from wavelift.base.run import Requester, RunContext
from wavelift.base.times import utc_minute
from wavelift.ledger import Ledger, Tx, cutovers, events, waves
from wavelift.ledger.cutover_records import Approval
from wavelift.ledger.events import Subject
from wavelift.rules.approval import Given, Question, own_request
from wavelift.rules.authority import Denial
from wavelift.services.common.admit import frozen_environment
from wavelift.services.common.authority import Rights, tell

UNANSWERED: Final = "approval.unanswered"
LATE: Final = "approval.late"


class Verdict(StrEnum):
    """What an answer is worth."""

    APPROVED = "approved"
    REJECTED = "rejected"
    LATE = "late"
    """A yes that ended before it came: the window is over."""
    NOT_COUNTED = "not_counted"
    """Of somebody who may not answer: the question stands."""


@dataclass(frozen=True, slots=True)
class Taken:
    """The verdict, why, and the way out, in words for people; and the row of the ledger, if the answer counts."""

    verdict: Verdict
    why: str = ""
    way_out: str = ""
    approval: Approval | None = None


def take(ledger: Ledger, question: Question, given: Given, ctx: RunContext, *, rights: Rights) -> Taken:
    """Decide what an answer is worth, and write that into the ledger.

    The rights are those of this moment, and whoever may not answer cannot reject either.

    :raises TamperedError: the question names another environment than the run's.
    """
    now, bench = ctx.clock.now(), rights.at(question.environment)
    with ledger.read() as tx:
        _must_be_of_the_run(tx, question, ctx)
        denial = bench.decide(tx, Requester(given.user), question.action, now=now)
    denial = denial or own_request(question.mode, ctx.asker, given)
    if denial is not None:
        return _not_counted(ledger, question, given, denial, ctx)
    ends = question.valid_until(given.at)
    if given.approves and ends <= now:
        until = utc_minute(ends)
        _event(ledger, question, LATE, given.user, ctx, until=until)
        return Taken(Verdict.LATE, f"{given.user} approved it, which counted until {until} only")
    with ledger.write() as tx:
        kept = cutovers.approve(
            tx,
            question.kind,
            question.id,
            question.digest,
            answer="approve" if given.approves else "reject",
            by=given.user,
            requested_by=str(ctx.asker),
            valid=ends - now,
            clock=ctx.clock,
            run=ctx.run,
        )
    if given.approves:
        return Taken(Verdict.APPROVED, approval=kept)
    return Taken(Verdict.REJECTED, f"{given.user} rejected it", approval=kept)


def standing(ledger: Ledger, question: Question, *, since: datetime) -> Taken | None:
    """The answer that an earlier try took and could not report to Airflow; None: nobody answered since the question."""
    with ledger.read() as tx:
        kept = cutovers.newest_approval(tx, question.kind, question.id, question.digest)
    if kept is None or kept.answered_at < since:
        return None
    if kept.answer == "approve":
        return Taken(Verdict.APPROVED, approval=kept)
    return Taken(Verdict.REJECTED, f"{kept.answered_by} rejected it", approval=kept)


def unanswered(ledger: Ledger, question: Question, ctx: RunContext) -> None:
    """Nobody answered in time, or nobody whose answer counts."""
    _event(ledger, question, UNANSWERED, "airflow", ctx, hours=question.hours)


def _must_be_of_the_run(tx: Tx, question: Question, ctx: RunContext) -> None:
    run = waves.find(tx, ctx.run)
    if run is not None and (frozen := frozen_environment(run)) != question.environment:
        raise TamperedError(
            "The question is about another environment than the run's",
            field="environment",
            expected=frozen,
            found=question.environment,
        )


def _not_counted(ledger: Ledger, question: Question, given: Given, denial: Denial, ctx: RunContext) -> Taken:
    with ledger.write() as tx:
        tell(
            tx,
            denial,
            Requester(given.user),
            question.environment,
            question.action,
            at=ctx.clock.now(),
            subject=_subject(question, ctx),
            answer="approve" if given.approves else "reject",
            digest=question.digest,
        )
    return Taken(Verdict.NOT_COUNTED, denial.why, denial.way_out)


def _subject(question: Question, ctx: RunContext) -> Subject:
    return Subject(question.kind, question.id, ctx.run)


def _about(question: Question) -> dict[str, Any]:
    return {"environment": question.environment, "digest": question.digest, "mode": question.mode}


def _event(ledger: Ledger, question: Question, action: str, actor: str, ctx: RunContext, **details: Any) -> None:
    with ledger.write() as tx:
        said = {**_about(question), **details}
        events.append(tx, _subject(question, ctx), action, at=ctx.clock.now(), actor=actor, details=said)
