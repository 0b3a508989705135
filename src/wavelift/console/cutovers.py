"""Routes of cutovers: plan, reserve and start, list, approve, confirm, cancel, revert, finalize (AIR-05).

A cutover is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. So a refusal comes before any DAG run exists. Reading needs the right to read the wave's cutover DAG,
writing the right to trigger it and ``cut_over`` in the environment.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.airflow.rest import ApiClient
from wavelift.base.run import DagRun, SystemClock
from wavelift.console.answering import Asking, answered
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.cutover_answers import (
    CutoverAnswered,
    CutoverCancelled,
    CutoverDetails,
    CutoverPage,
    CutoverRunStarted,
    CutoversStarted,
    StepConfirmed,
)
from wavelift.console.cutover_rows import cutover_details, cutover_row, row_fields, step_fields
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.console.lists import readable, readable_in, run_in
from wavelift.console.on_demand import (
    Asked,
    about,
    all_made,
    context_of,
    given_in,
    is_over,
    make_run,
    new_run,
    open_once,
    require_awake,
)
from wavelift.console.progress import Progress
from wavelift.console.queue import Waiting
from wavelift.console.requests import ApprovalBody, ConfirmBody, CutoverBody, CutoverQuery
from wavelift.ledger import Ledger, cutovers, replication_runs
from wavelift.ledger.cutover_records import Cutover
from wavelift.ledger.cutovers import CutoverFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import CutoverConf
from wavelift.rules.cutover import CutoverState
from wavelift.rules.flows import CUTOVER
from wavelift.services.common.admit import frozen_wave
from wavelift.services.cutover import requests
from wavelift.services.cutover.approvals import approval_of, finalize_question, plan_question
from wavelift.services.cutover.ending import End, require_endable
from wavelift.services.cutover.steps import confirm

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift cutover` does it by itself"
ASKING: Final = Asking(
    {CUTOVER.task_id("approve"): plan_question, CUTOVER.task_id("approve_finalize"): finalize_question},
    lambda run: approval_of(frozen_wave(run).servers),
    Action.CUT_OVER,
)


def add_cutover_routes(app: FastAPI) -> None:
    _reading(app)
    _starting(app)
    _ending(app)
    _answering(app)


def _reading(app: FastAPI) -> None:
    @app.get("/cutovers")
    def list_cutovers(
        query: Annotated[CutoverQuery, Query()], user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverPage:
        """Cutovers of the waves that the caller may read, newest first; ``dag_run_id`` goes with ``wave``."""
        which = CutoverFilter(
            wave=query.wave,
            waves=readable_in(user, CUTOVER),
            server=query.server,
            states=[query.state] if query.state else None,
            run=run_in(CUTOVER, query.wave, query.dag_run_id),
            search=query.search,
        )
        with ledger.read() as tx:
            page = cutovers.list_cutovers(tx, which, limit=query.limit, offset=query.offset)
        progress, now = _progress(ledger, airflow, user), SystemClock().now()
        return CutoverPage.of(page, cutovers=[cutover_row(each, now, progress) for each in page.items])

    @app.get("/cutovers/{cutover_id}")
    def show_cutover(cutover_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> CutoverDetails:
        """Everything about one cutover: its steps with their undo, who serves, its times and runs."""
        known = readable(user, ledger, cutovers.get, cutover_id)
        return cutover_details(ledger, known, SystemClock().now(), _progress(ledger, airflow, user))


def _starting(app: FastAPI) -> None:
    @app.post("/waves/{wave}/cutovers")
    def cut_over(
        wave: str, body: CutoverBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep, specs: SpecsDep
    ) -> CutoversStarted:
        """Plan or prepare cutovers, or begin them: then their ids are in the answer, before any task has begun."""
        dag_id = CUTOVER.dag_id(wave)
        caller.require(dag_id, Action.CUT_OVER)
        if body.priority == "next":
            caller.require(dag_id, Action.ADMINISTER)
        asked = Asked.of(body, dag_id, what=body.mode, airflow=airflow, by=caller.requester.name)
        run, conf = asked.run, conf_of(body)
        opened, before = open_once(
            asked,
            WAY_OUT,
            before=lambda: all_made(requests.made_before(ledger, run, conf), unless=_NOT_MADE),
            reserve=lambda ctx: about(
                requests.reserve(ledger, specs.wave(wave), conf, ctx, request_id=asked.request_id), conf
            ),
            give_back=lambda: requests.give_back(ledger, run, SystemClock()),
        )
        now = SystemClock().now()
        return CutoversStarted(
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            mode=body.mode,
            cutovers=[cutover_row(each, now) for each in sorted(opened, key=lambda each: each.server)],
            made_before=before,
        )


_NOT_MADE: Final = (CutoverState.RESERVED, CutoverState.EXPIRED)
"""States in which the DAG run of a cutover may not be there."""


def conf_of(body: CutoverBody) -> CutoverConf:
    """What the run is triggered with."""
    given = given_in(body)
    if not body.undo:  # other modes do not know the key
        given.pop("undo", None)
    return CutoverConf(**{"mode": body.mode, **given})


def _ending(app: FastAPI) -> None:
    @app.post("/cutovers/{cutover_id}/revert")
    def revert_cutover(cutover_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> CutoverRunStarted:
        """Go back to the source, by a run of the wave's cutover DAG."""
        return _end(ledger, _changeable(ledger, cutover_id, caller), caller, airflow, "revert")

    @app.post("/cutovers/{cutover_id}/finalize")
    def finalize_cutover(
        cutover_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverRunStarted:
        """Give the way back up, by a run of the wave's cutover DAG."""
        return _end(ledger, _changeable(ledger, cutover_id, caller), caller, airflow, "finalize")

    @app.post("/cutovers/{cutover_id}/cancel")
    def cancel_cutover(cutover_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> CutoverCancelled:
        """Go no further: a cutover that touched nothing ends, another one fails and may be reverted."""
        known = _changeable(ledger, cutover_id, caller, stops=True)
        clock = SystemClock()
        over = is_over(airflow, known.run, reserved_at=known.requested_at)
        cancelled = requests.cancel(ledger, cutover_id, by=caller.requester.name, clock=clock, over=over)
        return CutoverCancelled.of(cancelled, **row_fields(cancelled, clock.now()))


def _answering(app: FastAPI) -> None:
    @app.post("/waves/{wave}/cutovers/{dag_run_id}/approval")
    def answer_cutover(
        wave: str, dag_run_id: str, body: ApprovalBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverAnswered:
        """Approve or reject what a cutover run asks: its plan, or that the way back is given up."""
        return answered(DagRun(CUTOVER.dag_id(wave), dag_run_id), ASKING, body, caller, ledger, airflow)

    @app.post("/cutovers/{cutover_id}/confirm")
    def confirm_step(cutover_id: str, body: ConfirmBody, caller: CallerDep, ledger: LedgerDep) -> StepConfirmed:
        """Say that what a step asks of a person was done, or undone: what it asks now."""
        known = _changeable(ledger, cutover_id, caller)
        caller.require_where([known.run], Action.CUT_OVER)
        step = confirm(ledger, cutover_id, body.step, caller.requester.name, clock=SystemClock())
        return StepConfirmed.of(step, **step_fields(step), cutover=cutover_id)


def _end(ledger: Ledger, known: Cutover, caller: Caller, airflow: ApiClient, mode: End) -> CutoverRunStarted:
    caller.require_where([known.run], Action.CUT_OVER)
    run = new_run(known.dag_id)
    require_endable(known.wave, [known], mode, context_of(run, airflow, caller.requester.name))
    require_awake(airflow, known.dag_id, WAY_OUT)
    conf = CutoverConf(mode=mode, cutovers=[known.id])
    started = make_run(airflow, run, conf, f"{mode} of {known.server}")
    return CutoverRunStarted.of(started, mode=mode, cutover=cutover_row(known, SystemClock().now()))


def _changeable(ledger: Ledger, cutover_id: str, caller: Caller, *, stops: bool = False) -> Cutover:
    known = readable(caller.user, ledger, cutovers.get, cutover_id)
    caller.require(known.dag_id, Action.CUT_OVER, stops=stops)
    return known


def _progress(ledger: Ledger, airflow: ApiClient, user: Any) -> Progress:
    waiting = Waiting(ledger, user)
    return Progress(airflow, waiting=lambda known: waiting.words_of(replication_runs.ROWS.id_of(known.run_key)))
