"""One server's way to an image and an instance, as the control plane sees it.

Every function is one step of the migrate DAG: it may be called again after a crash, a retry or a clear, and then
finds what it made before (invariant 5).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, LaunchRequest
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, ImportStatus
from wavelift.base.domain import ExportResult, ImportResult, LaunchResult, VerifyResult
from wavelift.base.errors import PermanentError, ProofError, SpecError, WaveliftError, located
from wavelift.base.names import client_token, snapshot_name, tags
from wavelift.base.run import Clock, RunContext
from wavelift.ledger import DagRun, Ledger, Migration, SlotKind, SourceServer, migrations
from wavelift.ledger.slots import list_slots
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.plans import ResolvedWave, ServerPlan
from wavelift.services import admission
from wavelift.services.admission import Granted, IsRunAlive, Queued
from wavelift.services.dataplane.conversion import conversion_report
from wavelift.services.dataplane.importing import ImportJob, ImportRunning, ImportWaiting
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.dataplane.staging import ServerStaging

CANCELLED = "cancelled on request"

__all__ = [
    "ImportDone",
    "ImportRunning",
    "ImportWaiting",
    "Reserved",
    "advance_import",
    "after_cancel",
    "cancelled",
    "import_scope",
    "launch",
    "launch_later",
    "release",
    "reserve",
]


# --- cancelling ---------------------------------------------------------------------------------------------------


def cancelled(known: Migration) -> PermanentError:
    """What a step raises that finds the wish to cancel (AMP-07)."""
    return PermanentError(
        "The migration was cancelled on request",
        server=known.server,
        migration=known.id,
        next_step="To go on with it after all, wait for its run to end and clear its server.reserve task",
    )


def after_cancel(ledger: Ledger, known: Migration, *, released: bool, clock: Clock) -> Migration:
    """The tasks of a migration that a person cancelled have been stopped: its place among the imports is free.

    :param released: its snapshot is gone and its transfer slot given back; else the teardown ends the migration.
    """
    for slot in list_slots(ledger, SlotKind.IMPORT):
        if slot.holder == known.run_key:
            admission.release_slot(
                ledger, kind=slot.kind, scope=slot.scope, holder=slot.holder, reason="cancelled", clock=clock
            )
    return migrations.mark_cancelled(ledger, known.id, CANCELLED, clock=clock) if released else known


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
    :raises PermanentError: when a person cancelled the migration.
    """
    run = DagRun(dag_id, dag_run_id)
    known = migrations.find_migration(ledger, migrations.migration_id(ctx.run_key))
    if known is None or known.state is not MigrationState.QUEUED:
        known = admission.begin_migration(
            ledger,
            run_key=ctx.run_key,
            run=run,
            wave=task.plan.wave,
            # By the name that is unique in the wave: reports and staging folders are found by it.
            server=replace(SourceServer.of(task.plan.connection, task.facts), name=task.name),
            connector=task.plan.connector,
            region=task.plan.target.region,
            is_run_alive=is_run_alive,
            map_index=map_index,
            bytes_total=task.facts.capacity,
            clock=ctx.clock,
        )
    if known.cancel_requested:
        raise cancelled(known)
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
    """Give the transfer slot back; a migration that a person cancelled before its disks were out ends here.

    :param removed: the snapshot's removal succeeded. :param exported: every disk lies in S3.
    """
    known = migrations.find_migration(ledger, migrations.migration_id(ctx.run_key))
    if known is not None:
        if removed and known.snapshot_state in migrations.STANDING:
            known = migrations.record_snapshot_removed(ledger, known.id, clock=ctx.clock)
        if exported and known.state is MigrationState.TRANSFERRING:
            known = migrations.advance(ledger, known.id, MigrationState.VERIFYING, phase="verifying", clock=ctx.clock)
        if known.cancel_requested:
            migrations.mark_cancelled(ledger, known.id, CANCELLED, clock=ctx.clock)
    admission.release_slot(
        ledger, kind=SlotKind.TRANSFER, scope=task.plan.connector, holder=ctx.run_key, clock=ctx.clock
    )


# --- the import ---------------------------------------------------------------------------------------------------

IsTaskAlive = Callable[[Migration], bool]
"""Whether a server's import task may still go on, asked of Airflow."""


@dataclass(frozen=True, slots=True)
class ImportDone:
    result: ImportResult


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
    is_task_alive: IsTaskAlive = lambda migration: True,
) -> ImportDone | ImportRunning | ImportWaiting:
    """Bring the import one step further: submit it, find it running, or finish it. Never submits a second one.

    :raises WaveliftError: when the import failed, with AWS's words and our reading.
    :raises ProofError: when the result differs from the source where it must not.
    :raises PermanentError: when a person cancelled the migration; the import is cancelled with it.
    """
    with located(server=task.name):
        return _Import(ledger, access, task, export, ctx, limit, is_run_alive, is_task_alive).advance(verified)


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
        is_task_alive: IsTaskAlive,
    ) -> None:
        self.ledger = ledger
        self.access = access
        self.task = task
        self.export = export
        self.ctx = ctx
        self.limit = limit
        self.is_run_alive = is_run_alive
        self.is_task_alive = is_task_alive
        self.job = ImportJob(access, ctx, server=task.name)
        self.id = migrations.migration_id(ctx.run_key)

    def advance(self, verified: VerifyResult | None) -> ImportDone | ImportRunning | ImportWaiting:
        known = self._record_proof(verified)
        if known.cancel_requested:
            self.job.cancel("wavelift: the migration was cancelled")
            self._release()
            raise cancelled(known)
        try:
            status = self.job.look()
        except WaveliftError:
            self._release()  # whatever ended badly takes no place; a new attempt asks for one again
            raise
        if status is None:
            return self._submit(known)
        return ImportDone(self._finish(status)) if status.finished else self._running(status)

    def _record_proof(self, verified: VerifyResult | None) -> Migration:
        known = migrations.get_migration(self.ledger, self.id)
        if known.export_result != self.export.dump():
            known = migrations.record_export(self.ledger, self.id, self.export, clock=self.ctx.clock)
        if verified is not None and known.verify_result != verified.dump():
            known = migrations.record_verify(self.ledger, self.id, verified, clock=self.ctx.clock)
        return known

    def _running(self, status: ImportStatus) -> ImportRunning:
        self._tell(f"import: {status.phase}", status.progress or 0)
        return ImportRunning(status.task_id, status.phase)

    def _submit(self, known: Migration) -> ImportRunning | ImportWaiting:
        slot = self._slot(known)
        if not isinstance(slot, Granted):
            self._free_dead_holders()
            slot = self._slot(known)
        if not isinstance(slot, Granted):
            return self._wait(ImportWaiting(f"place {slot.position} among our own imports", queued=True))
        self._check_staged()
        found = self.job.submit(self._request, limit=self.limit)
        if isinstance(found, ImportWaiting):
            return self._wait(found)
        migrations.record_import_started(self.ledger, self.id, found.task_id, clock=self.ctx.clock)
        return found

    def _slot(self, known: Migration) -> Granted | Queued:
        scope = import_scope(self.task)
        admission.reclaim(self.ledger, self.is_run_alive, kind=SlotKind.IMPORT, scope=scope, clock=self.ctx.clock)
        return admission.request_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=scope,
            holder=self.ctx.run_key,
            dag_id=known.dag_id,
            dag_run_id=known.dag_run_id,
            limit=self.limit,
            clock=self.ctx.clock,
        )

    def _free_dead_holders(self) -> None:
        """A task that failed for good, or was marked failed, in a living run gives nothing back by itself."""
        scope = import_scope(self.task)
        for slot in list_slots(self.ledger, SlotKind.IMPORT, scope):
            holder = migrations.find_migration(self.ledger, migrations.migration_id(slot.holder))
            if slot.holder != self.ctx.run_key and holder is not None and not self.is_task_alive(holder):
                admission.release_slot(
                    self.ledger,
                    kind=SlotKind.IMPORT,
                    scope=scope,
                    holder=slot.holder,
                    reason="its import task has ended",
                    clock=self.ctx.clock,
                )

    def _check_staged(self) -> None:
        """:raises PermanentError: when a disk is no longer staged; AWS would say so only after minutes."""
        with ServerStaging.of(self.access, self.task.plan, self.ctx.run_key) as staging:
            gone = [disk for disk in self.export.disks if staging.s3.head(disk.object_key) is None]
        if gone:
            raise PermanentError(
                "The staged disk is gone",
                server=self.task.name,
                disk=gone[0].address,
                object=f"s3://{gone[0].bucket}/{gone[0].object_key}",
                next_step="Clear this server from its server.reserve task, so that it is exported again",
            )

    def _wait(self, waiting: ImportWaiting) -> ImportWaiting:
        self._tell(f"waits to import: {waiting.reason}", 0)
        return waiting

    def _tell(self, phase: str, progress: int) -> None:
        migrations.record_progress(self.ledger, self.id, phase=phase, progress_pct=progress, clock=self.ctx.clock)

    def _request(self, token: str) -> ImportRequest:
        plan, target = self.task.plan, self.task.plan.target
        return ImportRequest(
            disks=[
                ImportDisk(bucket=disk.bucket, key=disk.object_key, description=f"{self.task.name} {disk.address}")
                for disk in self.export.disks
            ],
            client_token=token,
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
        with ServerStaging.of(self.access, self.task.plan, self.ctx.run_key) as staging:
            staging.delete_disks()
        return result

    def _release(self) -> None:
        admission.release_slot(
            self.ledger,
            kind=SlotKind.IMPORT,
            scope=import_scope(self.task),
            holder=self.ctx.run_key,
            clock=self.ctx.clock,
        )


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
    :raises PermanentError: when a person cancelled the migration.
    """
    id = migrations.migration_id(ctx.run_key)
    plan = task.plan
    known = migrations.get_migration(ledger, id)
    if known.cancel_requested:
        raise cancelled(known)
    if plan.verify != "off" and not image.report:
        raise ProofError("The image has no conversion report", server=task.name, image=image.image_id)
    result = LaunchResult(server=task.name, skipped="the plan says launch: none")
    if plan.launch == "running":
        ctx.cancel.check()
        migrations.advance(ledger, id, MigrationState.LAUNCHING, phase="launching", clock=ctx.clock)
        with located(server=task.name):
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
    with located(server=known.server):
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
