"""Routes of networks: plan, reserve and start their cutovers, list, approve, confirm, cancel, revert, finish.

A cutover is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. Reading needs the right to read the network's DAG, writing the right to trigger it and ``cut_over`` in
the environment.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.airflow.rest import ApiClient
from wavelift.base.run import DagRun, RunContext, SystemClock
from wavelift.console.access import may_read
from wavelift.console.answering import Asking, answered
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.cutover_answers import CutoverAnswered, CutoverApproval
from wavelift.console.cutover_rows import cutover_step, step_fields
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.console.lists import readable, readable_in, run_in
from wavelift.console.network_answers import (
    NetworkCutoverDetails,
    NetworkCutoverPage,
    NetworkCutoverRow,
    NetworkCutoverStarted,
    NetworkList,
    NetworkRow,
    NetworkStepConfirmed,
)
from wavelift.console.on_demand import Asked, context_of, is_over, make_run, new_run, open_once, require_awake
from wavelift.console.requests import ApprovalBody, NetworkConfirmBody, NetworkCutoverBody, NetworkCutoverQuery
from wavelift.ledger import Ledger, cutovers, network_cutovers
from wavelift.ledger.hcx_records import NetworkCutover
from wavelift.ledger.network_cutovers import NETWORK_KIND, NetworkFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import NetworkConf
from wavelift.rules.flows import NETWORK
from wavelift.services.network import requests
from wavelift.services.network.approvals import RUN_KIND, finish_question, plan_question
from wavelift.services.network.ending import End, require_endable
from wavelift.services.network.runs import frozen_place

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift network` does it by itself"
ASKING: Final = Asking(
    {NETWORK.task_id("approve"): plan_question, NETWORK.task_id("approve_finish"): finish_question},
    lambda run: frozen_place(run).network.approve,
    Action.CUT_OVER,
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
        which = NetworkFilter(
            network=query.network,
            networks=readable_in(user, NETWORK),
            states=[query.state] if query.state else None,
            run=run_in(NETWORK, query.network, query.dag_run_id, by="network"),
            search=query.search,
        )
        with ledger.read() as tx:
            page = network_cutovers.list_cutovers(tx, which, limit=query.limit, offset=query.offset)
        return NetworkCutoverPage.of(page, cutovers=[NetworkCutoverRow.of(each) for each in page.items])

    @app.get("/network_cutovers/{network_cutover_id}")
    def show_network_cutover(network_cutover_id: str, user: GetUserDep, ledger: LedgerDep) -> NetworkCutoverDetails:
        """Everything about one cutover of a network: its steps with their undo, both sides before, its times."""
        return _details(ledger, readable(user, ledger, network_cutovers.get, network_cutover_id))


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
        asked = Asked.of(body, dag_id, what=body.mode, airflow=airflow, by=caller.requester.name)
        run = asked.run

        def reserve(ctx: RunContext) -> tuple[NetworkCutover | None, NetworkConf]:
            place = specs.network(network)
            return requests.reserve(ledger, place, conf, ctx, request_id=asked.request_id), conf

        opened, before = open_once(
            asked,
            WAY_OUT,
            before=lambda: requests.made_before(ledger, run),
            reserve=reserve,
            give_back=lambda: requests.give_back(ledger, run, SystemClock()),
        )
        return _started(run, body.mode, opened, made_before=before)


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
        known = readable(caller.user, ledger, network_cutovers.get, network_cutover_id)
        caller.require(known.dag_id, Action.CUT_OVER, stops=True)
        over, by = is_over(airflow, known.run, reserved_at=known.requested_at), caller.requester.name
        return NetworkCutoverRow.of(requests.cancel(ledger, network_cutover_id, by=by, clock=SystemClock(), over=over))


def _answering(app: FastAPI) -> None:
    @app.post("/networks/{network}/cutovers/{dag_run_id}/approval")
    def answer_network_cutover(
        network: str, dag_run_id: str, body: ApprovalBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverAnswered:
        """Approve or reject what a run asks: its plan, or that the way back is given up."""
        return answered(DagRun(NETWORK.dag_id(network), dag_run_id), ASKING, body, caller, ledger, airflow)

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
    make_run(airflow, run, conf, f"{mode} of {known.network}")
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


def _changeable(ledger: Ledger, cutover_id: str, caller: Caller) -> NetworkCutover:
    """It lies in the environment that it was opened in, whatever the network's file says now."""
    known = readable(caller.user, ledger, network_cutovers.get, cutover_id)
    caller.require_in(known.dag_id, known.environment, Action.CUT_OVER, wave=known.network)
    return known
