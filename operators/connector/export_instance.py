"""What an instance export does on its environment's queue: the OVA of its snapshots, and the look at the object."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators.connector._plane import EnvironmentOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class ReadInstanceOperator(EnvironmentOperator):
    """Read an instance's snapshots and write them to S3 as one OVA, with a manifest of each disk (method ``direct``).

    Nothing touches the worker's disk. A retry reads the same snapshots again and keeps the parts that S3 has. Progress
    lies in the task's state store under ``progress``. Returns an
    :class:`~wavelift.services.dataplane.export_messages.ExportWritten`.

    :param order: what :class:`BeginExportOperator` returned.
    """

    template_inputs = ("order",)
    order: Any

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.export_messages import ExportOrder
        from wavelift.services.dataplane.instance_export import read_instance

        order = ExportOrder.load(self.order)
        access = self.aws_of(order.plan.place)
        with self.moving(context, order.plan.instance.instance_id) as ctx:
            written = read_instance(access, order, ctx, line=config.line(), workers=config.integer("transfer_workers"))
        return dict(written.dump())


class VerifyExportOperator(EnvironmentOperator):
    """Open the object of an export; an OVA of ours is also compared with its manifests, as the run's ``verify`` says.

    Fails without retry when it does not open, was replaced, or differs. Returns an
    :class:`~wavelift.services.dataplane.export_messages.ExportVerified`.

    :param order: what :class:`BeginExportOperator` returned.
    :param written: what :class:`ReadInstanceOperator` returned; None where it was skipped, as AWS made the object.
    """

    template_inputs = ("order", "written")
    order: Any
    written: Any = None

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.export_messages import ExportOrder, ExportWritten
        from wavelift.services.dataplane.export_verify import verify_export

        order = ExportOrder.load(self.order)
        written = ExportWritten.load(self.written) if self.written is not None else None
        access = self.aws_of(order.plan.place)
        with self.moving(context, order.plan.instance.instance_id) as ctx:
            verified = verify_export(access, order, written, ctx, workers=config.integer("transfer_workers"))
        return dict(verified.dump())
