"""What the conf of a DAG run may say: one model per flow, for the trigger form, admission, the REST API and the CLI.

Types are strict: ``"true"`` is no boolean and ``1`` is no text; only a note may be any value. Airflow's form sends null
for what was left empty, and Airflow itself accepts unknown keys of a conf in silence: so admission reads every conf by
:meth:`RunConf.read`.

A key with a title is shown in the trigger form.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wavelift.base.errors import SpecError
from wavelift.rules.export_facts import DiskController, ExportFormat, ExportTarget, MethodChoice
from wavelift.rules.export_plan import DEFAULT_VERIFY, ObjectPrefix, format_problem, verify_level
from wavelift.rules.fields import ConnectionId, matched
from wavelift.rules.flows import CUTOVER, MIGRATE
from wavelift.rules.problem import MAX_LISTED, allowed, did_you_mean, dotted, quoted
from wavelift.rules.queue import PriorityName
from wavelift.rules.wording import problems_of

MigrateMode = Literal["migrate", "plan", "preflight", "launch", "verify", "cleanup"]
"""Only ``migrate`` and ``launch`` create anything."""
ReplicateMode = Literal["replicate", "delete", "verify"]
CutoverMode = Literal["plan", "prepare", "cutover", "revert", "finalize"]
"""Only ``plan`` changes nothing outside. It is the default, so that nobody cuts over by pressing a button."""
TestMode = Literal["test", "end"]
LiveMode = Literal["plan", "migrate", "cancel"]
NetworkMode = Literal["plan", "cutover", "revert", "finish"]
"""Only ``plan`` changes nothing outside; it is the rehearsal, too."""
ExportMode = Literal["export", "check", "setup"]
"""``check`` makes nothing; ``setup`` makes the bucket only."""
LaunchOption = Literal["spec", "none", "running"]

Names = Annotated[list[str], Field(min_length=1)]
"""At least one name or id."""
Note = Annotated[
    str | None,
    BeforeValidator(lambda value: None if value is None else str(value)),
    Field(title="Note", description="Kept with the run.", json_schema_extra={"format": "multiline"}),
]
PriorityChoice = Annotated[
    PriorityName,
    Field(
        title="Priority",
        description="Among all who wait for a slot: next goes before the others, later after them.",
    ),
]
ConnectionChoice = Annotated[
    ConnectionId | None,
    Field(
        title="vSphere connection",
        description="Id of an Airflow connection. Empty: the one that the connector is registered with.",
    ),
]


class RunConf(BaseModel):
    """The conf of one DAG run."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    keys: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Mode → the keys that it knows beside ``mode`` and ``note``. Empty: every mode accepts every key."""
    needs: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Mode → the keys of which it needs at least one."""
    needed_words: ClassVar[str] = "a list of ids in quotes"
    """What such a key takes."""
    null_is_absent: ClassVar[bool] = False
    """A key with null counts as left out, whatever its name."""

    @classmethod
    def read(cls, conf: Mapping[str, Any], **where: object) -> Self:
        """The conf that a run was triggered with.

        :param where: for the error: ``wave`` or ``connector``.
        :raises SpecError: naming every wrong key, its value, and what is allowed.
        """
        try:
            return cls.model_validate(dict(conf))
        except ValidationError as error:
            problems = problems_of(cls, error)
        words = [f"{dotted(one.path)}: {one.message}" if one.path else one.message for one in problems]
        what = f"The run's conf is wrong: {'; '.join(words)}"
        raise SpecError(what, next_step="Correct it and trigger a new run", **where)

    def given(self) -> dict[str, Any]:
        """What was set, as Airflow takes it."""
        return self.model_dump(mode="json", exclude_unset=True)

    @model_validator(mode="before")
    @classmethod
    def _only_known_keys(cls, data: dict[str, Any]) -> dict[str, Any]:
        if cls.null_is_absent:
            data = {name: value for name, value in data.items() if value is not None}
        mode = data.get("mode", cls.model_fields["mode"].default) if cls.keys else None
        chosen = cls.keys.get(mode) if isinstance(mode, str) else None
        known = [name for name in cls.model_fields if chosen is None or name in (*chosen, "mode", "note")]
        unknown = [name for name in data if name not in known]
        if unknown:
            names = ", ".join(f"{quoted(name)}{did_you_mean(name, known)}" for name in unknown[:MAX_LISTED])
            place = f" in mode {mode}" if chosen is not None else ""
            raise ValueError(f"unknown key{'s' if len(unknown) > 1 else ''} {names}{place}; {allowed(known)}")
        return data

    @model_validator(mode="after")
    def _what_the_mode_needs(self) -> Self:
        mode = getattr(self, "mode", "")
        needed = self.needs.get(mode, ())
        if needed and not any(getattr(self, name) for name in needed):
            raise ValueError(f"mode {mode} needs {' or '.join(needed)}: {self.needed_words}")
        return self


class MigrateConf(RunConf):
    """A run of ``<wave>.migrate``. Every mode accepts every key: the form sends all of its keys in every mode."""

    needs: ClassVar = {"launch": ("migrations",), "verify": ("migrations",)}

    servers: list[str] | None = Field(
        default=None, title="Servers", description="If none is chosen: every server of the wave."
    )
    launch: LaunchOption = Field(
        default="spec",
        title="Launch",
        json_schema_extra={
            "values_display": {
                "spec": "as set in the wave's file",
                "none": "image only",
                "running": "launch an instance",
            }
        },
    )
    mode: MigrateMode = Field(
        default="migrate", title="Mode", description="plan and preflight end after the checks and create nothing."
    )
    priority: PriorityChoice = "normal"
    note: Note = None
    migrations: list[str] | None = Field(default=None, description="Ids of the finished imports to launch or verify.")
    dry_run: bool = Field(default=True, description="In mode cleanup: only list what would be removed.")


class ReplicateConf(RunConf):
    """A run of ``<wave>.replicate``."""

    keys: ClassVar = {
        "replicate": ("servers", "priority"),
        "delete": ("jobs", "priority"),  # the form sends it in every mode
        "verify": ("runs", "jobs", "priority"),
    }
    needs: ClassVar = {"delete": ("jobs",), "verify": ("runs", "jobs")}
    null_is_absent: ClassVar = True

    servers: Names | None = Field(
        default=None,
        title="Servers",
        description="If none is chosen: every server of the wave that has a replication job.",
    )
    mode: ReplicateMode = "replicate"
    priority: PriorityChoice = "normal"
    runs: Names | None = Field(default=None, description="In mode verify: ids of recorded runs to read back.")
    jobs: Names | None = Field(
        default=None,
        description="In mode delete: ids of the jobs. In mode verify: ids of jobs whose newest run to read back.",
    )
    note: Note = None


class CutoverConf(RunConf):
    """A run of ``<wave>.cutover``."""

    keys: ClassVar = {
        "plan": ("servers", "window_start", "window_end", "priority"),
        "prepare": ("servers", "window_start", "window_end", "priority", "undo"),  # the form sends them in every mode
        "cutover": ("servers", "window_start", "window_end", "priority"),
        "revert": ("servers", "cutovers", "window_start", "window_end", "priority"),
        "finalize": ("servers", "cutovers", "window_start", "window_end", "priority"),
    }
    null_is_absent: ClassVar = True

    servers: Names | None = Field(
        default=None,
        title="Servers",
        description="If none is chosen: every server of the wave that has a cutover section; in modes revert and "
        "finalize, every one whose cutover is open.",
    )
    mode: CutoverMode = Field(
        default="plan",
        title="Mode",
        description="plan changes nothing: it tells what a cutover would do. prepare, days before: lowers TTLs. "
        "cutover asks for approval, then stops the sources. revert goes back. finalize gives the way back up.",
    )
    window_start: str | None = Field(
        default=None,
        title="Window from",
        description="First instant at which a source may be stopped: ISO 8601 with an offset. Empty: as in the file.",
    )
    window_end: str | None = Field(
        default=None, title="Window to", description="Last instant, ISO 8601 with an offset. Empty: as in the file."
    )
    priority: PriorityChoice = "normal"
    note: Note = None
    cutovers: Names | None = Field(default=None, description="In modes revert and finalize: ids of cutovers.")
    undo: bool = Field(default=False, description="In mode prepare: take back what it did.")


class TestConf(RunConf):
    """A run of ``<wave>.test``."""

    __test__: ClassVar = False  # of pytest

    keys: ClassVar = {"test": ("servers", "runs", "hours"), "end": ("servers", "tests", "hours")}
    null_is_absent: ClassVar = True

    servers: Names | None = Field(
        default=None,
        title="Servers",
        description="If none is chosen: those of the given runs, or every server of the wave that has a cutover "
        "section and an AMI; in mode end, every one that has a test instance.",
    )
    mode: TestMode = Field(default="test", title="Mode", description="end terminates test instances.")
    hours: float | None = Field(
        default=None, gt=0, le=720, title="Hours", description="Until they are terminated. Empty: as in the file."
    )
    note: Note = None
    runs: Names | None = Field(default=None, description="In mode test: ids of recorded runs. Default: the newest.")
    tests: Names | None = Field(default=None, description="In mode end: ids of test instances.")


class LiveConf(RunConf):
    """A run of ``<wave>.live``. Every mode accepts every key: the form sends all of its keys in every mode."""

    needs: ClassVar = {"cancel": ("migrations",)}
    null_is_absent: ClassVar = True

    servers: Names | None = Field(
        default=None,
        title="Servers",
        description="If none is chosen: every server of the wave. To try servers again that failed, choose them.",
    )
    mode: LiveMode = Field(
        default="plan",
        title="Mode",
        description="plan checks, and starts nothing. migrate asks for approval, then HCX migrates the servers. cancel "
        "ends in HCX what has not begun to switch over.",
    )
    window_start: str | None = Field(
        default=None,
        title="Window from",
        description="First instant of a switchover: ISO 8601 with an offset. Empty: as in the file.",
    )
    window_end: str | None = Field(
        default=None, title="Window to", description="Last instant, ISO 8601 with an offset. Empty: as in the file."
    )
    accept_warnings: bool = Field(
        default=False,
        title="Accept warnings",
        description="Start although HCX's validation has warnings, whatever the file says. Errors always stop all.",
    )
    migrations: Names | None = Field(
        default=None, title="Migrations", description="In mode cancel: ids of migrations, such as liv-0123456789ab."
    )
    priority: PriorityChoice = "normal"
    note: Note = None


class NetworkConf(RunConf):
    """A run of ``<network>.network_cutover``."""

    null_is_absent: ClassVar = True

    mode: NetworkMode = Field(
        default="plan",
        title="Mode",
        description="plan changes nothing: it tells what is in the way, and every step with its undo. cutover asks for "
        "approval, then moves the gateway. revert goes back. finish gives the way back up.",
    )
    cutover: str | None = Field(
        default=None,
        title="Cutover",
        description="In modes revert and finish: id of the cutover, such as net-0123456789ab. Empty: the open one.",
    )
    note: Note = None


class ImportConf(RunConf):
    """A run of ``server_catalog``."""

    connection: ConnectionChoice = None
    note: Note = None


class HealthConf(RunConf):
    """A run of ``connector_health``."""

    connection: ConnectionChoice = None
    aws_conn_id: ConnectionId | None = Field(default=None, title="AWS connection", description="Empty: as registered.")
    region: str | None = Field(default=None, title="AWS region", description="Empty: as registered.")
    note: Note = None


class BackupConf(RunConf):
    """A run of ``instance_backup``."""

    null_is_absent: ClassVar = True

    subject: str = Field(
        default="",
        title="Migration or cutover",
        description="Id of what made the instance, such as mig-0123456789ab or cut-0123456789ab.",
    )
    reboot: bool = Field(
        default=False,
        title="Reboot",
        description="Shut the guest down for the snapshots. Otherwise the image is crash-consistent.",
    )
    note: Note = None


class EnvironmentConf(RunConf):
    """A run of ``environment_check``."""

    environment: str | None = Field(default=None, title="Environment", description="As its file is called.")
    note: Note = None


ExportSubject = Annotated[
    str,
    matched(
        rf"^(i-[0-9a-f]{{8,17}}|({MIGRATE.prefix}|{CUTOVER.prefix})[0-9a-f]{{12}})$",
        f"the id of an instance such as 'i-0123456789abcdef0', or of the migration ({MIGRATE.prefix}…) or cutover "
        f"({CUTOVER.prefix}…) that made it",
    ),
]
_FORMATS: tuple[str | None, ...] = (*get_args(ExportFormat), None)


class ExportConf(RunConf):
    """A run of ``instance_export.<environment>``. Every mode accepts every key but ``grant``: the form sends them."""

    needs: ClassVar = {"export": ("instance",), "check": ("instance",)}
    needed_words: ClassVar = "the id of an instance, or of the migration or cutover that made it"
    null_is_absent: ClassVar = True

    instance: ExportSubject | None = Field(
        default=None,
        title="Instance",
        description=f"Id of the instance (i-…), or of the migration ({MIGRATE.prefix}…) or cutover ({CUTOVER.prefix}…) "
        "that made it. Not needed in mode setup.",
    )
    mode: ExportMode = Field(
        default="export",
        title="Mode",
        description="check looks at bucket and instance, and makes nothing. setup makes the bucket of the region.",
    )
    method: MethodChoice = Field(
        default="auto",
        title="Method",
        description="auto takes the first one that can. instance: AWS exports the instance, with one disk. image: AWS "
        "exports an image of it, with one disk. direct: wavelift reads snapshots and writes an OVA, with any number of "
        "disks.",
    )
    target: ExportTarget = Field(default="vmware", title="For", description="Where the machine will run.")
    format: ExportFormat | None = Field(
        default=None,
        title="Format",
        description="Empty: an OVA for VMware (with method image a VMDK), a VHD for the others.",
        json_schema_extra={"enum": list(_FORMATS)},
    )
    prefix: ObjectPrefix | None = Field(
        default=None,
        title="Prefix",
        description="Of the object's key, after the environment's prefix. It is taken as it stands: write the '/' at "
        "the end of a folder.",
    )
    may_reboot: bool = Field(
        default=False,
        title="May reboot",
        description="The instance may be restarted. Method instance needs this of a running one; with method image, "
        "the image is of a guest that was shut down.",
    )
    controller: DiskController = Field(
        default="lsilogic", title="Disk controller", description="Of the machine in an OVA that method direct writes."
    )
    verify: Annotated[str, AfterValidator(verify_level)] = Field(
        default=DEFAULT_VERIFY,
        title="Verify",
        description="How much of an OVA of method direct is compared with its manifests: full, or sample:<per cent>.",
    )
    note: Note = None
    grant: bool = Field(
        default=False,
        description="In mode setup: add the two grants of VM Import/Export to a bucket that exists already.",
    )

    @model_validator(mode="after")
    def _what_fits_together(self) -> Self:
        if self.grant and self.mode != "setup":
            raise ValueError(f"grant has no effect in mode {self.mode}; it belongs to mode setup")
        if self.mode != "setup" and (problem := format_problem(self.method, self.target, self.format)):
            raise ValueError(f"format: {problem}")
        return self
