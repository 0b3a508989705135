"""Jobs and runs of replication as REST tells of them: times in UTC (ISO 8601), sizes in bytes, rates in bytes/s."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import Any, Final

from wavelift.airflow.rest import ApiClient
from wavelift.base.rates import PROGRESS_KEY, TransferProgress, average
from wavelift.console.chain import GROUP, map_index_of
from wavelift.ledger import Ledger, ReplicationJob, ReplicationRun
from wavelift.ledger.replication_runs import current_runs, served_instants
from wavelift.rules.replication import DEFAULT_POLICY, JobState, RunState, RunType

TYPES: Final = {RunType.AUTOMATIC: "Automatic", RunType.ON_DEMAND: "OnDemand"}
"""SMS-08's words."""
DAY_SECONDS: Final = 86_400


def dag_of(wave: str) -> str:
    """The DAG whose rights decide over a wave's jobs and runs."""
    return f"{wave}.replicate"


def job_rows(ledger: Ledger, jobs: Sequence[ReplicationJob], now: datetime) -> list[dict[str, Any]]:
    """One line of the list each, in two queries however many there are."""
    ids = [job.id for job in jobs]
    with ledger.read() as tx:
        current, served = current_runs(tx, ids), served_instants(tx, ids)
    return [job_row(job, current.get(job.id), served.get(job.id), now) for job in jobs]


def job_row(
    job: ReplicationJob, current: ReplicationRun | None, served: datetime | None, now: datetime
) -> dict[str, Any]:
    return {
        "id": job.id,
        "wave": job.wave,
        "server": job.server,
        "state": str(job.state),
        "state_reason": job.state_reason,
        "seed_at": _iso(job.seed_at),
        "frequency_hours": job.frequency_hours,
        "next_at": _iso(_next_at(job, served, now)),
        "license_type": job.license_type,
        "description": job.description,
        "keep_amis": job.keep_amis,
        "pause_after_failures": job.pause_after_failures,
        "ami": job.ami,
        "force_register": job.force_register,
        "failures": job.failures,
        "latest_ami_id": job.latest_ami_id,
        "current_run": run_row(current, now) if current else None,
        "first_replication_at": _iso(job.first_replication_at),
        "term_ends_at": _iso(job.term_ends_at),
        "term_days_left": _days_left(job, now),
        "source": job.source,
        "identity": job.identity,
        "created_by": job.created_by,
        "created_at": _iso(job.created_at),
        "updated_at": _iso(job.updated_at),
        "deleted_at": _iso(job.deleted_at),
        "dag_id": dag_of(job.wave),
    }


def run_row(run: ReplicationRun, now: datetime) -> dict[str, Any]:
    """One line of a job's history, with everything that SMS-08 names."""
    return {
        "id": run.id,
        "job_id": run.job_id,
        "wave": run.wave,
        "server": run.server,
        "type": TYPES[run.type],
        "state": str(run.state).capitalize(),
        "status": run.status,
        "rule": run.rule,
        "refused_until": _iso(run.refused_until),
        "scheduled_start": _iso(run.scheduled_for),
        "requested_at": _iso(run.requested_at),
        "requested_by": run.requested_by,
        "started_at": _iso(run.started_at),
        "completed_at": _iso(run.finished_at),
        "ami_id": run.ami_id,
        "ami_state": str(run.ami_state) if run.ami_state else None,
        "progress_pct": run.progress_pct,
        "bytes_done": run.bytes_done,
        "bytes_total": run.bytes_total,
        "bytes_read": run.bytes_read,
        "bytes_sent": run.bytes_sent,
        "rate": _rate(run),
        "duration_s": round(_duration(run, now), 1),
        "error": run.error,
        "quarantine": run.quarantine,
        "cancel_requested": run.cancel_requested,
        "dag_id": run.dag_id,
        "dag_run_id": run.dag_run_id,
    }


def live(run: ReplicationRun, airflow: ApiClient) -> dict[str, Any]:
    """How far the running transfer is; the task's state store knows, the connector never writes to the ledger."""
    if run.state is not RunState.ACTIVE or run.recorded_at is not None:
        return {}
    index = map_index_of(airflow, run)
    if index is None:
        return {}
    stored = airflow.state_store(run.dag_id, run.dag_run_id, f"{GROUP}transfer", PROGRESS_KEY, map_index=index)
    moved = TransferProgress.load(stored)
    if moved is None:
        return {}
    done, total = moved.done, max(moved.total, run.bytes_total)
    return {
        "status": run.status or "Uploading",
        "bytes_done": done,
        "bytes_total": total,
        "bytes_sent": moved.sent,
        "rate": round(moved.rate),
        "progress_pct": min(100, 100 * done // total) if total else 0,
    }


def _next_at(job: ReplicationJob, served: datetime | None, now: datetime) -> datetime | None:
    """The next instant; one that is due and waits for its run is still to come."""
    if job.state is not JobState.ACTIVE:
        return None
    due = job.schedule.newest(now)
    if due is not None and now - due <= DEFAULT_POLICY.grace and (served is None or served < due):
        return due
    return job.schedule.next_after(now)


def _days_left(job: ReplicationJob, now: datetime) -> int | None:
    """Whole days, rounded up: 0 once the term is over (SMS-10)."""
    if job.term_ends_at is None:
        return None
    return max(0, ceil((job.term_ends_at - now).total_seconds() / DAY_SECONDS))


def _rate(run: ReplicationRun) -> int:
    """Of reading, from start to record: the conversion afterwards moves no bytes of ours."""
    if run.started_at is None or run.recorded_at is None:
        return 0
    return round(average(run.bytes_read, (run.recorded_at - run.started_at).total_seconds()))


def _duration(run: ReplicationRun, now: datetime) -> float:
    if run.state is RunState.ACTIVE and run.started_at is not None:
        return max(0.0, (now - run.started_at).total_seconds())
    return run.duration_s


def _iso(value: datetime | None) -> str | None:
    return value.isoformat() if value else None
