"""Export and upload in one pass, and the upload of a disk file that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from wavelift.operators._base import Heartbeat, StateStore, WaveliftOperator

if TYPE_CHECKING:
    from airflow.sdk import Context


class VmExportOperator(WaveliftOperator):
    """Stream every disk of a server's snapshot from vCenter into S3, checked and with a manifest.

    Runs on the connector's queue; nothing touches its disk. A retry continues the uploads of the same snapshot.
    Progress lies in the task's state store under ``progress``. Returns an
    :class:`~wavelift.base.domain.ExportResult`.

    :param server: one of the dicts that :class:`PreflightOperator` returned.
    :param snapshot: what :class:`VmSnapshotOperator` returned.
    """

    template_fields: Sequence[str] = ("server", "snapshot")

    def __init__(self, *, server: Any, snapshot: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.server = server
        self.snapshot = snapshot

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.airflow.hooks.vsphere import VsphereHook
        from wavelift.services.dataplane.disk_crew import FrozenServer, TransferOptions
        from wavelift.services.dataplane.messages import TakenSnapshot
        from wavelift.services.dataplane.transfer import export_server

        task = self.server_task(context, self.server)
        access = self.aws(task.plan.target.aws_conn_id, task.plan.target.region)
        ctx = self.server_context(context, task.name)
        options = TransferOptions(
            workers=config.integer("transfer_workers"),
            parallel_disks=config.integer("parallel_disks"),
            line=config.line(),
            state_folder=config.connector_state_folder(),
        )
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            with VsphereHook(task.plan.connection).session() as session:
                source = FrozenServer(session, task, TakenSnapshot.load(self.snapshot))
                result = export_server(source, access, ctx, options)
        return result.dump()


class DiskUploadOperator(WaveliftOperator):
    """Upload a disk image that lies on the worker (stream-optimised VMDK or raw) with the same proof as an export.

    Returns a :class:`~wavelift.base.domain.StoredDisk`.

    :param path: the file on the worker.
    :param bucket: staging bucket.
    :param key: object key; the manifest goes to ``<key>.manifest``.
    :param image_format: ``vmdk`` or ``raw``; by default what the file's first bytes say.
    :param aws_conn_id: AWS connection; ``region_name``, ``verify`` and ``botocore_config`` as in the Amazon provider.
    """

    first_contact = True
    template_fields: Sequence[str] = ("path", "bucket", "key", "image_format", "aws_conn_id", "region_name")

    def __init__(
        self,
        *,
        path: str,
        bucket: str,
        key: str,
        image_format: str = "auto",
        aws_conn_id: str = "aws_default",
        region_name: str | None = None,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.path = path
        self.bucket = bucket
        self.key = key
        self.image_format = image_format
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.verify = verify
        self.botocore_config = botocore_config

    def work(self, context: Context) -> dict[str, Any]:
        from wavelift.airflow import config
        from wavelift.services.dataplane.upload import Upload, upload_disk

        access = self.aws(self.aws_conn_id, self.region_name, verify=self.verify, botocore_config=self.botocore_config)
        ctx = self.server_context(context, self.key)
        with Heartbeat(StateStore(context["task_state_store"]), self._cancel) as heartbeat:
            ctx.progress = heartbeat.progress
            wanted = Upload(self.path, self.bucket, self.key, self.image_format)
            stored = upload_disk(access, wanted, ctx, line=config.line())
        return dict(stored.dump())
