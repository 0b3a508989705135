"""The JSON messages between the tasks of an instance export. Sizes are bytes."""

from __future__ import annotations

import hashlib
import json

from wavelift.base.domain import Instant, Message, ObjectVersion
from wavelift.rules.export_facts import DiskController, ExportFormat, ExportMethod, ExportTarget, InstanceFacts


class ExportPlace(Message):
    """Where an export's instance and bucket are; it satisfies the operators' ``AwsPlace``."""

    environment: str
    aws_conn_id: str
    region: str
    account: str
    bucket: str
    """``export-to-s3-<name>-<region>``."""
    role: str
    """The service role of VM Import/Export, for ExportImage."""
    queue: str
    """Of the environment: `read` and `verify` run there."""
    limit: int
    """Exports of account and region at a time."""


class ExportPlan(Message):
    """What the check chose: it is frozen with the export, and whatever is made follows it."""

    export: str
    """``exp-…``."""
    place: ExportPlace
    instance: InstanceFacts
    method: ExportMethod
    why: str
    """Why this method, for people."""
    target: ExportTarget
    format: ExportFormat
    controller: DiskController
    prefix: str
    may_reboot: bool
    verify: str
    """``full`` or ``sample:<pct>``: how ``direct`` is compared with its manifests."""

    @property
    def digest(self) -> str:
        """SHA-256, hex."""
        text = json.dumps(self.dump(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


class SourceDisk(Message):
    """A snapshot of one volume; all of an order are of one instant."""

    index: int
    """In true order; 0 is the boot disk."""
    volume_id: str
    device: str
    snapshot_id: str
    capacity: int


class ExportOrder(Message):
    """What `begin` hands to `read` and `verify`: the tasks on the environment's queue have no ledger."""

    plan: ExportPlan
    key: str
    """Of the object."""
    task_id: str = ""
    """Of AWS, which has made the object; empty: `read` makes it."""
    disks: tuple[SourceDisk, ...] = ()
    """With the method ``direct``."""
    instant: Instant | None = None
    """Of the snapshots: the time of all members of the OVA, so that another try writes the same bytes."""


class WrittenDisk(Message):
    """A disk inside the OVA."""

    index: int
    snapshot_id: str
    capacity: int
    data_bytes: int
    member: str
    """Its name in the archive."""
    member_offset: int
    """Of its first byte in the object."""
    member_bytes: int
    sha256: str
    """Of the member, hex, as the ``.mf`` says."""
    manifest_key: str
    manifest_digest: str
    content_digest: str


class ExportWritten(Message):
    """What `read` returns."""

    export: str
    plan: str
    """Digest of the plan that it followed."""
    bucket: str
    key: str
    object_bytes: int
    version: ObjectVersion
    disks: tuple[WrittenDisk, ...]
    parts: int
    parts_kept: int
    """That an earlier try had sent."""
    seconds: float


class ExportVerified(Message):
    """What `verify` returns: the object was opened, and compared as far as the plan asks."""

    export: str
    plan: str
    """Digest of the plan that it followed."""
    bucket: str
    key: str
    object_bytes: int
    version: ObjectVersion
    opened: tuple[str, ...]
    """What was found in it, one line each: ``disk1.vmdk: stream-optimised VMDK of 8 GiB``."""
    level: str
    """``full`` (*proven*), ``sample:<pct>`` (*sampled*), or ``opened``: of what AWS made there is no manifest."""
    bytes_verified: int = 0
    bytes_read_back: int = 0
