"""The import of a migrated server: submitted once, found again, finished."""

from __future__ import annotations

from dataclasses import dataclass

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.vmimport import ImportDisk, ImportStatus, VmImport
from wavelift.base.domain import ExportResult, ImportResult, VerifyResult
from wavelift.base.errors import NotFoundError, TamperedError, located
from wavelift.base.names import TAG_RUN, instant_of, run_hash
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger, Migration, Progress, migrations
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.rules.lifecycle import MigrationState
from wavelift.services.common.import_queue import ImportQueue, WantedImport
from wavelift.services.common.returned import Returned
from wavelift.services.common.slots import InQueue
from wavelift.services.common.wanted import DEFAULT_TERMS, Terms
from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting, is_accepted, remove_outdated
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging
from wavelift.services.migration.reserve import cancelled
from wavelift.services.migration.source_check import SourceCheck


@dataclass(frozen=True, slots=True)
class ImportDone:
    """AWS has made the image. It is the migration's only once it was compared with its source and recorded:
    :func:`record_image`."""

    result: ImportResult


@dataclass(frozen=True, slots=True)
class Staged:
    """The disks of a server that lie in S3.

    :param verified: how they were read back; None: they were not.
    """

    task: ServerTask
    export: ExportResult
    verified: VerifyResult | None


def advance_import(
    ledger: Ledger, access: AwsAccess, staged: Staged, ctx: RunContext, *, limit: int, terms: Terms = DEFAULT_TERMS
) -> ImportDone | ImportRunning | ImportWaiting | InQueue:
    """Bring the import one step further: submit it, find it running, or finish it. Never submits a second one.

    :raises WaveliftError: when the import failed, with AWS's words and our reading.
    :raises PermanentError: when a person cancelled the migration; the import is cancelled with it.
    :raises TamperedError: what is staged, or its proof, is not what this run stored.
    :raises ProofError: when a staged disk was changed: nothing is imported of it, and no image of it stays.
    """
    with located(server=staged.task.name):
        return _Import(access, staged, ctx, ImportQueue(ledger, access, ctx, limit, terms)).advance()


class _Import:
    """One look at one server's import; the migration's row is its sink."""

    def __init__(self, access: AwsAccess, staged: Staged, ctx: RunContext, queue: ImportQueue) -> None:
        self.ledger = queue.ledger
        self.access = access
        self.task = staged.task
        self.export = staged.export
        self.verified = staged.verified
        self.ctx = ctx
        self.id = migrations.migration_id(ctx.run_key)
        self.queue = queue
        self.source = SourceCheck(queue.ledger, access, self.task.plan, self.export, ctx)

    def advance(self) -> ImportDone | ImportRunning | ImportWaiting | InQueue:
        known = self._record_proof()
        wanted = WantedImport(
            task=self.task,
            disks=[
                ImportDisk(bucket=disk.bucket, key=disk.object_key, description=f"{self.task.name} {disk.address}")
                for disk in self.export.disks
            ],
            instant=_instant(self.export),
            license_type=self.task.plan.license_type,
        )
        if known.cancel_requested:
            self.queue.cancel(wanted, "wavelift: the migration was cancelled")
            raise cancelled(known)
        found = self.queue.advance(wanted, self)
        return ImportDone(self._finish(found)) if isinstance(found, ImportStatus) else found

    def _record_proof(self) -> Migration:
        """Both results came by XCom: what the ledger does not have yet is compared with the manifests first."""
        verified, returned = self.verified, Returned(self.access, self.task, self.ctx.run_key)
        with self.ledger.read() as tx:
            known = migrations.get(tx, self.id)
        # As models: a field that a later version adds must not make it another export, which has no image yet.
        is_new = known.export_result is None or ExportResult.load(known.export_result) != self.export
        if is_new:
            returned.check_export(self.export)
        returned.check_proof(self.export, verified)
        if is_new:
            with self.ledger.write() as tx:
                known = migrations.record_export(tx, self.id, self.export, clock=self.ctx.clock)
        if verified is not None and known.verify_result != verified.dump():
            with self.ledger.write() as tx:
                known = migrations.record_verify(tx, self.id, verified, clock=self.ctx.clock)
        return known

    def before_submit(self) -> None:
        """:raises ProofError: when a disk is no longer the staged one."""
        self.source.before_submit()

    def ended(self, status: ImportStatus) -> None:
        """:raises ProofError: when a disk was changed before AWS had read it; the image is gone then."""
        self.source.ended(status)

    def submitted(self, task_id: str) -> None:
        """An import that was found again is recorded like one just submitted: only a migration in state ``importing``
        continues to its end."""
        with self.ledger.read() as tx:
            known = migrations.get(tx, self.id)
        if (known.state, known.import_task_id) != (MigrationState.IMPORTING, task_id):
            with self.ledger.write() as tx:
                migrations.record_import_started(tx, self.id, task_id, clock=self.ctx.clock)

    def running(self, status: ImportStatus) -> None:
        self.submitted(status.task_id)
        self._tell(f"import: {status.phase}", status.progress or 0)

    def waiting(self, words: str) -> None:
        self._tell(f"waits to import: {words}", 0)

    def _tell(self, phase: str, progress: int) -> None:
        with self.ledger.write() as tx:
            migrations.record_progress(tx, self.id, Progress(phase, progress), clock=self.ctx.clock)

    def _finish(self, status: ImportStatus) -> ImportResult:
        self.submitted(status.task_id)
        by_key = status.snapshot_by_key
        ordered = tuple(by_key.get(disk.object_key, "") for disk in self.export.disks)
        result = ImportResult(
            server=self.task.name,
            task_id=status.task_id,
            image_id=status.image_id,
            snapshot_ids=ordered if all(ordered) else status.snapshot_ids,
        )
        self._tell("comparing the image", 0)
        return result


def record_image(ledger: Ledger, access: AwsAccess, task: ServerTask, image: ImportResult, ctx: RunContext) -> None:
    """Make an image the migration's result, once it was compared with its source as the plan says. May be called again.

    Only then are the staged disks deleted, and what was imported of other instants. Manifests stay.

    :raises TamperedError: it is not the image that the import of this run made.
    """
    id = migrations.migration_id(ctx.run_key)
    with ledger.read() as tx:
        known = migrations.get(tx, id)
    _check_image(access, known, image)
    under_way = known.state in (MigrationState.IMPORTING, MigrationState.LAUNCHING)
    if not under_way or (known.image_id, known.conversion_report) != (image.image_id, image.dump()["report"]):
        with ledger.write() as tx:
            migrations.record_import(tx, id, image, clock=ctx.clock)
    with ServerStaging.of(access, task.plan, ctx.run_key) as staging:
        staging.delete_disks()
    remove_outdated(access, ctx.run_key, image_id=image.image_id)


def _check_image(access: AwsAccess, known: Migration, image: ImportResult) -> None:
    """The image came by XCom: it must be the recorded one, or that of the recorded import task of AWS."""
    found: dict[str, object] = {
        "task_id": image.task_id,
        "image_id": image.image_id,
        "snapshot_ids": image.snapshot_ids,
    }
    if image.image_id == known.image_id:
        expected: dict[str, object] = {name: getattr(known, name) for name in ("image_id", "snapshot_ids")}
        expected["task_id"] = known.import_task_id
    else:
        status = VmImport(access).describe([known.import_task_id]).get(known.import_task_id)
        if status is None or status.tags.get(TAG_RUN) != run_hash(known.run_key):
            raise NotFoundError(
                "AWS does not know the import of this run any more",
                task=known.import_task_id,
                server=known.server,
                next_step=f"Clear the server's {CONTINUE_FROM} task: it is exported and imported again",
            )
        if not is_accepted(known.import_verdict, status.task_id):
            raise TamperedError(
                "Nobody compared what this import read with the disks that were exported",
                field="import_verdict",
                expected="accepted",
                found=known.import_verdict and known.import_verdict["task_id"],
                server=known.server,
                next_step="Clear the server's import_image task: a task that is marked as a success compares nothing",
            )
        expected = {"task_id": status.task_id, "image_id": status.image_id, "snapshot_ids": _snapshots(status, known)}
    compared = tuple(disk.snapshot_id for disk in image.report)
    changed = tuple(disk.index for disk in image.report if disk.changed and not disk.boot)
    found |= {"report.snapshot_id": compared or image.snapshot_ids, "report.changed": changed}
    expected |= {"report.snapshot_id": image.snapshot_ids, "report.changed": ()}
    for field, value in expected.items():
        if found[field] != value:
            raise TamperedError(
                "The image that came by XCom is not the one that this run's import made",
                field=field,
                expected=value,
                found=found[field],
                server=known.server,
                next_step="Clear the server's import_image task; find out who edited its XComs",
            )


def _snapshots(status: ImportStatus, known: Migration) -> tuple[str, ...]:
    """In disk order, as far as AWS tells which disk became which snapshot."""
    keys = [disk["object_key"] for disk in (known.export_result or {}).get("disks", ())]
    ordered = tuple(status.snapshot_by_key.get(key, "") for key in keys)
    return ordered if all(ordered) else status.snapshot_ids


def _instant(export: ExportResult) -> str:
    """Of the very objects that are imported, and of what they hold."""
    return instant_of(*(f"{disk.object_key} {disk.content_digest}" for disk in export.disks))
