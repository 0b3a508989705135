"""Routes of live migrations with HCX: plan, reserve and start, list, approve, cancel.

A migration is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. Reading needs the right to read the wave's live DAG, writing the right to trigger it and ``migrate`` in
the environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query

from wavelift.airflow.rest import ApiError
from wavelift.base.run import DagRun, SystemClock
from wavelift.console.access import readable_dags, require_read
from wavelift.console.answering import Asking, answered
from wavelift.console.caller import CallerDep
from wavelift.console.cutover_answers import CutoverAnswered, CutoverApproval
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep
from wavelift.console.live_answers import LiveCancelled, LiveDetails, LivePage, LiveRow, LiveStarted
from wavelift.console.on_demand import CONFLICT, ENDED, context_of, make_run, new_run, require_awake
from wavelift.console.requests import ApprovalBody, LiveBody, LiveQuery
from wavelift.ledger import Ledger, cutovers, live_migrations
from wavelift.ledger.hcx_records import LiveMigration
from wavelift.ledger.live_migrations import LiveFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import LiveConf
from wavelift.rules.flows import LIVE
from wavelift.rules.live import IN_HCX, LiveState
from wavelift.services.live_migration import requests
from wavelift.services.live_migration.approvals import approval_of, plan_question, switchover_question
from wavelift.services.live_migration.runs import RUN_KIND, frozen_live, run_subject
from wavelift.services.migration.waiting import MAKING

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift live` does it by itself"
ASKING: Final = Asking(
    {LIVE.task_id("approve"): plan_question, LIVE.task_id("approve_switchover"): switchover_question},
    lambda run: approval_of(frozen_live(run)),
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
        if query.dag_run_id is not None and query.wave is None:
            raise HTTPException(422, "dag_run_id names a run only together with wave")
        which = LiveFilter(
            wave=query.wave,
            waves={wave for dag_id in readable_dags(user) if (wave := LIVE.wave_of(dag_id))},
            server=query.server,
            states=[query.state] if query.state else None,
            run=DagRun(LIVE.dag_id(query.wave), query.dag_run_id) if query.wave and query.dag_run_id else None,
            search=query.search,
        )
        with ledger.read() as tx:
            page = live_migrations.list_migrations(tx, which, limit=query.limit, offset=query.offset)
        return LivePage.of(page, migrations=[LiveRow.of(each) for each in page.items])

    @app.get("/live/{live_id}")
    def show_live_migration(live_id: str, user: GetUserDep, ledger: LedgerDep) -> LiveDetails:
        """Everything about one live migration: where it goes, how far HCX is, and what the verification found."""
        known = _readable(ledger, live_id, user)
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
        run, conf = new_run(dag_id, f"{body.mode}.{body.request_id}" if body.request_id else ""), conf_of(body)
        before = requests.made_before(ledger, run, conf)
        if before and all(each.state not in _NOT_MADE for each in before):
            return _started(run, body, before, made_before=True)
        require_awake(airflow, dag_id, WAY_OUT)
        ctx = context_of(run, airflow, caller.requester.name)
        opened = requests.reserve(ledger, specs.live(wave), conf, ctx, request_id=body.request_id or "")
        if opened:  # the run is about these, whatever the file says when it begins
            conf = conf.model_copy(update={"servers": [each.server for each in opened]})
        try:
            make_run(airflow, run, conf.given(), body.note or "", give_back=lambda: _give_back(ledger, run))
        except ApiError as error:
            if not (body.request_id and error.status == CONFLICT and airflow.find_run_state(dag_id, run.dag_run_id)):
                raise
            return _started(run, body, opened, made_before=True)
        return _started(run, body, opened)


def conf_of(body: LiveBody) -> LiveConf:
    """What the run is triggered with."""
    given: dict[str, Any] = body.model_dump(exclude={"request_id", "window_start", "window_end"}, exclude_unset=True)
    for name in ("window_start", "window_end"):
        instant: datetime | None = getattr(body, name)
        if instant is not None:
            given[name] = instant.isoformat()
    return LiveConf(**{"mode": body.mode, **{key: value for key, value in given.items() if value is not None}})


def _started(run: DagRun, body: LiveBody, opened: Sequence[LiveMigration], **more: Any) -> LiveStarted:
    return LiveStarted(
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        mode=body.mode,
        migrations=[LiveRow.of(each) for each in sorted(opened, key=lambda each: each.server)],
        **more,
    )


def _answering(app: FastAPI) -> None:
    @app.post("/waves/{wave}/live/{dag_run_id}/approval")
    def answer_live(
        wave: str, dag_run_id: str, body: ApprovalBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> CutoverAnswered:
        """Approve or reject what a run asks: its plan, or that HCX may switch over."""
        run = DagRun(LIVE.dag_id(wave), dag_run_id)
        caller.require(run.dag_id, Action.MIGRATE)
        caller.require_where([run], Action.MIGRATE)
        return answered(run, ASKING, body, caller, ledger, airflow)


def _cancelling(app: FastAPI) -> None:
    @app.post("/live/{live_id}/cancel")
    def cancel_live_migration(live_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> LiveCancelled:
        """End a migration that has not begun to switch over. What HCX moves is ended there by a run in mode cancel."""
        known = _readable(ledger, live_id, caller.user)
        caller.require(known.dag_id, Action.MIGRATE, stops=True)
        clock = SystemClock()
        state = airflow.find_run_state(known.dag_id, known.dag_run_id)
        over = state in ENDED and not (state == "" and clock.now() - known.requested_at < MAKING)
        if known.state in IN_HCX:
            caller.require_where([known.run], Action.MIGRATE)
            require_awake(airflow, known.dag_id, WAY_OUT)
        cancelled = requests.cancel(ledger, live_id, by=caller.requester.name, clock=clock, over=over)
        if cancelled.state not in IN_HCX:
            return LiveCancelled.of(cancelled, cancel_run="")
        run = new_run(known.dag_id)
        conf = LiveConf(mode="cancel", migrations=[live_id])
        make_run(airflow, run, conf.given(), f"cancel {known.server}", give_back=lambda: None)
        return LiveCancelled.of(cancelled, cancel_run=run.dag_run_id)


def _give_back(ledger: Ledger, run: DagRun) -> None:
    requests.give_back(ledger, run, SystemClock())


def _readable(ledger: Ledger, live_id: str, user: Any) -> LiveMigration:
    with ledger.read() as tx:
        known = live_migrations.get(tx, live_id)
    require_read(user, known.dag_id)
    return known
