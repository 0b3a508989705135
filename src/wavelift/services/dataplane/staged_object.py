"""Whether a staged disk is still the object that the export stored (invariant 1).

An import names bucket and key only, and AWS reads the object hours later. So what S3 says of it is recorded with the
export and compared before it is read back, before the import is submitted, and after the import has ended. Checksum and
size tell another content. The version, or ETag and time where the bucket keeps no versions, tells an object that was
replaced and put back meanwhile: which of the two the import read is not known, so the image is refused although the
bytes are the right ones again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from wavelift.adapters.aws.s3 import ObjectInfo, S3Staging
from wavelift.base.domain import ObjectVersion, StoredDisk
from wavelift.base.errors import ProofError
from wavelift.base.units import exact_bytes
from wavelift.services.dataplane.staging import disk_label_of
from wavelift.transfer.protocols import PartSink

EXPORT_AGAIN: Final = (
    "Find out who may write to the staging bucket ('wavelift iam show bucket' prints its policy); then clear this "
    "server from its reserve task: it is exported again"
)


class AnnouncedSink:
    """A part sink that says so before it makes the object: completing one of many parts takes S3 minutes, and a try
    that is killed meanwhile must not send everything again."""

    def __init__(self, sink: PartSink, announce: Callable[[], None]) -> None:
        self._sink = sink
        self._announce = announce

    def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
        self._sink.put_part(number, data, sha256)

    def complete(self) -> None:
        self._announce()
        self._sink.complete()


def stored_version(s3: S3Staging, key: str, *, size: int, checksum: str) -> ObjectVersion | None:
    """The version of the object that was just made; None if another one lies there, or none.

    :param checksum: computed from the parts that were sent; S3's word is compared with it.
    """
    found = s3.head(key)
    return found.version if found is not None and (found.size, found.checksum) == (size, checksum) else None


def settle(s3: S3Staging, key: str, *, size: int, checksum: str) -> ObjectVersion:
    """:func:`stored_version` of an object that must be there.

    :raises ProofError: it is not.
    """
    version = stored_version(s3, key, size=size, checksum=checksum)
    if version is None:
        raise ProofError(
            "Another object lies where the disk was just stored",
            object=f"s3://{s3.bucket}/{key}",
            next_step="Find out who may write to the staging bucket, then export this disk again",
        )
    return version


def check_unchanged(s3: S3Staging, disks: Iterable[StoredDisk], when: str) -> None:
    """Compare what S3 says of each disk's object now with what it said when the upload was complete.

    :param when: for the error: ``before it was imported``.
    :raises ProofError: one was changed, replaced, put back or deleted; the error says which, and what of it.
    """
    for disk in disks:
        if why := difference(disk.version, disk.object_bytes, s3.head(disk.object_key)):
            raise ProofError(
                f"The staged disk was changed {when}: {why}",
                disk=disk_label_of(disk),
                object=f"s3://{disk.bucket}/{disk.object_key}",
                next_step=EXPORT_AGAIN,
            )


def difference(stored: ObjectVersion, size: int | None, found: ObjectInfo | None) -> str:
    """What of an object is not as it was stored; empty if all is.

    :param size: None: not known.
    """
    if not stored.checksum:
        return "its export names no checksum, so nothing shows that it is the object that was exported"
    if found is None:
        return "it is gone"
    if size is not None and found.size != size:
        return f"it has {exact_bytes(found.size)} instead of {exact_bytes(size)}"
    if found.checksum != stored.checksum:
        return f"its checksum is {found.checksum or 'missing'} instead of {stored.checksum}"
    if found.version == stored:
        return ""
    if stored.version_id:
        other = f"its version is {found.version_id or 'missing'} instead of {stored.version_id}"
    else:
        other = f"it was written at {found.modified} instead of {stored.modified}"
    return f"its bytes are the same, but it was written again ({other}), and what lay there meanwhile is not known"
