"""One server's way to an image and an instance, as the control plane sees it.

Every function is one step of the migrate DAG: it may be called again after a crash, a retry or a clear, and then
finds what it made before (invariant 5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, LaunchRequest
from wavelift.adapters.aws.vmimport import (
    ImportDisk,
    ImportRequest,
    ImportState,
    ImportStatus,
    VmImport,
    explain_import_failure,
)
from wavelift.base.domain import ExportResult, ImportResult, LaunchResult, VerifyResult
from wavelift.base.errors import LimitReachedError, PermanentError, ProofError, SpecError, WaveliftError
from wavelift.base.names import client_token, snapshot_name, tags
from wavelift.base.run import RunContext
from wavelift.ledger import DagRun, Ledger, SlotKind, SourceServer, migrations
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.services import admission
from wavelift.services.admission import Granted, IsRunAlive
from wavelift.services.dataplane.conversion import conversion_report
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging

IMPORT_KEY: Final = "import"
MAX_RESUBMITS: Final = 3
"""How often an import that somebody cancelled under us is submitted again."""


# --- the slot -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Reserved:
    """Where a server stands in its connector's queue."""

    migration_id: str
    holder: str
    granted: bool
    position: int = 0


def reserve(
    ledger: Ledger,
    task: ServerTask,
    ctx: RunContext,
    *,
    dag_id: str,
    dag_run_id: str,
    map_index: int,
    limit: int,
    is_run_alive: IsRunAlive,
) -> Reserved:
    """Write the migration's intent and ask for a transfer slot (AMP-04, invariant 4).

    :raises BusyError: when a living run migrates this server.
    """
    run = DagRun(dag_id, dag_run_id)
    known = migrations.find_migration(ledger, migrations.migration_id(ctx.run_key))
    if known is None or known.state is not MigrationState.QUEUED:
        known = admission.begin_migration(
            ledger,
            run_key=ctx.run_key,
            run=run,
            wave=task.plan.wave,
            server=SourceServer.of(task.plan.connection, task.facts),
            connector=task.plan.connector,
            region=task.plan.target.region,
            is_run_alive=is_run_alive,
            map_index=map_index,
            bytes_total=task.facts.capacity,
            clock=ctx.clock,
        )
    scope = task.plan.connector
    admission.reclaim(ledger, is_run_alive, kind=SlotKind.TRANSFER, scope=scope, clock=ctx.clock)
    found = admission.request_slot(
        ledger,
        kind=SlotKind.TRANSFER,
        scope=scope,
        holder=ctx.run_key,
        dag_id=dag_id,
        dag_run_id=dag_run_id,
        limit=limit,
        clock=ctx.clock,
    )
    if isinstance(found, Granted):
        migrations.record_intent(
            ledger, known.id, name=snapshot_name(ctx.run_key), vm=task.facts.moref, clock=ctx.clock
        )
        return Reserved(known.id, ctx.run_key, granted=True)
    migrations.record_progress(
        ledger,
        known.id,
        phase=f"place {found.position} in the queue of connector {scope}",
        progress_pct=0,
        clock=ctx.clock,
    )
    return Reserved(known.id, ctx.run_key, granted=False, position=found.position)


def release(ledger: Ledger, task: ServerTask, ctx: RunContext, *, removed: bool, exported: bool) -> None:
    """Give the transfer slot back.

    :param removed: the snapshot's removal succeeded. :param exported: every disk lies in S3.
    """
    known = migrations.find_migration(ledger, migrations.migration_id(ctx.run_key))
    if known is not None:
        if removed and known.snapshot_state in migrations.STANDING:
            known = migrations.record_snapshot_removed(ledger, known.id, clock=ctx.clock)
        if exported and known.state is MigrationState.TRANSFERRING:
            migrations.advance(ledger, known.id, MigrationState.VERIFYING, phase="verifying", clock=ctx.clock)
    admission.release_slot(
        ledger, kind=SlotKind.TRANSFER, scope=task.plan.connector, holder=ctx.run_key, clock=ctx.clock
    )


# --- the import ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImportDone:
    result: ImportResult


@dataclass(frozen=True, slots=True)
class ImportRunning:
    task_id: str
    phase: str


@dataclass(frozen=True, slots=True)
class ImportWaiting:
    """No place for another import: ``queued`` in our own ledger, or refused by the account's count in AWS."""

    reason: str
    queued: bool


def import_scope(task: ServerTask) -> str:
    """Imports are counted per account and region; the connection stands for the account."""
    return f"{task.plan.target.aws_conn_id}/{task.plan.target.region}"


def advance_import(
    ledger: Ledger,
    access: AwsAccess,
    task: ServerTask,
    export: ExportResult,
    verified: VerifyResult | None,
    ctx: RunContext,
    *,
    limit: int,
    is_run_alive: IsRunAlive,
) -> ImportDone | ImportRunning | ImportWaiting:
    """Bring the import one step further: submit it, find it running, or finish it. Never submits a second one.

    :raises WaveliftError: when the import failed, with AWS's words and our reading.
    :raises ProofError: when the result differs from the source where it must not.
    """
    return _Import(ledger, access, task, export, ctx, limit, is_run_alive).advance(verified)


class _Import:
    """One look at one server's import."""

    def __init__(
        self,
        ledger: Ledger,
        access: AwsAccess,
        task: ServerTask,
        export: ExportResult,
        ctx: RunContext,
        limit: int,
        is_run_alive: IsRunAlive,
    ) -> None:
        self.ledger = ledger
        self.access = access
        self.task = task
        self.export = export
        self.ctx = ctx
        self.limit = limit
        self.is_run_alive = is_run_alive
        self.imports = VmImport(access)
        self.id = migrations.migration_id(ctx.run_key)
        stored: dict[str, Any] = ctx.checkpoints.get(IMPORT_KEY) or {}
        self.task_id: str = stored.get("task_id", "")
        self.attempt: int = stored.get("attempt", 0)

    def advance(self, verified: VerifyResult | None) -> ImportDone | ImportRunning | ImportWaiting:
        self._record_proof(verified)
        if self.task_id:
            # The state store survives a clear: what it remembers is checked against AWS before use.
            status = self.imports.describe([self.task_id]).get(self.task_id)
            if status is not None and not status.finished:
                return self._running(status)
            if status is not None and status.image_id and not _failed(status):
                return ImportDone(self._finish(status))
            self._forget()
            if status is not None and not _was_cancelled(status):
                self._release()
                raise status.failure(server=self.task.name)
            if self.attempt > MAX_RESUBMITS:
                raise WaveliftError(
                    "The import was cancelled again and again",
                    server=self.task.name,
                    next_step="Find out who cancels import tasks in this account, then clear this task",
                )
        return self._submit()

    def _record_proof(self, verified: VerifyResult | None) -> None:
        known = migrations.get_migration(self.ledger, self.id)
        if known.export_result != self.export.dump():
            migrations.record_export(self.ledger, self.id, self.export, clock=self.ctx.clock)
        if verified is not None and known.verify_result != verified.dump():
            migrations.record_verify(self.ledger, self.id, verified, clock=self.ctx.clock)

    def _running(self, status: ImportStatus) -> ImportRunning:
        migrations.record_progress(
            self.ledger,
            self.id,
            phase=f"import: {status.phase}",
            progress_pct=status.progress or 0,
            clock=self.ctx.clock,
        )
        return ImportRunning(status.task_id, status.phase)

    def _submit(self) -> ImportRunning | ImportWaiting:
        self.ctx.cancel.check()
        scope = import_scope(self.task)
        known = migrations.get_migration(self.ledger, self.id)
        admission.reclaim(self.ledger, self.is_run_alive, kind=SlotKind.IMPORT, scope=scope, clock=self.ctx.clock)
        slot = admission.request_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=scope,
            holder=self.ctx.run_key,
            dag_id=known.dag_id,
            dag_run_id=known.dag_run_id,
            limit=self.limit,
            clock=self.ctx.clock,
        )
        if not isinstance(slot, Granted):
            return self._waiting(f"place {slot.position} among our own imports", queued=True)
        active = self.imports.count_active()
        if active >= self.limit:
            return self._waiting(f"{active} imports are active in the account, the limit is {self.limit}", queued=False)
        try:
            task_id = self.imports.import_image(self._request())
        except LimitReachedError as error:
            return self._waiting(error.what, queued=False)
        self._remember(task_id)
        migrations.record_import_started(self.ledger, self.id, task_id, clock=self.ctx.clock)
        return ImportRunning(task_id, "submitted")

    def _waiting(self, reason: str, *, queued: bool) -> ImportWaiting:
        migrations.record_progress(
            self.ledger, self.id, phase=f"waits to import: {reason}", progress_pct=0, clock=self.ctx.clock
        )
        return ImportWaiting(reason, queued=queued)

    def _request(self) -> ImportRequest:
        plan, target = self.task.plan, self.task.plan.target
        return ImportRequest(
            disks=[
                ImportDisk(bucket=disk.bucket, key=disk.object_key, description=f"{self.task.name} {disk.address}")
                for disk in self.export.disks
            ],
            client_token=client_token(self.ctx.run_key, "import", self.attempt),
            tags={**plan.tags, **tags(plan.wave, self.task.name, self.ctx.run_key)},
            description=f"{plan.wave}/{self.task.name}",
            role_name=target.role,
            boot_mode=boot_mode(self.task),
            license_type=_license(plan.license_type),
            encrypted=target.encrypt,
            kms_key=target.kms_key or "",
        )

    def _finish(self, status: ImportStatus) -> ImportResult:
        by_key = status.snapshot_by_key
        ordered = tuple(by_key.get(disk.object_key, "") for disk in self.export.disks)
        snapshots = ordered if all(ordered) else status.snapshot_ids
        Ec2(self.access).tag_image(
            status.image_id,
            {**self.task.plan.tags, **tags(self.task.plan.wave, self.task.name, self.ctx.run_key)},
            snapshot_ids=snapshots,
        )
        self._release()
        result = ImportResult(
            server=self.task.name,
            task_id=status.task_id,
            image_id=status.image_id,
            snapshot_ids=snapshots,
            report=conversion_report(self.access, self.task, self.export, snapshots, self.ctx),
        )
        migrations.record_import(self.ledger, self.id, result, clock=self.ctx.clock)
        # Staging objects go once the conversion is recorded; manifests stay (DESIGN, data path).
        ServerStaging(self.access, self.task.plan, self.ctx.run_key).delete_disks()
        return result

    def _remember(self, task_id: str) -> None:
        self.task_id = task_id
        self.ctx.checkpoints.set(IMPORT_KEY, {"task_id": task_id, "attempt": self.attempt})

    def _forget(self) -> None:
        """The remote end is final and bad: the next submission needs a new client token."""
        self.task_id = ""
        self.attempt += 1
        self.ctx.checkpoints.set(IMPORT_KEY, {"task_id": "", "attempt": self.attempt})

    def _release(self) -> None:
        admission.release_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=import_scope(self.task),
            holder=self.ctx.run_key,
            clock=self.ctx.clock,
        )


def _failed(status: ImportStatus) -> bool:

    return status.state is ImportState.FAILED


def _was_cancelled(status: ImportStatus) -> bool:
    """Cancelled, by us (a cleared task's trigger does that) or by somebody in the console."""
    return explain_import_failure(status.message).code == "cancelled"


def boot_mode(task: ServerTask) -> Literal["", "legacy-bios", "uefi"]:
    """The plan's boot mode; ``auto`` follows the VM's firmware."""
    if task.plan.boot_mode != "auto":
        return task.plan.boot_mode
    return "uefi" if task.facts.firmware == "efi" else "legacy-bios"


def _license(choice: str) -> Literal["", "AWS", "BYOL"]:
    known: dict[str, Literal["", "AWS", "BYOL"]] = {"aws": "AWS", "byol": "BYOL"}
    return known.get(choice, "")


# --- the instance -------------------------------------------------------------------------------------------------


def launch(ledger: Ledger, access: AwsAccess, task: ServerTask, image: ImportResult, ctx: RunContext) -> LaunchResult:
    """Launch the image when the plan says so, and complete the migration (AMP-01, AMP-08).

    :raises ProofError: when the image was never compared with its source although the plan asks for it.
    """
    id = migrations.migration_id(ctx.run_key)
    plan = task.plan
    if plan.verify != "off" and not image.report:
        raise ProofError("The image has no conversion report", server=task.name, image=image.image_id)
    result = LaunchResult(server=task.name, skipped="the plan says launch: none")
    if plan.launch == "running":
        migrations.advance(ledger, id, MigrationState.LAUNCHING, phase="launching", clock=ctx.clock)
        instance = Ec2(access).launch(_launch_request(plan, task.name, image.image_id, ctx.run_key))
        result = LaunchResult(server=task.name, instance_id=instance.instance_id, private_ip=instance.private_ip)
    migrations.record_launch(ledger, id, result, clock=ctx.clock)
    migrations.complete(ledger, id, clock=ctx.clock)
    return result


def launch_later(ledger: Ledger, access: AwsAccess, wave: ResolvedWave, id: str, ctx: RunContext) -> LaunchResult:
    """Launch the image of a finished migration, with the plan that the wave has for it now.

    :raises SpecError: when the plan lacks something, or would start a twin beside its source (invariant 12).
    :raises NotFoundError: when there is no such migration; :raises PermanentError: when it has no image.
    """
    known = migrations.get_migration(ledger, id)
    if not known.image_id or not known.state.terminal:
        raise PermanentError(
            f"The migration is {known.state} and has {known.image_id or 'no image'}",
            migration=id,
            server=known.server,
            next_step="Launch only finished imports; see wavelift migrations list",
        )
    plan = next((plan for plan in wave.servers if plan.server == known.server), None)
    if plan is None:
        raise SpecError(
            "The wave no longer lists this server", server=known.server, next_step="Add it to the wave's file again"
        )
    plan = plan.with_launch("running")
    instance = Ec2(access).launch(_launch_request(plan, known.server, known.image_id, known.run_key))
    result = LaunchResult(server=known.server, instance_id=instance.instance_id, private_ip=instance.private_ip)
    migrations.record_launch(ledger, id, result, clock=ctx.clock)
    return result


def _launch_request(plan: ServerPlan, server: str, image_id: str, run_key: str) -> LaunchRequest:
    return LaunchRequest(
        image_id=image_id,
        instance_type=plan.instance_type or "",
        subnet_id=plan.subnet or "",
        client_token=client_token(run_key, "launch"),
        security_groups=plan.security_groups,
        private_ip=plan.private_ip or "",
        tags={**plan.tags, **tags(plan.wave, server, run_key)},
    )
