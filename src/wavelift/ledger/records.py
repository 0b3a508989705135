"""What the ledger hands out: frozen values, detached from the database. Times are aware and in UTC, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Generic, Self, TypeVar

from wavelift.base.domain import ServerFacts
from wavelift.base.run import DagRun
from wavelift.rules.lifecycle import MigrationState

T = TypeVar("T")


class SlotKind(StrEnum):
    """What a slot gives the right to."""

    TRANSFER = "transfer"
    """One data transfer; scope = connector (AMP-04: 4)."""
    IMPORT = "import"
    """One active image import; scope = region (AMP-04: 5)."""
    NFC_HOST = "nfc_host"
    """One server read through VDDK; scope = vCenter and ESXi host, whose NFC buffers are few."""
    NFC_VCENTER = "nfc_vcenter"
    """The same; scope = vCenter, which has 52 NFC sessions."""


class WaveRunState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class SnapshotState(StrEnum):
    """What the ledger knows of a run's vSphere snapshot (invariant 4). The connector, which takes it, writes none."""

    INTENDED = "intended"
    """The name is written down; from here on the snapshot may exist."""
    REMOVED = "removed"
    """vCenter was seen without it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceServer:
    """A server as a migration meets it.

    :param source: names the vCenter: its instance UUID where known, else the connection id. Two connections to one
        vCenter should give the same value, else they may migrate one server twice at the same time.
    """

    source: str
    name: str
    moref: str
    instance_uuid: str = ""
    path: str = ""
    facts: dict[str, Any] | None = None

    @property
    def identity(self) -> str:
        """Stays the same when the server is renamed or moved."""
        return self.instance_uuid or self.moref

    @classmethod
    def of(cls, source: str, facts: ServerFacts) -> Self:
        return cls(
            source=source,
            name=facts.name,
            moref=facts.moref,
            instance_uuid=facts.instance_uuid,
            path=facts.path,
            facts=facts.dump(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What earlier migrations knew of a source VM."""

    id: int
    source: str
    identity: str
    name: str
    moref: str
    instance_uuid: str
    path: str
    facts: dict[str, Any] | None
    first_seen: datetime
    last_seen: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveRun:
    """One run of a wave's DAG with the spec that was frozen for it."""

    dag_id: str
    dag_run_id: str
    wave: str
    mode: str
    requested_by: str
    source: str
    """``ui``, ``api`` or ``schedule``."""
    spec: dict[str, Any] = field(repr=False)
    note: str
    state: WaveRunState
    created_at: datetime
    finished_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration:
    """One server's way through one run (AMP-07)."""

    id: str
    """``mig-`` and 12 hex digits of the run key: the stable task id of AMP-04 and AMP-07."""
    run_key: str
    wave: str
    server: str
    server_id: int
    dag_id: str
    dag_run_id: str
    map_index: int
    connector: str
    region: str
    state: MigrationState
    phase: str
    """Words for a person, e.g. ``waiting for a transfer slot``."""
    progress_pct: int
    bytes_done: int
    bytes_total: int
    """Virtual bytes of all disks."""
    snapshot_name: str
    snapshot_vm: str
    """Managed object id of the VM."""
    snapshot_state: SnapshotState | None
    export_result: dict[str, Any] | None
    """:class:`~wavelift.base.domain.ExportResult` as JSON; likewise the next ones."""
    verify_result: dict[str, Any] | None
    import_task_id: str
    image_id: str
    snapshot_ids: tuple[str, ...]
    """EBS snapshots of the image, in disk order."""
    conversion_report: list[dict[str, Any]] | None
    instance_id: str
    launch_result: dict[str, Any] | None
    error: str
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    version: int
    """Grows with every change: tells whether what was read is still so."""

    @property
    def run(self) -> DagRun:
        return DagRun(self.dag_id, self.dag_run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One request for a slot, from queue to release. ``id`` is the place in the queue."""

    id: int
    kind: SlotKind
    scope: str
    holder: str
    """Run key."""
    dag_id: str
    dag_run_id: str
    requested_at: datetime
    granted_at: datetime | None
    released_at: datetime | None
    release_reason: str
    asked_at: datetime | None
    """When Airflow was last asked whether the run still lives."""
    version: int
    """Grows whenever the holder asks again."""

    @property
    def run(self) -> DagRun:
        return DagRun(self.dag_id, self.dag_run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit trail: who did what to which object, and when."""

    id: int
    at: datetime
    actor: str
    action: str
    """Dotted, e.g. ``slot.granted``."""
    object_kind: str
    object_id: str
    dag_id: str
    dag_run_id: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """A window on a list; ``total`` counts all that match."""

    items: tuple[T, ...]
    total: int
    limit: int
    offset: int
