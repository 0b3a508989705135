"""Routes of networks: plan, reserve and start their cutovers, list, approve, confirm, cancel, revert, finish.

A cutover is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. Reading needs the right to read the network's DAG, writing the right to trigger it and ``cut_over`` in
the environment.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.run import DagRun, SystemClock
from wavelift.console.access import may_read, readable_dags, require_read
from wavelift.console.answering import Asking, answered
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.cutover_answers import CutoverAnswered, CutoverApproval
from wavelift.console.cutover_rows import cutover_step, step_fields
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.console.network_answers import (
    NetworkCutoverDetails,
    NetworkCutoverPage,
    NetworkCutoverRow,
    NetworkCutoverStarted,
    NetworkList,
    NetworkRow,
    NetworkStepConfirmed,
)
from wavelift.console.on_demand import CONFLICT, ENDED, context_of, make_run, new_run, require_awake
from wavelift.console.requests import ApprovalBody, NetworkConfirmBody, NetworkCutoverBody, NetworkCutoverQuery
from wavelift.ledger import Ledger, cutovers, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND, NetworkFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import NetworkConf
from wavelift.rules.flows import NETWORK
from wavelift.services.migration.waiting import MAKING
from wavelift.services.network import requests
from wavelift.services.network.approvals import RUN_KIND, finish_question, plan_question
from wavelift.services.network.ending import End, require_endable
from wavelift.services.network.runs import frozen_place

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift network` does it by itself"
ASKING: Final = Asking(
    {NETWORK.task_id("approve"): plan_question, NETWORK.task_id("approve_finish"): finish_question},
    lambda run: frozen_place(run).network.approve,
)


def add_network_routes(app: FastAPI) -> None:
    _reading(app)
    _starting(app)
    _ending(app)
    _answering(app)


def _reading(app: FastAPI) -> None:
    @app.get("/networks")
    def list_networks(user: GetUserDep, ledger: LedgerDep, specs: SpecsDep) -> NetworkList:
        """The networks of the files whose DAG the caller may read, each with its newest cutover."""
        rows = []
        for name, known in sorted(specs.networks().items()):
            dag_id = NETWORK.dag_id(name)
            if not may_read(user, dag_id):
                continue
            with ledger.read() as tx:
                newest = network_cutovers.list_cutovers(tx, NetworkFilter(network=name), limit=1).items
            shape = known.shape
            rows.append(
                NetworkRow(
                    network=name,
                    environment=shape.environment,
                    description=shape.description,
                    disconnect_by=shape.disconnect_by,
                    on_failure=shape.on_failure,
                    dag_id=dag_id,
                    stale=known.stale,
                    cutover=NetworkCutoverRow.of(newest[0]) if newest else None,
                )
            )
        return NetworkList(networks=rows)

    @app.get("/network_cutovers")
    def list_network_cutovers(
        query: Annotated[NetworkCutoverQuery, Query()], user: GetUserDep, ledger: LedgerDep
    ) -> NetworkCutoverPage:
        """Cutovers of the networks that the caller may read, newest first; ``dag_run_id`` goes with ``network``."""
        if query.dag_run_id is not None and query.network is None:
            raise HTTPException(422, "dag_run_id names a run only together with network")
        run = DagRun(NETWORK.dag_id(query.network), query.dag_run_id) if query.network and query.dag_run_id else None
        which = NetworkFilter(
            network=query.network,
            networks={network for dag_id in readable_dags(user) if (network := NETWORK.wave_of(dag_id))},
            states=[query.state] if query.state else None,
            run=run,
            search=query.search,
        )
        with ledger.read() as tx:
            page = network_cutovers.list_cutovers(tx, which, limit=query.limit, offset=query.offset)
        return NetworkCutoverPage.of(page, cutovers=[NetworkCutoverRow.of(each) for each in page.items])

    @app.get("/network_cutovers/{network_cutover_id}")
    def show_network_cutover(network_cutover_id: str, user: GetUserDep, ledger: LedgerDep) -> NetworkCutoverDetails:
        """Everything about one cutover of a network: its steps with their undo, both sides before, its times."""
        return _details(ledger, _readable(ledger, network_cutover_id, user))


def _starting(app: FastAPI) -> None:
    @app.post("/networks/{network}/cutovers")
    def cut_network_over(  # what, who, and where it is told
        network: str,
        body: NetworkCutoverBody,
        caller: CallerDep,
        ledger: LedgerDep,
        airflow: AirflowDep,
        specs: SpecsDep,
    ) -> NetworkCutoverStarted:
        """Plan the cutover of a network, or begin it: then its id is in the answer, before any task has begun."""
        dag_id = NETWORK.dag_id(network)
        caller.require(dag_id, Action.CUT_OVER)
        conf = NetworkConf(mode=body.mode, note=body.note) if body.note else NetworkConf(mode=body.mode)
        named = body.request_id or ""
        run = requests.named_run(network, conf, named) if named else new_run(dag_id)
        before = requests.made_before(ledger, run)
        if before is not None:
            return _started(run, body.mode, before, made_before=True)
        require_awake(airflow, dag_id, WAY_OUT)
        ctx = context_of(run, airflow, caller.requester.name)
        opened = requests.reserve(ledger, specs.network(network), conf, ctx, request_id=named)
        try:
            make_run(airflow, run, conf.given(), body.note or "", give_back=lambda: _give_back(ledger, run))
        except ApiError as error:
            if not (named and error.status == CONFLICT and airflow.find_run_state(dag_id, run.dag_run_id)):
                raise
            return _started(run, body.mode, opened, made_before=True)
        return _started(run, body.mode, opened)


def _ending(app: FastAPI) -> None:
    @app.post("/network_cutovers/{network_cutover_id}/revert")
    def revert_network_cutover(
        network_cutover_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> NetworkCutoverStarted:
        """Go back: the source routes the network again. A run of the network's DAG."""
        return _end(_changeable(ledger, network_cutover_id, caller), caller, airflow, "revert")

    @app.post("/network_cutovers/{network_cutover_id}/finish")
    def finish_network_cutover(
        network_cutover_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> NetworkCutoverStarted:
        """Give the way back up, after the soak time. A run of the network's DAG."""
        return _end(_changeable(ledger, network_cutover_id, caller), caller, airflow, "finish")

    @app.post("/network_cutovers/{network_cutover_id}/cancel")
    def cancel_network_cutover(
        network_cutover_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> NetworkCutoverRow:
        """Go no further: a cutover that touched nothing ends, another one fails and may be reverted."""
        known = _readable(ledger, network_cutover_id, caller.user)
        caller.require(known.dag_id, Action.CUT_OVER, stops=True)
        clock = SystemClock()
        state = airflow.find_run_state(known.dag_id, known.dag_run_id)
        being_made = state == "" and clock.now() - known.requested_at < MAKING
        over = state in ENDED and not being_made
        cancelled = requests.cancel(ledger, network_cutover_id, by=caller.requester.name, clock=clock, over=over)
        return NetworkCutoverRow.of(cancelled)


def _answering(app: FastAPI) -> None:
    @app.post("/networks/{network}/cutovers/{dag_run_id}/approval")
    def answer_network_cutover(
        network: str, dag_run_id: str, body: ApprovalBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverAnswered:
        """Approve or reject what a run asks: its plan, or that the way back is given up."""
        run = DagRun(NETWORK.dag_id(network), dag_run_id)
        caller.require(run.dag_id, Action.CUT_OVER)
        caller.require_where([run], Action.CUT_OVER)
        return answered(run, ASKING, body, caller, ledger, airflow)

    @app.post("/network_cutovers/{network_cutover_id}/confirm")
    def confirm_network_step(
        network_cutover_id: str, body: NetworkConfirmBody, caller: CallerDep, ledger: LedgerDep
    ) -> NetworkStepConfirmed:
        """Say that what a step asks of a person was done, or undone. Refused if it asks for the opposite now."""
        _changeable(ledger, network_cutover_id, caller)
        step = requests.confirm(
            ledger, network_cutover_id, body.step, caller.requester.name, said=body.answer, clock=SystemClock()
        )
        return NetworkStepConfirmed.of(step, **step_fields(step), cutover=network_cutover_id)


def _end(known: NetworkCutover, caller: Caller, airflow: ApiClient, mode: End) -> NetworkCutoverStarted:
    run = new_run(known.dag_id)
    require_endable(known, mode, context_of(run, airflow, caller.requester.name))
    require_awake(airflow, known.dag_id, WAY_OUT)
    conf = NetworkConf(mode=mode, cutover=known.id)
    make_run(airflow, run, conf.given(), f"{mode} of {known.network}", give_back=lambda: None)
    return _started(run, mode, known)


def _started(run: DagRun, mode: str, known: NetworkCutover | None, **more: Any) -> NetworkCutoverStarted:
    row = NetworkCutoverRow.of(known) if known is not None else None
    return NetworkCutoverStarted(dag_id=run.dag_id, dag_run_id=run.dag_run_id, mode=mode, cutover=row, **more)


def _details(ledger: Ledger, known: NetworkCutover) -> NetworkCutoverDetails:
    with ledger.read() as tx:
        steps = cutovers.steps_of(tx, NETWORK_KIND, known.id)
        answer = cutovers.newest_approval(tx, RUN_KIND, cutovers.run_subject(known.run), known.plan_digest)
    return NetworkCutoverDetails.of(
        known,
        steps=[cutover_step(each) for each in steps],
        approval=CutoverApproval.of(answer) if answer is not None else None,
        times={name: datetime.fromisoformat(text) for name, text in (known.times or {}).items()},
    )


def _give_back(ledger: Ledger, run: DagRun) -> None:
    requests.give_back(ledger, run, SystemClock())


def _readable(ledger: Ledger, cutover_id: str, user: Any) -> NetworkCutover:
    with ledger.read() as tx:
        known = network_cutovers.get(tx, cutover_id)
    require_read(user, known.dag_id)
    return known


def _changeable(ledger: Ledger, cutover_id: str, caller: Caller) -> NetworkCutover:
    """It lies in the environment that it was opened in, whatever the network's file says now."""
    known = _readable(ledger, cutover_id, caller.user)
    caller.require_in(known.dag_id, known.environment, Action.CUT_OVER, wave=known.network)
    return known
