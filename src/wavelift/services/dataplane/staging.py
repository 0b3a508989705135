"""Where one server's objects lie in S3, and how to sweep what a broken transfer left there."""

from __future__ import annotations

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.domain import DiskFacts, StoredDisk
from wavelift.base.names import staging_prefix
from wavelift.rules.plans import ServerPlan


class ServerStaging:
    """The staging folder of one server in one run (invariant 5: its name derives from the run)."""

    def __init__(self, access: AwsAccess, plan: ServerPlan, run_key: str) -> None:
        target = plan.target
        self.s3 = S3Staging(access, target.bucket, kms_key=target.kms_key)
        self.bucket = target.bucket
        self.prefix = staging_prefix(target.prefix, plan.wave, run_key, plan.server) + "/"

    def object_key(self, index: int) -> str:
        return f"{self.prefix}disk-{index}.vmdk"

    def manifest_key(self, index: int) -> str:
        return f"{self.prefix}disk-{index}.manifest"

    def abort_uploads(self, *, keep: frozenset[str] = frozenset()) -> int:
        """Abort unfinished uploads below the prefix except those in ``keep``; how many."""
        stale = [upload for upload in self.s3.list_uploads(self.prefix) if upload.upload_id not in keep]
        for upload in stale:
            self.s3.abort_upload(upload.key, upload.upload_id)
        return len(stale)

    def delete_disks(self) -> int:
        """Delete the staged disks; manifests stay (DESIGN, data path). How many were deleted."""
        keys = [entry.key for entry in self.s3.list(self.prefix) if entry.key.endswith(".vmdk")]
        self.s3.delete(*keys)
        return len(keys)

    def delete_all(self) -> int:
        """Delete everything below the prefix, manifests too: for a run that came to nothing."""
        keys = [entry.key for entry in self.s3.list(self.prefix)]
        self.s3.delete(*keys)
        return len(keys)


def disk_label(index: int, disk: DiskFacts) -> str:
    """``disk 0 (SCSI 0:0)``: what messages and the progress table call a disk."""
    return f"disk {index} ({disk.address})"


def disk_label_of(disk: StoredDisk) -> str:
    """:func:`disk_label` for a disk that is stored already."""
    return f"disk {disk.index} ({disk.address})"
