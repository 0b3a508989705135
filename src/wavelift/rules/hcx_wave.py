"""A wave of ``method: hcx``: VMware HCX migrates its servers to another vCenter.

``wave.Wave`` is the wave of the other method, ``ec2``; ``specs.load`` chooses by ``method`` before it validates. So
what belongs to EC2 is an unknown key here, and is told as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from itertools import islice
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wavelift.base.domain import Message
from wavelift.rules.connectors import free_for_a_wave
from wavelift.rules.environment import MAX_CHOICES
from wavelift.rules.fields import FLAG, NUMBER, WHOLE, Description, Name, Text
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.limits import LIMITS
from wavelift.rules.problem import MAX_PROBLEMS, Path, Problem, allowed, did_you_mean, quoted
from wavelift.rules.wave import DEFAULT_RETRIES, DEFAULT_RETRY_DELAY_S, Selector
from wavelift.rules.wave_cutover import ApprovalChoice, Window

MigrationType = Literal["rav", "bulk", "vmotion", "cold"]
Provision = Literal["same", "thin", "thick"]
WITH_WINDOW: Final[tuple[MigrationType, ...]] = ("rav", "bulk")
"""Types whose switchover HCX itself can hold back until a window. vMotion and cold migrations can't be scheduled."""
SWITCHOVER_MINUTES: Final = 30
"""The shortest window. Without a yes 15 minutes before it, what has not begun to switch is cancelled; HCX looks for
windows by the minute, and a guest gets time to shut down."""
FOLLOWED_NEAR: Final = timedelta(days=7)
"""So long at most is a run followed by the queue near HCX: it has one grant for it, which nobody there can renew."""
DEFAULT_TYPE: Final[MigrationType] = "rav"
MOST_COMPARED: Final = 200
"""Names of a list among which a similar one is looked for."""
PLACES: Final[Mapping[str, str]] = {"pool": "pools", "folder": "folders", "datastore": "datastores"}
"""Field of a target → the environment's list for it."""


class LiveTarget(Message):
    """Where servers land: for all of a wave (under ``target``), or for one server (in its entry)."""

    pool: Text | None = Field(default=None, description="Resource pool by name; the environment must allow it.")
    folder: Text | None = Field(default=None, description="Folder of VMs by name; the environment must allow it.")
    datastore: Text | None = Field(default=None, description="Datastore by name; the environment must allow it.")
    provision: Provision | None = Field(
        default=None, description="Disks at the destination: 'same' (default; as at the source), 'thin' or 'thick'."
    )
    networks: dict[Text, Text] | None = Field(
        default=None,
        max_length=MAX_CHOICES,
        description="Network of the source → network of the destination, by name; the environment must allow it. A "
        "server's entries are added to the wave's.",
    )


class LiveOptions(Message):
    """What HCX does with a VM besides."""

    force_power_off: Annotated[bool, FLAG] = Field(
        default=False,
        description="Of 'bulk': power the source off if its guest does not shut down. Without it, the VM fails then.",
    )
    remove_snapshots: Annotated[bool, FLAG] = Field(
        default=False, description="Remove the VM's snapshots first. A VM with snapshots is refused without it."
    )
    remove_isos: Annotated[bool, FLAG] = Field(
        default=False, description="Disconnect ISO images first. A VM with one is refused without it."
    )
    retain_mac: Annotated[bool, FLAG] = Field(default=True, description="Keep the MAC addresses (default).")
    upgrade_hardware: Annotated[bool, FLAG] = Field(default=False, description="Upgrade the virtual hardware.")
    upgrade_tools: Annotated[bool, FLAG] = Field(default=False, description="Upgrade VMware Tools.")
    retain_tags: Annotated[bool, FLAG] = Field(default=False, description="Keep vSphere tags.")
    security_tags: Annotated[bool, FLAG] = Field(default=False, description="Replicate the security tags of NSX.")
    custom_attributes: Annotated[bool, FLAG] = Field(default=False, description="Copy custom attributes.")


class LiveServer(Message):
    """One entry of ``servers``: exactly one of ``name`` and ``path``, and where this server lands."""

    name: Text | None = Field(default=None, description="Name of the VM; must be unique in the vCenter.")
    path: Text | None = Field(default=None, description="Inventory path of the VM: '/Datacenter/vm/folder/name'.")
    target: LiveTarget | None = Field(
        default=None, description="Where this server lands. Its values override the wave's."
    )

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        """``- web01`` is short for ``- name: web01``."""
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_selector(self) -> Self:
        if (self.name is None) == (self.path is None):
            found = "both" if self.name is not None else "neither"
            raise ValueError(f"a server needs exactly one of name and path; this entry has {found}")
        if self.name is not None and "/" in self.name:
            raise ValueError(
                f"'{self.name}' contains '/': write it as 'path: {self.name}'. If the VM's own name contains '/', "
                "write that '/' as '%2f'"
            )
        if self.path is not None and not self.path.startswith("/"):
            raise ValueError(f"path '{self.path}' must start with '/' and the data centre: '/Datacenter/vm/…'")
        return self

    @property
    def selector(self) -> Selector:
        if self.path is not None:
            return Selector(kind="path", value=self.path.rstrip("/"))
        return Selector(kind="name", value=self.name or "")


class HcxWave(Message):
    """A named set of servers that HCX migrates together."""

    wave: Annotated[Name, AfterValidator(free_for_a_wave)] = Field(
        description="Name of the wave; must equal the file's name without '.yaml'."
    )
    method: Literal["hcx"] = Field(description="'hcx': VMware HCX migrates the servers to another vCenter.")
    description: Description = Field(default="", description="One line for people; shown in the DAG list.")
    environment: Name = Field(description="Name of an environment of 'kind: hcx'. It names both vCenters.")
    type: MigrationType = Field(
        default=DEFAULT_TYPE,
        description="'rav' (default; replication, then vMotion), 'bulk' (replication, then a restart), 'vmotion' or "
        "'cold' (VMs that are powered off).",
    )
    target: LiveTarget = Field(default=LiveTarget(), description="Where the servers land.")
    servers: tuple[LiveServer, ...] = Field(
        min_length=1,
        max_length=LIMITS["servers_per_wave"].value,
        description="The servers. An entry that is only a string is a VM name.",
    )
    options: LiveOptions = Field(default=LiveOptions(), description="What HCX does with the VMs besides.")
    window: Window | None = Field(
        default=None,
        description="Of 'rav' and 'bulk': when HCX may switch over. Default: as soon as the data is there.",
    )
    approve: ApprovalChoice = Field(
        default="required",
        description="'required' (default): someone who may migrate approves the plan. 'four_eyes': someone else than "
        "who asked. 'none'.",
    )
    approval_hours: Annotated[float, Field(gt=0, le=720), NUMBER] = Field(
        default=24, description="Hours in which the plan must be approved; so long is the approval valid, too."
    )
    approve_switchover: Annotated[bool, FLAG] = Field(
        default=False,
        description="Ask once more before servers are switched over. 'rav' and 'bulk' need a window for it: without a "
        "yes 15 minutes before, what has not begun to switch is cancelled. 'vmotion' and 'cold' start after the yes.",
    )
    accept_warnings: Annotated[bool, FLAG] = Field(
        default=False, description="Start although HCX's validation has warnings. Errors always stop all."
    )
    accept_no_tools: Annotated[bool, FLAG] = Field(
        default=False,
        description="Accept a server whose addresses can't be verified, because VMware Tools don't run in it.",
    )
    max_hours: Annotated[float, Field(gt=0, le=720), NUMBER] = Field(
        default=48,
        description="Hours in which each server must be migrated, from the start or the window's beginning on. Then "
        "its task fails.",
    )
    retries: Annotated[int, Field(ge=2, le=20), WHOLE] = Field(
        default=DEFAULT_RETRIES, description="Retries of each task; at least 2, because a killed scheduler uses one."
    )
    retry_delay_s: Annotated[int, Field(ge=1, le=3600), WHOLE] = Field(
        default=DEFAULT_RETRY_DELAY_S, description="Seconds before the first retry; the delay doubles with each retry."
    )
    deadline_minutes: Annotated[int, Field(ge=1, le=525_600), WHOLE] | None = Field(
        default=None, description="Alert when a run takes longer than this many minutes."
    )


def hcx_wave_problems(wave: HcxWave) -> list[Problem]:
    """Problems of the wave by itself. A window that is over is none: see :func:`over`."""
    problems = [*_window_problems(wave), *_option_problems(wave)]
    selectors: dict[Selector, int] = {}
    for index, server in enumerate(wave.servers):
        selector = server.selector
        first = selectors.setdefault(selector, index)
        if first != index:
            message = f"{selector.kind} '{selector.value}' is already servers[{first}]; remove one"
            problems.append(Problem(("servers", index, selector.kind), message))
    return problems


def _window_problems(wave: HcxWave) -> Iterator[Problem]:
    if wave.type not in WITH_WINDOW:
        if wave.window is not None:
            words = f"HCX can't schedule migrations of type '{wave.type}': remove the window, or choose a type that has"
            yield Problem(("window",), f"{words} one; {allowed(WITH_WINDOW)}")
        return
    if wave.window is None:
        if wave.approve_switchover:
            words = f"a switchover of type '{wave.type}' can be held back only until a window: give one with 'window'"
            yield Problem(("approve_switchover",), words)
    elif wave.window.end - wave.window.start < timedelta(minutes=SWITCHOVER_MINUTES):
        minutes = (wave.window.end - wave.window.start).total_seconds() / 60
        words = f"the window has {minutes:g} minutes, and a switchover needs {SWITCHOVER_MINUTES}: end it later"
        yield Problem(("window", "end"), words)


def _option_problems(wave: HcxWave) -> Iterator[Problem]:
    if wave.options.force_power_off and wave.type != "bulk":
        words = f"a migration of type '{wave.type}' powers nothing off; remove it, or choose 'type: bulk'"
        yield Problem(("options", "force_power_off"), words)


def over(window: Window | None, now: datetime) -> Problem | None:
    """A window that is over, or that ends too soon for a switchover. ``validate`` warns of it, ``admit`` refuses it.

    It is no problem of the file: a file whose window has passed must not take its DAG away.
    """
    if window is None or window.end - now >= timedelta(minutes=SWITCHOVER_MINUTES):
        return None
    said = "is over" if window.end <= now else f"ends in less than {SWITCHOVER_MINUTES} minutes"
    return Problem(("window", "end"), f"the window {said} ({window.end.isoformat()}): no new run begins; give another")


def hcx_landing_problems(wave: HcxWave, environment: HcxEnvironment) -> list[Problem]:
    """Targets that the environment does not allow, and those that a server lacks; at most one more than are listed."""
    return list(islice(LiveLanding(environment).problems(wave), MAX_PROBLEMS + 1))


class LiveLanding:
    """The places that one environment allows."""

    def __init__(self, environment: HcxEnvironment) -> None:
        self.name = environment.environment
        self.allowed: dict[str, tuple[str, ...]] = {
            field: getattr(environment, listed) for field, listed in PLACES.items()
        }
        self._near = environment.hcx.reach == "connector"
        self._networks = environment.networks
        self._known_networks = frozenset(environment.networks)

    def value(self, wave: LiveTarget, own: LiveTarget | None, field: str) -> str | None:
        """The server's place, else the wave's or, if the environment allows only one, that one."""
        for given in (own, wave):
            value: str | None = getattr(given, field, None)
            if value is not None:
                return value
        return self.allowed[field][0] if len(self.allowed[field]) == 1 else None

    def problems(self, wave: HcxWave) -> Iterator[Problem]:
        most = FOLLOWED_NEAR / timedelta(hours=1)
        if self._near and wave.max_hours > most:
            words = (
                f"environment '{self.name}' has 'reach: connector': its queue follows HCX for {most:g} hours at most"
            )
            yield Problem(("max_hours",), words)
        yield from self._wrong(("target",), wave.target)
        for index, server in enumerate(wave.servers):
            if server.target is not None:
                yield from self._wrong(("servers", index, "target"), server.target)
            for field, known in self.allowed.items():
                if self.value(wave.target, server.target, field) is None:
                    words = f"has no {field}: set it under target, here or for the wave; {allowed(known)}"
                    yield Problem(("servers", index), words)

    def _wrong(self, place: Path, target: LiveTarget) -> Iterator[Problem]:
        for field, known in self.allowed.items():
            value = getattr(target, field)
            if value is not None and value not in known:
                yield self._refused((*place, field), value, known)
        for source, destination in (target.networks or {}).items():
            if destination not in self._known_networks:
                yield self._refused((*place, "networks", source), destination, self._networks)

    def _refused(self, place: Path, value: str, known: tuple[str, ...]) -> Problem:
        hint = did_you_mean(value, known) if len(known) <= MOST_COMPARED else ""
        return Problem(place, f"environment '{self.name}' does not allow {quoted(value)}{hint}; {allowed(known)}")
