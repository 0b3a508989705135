"""The data types that tasks exchange: small, frozen, and convertible to and from JSON."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Self

from pydantic import BaseModel, ConfigDict, PlainSerializer, WithJsonSchema, field_validator

Instant = Annotated[
    datetime,
    PlainSerializer(datetime.isoformat, return_type=str, when_used="json"),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""A time that is ISO 8601 with an offset in JSON, such as ``2026-12-01T09:00:00+00:00``."""

MOST_NICS: Final = 10
"""Network cards of one VM (vSphere configuration maximums)."""


class Message(BaseModel):
    """A value that is passed through XCom, the state store or REST."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def dump(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @classmethod
    def load(cls, value: object) -> Self:
        return cls.model_validate(value)


class Refusal(Message):
    """A rule that refuses a request for one server."""

    server: str = ""
    rule: str
    reason: str
    until: Instant | None = None
    """When the refusal ends automatically. None: unknown, or only a person can end it."""


class Severity(StrEnum):
    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


class Finding(Message):
    """One pre-flight result: what was found, why it matters, what to do next."""

    severity: Severity
    code: str
    """Stable identifier with dots, e.g. ``disk.rdm``."""
    subject: str
    """Server name, ``server/disk``, environment or connection."""
    what: str
    why: str
    next_action: str
    requirement: str = ""
    """Id of a row in ``docs/requirements.md``, for example ``SMS-11``."""


class DiskFacts(Message):
    """One virtual disk as vCenter describes it. Sizes are in bytes."""

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
    """The base file of the head's chain, taken from the chain itself; empty if the head has no parent. A file name is
    no evidence: ``srv-100234.vmdk`` can be a base."""
    uuid: str = ""
    datastore: str = ""
    datastore_moref: str = ""
    """Managed object id. Two data centres may have datastores of one name."""
    mode: str = "persistent"
    sharing: str = "sharingNone"
    thin: bool | None = None
    allocated: int | None = None
    """Space that all files of a thin disk use on the datastore, with all layers. None: vCenter does not report it."""
    encrypted: bool = False
    rdm: str = ""
    """Empty, ``virtualMode`` or ``physicalMode``."""
    change_id: str | None = None
    boot: bool = False

    @property
    def base_file(self) -> str:
        """The base file of the chain. It is the same before and after a snapshot."""
        return self.base or self.file

    @property
    def on_delta(self) -> bool:
        """Whether the head is a delta of another file."""
        return bool(self.base)

    @property
    def address(self) -> str:
        """The name of the disk in messages, such as ``SCSI 0:1``."""
        return f"{self.controller} {self.bus}:{self.unit}"


class FileSystem(Message):
    """A mounted file system as VMware Tools reports it."""

    path: str
    """``C:\\`` or ``/``."""
    kind: str = ""
    """``NTFS``, ``ext4`` …; empty before vSphere 7 and with older VMware Tools."""


class NicFacts(Message):
    """One network card of a VM. Of a card that an older version counted only, nothing is known: its key is 0."""

    key: int
    """vSphere's device key."""
    label: str = ""
    kind: str = ""
    """``vmxnet3``, ``e1000e`` …"""
    mac: str = ""
    network: str = ""
    """Its name; the id of a portgroup whose name we may not read."""
    network_moref: str = ""
    """Empty where we may not read the network."""
    network_kind: str = ""
    """``standard``, ``distributed`` or ``opaque``."""
    start_connected: bool = False
    """Whether a power-on connects it."""
    connected: bool = False
    """Always false while the VM is off."""
    allow_guest_control: bool = False
    """Whether the guest itself may connect it."""
    addresses: tuple[str, ...] = ()
    """IPv4 and IPv6, as VMware Tools report them for this card."""

    @property
    def connection(self) -> tuple[bool, bool, bool]:
        """What a fence changes: connected at power-on, connected, connectable by the guest."""
        return self.start_connected, self.connected, self.allow_guest_control

    @property
    def fenced(self) -> bool:
        """Whether neither a power-on nor the guest connects it."""
        return not any(self.connection)


class PowerFacts(Message):
    """Whether a VM runs."""

    power: str
    """``poweredOn``, ``poweredOff`` or ``suspended``."""
    booted: str = ""
    """When it was last powered on: ISO 8601, by vCenter's clock. Empty while it is off."""
    tools_running: bool = False
    """Whether VMware Tools run: only then can the guest be shut down."""

    @property
    def on(self) -> bool:
        return self.power == "poweredOn"

    @property
    def off(self) -> bool:
        """Not while suspended: then the guest's memory holds what its disks do not."""
        return self.power == "poweredOff"


class ServerFacts(Message):
    """One source VM as the connector read it: everything that pre-flight and planning need, and no secret."""

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
    """The owner of a VM that is not a customer's server: an extension, or vSphere itself for its agents."""
    fault_tolerant: bool = False
    """Whether this is the primary of a fault-tolerant pair. The secondary is never a server."""
    cdrom_connected: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    file_systems: tuple[FileSystem, ...] = ()
    nics: tuple[NicFacts, ...] = ()
    passthrough_devices: int = 0
    vtpm: bool = False
    disks: tuple[DiskFacts, ...] = ()
    """Sorted by (controller bus, unit), boot disk first (invariant 11)."""

    @field_validator("nics", mode="before")
    @classmethod
    def _counted(cls, value: object) -> object:
        """Rows and frozen runs of older versions have a number."""
        if isinstance(value, int) and not isinstance(value, bool):
            return (NicFacts(key=0),) * min(value, MOST_NICS)
        return value

    @property
    def left_behind(self) -> tuple[DiskFacts, ...]:
        """Disks that run on a delta although the VM has no snapshot."""
        return () if self.snapshots else tuple(disk for disk in self.disks if disk.on_delta)

    @property
    def capacity(self) -> int:
        return sum(disk.capacity for disk in self.disks)


class SnapshotRef(Message):
    """A vSphere snapshot that wavelift made."""

    server: str
    vm: str
    moref: str
    name: str
    created: str
    """ISO 8601, according to vCenter."""
    quiesced: bool
    quiesce_note: str = ""


class ObjectVersion(Message):
    """What S3 says of the bytes under a key: they are the same ones as long as all of this is equal."""

    checksum: str = ""
    """Base64 of SHA-256; of an object made of n parts over their digests, with ``-n``."""
    etag: str = ""
    version_id: str = ""
    """Empty: the bucket keeps no versions, or began to keep them after the object was stored."""
    modified: str = ""
    """ISO 8601, whole seconds."""


class StoredDisk(Message):
    """One disk in S3 before the conversion, and the location of its manifest."""

    index: int
    address: str
    key: int
    boot: bool
    capacity: int
    bucket: str
    object_key: str
    object_bytes: int
    version: ObjectVersion = ObjectVersion()
    """Of the object, as the upload made it. Without a checksum, the object is not imported."""
    manifest_key: str
    manifest_digest: str
    """SHA-256 of the manifest object, hex."""
    content_digest: str
    """SHA-256 over the block digests in order, zero blocks included; identifies the content of the whole disk. Hex."""
    data_bytes: int
    parts: int
    parts_kept: int = 0
    """Parts that an earlier try had uploaded and that were not sent again."""
    seconds: float = 0.0
    reader: str = ""
    """As in :class:`ReplicatedDisk`; empty in results of versions that did not tell."""
    reader_reason: str = ""


class ExportResult(Message):
    """Result of ``export``: every disk of one server at one instant."""

    server: str
    snapshot: str
    disks: tuple[StoredDisk, ...]


class VerifyResult(Message):
    """Result of ``verify``, which runs before the conversion."""

    server: str
    level: str
    """``full`` (*proven*), ``sample:<pct>`` (*sampled*) or ``off`` (only *attested*)."""
    bytes_verified: int
    """Virtual bytes that the proof covers."""
    bytes_read_back: int
    mismatches: int = 0
    manifests: tuple[str, ...] = ()
    """Digest of each disk's manifest: which export was read back."""


class ChangedRange(Message):
    """A range of bytes that the conversion changed on a disk."""

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
    """Result of ``import_image``."""

    server: str
    task_id: str
    image_id: str
    snapshot_ids: tuple[str, ...]
    report: tuple[ConvertedDisk, ...] = ()


class LaunchResult(Message):
    """Result of ``launch``."""

    server: str
    instance_id: str = ""
    private_ip: str = ""
    skipped: str = ""
    """Why no instance was launched; empty if one was."""


class DiskLineage(Message):
    """State of a replicated disk after its last recorded run. The next run continues from it (invariants 3 and 4)."""

    key: int
    address: str
    uuid: str
    """The vSphere UUID of the virtual disk's file."""
    file: str
    """Base file of the chain: ``[datastore] folder/file.vmdk``."""
    capacity: int
    change_id: str | None
    """Change id of the snapshot that the run read. None: changes were not tracked."""
    snapshot_id: str
    """Completed EBS snapshot, which is the parent of the next one."""
    bucket: str
    manifest_key: str
    manifest_digest: str
    """SHA-256 of the manifest object, hex."""
    encrypted: bool = False
    hardware_version: str = ""
    taken_at: str = ""
    """When the vSphere snapshot that the run read was taken: ISO 8601, according to vCenter's clock."""
    quarantine: str = ""
    """Why the disk's change tracking is no longer used; empty while it is used."""


class ReplicatedDisk(Message):
    """One disk of one replication run: how it was read, what was sent, and the resulting lineage."""

    index: int
    boot: bool
    label: str
    kind: str
    """``seed`` or ``delta``."""
    kind_reason: str = ""
    """Why a seed was needed, or why a delta run read the whole disk; empty in the normal case."""
    reader: str
    """``nfc``, ``datastore`` or ``nbd``."""
    reader_reason: str = ""
    """Why this reader was used and not a faster one."""
    parent_snapshot_id: str = ""
    lineage: DiskLineage
    content_digest: str
    """SHA-256 over the block digests in order, hex."""
    data_bytes: int
    bytes_read: int
    bytes_sent: int
    blocks_sent: int
    blocks_audited: int = 0
    """Blocks that change tracking reported as unchanged, but that were read as a check."""
    seconds: float = 0.0


class ReplicationResult(Message):
    """Result of ``transfer``: every disk of one server at one instant."""

    server: str
    snapshot: str
    quiesced: bool = False
    quiesce_note: str = ""
    disks: tuple[ReplicatedDisk, ...]
