"""Routes of instance exports: check and start them, set up the bucket, list, cancel (AMP-10, VIE-06).

An export is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with the
caller's token. Reading needs the right to read ``instance_export.<environment>``, writing the right to trigger it and
``administer`` in the environment.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.airflow.rest import ApiClient, ApiError
from wavelift.base.run import RunContext, SystemClock
from wavelift.console.access import require_read
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.chain import STOPPED, UNMAPPED, Chain
from wavelift.console.deps import AirflowDep, LedgerDep
from wavelift.console.export_answers import ExportCancelled, ExportDetails, ExportPage, ExportStarted
from wavelift.console.export_rows import export_row, live, row_fields
from wavelift.console.lists import readable, readable_in, run_in
from wavelift.console.on_demand import Asked, context_of, given_in, is_over, open_once
from wavelift.console.progress import Progress
from wavelift.console.queue import Waiting
from wavelift.console.requests import ExportBody, ExportQuery, ExportSetupBody
from wavelift.ledger import Ledger, exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.ledger.exports import ExportFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import ExportConf
from wavelift.rules.environment import Environment
from wavelift.rules.export_flows import CHAIN
from wavelift.rules.flows import EXPORT
from wavelift.rules.hcx_environment import aws_only
from wavelift.rules.instance_export import ExportState
from wavelift.services.common.instances import run_of
from wavelift.services.instance_export import requests
from wavelift.services.instance_export.runs import place_of

WAY_OUT: Final = "unpause it by the switch of the DAG in the web UI; `wavelift export` does it by itself"
INSTANCE: Final = "i-"
"""Of the ids of instances; any other subject is a migration or a cutover."""
READ: Final = EXPORT.task_id("read")
VERIFY: Final = EXPORT.task_id("verify")
NOT_FOUND: Final = 404


def add_export_routes(app: FastAPI) -> None:
    _reading(app)
    _starting(app)
    _cancelling(app)


def _reading(app: FastAPI) -> None:
    @app.get("/exports")
    def list_exports(
        query: Annotated[ExportQuery, Query()], user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> ExportPage:
        """Exports of the environments whose DAG the caller may read, newest first: those of the last 7 days.

        ``since`` and ``all`` ask for others; ``dag_run_id`` goes with ``environment``.
        """
        which = _asked_for(query, readable_in(user, EXPORT))
        with ledger.read() as tx:
            page = exports.list_exports(tx, which, limit=query.limit, offset=query.offset)
        progress = _progress(ledger, airflow, user)
        return ExportPage.of(page, exports=[export_row(each, progress) for each in page.items])

    @app.get("/exports/{export_id}")
    def show_export(export_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> ExportDetails:
        """Everything about one export: findings, plan, method and why, what it made, and the object."""
        known = readable(user, ledger, exports.get, export_id)
        return ExportDetails.of(
            known,
            **row_fields(known),
            **live(known, _progress(ledger, airflow, user)),
            why=str((known.plan or {}).get("why", "")),
            times={name: datetime.fromisoformat(text) for name, text in (known.times or {}).items()},
        )


def _starting(app: FastAPI) -> None:
    @app.post("/exports")
    def export_instance(body: ExportBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> ExportStarted:
        """Export an instance to S3: the export's id is in the answer, before any task has begun. Or check it."""
        environment = _administered(caller, body.environment)
        if not body.instance.startswith(INSTANCE):
            with ledger.read() as tx:
                require_read(caller.user, run_of(tx, body.instance).dag_id)  # before anything of it is told
        return _start(body, environment, ExportConf(**_given(body)), caller, ledger, airflow)

    @app.post("/exports/setup")
    def set_up_exports(
        body: ExportSetupBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> ExportStarted:
        """Make the bucket of an environment's exports, or see that it is right; ``grant`` changes one that is there."""
        environment = _administered(caller, body.environment)
        return _start(body, environment, ExportConf(**{**_given(body), "mode": "setup"}), caller, ledger, airflow)


def _cancelling(app: FastAPI) -> None:
    @app.post("/exports/{export_id}/cancel")
    def cancel_export(export_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> ExportCancelled:
        """End an export whose object is not written yet: what it made is removed. May be repeated."""
        known = readable(caller.user, ledger, exports.get, export_id)
        caller.require_stop_in(known.dag_id, known.environment, Action.ADMINISTER)
        over = is_over(airflow, known.run, reserved_at=known.requested_at)
        cancelled = requests.cancel(
            ledger,
            export_id,
            by=caller.requester.name,
            clock=SystemClock(),
            over=over,
            committed=not over and _is_committed(airflow, known),
        )
        # Marked first: whatever begins between the two sees that it was cancelled.
        goes_on = not over and not cancelled.state.terminal
        stopped = _stopped(airflow, cancelled) if goes_on else []
        return ExportCancelled.of(cancelled, **row_fields(cancelled), stopped_tasks=stopped)


def _administered(caller: Caller, name: str) -> Environment:
    """The environment, if the caller may administer it.

    :raises HTTPException, DeniedError: as :meth:`Caller.require_in`. :raises SpecError: it has no EC2 instances, or no
        ``exports``.
    """
    granting = caller.require_in(EXPORT.dag_id(name), name, Action.ADMINISTER)
    environment = aws_only(granting.environment)
    place_of(environment)
    return environment


def _given(body: ExportBody | ExportSetupBody) -> dict[str, Any]:
    given = given_in(body)
    del given["environment"]
    return given


def _start(  # what, where, who, and where it is told
    body: ExportBody | ExportSetupBody,
    environment: Environment,
    conf: ExportConf,
    caller: Caller,
    ledger: Ledger,
    airflow: ApiClient,
) -> ExportStarted:
    dag_id, by = EXPORT.dag_id(environment.environment), caller.requester.name
    asked = Asked.of(body, dag_id, what=conf.mode, airflow=airflow, by=by)
    run = asked.run

    def reserve(ctx: RunContext) -> tuple[InstanceExport | None, ExportConf]:
        return requests.reserve(ledger, environment, conf, ctx, request_id=asked.request_id), conf

    opened, before = open_once(
        asked,
        WAY_OUT,
        before=lambda: requests.made_before(ledger, run, subject=conf.instance),
        reserve=reserve,
        give_back=lambda: requests.give_back(ledger, run, context_of(run, airflow, by)),
    )
    row = export_row(opened) if opened is not None else None
    return ExportStarted(dag_id=dag_id, dag_run_id=run.dag_run_id, mode=conf.mode, export=row, made_before=before)


def _asked_for(query: ExportQuery, environments: set[str]) -> ExportFilter:
    """What a list is restricted to. That of one run shows it however old it is."""
    run = run_in(EXPORT, query.environment, query.dag_run_id, by="environment")
    since = query.since or requests.since(SystemClock().now(), everything=query.all or run is not None)
    subject = query.instance if query.instance and not query.instance.startswith(INSTANCE) else None
    return ExportFilter(
        environment=query.environment,
        environments=environments,
        instance_id=query.instance if subject is None else None,
        subject=subject,
        states=[query.state] if query.state else None,
        run=run,
        since=since,
        search=query.search,
    )


def _is_committed(airflow: ApiClient, known: InstanceExport) -> bool:
    """Whether `read` has written the object, and `verify` did not find it wrong. The ledger learns it from `record`."""
    if known.state is not ExportState.ACTIVE or known.method != "direct":
        return False
    rows = airflow.task_instances(known.dag_id, known.dag_run_id)
    states = {row["task_id"]: row["state"] for row in rows if row["map_index"] == UNMAPPED}
    return states.get(READ) == "success" and states.get(VERIFY) not in STOPPED


def _stopped(airflow: ApiClient, cancelled: InstanceExport) -> list[str]:
    """The tasks that were failed; none while the DAG run is being made: its `admit` sees that it was cancelled."""
    try:
        return Chain(airflow, cancelled, UNMAPPED, CHAIN).stop()
    except ApiError as error:
        if error.status != NOT_FOUND:
            raise
        return []


def _progress(ledger: Ledger, airflow: ApiClient, user: Any) -> Progress:
    waiting = Waiting(ledger, user)
    return Progress(airflow, waiting=lambda known: waiting.words_of(known.id))
