"""Routes of replication runs: history, on-demand requests, cancel (SMS-06, SMS-08, AIR-04).

An on-demand run is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with
the caller's token. So a refusal comes before any DAG run exists, and two requests at one instant can't both win.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.airflow.rest import ApiClient
from wavelift.base.errors import PermanentError
from wavelift.base.run import SystemClock
from wavelift.console.answers import (
    ReplicationStarted,
    RunCancelled,
    RunDetails,
    RunPage,
    VerifyStarted,
)
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.chain import Chain, map_index_of
from wavelift.console.deps import AirflowDep, LedgerDep, SpecsDep, start_run
from wavelift.console.lists import readable_in, run_in
from wavelift.console.on_demand import context_of, make_run, new_run, require_awake
from wavelift.console.progress import Progress
from wavelift.console.queue import Waiting
from wavelift.console.replication import (
    changeable_job,
    changeable_run,
    readable_job,
    readable_run,
)
from wavelift.console.replication_rows import dag_of, live, run_fields, run_row
from wavelift.console.requests import HistoryQuery, ReplicateBody, RunQuery
from wavelift.ledger import Ledger, ReplicationRun, events, jobs, replication_runs
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.authority import Action, priority_action
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.flows import REPLICATE
from wavelift.rules.replication import JobState, RunState
from wavelift.services.replication import admission, outcome
from wavelift.services.replication.requests import runs_to_verify

WAY_OUT: Final = "unpause it, which starts its schedule too: `--unpause`, or the switch of the DAG in the web UI"


def add_replication_run_routes(app: FastAPI) -> None:
    _reading(app)
    _requesting(app)
    _cancelling(app)
    _verifying(app)


def _reading(app: FastAPI) -> None:
    @app.get("/jobs/{job_id}/runs")
    def list_history(
        job_id: str,
        query: Annotated[HistoryQuery, Query()],
        user: GetUserDep,
        ledger: LedgerDep,
        airflow: AirflowDep,
    ) -> RunPage:
        """A job's runs, newest first (SMS-08)."""
        readable_job(ledger, job_id, user)
        which = RunFilter(job_id=job_id, states=[query.state] if query.state else None, search=query.search)
        return _page(ledger, Progress(airflow, waiting=Waiting(ledger, user).words), which, query)

    @app.get("/runs")
    def list_runs(
        query: Annotated[RunQuery, Query()], user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> RunPage:
        """Runs of the waves that the caller may read, newest first; ``dag_run_id`` goes with ``wave``."""
        which = RunFilter(
            wave=query.wave,
            server=query.server,
            run=run_in(REPLICATE, query.wave, query.dag_run_id),
            states=[query.state] if query.state else None,
            waves=readable_in(user, REPLICATE),
            search=query.search,
        )
        return _page(ledger, Progress(airflow, waiting=Waiting(ledger, user).words), which, query)

    @app.get("/runs/{run_id}")
    def show_run(run_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> RunDetails:
        """One run with its disks."""
        known = readable_run(ledger, run_id, user)
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        fields = run_fields(known, SystemClock().now()) | live(known, progress)
        with ledger.read() as tx:
            ended = events.last_details(tx, object_id=run_id, action="replication_run.completed")
        verified = (ended or {}).get("verified")
        return RunDetails.of(known, **fields, superseded=known.superseded or [], verified=verified)


def _requesting(app: FastAPI) -> None:
    @app.post("/waves/{wave}/replications")
    def replicate(
        wave: str, body: ReplicateBody, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep, specs: SpecsDep
    ) -> ReplicationStarted:
        """Replicate servers now: all of them or none. A refusal (409) tells rule and next time of each (SMS-06)."""
        caller.require(dag_of(wave), priority_action(body.priority))
        servers = body.servers or _active_servers(ledger, wave)
        require_awake(airflow, dag_of(wave), WAY_OUT)
        connector = specs.wave(wave).connector  # `admit` would refuse it, but only after runs were reserved
        run = new_run(dag_of(wave))
        ctx = context_of(run, airflow, caller.requester.name)
        reserved = admission.reserve_runs(ledger, wave, servers, ctx, connector=connector)
        conf = ReplicateConf(priority=body.priority) if body.priority else ReplicateConf()
        note = f"On demand: {', '.join(servers)}"
        make_run(airflow, run, conf, note, give_back=lambda: _give_back(ledger, reserved))
        now = SystemClock().now()
        return ReplicationStarted.of(run, runs=[run_row(each, now) for each in reserved])


def _cancelling(app: FastAPI) -> None:
    @app.post("/runs/{run_id}/cancel")
    def cancel_run(run_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> RunCancelled:
        """Stop a run: its task is failed, its snapshot removed. It stays counted against the quota."""
        changeable_run(ledger, run_id, caller, stops=True)
        clock, by = SystemClock(), caller.requester.name
        cancelled = outcome.cancel_run(ledger, run_id, by=by, clock=clock)
        if cancelled.state is RunState.RESERVED:  # nothing has begun
            given_back = outcome.mark_cancelled(ledger, run_id, f"cancelled by {by}", clock=clock)
            return RunCancelled.of(given_back, **run_fields(given_back, clock.now()), stopped_tasks=[])
        stopped = Chain(airflow, cancelled, map_index_of(airflow, cancelled)).stop()
        return RunCancelled.of(cancelled, **run_fields(cancelled, clock.now()), stopped_tasks=stopped)


def _verifying(app: FastAPI) -> None:
    @app.post("/jobs/{job_id}/verify")
    def verify_job(job_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> VerifyStarted:
        """Read back, whole, what the job's next run builds on, and compare it with its manifests (invariant 1)."""
        known = changeable_job(ledger, job_id, caller)
        return _verify(ledger, caller, airflow, known.wave, ReplicateConf(mode="verify", jobs=[job_id]))

    @app.post("/runs/{run_id}/verify")
    def verify_run(run_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> VerifyStarted:
        """Read back, whole, the EBS snapshots of a recorded run, and compare them with its manifests."""
        known = changeable_run(ledger, run_id, caller)
        return _verify(ledger, caller, airflow, known.wave, ReplicateConf(mode="verify", runs=[run_id]))


def _verify(ledger: Ledger, caller: Caller, airflow: ApiClient, wave: str, conf: ReplicateConf) -> VerifyStarted:
    with ledger.read() as tx:
        ran = replication_runs.dag_runs_of(tx, jobs=conf.jobs or (), ids=conf.runs or ())
    caller.require_where(ran, Action.MIGRATE)
    chosen = runs_to_verify(ledger, wave, conf)
    require_awake(airflow, dag_of(wave), WAY_OUT)
    started = start_run(airflow, dag_of(wave), conf)
    return VerifyStarted.of(started, runs=[each.run for each in chosen])


def _active_servers(ledger: Ledger, wave: str) -> tuple[str, ...]:
    with ledger.read() as tx:
        found = tuple(job.server for job in jobs.standing(tx, wave) if job.state is JobState.ACTIVE)
    if not found:
        raise PermanentError(
            "The wave has no active replication job",
            next_step="Make jobs with `wavelift wave apply`, or resume one.",
            wave=wave,
        )
    return found


def _give_back(ledger: Ledger, reserved: Sequence[ReplicationRun]) -> None:
    """Nothing was started: the reservations are free at once and don't count."""
    for each in reserved:
        outcome.mark_cancelled(ledger, each.id, "Its DAG run could not be made", clock=SystemClock())


def _page(ledger: Ledger, progress: Progress, which: RunFilter, query: HistoryQuery) -> RunPage:
    with ledger.read() as tx:
        page = replication_runs.list_runs(tx, which, limit=query.limit, offset=query.offset)
    now = SystemClock().now()
    return RunPage.of(page, runs=[run_row(run, now, progress) for run in page.items])
