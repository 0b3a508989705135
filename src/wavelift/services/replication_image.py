"""The AMI of a replication run, and what goes once it stands: surplus AMIs, replaced snapshots (SMS-03, SMS-05).

The EBS lineage is kept apart from the converted image: the next run stays incremental, and a failed conversion costs
nothing but itself.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal, NoReturn

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, ImageRequest
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, VmImport
from wavelift.base.domain import Message, ReplicationResult
from wavelift.base.errors import BusyError, PermanentError, RefusedError, WaveliftError, located
from wavelift.base.names import run_hash, tags
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, SlotKind, jobs, lineage
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationJob, ReplicationRun, SupersededDisk
from wavelift.rules.guests import guest
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import RunState, refuse_register
from wavelift.services import admission, replication
from wavelift.services.admission import Granted, IsRunAlive
from wavelift.services.dataplane.abandon import abandon_run
from wavelift.services.dataplane.importing import ImportJob, ImportRunning, ImportWaiting
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.dataplane.unfinished import targets_left
from wavelift.services.migration.importing import boot_mode, import_scope


class MadeImage(Message):
    """What ``ami`` returns."""

    server: str
    run: str
    image_id: str
    deregistered: tuple[str, ...] = ()


class RunImage:
    """One look at the AMI of one server's run."""

    def __init__(
        self,
        ledger: Ledger,
        access: AwsAccess,
        task: ServerTask,
        result: ReplicationResult,
        ctx: RunContext,
        *,
        limit: int,
        is_run_alive: IsRunAlive,
    ) -> None:
        self.ledger = ledger
        self.access = access
        self.task = task
        self.result = result
        self.ctx = ctx
        self.limit = limit
        self.is_run_alive = is_run_alive
        self.id = runs.run_id(ctx.run_key)

    def advance(self) -> MadeImage | ImportRunning | ImportWaiting:
        """Bring the AMI one step further: submit its import, find it running, or finish. Never makes a second one.

        :raises WaveliftError: when the import failed, with AWS's words and our reading.
        :raises RefusedError: the job registers images and its guest or licence forbids it.
        """
        with located(server=self.task.name):
            known = runs.get_run(self.ledger, self.id)
            if known.state is RunState.COMPLETED:
                return MadeImage(server=self.task.name, run=self.id, image_id=known.ami_id)
            if known.recorded_at is None or known.quarantine:
                raise PermanentError(
                    "The run has no recorded disks to make an image of",
                    run=self.id,
                    next_step="Clear the server's server.reserve task",
                )
            if known.state.resumable:  # only this task was cleared
                known = replication.continue_run(
                    self.ledger, self.id, by=str(known.run), is_run_alive=self.is_run_alive, clock=self.ctx.clock
                )
            job = jobs.get_job(self.ledger, known.job_id)
            return self._register(job) if job.ami == "register" else self._import(known, job)

    def _tags(self) -> dict[str, str]:
        plan = self.task.plan
        return {**plan.tags, **tags(plan.wave, self.task.name, self.ctx.run_key)}

    def _snapshots(self) -> tuple[str, ...]:
        """In disk order, the boot disk first (invariant 11)."""
        disks = sorted(self.result.disks, key=lambda disk: (not disk.boot, disk.index))
        return tuple(disk.lineage.snapshot_id for disk in disks)

    def _register(self, job: ReplicationJob) -> MadeImage:
        linux = guest(self.task.facts.guest_id).family == "linux"
        refusal = refuse_register(job.license_type, linux=linux, forced=job.force_register)
        if refusal is not None:
            raise RefusedError(
                f"The image is not registered: {refusal.reason}",
                rule=str(refusal.rule),
                next_step="Set 'ami: import' for the job, or force_register",
            )
        self.ctx.cancel.check()
        request = ImageRequest(
            name=f"wavelift-{run_hash(self.ctx.run_key)}",
            snapshot_ids=self._snapshots(),
            boot_mode=boot_mode(self.task),
            description=f"{self.task.plan.wave}/{self.task.name}",
            tags=self._tags(),
        )
        return self._complete(Ec2(self.access).register(request).image_id)

    # --- ImportImage ------------------------------------------------------------------------------------------------

    def _import(self, known: ReplicationRun, job: ReplicationJob) -> MadeImage | ImportRunning | ImportWaiting:
        work = ImportJob(self.access, self.ctx, server=self.task.name)
        if known.cancel_requested:
            work.cancel("wavelift: the run was cancelled")
            self._give_back()
            _cancelled(known)
        try:
            status = work.look()
        except WaveliftError:
            self._give_back()  # whatever ended badly takes no place
            raise
        if status is None:
            return self._submit(known, job, work)
        if not status.finished:
            self._tell(f"Converting: {status.phase}", status.progress or 0)
            return ImportRunning(status.task_id, status.phase)
        self._give_back()
        Ec2(self.access).tag_image(status.image_id, self._tags(), snapshot_ids=status.snapshot_ids)
        return self._complete(status.image_id)

    def _submit(self, known: ReplicationRun, job: ReplicationJob, work: ImportJob) -> ImportRunning | ImportWaiting:
        scope = import_scope(self.task)
        clock = self.ctx.clock
        admission.reclaim(self.ledger, self.is_run_alive, kind=SlotKind.IMPORT, scope=scope, clock=clock)
        slot = admission.request_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=scope,
            holder=self.ctx.run_key,
            dag_id=known.dag_id,
            dag_run_id=known.dag_run_id,
            limit=self.limit,
            clock=clock,
        )
        if not isinstance(slot, Granted):
            found: ImportRunning | ImportWaiting = ImportWaiting(
                f"place {slot.position} among our own imports", queued=True
            )
        else:
            found = work.submit(lambda token: self._request(job, token), limit=self.limit)
        self._tell(f"Waits to be converted: {found.reason}" if isinstance(found, ImportWaiting) else "Converting")
        return found

    def _request(self, job: ReplicationJob, token: str) -> ImportRequest:
        plan, target = self.task.plan, self.task.plan.target
        licenses: dict[str, Literal["", "AWS", "BYOL"]] = {"aws": "AWS", "byol": "BYOL"}
        return ImportRequest(
            disks=[ImportDisk(snapshot_id=id) for id in self._snapshots()],
            client_token=token,
            tags=self._tags(),
            description=f"{plan.wave}/{self.task.name}",
            role_name=target.role,
            boot_mode=boot_mode(self.task),
            license_type=licenses.get(job.license_type, ""),
            platform="Windows" if guest(self.task.facts.guest_id).windows else "Linux",
            encrypted=target.encrypt,
            kms_key=target.kms_key or "",
        )

    def _give_back(self) -> None:
        admission.release_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=import_scope(self.task),
            holder=self.ctx.run_key,
            clock=self.ctx.clock,
        )

    def _tell(self, status: str, progress: int = 0) -> None:
        runs.record_progress(self.ledger, self.id, status=status, progress_pct=progress, clock=self.ctx.clock)

    def _complete(self, image_id: str) -> MadeImage:
        known = replication.complete_run(self.ledger, self.id, ami_id=image_id, clock=self.ctx.clock)
        gone = self._retire(known.job_id)
        return MadeImage(server=self.task.name, run=self.id, image_id=image_id, deregistered=gone)

    def _retire(self, job_id: str) -> tuple[str, ...]:
        """Deregister what the job keeps no longer, with its snapshots, except those that the next run builds on."""
        kept = {disk.snapshot_id for disk in lineage.read_lineage(self.ledger, job_id)}
        ec2 = Ec2(self.access)
        gone = []
        for old in replication.expired_amis(self.ledger, job_id):
            image = ec2.images([old.ami_id]).get(old.ami_id)
            ec2.deregister(old.ami_id, delete_snapshots=False)
            for snapshot_id in image.snapshot_ids if image is not None else ():
                if snapshot_id not in kept:
                    ec2.delete_snapshot(snapshot_id)
            replication.record_ami_removed(self.ledger, old.id, clock=self.ctx.clock)
            gone.append(old.ami_id)
        return tuple(gone)


def _cancelled(known: ReplicationRun) -> NoReturn:
    raise PermanentError("The replication run was cancelled on request", server=known.server, run=known.id)


def tidy_run(ledger: Ledger, access: AwsAccess, plan: ServerPlan, known: ReplicationRun) -> str:
    """Remove what a run left and nobody needs: replaced snapshots, and all of a run that was not recorded.

    May be called again. Words about an image that was made and never recorded, or an empty string.

    :param plan: any of the wave: it says where the run's objects lie.
    """
    words = ""
    ec2 = Ec2(access)
    kept = {disk.snapshot_id for disk in lineage.read_lineage(ledger, known.job_id)}
    plan = plan.model_copy(update={"server": known.server})
    recorded = known.recorded_at is not None and not known.quarantine
    left: frozenset[str] = frozenset()
    if known.state is RunState.FAILED and not known.quarantine and not recorded:
        with ServerStaging.of(access, plan, known.run_key) as staging:
            left = targets_left(access, staging, known.run_key)  # the next run goes on with them
    if known.state is not RunState.COMPLETED:
        words = _end_image(access, known)
        _abandon(access, known, kept | left)
    for disk in map(SupersededDisk.load, known.superseded or ()):
        if disk.snapshot_id not in kept:
            try:
                ec2.delete_snapshot(disk.snapshot_id)
            except BusyError:  # a registered image stands on it, and takes it along when it goes
                continue
    with ServerStaging.of(access, plan, known.run_key) as staging:
        if recorded or known.state is RunState.COMPLETED:
            staging.forget_journals()
            for old in runs.unfinished_before(ledger, known):
                _abandon(access, old, kept)
                staging.beside(old.run_key, plan).discard()
        elif left:
            staging.abort_uploads()
        else:
            staging.discard()
    return words


def _abandon(access: AwsAccess, known: ReplicationRun, kept: Collection[str]) -> None:
    """What a run left in EBS goes, but for what the lineage or an image names, or the next run goes on with."""
    images = Ec2(access).find_ours({"wavelift:run": run_hash(known.run_key)}).images
    abandon_run(access, known.run_key, keep=[*kept, *(id for image in images for id in image.snapshot_ids)])


def _end_image(access: AwsAccess, known: ReplicationRun) -> str:
    """Cancel the import of a run that came to nothing."""
    imports = VmImport(access)
    for status in imports.find({"wavelift:run": run_hash(known.run_key)}):
        if not status.finished:
            imports.cancel(status.task_id, "wavelift: the run is over")
        elif status.image_id and status.image_id in Ec2(access).images([status.image_id]):
            return f"{known.server}: image {status.image_id} was made but is no result of its run: deregister it"
    return ""
