"""What a wave becomes: the frozen plan of each server for the tasks, and the shape from which a DAG is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from wavelift.base.domain import Message
from wavelift.base.errors import SpecError
from wavelift.base.names import TAG_RUN, run_hash, tags
from wavelift.rules.environment import Environment, environment_problems
from wavelift.rules.findings import WHOLE_WAVE
from wavelift.rules.inventory_names import parent_of
from wavelift.rules.limits import LIMITS, limits
from wavelift.rules.problem import MAX_LISTED, allowed, did_you_mean, lines_of, quoted
from wavelift.rules.wave import (
    DEFAULT_RETRIES,
    DEFAULT_RETRY_DELAY_S,
    DEFAULTS,
    TWIN_MESSAGE,
    BootMode,
    ChangeTracking,
    Landing,
    LaunchChoice,
    LicenseType,
    Quiesce,
    Selector,
    Server,
    SourcePower,
    Wave,
    chosen,
    landing_problems,
    twin,
    wave_problems,
)
from wavelift.rules.wave_cutover import ApprovalChoice, Cutover, CutoverPlan, cutover_plan
from wavelift.rules.wave_replication import ReplicationPlan, replication_plan

Method = Literal["ec2", "hcx", "any"]
NO_CUTOVER: Final = Cutover()
"""The defaults of a wave's section."""


class Target(Message):
    """The part of the environment that every server's tasks need."""

    environment: str
    aws_conn_id: str
    queue: str
    region: str
    bucket: str
    prefix: str
    role: str
    kms_key: str | None
    """As written in the environment, until pre-flight replaces it with the key's ARN."""
    encrypt: bool
    vpc: str
    account: str = ""
    """Number of the AWS account. Empty: an older version froze the plan."""
    staging_sse: str = ""
    """How staged objects are encrypted (S3's value); pre-flight sets it. Empty: the bucket's default applies."""
    staging_key: str = ""
    """The KMS key of that encryption. Empty: S3's own key."""
    imports_per_region: int | None = None
    """The limit of this account if AWS raised it. None: the value of the Airflow setting."""
    migrations_per_account: int | None = None
    """The same for servers on their way into the account."""
    boot_disk_changed_pct: int = LIMITS["boot_disk_changed_pct"].value
    """Of a boot disk's blocks with data: how many a conversion may change."""

    @classmethod
    def of(cls, environment: Environment) -> Self:
        return cls(
            environment=environment.environment,
            aws_conn_id=environment.aws_conn_id,
            queue=environment.queue,
            region=environment.region,
            bucket=environment.staging.bucket,
            prefix=environment.staging.prefix,
            role=environment.role,
            kms_key=environment.kms_key,
            encrypt=environment.encrypt,
            vpc=environment.vpc,
            account=environment.account,
            imports_per_region=environment.limits.get("imports_per_region"),
            migrations_per_account=environment.limits.get("migrations_per_account"),
            boot_disk_changed_pct=limits(environment.limits)["boot_disk_changed_pct"].value,
        )


class Guards(Message):
    """When a transfer must stop, and how fast it may be."""

    min_free_pct: float
    """Percentage of the datastore."""
    max_snapshot_hours: float
    max_mbit_s: float | None
    """Megabits (10^6) per second; None: no throttle."""


class ServerPlan(Message):
    """Everything from the spec that the tasks of one server need. Small and frozen; contains no secret."""

    server: str
    """Unique name in tasks, tags and reports. For an unbound plan of a folder or tag, this is the selector's value."""
    selector: Selector
    wave: str
    connection: str
    connector: str
    target: Target
    guards: Guards
    instance_type: str | None
    """None: not chosen, which is possible only if nothing is launched. Same for subnet and security_groups."""
    subnet: str | None
    security_groups: tuple[str, ...] = ()
    private_ip: str | None = None
    guest_os: str | None = None
    """What the wave says that the guest is (``guests.stated_guest``); None: it says nothing."""
    license_type: LicenseType = "auto"
    boot_mode: BootMode = "auto"
    tags: dict[str, str] = {}
    launch: LaunchChoice = "none"
    allow_twin: bool = False
    source_power: SourcePower = "leave_running"
    quiesce: Quiesce = "prefer"
    change_tracking: ChangeTracking = "leave"
    verify: str = "sample:1"
    replication: ReplicationPlan | None = None
    """None: the server is not replicated."""
    instance_profile: str | None = None
    key_name: str | None = None
    cutover: CutoverPlan | None = None
    """None: the server has no cutover."""

    def made_with(self, run_key: str) -> dict[str, str]:
        """The tags of everything that a run creates for this server: the spec's and wavelift's.

        The order matters where only ten tags fit (S3 objects): the run's tag is first, then the spec's tags.
        """
        return {TAG_RUN: run_hash(run_key), **self.tags, **tags(self.wave, self.server, run_key)}

    def with_launch(self, launch: LaunchChoice) -> Self:
        """This plan with the launch choice of the form (or of a later ``migrations launch``) instead of the spec's.

        :raises SpecError: if the launch lacks a setting, or if source and instance would both run (invariant 12).
        """
        plan = self.model_copy(update={"launch": launch})
        missing = [name for name in ("instance_type", "subnet", "security_groups") if not getattr(plan, name)]
        if launch == "running" and missing:
            raise SpecError(
                f"Launching needs {', '.join(missing)}",
                server=self.server,
                wave=self.wave,
                next_step="Set it for this server or under defaults in the wave's file, or choose image only",
            )
        if twin(launch, plan.source_power, plan.allow_twin):
            raise SpecError(f"launch: {TWIN_MESSAGE}", server=self.server, wave=self.wave)
        return plan

    def replicating(self) -> Self:
        """This plan for a replication run: a replica is taken of a running server, and launches nothing."""
        return self.model_copy(update={"launch": "none", "source_power": "leave_running", "allow_twin": False})

    def cutting_over(self) -> Self:
        """This plan for a cutover, which stops the source itself before it launches the instance."""
        return self.model_copy(update={"launch": "running", "source_power": "leave_running", "allow_twin": False})

    @property
    def cuts_over(self) -> bool:
        """Whether it is the plan of a cutover: :func:`twin` lets no other one launch beside a source that runs."""
        return self.cutover is not None and twin(self.launch, self.source_power, self.allow_twin)

    def bind(self, name: str, path: str) -> Self:
        """The plan for one VM that the selector of this plan found."""
        return self.model_copy(update={"server": name, "selector": Selector(kind="path", value=path)})


class ResolvedWave(Message):
    """A wave and its environment, checked against each other. ``admit`` freezes it for the run."""

    wave: str
    description: str
    connection: str
    connector: str
    environment: Environment
    retries: int
    retry_delay_s: int
    deadline_minutes: int | None
    servers: tuple[ServerPlan, ...]

    def choose(self, names: Collection[str] | None) -> Self:
        """The wave with only these servers (names as shown in the form). None keeps all.

        :raises SpecError: if the wave does not have one of them. The error names it.
        """
        if names is None:
            return self
        wanted = known_servers(names, [plan.server for plan in self.servers], wave=self.wave)
        return self.model_copy(update={"servers": tuple(plan for plan in self.servers if plan.server in wanted)})

    def with_launch(self, launch: LaunchChoice | None) -> Self:
        """The wave with the form's launch choice for every server. None keeps the spec's.

        :raises SpecError: as :meth:`ServerPlan.with_launch`.
        """
        if launch is None:
            return self
        return self.model_copy(update={"servers": tuple(plan.with_launch(launch) for plan in self.servers)})


@dataclass(frozen=True, slots=True)
class Found:
    """One VM that a selector found. ``path`` ends with its name. ``id`` distinguishes two VMs with the same path."""

    name: str
    path: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Clash:
    """A VM whose settings are ambiguous. Only this VM is left out."""

    server: str
    what: str
    next_step: str


@dataclass(frozen=True, slots=True)
class Bindings:
    """One plan for each VM with clear settings, and the VMs whose settings are ambiguous."""

    plans: tuple[ServerPlan, ...]
    clashes: tuple[Clash, ...] = ()


def bind(plans: Sequence[ServerPlan], found: Sequence[Sequence[Found]]) -> Bindings:
    """One plan for each VM: ``found[i]`` is what the selector of ``plans[i]`` found.

    A VM that is listed by name or path keeps the settings of that entry, even if a folder or tag also selects it. VMs
    with the same name are distinguished by their paths. If two entries of the same rank select one VM, or if two VMs
    have one path, that VM is left out. Other VMs are not affected.
    """
    by_path: dict[str, tuple[ServerPlan, Found]] = {}
    clashes: dict[str, tuple[str, str]] = {}
    for plan, vms in sorted(zip(plans, found, strict=True), key=lambda pair: pair[0].selector.many):
        for vm in vms:
            other = by_path.setdefault(vm.path, (plan, vm))
            if other[1].id != vm.id:
                what = f"Two VMs have the path {vm.path}: {other[1].id} and {vm.id}"
                clashes.setdefault(vm.path, (what, "Rename one of them in vCenter"))
            elif other[0] is not plan and (not plan.selector.many or other[0].selector.many):
                what = f"Two entries select the same VM {vm.path}: {_entry(other[0])} and {_entry(plan)}"
                clashes.setdefault(vm.path, (what, "Remove one of them from the wave's file"))
    names = unique_names([(vm.name, vm.path) for _, vm in by_path.values()])
    named = list(zip(names, by_path.values(), strict=True))
    return Bindings(
        plans=tuple(plan.bind(name, vm.path) for name, (plan, vm) in named if vm.path not in clashes),
        clashes=tuple(Clash(name, *clashes[vm.path]) for name, (_, vm) in named if vm.path in clashes),
    )


def unique_names(vms: Sequence[tuple[str, str]]) -> list[str]:
    """A unique name without '/' for each (name, path): ``web01``, or ``web01@DC0:vm:shop`` if the name is not unique.

    Findings, tags and XComs identify servers by this name. In the subject of a finding, a '/' follows the name, and
    ``*`` is the whole wave: whoever may name a VM in a folder could stop all others.
    """
    count = Counter(name for name, _ in vms)
    plain = {name for name in count if count[name] == 1 and name != WHOLE_WAVE}
    return [(name if name in plain else _qualified(name, path)).replace("/", ":") for name, path in vms]


def _qualified(name: str, path: str) -> str:
    return f"{name}@{parent_of(path)}"


def _entry(plan: ServerPlan) -> str:
    return f"{plan.selector.kind} '{plan.selector.value}'"


def known_servers(names: Collection[str], known: Collection[str], *, wave: str) -> frozenset[str]:
    """The chosen names.

    :raises SpecError: if the wave does not have one of them, or none is chosen. The error names it.
    """
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        what = (
            ", ".join(f"{quoted(name)}{did_you_mean(name, known)}" for name in unknown[:MAX_LISTED]) or "an empty list"
        )
        next_step = f"Choose other servers; {allowed(known)}"
        raise SpecError(f"The wave has no server {what}", wave=wave, next_step=next_step)
    return frozenset(names)


def resolve(wave: Wave, environment: Environment) -> ResolvedWave:
    """The plan of every server.

    :raises SpecError: with all problems of wave and environment, one per line.
    """
    problems = [*environment_problems(environment), *wave_problems(wave), *landing_problems(wave, environment)]
    if problems:
        raise SpecError(lines_of(problems), wave=wave.wave, environment=environment.environment)
    landing = Landing(environment)
    target = Target.of(environment)
    guards = Guards(
        min_free_pct=wave.min_free_pct, max_snapshot_hours=wave.max_snapshot_hours, max_mbit_s=wave.max_mbit_s
    )
    common: dict[str, Any] = {
        "wave": wave.wave,
        "connection": wave.source.connection,
        "connector": wave.source.connector,
    }
    names = server_names(wave)
    return ResolvedWave(
        wave=wave.wave,
        description=wave.description,
        connection=wave.source.connection,
        connector=wave.source.connector,
        environment=environment,
        retries=wave.retries,
        retry_delay_s=wave.retry_delay_s,
        deadline_minutes=wave.deadline_minutes,
        servers=tuple(
            ServerPlan(
                server=name,
                selector=server.selector,
                target=target,
                guards=guards,
                **common,
                **_settings(wave, server, environment, landing),
            )
            for name, server in zip(names, wave.servers, strict=True)
        ),
    )


def _settings(wave: Wave, server: Server, environment: Environment, landing: Landing) -> dict[str, Any]:
    return {
        **{field: chosen(wave, server, field) for field in DEFAULTS},
        "instance_type": landing.value(wave, server, "instance_type"),
        "subnet": landing.value(wave, server, "subnet"),
        "security_groups": landing.value(wave, server, "security_groups") or (),
        "private_ip": server.private_ip,
        "guest_os": chosen(wave, server, "guest_os"),
        "replication": replication_plan(wave.replication, server.replication),
        "instance_profile": chosen(wave, server, "instance_profile"),
        "key_name": chosen(wave, server, "key_name"),
        "cutover": cutover_plan(wave.cutover, server.cutover),
        "tags": {**environment.tags, **(wave.defaults.tags or {}), **(server.tags or {})},
    }


def server_names(wave: Wave) -> tuple[str, ...]:
    """One unique name per entry: the VM's later name (``unique_names``), or the value of a folder or tag entry."""
    selectors = [server.selector for server in wave.servers]
    single = iter(unique_names([(one.leaf, one.value) for one in selectors if not one.many]))
    return tuple(one.value if one.many else next(single) for one in selectors)


@dataclass(frozen=True, slots=True)
class WaveShape:
    """What a DAG is built from. The DAG's structure never depends on the server list, which only fills the form."""

    wave: str
    method: Method = "ec2"
    """How its servers are migrated; ``any`` if nobody knows (see :meth:`fallback`). It decides which DAGs there are."""
    connector: str = "default"
    """Queue of the tasks that access vCenter; with HCX, that of the source."""
    environment: str = ""
    environment_queue: str = "default"
    """Queue of the tasks that read data back near AWS; with HCX, of those that access the destination's vCenter."""
    hcx_queue: str = "default"
    """Queue of the tasks that access the HCX manager."""
    description: str = ""
    retries: int = DEFAULT_RETRIES
    retry_delay_s: int = DEFAULT_RETRY_DELAY_S
    deadline_minutes: int | None = None
    server_names: tuple[str, ...] = ()
    """For the form's multi-select. ``ResolvedWave.choose`` accepts them."""
    replicates: bool = False
    """Whether the wave or one of its servers has a ``replication`` section. If so, there is a ``.replicate`` DAG."""
    cuts_over: bool = False
    """The same for ``cutover``: there are a ``.test`` and a ``.cutover`` DAG."""
    approval: ApprovalChoice = NO_CUTOVER.approval
    approval_hours: float = NO_CUTOVER.approval_hours
    window_start: str = ""
    """Of cutovers, or of HCX's switchover, ISO 8601; empty: the file has no window. Same for ``window_end``."""
    window_end: str = ""
    approve_switchover: bool = False
    """Of HCX: whether a person is asked once more before the switchover."""

    @classmethod
    def of(cls, wave: Wave, environment: Environment) -> WaveShape:
        window = (wave.cutover or NO_CUTOVER).window
        return cls(
            wave=wave.wave,
            connector=wave.source.connector,
            environment=environment.environment,
            environment_queue=environment.queue,
            description=wave.description,
            retries=wave.retries,
            retry_delay_s=wave.retry_delay_s,
            deadline_minutes=wave.deadline_minutes,
            server_names=server_names(wave),
            replicates=any(replication_plan(wave.replication, server.replication) for server in wave.servers),
            cuts_over=wave.cutover is not None or any(server.cutover is not None for server in wave.servers),
            approval=(wave.cutover or NO_CUTOVER).approval,
            approval_hours=(wave.cutover or NO_CUTOVER).approval_hours,
            window_start=window.start.isoformat() if window is not None else "",
            window_end=window.end.isoformat() if window is not None else "",
        )

    @classmethod
    def fallback(cls, wave: str) -> WaveShape:
        """A shape with defaults for a spec that no longer exists, so that the tasks of a current run find their DAG."""
        return cls(wave=wave, method="any", replicates=True, cuts_over=True)
