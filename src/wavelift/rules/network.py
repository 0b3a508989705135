"""The network that is cut over: its servers were migrated by HCX, and now its gateway moves to the destination.

An administrator or a migration team writes one YAML file for each. A network belongs to no wave.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Annotated, Final, Self

from pydantic import AfterValidator, Field, model_validator

from wavelift.base.domain import Message
from wavelift.rules.checks import INSTALLED, MAX_CHECKS, BaseCheck, refuse_others
from wavelift.rules.connectors import free_for_a_wave
from wavelift.rules.environment import MAX_CHOICES
from wavelift.rules.fields import FLAG, NUMBER, WHOLE, ConnectionId, Description, Name, PrivateIp, Text, matched
from wavelift.rules.hcx_environment import HcxEnvironment, SegmentPath
from wavelift.rules.problem import Problem, allowed, did_you_mean, quoted
from wavelift.rules.wave import DEFAULT_RETRIES, DEFAULT_RETRY_DELAY_S
from wavelift.rules.wave_cutover import ApprovalChoice, DnsName, OnFailure

BUILT_IN_PROBES: Final = ("tcp", "http", "dns")
BUILT_IN_DISCONNECTS: Final = ("person", "nsx", "vmc", "webhook")
BY_NSX: Final = ("nsx", "vmc")
"""Who disconnects by NSX's API. Only then must the source be a segment."""
PREFIXES: Final = range(8, 31)
"""Lengths of a prefix that can have a gateway and a VM."""
MAX_PROBES: Final = MAX_CHECKS


def _gateway(value: str) -> str:
    try:
        address = ipaddress.IPv4Interface(value)
    except ValueError:
        address = None
    if address is None or "/" not in value:
        raise ValueError(f"{quoted(value)} is not a gateway with the length of its prefix such as '10.1.2.1/24'")
    if address.network.prefixlen not in PREFIXES:
        raise ValueError(f"{quoted(value)}: a prefix has a length from {PREFIXES.start} to {PREFIXES.stop - 1}")
    if address.ip in (address.network.network_address, address.network.broadcast_address):
        raise ValueError(f"{quoted(value)} is the network's own address or its broadcast address, and no gateway")
    return str(address)


Gateway = Annotated[str, AfterValidator(_gateway)]
"""``10.1.2.1/24``."""
Address = Annotated[str, Field(max_length=255), matched(r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", "a host or IP")]


class Disconnect(Message):
    """How the source network is disconnected from its router, and how that is undone."""

    by: Name = Field(
        default="person",
        description="'person' (default; someone does it and confirms), 'nsx' or 'vmc' (by the NSX manager of the "
        "source), 'webhook', or a class that a package installed under the entry point 'wavelift.network_steps'.",
    )
    ask: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Of 'person': what to do. Default: words with the network and its gateway."
    )
    undo: Annotated[str, Field(min_length=1, max_length=1000)] | None = Field(
        default=None, description="Of 'person': what to do to go back. Default: words with the network and its gateway."
    )
    hours: Annotated[float, Field(gt=0, le=720), NUMBER] = Field(
        default=24, description="Of 'person': hours in which it must be confirmed."
    )
    connection: ConnectionId | None = Field(
        default=None, description="Of 'webhook': Airflow connection of type 'http' with the address and its secret."
    )
    timeout_seconds: Annotated[float, Field(gt=0, le=600), NUMBER] = Field(
        default=60, description="Of 'webhook': seconds for its answer."
    )
    arguments: Mapping[str, str] = Field(
        default={}, max_length=20, description="Of an installed class: what it is called with."
    )

    @model_validator(mode="after")
    def _what_the_kind_takes(self) -> Self:
        takes: tuple[str, ...] = {
            "person": ("ask", "undo", "hours"),
            "nsx": (),
            "vmc": (),
            "webhook": ("connection", "timeout_seconds"),
        }.get(self.by, INSTALLED)
        # By value, not by what was set: a frozen spec comes back from JSON with every field.
        given = {name for name, field in type(self).model_fields.items() if getattr(self, name) != field.default}
        wrong = sorted(given - {"by", *takes})
        if wrong:
            raise ValueError(f"a disconnection by '{self.by}' takes no {', '.join(wrong)}; {allowed(takes)}")
        if self.by == "webhook" and self.connection is None:
            raise ValueError("a disconnection by 'webhook' needs its connection")
        return self


class SourceNetwork(Message):
    """The network as it is at the source."""

    network: Text = Field(description="Name of the port group or segment, as vCenter and HCX show it.")
    segment: SegmentPath | None = Field(
        default=None, description="Path of the segment in the source's NSX. Default: it is no segment of NSX."
    )
    disconnect: Disconnect = Field(default=Disconnect(), description="How it is disconnected from its router.")

    @property
    def deleted(self) -> str:
        """The segment that is deleted when the network is finished; empty: a person deletes the network. What another
        system disconnects, it may know, too."""
        return (self.segment or "") if self.disconnect.by in (*BY_NSX, "person") else ""


class DestinationNetwork(Message):
    """The network as HCX extended it to the destination."""

    network: Text = Field(description="Name of the segment, as NSX shows it; the environment must allow it.")
    segment: SegmentPath = Field(description="Path of the segment in the destination's NSX.")
    gateway: Gateway = Field(description="Address of the gateway with the length of the prefix: '10.1.2.1/24'.")

    @property
    def prefix(self) -> str:
        """``10.1.2.0/24``."""
        return str(ipaddress.IPv4Interface(self.gateway).network)


class Probe(BaseCheck):
    """One check that the network can be reached where it is routed now."""

    kind: Name = Field(
        description="'tcp', 'http', 'dns', or one that a package installed under the entry point "
        "'wavelift.network_probes'."
    )
    to: Address = Field(description="Address or host that is asked. Of 'dns': the DNS server.")
    accept_refused: Annotated[bool, FLAG] = Field(
        default=False,
        description="Of 'tcp': a refused connection passes, too. A gateway refuses, and so shows that it is there.",
    )
    name: DnsName | None = Field(default=None, description="Of 'dns': the name that is asked for.")
    answer: PrivateIp | None = Field(
        default=None, description="Of 'dns': the IPv4 address that must be in the answer. Default: any."
    )

    @model_validator(mode="after")
    def _what_the_kind_takes(self) -> Self:
        takes = {
            "tcp": ("port", "accept_refused"),
            "http": ("port", "path", "tls", "status"),
            "dns": ("port", "name", "answer"),
        }.get(self.kind, INSTALLED)
        refuse_others(self, self.kind, takes, always=("to",))
        if self.kind == "tcp" and self.port is None:
            raise ValueError("a check of kind 'tcp' needs its port")
        if self.kind == "dns" and self.name is None:
            raise ValueError("a check of kind 'dns' needs the name that it asks for")
        return self


class Probes(Message):
    """What must be reachable after the cutover, and from where."""

    queue: Text = Field(
        description="Airflow queue of the worker that asks. Choose one that reaches the network as its users do."
    )
    checks: tuple[Probe, ...] = Field(
        min_length=1,
        max_length=MAX_PROBES,
        description="The checks: the gateway, one VM of the network, something outside.",
    )


class NetworkSpec(Message):
    """A network that is cut over from its router at the source to the gateway at the destination."""

    network: Annotated[Name, AfterValidator(free_for_a_wave)] = Field(
        description="Name of the network here; must equal the file's name without '.yaml'."
    )
    description: Description = Field(default="", description="One line for people; shown in the DAG list.")
    environment: Name = Field(description="Name of an environment of 'kind: hcx' whose destination has NSX.")
    source: SourceNetwork = Field(description="The network at the source.")
    destination: DestinationNetwork = Field(description="The network at the destination.")
    probes: Probes | None = Field(
        default=None, description="What must be reachable after the cutover. Default: nothing is asked."
    )
    exceptions: tuple[Text, ...] = Field(
        default=(),
        max_length=MAX_CHOICES,
        description="VMs that may stay on the source network, by name, or by inventory path where several have the "
        "name. They lose their gateway.",
    )
    on_failure: OnFailure = Field(
        default="revert",
        description="After a failure once the source was disconnected: 'revert' (default; the source routes again) or "
        "'stop' (a person decides).",
    )
    soak_hours: Annotated[float, Field(ge=0, le=8760), NUMBER] = Field(
        default=24, description="Hours after the cutover before it may be finished, and the source network deleted."
    )
    rename_to: Text | None = Field(
        default=None, description="Name that the destination segment gets when it is finished. Default: it keeps its."
    )
    approve: ApprovalChoice = Field(
        default="required",
        description="'required' (default): someone who may cut over approves the plan. 'four_eyes': someone else than "
        "who asked. 'none'.",
    )
    approval_hours: Annotated[float, Field(gt=0, le=720), NUMBER] = Field(
        default=24, description="Hours in which the plan must be approved; so long is the approval valid, too."
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


def network_problems(network: NetworkSpec) -> list[Problem]:
    """Problems of the network by itself."""
    problems = []
    source = network.source
    if source.disconnect.by in BY_NSX and source.segment is None:
        words = f"a disconnection by '{source.disconnect.by}' needs the path of the source's segment"
        problems.append(Problem(("source", "segment"), words))
    for index, name in enumerate(network.exceptions):
        if name in network.exceptions[:index]:
            problems.append(Problem(("exceptions", index), f"{quoted(name)} is listed twice; remove one"))
    return problems


def network_landing_problems(network: NetworkSpec, environment: HcxEnvironment) -> list[Problem]:
    """A network that the environment does not allow, or that its sites can't cut over."""
    problems = []
    name, wanted = environment.environment, network.destination.network
    if wanted not in environment.networks:
        words = f"environment '{name}' does not allow {quoted(wanted)}{did_you_mean(wanted, environment.networks)}"
        problems.append(Problem(("destination", "network"), f"{words}; {allowed(environment.networks)}"))
    if environment.destination.nsx is None:
        words = f"environment '{name}' has no 'nsx' under 'destination', and no network can be cut over without"
        problems.append(Problem(("environment",), words))
    if network.source.segment is not None and environment.source.nsx is None:
        words = f"environment '{name}' has no 'nsx' under 'source', where the segment could be read"
        problems.append(Problem(("source", "segment"), words))
    return problems


def named_twice(networks: Mapping[str, NetworkSpec]) -> dict[str, list[Problem]]:
    """Problems of files that name one extension: only one of them could cut it over.

    :param networks: stem of the file → what it says. :returns: stem → its problems.
    """
    told: dict[tuple[str, str, str, str], list[str]] = {}
    for stem, network in networks.items():
        told.setdefault((network.environment, "source", "network", network.source.network), []).append(stem)
        told.setdefault((network.environment, "destination", "segment", network.destination.segment), []).append(stem)
    problems: dict[str, list[Problem]] = {}
    for (_, side, field, value), stems in told.items():
        for stem in stems if len(stems) > 1 else ():
            others = ", ".join(f"{other}.yaml" for other in stems if other != stem)
            words = f"{others} names {quoted(value)}, too: one extension has one file; remove one of them"
            problems.setdefault(stem, []).append(Problem((side, field), words))
    return problems
