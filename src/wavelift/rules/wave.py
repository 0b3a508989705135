"""The wave: the servers that migrate together, as the wave's YAML file describes them. ``plans`` derives task plans."""

from __future__ import annotations

import re
from collections.abc import Iterator, Set
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wavelift.base.domain import Message
from wavelift.rules import wave_cutover_problems as of_cutover
from wavelift.rules.connectors import DEFAULT_CONNECTOR, Connector, free_for_a_wave
from wavelift.rules.environment import Environment
from wavelift.rules.fields import (
    FLAG,
    NUMBER,
    WHOLE,
    ConnectionId,
    Description,
    InstanceType,
    Name,
    PrivateIp,
    SecurityGroupId,
    SubnetId,
    Tags,
    Text,
    Verify,
    described,
)
from wavelift.rules.guests import stated_guest
from wavelift.rules.limits import LIMITS
from wavelift.rules.problem import Path, Problem, allowed, did_you_mean
from wavelift.rules.wave_cutover import Cutover, CutoverSettings, InstanceProfile, KeyName, cutover_plan
from wavelift.rules.wave_replication import REGISTER_MESSAGE, Replication, replication_plan

GuestOs = Annotated[Text, AfterValidator(stated_guest)]
LicenseType = Literal["auto", "aws", "byol"]
BootMode = Literal["auto", "legacy-bios", "uefi"]
LaunchChoice = Literal["none", "running"]
SourcePower = Literal["leave_running", "require_off"]
Quiesce = Literal["prefer", "require", "never"]
ChangeTracking = Literal["leave", "enable"]
SelectorKind = Literal["name", "path", "folder", "tag"]
SELECTORS: Final[tuple[SelectorKind, ...]] = ("name", "path", "folder", "tag")

MAX_GROUPS: Final = 16
"""AWS allows no more security groups on a network interface, also on request."""
DEFAULT_RETRIES: Final = 3
DEFAULT_RETRY_DELAY_S: Final = 30


def decode_name(name: str) -> str:
    """The name as the client shows it. vSphere stores ``/``, ``\\`` and ``%`` as ``%2f``, ``%5c`` and ``%25``."""
    return re.sub("%(2f|5c|25)", lambda match: chr(int(match[1], 16)), name, flags=re.IGNORECASE)


class Selector(Message):
    """How to find in the inventory one server, or all servers in a folder or with a vSphere tag."""

    kind: SelectorKind
    value: str

    @property
    def leaf(self) -> str:
        """The display name: the last part of a path, or the whole value of a folder or tag."""
        return self.value if self.many else decode_name(self.value.rsplit("/", 1)[-1])

    @property
    def many(self) -> bool:
        """Whether it can select any number of servers. Only vCenter knows how many."""
        return self.kind in ("folder", "tag")


class Settings(Message):
    """Settings for all servers of a wave (under ``defaults``) or for one server (in its entry)."""

    instance_type: InstanceType | None = Field(
        default=None, description="EC2 instance type; the environment must allow it."
    )
    subnet: SubnetId | None = Field(default=None, description="Subnet for the instance; the environment must allow it.")
    security_groups: tuple[SecurityGroupId, ...] | None = Field(
        default=None,
        min_length=1,
        max_length=MAX_GROUPS,
        description="Security groups for the instance; the environment must allow them.",
    )
    instance_profile: InstanceProfile | None = Field(
        default=None, description="Instance profile of a cutover's or a test's instance; the environment must allow it."
    )
    key_name: KeyName | None = Field(
        default=None, description="Key pair of a cutover's or a test's instance; the environment must allow it."
    )
    guest_os: GuestOs | None = Field(
        default=None,
        description="Guest system as you know it: 'linux', 'windows', 'windows-server', 'windows-client', or a guest "
        "id of vSphere such as 'debian12_64Guest'. Pre-flight compares it with vCenter's. Default: not compared.",
    )
    license_type: LicenseType | None = Field(
        default=None,
        description="Licence of the image: 'auto' (default), 'aws' or 'byol'. Linux does not support 'aws'.",
    )
    boot_mode: BootMode | None = Field(
        default=None, description="Boot mode of the image: 'auto' (default) follows the VM's firmware."
    )
    tags: Tags | None = Field(
        default=None,
        description="Tags. A server's tags override the defaults, and these override the environment's tags.",
    )
    launch: LaunchChoice | None = Field(
        default=None,
        description="'none' (default): image only. 'running': start an instance, "
        "which requires 'source_power: require_off' or 'allow_twin: true'.",
    )
    allow_twin: Annotated[bool, FLAG] | None = Field(
        default=None,
        description="Allow the instance to run while its source runs. Both may be on the same network.",
    )
    source_power: SourcePower | None = Field(
        default=None,
        description="'leave_running' (default): any power state is accepted. 'require_off': the source must be off.",
    )
    quiesce: Quiesce | None = Field(
        default=None,
        description="Quiesced snapshot: 'prefer' (default; crash-consistent if quiescing fails), 'require' or 'never'.",
    )
    change_tracking: ChangeTracking | None = Field(
        default=None,
        description="Changed block tracking of a replicated VM: 'leave' (default) does not change it. 'enable': the "
        "next replication run enables it if the VM has no snapshot. The run after that still compares digests.",
    )
    verify: Verify | None = Field(
        default=None,
        description="How much is read back: 'full', 'sample:<pct>' (default 'sample:1') or 'off' (attested only).",
    )


class Server(Settings):
    """One entry of ``servers``: exactly one of ``name``, ``path``, ``folder`` and ``tag``, and its own settings."""

    name: Text | None = Field(default=None, description="Name of one VM; must be unique in the vCenter.")
    path: Text | None = Field(default=None, description="Inventory path of one VM: '/Datacenter/vm/folder/name'.")
    folder: Text | None = Field(default=None, description="Inventory path of a folder; selects every VM in it.")
    tag: Text | None = Field(default=None, description="vSphere tag as 'category:tag'; selects every VM that has it.")
    private_ip: PrivateIp | None = Field(
        default=None, description="Private IPv4 address. Default: any free address of the subnet."
    )
    replication: Replication | None = Field(
        default=None, description="Replication of this server. Its values override the wave's."
    )
    cutover: CutoverSettings | None = Field(
        default=None, description="Cutover of this server. Its values override the wave's."
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        """``- web01`` is short for ``- name: web01``."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_selector(self) -> Self:
        given = [kind for kind in SELECTORS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else f"has none of them{_said_nothing(self.model_fields_set)}"
            raise ValueError(f"a server needs exactly one of name, path, folder and tag; this entry {found}")
        value = getattr(self, given[0])
        if given[0] == "name" and "/" in value:
            raise ValueError(
                f"'{value}' contains '/': write it as 'path: {value}' or, for all VMs in it, 'folder: {value}'. If the "
                "VM's own name contains '/', write that '/' as '%2f'"
            )
        if given[0] == "tag" and not all(value.partition(":")[::2]):
            raise ValueError(f"tag '{value}' needs its category: 'category:tag'")
        if given[0] in ("path", "folder") and not value.startswith("/"):
            raise ValueError(f"{given[0]} '{value}' must start with '/' and the data centre: '/Datacenter/vm/…'")
        if given[0] in ("folder", "tag") and self.private_ip:
            raise ValueError(
                f"private_ip is for one VM, but a {given[0]} may contain many: add an entry for that VM by name or path"
            )
        return self

    @property
    def selector(self) -> Selector:
        kind = next(kind for kind in SELECTORS if getattr(self, kind) is not None)
        return Selector(kind=kind, value=getattr(self, kind).rstrip("/"))


def _said_nothing(given: Set[str]) -> str:
    """Explain ``name: null``: the key is present, but its value is empty."""
    empty = [kind for kind in SELECTORS if kind in given]
    return f": '{empty[0]}' is {described(None)}" if empty else ""


class Source(Message):
    """Where the servers are, and which connector reads them."""

    connection: ConnectionId = Field(description="Airflow connection of type 'vsphere'.")
    connector: Connector = Field(
        default=DEFAULT_CONNECTOR, description="Airflow queue of the worker near this vCenter."
    )


class Wave(Message):
    """A named set of servers that are migrated together."""

    wave: Annotated[Name, AfterValidator(free_for_a_wave)] = Field(
        description="Name of the wave; must equal the file's name without '.yaml'."
    )
    method: Literal["ec2"] = Field(
        default="ec2", description="'ec2' (default): servers land in EC2. 'hcx': HCX migrates them to another vCenter."
    )
    description: Description = Field(default="", description="One line for people; shown in the DAG list.")
    source: Source = Field(description="Where the servers are, and which connector reads them.")
    environment: Name = Field(description="Name of the environment where the servers land.")
    defaults: Settings = Field(default=Settings(), description="Settings for every server that does not set its own.")
    servers: tuple[Server, ...] = Field(
        min_length=1,
        max_length=LIMITS["servers_per_wave"].value,
        description="The servers. An entry that is only a string is a VM name.",
    )
    replication: Replication | None = Field(
        default=None, description="Replicate every server on a schedule. Default: only servers with their own section."
    )
    cutover: Cutover | None = Field(
        default=None, description="How servers are switched to their instances. Default: no cutover."
    )
    retries: Annotated[int, Field(ge=2, le=20), WHOLE] = Field(
        default=DEFAULT_RETRIES,
        description="Retries of each data-path task; at least 2, because a killed scheduler uses one retry.",
    )
    retry_delay_s: Annotated[int, Field(ge=1, le=3600), WHOLE] = Field(
        default=DEFAULT_RETRY_DELAY_S, description="Seconds before the first retry; the delay doubles with each retry."
    )
    deadline_minutes: Annotated[int, Field(ge=1, le=525_600), WHOLE] | None = Field(
        default=None, description="Alert when a run takes longer than this many minutes."
    )
    min_free_pct: Annotated[float, Field(ge=0, le=90), NUMBER] = Field(
        default=10, description="Stop a transfer when a datastore of the VM has less free space than this percentage."
    )
    max_snapshot_hours: Annotated[float, Field(gt=0, le=168), NUMBER] = Field(
        default=24, description="Stop a transfer whose snapshot is older than this many hours."
    )
    max_mbit_s: Annotated[float, Field(ge=0.1, le=1_000_000), NUMBER] | None = Field(
        default=None, description="Maximum megabits per second for one server's upload. Default: no limit."
    )


DEFAULTS: Final[dict[str, Any]] = {
    "license_type": "auto",
    "boot_mode": "auto",
    "launch": "none",
    "allow_twin": False,
    "source_power": "leave_running",
    "quiesce": "prefer",
    "change_tracking": "leave",
    "verify": "sample:1",
}
"""The values that apply if neither the server nor the wave sets them."""


def chosen(wave: Wave, server: Server, field: str) -> Any:
    """The value that applies to ``server``: its own, else the wave's default, else that of ``DEFAULTS``, else None."""
    own = getattr(server, field)
    if own is not None:
        return own
    default = getattr(wave.defaults, field)
    return DEFAULTS.get(field) if default is None else default


def wave_problems(wave: Wave) -> list[Problem]:
    """Problems of the wave by itself: duplicates, and launches while the source runs (invariant 12)."""
    problems: list[Problem] = []
    selectors: dict[Selector, int] = {}
    addresses: dict[str, int] = {}
    for index, server in enumerate(wave.servers):
        selector = server.selector
        first = selectors.setdefault(selector, index)
        if first != index:
            message = f"{selector.kind} '{selector.value}' is already servers[{first}]; remove one"
            problems.append(Problem(("servers", index, selector.kind), message))
        if server.private_ip:
            first = addresses.setdefault(server.private_ip, index)
            if first != index:
                message = f"'{server.private_ip}' is already the address of servers[{first}]; choose another"
                problems.append(Problem(("servers", index, "private_ip"), message))
        if twin(
            chosen(wave, server, "launch"), chosen(wave, server, "source_power"), chosen(wave, server, "allow_twin")
        ):
            problems.append(Problem(_place(server, index, "launch"), TWIN_MESSAGE))
        problems += _replication_problems(wave, server, index)
    problems += _cutover_problems(wave)
    return _once(problems)


def _cutover_problems(wave: Wave) -> Iterator[Problem]:
    """Problems of the cutover sections: by themselves, and of servers that are not replicated."""
    found = tuple(of_cutover.sections(wave.cutover, [each.cutover for each in wave.servers]))
    yield from of_cutover.cutover_problems(wave.cutover, found)
    for section in found:
        server = wave.servers[section.index]
        if replication_plan(wave.replication, server.replication) is None:
            place: Path = ("servers", section.index, "cutover") if section.own is not None else ("cutover",)
            words = f"{server.selector.kind} '{server.selector.value}' is not replicated, and a cutover sends the last"
            yield Problem(place, f"{words} changes of a replica: add a replication section")


def _replication_problems(wave: Wave, server: Server, index: int) -> Iterator[Problem]:
    """Problems that are known before the guest is known. The others are refused when the job is created."""
    plan = replication_plan(wave.replication, server.replication)
    if plan is None or plan.ami != "register" or plan.force_register or chosen(wave, server, "license_type") != "aws":
        return
    own = server.replication is not None and server.replication.ami is not None
    yield Problem(("servers", index, "replication", "ami") if own else ("replication", "ami"), REGISTER_MESSAGE)


TWIN_MESSAGE: Final = (
    "'running' would start the instance while its source may still run: set 'source_power: require_off', or "
    "'allow_twin: true' if the two can't be on the same network"
)


def twin(launch: str, source_power: str, allow_twin: bool) -> bool:
    """Whether source and instance could run at the same time without an explicit choice (invariant 12)."""
    return launch == "running" and source_power != "require_off" and not allow_twin


def landing_problems(wave: Wave, environment: Environment) -> list[Problem]:
    """A source and values that the environment does not allow (AMP-01), and settings that a launch lacks."""
    if wave.environment != environment.environment:
        return [
            Problem(
                ("environment",),
                f"the wave names '{wave.environment}', but was checked against '{environment.environment}'",
            )
        ]
    landing = Landing(environment)
    problems = source_problems(wave.source, environment)
    for index, server in enumerate(wave.servers):
        problems += landing.problems(wave, server, index)
        problems += landing.cutover_problems(wave, server, index)
    return _once(problems)


def source_problems(source: Source, environment: Environment) -> list[Problem]:
    """A vCenter or a connector whose servers may not land in the environment."""
    name = environment.environment
    ask = f"choose another, or let an administrator add it to 'sources' in environments/{name}.yaml"
    known = {each.connection: each.connectors for each in environment.sources}
    connectors = known.get(source.connection)
    if connectors is None:
        hint = did_you_mean(source.connection, known)
        what = f"environment '{name}' takes no servers of connection '{source.connection}'{hint}; {allowed(known)}"
        return [Problem(("source", "connection"), f"{what}; {ask}")]
    if source.connector in connectors:
        return []
    hint = did_you_mean(source.connector, connectors)
    what = f"environment '{name}' takes no servers of '{source.connection}' through connector '{source.connector}'"
    return [Problem(("source", "connector"), f"{what}{hint}; {allowed(connectors)}; {ask}")]


class Landing:
    """The values that one environment allows, as sets, because up to 150 servers are checked against them."""

    def __init__(self, environment: Environment) -> None:
        self.name = environment.environment
        self.allowed: dict[str, tuple[str, ...]] = {
            "instance_type": environment.instance_types,
            "subnet": environment.subnets,
            "security_groups": environment.security_groups,
        }
        self.environment = environment
        self.optional: dict[str, tuple[str, ...]] = {
            "instance_profile": environment.instance_profiles,
            "key_name": environment.key_names,
        }
        self._sets = {field: frozenset(values) for field, values in self.allowed.items()}

    def value(self, wave: Wave, server: Server, field: str) -> Any:
        """The chosen value or, if the environment allows only one value, that one."""
        value = chosen(wave, server, field)
        if value is None and len(self.allowed[field]) == 1:
            return self.allowed[field] if field == "security_groups" else self.allowed[field][0]
        return value

    def cutover_problems(self, wave: Wave, server: Server, index: int) -> Iterator[Problem]:
        """What a cutover or a test lacks, or may not use."""
        for field, known in self.optional.items():
            value = chosen(wave, server, field)
            if value is not None and value not in known:
                yield self._refused(_place(server, index, field), value, field)
        plan = cutover_plan(wave.cutover, server.cutover)
        if plan is not None:
            section = of_cutover.Section(index, server.cutover, plan)
            profile = chosen(wave, server, "instance_profile")
            groups = self.allowed["security_groups"]
            yield from of_cutover.landing_problems(section, self.environment.network, groups, profile)

    def problems(self, wave: Wave, server: Server, index: int) -> Iterator[Problem]:
        cuts_over = wave.cutover is not None or server.cutover is not None
        launching = cuts_over or chosen(wave, server, "launch") == "running"
        for field, known in self._sets.items():
            value = self.value(wave, server, field)
            if value is None:
                if launching:
                    message = f"needed to launch: set it here or under defaults; {allowed(self.allowed[field])}"
                    yield Problem(("servers", index, field), message)
                continue
            place = _place(server, index, field)
            if isinstance(value, str):
                if value not in known:
                    yield self._refused(place, value, field)
                continue
            for position, item in enumerate(value):
                if item not in known:
                    yield self._refused((*place, position), item, field)

    def _refused(self, place: Path, value: str, field: str) -> Problem:
        choices = {**self.allowed, **self.optional}[field]
        # All ids look alike, so a suggestion would be misleading.
        hint = did_you_mean(value, choices) if field == "instance_type" else ""
        return Problem(place, f"environment '{self.name}' does not allow '{value}'{hint}; {allowed(choices)}")


def _place(server: Server, index: int, field: str) -> Path:
    """The place in the file where the effective value is set."""
    return ("servers", index, field) if getattr(server, field) is not None else ("defaults", field)


def _once(problems: list[Problem]) -> list[Problem]:
    """Remove duplicates: a wrong default is one problem, not one for each server."""
    return list(dict.fromkeys(problems))
