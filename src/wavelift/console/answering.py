"""Answering what a run asks of a person (its plan, or that its way back is given up), through the REST API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from wavelift.airflow.rest import ApiClient
from wavelift.base.errors import PermanentError
from wavelift.base.run import DagRun, Requester, RunContext, SystemClock
from wavelift.console.caller import Caller
from wavelift.console.cutover_answers import CutoverAnswered
from wavelift.console.on_demand import context_of
from wavelift.console.requests import ApprovalBody
from wavelift.ledger import Ledger, WaveRun, waves
from wavelift.rules.approval import Given, Question, own_request
from wavelift.rules.authority import Action
from wavelift.rules.wave_cutover import ApprovalChoice
from wavelift.services.common.approval import standing, take

JUST_NOW: Final = timedelta(seconds=10)
"""What the run wrote in this time is the same answer."""
OPTIONS: Final = {"approve": "Approve", "reject": "Reject"}
"""The words of Airflow's ApprovalOperator."""


@dataclass(frozen=True, slots=True)
class Asking:
    """What the runs of a flow ask.

    :param questions: id of a task that asks → what it asks, by the ledger. :param mode: who may answer, as a run froze.
    :param action: which right an answer needs, in the environments of the run.
    """

    questions: Mapping[str, Callable[[Ledger, RunContext], Question]]
    mode: Callable[[WaveRun], ApprovalChoice]
    action: Action


def answered(  # which run, who, and where it is told
    run: DagRun, asking: Asking, body: ApprovalBody, caller: Caller, ledger: Ledger, airflow: ApiClient
) -> CutoverAnswered:
    """Give the answer to Airflow and to the ledger. Whether it counts is decided there.

    :raises HTTPException, DeniedError: the caller lacks the right. :raises PermanentError: the run asks nothing now, or
        the caller may not answer the own request.
    """
    caller.require(run.dag_id, asking.action)
    caller.require_where([run], asking.action)
    _refuse_own(ledger, run, asking, body, caller)
    task_id = next((each for each in asking.questions if airflow.asks(run.dag_id, run.dag_run_id, each)), None)
    if task_id is None:
        raise PermanentError(
            "The run asks nothing now",
            next_step="See its tasks: it asks when its plan is made, and an answer is given once",
            run=run,
        )
    airflow.answer(run.dag_id, run.dag_run_id, task_id, OPTIONS[body.answer])
    _keep(ledger, run, asking.questions[task_id], body, caller, airflow)
    return CutoverAnswered(
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        task_id=task_id,
        answer=body.answer,
        answered_by=caller.requester.name,
    )


def _refuse_own(ledger: Ledger, run: DagRun, asking: Asking, body: ApprovalBody, caller: Caller) -> None:
    """Refused at once, instead of being no answer later. The run decides again."""
    with ledger.read() as tx:
        known = waves.find(tx, run)
    if known is None:
        return
    given = Given(user=caller.requester.name, approves=body.answer == "approve", at=SystemClock().now())
    denial = own_request(asking.mode(known), Requester(known.requested_by), given)
    if denial is not None:
        raise PermanentError(denial.why, next_step=denial.way_out, run=run)


def _keep(  # as above
    ledger: Ledger,
    run: DagRun,
    asks: Callable[[Ledger, RunContext], Question],
    body: ApprovalBody,
    caller: Caller,
    airflow: ApiClient,
) -> None:
    """Write the answer into the ledger as well: Airflow forgets one that comes within seconds of the question, if its
    scheduler takes the task that asked for dead, and then the next try finds it here."""
    with ledger.read() as tx:
        known = waves.find(tx, run)
    if known is None:
        return
    ctx = context_of(run, airflow, known.requested_by)
    question = asks(ledger, ctx)
    if question.mode == "none":  # the run went on already
        return
    given = Given(user=caller.requester.name, approves=body.answer == "approve", at=ctx.clock.now())
    if standing(ledger, question, since=given.at - JUST_NOW) is None:
        take(ledger, question, given, ctx, rights=caller.rights)
