"""Routes of replication runs: history, on-demand requests, cancel (SMS-06, SMS-08, AIR-04).

An on-demand run is reserved in the ledger under the id of the DAG run that is made next, through Airflow's own API with
the caller's token. So a refusal comes before any DAG run exists, and two requests at one instant can't both win.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from wavelift.airflow.rest import ApiClient
from wavelift.base.errors import PermanentError
from wavelift.base.run import SystemClock
from wavelift.console.chain import Chain
from wavelift.console.deps import AirflowDep, LedgerDep
from wavelift.console.replication import (
    dag_paused,
    readable_job,
    readable_waves,
    require_read,
    require_trigger,
    triggerable_job,
)
from wavelift.console.replication_rows import dag_of, live, run_row
from wavelift.ledger import DagRun, Ledger, Page, ReplicationRun, jobs, replication_runs
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.replication import JobState, RunState
from wavelift.services.replication import admission, outcome
from wavelift.services.replication.requests import runs_to_verify

ENDED: Final = ("success", "failed", "")
"""What a DAG run that is over, or was deleted, is."""
Limit = Annotated[int, Query(ge=1, le=500)]
Offset = Annotated[int, Query(ge=0)]
State = Annotated[RunState | None, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)]
"""``Active`` as the rows say, or ``active``."""


class ReplicateBody(BaseModel):
    """Servers by their names in the wave; left out: those of every active job."""

    model_config = ConfigDict(extra="forbid")
    servers: Annotated[tuple[str, ...], Field(min_length=1)] | None = None


def add_replication_run_routes(app: FastAPI) -> None:
    _reading(app)
    _requesting(app)
    _cancelling(app)
    _verifying(app)


def _reading(app: FastAPI) -> None:
    @app.get("/jobs/{job_id}/runs")
    def list_history(
        job_id: str,
        user: GetUserDep,
        ledger: LedgerDep,
        airflow: AirflowDep,
        state: State = None,
        search: str = "",
        limit: Limit = jobs.ROWS_A_PAGE,
        offset: Offset = 0,
    ) -> dict[str, Any]:
        """A job's runs, newest first (SMS-08)."""
        readable_job(ledger, job_id, user)
        which = RunFilter(job_id=job_id, states=[state] if state else None, search=search)
        return _page(replication_runs.list_runs(ledger, which, limit=limit, offset=offset), airflow)

    @app.get("/runs")
    def list_runs(
        user: GetUserDep,
        ledger: LedgerDep,
        airflow: AirflowDep,
        wave: str | None = None,
        server: str | None = None,
        dag_run_id: str | None = None,
        state: State = None,
        search: str = "",
        limit: Limit = jobs.ROWS_A_PAGE,
        offset: Offset = 0,
    ) -> dict[str, Any]:
        """Runs of the waves that the caller may read, newest first; ``dag_run_id`` goes with ``wave``."""
        if dag_run_id is not None and wave is None:
            raise HTTPException(422, "dag_run_id names a run only together with wave")
        which = RunFilter(
            wave=wave,
            server=server,
            run=DagRun(dag_of(wave), dag_run_id) if wave is not None and dag_run_id is not None else None,
            states=[state] if state else None,
            waves=readable_waves(user),
            search=search,
        )
        return _page(replication_runs.list_runs(ledger, which, limit=limit, offset=offset), airflow)

    @app.get("/runs/{run_id}")
    def show_run(run_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """One run with its disks."""
        known = replication_runs.get_run(ledger, run_id)
        require_read(user, known.wave)
        return {**_row(known, airflow), "result": known.result, "superseded": known.superseded or []}


def _requesting(app: FastAPI) -> None:
    @app.post("/waves/{wave}/replications")
    def replicate(
        wave: str, body: ReplicateBody, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> dict[str, Any]:
        """Replicate servers now: all of them or none. A refusal (409) tells rule and next time of each (SMS-06)."""
        require_trigger(user, wave)
        servers = body.servers or _active_servers(ledger, wave)
        _require_awake(airflow, wave)
        run = DagRun(dag_of(wave), f"on_demand__{SystemClock().now():%Y-%m-%dT%H:%M:%S}_{secrets.token_hex(6)}")
        reserved = admission.reserve_runs(
            ledger, wave, servers, run, by=user.get_name(), clock=SystemClock(), is_run_alive=_is_alive(airflow)
        )
        try:
            airflow.trigger(run.dag_id, run_id=run.dag_run_id, note=f"On demand: {', '.join(servers)}")
        except Exception:
            _give_back(ledger, reserved)
            raise
        now = SystemClock().now()
        return {
            "dag_id": run.dag_id,
            "dag_run_id": run.dag_run_id,
            "runs": [run_row(each, now) for each in reserved],
        }


def _cancelling(app: FastAPI) -> None:
    @app.post("/runs/{run_id}/cancel")
    def cancel_run(run_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """Stop a run: its task is failed, its snapshot removed. It stays counted against the quota."""
        known = replication_runs.get_run(ledger, run_id)
        require_read(user, known.wave)
        require_trigger(user, known.wave)
        clock = SystemClock()
        cancelled = outcome.cancel_run(ledger, run_id, by=user.get_name(), clock=clock)
        if cancelled.state is RunState.RESERVED:  # nothing has begun
            reason = f"cancelled by {user.get_name()}"
            given_back = outcome.mark_cancelled(ledger, run_id, reason, clock=clock)
            return {**run_row(given_back, clock.now()), "stopped_tasks": []}
        stopped = Chain.of_replication(airflow, cancelled).stop()
        return {**run_row(cancelled, clock.now()), "stopped_tasks": stopped}


def _verifying(app: FastAPI) -> None:
    @app.post("/jobs/{job_id}/verify")
    def verify_job(job_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """Read back, whole, what the job's next run builds on, and compare it with its manifests (invariant 1)."""
        known = triggerable_job(ledger, job_id, user)
        return _verify(ledger, airflow, known.wave, ReplicateConf(mode="verify", jobs=[job_id]))

    @app.post("/runs/{run_id}/verify")
    def verify_run(run_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """Read back, whole, the EBS snapshots of a recorded run, and compare them with its manifests."""
        known = replication_runs.get_run(ledger, run_id)
        require_read(user, known.wave)
        require_trigger(user, known.wave)
        return _verify(ledger, airflow, known.wave, ReplicateConf(mode="verify", runs=[run_id]))


def _verify(ledger: Ledger, airflow: ApiClient, wave: str, conf: ReplicateConf) -> dict[str, Any]:
    chosen = runs_to_verify(ledger, wave, conf)
    _require_awake(airflow, wave)
    dag_run_id = airflow.trigger(dag_of(wave), conf.given())
    return {"dag_id": dag_of(wave), "dag_run_id": dag_run_id, "runs": [each.run for each in chosen]}


def _active_servers(ledger: Ledger, wave: str) -> tuple[str, ...]:
    found = tuple(job.server for job in jobs.jobs_of_wave(ledger, wave) if job.state is JobState.ACTIVE)
    if not found:
        raise PermanentError(
            "The wave has no active replication job",
            next_step="Make jobs with `wavelift wave apply`, or resume one.",
            wave=wave,
        )
    return found


def _require_awake(airflow: ApiClient, wave: str) -> None:
    """A run of a paused DAG would stay queued, and its reservation expire."""
    paused = dag_paused(airflow, wave)
    if paused is None:
        raise HTTPException(404, f"Airflow has no DAG {dag_of(wave)}, or you may not see it")
    if paused:
        way_out = "unpause it, which starts its schedule too: `--unpause`, or in the web UI"
        raise HTTPException(409, f"{dag_of(wave)} is paused in Airflow; {way_out}")


def _is_alive(airflow: ApiClient) -> Callable[[str, str], bool]:
    """Whether another DAG run still runs, as the caller sees it; what can't be told counts as alive."""

    def alive(dag_id: str, dag_run_id: str) -> bool:
        return airflow.find_run_state(dag_id, dag_run_id) not in ENDED

    return alive


def _give_back(ledger: Ledger, reserved: Sequence[ReplicationRun]) -> None:
    """Nothing was started: the reservations are free at once and don't count."""
    for each in reserved:
        outcome.mark_cancelled(ledger, each.id, "Its DAG run could not be made", clock=SystemClock())


def _page(page: Page[ReplicationRun], airflow: ApiClient) -> dict[str, Any]:
    return {
        "runs": [_row(run, airflow) for run in page.items],
        "total": page.total,
        "limit": page.limit,
        "offset": page.offset,
    }


def _row(run: ReplicationRun, airflow: ApiClient) -> dict[str, Any]:
    return run_row(run, SystemClock().now()) | live(run, airflow)
