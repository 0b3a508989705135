"""An environment of kind ``hcx``: another vCenter that VMware HCX migrates to. It has no AWS field.

``environment.Environment`` is the other kind, ``aws``; ``specs.load`` chooses by ``kind`` before it validates.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field

from wavelift.base.domain import Message
from wavelift.base.errors import SpecError
from wavelift.rules.environment import MAX_CHOICES, PRINCIPALS, Environment, May, VcenterCheck, repeated
from wavelift.rules.fields import WHOLE, ConnectionId, Description, Name, Text, matched
from wavelift.rules.problem import Problem

_ID: Final = r"[A-Za-z0-9_][A-Za-z0-9_.~:@-]*"
TierPath = Annotated[
    str, matched(rf"^/infra/tier-[01]s/{_ID}$", "the path of a gateway in NSX such as '/infra/tier-1s/cgw'")
]
SegmentPath = Annotated[
    str,
    matched(
        rf"^/infra/(tier-1s/{_ID}/)?segments/{_ID}$",
        "the path of a segment in NSX such as '/infra/segments/web' or '/infra/tier-1s/cgw/segments/web'",
    ),
]
Choices = Annotated[tuple[Text, ...], Field(max_length=MAX_CHOICES)]
HcxLimit = Annotated[int, Field(ge=1), WHOLE]
CHOSEN: Final = ("pools", "folders", "datastores", "networks")
"""The lists from which waves and networks choose."""


class HcxManager(Message):
    """The HCX manager of the source site."""

    connection: ConnectionId = Field(description="Airflow connection of type 'hcx'.")
    queue: Text = Field(default="default", description="Airflow queue of a worker that reaches the HCX manager.")
    reach: Literal["control", "connector"] = Field(
        default="control",
        description="'control' (default): Airflow's triggerer reaches the HCX manager, and follows all migrations with "
        "one query. 'connector': only the worker of 'queue' does.",
    )
    mesh: Text | None = Field(
        default=None, description="Name of the service mesh. Default: the only one between the two vCenters."
    )


class SourceSite(Message):
    """Where the servers are now."""

    connection: ConnectionId = Field(description="Airflow connection of type 'vsphere'.")
    queue: Text = Field(default="default", description="Airflow queue of a worker near this site.")
    nsx: ConnectionId | None = Field(
        default=None,
        description="Airflow connection of type 'nsx', if this site's networks are segments of NSX. Default: they are "
        "not, and someone or something else disconnects a network from its router.",
    )


class DestinationNsx(Message):
    """The NSX manager of the destination site."""

    connection: ConnectionId = Field(description="Airflow connection of type 'nsx'.")
    tier: TierPath = Field(description="Path of the gateway that routes destination networks: '/infra/tier-1s/cgw'.")


class DestinationSite(Message):
    """Where the servers are migrated to."""

    connection: ConnectionId = Field(description="Airflow connection of type 'vsphere'.")
    queue: Text = Field(default="default", description="Airflow queue of a worker near this site.")
    nsx: DestinationNsx | None = Field(
        default=None, description="The NSX manager of the site. Without it, no network can be cut over here."
    )


class HcxLimits(Message):
    """How many migrations HCX gets at a time, where its documented numbers do not fit."""

    hcx_per_mesh: HcxLimit | None = Field(
        default=None,
        description="VMs that are replicated at a time over one service mesh. Default: the Airflow setting.",
    )
    hcx_per_manager: HcxLimit | None = Field(
        default=None, description="VMs that one HCX manager replicates at a time. Default: the Airflow setting."
    )


class HcxEnvironment(Message):
    """Where HCX may migrate servers to, and which networks may be cut over there."""

    environment: Name = Field(description="Name of the environment; must equal the file's name without '.yaml'.")
    kind: Literal["hcx"] = Field(description="'hcx': VMware HCX migrates to another vCenter.")
    description: Description = Field(default="", description="One line for people.")
    may: May = Field(description="Who may do what here; each entry is 'user:NAME' or 'group:NAME', exactly as Airflow.")
    vcenter_check: VcenterCheck = Field(
        default="require",
        description="Whether vCenter is asked if the person behind a run may move each VM: 'require' (always), "
        "'mapped' (only if principals.yaml maps the user) or 'off'.",
    )
    hcx: HcxManager = Field(description="The HCX manager of the source site.")
    source: SourceSite = Field(description="Where the servers are now.")
    destination: DestinationSite = Field(description="Where the servers are migrated to.")
    pools: Choices = Field(min_length=1, description="Resource pools that a wave may choose, by name.")
    folders: Choices = Field(min_length=1, description="Folders of VMs that a wave may choose, by name.")
    datastores: Choices = Field(min_length=1, description="Datastores that a wave may choose, by name.")
    networks: Choices = Field(
        min_length=1, description="Networks of the destination that a wave or a network may choose, by name."
    )
    limits: HcxLimits = Field(default=HcxLimits(), description="How many migrations HCX gets at a time.")


def hcx_environment_problems(environment: HcxEnvironment) -> list[Problem]:
    """Problems that depend on more than one field."""
    problems = []
    if environment.environment == PRINCIPALS:
        problems.append(Problem(("environment",), f"'{PRINCIPALS}' is the name of the file of groups; take another"))
    if environment.source.connection == environment.destination.connection:
        words = f"'{environment.source.connection}' is the source, too: HCX migrates between two vCenters"
        problems.append(Problem(("destination", "connection"), words))
    nsx = environment.destination.nsx
    if nsx is not None and nsx.connection == environment.source.nsx:
        words = f"'{nsx.connection}' is the source's NSX manager, too; each site has its own"
        problems.append(Problem(("destination", "nsx", "connection"), words))
    for field in CHOSEN:
        problems += repeated((field,), getattr(environment, field))
    return problems


AnyEnvironment = Environment | HcxEnvironment
"""Of either kind. What needs an AWS account takes ``Environment`` only."""
KINDS: Final = ("aws", "hcx")


def aws_only(environment: AnyEnvironment) -> Environment:
    """:raises SpecError: the environment is of kind ``hcx``."""
    if isinstance(environment, HcxEnvironment):
        raise SpecError(
            "The environment is of 'kind: hcx': it has no AWS account",
            next_step="Name an environment of 'kind: aws'",
            environment=environment.environment,
        )
    return environment
