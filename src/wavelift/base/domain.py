"""The nouns that travel between tasks: small, frozen, JSON both ways."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema

Instant = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""ISO 8601 with its offset in JSON: ``2026-12-01T09:00:00+00:00``."""


class Message(BaseModel):
    """A value that crosses XCom, the state store or REST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, value: object) -> Self:
        return cls.model_validate(value)


class Refusal(Message):
    """One rule that says no to one server."""

    server: str = ""
    rule: str
    reason: str
    until: Instant | None = None
    """When it will hold no more by itself; None when that can't be told, or only a person changes it."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(Message):
    """One pre-flight result: what was found, why it matters, what to do next."""

    severity: Severity
    code: str
    """Stable and dotted, e.g. ``disk.rdm``."""
    subject: str
    """Server name, ``server/disk``, environment or connection."""
    what: str
    why: str
    next_action: str
    requirement: str = ""
    """Id of a row in ``docs/requirements.md``, for example ``SMS-11``."""


class DiskFacts(Message):
    """One virtual disk as vCenter describes it. Sizes in bytes."""

    key: int
    label: str
    capacity: int
    controller: str
    """``SCSI`` (any kind), ``SATA``, ``IDE`` or ``NVMe``."""
    controller_class: str
    """vSphere class name, e.g. ``ParaVirtualSCSIController``; part of the lease's device key."""
    bus: int
    unit: int
    backing: str
    """vSphere class name of the backing, e.g. ``VirtualDiskFlatVer2BackingInfo``."""
    file: str = ""
    """``[datastore] folder/file.vmdk`` of the current head."""
    base: str = ""
    """The file at the bottom of the head's chain, as the chain tells it; empty where the head stands alone. A name
    tells nothing: ``srv-100234.vmdk`` is a base."""
    uuid: str = ""
    datastore: str = ""
    mode: str = "persistent"
    sharing: str = "sharingNone"
    thin: bool | None = None
    allocated: int | None = None
    """What the files of a thin disk take on its datastore, all layers together; None: vCenter does not tell."""
    encrypted: bool = False
    rdm: str = ""
    """Empty, ``virtualMode`` or ``physicalMode``."""
    change_id: str | None = None
    boot: bool = False

    @property
    def base_file(self) -> str:
        """The chain's base, whatever the head: the same before and after a snapshot."""
        return self.base or self.file

    @property
    def on_delta(self) -> bool:
        """Whether the head is a delta on another file."""
        return bool(self.base)

    @property
    def address(self) -> str:
        """``SCSI 0:1``: the name used in messages."""
        return f"{self.controller} {self.bus}:{self.unit}"


class FileSystem(Message):
    """A mounted file system as VMware Tools report it."""

    path: str
    """``C:\\`` or ``/``."""
    kind: str = ""
    """``NTFS``, ``ext4`` …; empty before vSphere 7, and with older Tools."""


class ServerFacts(Message):
    """One source VM as the connector saw it: enough for pre-flight and planning, nothing secret."""

    name: str
    moref: str
    instance_uuid: str
    bios_uuid: str = ""
    path: str
    """Inventory path, ``/DC0/vm/folder/name``."""
    power: str
    """``poweredOn``, ``poweredOff`` or ``suspended``."""
    guest_id: str
    guest_full_name: str = ""
    firmware: str = "bios"
    secure_boot: bool = False
    hardware_version: str = ""
    tools_status: str = ""
    tools_running: bool = False
    host: str = ""
    host_moref: str = ""
    host_version: str = ""
    cpus: int = 0
    memory_mib: int = 0
    cbt_supported: bool = False
    cbt_enabled: bool = False
    consolidation_needed: bool = False
    snapshots: tuple[str, ...] = ()
    encrypted: bool = False
    template: bool = False
    managed_by: str = ""
    """Whose the VM is where it is no customer's server: an extension, vSphere's own agents."""
    fault_tolerant: bool = False
    """The primary of a fault-tolerant pair; the other half is never a server."""
    cdrom_connected: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    file_systems: tuple[FileSystem, ...] = ()
    nics: int = 0
    passthrough_devices: int = 0
    vtpm: bool = False
    disks: tuple[DiskFacts, ...] = ()
    """In true order: (controller bus, unit), boot disk first (invariant 11)."""

    @property
    def left_behind(self) -> tuple[DiskFacts, ...]:
        """Disks that run on a delta which no snapshot of the tree accounts for."""
        return () if self.snapshots else tuple(disk for disk in self.disks if disk.on_delta)

    @property
    def capacity(self) -> int:
        return sum(disk.capacity for disk in self.disks)


class SnapshotRef(Message):
    """A vSphere snapshot of ours."""

    server: str
    vm: str
    moref: str
    name: str
    created: str
    """ISO 8601, as vCenter says it."""
    quiesced: bool
    quiesce_note: str = ""


class StoredDisk(Message):
    """One disk as S3 holds it before any conversion, and where its manifest lies."""

    index: int
    address: str
    key: int
    boot: bool
    capacity: int
    bucket: str
    object_key: str
    object_bytes: int
    manifest_key: str
    manifest_digest: str
    """SHA-256 of the manifest object, hex."""
    content_digest: str
    """SHA-256 over the block digests in order, zero blocks included: one value for the whole disk, hex."""
    data_bytes: int
    parts: int
    parts_kept: int = 0
    """Parts of an earlier try that were not sent again."""
    seconds: float = 0.0


class ExportResult(Message):
    """What ``export`` returns: every disk of one server, from one instant."""

    server: str
    snapshot: str
    disks: tuple[StoredDisk, ...]


class VerifyResult(Message):
    """What ``verify`` found before conversion."""

    server: str
    level: str
    """``full``, ``sample:<pct>`` or ``off``: full is *proven*, sample is *sampled*, off is *attested* only."""
    bytes_verified: int
    """Virtual bytes that the proof speaks for."""
    bytes_read_back: int
    mismatches: int = 0


class ChangedRange(Message):
    """Bytes that the conversion changed on a disk."""

    offset: int
    length: int


class ConvertedDisk(Message):
    """One disk after conversion, compared with its manifest."""

    index: int
    snapshot_id: str
    boot: bool
    blocks_compared: int
    changed: tuple[ChangedRange, ...] = ()


class ImportResult(Message):
    """What ``import_image`` returns."""

    server: str
    task_id: str
    image_id: str
    snapshot_ids: tuple[str, ...]
    report: tuple[ConvertedDisk, ...] = ()


class LaunchResult(Message):
    """What ``launch`` returns."""

    server: str
    instance_id: str = ""
    private_ip: str = ""
    skipped: str = ""
    """Why nothing was launched; empty when something was."""


class DiskLineage(Message):
    """What the last recorded run of a replicated disk left: what the next one builds on (invariants 3 and 4)."""

    key: int
    address: str
    uuid: str
    """vSphere's, of the virtual disk's file."""
    file: str
    """``[datastore] folder/file.vmdk`` of the chain's base."""
    capacity: int
    change_id: str | None
    """Of the snapshot that the run read; None: changes were not tracked."""
    snapshot_id: str
    """EBS snapshot, completed: the parent of the next one."""
    bucket: str
    manifest_key: str
    manifest_digest: str
    """SHA-256 of the manifest object, hex."""
    encrypted: bool = False
    hardware_version: str = ""
    taken_at: str = ""
    """When the vSphere snapshot that was read was taken: ISO 8601, by vCenter's clock."""
    quarantine: str = ""
    """Why its change tracking is not believed any more; empty while it is."""


class ReplicatedDisk(Message):
    """One disk of one replication run: how it was read, what was sent, and what it left."""

    index: int
    boot: bool
    label: str
    kind: str
    """``seed`` or ``delta``."""
    kind_reason: str = ""
    """Why a seed was needed, or why a delta read the whole disk; empty when nothing was unusual."""
    reader: str
    """``nfc``, ``datastore`` or ``nbd``."""
    reader_reason: str = ""
    """Why this reader and not a better one."""
    parent_snapshot_id: str = ""
    lineage: DiskLineage
    content_digest: str
    """SHA-256 over the block digests in order, hex."""
    data_bytes: int
    bytes_read: int
    bytes_sent: int
    blocks_sent: int
    blocks_audited: int = 0
    """Blocks that change tracking called unchanged and that were read all the same."""
    seconds: float = 0.0


class ReplicationResult(Message):
    """What ``transfer`` returns: every disk of one server, from one instant."""

    server: str
    snapshot: str
    quiesced: bool = False
    quiesce_note: str = ""
    disks: tuple[ReplicatedDisk, ...]
