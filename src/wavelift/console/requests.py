"""What the REST API is asked: bodies, and the queries of lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from wavelift.console.values import LARGEST
from wavelift.rules.conf import ExportSubject, LaunchOption, Names, Note
from wavelift.rules.connectors import DEFAULT_CONNECTOR, Connector
from wavelift.rules.cutover import CutoverState, TrialState
from wavelift.rules.export_facts import DiskController, ExportFormat, ExportTarget, MethodChoice
from wavelift.rules.export_plan import DEFAULT_VERIFY, ObjectPrefix, format_problem, verify_level
from wavelift.rules.fields import FLAG, WHOLE, ConnectionId, Name
from wavelift.rules.instance_export import ExportState
from wavelift.rules.lifecycle import MigrationState
from wavelift.rules.limits import LIMITS
from wavelift.rules.live import LiveState
from wavelift.rules.network_cutover import NetworkState
from wavelift.rules.queue import PriorityName
from wavelift.rules.replication import JobState, RunState
from wavelift.rules.wave import LicenseType
from wavelift.rules.wave_replication import Replication

ROWS_A_PAGE: Final = 50
"""SMS-08's default."""

LAST_ROW: Final = 10_000_000
"""More rows than a ledger has."""
Id = Annotated[str, Field(min_length=1, max_length=250)]
"""Of a thing of Airflow or of AWS."""
Region = Annotated[str, Field(max_length=32)]
Text = Annotated[str, Field(max_length=1000)]


def _storable(value: datetime) -> datetime:
    """:raises ValueError: in UTC its year has no four digits: an offset leads out of what a time can hold."""
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise ValueError("is outside of the years 1 to 9999 in UTC") from None
    return value


When = Annotated[AwareDatetime, AfterValidator(_storable)]
"""A time with its offset, which the ledger can hold."""
RequestId = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:+-]+$", max_length=100)]
"""The caller's own name of a request: asked with it again, nothing is started twice."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class CleanupBody(Body):
    """Which wave's vCenter and environment to look through."""

    wave: Name
    dry_run: Annotated[bool, FLAG] = True


class ImportBody(Body):
    """Which vCenter to read, through which connector; without a connection the connector's own."""

    connection: ConnectionId | None = None
    connector: Connector = DEFAULT_CONNECTOR


class ClearBody(Body):
    connection: Id


class ConnectorBody(Body):
    """A connector as it is registered; AWS may be left out until replication needs it."""

    name: Connector
    connection: ConnectionId
    aws_conn_id: ConnectionId | Literal[""] = ""
    region: Region = ""
    description: Text = ""


class MaintenanceBody(Body):
    on: Annotated[bool, FLAG]
    reason: Text = ""


class JobFields(Replication):
    """What may be said of a job (SMS-03); ``null`` is allowed for ``keep_amis`` alone, where it keeps all AMIs."""

    license_type: LicenseType | None = None

    @model_validator(mode="after")
    def _no_other_null(self) -> Self:
        empty = sorted(name for name in self.model_fields_set - {"keep_amis"} if getattr(self, name) is None)
        if empty:
            raise ValueError(f"{', '.join(empty)} can't be null; leave it out")
        return self


class JobsBody(JobFields):
    """New jobs of several servers of a wave; what is left out is as the wave's spec says."""

    wave: Name
    servers: tuple[str, ...] = Field(min_length=1, max_length=LIMITS["servers_per_wave"].value)


class PauseBody(Body):
    reason: Text = ""


class ExtendBody(Body):
    """Without ``days`` the term is extended by a whole one."""

    days: Annotated[int, Field(ge=1, le=3650), WHOLE] | None = None


class ApplyBody(Body):
    dry_run: Annotated[bool, FLAG] = False


class ReplicateBody(Body):
    """Servers by their names in the wave; left out: those of every active job."""

    servers: Names | None = None
    priority: PriorityName | None = None
    """Of the run's servers, while they wait for slots."""


class PriorityBody(Body):
    """Where somebody who waits stands among all others: ``next`` before them, ``later`` after them."""

    priority: PriorityName


class MigrateBody(Body):
    """What a run of ``<wave>.migrate`` is to move, as its form says it."""

    servers: Names | None = None
    """Entries of the wave by their names; left out: all."""
    launch: LaunchOption = "spec"
    priority: PriorityName = "normal"
    """Of its servers, while they wait for slots."""
    note: Note = None
    request_id: RequestId | None = None


class CutoverBody(Body):
    """What a run of ``<wave>.cutover`` is to do with servers that are not cut over yet."""

    servers: Names | None = None
    """By their names; left out: all of the wave that have a cutover section."""
    mode: Literal["plan", "prepare", "cutover"] = "plan"
    undo: Annotated[bool, FLAG] = False
    """In mode prepare: take back what it did."""
    window_start: When | None = None
    """First instant at which a source may be stopped; left out: as the wave's file says."""
    window_end: When | None = None
    priority: PriorityName = "normal"
    note: Note = None
    request_id: RequestId | None = None
    """Asked with it again, the answer names the same cutovers, and no second run is made. Each mode has its own."""

    @model_validator(mode="after")
    def _undoes_prepare_only(self) -> Self:
        if self.undo and self.mode != "prepare":
            raise ValueError("undo is of mode prepare")
        return self


class NetworkCutoverBody(Body):
    """What a run of ``<network>.network_cutover`` is to do."""

    mode: Literal["plan", "cutover"] = "plan"
    note: Note = None
    request_id: RequestId | None = None
    """Asked with it again, the answer names the same cutover, and no second run is made. Each mode has its own."""


class LiveBody(Body):
    """What a run of ``<wave>.live`` is to do."""

    servers: Names | None = None
    """By their names; left out: all of the wave. To try servers again that failed, name them."""
    mode: Literal["plan", "migrate"] = "plan"
    window_start: When | None = None
    """First instant of a switchover; left out: as the wave's file says."""
    window_end: When | None = None
    accept_warnings: Annotated[bool, FLAG] = False
    """Start although HCX's validation has warnings, whatever the file says."""
    priority: PriorityName = "normal"
    note: Note = None
    request_id: RequestId | None = None
    """Asked with it again, the answer names the same migrations, and no second run is made. Each mode has its own."""


class ApprovalBody(Body):
    """The answer to what a cutover run asks."""

    answer: Literal["approve", "reject"]


class ConfirmBody(Body):
    """Which step somebody has done, or undone."""

    step: Annotated[str, Field(min_length=1, max_length=1000)]


class NetworkConfirmBody(ConfirmBody):
    """And which of both: a word that comes late must not count for the other direction."""

    answer: Literal["done", "undone"] = "done"


class TrialBody(Body):
    """Which images a run of ``<wave>.test`` launches."""

    servers: Names | None = None
    """By their names; left out: all of the wave that have an image."""
    runs: Names | None = None
    """Ids of recorded replication runs; left out: the newest of each server."""
    hours: Annotated[float, Field(gt=0, le=720)] | None = None
    """Until the instances are terminated; left out: as the wave's file says."""
    note: Note = None
    request_id: RequestId | None = None


class BackupBody(Body):
    """Of which instance an image is made."""

    subject: Id
    """Id of the migration or the cutover that made it."""
    reboot: Annotated[bool, FLAG] = False
    """Shut the guest down for the snapshots; otherwise the image is crash-consistent."""
    note: Note = None
    request_id: RequestId | None = None


class ExportBody(Body):
    """Which instance of an environment is exported to S3, and how; mode ``check`` makes nothing."""

    environment: Name
    instance: ExportSubject
    """Its id, or that of the migration or the cutover that made it."""
    mode: Literal["export", "check"] = "export"
    method: MethodChoice = "auto"
    target: ExportTarget = "vmware"
    format: ExportFormat | None = None
    """Left out: an OVA for VMware (with method ``image`` a VMDK), a VHD for the others."""
    prefix: ObjectPrefix | None = None
    """Of the object's key, after the environment's; a folder ends with '/'."""
    may_reboot: Annotated[bool, FLAG] = False
    controller: DiskController = "lsilogic"
    """Of the machine in an OVA that method ``direct`` writes."""
    verify: Annotated[str, AfterValidator(verify_level)] = DEFAULT_VERIFY
    note: Note = None
    request_id: RequestId | None = None
    """Asked with it again, the answer names the same export, and no second run is made. Each mode has its own."""

    @model_validator(mode="after")
    def _what_fits_together(self) -> Self:
        if problem := format_problem(self.method, self.target, self.format):
            raise ValueError(f"format: {problem}")
        return self


class ExportSetupBody(Body):
    """Whose region gets the bucket of its exports."""

    environment: Name
    grant: Annotated[bool, FLAG] = False
    """Add the two grants of VM Import/Export to a bucket that is there already."""
    note: Note = None
    request_id: RequestId | None = None


# Queries


class PageQuery(BaseModel):
    limit: Annotated[int, Field(ge=1, le=500)] = ROWS_A_PAGE
    offset: Annotated[int, Field(ge=0, le=LAST_ROW)] = 0


class MigrationQuery(PageQuery):
    """``dag_run_id`` goes with ``wave``."""

    wave: str | None = None
    dag_run_id: str | None = None
    state: MigrationState | None = None
    search: str = ""


class CutoverQuery(PageQuery):
    """``dag_run_id`` goes with ``wave``."""

    wave: str | None = None
    server: str | None = None
    dag_run_id: str | None = None
    state: CutoverState | None = None
    search: str = ""


class NetworkCutoverQuery(PageQuery):
    network: str | None = None
    dag_run_id: str | None = None
    """Goes with ``network``."""
    state: NetworkState | None = None
    search: str = ""


class LiveQuery(PageQuery):
    """``dag_run_id`` goes with ``wave``."""

    wave: str | None = None
    server: str | None = None
    dag_run_id: str | None = None
    state: LiveState | None = None
    search: str = ""


class TrialQuery(PageQuery):
    wave: str | None = None
    server: str | None = None
    state: TrialState | None = None


class BackupQuery(PageQuery):
    wave: str | None = None
    subject: str | None = None


class ExportQuery(PageQuery):
    """Those of the last 7 days, unless ``since`` or ``all`` says otherwise."""

    environment: str | None = None
    instance: str | None = None
    """Its id, or that of the migration or the cutover that made it."""
    dag_run_id: str | None = None
    """Goes with ``environment``."""
    state: ExportState | None = None
    search: str = ""
    since: When | None = None
    all: bool = False


class ServerQuery(PageQuery):
    connection: str | None = None
    search: str = ""
    tag: str = ""
    gone: bool | None = False


class JobQuery(PageQuery):
    wave: str | None = None
    state: JobState | None = None
    search: str = ""


class HistoryQuery(PageQuery):
    state: Annotated[
        RunState | None, BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
    ] = None
    """``Active`` as the rows say, or ``active``."""
    search: str = ""


class RunQuery(HistoryQuery):
    """``dag_run_id`` goes with ``wave``."""

    wave: str | None = None
    server: str | None = None
    dag_run_id: str | None = None


class EventQuery(BaseModel):
    """Fields that are left out do not restrict the list. Times need an offset: the server knows no zone of the caller.

    ``action`` is the whole word, or its beginning with the dot: ``slot.``.
    """

    kind: Id | None = None
    id: Annotated[str, Field(min_length=1, max_length=800)] | None = None
    wave: Name | None = None
    dag_id: Id | None = None
    actor: Annotated[str, Field(min_length=1, max_length=600)] | None = None
    action: Id | None = None
    since: When | None = None
    until: When | None = None
    before: Annotated[int, Field(ge=1, le=LARGEST)] | None = None
    limit: Annotated[int, Field(ge=1, le=500)] = ROWS_A_PAGE


class SealedQuery(BaseModel):
    """``after``: the last event id of a seal; 0: from the first one on."""

    after: Annotated[int, Field(ge=0, le=LARGEST)] = 0
