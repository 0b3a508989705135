"""The proof: what S3 holds is read back and compared with the manifest, before any conversion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavelift.operators._base import Heartbeat, StateStore, WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class VerifyOperator(WaveliftOperator):
    """Read back the staged disks as the plan's ``verify`` says; fail without retry when a byte differs.

    Runs on the environment's queue near AWS, never through the connector's line (invariant 1). Returns a
    :class:`~wavelift.base.domain.VerifyResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned.
    """

    template_fields: Sequence[str] = ("server", "export")

    def __init__(self, *, server: Any, export: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.export = export

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.base.domain import ExportResult
        from wavelift.services.dataplane.verify import verify_server

        task = self.server_task(context, self.server)
        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        ctx = self.server_context(context, task.name)
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            result = verify_server(
                access, task, ExportResult.load(self.export), ctx, workers=config.integer("transfer_workers")
            )
        return result.dump()


class CompareOperator(WaveliftOperator):
    """Read a server's image back and compare it with its manifests; fail without retry when a data disk differs.

    Runs on the environment's queue near AWS, and only under ``verify: full``: :class:`ImportServerOperator` skips it
    otherwise. Returns the :class:`~wavelift.base.domain.ImportResult` with its conversion report.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned.
    :param image: what :class:`ImportServerOperator` returned.
    """

    template_fields: Sequence[str] = ("server", "export", "image")

    def __init__(self, *, server: Any, export: Any, image: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.export = export
        self.image = image

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import ExportResult, ImportResult
        from wavelift.services.dataplane.conversion import compare_image

        task = self.server_task(context, self.server)
        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        ctx = self.server_context(context, task.name)
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            result = compare_image(access, task, ExportResult.load(self.export), ImportResult.load(self.image), ctx)
        return result.dump()


class VerifyImportedOperator(WaveliftOperator):
    """In mode ``verify``: compare finished imports with their manifests again; in every other mode nothing to do.

    Runs on the environment's queue. Returns what each disk's comparison found.

    :param admitted: what :class:`AdmitOperator` returned; it carries what is to be read.
    """

    template_fields: Sequence[str] = ("admitted",)

    def __init__(self, *, admitted: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.admitted = admitted

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.services.dataplane.conversion import verify_imported
        from wavelift.services.dataplane.messages import Admitted

        admitted = Admitted.load(self.admitted)
        if admitted.mode != "verify":
            return []
        environment = admitted.wave.environment
        access = self.aws(environment.aws_conn_id, environment.region)
        return [verify_imported(access, imported, self._cancel).dump() for imported in admitted.imported]
