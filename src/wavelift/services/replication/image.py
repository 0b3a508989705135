"""The AMI of a replication run, and what is deleted once it exists: surplus AMIs, replaced snapshots (SMS-03, SMS-05).

The EBS snapshots that the next run builds on are separate from the snapshots of the converted image. So the next run
stays incremental, also after a failed conversion.
"""

from __future__ import annotations

from dataclasses import dataclass

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, ImageRequest
from wavelift.adapters.aws.vmimport import ImportDisk, ImportStatus
from wavelift.base.domain import Message, ReplicationResult
from wavelift.base.errors import PermanentError, RefusedError, TamperedError, located
from wavelift.base.names import instant_of
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Progress, jobs, lineage
from wavelift.ledger import replication_runs as runs
from wavelift.ledger.replication_records import ReplicationJob, ReplicationRun, SupersededDisk
from wavelift.rules.flows import CONTINUE_FROM, SlotKind
from wavelift.rules.guests import guest
from wavelift.rules.plans import ServerPlan
from wavelift.rules.replication import RunState, RunType, refuse_register
from wavelift.rules.wave_replication import AmiMethod
from wavelift.services.common.import_queue import ImportQueue, WantedImport
from wavelift.services.common.slots import InQueue, give_back
from wavelift.services.common.wanted import DEFAULT_TERMS, Terms
from wavelift.services.dataplane.abandon import abandon_run
from wavelift.services.dataplane.importing import (
    ImportRunning,
    ImportWaiting,
    delete_unused,
    end_imports,
    registered_name,
    remove_outdated,
)
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.replication_messages import VerifiedRun
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.dataplane.unfinished import targets_left
from wavelift.services.replication.admission import continue_run
from wavelift.services.replication.outcome import complete_run, expired_amis, record_ami_removed
from wavelift.services.replication.reserve import cancelled


class MadeImage(Message):
    """What ``ami`` returns."""

    server: str
    run: str
    image_id: str
    deregistered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Replicated:
    """The EBS snapshots of a server's run, as they came by XCom.

    :param verified: how they were read back; None: they were not.
    :param attested: of the last run of a cutover: its server is down, so it is read back later. EBS has compared the
        digest of every block when it took it.
    :param method: instead of the job's.
    """

    task: ServerTask
    result: ReplicationResult
    verified: VerifiedRun | None
    attested: bool = False
    method: AmiMethod | None = None


def advance_image(
    ledger: Ledger, access: AwsAccess, sent: Replicated, ctx: RunContext, *, limit: int, terms: Terms = DEFAULT_TERMS
) -> MadeImage | ImportRunning | ImportWaiting | InQueue:
    """Bring the AMI one step further: submit its import, find it running, or finish. Never makes a second one.

    :raises TamperedError: the snapshots, or their proof, are not those of this run.
    :raises WaveliftError: when the import failed, with AWS's words and our reading.
    :raises RefusedError: the job registers images and its guest or licence forbids it.
    """
    with located(server=sent.task.name):
        return _Image(access, sent, ctx, ImportQueue(ledger, access, ctx, limit, terms)).advance()


class _Image:
    """One look at the AMI of one server's run; the run's row is the import's sink."""

    def __init__(self, access: AwsAccess, sent: Replicated, ctx: RunContext, queue: ImportQueue) -> None:
        self.ledger = queue.ledger
        self.access = access
        self.task = sent.task
        self.result = sent.result
        self.verified = sent.verified
        self.attested = sent.attested
        self.method = sent.method
        self.ctx = ctx
        self.id = runs.run_id(ctx.run_key)
        self.queue = queue

    def advance(self) -> MadeImage | ImportRunning | ImportWaiting | InQueue:
        with self.ledger.read() as tx:
            known = runs.get(tx, self.id)
        if known.state is RunState.COMPLETED:
            return self._made(known)
        if not _is_recorded(known, self.result):
            raise PermanentError(
                "The run has no recorded disks to make an image of",
                run=self.id,
                next_step=f"Clear the server's {CONTINUE_FROM} task",
            )
        # Disks in another order would make an image that does not boot. As models: a later version may add a field.
        if known.result is None or ReplicationResult.load(known.result) != self.result:
            raise TamperedError(
                "What came by XCom is not the recorded result of this run",
                field="transfer",
                expected="the recorded result",
                found="another one with the same EBS snapshots",
                run=self.id,
                next_step=f"Clear the server's {CONTINUE_FROM} task; find out who edited its XComs",
            )
        if not (self.attested and self.verified is None and known.type is RunType.CUTOVER):
            self._check_proof()
        if known.state.resumable:  # only this task was cleared
            known = continue_run(self.ledger, self.id, self.ctx)
        with self.ledger.read() as tx:
            job = jobs.get(tx, known.job_id)
        return self._register(job) if (self.method or job.ami) == "register" else self._import(known, job)

    def _check_proof(self) -> None:
        """A proof of an older instant is still there when only some tasks were cleared; a person may have marked
        ``verify`` as a success."""
        sent = tuple(disk.lineage.snapshot_id for disk in self.result.disks)
        expected = (self.task.name, self.task.plan.verify, sent)
        verified = self.verified
        found = None if verified is None else (verified.server, verified.level, verified.snapshots)
        if found != expected:
            raise TamperedError(
                "The EBS snapshots of this run were not read back as its plan says",
                field="verified",
                expected=expected,
                found=found or "nothing was verified",
                run=self.id,
                next_step="Clear the server's verify task, and ami with it",
            )

    def _snapshots(self) -> tuple[str, ...]:
        """In disk order, the boot disk first (invariant 11)."""
        disks = sorted(self.result.disks, key=lambda disk: (not disk.boot, disk.index))
        return tuple(disk.lineage.snapshot_id for disk in disks)

    def _instant(self) -> str:
        return instant_of(*self._snapshots())

    def _register(self, job: ReplicationJob) -> MadeImage:
        linux = guest(self.task.facts.guest_id).family == "linux"
        refusal = refuse_register(job.license_type, linux=linux, forced=job.force_register)
        if refusal is not None:
            raise RefusedError(
                f"The image is not registered: {refusal.reason}",
                refusals=(refusal.model_copy(update={"server": self.task.name}),),
                next_step="Set 'ami: import' for the job, or force_register",
            )
        self.ctx.cancel.check()
        request = ImageRequest(
            name=registered_name(self.ctx.run_key, self._instant()),
            snapshot_ids=self._snapshots(),
            boot_mode=self.task.boot_mode,
            description=f"{self.task.plan.wave}/{self.task.name}",
            tags=self.task.plan.made_with(self.ctx.run_key),
        )
        return self._complete(Ec2(self.access).register(request).image_id)

    def _import(
        self, known: ReplicationRun, job: ReplicationJob
    ) -> MadeImage | ImportRunning | ImportWaiting | InQueue:
        wanted = WantedImport(
            task=self.task,
            disks=[ImportDisk(snapshot_id=id) for id in self._snapshots()],
            instant=self._instant(),
            license_type=job.license_type,
            platform="Windows" if guest(self.task.facts.guest_id).windows else "Linux",
        )
        if known.cancel_requested:
            self.queue.cancel(wanted, "wavelift: the run was cancelled")
            raise cancelled(known)
        found = self.queue.advance(wanted, self)
        return self._complete(found.image_id) if isinstance(found, ImportStatus) else found

    def before_submit(self) -> None:
        """The snapshots are those of the recorded run: nothing else to check."""

    def ended(self, status: ImportStatus) -> None:
        """It was made of EBS snapshots, which nobody can change."""

    def submitted(self, task_id: str) -> None:
        self._tell("Converting")

    def running(self, status: ImportStatus) -> None:
        self._tell(f"Converting: {status.phase}", status.progress or 0)

    def waiting(self, words: str) -> None:
        self._tell(f"Waits to be converted: {words}")

    def _tell(self, status: str, progress: int = 0) -> None:
        with self.ledger.write() as tx:
            runs.record_progress(tx, self.id, Progress(status, progress), clock=self.ctx.clock)

    def _complete(self, image_id: str) -> MadeImage:
        proof = self.verified.dump() if self.verified is not None else None
        known = complete_run(self.ledger, self.id, ami_id=image_id, proof=proof, clock=self.ctx.clock)
        give_back(self.ledger, self.ctx.run_key, kinds=[SlotKind.ACCOUNT], clock=self.ctx.clock)
        return self._made(known)

    def _made(self, known: ReplicationRun) -> MadeImage:
        """Also for a run that has completed already: a try may have died between the completion and the deletions."""
        image_id = known.ami_id
        if image_id:
            with self.ledger.read() as tx:
                kept = {disk.snapshot_id for disk in lineage.read_lineage(tx, known.job_id)}
            remove_outdated(self.access, self.ctx.run_key, image_id=image_id, keep=kept)
        gone = self._retire(known.job_id)
        return MadeImage(server=self.task.name, run=self.id, image_id=image_id, deregistered=gone)

    def _retire(self, job_id: str) -> tuple[str, ...]:
        """Deregister the images that the job no longer keeps, and delete their snapshots. Two others may use such a
        snapshot: the lineage, if the image was registered from it; and a foreign image, then AWS refuses."""
        with self.ledger.read() as tx:
            kept = {disk.snapshot_id for disk in lineage.read_lineage(tx, job_id)}
        ec2 = Ec2(self.access)
        gone = []
        for old in expired_amis(self.ledger, job_id):
            image = ec2.images([old.ami_id]).get(old.ami_id)
            ec2.deregister(old.ami_id, delete_snapshots=False)
            delete_unused(ec2, (id for id in (image.snapshot_ids if image is not None else ()) if id not in kept))
            record_ami_removed(self.ledger, old.id, clock=self.ctx.clock)
            gone.append(old.ami_id)
        return tuple(gone)


def _is_recorded(known: ReplicationRun, result: ReplicationResult) -> bool:
    """Whether the record is of this instant. A transfer that was cleared after the record made another."""
    if known.recorded_at is None or known.quarantine or known.result is None:
        return False
    recorded = ReplicationResult.load(known.result)
    return [disk.lineage.snapshot_id for disk in recorded.disks] == [disk.lineage.snapshot_id for disk in result.disks]


def tidy_run(ledger: Ledger, access: AwsAccess, plan: ServerPlan, known: ReplicationRun) -> str:
    """Remove what a run left unused: replaced snapshots, and what belongs to no recorded instant.

    May be called again. Returns words about an image that was made but not recorded, or an empty string.

    :param plan: any of the wave: it has the location of the run's objects.
    """
    images = end_imports(access, known.run_key, "wavelift: the run is over")
    words = ""
    if images and known.state is not RunState.COMPLETED:
        words = f"{known.server}: image {', '.join(images)} was made but is no result of its run: deregister it"
    plan = plan.model_copy(update={"server": known.server})
    recorded = known.recorded_at is not None and not known.quarantine
    # Others may still use a snapshot of this run, or one that it replaced:
    # - the job's lineage, whichever run recorded it last;
    # - images of the run, as EC2 and as their imports list them;
    # - a foreign image: AWS knows it, and refuses the deletion;
    # - the next run, which continues a seed that this run left unfinished.
    # None of them uses an instant that was made before a clear, so its snapshots are deleted.
    with ledger.read() as tx:
        kept = {disk.snapshot_id for disk in lineage.read_lineage(tx, known.job_id)}
    left: frozenset[str] = frozenset()
    with ServerStaging.of(access, plan, known.run_key) as staging:
        if known.state is RunState.FAILED and not known.quarantine and not recorded:
            left = targets_left(access, staging, known.run_key)
        ours = {id for found in images.values() for id in found}
        abandon_run(access, known.run_key, keep=kept | ours | left)
        replaced = (SupersededDisk.load(disk).snapshot_id for disk in known.superseded or ())
        delete_unused(Ec2(access), (id for id in replaced if id not in kept | ours))
        if recorded or known.state is RunState.COMPLETED:
            staging.forget_journals()
            with ledger.read() as tx:
                unfinished = runs.unfinished_before(tx, known)
            for old in unfinished:
                abandon_run(access, old.run_key, keep=kept)
                staging.beside(old.run_key, plan).discard()
        elif left:
            staging.abort_uploads()
        else:  # no lineage names a manifest of a run that recorded nothing
            staging.discard()
    return words
