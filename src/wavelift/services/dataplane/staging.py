"""Names of one server's objects in S3, and the removal of what a broken transfer left there."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Final, Self

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskFacts, StoredDisk
from wavelift.base.errors import CorruptStreamError, NotFoundError
from wavelift.base.names import staging_prefix
from wavelift.base.units import KIB
from wavelift.rules.plans import ServerPlan

DISK_SUFFIX: Final = ".vmdk"
MANIFEST_SUFFIX: Final = ".manifest"
SEED_SUFFIX: Final = ".unfinished"
"""Of the object that says what the next run must know of a disk's unfinished seed."""
JOURNAL: Final = ".journal/"
MOST_NOTE_BYTES: Final = 256 * KIB
"""Of such an object: it names one journal file for each machine and try that sent of the seed, 20 bytes each."""


NOTE: Final = re.compile(rf"disk-([0-9]{{1,4}}){re.escape(SEED_SUFFIX)}")
DOTS: Final = frozenset({".", ".."})
"""HTTP clients take such a component of a key for a step through folders, and ask for another object."""


def note_index(key: str) -> int | None:
    """The disk that an object notes an unfinished seed of; None: it is no such note, whoever put it there."""
    *folders, name = key.split("/")
    found = None if DOTS.intersection(folders) else NOTE.fullmatch(name)
    return int(found.group(1)) if found else None


class ServerStaging:
    """The staging folder of one server in one run (invariant 5: its name derives from the run)."""

    def __init__(self, s3: S3Staging, prefix: str) -> None:
        self.s3 = s3
        self.bucket = s3.bucket
        self.prefix = prefix + "/"

    @classmethod
    def of(cls, access: AwsAccess, plan: ServerPlan, run_key: str) -> Self:
        target = plan.target
        prefix = staging_prefix(target.prefix, plan.wave, run_key, plan.server)
        s3 = S3Staging(
            access,
            target.bucket,
            target.staging_key or target.kms_key,
            sse=target.staging_sse,
            tags=plan.made_with(run_key),
        )
        return cls(s3, prefix)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.s3.close()

    def object_key(self, index: int, instant: str) -> str:
        """:param instant: of the vSphere snapshot that is read (:func:`wavelift.base.names.instant_of`): an import
        names its object, and must not find another instant's in its place."""
        return f"{self.prefix}{instant}/disk-{index}{DISK_SUFFIX}"

    def manifest_key(self, index: int, instant: str) -> str:
        """Beside the disk: a cleared run must not store its manifest over the one that a lineage names."""
        return f"{self.prefix}{instant}/disk-{index}{MANIFEST_SUFFIX}"

    def journal_prefix(self, index: int) -> str:
        """Of the segments of a disk's journal."""
        return f"{self.prefix}disk-{index}{JOURNAL}"

    def seed_key(self, index: int) -> str:
        return f"{self.prefix}disk-{index}{SEED_SUFFIX}"

    def seed_notes(self) -> Iterator[tuple[int, bytes]]:
        """What was noted of unfinished seeds, by the disk's index."""
        for entry in self.s3.list(f"{self.prefix}disk-"):
            index = note_index(entry.key)
            if index is not None and entry.key == self.seed_key(index):
                try:
                    body = self.s3.get_object(entry.key, at_most=MOST_NOTE_BYTES)
                except NotFoundError:  # a disk that has just been completed deletes its own
                    continue
                except CorruptStreamError:  # too large for any of ours: as one that can't be read
                    body = b""
                yield index, body

    def beside(self, run_key: str, plan: ServerPlan) -> Self:
        """The folder of the same server in another run; shares the connections, which are this one's to close."""
        return type(self)(self.s3, staging_prefix(plan.target.prefix, plan.wave, run_key, plan.server))

    def forget_journals(self) -> None:
        """Delete segments and notes: the seeds are recorded, or were given up."""
        keys = (entry.key for entry in self.s3.list(self.prefix))
        self.s3.delete_each(key for key in keys if JOURNAL in key or key.endswith(SEED_SUFFIX))

    def abort_uploads(self, *, keep: Collection[str] = (), of: Collection[str] | None = None) -> int:
        """Abort unfinished uploads below the prefix except those in ``keep``; how many.

        :param of: keys; None: all.
        """
        stale = [
            upload
            for upload in self.s3.list_uploads(self.prefix)
            if upload.upload_id not in keep and (of is None or upload.key in of)
        ]
        for upload in stale:
            self.s3.abort_upload(upload.key, upload.upload_id)
        return len(stale)

    def delete_disks(self) -> int:
        """Delete the staged disks and return how many. Manifests stay: a later proof needs them."""
        keys = (entry.key for entry in self.s3.list(self.prefix))
        return self.s3.delete_each(key for key in keys if key.endswith(DISK_SUFFIX))

    def discard(self) -> int:
        """Give up uploads, disks and manifests, of a server that came to nothing; how many objects and uploads.

        A lineage names manifests: who calls knows that none of the run's is named, or goes with it.
        """
        return self.abort_uploads() + self.s3.delete_prefix(self.prefix)


def disk_label(index: int, disk: DiskFacts) -> str:
    """``disk 0 (SCSI 0:0)``: what messages and the progress table call a disk."""
    return f"disk {index} ({disk.address})"


def disk_label_of(disk: StoredDisk) -> str:
    """:func:`disk_label` for a disk that is stored already."""
    return f"disk {disk.index} ({disk.address})"
