"""Routes of replication jobs (SMS-03, SMS-09, SMS-10), denying by default like all others.

Reading needs the right to read the wave's DAG ``<wave>.replicate``, writing the right to trigger it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Final, Self

from airflow.api_fastapi.core_api.security import GetUserDep
from fastapi import FastAPI, HTTPException, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wavelift.airflow.rest import ApiClient
from wavelift.base.errors import SpecError
from wavelift.base.run import SystemClock
from wavelift.console.access import may_read, may_trigger, readable_dags
from wavelift.console.chain import Chain
from wavelift.console.deps import AirflowDep, LedgerDep, Specs, SpecsDep
from wavelift.console.replication_rows import dag_of, job_row, job_rows
from wavelift.ledger import Ledger, ReplicationJob, jobs, replication_runs
from wavelift.ledger.jobs import JobFilter
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.fields import FLAG, WHOLE, Name
from wavelift.rules.guests import Guest
from wavelift.rules.limits import LIMITS
from wavelift.rules.plans import ServerPlan
from wavelift.rules.problem import allowed, did_you_mean
from wavelift.rules.replication import JobState
from wavelift.rules.wave import LicenseType
from wavelift.rules.wave_replication import Replication, ReplicationPlan
from wavelift.services.replication import deletion
from wavelift.services.replication import jobs as job_service
from wavelift.services.replication.deletion import Deletion
from wavelift.services.replication.jobs import JobChange, JobOrder
from wavelift.services.replication.orders import Bound, bind_wave, order_of, orders_of_wave

SUFFIX: Final = ".replicate"
GUEST_MATTERS: Final = frozenset({"license_type", "ami", "force_register"})


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class JobFields(Replication):
    """What may be said of a job (SMS-03); ``null`` keeps all AMIs and means nothing elsewhere."""

    license_type: LicenseType | None = None

    @model_validator(mode="after")
    def _no_other_null(self) -> Self:
        empty = sorted(name for name in self.model_fields_set - {"keep_amis"} if getattr(self, name) is None)
        if empty:
            raise ValueError(f"{', '.join(empty)} can't be null; leave it out")
        return self


class JobsBody(JobFields):
    """New jobs of several servers of a wave; what is left out is as the wave's spec says."""

    wave: Name
    servers: tuple[str, ...] = Field(min_length=1, max_length=LIMITS["servers_per_wave"].value)


class PauseBody(_Body):
    reason: str = ""


class ExtendBody(_Body):
    """Another whole term when ``days`` is left out."""

    days: Annotated[int, Field(ge=1, le=3650), WHOLE] | None = None


class ApplyBody(_Body):
    dry_run: Annotated[bool, FLAG] = False


def add_replication_routes(app: FastAPI) -> None:
    _reading(app)
    _making(app)
    _changing(app)
    _deleting(app)


def _reading(app: FastAPI) -> None:
    @app.get("/jobs")
    def list_jobs(
        user: GetUserDep,
        ledger: LedgerDep,
        wave: str | None = None,
        state: JobState | None = None,
        search: str = "",
        limit: Annotated[int, Query(ge=1, le=500)] = jobs.ROWS_A_PAGE,
        offset: Annotated[int, Query(ge=0)] = 0,
    ) -> dict[str, Any]:
        """Jobs of the waves that the caller may read, by wave and server; deleted ones only by ``state``."""
        which = JobFilter(wave=wave, waves=readable_waves(user), states=[state] if state else None, search=search)
        page = jobs.list_jobs(ledger, which, limit=limit, offset=offset)
        return {
            "jobs": job_rows(ledger, page.items, SystemClock().now()),
            "total": page.total,
            "limit": page.limit,
            "offset": page.offset,
        }

    @app.get("/jobs/{job_id}")
    def show_job(job_id: str, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """One job with its current run, latest AMI, next instant and term."""
        return _row(ledger, readable_job(ledger, job_id, user))


def _making(app: FastAPI) -> None:
    @app.post("/jobs")
    def create_jobs(body: JobsBody, user: GetUserDep, ledger: LedgerDep, specs: SpecsDep) -> dict[str, Any]:
        """Make the jobs of several servers of a wave: all of them or none."""
        require_trigger(user, body.wave)
        bound = bind_wave(ledger, specs.wave(body.wave))
        orders = [_order(body, bound, name) for name in dict.fromkeys(body.servers)]
        made = job_service.create_jobs(ledger, body.wave, orders, by=user.get_name(), clock=SystemClock())
        return {"jobs": job_rows(ledger, made, SystemClock().now())}

    @app.post("/waves/{wave}/apply")
    def apply_wave(
        wave: str, body: ApplyBody, user: GetUserDep, ledger: LedgerDep, specs: SpecsDep, airflow: AirflowDep
    ) -> dict[str, Any]:
        """Make and change a wave's jobs as its spec says; with ``dry_run`` only show the drift."""
        (require_read if body.dry_run else require_trigger)(user, wave)
        resolved = specs.wave(wave)
        bound = bind_wave(ledger, resolved)
        orders = orders_of_wave(ledger, resolved, bound)
        changes = (
            job_service.plan_changes(ledger, wave, orders)
            if body.dry_run
            else job_service.apply_wave(ledger, wave, orders, by=user.get_name(), clock=SystemClock())
        )
        return {
            "wave": wave,
            "dry_run": body.dry_run,
            "changes": [_change_row(change) for change in changes],
            "unbound": list(bound.unbound),
            "clashes": [{"server": one.server, "what": one.what, "do": one.next_step} for one in bound.clashes],
            "dag_id": dag_of(wave),
            "dag_paused": dag_paused(airflow, wave),
        }


def _changing(app: FastAPI) -> None:
    @app.patch("/jobs/{job_id}")
    def update_job(
        job_id: str, body: JobFields, user: GetUserDep, ledger: LedgerDep, specs: SpecsDep
    ) -> dict[str, Any]:
        """Change a job: only what the body names. A new seed time or frequency counts from now on."""
        known = triggerable_job(ledger, job_id, user)
        fields = body.model_dump(exclude_unset=True)
        guest = _guest_of(ledger, specs, known) if fields.keys() & GUEST_MATTERS else None
        changed = job_service.update_job(ledger, job_id, by=user.get_name(), clock=SystemClock(), guest=guest, **fields)
        return _row(ledger, changed)

    @app.post("/jobs/{job_id}/pause")
    def pause_job(job_id: str, body: PauseBody, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """Start no run any more; one that is active goes on."""
        triggerable_job(ledger, job_id, user)
        by = user.get_name()
        return _row(ledger, job_service.pause_job(ledger, job_id, by=by, reason=body.reason, clock=SystemClock()))

    @app.post("/jobs/{job_id}/resume")
    def resume_job(job_id: str, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """Go on with the next instant; failures are counted anew."""
        triggerable_job(ledger, job_id, user)
        return _row(ledger, job_service.resume_job(ledger, job_id, by=user.get_name(), clock=SystemClock()))

    @app.post("/jobs/{job_id}/extend")
    def extend_job(job_id: str, body: ExtendBody, user: GetUserDep, ledger: LedgerDep) -> dict[str, Any]:
        """Let the server be replicated longer (SMS-10)."""
        triggerable_job(ledger, job_id, user)
        by = user.get_name()
        return _row(ledger, job_service.extend_job(ledger, job_id, days=body.days, by=by, clock=SystemClock()))


def _deleting(app: FastAPI) -> None:
    @app.delete("/jobs/{job_id}")
    def delete_job(job_id: str, user: GetUserDep, ledger: LedgerDep, airflow: AirflowDep) -> dict[str, Any]:
        """Stop a job and its run, and remove what its runs made outside, never their AMIs (SMS-09).

        What lies outside goes by a run of the wave's DAG; the job is ``deleting`` until then. A repeated call of such
        a job starts that run again. Of a DAG that is paused the run waits (``dag_paused``).
        """
        known, clock = triggerable_job(ledger, job_id, user), SystemClock()
        if known.state is JobState.DELETED:
            return {
                "job": _row(ledger, known),
                "stopped_tasks": [],
                **_deletion_row(None),
                "dag_run_id": None,
                "dag_paused": False,
            }
        deleted = deletion.delete_job(ledger, job_id, by=user.get_name(), clock=clock)
        stopped = [task for run in deleted.cut_short for task in Chain.of_replication(airflow, run).stop()]
        run_id, job = None, deleted.job
        if _ever_ran(ledger, job_id):
            run_id = airflow.trigger(dag_of(known.wave), ReplicateConf(mode="delete", jobs=[job_id]).given())
        else:  # nothing was ever made outside
            job = deletion.complete_deletion(ledger, job_id, by=user.get_name(), clock=clock)
        answer = {"job": _row(ledger, job), "stopped_tasks": stopped, **_deletion_row(deleted)}
        waits = run_id is not None and dag_paused(airflow, known.wave) is True
        return {**answer, "dag_id": dag_of(known.wave), "dag_run_id": run_id, "dag_paused": waits}


# Rights


def readable_waves(user: Any) -> set[str]:
    """Waves whose replication the caller may read."""
    return {dag_id.removesuffix(SUFFIX) for dag_id in readable_dags(user) if dag_id.endswith(SUFFIX)}


def require_read(user: Any, wave: str) -> None:
    if not may_read(user, dag_of(wave)):
        raise HTTPException(403, f"You may not read {dag_of(wave)}")


def require_trigger(user: Any, wave: str) -> None:
    if not may_trigger(user, dag_of(wave)):
        raise HTTPException(403, f"You may not trigger {dag_of(wave)}")


def readable_job(ledger: Ledger, job_id: str, user: Any) -> ReplicationJob:
    known = jobs.get_job(ledger, job_id)
    require_read(user, known.wave)
    return known


def triggerable_job(ledger: Ledger, job_id: str, user: Any) -> ReplicationJob:
    known = readable_job(ledger, job_id, user)
    require_trigger(user, known.wave)
    return known


def dag_paused(airflow: ApiClient, wave: str) -> bool | None:
    """Whether Airflow schedules the wave's DAG at all; None when it doesn't know the DAG."""
    status, answer = airflow.request("GET", f"/api/v2/dags/{dag_of(wave)}")
    return bool(answer.get("is_paused")) if status == 200 else None


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
    page = replication_runs.list_runs(ledger, RunFilter(job_id=job_id, started=True), limit=1)
    return page.total > 0


def _row(ledger: Ledger, job: ReplicationJob) -> dict[str, Any]:
    current, served = (
        replication_runs.current_runs(ledger, [job.id]),
        replication_runs.served_instants(ledger, [job.id]),
    )
    return job_row(job, current.get(job.id), served.get(job.id), SystemClock().now())


def _change_row(change: JobChange) -> dict[str, Any]:
    fields: Mapping[str, tuple[Any, Any]] = change.fields or {}
    return {
        "kind": str(change.kind),
        "server": change.server,
        "job_id": change.job.id if change.job else None,
        "fields": {name: {"ledger": _plain(old), "spec": _plain(new)} for name, (old, new) in fields.items()},
    }


def _deletion_row(deletion: Deletion | None) -> dict[str, Any]:
    """What is to go; a job that is deleted already has nothing left."""
    disks = deletion.lineage if deletion else ()
    superseded = [disk.snapshot_id for disk in deletion.superseded] if deletion else []
    return {
        "cut_short": [run.id for run in deletion.cut_short] if deletion else [],
        "snapshots": sorted({*superseded, *(disk.snapshot_id for disk in disks)}),
        "manifests": [f"s3://{disk.bucket}/{disk.manifest_key}" for disk in disks if disk.manifest_key],
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, datetime) else value
