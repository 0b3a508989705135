"""Export and upload in one pass, and the upload of a disk file that is there already."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wavelift.operators._base import AwsSettings, WaveliftOperator
from wavelift.operators.connector._plane import MovingOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from wavelift.services.dataplane.messages import ServerTask


class VmExportOperator(MovingOperator):
    """Stream every disk of a server's snapshot from vCenter into S3, checked and with a manifest.

    Runs on the connector's queue; nothing touches its disk. A retry continues the uploads of the same snapshot.
    Progress lies in the task's state store under ``progress``. Returns an
    :class:`~wavelift.base.domain.ExportResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param snapshot: what :class:`VmSnapshotOperator` returned.
    """

    template_inputs = ("snapshot",)
    snapshot: Any

    def work_on(self, task: ServerTask, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.disk_crew import FrozenServer, TransferOptions
        from wavelift.services.dataplane.messages import TakenSnapshot
        from wavelift.services.dataplane.transfer import export_server

        access = self.aws_of(task.plan.target)
        options = TransferOptions(
            workers=config.integer("transfer_workers"),
            parallel_disks=config.integer("parallel_disks"),
            line=config.line(),
            state_folder=config.connector_state_folder(),
        )
        with self.moving(context, task.name) as ctx, self.vcenter(task.plan.connection) as session:
            source = FrozenServer(session, task, TakenSnapshot.load(self.snapshot))
            result = export_server(source, access, ctx, options)
        return result.dump()


class DiskUploadOperator(AwsSettings, WaveliftOperator):
    """Upload a disk image that lies on the worker (stream-optimised VMDK or raw) with the same proof as an export.

    Returns a :class:`~wavelift.base.domain.StoredDisk`.

    :param path: the file on the worker.
    :param bucket: staging bucket.
    :param key: object key; the manifest goes to ``<key>.manifest``.
    :param image_format: ``vmdk`` or ``raw``; by default what the file's first bytes say.
    :param aws_conn_id: AWS connection; ``region_name``, ``verify`` and ``botocore_config`` as in the Amazon provider.
    """

    first_contact = True
    template_inputs = ("path", "bucket", "key", "image_format", "aws_conn_id", "region_name")
    plain_inputs = ("verify", "botocore_config")
    path: str
    bucket: str
    key: str
    image_format: str = "auto"

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.upload import Upload, upload_disk

        wanted = Upload(self.path, self.bucket, self.key, self.image_format)
        with self.moving(context, self.key) as ctx:
            stored = upload_disk(self.aws(**self.aws_settings), wanted, ctx, line=config.line())
        return dict(stored.dump())
