"""The proof: what S3 holds is read back and compared with the manifest, before any conversion."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import ServerOperator
from wavelift.operators.connector._plane import EnvironmentOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask


class VerifyOperator(ServerOperator, EnvironmentOperator):
    """Read back the staged disks as the plan's ``verify`` says; fail without retry when a byte differs.

    Runs on the environment's queue near AWS, never through the connector's line (invariant 1). Returns a
    :class:`~wavelift.base.domain.VerifyResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned.
    """

    template_inputs = ("export",)
    export: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.base.domain import ExportResult
        from wavelift.services.dataplane.verify import verify_server

        access = self.aws_of(task.plan.target)
        with self.moving(context, task.name) as ctx:
            result = verify_server(
                access, task, ExportResult.load(self.export), ctx, workers=config.integer("transfer_workers")
            )
        return result.dump()


class CompareOperator(ServerOperator, EnvironmentOperator):
    """Read a server's image back and compare it with its manifests; fail without retry when a data disk differs.

    Runs on the environment's queue near AWS, and only under ``verify: full``: :class:`ImportServerOperator` skips it
    otherwise. Returns the :class:`~wavelift.base.domain.ImportResult` with its conversion report.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param export: what :class:`VmExportOperator` returned.
    :param image: what :class:`ImportServerOperator` returned.
    """

    template_inputs = ("export", "image")
    export: Any
    image: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.base.domain import ExportResult, ImportResult
        from wavelift.services.dataplane.conversion import compare_image

        access = self.aws_of(task.plan.target)
        with self.moving(context, task.name) as ctx:
            result = compare_image(access, task, ExportResult.load(self.export), ImportResult.load(self.image), ctx)
        return result.dump()


class VerifyImportedOperator(EnvironmentOperator):
    """In mode ``verify``: compare finished imports with their manifests again; in every other mode nothing to do.

    Runs on the environment's queue. Returns what each disk's comparison found.

    :param admitted: what :class:`AdmitOperator` returned; it carries what is to be read.
    """

    template_inputs = ("admitted",)
    admitted: Any

    def work(self, context: Context) -> list[dict[str, Any]]:
        from wavelift.services.dataplane.conversion import verify_imported
        from wavelift.services.dataplane.messages import Admitted

        admitted = Admitted.load(self.admitted)
        if admitted.mode != "verify":
            return []
        access = self.aws_of(admitted.wave.environment)
        limits = admitted.wave.environment.limits
        return [verify_imported(access, each, self._cancel, limits=limits).dump() for each in admitted.imported]
