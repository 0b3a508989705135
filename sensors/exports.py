"""Wait for an instance export that somebody else started. Runs on the control plane: it reads the ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from wavelift.operators._inputs import Declared
from wavelift.operators.control._plane import OpensLedger

if TYPE_CHECKING:
    from airflow.sdk import Context


class InstanceExportSensor(OpensLedger, Declared, BaseOperator):
    """Wait, deferred, until an instance export has completed; fail once it has ended without an object.

    It watches only: killing it leaves the export alone. Never on a connector's queue: the ledger can't be reached
    there. Returns what :class:`~wavelift.operators.control.instance_export.InstanceExportOperator` returns.

    :param export: ``exp-…``, as the list of exports and the REST API give it.
    """

    template_inputs = ("export",)
    export: str

    def execute(self, context: Context) -> Any:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.instance_exports import InstanceExportTrigger

        trigger = InstanceExportTrigger(export=self.export, poll_seconds=config.poll_seconds())
        self.defer(trigger=trigger, method_name="execute_complete")

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """:raises AirflowFailException: it has ended without an object, or there is no such export."""
        from wavelift.base.errors import NotFoundError
        from wavelift.ledger import exports
        from wavelift.operators.control.instance_export import told_of
        from wavelift.rules.instance_export import ExportState

        if "error" in event:
            raise RuntimeError(f"watching {self.export} failed: {event['error']}")
        try:
            with self.ledger() as ledger, ledger.read() as tx:
                known = exports.get(tx, self.export)
        except NotFoundError as error:
            raise AirflowFailException(str(error)) from error
        if known.state is not ExportState.COMPLETED:
            raise AirflowFailException(f"{known.id} of {known.instance_id} is {known.state}: {known.error}")
        return told_of(known)
