"""Routes of replication jobs (SMS-03, SMS-09, SMS-10), denying by default like all others.

Reading needs the right to read the wave's DAG ``<wave>.replicate``, writing the right to trigger it and that in the
environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Final

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, Query

from wavelift.base.errors import SpecError
from wavelift.base.run import SystemClock
from wavelift.console.access import require_read, reread_seconds
from wavelift.console.answers import (
    EntryClash,
    FieldChange,
    JobChange,
    JobDeleted,
    JobList,
    JobPage,
    JobRow,
    RunStarted,
    WaveApplied,
    WaveFile,
)
from wavelift.console.caller import Caller, CallerDep
from wavelift.console.chain import Chain, map_index_of
from wavelift.console.deps import AirflowDep, LedgerDep, Specs, SpecsDep, start_run
from wavelift.console.lists import readable_in
from wavelift.console.progress import Progress
from wavelift.console.queue import Waiting
from wavelift.console.replication_rows import dag_of, job_rows
from wavelift.console.requests import ApplyBody, ExtendBody, JobFields, JobQuery, JobsBody, PauseBody
from wavelift.ledger import Ledger, ReplicationJob, ReplicationRun, jobs, replication_runs
from wavelift.ledger.jobs import JobFilter
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.authority import Action
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.flows import MIGRATE, REPLICATE
from wavelift.rules.guests import Guest
from wavelift.rules.plans import ServerPlan
from wavelift.rules.problem import allowed, did_you_mean
from wavelift.rules.replication import JobState
from wavelift.rules.wave_replication import ReplicationPlan
from wavelift.services.replication import deletion
from wavelift.services.replication import jobs as job_service
from wavelift.services.replication.deletion import Deletion
from wavelift.services.replication.jobs import JobOrder
from wavelift.services.replication.orders import Bound, bind_wave, order_of, orders_of_wave

GUEST_MATTERS: Final = frozenset({"license_type", "ami", "force_register"})


def add_replication_routes(app: FastAPI) -> None:
    _reading(app)
    _making(app)
    _changing(app)
    _deleting(app)


def _reading(app: FastAPI) -> None:
    @app.get("/jobs")
    def list_jobs(
        query: Annotated[JobQuery, Query()], user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep
    ) -> JobPage:
        """Jobs of the waves that the caller may read, by wave and server; deleted ones only by ``state``."""
        states = [query.state] if query.state else None
        which = JobFilter(wave=query.wave, waves=readable_in(user, REPLICATE), states=states, search=query.search)
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        with ledger.read() as tx:
            page = jobs.list_jobs(tx, which, limit=query.limit, offset=query.offset)
        return JobPage.of(page, jobs=job_rows(ledger, page.items, SystemClock().now(), progress))

    @app.get("/jobs/{job_id}")
    def show_job(job_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> JobRow:
        """One job with its current run, latest AMI, next instant and term."""
        progress = Progress(airflow, waiting=Waiting(ledger, user).words)
        return _row(ledger, readable_job(ledger, job_id, user), progress)

    @app.get("/waves/{wave}")
    def show_wave(wave: str, user: GetUserDep, specs: SpecsDep, airflow: AirflowDep) -> WaveFile:
        """What a wave's file says now, and whether Airflow has loaded it: a new file takes a moment."""
        dag_id = MIGRATE.dag_id(wave)
        require_read(user, dag_id)
        loaded = airflow.is_paused(dag_id) is not None
        problem = specs.problem_of(wave)
        return WaveFile(wave=wave, dag_id=dag_id, loaded=loaded, problem=problem, within_s=reread_seconds())


def _making(app: FastAPI) -> None:
    @app.post("/jobs")
    def create_jobs(body: JobsBody, caller: CallerDep, ledger: LedgerDep, specs: SpecsDep) -> JobList:
        """Make the jobs of several servers of a wave: all of them or none."""
        caller.require(dag_of(body.wave), Action.MIGRATE)
        bound = bind_wave(ledger, specs.wave(body.wave))
        orders = [_order(body, bound, name) for name in dict.fromkeys(body.servers)]
        made = job_service.create_jobs(ledger, body.wave, orders, by=caller.requester.name, clock=SystemClock())
        return JobList(jobs=job_rows(ledger, made, SystemClock().now()))

    @app.post("/waves/{wave}/apply")
    def apply_wave(
        wave: str, body: ApplyBody, caller: CallerDep, ledger: LedgerDep, specs: SpecsDep, airflow: AirflowDep
    ) -> WaveApplied:
        """Make and change a wave's jobs as its spec says; with ``dry_run`` only show the drift."""
        if body.dry_run:
            require_read(caller.user, dag_of(wave))
        else:
            caller.require(dag_of(wave), Action.MIGRATE)
        resolved = specs.wave(wave)
        bound = bind_wave(ledger, resolved)
        orders = orders_of_wave(ledger, resolved, bound)
        changes = (
            job_service.plan_changes(ledger, wave, orders)
            if body.dry_run
            else job_service.apply_wave(ledger, wave, orders, by=caller.requester.name, clock=SystemClock())
        )
        return WaveApplied(
            wave=wave,
            dry_run=body.dry_run,
            changes=[_change_row(change) for change in changes],
            unbound=list(bound.unbound),
            clashes=[EntryClash(server=one.server, what=one.what, do=one.next_step) for one in bound.clashes],
            dag_id=dag_of(wave),
            dag_paused=airflow.is_paused(dag_of(wave)),
        )


def _changing(app: FastAPI) -> None:
    @app.patch("/jobs/{job_id}")
    def update_job(job_id: str, body: JobFields, caller: CallerDep, ledger: LedgerDep, specs: SpecsDep) -> JobRow:
        """Change a job: only what the body names. A new seed time or frequency counts from now on."""
        known, by = changeable_job(ledger, job_id, caller), caller.requester.name
        fields = body.model_dump(exclude_unset=True)
        guest = _guest_of(ledger, specs, known) if fields.keys() & GUEST_MATTERS else None
        changed = job_service.update_job(ledger, job_id, by=by, clock=SystemClock(), guest=guest, **fields)
        return _row(ledger, changed)

    @app.post("/jobs/{job_id}/pause")
    def pause_job(job_id: str, body: PauseBody, caller: CallerDep, ledger: LedgerDep) -> JobRow:
        """Start no run any more; one that is active goes on."""
        changeable_job(ledger, job_id, caller, stops=True)
        by = caller.requester.name
        return _row(ledger, job_service.pause_job(ledger, job_id, by=by, reason=body.reason, clock=SystemClock()))

    @app.post("/jobs/{job_id}/resume")
    def resume_job(job_id: str, caller: CallerDep, ledger: LedgerDep, specs: SpecsDep) -> JobRow:
        """Go on with the next instant; failures are counted anew. Refused while the wave's files allow no run.

        From now on, scheduled runs have the caller's right; that is all it does for an active job.
        """
        specs.wave(changeable_job(ledger, job_id, caller).wave)
        return _row(ledger, job_service.resume_job(ledger, job_id, by=caller.requester.name, clock=SystemClock()))

    @app.post("/jobs/{job_id}/extend")
    def extend_job(job_id: str, body: ExtendBody, caller: CallerDep, ledger: LedgerDep) -> JobRow:
        """Let the server be replicated longer (SMS-10)."""
        changeable_job(ledger, job_id, caller)
        by = caller.requester.name
        return _row(ledger, job_service.extend_job(ledger, job_id, days=body.days, by=by, clock=SystemClock()))


def _deleting(app: FastAPI) -> None:
    @app.delete("/jobs/{job_id}")
    def delete_job(job_id: str, caller: CallerDep, ledger: LedgerDep, airflow: AirflowDep) -> JobDeleted:
        """Stop a job and its run, and remove what its runs made outside, never their AMIs (SMS-09).

        A run of the wave's DAG removes it; until then the job is ``deleting``. A repeated call for such a job starts
        that run again. If the DAG is paused, the run waits (``dag_paused``).
        """
        known, clock, by = changeable_job(ledger, job_id, caller), SystemClock(), caller.requester.name
        with ledger.read() as tx:
            ran = replication_runs.dag_runs_of(tx, jobs=[job_id])
        caller.require_where(ran, Action.MIGRATE)
        if known.state is JobState.DELETED:
            return _deleted(_row(ledger, known))
        deleted = deletion.delete_job(ledger, job_id, by=by, clock=clock)
        stopped = [task for run in deleted.cut_short for task in Chain(airflow, run, map_index_of(airflow, run)).stop()]
        removal, job = None, deleted.job
        if _ever_ran(ledger, job_id):
            removal = start_run(airflow, dag_of(known.wave), ReplicateConf(mode="delete", jobs=[job_id]))
        else:  # nothing was ever made outside
            job = deletion.complete_deletion(ledger, job_id, by=by, clock=clock)
        return _deleted(_row(ledger, job), deleted, removal, stopped_tasks=stopped)


# Rights


def readable_job(ledger: Ledger, job_id: str, user: Any) -> ReplicationJob:
    with ledger.read() as tx:
        known = jobs.get(tx, job_id)
    require_read(user, dag_of(known.wave))
    return known


def readable_run(ledger: Ledger, run_id: str, user: Any) -> ReplicationRun:
    with ledger.read() as tx:
        known = replication_runs.get(tx, run_id)
    require_read(user, dag_of(known.wave))
    return known


def changeable_job(ledger: Ledger, job_id: str, caller: Caller, *, stops: bool = False) -> ReplicationJob:
    """:param stops: as for :meth:`~wavelift.console.caller.Caller.require`."""
    known = readable_job(ledger, job_id, caller.user)
    caller.require(dag_of(known.wave), Action.MIGRATE, stops=stops)
    return known


def changeable_run(ledger: Ledger, run_id: str, caller: Caller, *, stops: bool = False) -> ReplicationRun:
    """:param stops: as for :meth:`~wavelift.console.caller.Caller.require`."""
    known = readable_run(ledger, run_id, caller.user)
    caller.require(dag_of(known.wave), Action.MIGRATE, stops=stops)
    return known


# Bodies to orders, values to rows


def _order(body: JobsBody, bound: Bound, name: str) -> JobOrder:
    """What the body says over what the spec says over the defaults."""
    plan = _plan(body.wave, bound, name)
    fields = body.model_dump(exclude_none=True, exclude={"wave", "servers", "license_type"})
    if "keep_amis" in body.model_fields_set:
        fields["keep_amis"] = body.keep_amis
    wanted = ReplicationPlan.load({**(plan.replication or ReplicationPlan()).dump(), **fields})
    return order_of(plan, wanted, bound, new=True, license_type=body.license_type or "")


def _plan(wave: str, bound: Bound, name: str) -> ServerPlan:
    if name not in bound.plans:
        known = list(bound.plans)
        raise SpecError(
            f"The wave has no server '{name}'{did_you_mean(name, known)}",
            wave=wave,
            next_step=f"Add it to the wave's file, or choose another; {allowed(known)}",
        )
    return bound.plans[name]


def _guest_of(ledger: Ledger, specs: Specs, job: ReplicationJob) -> Guest | None:
    """As the catalogue knows it; a wave without a valid spec has jobs all the same."""
    try:
        return bind_wave(ledger, specs.wave(job.wave)).guest(job.server)
    except SpecError:
        return None


def _ever_ran(ledger: Ledger, job_id: str) -> bool:
    with ledger.read() as tx:
        page = replication_runs.list_runs(tx, RunFilter(job_id=job_id, started=True), limit=1)
    return page.total > 0


def _row(ledger: Ledger, job: ReplicationJob, progress: Progress | None = None) -> JobRow:
    [row] = job_rows(ledger, [job], SystemClock().now(), progress)
    return row


def _change_row(change: job_service.JobChange) -> JobChange:
    fields = {
        name: FieldChange(ledger=_plain(old), spec=_plain(new)) for name, (old, new) in (change.fields or {}).items()
    }
    return JobChange.of(change, job_id=change.job.id if change.job else None, fields=fields)


def _deleted(
    job: JobRow,
    deletion: Deletion | None = None,
    removal: RunStarted | None = None,
    *,
    stopped_tasks: Sequence[str] = (),
) -> JobDeleted:
    """What is to be removed; nothing for a job that is deleted already."""
    disks = deletion.lineage if deletion else ()
    superseded = [disk.snapshot_id for disk in deletion.superseded] if deletion else []
    return JobDeleted(
        job=job,
        stopped_tasks=list(stopped_tasks),
        cut_short=[run.id for run in deletion.cut_short] if deletion else [],
        snapshots=sorted({*superseded, *(disk.snapshot_id for disk in disks)}),
        manifests=[f"s3://{disk.bucket}/{disk.manifest_key}" for disk in disks if disk.manifest_key],
        dag_id=job.dag_id,
        dag_run_id=removal.dag_run_id if removal else None,
        dag_paused=removal is not None and removal.dag_paused,
    )


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
