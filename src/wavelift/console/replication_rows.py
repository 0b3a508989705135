"""Jobs and runs of replication as rows of the REST API."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from math import ceil
from typing import Any, Final

from wavelift.base.rates import average
from wavelift.console.answers import JobRow, RunRow
from wavelift.console.progress import Progress
from wavelift.ledger import Ledger, ReplicationJob, ReplicationRun
from wavelift.ledger.replication_runs import current_runs, served_instants
from wavelift.rules.flows import REPLICATE
from wavelift.rules.replication import DEFAULT_POLICY, JobState, RunState, RunType

TYPES: Final = {RunType.AUTOMATIC: "Automatic", RunType.ON_DEMAND: "OnDemand", RunType.CUTOVER: "Cutover"}
"""SMS-08's words, and ours for the runs of a cutover."""
DAY_SECONDS: Final = 86_400
TRANSFER: Final = REPLICATE.step("transfer").name
BEFORE_TRANSFER: Final = REPLICATE.before(TRANSFER)
WAITS: Final = "Waits"
UPLOADING: Final = "Uploading"
"""What the ledger says from the moment when a run has won its slot."""


def dag_of(wave: str) -> str:
    """The DAG whose rights decide over a wave's jobs and runs."""
    return REPLICATE.dag_id(wave)


def job_rows(
    ledger: Ledger, jobs: Sequence[ReplicationJob], now: datetime, progress: Progress | None = None
) -> list[JobRow]:
    """One line of the list each, in two queries however many there are.

    :param progress: tells where the current runs are; without it they are as the ledger says.
    """
    ids = [job.id for job in jobs]
    with ledger.read() as tx:
        current, served = current_runs(tx, ids), served_instants(tx, ids)
    return [
        JobRow.of(
            job,
            next_at=_next_at(job, served.get(job.id), now),
            current_run=run_row(run, now, progress) if (run := current.get(job.id)) else None,
            term_days_left=_days_left(job, now),
            dag_id=dag_of(job.wave),
        )
        for job in jobs
    ]


def run_fields(run: ReplicationRun, now: datetime) -> dict[str, Any]:
    """The fields of a :class:`RunRow` that the ledger has not under the same name."""
    return {
        "type": TYPES[run.type],
        "state": str(run.state).capitalize(),
        "scheduled_start": run.scheduled_for,
        "completed_at": run.finished_at,
        "rate": _rate(run),
        "duration_s": round(_duration(run, now), 1),
    }


def run_row(run: ReplicationRun, now: datetime, progress: Progress | None = None) -> RunRow:
    """One line of a job's history."""
    return RunRow.of(run, **(run_fields(run, now) | (live(run, progress) if progress else {})))


def live(run: ReplicationRun, progress: Progress) -> dict[str, Any]:
    """The fields of an active run that the ledger does not have: its step, and how far its transfer is."""
    index = progress.index_of(run) if run.state is RunState.ACTIVE else None
    if index is None:
        return {}
    at = progress.step_of(run, index)
    fields = at.fields if at else {}
    if at and at.waiting:
        return {**fields, "status": f"{WAITS}: {at.waiting}"}
    if run.status == UPLOADING and not (at and at.step.name == TRANSFER and at.state == "running"):
        # The ledger tells it from the slot to the record. Between two steps nobody knows better.
        fields["status"] = at.step.name.capitalize() if at else ""
    if run.recorded_at is not None or (at and at.step.name in BEFORE_TRANSFER):
        return fields
    moved = progress.moved(run, TRANSFER, index)
    if moved is None:
        return fields
    done, total = moved.done, max(moved.total, run.bytes_total)
    return {
        "status": run.status or UPLOADING,
        "bytes_done": done,
        "bytes_total": total,
        "bytes_sent": moved.sent,
        "rate": round(moved.rate),
        "progress_pct": min(100, 100 * done // total) if total else 0,
        **fields,
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
