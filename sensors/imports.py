"""Wait for an ImportImage task that somebody else started."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

from wavelift.operators._base import AwsSettings, OpensAws

if TYPE_CHECKING:
    from airflow.sdk import Context


class ImportImageSensor(OpensAws, AwsSettings, BaseOperator):
    """Wait, deferred, until an import has ended; return its status, or fail with AWS's words and our reading.

    It watches only: killing it leaves the import alone.

    :param import_task_id: ``import-ami-…``.
    :param aws_conn_id: AWS connection; ``region_name``, ``verify`` and ``botocore_config`` as in the Amazon provider.
    """

    template_inputs = ("import_task_id", "aws_conn_id", "region_name")
    plain_inputs = ("verify", "botocore_config")
    first_contact = True
    import_task_id: str

    def execute(self, context: Context) -> Any:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.imports import ImportWatchTrigger

        self.defer(
            trigger=ImportWatchTrigger(
                import_task_id=self.import_task_id, poll_seconds=config.poll_seconds(), **self.aws_settings
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """:raises AirflowFailException: when the import ended without an image."""
        from dataclasses import asdict

        from wavelift.adapters.aws.vmimport import VmImport

        if "error" in event:
            raise RuntimeError(f"watching {self.import_task_id} failed: {event['error']}")
        status = VmImport(self.aws(**self.aws_settings)).describe([self.import_task_id]).get(self.import_task_id)
        if status is None:
            raise AirflowFailException(f"AWS does not know {self.import_task_id}; check its region and account")
        if not status.image_id:
            raise AirflowFailException(str(status.failure())) from None
        return asdict(status)
