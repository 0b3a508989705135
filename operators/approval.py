"""Asks a person before something that cannot simply be taken back: cutover, finalize, a change of the network."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Final, NoReturn

from airflow.providers.standard.operators.hitl import ApprovalOperator

from wavelift.base.errors import NotApprovedError
from wavelift.operators._base import StateStore
from wavelift.operators.control._plane import WaveRunOperator
from wavelift.rules.approval import Given, Question

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from wavelift.services.common.approval import Taken

WAIT: Final = "approval_wait"
"""Key of the task state store: when the wait began and ends, and of which clear of the run that is."""
ANSWER: Final = "approval_answer"
"""Key of the task state store: an answer of which the ledger does not know yet, and the digest that it is about."""
ASKED: Final = "approval_asked"
"""Key of the task state store: the digest of what the person was shown."""
ASK_AGAIN: Final = "Clear this task to ask again, or trigger a new run"


class ApproveOperator(WaveRunOperator, ApprovalOperator):
    """Wait, without a worker, until somebody who may approve does so.

    Control plane. Airflow's page of required actions lets everybody answer who may edit the DAG run; this operator then
    asks the ledger and the environment's files whether the answer counts. If not, that is an event in the audit trail,
    and the question stands for the rest of the time. The approval itself is a row of the ledger, which a later task
    must read: a task that somebody marked a success has approved nothing. If the plan was made anew since the person
    was asked, the answer does not count, and it is asked again. A rejection, or no answer in time, fails the task
    without another try, since a retry would ask again. An approval whose ledger was away is kept and tried again.

    :param question: a :class:`~wavelift.rules.approval.Question` as a dict; none where :meth:`asked` is overridden.
    :param subject: the question in one line. :param body: what is approved, in Markdown.
    """

    # Users are known by name and group, at the moment of the answer: not by ids that a DAG file fixed. And silence is
    # no yes.
    FIXED_ARGS = [*ApprovalOperator.FIXED_ARGS, "assigned_users", "defaults"]
    template_inputs: ClassVar[tuple[str, ...]] = ("question", "subject", "body")
    question: Any = None

    def __init__(self, *, question: Any = None, subject: str, body: str | None = None, **kwargs: Any) -> None:
        super().__init__(subject=subject, body=body, **kwargs)
        self.question = question

    def asked(self, context: Context) -> Question:
        """What is asked. It came by XCom: a flow whose ledger knows the plan overrides this, and reads it there."""
        return Question.load(self.question)

    def work(self, context: Context) -> Any:
        question = self.asked(context)
        if question.mode == "none":
            self.log.info("nobody is asked: the wave's spec says 'approval: none'")
            return None
        kept = self._state(context).get(ANSWER)
        if kept is not None and kept["digest"] == question.digest:  # an earlier try had it, and could not write it
            return self._take(context, question, Given.load(kept["given"]))
        known = self._standing(context, question)
        if known is not None:
            return self._approved(known)
        self._ask(context, question)

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Somebody answered, or the time is over."""
        with self.failing_in_words(context):
            return self.answered(context, event)

    def answered(self, context: Context, event: dict[str, Any]) -> Any:
        """What the task returns then. :raises NotApprovedError: nobody may have approved it."""
        question = self.asked(context)
        if event.get("error_type") == "timeout":
            self._nobody(context, question)
        if "error" in event:
            raise NotApprovedError(f"Airflow could not take the answer: {event['error']}", next_step=ASK_AGAIN)
        given, state = given_of(event, self.APPROVE), self._state(context)
        if state.get(ASKED) != question.digest:
            self.log.warning("the plan was made anew since %s was asked: the answer is to another one", given.user)
            self._ask(context, question)
        state.set(ANSWER, {"digest": question.digest, "given": given.dump()})
        return self._take(context, question, given)

    def _take(self, context: Context, question: Question, given: Given) -> dict[str, Any]:
        from wavelift.services.common.approval import Verdict, take

        known = self._standing(context, question)
        if known is None or known.approval is None or known.approval.answered_by != given.user:
            with self.ledger() as ledger:
                ctx = self.server_context(context)
                taken = take(ledger, question, given, ctx, rights=self.rights())
        else:  # the REST API, or an earlier try, wrote it already
            taken = known
        self._state(context).delete(ANSWER)
        if taken.verdict is Verdict.NOT_COUNTED:
            self.log.warning("the answer does not count: %s. %s", taken.why, taken.way_out)
            self._ask(context, question)
        return self._approved(taken)

    def _approved(self, taken: Taken) -> dict[str, Any]:
        from wavelift.services.common.approval import Verdict

        approval = taken.approval
        if taken.verdict is not Verdict.APPROVED or approval is None:
            raise NotApprovedError(f"It was not approved: {taken.why}", next_step=ASK_AGAIN)
        self.log.info("%s approved it; that counts until %s", approval.answered_by, approval.valid_until)
        return {
            "digest": approval.digest,
            "approved_by": approval.answered_by,
            "valid_until": approval.valid_until.isoformat(),
        }

    def _ask(self, context: Context, question: Question) -> NoReturn:
        """Park the task until the next answer, or the end of the wait."""
        left = self._wait(context, question)[1] - datetime.now(UTC)
        if left <= timedelta(0):
            self._nobody(context, question)
        self.response_timeout = left
        self._state(context).set(ASKED, question.digest)
        ApprovalOperator.execute(self, context)
        raise AssertionError("a task that waits for a person does not return")

    def _wait(self, context: Context, question: Question) -> tuple[datetime, datetime]:
        """Begin and end of the wait: the same for all questions and tries, and others after a clear."""
        state, clear = self._state(context), getattr(context["dag_run"], "clear_number", 0)
        kept = state.get(WAIT)
        if kept is None or kept["clear"] != clear:
            begin = datetime.now(UTC)
            end = begin + timedelta(hours=question.hours)
            kept = {"clear": clear, "begin": begin.isoformat(), "end": end.isoformat()}
            state.set(WAIT, kept)
        return datetime.fromisoformat(kept["begin"]), datetime.fromisoformat(kept["end"])

    def _standing(self, context: Context, question: Question) -> Taken | None:
        """Airflow may take a task that was woken soon after it was parked for a dead one, and try it again."""
        from wavelift.services.common.approval import standing

        begin, _ = self._wait(context, question)
        with self.ledger() as ledger:
            return standing(ledger, question, since=begin)

    def _nobody(self, context: Context, question: Question) -> NoReturn:
        from wavelift.services.common.approval import unanswered

        with self.ledger() as ledger:
            unanswered(ledger, question, self.server_context(context))
        hours = f"{question.hours:g} h"
        raise NotApprovedError(f"Nobody who may approve it answered within {hours}", next_step=ASK_AGAIN)

    @staticmethod
    def _state(context: Context) -> StateStore:
        return StateStore(context["task_state_store"])


def given_of(event: Mapping[str, Any], approve: str) -> Given:
    """The answer in Airflow's event. A user's *name* is what DAG runs and the environments' files have, too."""
    user = event.get("responded_by_user") or {}
    return Given(
        user=str(user.get("name") or ""), approves=event["chosen_options"] == [approve], at=event["responded_at"]
    )
