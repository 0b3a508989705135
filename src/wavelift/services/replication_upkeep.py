"""What is done to the replicas of a job beside its runs: they are deleted with it (SMS-09), or read back (invariant 1).

Both are a run of the wave's replicate DAG in a mode of its own: it admits no server and counts against no quota.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.vmimport import VmImport
from wavelift.base.domain import Message, ReplicationResult
from wavelift.base.errors import BusyError, PermanentError, SpecError, located
from wavelift.base.names import run_hash
from wavelift.base.run import CancelFlag, Clock
from wavelift.ledger import Ledger, jobs, lineage, migrations, waves
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationJob, ReplicationRun
from wavelift.ledger.replication_runs import RunFilter
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.rules.replication import JobState, RunState
from wavelift.services import replication
from wavelift.services.admission import IsRunAlive
from wavelift.services.dataplane.replication_messages import RecordedRun
from wavelift.services.dataplane.staging import ServerStaging

DELETE: Final = "delete"
VERIFY: Final = "verify"
_PAGE: Final = 100

Access = Callable[[str, str], AwsAccess]
"""AWS connection and region → access."""


# --- what a run in one of these modes is about ----------------------------------------------------------------------


def jobs_to_delete(ledger: Ledger, wave: str, conf: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids of the jobs that the conf names; those that are deleted already are left out.

    :raises SpecError: for a job of another wave, or one that nobody deleted: this mode only finishes a deletion.
    """
    chosen = []
    for job in _jobs(ledger, wave, _names("jobs", conf.get("jobs"))):
        if job.state is JobState.DELETED:
            continue
        if job.state is not JobState.DELETING:
            raise SpecError(
                f"The job {job.id} is {job.state}, not being deleted",
                wave=wave,
                server=job.server,
                next_step=f"Say `wavelift jobs delete {job.id}` first; it triggers this run by itself",
            )
        chosen.append(job.id)
    return tuple(chosen)


def runs_to_verify(ledger: Ledger, wave: str, conf: Mapping[str, Any]) -> tuple[RecordedRun, ...]:
    """The recorded runs that the conf names under ``runs``, and those on which the next run of each of ``jobs`` builds.

    :raises SpecError: for what belongs to another wave, or has no recorded disks to read.
    """
    found: dict[str, ReplicationRun] = {}
    for job in _jobs(ledger, wave, _names("jobs", conf.get("jobs"))) if "jobs" in conf else ():
        rows = lineage.lineage_rows(ledger, job.id)
        if not rows:
            raise SpecError(
                f"The job {job.id} has no recorded run: there is nothing to read back",
                wave=wave,
                server=job.server,
                next_step="Wait for its first run, or trigger one",
            )
        found |= {row.run_id: runs.get_run(ledger, row.run_id) for row in rows}
    for id in _names("runs", conf.get("runs")) if "runs" in conf else ():
        found[id] = runs.get_run(ledger, id)
    if not found:
        raise SpecError("No run is named", wave=wave, next_step="Give ids in conf under runs or jobs")
    return tuple(_recorded(ledger, wave, known) for known in found.values())


def _recorded(ledger: Ledger, wave: str, known: ReplicationRun) -> RecordedRun:
    if known.wave != wave:
        raise SpecError(f"{known.id} belongs to wave {known.wave}", wave=wave, next_step="Trigger that wave's DAG")
    plan = _plan(ledger, known)
    if known.result is None or plan is None:
        raise SpecError(
            f"The run {known.id} recorded no disks: it is {known.state}",
            wave=wave,
            server=known.server,
            next_step="Choose a completed run of `wavelift jobs history JOB`",
        )
    return RecordedRun(
        server=known.server,
        run=known.id,
        aws_conn_id=plan.target.aws_conn_id,
        region=plan.target.region,
        disks=ReplicationResult.load(known.result).disks,
    )


def _names(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise SpecError(f"{key} is {value!r}", next_step="Give a list of ids")
    return value


def _jobs(ledger: Ledger, wave: str, ids: Collection[str]) -> Iterator[ReplicationJob]:
    for id in ids:
        job = jobs.get_job(ledger, id)
        if job.wave != wave:
            raise SpecError(f"{id} belongs to wave {job.wave}", wave=wave, next_step="Trigger that wave's DAG")
        yield job


def _plan(ledger: Ledger, known: ReplicationRun) -> ServerPlan | None:
    """Where the run's objects lie, as its own spec said; None: it ended before it had one, and made nothing."""
    frozen = waves.find_wave_run(ledger, known.run)
    if frozen is None:
        return None
    return ResolvedWave.load(frozen.spec).servers[0].model_copy(update={"server": known.server})


# --- deletion -------------------------------------------------------------------------------------------------------


class DeletedJob(Message):
    """What the deletion of one job removed outside, and what it left (SMS-09)."""

    server: str
    job: str
    snapshots: tuple[str, ...] = ()
    """EBS snapshots that are gone now."""
    objects: int = 0
    """Manifests, journals and unfinished uploads that are gone from the bucket."""
    kept: tuple[str, ...] = ()
    """What stays, and why."""


def delete_outside(
    ledger: Ledger,
    access: Access,
    job_id: str,
    *,
    by: str,
    is_run_alive: IsRunAlive,
    cancel: CancelFlag,
    clock: Clock,
) -> DeletedJob:
    """Remove what the runs of a deleted job made, never their AMIs, and complete its deletion. May be called again.

    :raises BusyError: a run's own tasks still clean up.
    :raises PermanentError: a vSphere snapshot may still stand, and no task is left that would remove it.
    """
    job = jobs.get_job(ledger, job_id)
    removed: list[str] = []
    kept: list[str] = []
    objects = 0
    with located(server=job.server, job=job_id):
        for known in list(_started(ledger, job_id)):
            cancel.check()
            _check_source_is_clean(known, is_run_alive)
            plan = _plan(ledger, known)
            if plan is None:
                continue
            found = access(plan.target.aws_conn_id, plan.target.region)
            gone, stays = _delete_snapshots(found, known)
            removed += gone
            kept += stays
            with ServerStaging.of(found, plan, known.run_key) as staging:
                objects += staging.discard()
        told = {"snapshots": removed, "objects": objects, "kept": kept}
        replication.complete_deletion(ledger, job_id, by=by, removed=told, clock=clock)
    return DeletedJob(
        server=job.server, job=job_id, snapshots=tuple(removed), objects=objects, kept=tuple(dict.fromkeys(kept))
    )


def _started(ledger: Ledger, job_id: str) -> Iterator[ReplicationRun]:
    offset = 0
    which = RunFilter(job_id=job_id, started=True)
    while (page := runs.list_runs(ledger, which, limit=_PAGE, offset=offset)).items:
        yield from page.items
        offset += len(page.items)


def _check_source_is_clean(known: ReplicationRun, is_run_alive: IsRunAlive) -> None:
    if known.snapshot_state not in migrations.STANDING:
        return
    if is_run_alive(known.dag_id, known.dag_run_id):
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
    """Delete the run's EBS snapshots that no image uses; which are gone, and words about each that stays."""
    ec2 = Ec2(access)
    kept = []
    if known.state is not RunState.COMPLETED:
        imports = VmImport(access)
        for status in imports.find({"wavelift:run": run_hash(known.run_key)}):
            if not status.finished:
                imports.cancel(status.task_id, "wavelift: the job was deleted")
    ours = ec2.find_ours({"wavelift:run": run_hash(known.run_key)})
    used = {snapshot: image.image_id for image in ours.images for snapshot in image.snapshot_ids}
    removed = []
    for snapshot in ours.snapshots:
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
