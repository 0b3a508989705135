"""How replication runs end, and what they leave (SMS-05, SMS-08, SMS-10, invariant 4)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final

from wavelift.base.domain import DiskLineage, ReplicationResult
from wavelift.base.errors import PermanentError
from wavelift.base.run import Clock
from wavelift.ledger import jobs, lineage, replication_runs
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.replication_records import AmiState, LineageRow, ReplicationRun, SupersededDisk
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.lineage import stray_child
from wavelift.rules.replication import (
    DEFAULT_POLICY,
    JobState,
    Policy,
    RunState,
    RunType,
    must_pause,
    surplus,
    term_end,
)

DAG_RUN_ENDED: Final = "Its DAG run ended before it did"


@contextmanager
def _locked(ledger: Ledger, run_id: str) -> Iterator[tuple[Tx, ReplicationRun]]:
    """A transaction under the lock of the run's wave, and the run as it is in it.

    :raises NotFoundError: when there is no such run.
    """
    with ledger.read() as tx:
        wave = replication_runs.get(tx, run_id).wave  # never changes
    with ledger.write(jobs.lock_name(wave)) as tx:
        yield tx, replication_runs.get(tx, run_id)


def record_run(
    ledger: Ledger, run_id: str, result: ReplicationResult, *, clock: Clock, policy: Policy = DEFAULT_POLICY
) -> ReplicationRun:
    """Make the disks of a run the base of the next run: all of them or none. A repeated call changes nothing.

    The snapshots that they replace are stored in the run (``superseded``): they may be deleted. A server's term begins
    with its first recorded run.

    :raises PermanentError: when the run has ended or is quarantined, when the set is incomplete, or when a disk was
        sent as changes to a snapshot that is not the recorded one any more.
    """
    with _locked(ledger, run_id) as (tx, known):
        if known.recorded_at is not None and known.result == result.dump() and not known.quarantine:
            return known
        _check_recordable(known, result)
        now = clock.now()
        before = lineage.rows(tx, known.job_id)
        _check_parents(known, result, before)
        disks = [disk.lineage for disk in result.disks]
        lineage.replace(tx, known.job_id, known.id, disks, at=now)
        recorded = replication_runs.apply(
            tx,
            known,
            "recorded",
            at=now,
            recorded_at=now,
            result=result.dump(),
            superseded=_superseded(known, before, disks),
            bytes_read=sum(disk.bytes_read for disk in result.disks),
            bytes_sent=sum(disk.bytes_sent for disk in result.disks),
            blocks_sent=sum(disk.blocks_sent for disk in result.disks),
            details={"snapshots": [disk.snapshot_id for disk in disks]},
        )
        _begin_term(tx, recorded, now, policy)
        return recorded


def complete_run(
    ledger: Ledger, run_id: str, *, ami_id: str = "", proof: Mapping[str, Any] | None = None, clock: Clock
) -> ReplicationRun:
    """The run's AMI exists, or the run was to make none. A repeated call changes nothing.

    :param proof: what was read back of it, for the audit trail.
    :raises PermanentError: when nothing was recorded, or the run ended otherwise.
    """
    with _locked(ledger, run_id) as (tx, known):
        if known.state is RunState.COMPLETED:
            return known
        if known.recorded_at is None or known.quarantine:
            raise _refused(known, "has no recorded disks", "An AMI is made only of a complete, recorded set.")
        now = clock.now()
        ended = replication_runs.apply(
            tx,
            known,
            "completed",
            at=now,
            state=RunState.COMPLETED,
            status="",
            error="",
            progress_pct=100,
            ami_id=ami_id,
            ami_state=AmiState.AVAILABLE if ami_id else None,
            details={"ami_id": ami_id, **({"verified": dict(proof)} if proof else {})},
        )
        job = jobs.get(tx, known.job_id)
        latest = ami_id or job.latest_ami_id
        if job.failures or latest != job.latest_ami_id:
            jobs.apply(tx, job, "run_completed", at=now, by=ended.run, failures=0, latest_ami_id=latest)
        return ended


def fail_run(ledger: Ledger, run_id: str, error: str, *, clock: Clock) -> ReplicationRun:
    """The run failed for good. After as many failures in a row as its job allows, the job pauses; it can be resumed.

    A run that has already ended keeps its state and its first error.
    """
    with _locked(ledger, run_id) as (tx, known):
        return known if known.state.terminal else end_failed(tx, known, error, at=clock.now())


def cancel_run(ledger: Ledger, run_id: str, *, by: str, clock: Clock) -> ReplicationRun:
    """Request that an active run stops. The caller ends its tasks; those of the control plane check the request before
    they write. A repeated request changes nothing.

    :raises PermanentError: when it has ended.
    """
    with _locked(ledger, run_id) as (tx, known):
        return replication_runs.request_cancel(tx, known.id, by=by, clock=clock)


def mark_cancelled(ledger: Ledger, run_id: str, reason: str, *, clock: Clock) -> ReplicationRun:
    """The run's steps were stopped on request. The run stays counted. One that has already ended keeps its state."""
    with _locked(ledger, run_id) as (tx, known):
        if known.state.terminal:
            return known
        if known.state is RunState.RESERVED:
            return expire(tx, known, at=clock.now())
        return replication_runs.end(tx, known, RunState.CANCELLED, reason, at=clock.now())


def quarantine_run(ledger: Ledger, run_id: str, reason: str, *, by: str = "", clock: Clock) -> tuple[DiskLineage, ...]:
    """What a run sent differs from the source: it is never a parent, and the next run is a seed (invariant 1).

    A later recorded run builds on this one, so its disks are dropped too. A run that has not completed may continue and
    send its disks again.

    :returns: the disks that were the base; the run's ``superseded`` names their snapshots as well.
    """
    with _locked(ledger, run_id) as (tx, known):
        now = clock.now()
        rows = lineage.rows(tx, known.job_id)
        if known.quarantine or known.recorded_at is None:
            rows = ()
        replication_runs.apply(
            tx,
            known,
            "quarantined",
            at=now,
            by=by,
            quarantine=reason,
            superseded=_superseded(known, rows, []),
            recorded_at=known.recorded_at if known.state is RunState.COMPLETED else None,
            details={"reason": reason},
        )
        if not rows:
            return ()
        lineage.remove(tx, known.job_id)
        return tuple(row.lineage for row in rows)


def quarantine_tracking(ledger: Ledger, run_id: str, key: int, reason: str, *, clock: Clock) -> bool:
    """A disk's change tracking is no longer trusted: the next run compares digests (invariant 3).

    :param key: of the disk in the lineage. False when the disk has no lineage any more, or was not trusted.
    """
    with _locked(ledger, run_id) as (tx, known):
        found = lineage.set_quarantine(tx, known.job_id, key, reason)
        if found:
            details = {"disk": key, "reason": reason}
            replication_runs.apply(tx, known, "tracking_quarantined", at=clock.now(), details=details)
        return found


def expired_amis(ledger: Ledger, job_id: str) -> tuple[ReplicationRun, ...]:
    """The runs whose AMIs are to be removed because the job keeps only its newest ones, newest first."""
    with ledger.read() as tx:
        keep = jobs.get(tx, job_id).keep_amis
        return tuple(surplus(replication_runs.available_amis(tx, job_id), keep))


def record_ami_removed(ledger: Ledger, run_id: str, *, by: str = "", clock: Clock) -> ReplicationRun:
    """The AMI of a run was deregistered. A repeated call changes nothing."""
    with _locked(ledger, run_id) as (tx, known):
        if known.ami_state is not AmiState.AVAILABLE:
            return known
        details = {"ami_id": known.ami_id}
        return replication_runs.apply(
            tx, known, "ami_deregistered", at=clock.now(), by=by, ami_state=AmiState.DEREGISTERED, details=details
        )


# Inside a transaction that holds the wave's lock


def end_failed(tx: Tx, known: ReplicationRun, error: str, *, at: datetime) -> ReplicationRun:
    """End an active run as failed, a reservation as expired. Pause the job when that was the last allowed failure."""
    if known.state is RunState.RESERVED:
        return expire(tx, known, at=at)
    ended = replication_runs.end(tx, known, RunState.FAILED, error, at=at, status="")
    job = jobs.get(tx, known.job_id)
    failures = replication_runs.failures_in_a_row(tx, job.id, job.failures_since)
    changes: dict[str, Any] = {"failures": failures}
    action = "run_failed"
    counted = ended.type is not RunType.CUTOVER
    if counted and job.state is JobState.ACTIVE and must_pause(failures, job.pause_after_failures):
        action = "paused"
        changes |= {"state": JobState.PAUSED, "state_reason": f"{failures} runs failed in a row; the last: {error}"}
    jobs.apply(tx, job, action, at=at, by=ended.run, details={"failures": failures}, **changes)
    return ended


def expire(tx: Tx, known: ReplicationRun, *, at: datetime) -> ReplicationRun:
    """End a reservation that no DAG run has taken; it is not counted."""
    return replication_runs.apply(
        tx,
        known,
        "expired",
        at=at,
        state=RunState.EXPIRED,
        counted_at=None,
        status="Reserved, but no DAG run took it up in time",
    )


def _begin_term(tx: Tx, recorded: ReplicationRun, now: datetime, policy: Policy) -> None:
    job = jobs.get(tx, recorded.job_id)
    if job.first_replication_at is not None:
        return
    first = recorded.started_at or now
    ends = term_end(first, policy)
    jobs.apply(
        tx,
        job,
        "term_began",
        at=now,
        by=recorded.run,
        first_replication_at=first,
        term_ends_at=ends,
        details={"term_ends_at": ends.isoformat()},
    )


def _superseded(
    known: ReplicationRun, before: tuple[LineageRow, ...], disks: list[DiskLineage]
) -> list[dict[str, Any]]:
    """What earlier tries of this run replaced stays on the list: it is still to be removed."""
    standing = {disk.snapshot_id for disk in disks}
    replaced = [SupersededDisk(key=row.key, snapshot_id=row.snapshot_id).dump() for row in before]
    return [
        *(known.superseded or []),
        *(disk for disk in replaced if disk["snapshot_id"] not in standing),
    ]


def _check_recordable(known: ReplicationRun, result: ReplicationResult) -> None:
    if known.state is not RunState.ACTIVE:
        raise _refused(known, f"has ended as {known.state}", "What it sent is no base for the next run.")
    if known.quarantine:
        raise _refused(known, f"is quarantined: {known.quarantine}", "Start a new run; it sends every disk whole.")
    keys = {disk.lineage.key for disk in result.disks}
    if not keys or len(keys) != len(result.disks) or not all(disk.lineage.snapshot_id for disk in result.disks):
        raise _refused(
            known, "brought no complete set of disks", f"Clear the server's `{CONTINUE_FROM}` task and what follows."
        )


def _check_parents(known: ReplicationRun, result: ReplicationResult, before: tuple[LineageRow, ...]) -> None:
    disk = stray_child(result.disks, [row.lineage for row in before])
    if disk is not None:
        raise PermanentError(
            "A disk was sent as changes to a snapshot that is not the recorded one any more",
            next_step=f"Clear the server's `{CONTINUE_FROM}` task: it is compared with the recorded one then.",
            run=known.id,
            server=known.server,
            disk=disk.lineage.address,
            parent=disk.parent_snapshot_id,
            recorded=", ".join(row.snapshot_id for row in before if row.uuid == disk.lineage.uuid) or None,
        )


def _refused(known: ReplicationRun, what: str, next_step: str) -> PermanentError:
    return PermanentError(f"The replication run {what}", next_step=next_step, run=known.id, server=known.server)
