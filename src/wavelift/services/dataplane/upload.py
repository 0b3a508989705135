"""Uploads a disk image from the worker's file system, with the same proof as an export."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import StoredDisk
from wavelift.base.errors import FencedError, NotFoundError, ProofError, SpecError, WaveliftError
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.base.run import RunContext
from wavelift.services.dataplane.manifests import StoredManifest
from wavelift.services.dataplane.staged_object import settle
from wavelift.transfer.file import FileReader
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.protocols import BlockStream
from wavelift.transfer.report import Report
from wavelift.transfer.throttle import Pace
from wavelift.transfer.vmdk import StreamVmdkSource
from wavelift.transfer.vmdk_writer import VmdkPartWriter

VMDK_MAGIC: Final = b"KDMV"
CHECKPOINT_KEY: Final = "upload"
FORMATS: Final = ("auto", "vmdk", "raw")


@dataclass(frozen=True, slots=True)
class Upload:
    """A disk image on this worker, and the object that it becomes.

    :param image_format: one of :data:`FORMATS`.
    """

    path: str
    bucket: str
    key: str
    image_format: str = "auto"


def upload_disk(access: AwsAccess, wanted: Upload, ctx: RunContext, *, line: Pace | None = None) -> StoredDisk:
    """Store the image as a stream-optimised VMDK at ``s3://bucket/key`` and its manifest beside it.

    A retry sends again only the parts whose SHA-256 differs. An error that no retry can cure leaves no upload behind.

    :param line: the machine's, which all its transfers share.
    :raises SpecError: for an unknown format; :raises NotFoundError: when the file is not there or can't be read.
    :raises ProofError: when the file changed while it was read: what is stored is of no one instant.
    """
    path, bucket, key, image_format = wanted.path, wanted.bucket, wanted.key, wanted.image_format
    file = Path(path)
    if image_format not in FORMATS:
        raise SpecError(f"image_format is {image_format!r}", next_step=f"Allowed are {', '.join(FORMATS)}")
    if not file.is_file():
        raise NotFoundError("There is no such file on this worker", path=path, next_step="Check path and queue")
    before = _version(file)
    started = ctx.clock.monotonic()
    stored = ctx.checkpoints.get(CHECKPOINT_KEY) or {}
    default = AccountChecks(access).bucket(bucket)  # told again, for policies that demand the header
    staging = S3Staging(access, bucket, default.kms_key or None, sse=default.encryption)
    with closing(staging) as s3, _opened(file, image_format) as source:
        manifest = Manifest.empty(source.size, server=key, disk=0, run=run_hash(ctx.run_key))
        sink = s3.multipart(
            key,
            metadata={"wavelift-run": run_hash(ctx.run_key)},
            tags={TAG_RUN: run_hash(ctx.run_key)},
            previous_upload_id=stored.get("upload_id"),
            cancel=ctx.cancel,
            throttle=line,
        )
        ctx.checkpoints.set(CHECKPOINT_KEY, {"upload_id": sink.upload_id})
        writer = VmdkPartWriter(sink, source.size)
        try:
            copy(source, writer, manifest, cancel=ctx.cancel, report=Report(disk=file.name, to=ctx.progress))
        except FencedError:
            raise
        except WaveliftError as error:
            if not error.retryable:
                sink.abort()
            raise
        if _version(file) != before:
            s3.delete(key)
            raise ProofError(
                "The file changed while it was uploaded",
                path=path,
                next_step="Upload it when nothing writes to it any more",
            )
        version = settle(s3, key, size=writer.object_bytes, checksum=sink.checksum())
        kept = StoredManifest.save(s3, f"{key}.manifest", manifest)
    return StoredDisk(
        index=0,
        address="file",
        key=0,
        boot=True,
        capacity=manifest.capacity,
        bucket=bucket,
        object_key=key,
        object_bytes=writer.object_bytes,
        version=version,
        manifest_key=kept.key,
        manifest_digest=kept.digest,
        content_digest=manifest.content_digest(),
        data_bytes=manifest.data_bytes,
        parts=writer.parts,
        parts_kept=sink.parts_kept,
        seconds=round(ctx.clock.monotonic() - started, 3),
    )


def _version(file: Path) -> tuple[int, int, int]:
    """Changes whenever the file is written to or replaced."""
    state = file.stat()
    return state.st_ino, state.st_size, state.st_mtime_ns


@contextmanager
def _opened(file: Path, image_format: str) -> Iterator[BlockStream]:
    try:
        with _stream(file, image_format) as stream:
            yield stream
    except OSError as error:
        raise NotFoundError(
            f"The file can't be read: {error.strerror}", path=str(file), next_step="Check its rights and its disk"
        ) from error


@contextmanager
def _stream(file: Path, image_format: str) -> Iterator[BlockStream]:
    if image_format == "auto":
        with file.open("rb") as head:
            image_format = "vmdk" if head.read(4) == VMDK_MAGIC else "raw"
    if image_format == "vmdk":
        with file.open("rb", buffering=0) as raw:
            yield StreamVmdkSource(raw)
        return
    with closing(FileReader(file)) as reader, closing(reader.stream()) as stream:
        yield stream
