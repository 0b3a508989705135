"""What the ledger hands out about replication: frozen values. Times are aware and in UTC, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from wavelift.base.domain import DiskLineage, Message
from wavelift.base.run import DagRun
from wavelift.ledger.records import SnapshotState
from wavelift.rules.replication import JobState, RunState, RunType
from wavelift.rules.schedule import Schedule


class AmiState(StrEnum):
    """What became of the AMI of a run."""

    AVAILABLE = "available"
    DEREGISTERED = "deregistered"


class SupersededDisk(Message):
    """An EBS snapshot that a recorded run replaced as the parent of the next one: it may go."""

    key: int
    snapshot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationJob:
    """The standing order to replicate one server of a wave (SMS-03)."""

    id: str
    wave: str
    server: str
    """Name in the wave; with it the identity of the job. One job that isn't deleted per wave and server."""
    source: str
    """The server's vCenter, empty until a run met it; likewise the next one."""
    identity: str
    """Instance UUID, or managed object id where there is none."""
    seed_at: datetime
    frequency_hours: int
    scheduled_since: datetime
    """Instants before it don't count: the schedule was made, changed or resumed then."""
    license_type: str
    description: str
    keep_amis: int | None
    pause_after_failures: int
    ami: str
    """``import`` or ``register``."""
    force_register: bool
    state: JobState
    state_reason: str
    failures: int
    """Failed runs in a row."""
    failures_since: datetime
    """Failures before it don't count: the job was made or resumed then."""
    first_replication_at: datetime | None
    """When the first run that was recorded began: the term counts from here."""
    term_ends_at: datetime | None
    term_warned: int | None
    """Days of the last warning given."""
    latest_ami_id: str
    created_by: str
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    version: int

    @property
    def schedule(self) -> Schedule:
        """Its instants, whether or not the job is active."""
        frequency = timedelta(hours=self.frequency_hours)
        return Schedule(self.seed_at, frequency, self.scheduled_since, self.term_ends_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationRun:
    """One execution of a job (SMS-08)."""

    id: str
    """``run-`` and 12 hex digits of the run key."""
    run_key: str
    job_id: str
    wave: str
    server: str
    type: RunType
    state: RunState
    status: str
    """Words for a person, e.g. ``Uploading``, ``Converting``, or why the run was refused or skipped."""
    rule: str
    """The rule that refused or skipped it, empty otherwise."""
    refused_until: datetime | None
    """When that rule holds no more, where that can be told."""
    scheduled_for: datetime | None
    """The server's own instant; None for on-demand runs."""
    dag_id: str
    dag_run_id: str
    requested_by: str
    requested_at: datetime
    counted_at: datetime | None
    """When it was granted, if it counts against the quota."""
    started_at: datetime | None
    recorded_at: datetime | None
    """When its disks became what the next run builds on."""
    finished_at: datetime | None
    progress_pct: int
    bytes_done: int
    bytes_total: int
    bytes_read: int
    bytes_sent: int
    blocks_sent: int
    duration_s: float
    """Seconds from start to end."""
    result: dict[str, Any] | None = field(repr=False)
    """:class:`~wavelift.base.domain.ReplicationResult` as JSON."""
    superseded: list[dict[str, Any]] | None
    """:class:`SupersededDisk` as JSON, one per snapshot that this run replaced."""
    quarantine: str
    """Why its content is not believed: it is never a parent. Empty while it is."""
    ami_id: str
    ami_state: AmiState | None
    snapshot_name: str
    snapshot_vm: str
    snapshot_state: SnapshotState | None
    error: str
    cancel_requested: bool
    updated_at: datetime
    version: int

    @property
    def run(self) -> DagRun:
        return DagRun(self.dag_id, self.dag_run_id)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRow:
    """What the next run of one disk builds on: the fields of :class:`~wavelift.base.domain.DiskLineage`, and whence."""

    job_id: str
    key: int
    address: str
    uuid: str
    file: str
    capacity: int
    change_id: str | None
    snapshot_id: str
    bucket: str
    manifest_key: str
    manifest_digest: str
    encrypted: bool
    hardware_version: str
    taken_at: str
    quarantine: str
    run_id: str
    recorded_at: datetime

    @property
    def lineage(self) -> DiskLineage:
        return DiskLineage(**{name: getattr(self, name) for name in DiskLineage.model_fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class WaveSchedule:
    """The schedules of a wave's active jobs in one row: all that the timetable reads."""

    wave: str
    schedules: dict[str, Any]
    """Server → ``Schedule.dump()``."""
    updated_at: datetime
    version: int
