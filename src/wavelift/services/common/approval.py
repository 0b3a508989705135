"""What becomes of the answer to a question: it counts or not, by the rights of this moment, and the ledger keeps it.

Only the ledger says that something was approved. Airflow's state of the task that asked is no approval: whoever may
edit a DAG run may mark that task a success.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol

from wavelift.base.errors import TamperedError
from wavelift.base.run import DagRun, Requester, RunContext
from wavelift.ledger import Ledger, Tx, events, waves
from wavelift.ledger.events import Subject
from wavelift.rules.approval import ApprovalMode, Given, Question, own_request
from wavelift.rules.authority import Action, Denial
from wavelift.services.common.admit import frozen_environment
from wavelift.services.common.authority import Rights, tell

GRANTED: Final = "approval.granted"
REJECTED: Final = "approval.rejected"
UNANSWERED: Final = "approval.unanswered"
EXPIRED: Final = "approval.late"


class Verdict(StrEnum):
    """What an answer is worth."""

    APPROVED = "approved"
    REJECTED = "rejected"
    LATE = "late"
    """A yes that ended before it came: the window is over."""
    NOT_COUNTED = "not_counted"
    """Of somebody who may not answer: the question stands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An approval, as the ledger keeps it. ``kind`` and ``id`` say of what, ``digest`` of which plan."""

    kind: str
    id: str
    digest: str
    mode: ApprovalMode
    approver: str
    requester: str
    at: datetime
    valid_until: datetime
    run: DagRun


class Record(Protocol):
    """Writes an approval into the ledger; a repeated call for the same subject and digest changes nothing."""

    def __call__(self, tx: Tx, answer: Answer) -> None: ...


@dataclass(frozen=True, slots=True)
class Taken:
    """The verdict, why, and the way out, in words for people; and the approval, if it is one."""

    verdict: Verdict
    why: str = ""
    way_out: str = ""
    answer: Answer | None = None


def take(ledger: Ledger, question: Question, given: Given, ctx: RunContext, *, rights: Rights, record: Record) -> Taken:
    """Decide what an answer is worth, and write that into the ledger.

    The rights are those of this moment, and whoever may not answer cannot reject either.

    :raises TamperedError: the question names another environment than the run's.
    """
    now, answering = ctx.clock.now(), Requester(given.user)
    bench = rights.at(question.environment)
    with ledger.read() as tx:
        _must_be_of_the_run(tx, question, ctx)
        denial = bench.decide(tx, answering, Action.CUT_OVER, now=now)
    denial = denial or own_request(question.mode, ctx.asker, given)
    if denial is not None:
        return _not_counted(ledger, question, given, denial, ctx)
    if not given.approves:
        _event(ledger, question, REJECTED, given.user, ctx)
        return Taken(Verdict.REJECTED, f"{given.user} rejected it")
    answer = _answer(question, given, ctx)
    if answer.valid_until <= now:
        ended = answer.valid_until.isoformat(timespec="minutes")
        _event(ledger, question, EXPIRED, given.user, ctx, ended=ended)
        return Taken(Verdict.LATE, f"{given.user} approved it, but it could be approved until {ended} only")
    with ledger.write() as tx:
        record(tx, answer)
        said = {**_about(question), "valid_until": answer.valid_until.isoformat()}
        events.append(tx, _subject(question, ctx), GRANTED, at=given.at, actor=given.user, details=said)
    return Taken(Verdict.APPROVED, answer=answer)


def unanswered(ledger: Ledger, question: Question, ctx: RunContext) -> None:
    """Nobody answered in time, or nobody whose answer counts."""
    _event(ledger, question, UNANSWERED, "airflow", ctx, wait_minutes=question.wait_minutes)


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
            Action.CUT_OVER,
            at=ctx.clock.now(),
            subject=_subject(question, ctx),
            answer="approve" if given.approves else "reject",
            digest=question.digest,
        )
    return Taken(Verdict.NOT_COUNTED, denial.why, denial.way_out)


def _answer(question: Question, given: Given, ctx: RunContext) -> Answer:
    return Answer(
        kind=question.kind,
        id=question.id,
        digest=question.digest,
        mode=question.mode,
        approver=given.user,
        requester=str(ctx.asker),
        at=given.at,
        valid_until=question.valid_until(given.at),
        run=ctx.run,
    )


def _subject(question: Question, ctx: RunContext) -> Subject:
    return Subject(question.kind, question.id, ctx.run)


def _about(question: Question) -> dict[str, Any]:
    return {"environment": question.environment, "digest": question.digest, "mode": question.mode.value}


def _event(ledger: Ledger, question: Question, action: str, actor: str, ctx: RunContext, **details: Any) -> None:
    with ledger.write() as tx:
        said = {**_about(question), **details}
        events.append(tx, _subject(question, ctx), action, at=ctx.clock.now(), actor=actor, details=said)
