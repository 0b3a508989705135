"""import-image: staged disks, or EBS snapshots, become an AMI."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from wavelift.airflow.links import ImageLink, image_url
from wavelift.operators._base import Heartbeat, StateStore
from wavelift.operators.control._waiting import WaitingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.base.domain import ImportResult
    from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting
    from wavelift.services.dataplane.messages import ServerTask

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


class ImportImageOperator(ImportingOperator):
    """Start ``ImportImage`` for disks in S3 or for EBS snapshots and wait, deferred, for the AMI.

    At most one import exists per task instance and content of its disks whatever is retried or cleared: its client
    token derives from DAG, run, task, and what S3 says of the objects. Cleared after another upload to the same keys it
    imports anew; the earlier image stays, for it is not known here who uses it. A limit of AWS means wait, never fail
    (invariant 8). Returns ``{"task_id", "image_id", "snapshot_ids"}``.

    :param disks: boot disk first; each ``{"bucket": …, "key": …}`` (with ``format``, by default VMDK) or
        ``{"snapshot_id": "snap-…"}``.
    :param boot_mode: ``legacy-bios`` or ``uefi``; by default AWS chooses.
    :param license_type: ``AWS`` or ``BYOL``; by default AWS chooses.
    :param platform: ``Linux`` or ``Windows``; a UEFI import from snapshots must name it.
    :param role_name: service role that VM Import assumes.
    :param encrypted: encrypt the image's snapshots, with ``kms_key`` or the account's default key.
    :param tags: of import task, image and snapshots.
    :param aws_conn_id: AWS connection; ``region_name``, ``verify`` and ``botocore_config`` as in the Amazon provider.
    """

    first_contact = True
    template_fields: Sequence[str] = ("disks", "description", "tags", "kms_key", "aws_conn_id", "region_name")

    def __init__(
        self,
        *,
        disks: Any,
        boot_mode: str = "",
        license_type: str = "",
        platform: str = "",
        role_name: str = "vmimport",
        encrypted: bool = False,
        kms_key: str = "",
        description: str = "",
        tags: dict[str, str] | None = None,
        aws_conn_id: str = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.disks = disks
        self.boot_mode = boot_mode
        self.license_type = license_type
        self.platform = platform
        self.role_name = role_name
        self.encrypted = encrypted
        self.kms_key = kms_key
        self.description = description
        self.tags = tags
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.adapters.aws.ec2 import Ec2
        from wavelift.adapters.aws.vmimport import ImportDisk
        from wavelift.airflow import config
        from wavelift.services.dataplane.importing import ImportRunning, ImportWaiting, import_disks

        aws: dict[str, Any] = {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }
        access = self.aws(**aws)
        ctx = self.server_context(context, f"{self.task_id}/{context['ti'].map_index}")
        disks = [ImportDisk(**disk) for disk in self.disks]
        outcome = import_disks(access, disks, self._request, ctx, limit=config.integer("imports_per_region"))
        if isinstance(outcome, ImportRunning):
            self.watch(outcome, aws)
        if isinstance(outcome, ImportWaiting):
            self.wait_for_place(outcome, aws)
        Ec2(access).tag_image(outcome.image_id, self.tags or {}, snapshot_ids=outcome.snapshot_ids)
        context["ti"].xcom_push(key=ImageLink.key, value=image_url(access.region, outcome.image_id))
        return {"task_id": outcome.task_id, "image_id": outcome.image_id, "snapshot_ids": list(outcome.snapshot_ids)}

    def _request(self, token: str) -> Any:
        from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest

        return ImportRequest(
            disks=[ImportDisk(**disk) for disk in self.disks],
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


class ImportServerOperator(ImportingOperator):
    """The import of a wave's server from its staged disks.

    Control plane. At most one import per run, server and export exists whatever is retried or cleared: the client token
    derives from them. A limit of AWS means wait, never fail (invariant 8). Returns an
    :class:`~wavelift.base.domain.ImportResult`. Under ``verify: full`` the image is read back by the task
    ``compare`` of the same group (:class:`CompareOperator`); otherwise that is skipped, and a sample is compared here.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned.
    :param verified: what :class:`VerifyOperator` returned; only there so that nothing unproven is imported.
    """

    template_fields: Sequence[str] = ("server", "export", "verified")

    def __init__(self, *, server: Any, export: Any, verified: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.export = export
        self.verified = verified

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.base.domain import ExportResult, VerifyResult
        from wavelift.ledger import Ledger
        from wavelift.services.common.slots import InQueue
        from wavelift.services.dataplane.importing import ImportRunning
        from wavelift.services.migration.image import ImportDone, Staged, advance_import

        task = self.server_task(context, self.server)
        target = task.plan.target
        aws: dict[str, Any] = {"aws_conn_id": target.aws_conn_id, "region_name": target.region}
        limit = target.imports_per_region or config.integer("imports_per_region")
        verified = VerifyResult.load(self.verified) if self.verified else None
        staged = Staged(task, ExportResult.load(self.export), verified)
        with Ledger.open(config.ledger_url()) as ledger:
            outcome = advance_import(
                ledger, self.aws(**aws), staged, self.server_context(context, task.name), limit=limit
            )
        if isinstance(outcome, ImportDone):
            context["ti"].xcom_push(key=ImageLink.key, value=image_url(target.region, outcome.result.image_id))
            if task.plan.verify == COMPARED_APART:
                return outcome.result.dump()
            image = self._compared(context, task, outcome.result)
            context["ti"].xcom_push(key="return_value", value=image.dump())
            self.skip_sibling(context, COMPARE)
        if isinstance(outcome, ImportRunning):
            self.watch(outcome, aws)
        if isinstance(outcome, InQueue):
            self.wait_for_slot(outcome)
        self.wait_for_place(outcome, aws)

    def _compared(self, context: Context, task: ServerTask, image: ImportResult) -> ImportResult:
        """The image with what a sample of it shows: read with the ledger closed and the try fenced."""
        from wavelift.airflow import config
        from wavelift.base.domain import ExportResult
        from wavelift.ledger import Ledger
        from wavelift.services.dataplane.conversion import compare_image
        from wavelift.services.migration.image import record_image

        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        ctx = self.server_context(context, task.name)
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            image = compare_image(access, task, ExportResult.load(self.export), image, ctx)
        with Ledger.open(config.ledger_url()) as ledger:
            record_image(ledger, access, task, image, ctx)
        return image
