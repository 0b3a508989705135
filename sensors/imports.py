"""Wait for an ImportImage task that somebody else started."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator
from airflow.sdk.exceptions import AirflowFailException

if TYPE_CHECKING:
    from airflow.sdk import Context


class ImportImageSensor(BaseOperator):
    """Wait, deferred, until an import has ended; return its status, or fail with AWS's words and our reading.

    It watches only: killing it leaves the import alone.

    :param import_task_id: ``import-ami-…``.
    :param aws_conn_id: AWS connection; ``region_name``, ``verify`` and ``botocore_config`` as in the Amazon provider.
    """

    template_fields: Sequence[str] = ("import_task_id", "aws_conn_id", "region_name")

    def __init__(
        self,
        *,
        import_task_id: str,
        aws_conn_id: str = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.import_task_id = import_task_id
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def execute(self, context: Context) -> Any:
        from wavelift.airflow import config
        from wavelift.airflow.triggers.imports import ImportWatchTrigger

        self.defer(
            trigger=ImportWatchTrigger(
                import_task_id=self.import_task_id,
                aws_conn_id=self.aws_conn_id,
                region_name=self.region_name,
                verify=self.verify,
                botocore_config=self.botocore_config,
                poll_seconds=config.poll_seconds(),
            ),
            method_name="execute_complete",
        )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """:raises AirflowFailException: when the import ended without an image."""
        from dataclasses import asdict

        from wavelift.adapters.aws.vmimport import VmImport
        from wavelift.airflow.hooks.vm_import import VmImportHook

        if "error" in event:
            raise RuntimeError(f"watching {self.import_task_id} failed: {event['error']}")
        hook = VmImportHook.of(
            self.aws_conn_id, self.region_name, verify=self.verify, botocore_config=self.botocore_config
        )
        status = VmImport(hook.access()).describe([self.import_task_id]).get(self.import_task_id)
        if status is None:
            raise AirflowFailException(f"AWS does not know {self.import_task_id}; check its region and account")
        if not status.image_id:
            raise AirflowFailException(str(status.failure())) from None
        return asdict(status)
