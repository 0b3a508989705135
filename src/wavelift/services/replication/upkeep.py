"""What happens to the replicas of a job outside its runs: the deletion with the job (SMS-09).

It is a run of the wave's replicate DAG in a mode of its own: it admits no server and counts against no quota.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.domain import Message
from wavelift.base.errors import BusyError, PermanentError, TamperedError, located
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, SnapshotState, jobs, waves
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationRun
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.replication import JobState, RunState
from wavelift.services.dataplane.abandon import written_by
from wavelift.services.dataplane.importing import end_imports
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.replication.deletion import complete_deletion
from wavelift.services.replication.requests import plan_of

_PAGE: Final = 100

Access = Callable[[str, str], AwsAccess]
"""AWS connection and region → access."""


class DeletedJob(Message):
    """What the deletion of one job removed outside, and what stays (SMS-09)."""

    server: str
    job: str
    snapshots: tuple[str, ...] = ()
    """EBS snapshots that were deleted."""
    objects: int = 0
    """Manifests, journals and unfinished uploads that were deleted from the bucket."""
    kept: tuple[str, ...] = ()
    """What stays, and why."""


def check_ordered(ledger: Ledger, job_ids: Collection[str], ctx: RunContext) -> None:
    """The jobs came by XCom: each must be of this run's wave and be deleted by order of somebody, and the run must be
    one that deletes.

    :raises TamperedError: one is not.
    """
    with ledger.read() as tx:
        run = waves.get(tx, ctx.run)
        chosen = [jobs.get(tx, id) for id in job_ids]
    for job in chosen:
        ordered = job.state in (JobState.DELETING, JobState.DELETED)
        if run.mode != "delete" or job.wave != run.wave or not ordered:
            raise TamperedError(
                "What came by XCom is no job that this run may delete",
                field="jobs",
                expected=f"jobs of wave {run.wave} that are being deleted, in mode delete",
                found=f"{job.id} of wave {job.wave}, {job.state}, in mode {run.mode}",
                next_step=f"Say `wavelift jobs delete {job.id}`, which triggers a run by itself",
            )


def delete_outside(ledger: Ledger, access: Access, job_id: str, ctx: RunContext) -> DeletedJob:
    """Remove what the runs of a deleted job made, never their AMIs, and complete its deletion. May be called again.

    :raises BusyError: tasks of a run are still cleaning up.
    :raises PermanentError: a vSphere snapshot may still exist, and no task is left that would remove it.
    """
    with ledger.read() as tx:
        job = jobs.get(tx, job_id)
    removed: list[str] = []
    kept: list[str] = []
    objects = 0
    with located(server=job.server, job=job_id):
        for known in list(_started(ledger, job_id)):
            ctx.cancel.check()
            _check_source_is_clean(known, ctx)
            plan = plan_of(ledger, known)
            if plan is None:
                continue
            found = access(plan.target.aws_conn_id, plan.target.region)
            gone, stays = _delete_snapshots(found, known)
            removed += gone
            kept += stays
            with ServerStaging.of(found, plan, known.run_key) as staging:
                objects += staging.discard()
        told = {"snapshots": removed, "objects": objects, "kept": kept}
        complete_deletion(ledger, job_id, by=ctx.requester, removed=told, clock=ctx.clock)
    return DeletedJob(
        server=job.server, job=job_id, snapshots=tuple(removed), objects=objects, kept=tuple(dict.fromkeys(kept))
    )


def _started(ledger: Ledger, job_id: str) -> Iterator[ReplicationRun]:
    offset = 0
    which = RunFilter(job_id=job_id, started=True)
    while True:
        with ledger.read() as tx:
            page = runs.list_runs(tx, which, limit=_PAGE, offset=offset)
        if not page.items:
            return
        yield from page.items
        offset += len(page.items)


def _check_source_is_clean(known: ReplicationRun, ctx: RunContext) -> None:
    if known.snapshot_state is not SnapshotState.INTENDED:
        return
    if ctx.liveness.run(known.run):
        raise BusyError(
            "A run of the job still removes its vSphere snapshot",
            run=known.id,
            snapshot=known.snapshot_name,
            next_step="The deletion tries again by itself",
        )
    raise PermanentError(
        "A vSphere snapshot of the job may still stand, and its run has ended",
        run=known.id,
        snapshot=known.snapshot_name,
        next_step=f"Say `wavelift cleanup {known.wave}`, then delete the job again",
    )


def _delete_snapshots(access: AwsAccess, known: ReplicationRun) -> tuple[list[str], list[str]]:
    """Delete the run's EBS snapshots that no image uses. Returns the deleted ones, and words about each that stays.

    Only the lineage of the run's own job uses them as well, and that is deleted with the job. Images stay.
    """
    ec2 = Ec2(access)
    kept = []
    if known.state is not RunState.COMPLETED:
        end_imports(access, known.run_key, "wavelift: the job was deleted")
    images = ec2.find_ours({TAG_RUN: run_hash(known.run_key)}).images
    used = {snapshot: image.image_id for image in images for snapshot in image.snapshot_ids}
    removed = []
    for snapshot in written_by(access, known.run_key):
        if snapshot.snapshot_id in used:
            kept.append(f"{snapshot.snapshot_id}: the AMI {used[snapshot.snapshot_id]} stands on it")
            continue
        try:
            ec2.delete_snapshot(snapshot.snapshot_id)
        except BusyError as error:  # an image of somebody else's, or of another run
            kept.append(f"{snapshot.snapshot_id}: {error.what}")
            continue
        removed.append(snapshot.snapshot_id)
    return removed, kept
