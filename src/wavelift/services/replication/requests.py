"""Which jobs and runs a run in mode ``delete`` or ``verify`` is about. Uses only the ledger."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from wavelift.base.domain import ReplicationResult
from wavelift.base.errors import SpecError
from wavelift.ledger import Ledger, jobs, lineage, waves
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationJob, ReplicationRun
from wavelift.rules.conf import ReplicateConf
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import JobState
from wavelift.services.common.admit import frozen_wave
from wavelift.services.dataplane.replication_messages import RecordedRun


def jobs_to_delete(ledger: Ledger, wave: str, conf: ReplicateConf) -> tuple[str, ...]:
    """The ids of the jobs that the conf names; those that are deleted already are left out.

    :raises SpecError: for a job of another wave, or one that is not being deleted: this mode only finishes a deletion.
    """
    chosen = []
    for job in _jobs(ledger, wave, conf.jobs or ()):
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


def runs_to_verify(ledger: Ledger, wave: str, conf: ReplicateConf) -> tuple[RecordedRun, ...]:
    """The recorded runs that the conf names under ``runs``, and those on which the next run of each of ``jobs`` builds.

    :raises SpecError: for what belongs to another wave, or has no recorded disks to read.
    """
    found: dict[str, ReplicationRun] = {}
    for job in _jobs(ledger, wave, conf.jobs or ()):
        with ledger.read() as tx:
            rows = lineage.rows(tx, job.id)
        if not rows:
            raise SpecError(
                f"The job {job.id} has no recorded run: there is nothing to read back",
                wave=wave,
                server=job.server,
                next_step="Wait for its first run, or trigger one",
            )
        with ledger.read() as tx:
            found |= {row.run_id: runs.get(tx, row.run_id) for row in rows}
    with ledger.read() as tx:
        found |= {id: runs.get(tx, id) for id in conf.runs or ()}
    return tuple(_recorded(ledger, wave, known) for known in found.values())


def authorised_by(ledger: Ledger, wave: str, servers: Collection[str]) -> dict[str, str]:
    """Server → who last made, changed or resumed its standing job: a scheduled run has this user's right."""
    with ledger.read() as tx:
        return {job.server: job.authorised_by for job in jobs.standing(tx, wave) if job.server in servers}


def _recorded(ledger: Ledger, wave: str, known: ReplicationRun) -> RecordedRun:
    if known.wave != wave:
        raise SpecError(f"{known.id} belongs to wave {known.wave}", wave=wave, next_step="Trigger that wave's DAG")
    plan = plan_of(ledger, known)
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


def _jobs(ledger: Ledger, wave: str, ids: Collection[str]) -> Iterator[ReplicationJob]:
    for id in ids:
        with ledger.read() as tx:
            job = jobs.get(tx, id)
        if job.wave != wave:
            raise SpecError(f"{id} belongs to wave {job.wave}", wave=wave, next_step="Trigger that wave's DAG")
        yield job


def plan_of(ledger: Ledger, known: ReplicationRun) -> ServerPlan | None:
    """The plan with the location of the run's objects, from its own spec; None: it ended before it had one, and made
    nothing."""
    with ledger.read() as tx:
        frozen = waves.find(tx, known.run)
    if frozen is None:
        return None
    return frozen_wave(frozen).servers[0].model_copy(update={"server": known.server})
