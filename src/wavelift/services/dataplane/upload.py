"""Uploading a disk image that lies on the worker, with the same proof as an export."""

from __future__ import annotations

import hashlib
from contextlib import closing
from pathlib import Path
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import StoredDisk
from wavelift.base.errors import NotFoundError, SpecError
from wavelift.base.names import run_hash
from wavelift.base.run import RunContext
from wavelift.transfer.file import FileReader
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import as_stream, copy
from wavelift.transfer.protocols import BlockStream
from wavelift.transfer.vmdk import StreamVmdkSource
from wavelift.transfer.vmdk_writer import VmdkPartWriter

VMDK_MAGIC: Final = b"KDMV"
CHECKPOINT_KEY: Final = "upload"
FORMATS: Final = ("auto", "vmdk", "raw")


def upload_disk(
    access: AwsAccess, *, path: str, bucket: str, key: str, image_format: str, ctx: RunContext, workers: int = 2
) -> StoredDisk:
    """Store ``path`` as a stream-optimised VMDK at ``s3://bucket/key`` and its manifest beside it.

    A retry sends again only the parts whose SHA-256 differs.

    :raises SpecError: for an unknown format; :raises NotFoundError: when there is no such file.
    """
    file = Path(path)
    if image_format not in FORMATS:
        raise SpecError(f"image_format is {image_format!r}", next_step=f"Allowed are {', '.join(FORMATS)}")
    if not file.is_file():
        raise NotFoundError("There is no such file on this worker", path=path, next_step="Check path and queue")
    started = ctx.clock.monotonic()
    s3 = S3Staging(access, bucket)
    stored = ctx.checkpoints.get(CHECKPOINT_KEY) or {}
    with closing(_open(file, image_format)) as source:
        manifest = Manifest.empty(source.size, server=key, disk=0, run=run_hash(ctx.run_key))
        sink = s3.multipart(
            key,
            metadata={"wavelift-run": run_hash(ctx.run_key)},
            previous_upload_id=stored.get("upload_id"),
            cancel=ctx.cancel,
        )
        ctx.checkpoints.set(CHECKPOINT_KEY, {"upload_id": sink.upload_id})
        writer = VmdkPartWriter(sink, source.size)
        stats = copy(
            source, writer, manifest, workers=workers, cancel=ctx.cancel, on_progress=ctx.progress, disk=file.name
        )
    body = manifest.to_bytes()
    s3.put_object(f"{key}.manifest", body)
    return StoredDisk(
        index=0,
        address="file",
        key=0,
        boot=True,
        capacity=manifest.capacity,
        bucket=bucket,
        object_key=key,
        object_bytes=writer.object_bytes,
        manifest_key=f"{key}.manifest",
        manifest_digest=hashlib.sha256(body).hexdigest(),
        content_digest=manifest.content_digest(),
        data_bytes=stats.data_bytes,
        parts=writer.parts,
        parts_kept=sink.parts_kept,
        seconds=round(ctx.clock.monotonic() - started, 3),
    )


def _open(file: Path, image_format: str) -> BlockStream:
    if image_format == "auto":
        with file.open("rb") as head:
            image_format = "vmdk" if head.read(4) == VMDK_MAGIC else "raw"
    if image_format == "vmdk":
        return StreamVmdkSource(file.open("rb", buffering=0))
    return as_stream(FileReader(file))
