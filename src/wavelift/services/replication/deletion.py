"""The deletion of a replication job: it stops at once, and is complete when nothing of it is left outside (SMS-09)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from wavelift.base.domain import DiskLineage
from wavelift.base.errors import PermanentError
from wavelift.base.run import Clock
from wavelift.ledger import cutovers, jobs, lineage, replication_runs
from wavelift.ledger.database import Ledger, Tx
from wavelift.ledger.replication_records import ReplicationJob, ReplicationRun, SupersededDisk
from wavelift.rules.cutover import CutoverState
from wavelift.rules.replication import JobState, RunState


@dataclass(frozen=True, slots=True)
class Deletion:
    """What the deletion of a job leaves to remove outside. Never the AMIs of its runs (SMS-09).

    :param lineage: disks with the EBS snapshots and manifests that the next run would have built on.
    :param superseded: EBS snapshots that earlier runs replaced; some are deleted already, by the run itself.
    :param cut_short: the runs that ended as deleted now.
    """

    job: ReplicationJob
    lineage: tuple[DiskLineage, ...]
    superseded: tuple[SupersededDisk, ...]
    cut_short: tuple[ReplicationRun, ...]


def delete_job(ledger: Ledger, job_id: str, *, by: str, clock: Clock) -> Deletion:
    """Stop the job and its run at once. The caller removes what the runs made outside, then calls
    :func:`complete_deletion`. Until then a repeated call returns the same, so a crash loses nothing.

    :raises PermanentError: a cutover of the server is under way, or its way back is open: that continues with what the
        job's runs made.
    """
    with ledger.read() as tx:
        wave = jobs.get(tx, job_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        now = clock.now()
        known = jobs.get(tx, job_id)
        cut = [_cut_short(tx, each, now, by) for each in replication_runs.open_of_job(tx, job_id)]
        if known.state in (JobState.ACTIVE, JobState.PAUSED):
            _refuse_cutover(tx, known)
            why = f"deleted by {by}"
            known = jobs.apply(tx, known, "deleting", at=now, by=by, state=JobState.DELETING, state_reason=why)
        disks = tuple(row.lineage for row in lineage.rows(tx, job_id))
        return Deletion(known, disks, replication_runs.superseded_of(tx, job_id), tuple(cut))


def _refuse_cutover(tx: Tx, known: ReplicationJob) -> None:
    """One that is being finalized deletes the job itself."""
    found = cutovers.withholding(tx, known.wave).get(known.server)
    if found is not None and found.state is not CutoverState.FINALIZING:
        raise PermanentError(
            f"Cutover {found.id} of this server is {found.state}: its job is not deleted",
            next_step="Revert or finalize it first; finalizing deletes the job, unless the wave's file says otherwise",
            job=known.id,
            server=known.server,
        )


def complete_deletion(
    ledger: Ledger, job_id: str, *, by: str, removed: Mapping[str, Any] | None = None, clock: Clock
) -> ReplicationJob:
    """Everything outside is deleted. The job and its history stay readable; the server may get a new job.

    :param removed: what was removed, for the audit trail.
    """
    with ledger.read() as tx:
        wave = jobs.get(tx, job_id).wave
    with ledger.write(jobs.lock_name(wave)) as tx:
        known = jobs.get(tx, job_id)
        if known.state is JobState.DELETED:
            return known
        now = clock.now()
        lineage.remove(tx, job_id)
        return jobs.apply(
            tx, known, "deleted", at=now, by=by, state=JobState.DELETED, deleted_at=now, details=dict(removed or {})
        )


def _cut_short(tx: Tx, known: ReplicationRun, now: datetime, by: str) -> ReplicationRun:
    return replication_runs.apply(
        tx,
        known,
        "deleted",
        at=now,
        by=by,
        state=RunState.DELETED,
        status="The job was deleted",
        cancel_requested=True,
    )
