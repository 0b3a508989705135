"""Records of replication: frozen values. Times are in UTC, sizes in bytes."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, ClassVar

from wavelift.base.domain import DiskLineage, Message
from wavelift.ledger.records import ServerRun
from wavelift.rules.flows import REPLICATE
from wavelift.rules.replication import JobState, RunState, RunType
from wavelift.rules.schedule import Schedule


class AmiState(StrEnum):
    """The state of a run's AMI."""

    AVAILABLE = "available"
    DEREGISTERED = "deregistered"


class SupersededDisk(Message):
    """An EBS snapshot that is no longer the base of the next run. It may be deleted."""

    key: int
    snapshot_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationJob:
    """The standing order to replicate one server of a wave (SMS-03)."""

    id: str
    wave: str
    server: str
    """Name in the wave. A wave has at most one job per server that is not deleted."""
    source: str
    """The server's vCenter. This field and the next one are empty before the first run."""
    identity: str
    """Instance UUID, or managed object id if there is none."""
    seed_at: datetime
    frequency_hours: int
    scheduled_since: datetime
    """When the schedule was created, changed or resumed. Earlier scheduled times do not count."""
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
    """Number of consecutive failed runs."""
    failures_since: datetime
    """When the job was created or resumed. Earlier failures do not count."""
    first_replication_at: datetime | None
    """When the first recorded run began. The term begins here."""
    term_ends_at: datetime | None
    term_warned: int | None
    """Remaining days of the last warning."""
    latest_ami_id: str
    created_by: str
    authorised_by: str
    """Who last made, changed or resumed it: scheduled runs have this user's right."""
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    version: int

    @property
    def schedule(self) -> Schedule:
        """The scheduled times, whether or not the job is active."""
        frequency = timedelta(hours=self.frequency_hours)
        return Schedule(self.seed_at, frequency, self.scheduled_since, self.term_ends_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicationRun(ServerRun[RunState]):
    """One execution of a job (SMS-08)."""

    flow: ClassVar = REPLICATE

    job_id: str
    type: RunType
    status: str
    """The current step for people to read, for example ``Uploading``, or why the run was refused or skipped."""
    rule: str
    """The rule that refused or skipped it; else empty."""
    refused_until: datetime | None
    """When the rule no longer applies, if known."""
    scheduled_for: datetime | None
    """The scheduled time of the server; None for an on-demand run."""
    requested_by: str
    requested_at: datetime
    counted_at: datetime | None
    """When it was granted; None if it does not count against the quota."""
    started_at: datetime | None
    recorded_at: datetime | None
    """When its disks became the base of the next run."""
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
    """Why its disks cannot be used as the base of another run; empty if they can."""
    ami_id: str
    ami_state: AmiState | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LineageRow:
    """The lineage of one disk: the fields of :class:`~wavelift.base.domain.DiskLineage`, and who recorded it."""

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
    """The schedules of a wave's active jobs in one row, for the timetable."""

    wave: str
    schedules: dict[str, Any]
    """Maps each server to ``Schedule.dump()``."""
    updated_at: datetime
    version: int
