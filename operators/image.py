"""import-image: the staged disks become an AMI."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavelift.airflow.links import ImageLink, image_url
from wavelift.operators._base import WaveliftOperator
from wavelift.operators.slots import run_is_alive

if TYPE_CHECKING:
    from airflow.sdk import Context


class ImportImageOperator(WaveliftOperator):
    """Start ``ImportImage`` for a server's staged disks, wait deferred, and compare the result with the manifests.

    Control plane. At most one import per run and server exists whatever is retried or cleared: the client token derives
    from the run. A limit of AWS means wait, never fail (invariant 8). Returns an
    :class:`~wavelift.base.domain.ImportResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned, or a dict with ``disks`` of EBS snapshot ids.
    :param verified: what :class:`VerifyOperator` returned; only there so that nothing unproven is imported.
    """

    template_fields: Sequence[str] = ("server", "export", "verified")
    operator_extra_links = (ImageLink(),)

    def __init__(self, *, server: Any, export: Any, verified: Any = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.export = export
        self.verified = verified

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.hooks.vm_import import VmImportHook
        from wavelift.airflow.triggers.imports import ImportImageTrigger, ImportSlotTrigger
        from wavelift.airflow.triggers.slots import SlotTrigger
        from wavelift.base.domain import ExportResult, VerifyResult
        from wavelift.ledger import Ledger, SlotKind
        from wavelift.services.dataplane.messages import ServerTask
        from wavelift.services.migration import ImportDone, ImportRunning, advance_import, import_scope

        task = ServerTask.load(self.server)
        target = task.plan.target
        limit = config.integer("imports_per_region")
        access = VmImportHook.of(target.aws_conn_id, target.region).access()
        with Ledger.open(config.ledger_url()) as ledger:
            outcome = advance_import(
                ledger,
                access,
                task,
                ExportResult.load(self.export),
                VerifyResult.load(self.verified) if self.verified else None,
                self.server_context(context, task.name),
                limit=limit,
                is_run_alive=run_is_alive(context),
            )
        if isinstance(outcome, ImportDone):
            context["ti"].xcom_push(key=ImageLink.key, value=image_url(target.region, outcome.result.image_id))
            return outcome.result.dump()
        wait: dict[str, Any] = {
            "aws_conn_id": target.aws_conn_id,
            "region_name": target.region,
            "poll_seconds": config.poll_seconds(),
        }
        if isinstance(outcome, ImportRunning):
            self.log.info("import %s is %s", outcome.task_id, outcome.phase)
            self.defer(
                trigger=ImportImageTrigger(import_task_id=outcome.task_id, **wait), method_name="execute_complete"
            )
        self.log.info("waits to import: %s", outcome.reason)
        if outcome.queued:
            self.defer(
                trigger=SlotTrigger(
                    kind=SlotKind.IMPORT.value,
                    scope=import_scope(task),
                    holder=self.server_context(context, task.name).run_key,
                    limit=limit,
                    poll_seconds=config.poll_seconds(),
                ),
                method_name="execute_complete",
            )
        self.defer(trigger=ImportSlotTrigger(limit=limit, **wait), method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Woken: look at AWS again and go on from what is there."""
        if "error" in event:
            self.log.warning("the wait failed and begins anew: %s", event["error"])
        return dict(self.execute(context))
