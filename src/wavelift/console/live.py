"""Routes of live migrations with HCX: plan, reserve and start, list, approve, cancel.

A migration is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. Reading needs the right to read the wave's live DAG, writing the right to trigger it and ``migrate`` in
the environment.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.base.run import DagRun, SystemClock
from wavelift.console.answering import Asking, answered
from wavelift.console.caller import CallerDep
from wavelift.console.cutover_answers import CutoverAnswered, CutoverApproval
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.console.lists import readable, readable_in, run_in
from wavelift.console.live_answers import LiveCancelled, LiveDetails, LivePage, LiveRow, LiveStarted
from wavelift.console.on_demand import (
    Asked,
    about,
    all_made,
    given_in,
    is_over,
    make_run,
    new_run,
    open_once,
    require_awake,
)
from wavelift.console.requests import ApprovalBody, LiveBody, LiveQuery
from wavelift.ledger import cutovers, live_migrations
from wavelift.ledger.live_migrations import LiveFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import LiveConf
from wavelift.rules.flows import LIVE
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.services.live_migration import requests
from wavelift.services.live_migration.approvals import approval_of, plan_question, switchover_question
from wavelift.services.live_migration.runs import RUN_KIND, frozen_live, run_subject

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift live` does it by itself"
ASKING: Final = Asking(
    {LIVE.task_id("approve"): plan_question, LIVE.task_id("approve_switchover"): switchover_question},
    lambda run: approval_of(frozen_live(run)),
    Action.MIGRATE,
)
_NOT_MADE: Final = (LiveState.RESERVED, LiveState.EXPIRED)
"""States in which the DAG run of a migration may not be there."""


def add_live_routes(app: FastAPI) -> None:
    _reading(app)
    _starting(app)
    _answering(app)
    _cancelling(app)


def _reading(app: FastAPI) -> None:
    @app.get("/live")
    def list_live_migrations(query: Annotated[LiveQuery, Query()], user: GetUserDep, ledger: LedgerDep) -> LivePage:
        """Live migrations of the waves that the caller may read, newest first; ``dag_run_id`` goes with ``wave``."""
        which = LiveFilter(
            wave=query.wave,
            waves=readable_in(user, LIVE),
            server=query.server,
            states=[query.state] if query.state else None,
            run=run_in(LIVE, query.wave, query.dag_run_id),
            search=query.search,
        )
        with ledger.read() as tx:
            page = live_migrations.list_migrations(tx, which, limit=query.limit, offset=query.offset)
        return LivePage.of(page, migrations=[LiveRow.of(each) for each in page.items])

    @app.get("/live/{live_id}")
    def show_live_migration(live_id: str, user: GetUserDep, ledger: LedgerDep) -> LiveDetails:
        """Everything about one live migration: where it goes, how far HCX is, and what the verification found."""
        known = readable(user, ledger, live_migrations.get, live_id)
        with ledger.read() as tx:
            answer = cutovers.newest_approval(tx, RUN_KIND, run_subject(known.run), known.plan_digest)
        return LiveDetails.of(
            known,
            approval=CutoverApproval.of(answer) if answer is not None else None,
            times={name: datetime.fromisoformat(text) for name, text in (known.times or {}).items()},
        )


def _starting(app: FastAPI) -> None:
    @app.post("/waves/{wave}/live")
    def migrate_live(
        wave: str, body: LiveBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep, specs: SpecsDep
    ) -> LiveStarted:
        """Plan live migrations, or begin them: then their ids are in the answer, before any task has begun."""
        dag_id = LIVE.dag_id(wave)
        caller.require(dag_id, Action.MIGRATE)
        if body.priority == "next":
            caller.require(dag_id, Action.ADMINISTER)
        asked = Asked.of(body, dag_id, what=body.mode, airflow=airflow, by=caller.requester.name)
        run, conf = asked.run, conf_of(body)
        opened, before = open_once(
            asked,
            WAY_OUT,
            before=lambda: all_made(requests.made_before(ledger, run, conf), unless=_NOT_MADE),
            reserve=lambda ctx: about(
                requests.reserve(ledger, specs.live(wave), conf, ctx, request_id=asked.request_id), conf
            ),
            give_back=lambda: requests.give_back(ledger, run, SystemClock()),
        )
        return LiveStarted(
            dag_id=run.dag_id,
            dag_run_id=run.dag_run_id,
            mode=body.mode,
            migrations=[LiveRow.of(each) for each in sorted(opened, key=lambda each: each.server)],
            made_before=before,
        )


def conf_of(body: LiveBody) -> LiveConf:
    """What the run is triggered with."""
    return LiveConf(**{"mode": body.mode, **given_in(body)})


def _answering(app: FastAPI) -> None:
    @app.post("/waves/{wave}/live/{dag_run_id}/approval")
    def answer_live(
        wave: str, dag_run_id: str, body: ApprovalBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverAnswered:
        """Approve or reject what a run asks: its plan, or that HCX may switch over."""
        return answered(DagRun(LIVE.dag_id(wave), dag_run_id), ASKING, body, caller, ledger, airflow)


def _cancelling(app: FastAPI) -> None:
    @app.post("/live/{live_id}/cancel")
    def cancel_live_migration(live_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> LiveCancelled:
        """End a migration that has not begun to switch over. What HCX moves is ended there by a run in mode cancel."""
        known = readable(caller.user, ledger, live_migrations.get, live_id)
        caller.require(known.dag_id, Action.MIGRATE, stops=True)
        over = is_over(airflow, known.run, reserved_at=known.requested_at)
        if known.state in IN_HCX:
            caller.require_where([known.run], Action.MIGRATE)
            require_awake(airflow, known.dag_id, WAY_OUT)
        cancelled = requests.cancel(ledger, live_id, by=caller.requester.name, clock=SystemClock(), over=over)
        if cancelled.state not in IN_HCX:
            return LiveCancelled.of(cancelled, cancel_run="")
        run = new_run(known.dag_id)
        conf = LiveConf(mode="cancel", migrations=[live_id])
        make_run(airflow, run, conf, f"cancel {known.server}")
        return LiveCancelled.of(cancelled, cancel_run=run.dag_run_id)
