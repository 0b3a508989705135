"""import-image: staged disks, or EBS snapshots, become an AMI."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wavelift.airflow.links import ImageLink, image_url
from wavelift.operators._base import AwsSettings
from wavelift.operators.control._plane import ControlServerOperator
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.adapters.aws.vmimport import ImportDisk
    from wavelift.base.domain import ImportResult
    from wavelift.base.run import RunContext
    from wavelift.ledger import Ledger
    from wavelift.services.common.wanted import Terms
    from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting
    from wavelift.services.dataplane.messages import ServerTask
    from wavelift.services.migration.image import ImportDone
    from wavelift.services.replication.image import MadeImage, Replicated

COMPARE: Final = "compare"
"""The task that reads a whole image back."""
COMPARED_APART: Final = "full"
"""The level of ``verify`` at which there is something to do for it."""


class ImportingOperator(WaitingOperator):
    """What imports share: they wait deferred, and look at AWS again whenever they are woken."""

    operator_extra_links = (ImageLink(),)

    def watch(self, running: ImportRunning, aws: Mapping[str, Any]) -> NoReturn:
        """Wait until the import has ended; a person who stops the task cancels it.

        :param aws: connection, region, ``verify`` and ``botocore_config`` for the trigger.
        """
        from wavelift.airflow import config
        from wavelift.airflow.triggers.owned_imports import ImportImageTrigger

        self.log.info("import %s is %s", running.task_id, running.phase)
        self.wait_for(ImportImageTrigger(import_task_id=running.task_id, poll_seconds=config.poll_seconds(), **aws))

    def wait_for_place(self, waiting: ImportWaiting, aws: Mapping[str, Any]) -> NoReturn:
        """Wait until fewer than ``waiting.below`` imports are active in the account (invariant 8)."""
        from wavelift.airflow import config
        from wavelift.airflow.triggers.imports import ImportSlotTrigger

        self.log.info("waits to import: %s", waiting.words)
        self.wait_for(ImportSlotTrigger(below=waiting.below, poll_seconds=config.poll_seconds(), **aws))


class ImportImageOperator(AwsSettings, ImportingOperator):
    """Start ``ImportImage`` for disks in S3 or for EBS snapshots and wait, deferred, for the AMI.

    At most one import exists per task instance and content of its disks whatever is retried or cleared: its client
    token derives from DAG, run, task, and what S3 says of the objects. Cleared after another upload to the same keys it
    imports anew; the earlier image stays, for it is not known here who uses it. A limit of AWS means wait, never fail
    (invariant 8). Returns ``{"task_id", "image_id", "snapshot_ids"}``.

    :param disks: boot disk first; each ``{"bucket": …, "key": …}`` (with ``format``, by default VMDK) or
        ``{"snapshot_id": "snap-…"}``. With ``"version"``, as :class:`DiskUploadOperator` returned it, an object that is
        changed before AWS has read it fails the task, and no image of it stays.
    :param boot_mode: ``legacy-bios`` or ``uefi``; by default AWS chooses.
    :param license_type: ``AWS`` or ``BYOL``; by default AWS chooses.
    :param platform: ``Linux`` or ``Windows``; a UEFI import from snapshots must name it.
    :param role_name: service role that VM Import assumes.
    :param encrypted: encrypt the image's snapshots, with ``kms_key`` or the account's default key.
    :param tags: of import task, image and snapshots.
    :param aws_conn_id: AWS connection; ``region_name``, ``verify`` and ``botocore_config`` as in the Amazon provider.
    """

    first_contact = True
    template_inputs = ("disks", "description", "tags", "kms_key", "aws_conn_id", "region_name")
    plain_inputs = ("boot_mode", "license_type", "platform", "role_name", "encrypted", "verify", "botocore_config")
    disks: Any
    boot_mode: str = ""
    license_type: str = ""
    platform: str = ""
    role_name: str = "vmimport"
    encrypted: bool = False
    kms_key: str = ""
    description: str = ""
    tags: dict[str, str] | None = None

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.adapters.aws.ec2 import Ec2
        from wavelift.airflow import config
        from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting, import_disks

        access = self.aws(**self.aws_settings)
        ctx = self.server_context(context, f"{self.task_id}/{context['ti'].map_index}")
        outcome = import_disks(access, self._disks(), self._request, ctx, limit=config.integer("imports_per_region"))
        if isinstance(outcome, ImportRunning):
            self.watch(outcome, self.aws_settings)
        if isinstance(outcome, ImportWaiting):
            self.wait_for_place(outcome, self.aws_settings)
        Ec2(access).tag_image(outcome.image_id, self.tags or {}, snapshot_ids=outcome.snapshot_ids)
        context["ti"].xcom_push(key=ImageLink.key, value=image_url(access.region, outcome.image_id))
        return {"task_id": outcome.task_id, "image_id": outcome.image_id, "snapshot_ids": list(outcome.snapshot_ids)}

    def _disks(self) -> list[ImportDisk]:
        from wavelift.adapters.aws.vmimport import ImportDisk
        from wavelift.base.domain import ObjectVersion

        given = [
            {**disk, "version": ObjectVersion.load(disk["version"])} if "version" in disk else disk
            for disk in self.disks
        ]
        return [ImportDisk(**disk) for disk in given]

    def _request(self, token: str) -> Any:
        from wavelift.adapters.aws.vmimport import ImportRequest

        return ImportRequest(
            disks=self._disks(),
            client_token=token,
            tags=self.tags or {},
            description=self.description,
            role_name=self.role_name,
            boot_mode=self.boot_mode,  # type: ignore[arg-type]  # AWS refuses what is not one of its words
            license_type=self.license_type,  # type: ignore[arg-type]
            platform=self.platform,  # type: ignore[arg-type]
            encrypted=self.encrypted,
            kms_key=self.kms_key,
        )


class ServerImageOperator(ControlServerOperator, ImportingOperator):
    """What the images of servers share in all flows: each look brings the import one step further."""

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.common.slots import InQueue
        from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting

        target = task.plan.target
        aws: dict[str, Any] = {"aws_conn_id": target.aws_conn_id, "region_name": target.region}
        limit = target.imports_per_region or config.integer("imports_per_region")
        with self.ledger() as ledger:
            ctx = self.server_context(context, task.name)
            found = self.advance(ledger, task, ctx, limit=limit, terms=self.terms(context))
        if isinstance(found, ImportRunning):
            self.watch(found, aws)
        if isinstance(found, InQueue):
            self.wait_for_slot(found)
        if isinstance(found, ImportWaiting):
            self.wait_for_place(found, aws)
        return self.finish(task, context, found)

    def advance(self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms) -> Any:
        """One step further: ``ImportRunning``, ``ImportWaiting``, ``InQueue``, or what :meth:`finish` takes.

        :param limit: imports of ours at a time in this account and region.
        """
        raise NotImplementedError

    def finish(self, task: ServerTask, context: Context, made: Any) -> dict[str, Any]:
        """The image is there: what the task returns."""
        raise NotImplementedError

    def link(self, context: Context, task: ServerTask, image_id: str) -> None:
        context["ti"].xcom_push(key=ImageLink.key, value=image_url(task.plan.target.region, image_id))


class ImportServerOperator(ServerImageOperator):
    """The import of a wave's server from its staged disks.

    Control plane. At most one import per run, server and export exists whatever is retried or cleared: the client token
    derives from them. A limit of AWS means wait, never fail (invariant 8). Returns an
    :class:`~wavelift.base.domain.ImportResult`. Under ``verify: full`` the image is read back by the task
    ``compare`` of the same group (:class:`CompareOperator`); otherwise that is skipped, and a sample is compared here.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned.
    :param verified: what :class:`VerifyOperator` returned; only there so that nothing unproven is imported.
    """

    template_inputs = ("export", "verified")
    export: Any
    verified: Any = None

    def advance(self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms) -> Any:
        from wavelift.base.domain import ExportResult, VerifyResult
        from wavelift.services.migration.image import Staged, advance_import

        verified = VerifyResult.load(self.verified) if self.verified else None
        staged = Staged(task, ExportResult.load(self.export), verified)
        return advance_import(ledger, self.aws_of(task.plan.target), staged, ctx, limit=limit, terms=terms)

    def finish(self, task: ServerTask, context: Context, made: ImportDone) -> dict[str, Any]:
        self.link(context, task, made.result.image_id)
        if task.plan.verify == COMPARED_APART:
            return made.result.dump()
        image = self._compared(context, task, made.result)
        context["ti"].xcom_push(key="return_value", value=image.dump())
        self.skip_sibling(context, COMPARE)

    def _compared(self, context: Context, task: ServerTask, image: ImportResult) -> ImportResult:
        """The image with what a sample of it shows: read with the ledger closed and the try fenced."""
        from wavelift.base.domain import ExportResult
        from wavelift.services.dataplane.conversion import compare_image
        from wavelift.services.migration.image import record_image

        access = self.aws_of(task.plan.target)
        with self.moving(context, task.name) as ctx:
            image = compare_image(access, task, ExportResult.load(self.export), image, ctx)
        with self.ledger() as ledger:
            record_image(ledger, access, task, image, ctx)
        return image


class AmiOperator(ServerImageOperator):
    """Make the run's AMI as its job says, complete the run, and deregister the AMIs that the job keeps no longer.

    Control plane. ``import`` waits, deferred, for ImportImage of the EBS snapshots; ``register`` is done at once. A
    failed conversion fails the AMI only: the next run builds on this one all the same. Returns a
    :class:`~wavelift.services.replication.image.MadeImage`.

    :param server: one of the dicts that :class:`ReplicationPreflightOperator` returned.
    :param transferred: what :class:`ReplicationRunOperator` returned.
    :param verified: what :class:`VerifyReplicatedOperator` returned; only so that nothing unproven becomes an image.
    """

    template_inputs = ("transferred", "verified")
    transferred: Any
    verified: Any

    def advance(self, ledger: Ledger, task: ServerTask, ctx: RunContext, *, limit: int, terms: Terms) -> Any:
        from wavelift.services.replication.image import advance_image

        access = self.aws_of(task.plan.target)
        return advance_image(ledger, access, self.replicated(task), ctx, limit=limit, terms=terms)

    def replicated(self, task: ServerTask) -> Replicated:
        """What the image is made of, and by which proof."""
        from wavelift.base.domain import ReplicationResult
        from wavelift.services.dataplane.replication_messages import VerifiedRun
        from wavelift.services.replication.image import Replicated

        verified = VerifiedRun.load(self.verified) if self.verified else None
        return Replicated(task, ReplicationResult.load(self.transferred), verified)

    def finish(self, task: ServerTask, context: Context, made: MadeImage) -> dict[str, Any]:
        if made.image_id:
            self.link(context, task, made.image_id)
        return made.dump()
