"""Records of the ledger: frozen values without a connection to the database. Times are in UTC, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar, Final, Generic, Self, TypeVar

from wavelift.base.domain import Message, ServerFacts
from wavelift.base.run import DagRun
from wavelift.rules.flows import MIGRATE, Flow, SlotKind
from wavelift.rules.lifecycle import MigrationState

T = TypeVar("T")
S = TypeVar("S", bound=StrEnum)

ROWS_A_PAGE: Final = 50
"""The default page size (SMS-08)."""


class WaveRunState(StrEnum):
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


class SnapshotState(StrEnum):
    """The state of a run's vSphere snapshot, as control-plane tasks know it."""

    INTENDED = "intended"
    """The name is stored. The snapshot may exist."""
    REMOVED = "removed"
    """vCenter does not have it any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OfDagRun:
    """A record that belongs to one run of one DAG."""

    dag_id: str
    dag_run_id: str

    @property
    def run(self) -> DagRun:
        return DagRun(self.dag_id, self.dag_run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceServer:
    """A server as a migration finds it.

    :param source: the vCenter's instance UUID if known, else the connection id. Two connections to one vCenter should
        give the same value. Otherwise one server may be migrated twice at the same time.
    """

    source: str
    name: str
    moref: str
    instance_uuid: str = ""
    path: str = ""
    facts: dict[str, Any] | None = None

    @property
    def identity(self) -> str:
        """An id that does not change when the server is renamed or moved."""
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
    """A source VM as earlier migrations found it."""

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
class WaveRun(OfDagRun):
    """One run of a wave's DAG, with the spec that was stored when it began."""

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


class Bound(Message):
    """What a server's row is bound to. ``reserve`` writes it; the VM and the plan never change in a run.

    :ivar connection: of the vCenter. :ivar vm: managed object id.
    :ivar plan: digest of the frozen plan (:func:`wavelift.rules.frozen.digest_of`).
    :ivar guest_id: and ``firmware``: as pre-flight saw them last; images are made by them.
    :ivar map_index: of the tasks that work for this server.
    """

    connection: str
    vm: str
    instance_uuid: str
    plan: str
    guest_id: str
    firmware: str
    map_index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerRun(OfDagRun, Generic[S]):
    """One server in one DAG run: the fields that migrations and replication runs share."""

    flow: ClassVar[Flow]

    id: str
    """The flow's prefix and 12 hex digits of the run key's hash. It is the task id of AMP-04 and AMP-07."""
    run_key: str
    wave: str
    server: str
    state: S
    progress_pct: int
    bytes_done: int
    bytes_total: int
    """Virtual bytes of all disks."""
    snapshot_name: str
    snapshot_vm: str
    """Managed object id of the VM."""
    snapshot_state: SnapshotState | None
    bound: dict[str, Any] | None = field(default=None, repr=False)
    """:class:`Bound` as JSON. None: nothing was reserved yet."""
    error: str
    cancel_requested: bool
    updated_at: datetime
    finished_at: datetime | None
    version: int
    """Increases with every change, to detect concurrent changes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Migration(ServerRun[MigrationState]):
    """The migration of one server by image import (AMP-07)."""

    flow: ClassVar = MIGRATE

    server_id: int | None
    """None: no ``reserve`` took the server, so nothing was begun. It waits for pre-flight, or ended before."""
    map_index: int
    """-1: it has no tasks yet, or none at all."""
    connector: str
    region: str
    phase: str
    """The current step for people to read, for example ``waiting for a transfer slot``."""
    export_result: dict[str, Any] | None
    """:class:`~wavelift.base.domain.ExportResult` as JSON; likewise the next ones."""
    verify_result: dict[str, Any] | None
    import_task_id: str
    import_verdict: dict[str, Any] | None
    """Whether that task read the disks that were exported; None: not judged yet."""
    image_id: str
    snapshot_ids: tuple[str, ...]
    """EBS snapshots of the image, in disk order."""
    conversion_report: list[dict[str, Any]] | None
    instance_id: str
    launch_result: dict[str, Any] | None
    created_at: datetime

    @property
    def waits(self) -> bool:
        """It was admitted, and nothing of it has begun: no ``reserve`` has taken the server yet."""
        return self.server_id is None and not self.state.terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot(OfDagRun):
    """One request for a slot, from queue to release: by priority, then in the order of ``id``."""

    id: int
    kind: SlotKind
    scope: str
    holder: str
    """Run key."""
    requested_at: datetime
    granted_at: datetime | None
    released_at: datetime | None
    release_reason: str
    asked_at: datetime | None
    """When Airflow was last asked whether the run is still active."""
    priority: int
    """0: before all others; 1: as usual; 2: after all others."""
    allowed: int | None
    """Slots of the scope at a time, as the holder asked last. None: an older version asked."""
    version: int
    """Increases whenever the holder asks again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of the audit trail: who did what to which object, and when."""

    id: int
    at: datetime
    actor: str
    action: str
    """For example ``slot.granted``."""
    object_kind: str
    object_id: str
    dag_id: str
    dag_run_id: str
    details: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[T]):
    """One page of a list. ``total`` counts the rows of all pages."""

    items: tuple[T, ...]
    total: int
    limit: int
    offset: int
