"""The ``cutover:`` section of a wave or a server: how a server is switched to its EC2 instance, and back.

A wave without the section has no ``.test`` and no ``.cutover`` DAG. A server's own values override the wave's.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from wavelift.base.domain import Instant, Message
from wavelift.rules.checks import INSTALLED, MAX_CHECKS, BaseCheck, Port, refuse_others
from wavelift.rules.fields import NUMBER, WHOLE, Name, SecurityGroupId, Text, matched
from wavelift.rules.problem import quoted
from wavelift.rules.wave_replication import AmiMethod

AddressChoice = Literal["new", "keep"]
"""``new``: any free address of the subnet, or the server's ``private_ip``. ``keep``: the source's own address."""
ApprovalChoice = Literal["required", "four_eyes", "none"]
AfterTimeout = Literal["power_off", "abort"]
OnFailure = Literal["revert", "stop"]
OnWindowEnd = Literal["continue", "revert"]
FenceChoice = Literal["alert", "enforce"]
AfterFinalize = Literal["delete_job", "pause_job"]
BackupChoice = Literal["none", "finalize"]
RecordType = Literal["A", "AAAA", "CNAME"]

BUILT_IN_CHECKS: Final = ("status", "tcp", "http", "ssm")
"""``status`` is always made, also if it is not listed."""
MIN_INITIALIZATION: Final = 100
MAX_INITIALIZATION: Final = 300
"""MiB per second: what EBS accepts as VolumeInitializationRate."""
DEFAULT_TIER: Final = "all"
"""The tier of every server of a wave that names no tiers."""
MAX_STEPS: Final = 50
MAX_TIERS: Final = 20

_ARN_TARGET_GROUP = r"^arn:aws[a-z-]*:elasticloadbalancing:[a-z0-9-]+:[0-9]{12}:targetgroup/[A-Za-z0-9-]+/[0-9a-f]+$"
_NAME_LABEL = r"(\*|[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?)"
_DNS_NAME = rf"^{_NAME_LABEL}(\.{_NAME_LABEL})*\.?$"


def _cidr(value: str) -> str:
    import ipaddress

    try:
        return str(ipaddress.IPv4Network(value))
    except ValueError as error:
        raise ValueError(f"{quoted(value)} is not an IPv4 prefix such as '10.1.0.0/24'") from error


def _with_offset(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("a time needs its offset, such as '2026-12-05T22:00:00+01:00'")
    return value


ZoneId = Annotated[str, matched(r"^Z[A-Z0-9]{1,31}$", "the id of a hosted zone such as 'Z0123456789ABCDEFGHIJ'")]
DnsName = Annotated[str, Field(max_length=255), matched(_DNS_NAME, "a DNS name such as 'app01.corp.example'")]
TargetGroupArn = Annotated[str, matched(_ARN_TARGET_GROUP, "the ARN of a target group")]
AllocationId = Annotated[
    str, matched(r"^eipalloc-[0-9a-f]{8,17}$", "the id of an Elastic IP such as 'eipalloc-0a1b2c3d'")
]
RouteTableId = Annotated[str, matched(r"^rtb-[0-9a-f]{8,17}$", "the id of a route table such as 'rtb-0a1b2c3d'")]
TgwRouteTableId = Annotated[str, matched(r"^tgw-rtb-[0-9a-f]{8,17}$", "the id of a transit gateway's route table")]
AttachmentId = Annotated[str, matched(r"^tgw-attach-[0-9a-f]{8,17}$", "the id of a transit gateway attachment")]
RouteTarget = Annotated[
    str,
    matched(
        r"^(instance|(eni|tgw|vgw|igw|nat|pcx|vpce|lgw|cagw|i)-[0-9a-f]{8,17})$",
        "a route's target: 'instance' (the server's new instance), or the id of an interface or a gateway",
    ),
]
Cidr = Annotated[str, AfterValidator(_cidr)]
At = Annotated[Instant, AfterValidator(_with_offset)]
InstanceProfile = Annotated[str, matched(r"^[\w+=,.@-]{1,128}$", "the name of an instance profile")]
KeyName = Annotated[str, Field(max_length=255), matched(r"^\S(.*\S)?$", "the name of a key pair")]


class Check(BaseCheck):
    """One check of a launched instance, before anything is switched to it."""

    kind: Name = Field(
        description="'status' (EC2's status checks), 'tcp', 'http', 'ssm' (a command through Systems Manager), or a "
        "check that a package installed under the entry point 'wavelift.checks'."
    )
    command: Annotated[str, Field(min_length=1, max_length=4000)] | None = Field(
        default=None, description="Of 'ssm': the shell command, or PowerShell on Windows. Exit status 0 passes."
    )

    @model_validator(mode="after")
    def _what_the_kind_takes(self) -> Self:
        takes = {
            "status": (),
            "tcp": ("port",),
            "http": ("port", "path", "tls", "status"),
            "ssm": ("command",),
        }.get(self.kind, INSTALLED)
        refuse_others(self, self.kind, takes)
        if self.kind == "tcp" and self.port is None:
            raise ValueError("a check of kind 'tcp' needs its port")
        if self.kind == "ssm" and self.command is None:
            raise ValueError("a check of kind 'ssm' needs its command")
        return self


class DnsStep(Message):
    """A record of Route 53 that will point to the instance."""

    zone: ZoneId = Field(description="Id of the hosted zone; the environment must list it.")
    name: DnsName = Field(description="Name of the record.")
    type: RecordType = Field(default="A", description="'A' (default), 'AAAA' or 'CNAME'.")
    set_identifier: Annotated[str, Field(min_length=1, max_length=128)] | None = Field(
        default=None, description="Of one of several records with this name: weighted, by latency … Its policy stays."
    )
    to: Literal["private", "public"] | DnsName = Field(
        default="private", description="'private' (default) or 'public': the instance's address. Else the value itself."
    )
    ttl: Annotated[int, Field(ge=1, le=86_400), WHOLE] = Field(
        default=60, description="TTL in seconds during the cutover. 'prepare' lowers it, 'finalize' restores it."
    )


class TargetGroupStep(Message):
    """A target group of ELBv2 in which the instance takes the place of what serves now."""

    arn: TargetGroupArn = Field(description="ARN of the target group; the environment must list it.")
    port: Port | None = Field(default=None, description="Port of the target. Default: the target group's.")
    replaces: tuple[Text, ...] = Field(
        default=(),
        max_length=20,
        description="Targets that leave it: instance ids or addresses, as they are registered.",
    )
    healthy_within_minutes: Annotated[float, Field(gt=0, le=240), NUMBER] = Field(
        default=15, description="Minutes in which the instance must be healthy."
    )


class ElasticIpStep(Message):
    """An Elastic IP for the instance. One that belongs to something else is never taken."""

    allocation: AllocationId = Field(description="Allocation id; the environment must list it.")


class SecurityGroupsStep(Message):
    """The security groups with which the instance serves, instead of those with which it was launched."""

    groups: tuple[SecurityGroupId, ...] = Field(
        min_length=1, max_length=16, description="Security groups; the environment must allow them."
    )


class RouteStep(Message):
    """A route of a VPC's route table."""

    table: RouteTableId = Field(description="Id of the route table; the environment must list it.")
    destination: Cidr = Field(description="The prefix that moves.")
    target: RouteTarget = Field(description="'instance', or the id of an interface or a gateway.")


class TransitGatewayRouteStep(Message):
    """A static route of a transit gateway's route table."""

    table: TgwRouteTableId = Field(description="Id of the route table; the environment must list it.")
    destination: Cidr = Field(description="The prefix that moves.")
    attachment: AttachmentId = Field(description="Attachment to which it will lead.")


class PersonStep(Message):
    """Something that a person does and confirms: a firewall, a router, an application."""

    ask: Annotated[str, Field(min_length=1, max_length=1000)] = Field(description="What to do.")
    undo: Annotated[str, Field(min_length=1, max_length=1000)] = Field(description="What to do to go back.")


STEP_KINDS: Final = (
    "dns",
    "target_group",
    "elastic_ip",
    "security_groups",
    "route",
    "transit_gateway_route",
    "person",
)
MOVES_PREFIX: Final = ("route", "transit_gateway_route", "person")
"""Steps that may bring a source's own address to the VPC."""


class NetworkStep(Message):
    """One entry of ``steps``: exactly one kind."""

    dns: DnsStep | None = Field(default=None, description="A record of Route 53 that will point to the instance.")
    target_group: TargetGroupStep | None = Field(default=None, description="A target group that takes the instance.")
    elastic_ip: ElasticIpStep | None = Field(default=None, description="An Elastic IP for the instance.")
    security_groups: SecurityGroupsStep | None = Field(default=None, description="Security groups while it serves.")
    route: RouteStep | None = Field(default=None, description="A route of a VPC.")
    transit_gateway_route: TransitGatewayRouteStep | None = Field(
        default=None, description="A route of a transit gateway."
    )
    person: PersonStep | None = Field(default=None, description="Something that a person does and confirms.")

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        given = [kind for kind in STEP_KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = f"has {' and '.join(given)}" if given else "has none of them"
            raise ValueError(f"a step needs exactly one of {', '.join(STEP_KINDS)}; this entry {found}")
        return self

    @property
    def kind(self) -> str:
        return next(kind for kind in STEP_KINDS if getattr(self, kind) is not None)

    @property
    def body(self) -> Message:
        """What the step says."""
        found: Message = getattr(self, self.kind)
        return found

    @property
    def owns(self) -> str:
        """What only one server of a wave can have by this step. Empty: others may have the same."""
        if self.dns is not None:
            name = self.dns.name.rstrip(".").lower()
            return f"record {self.dns.type} {name} {self.dns.set_identifier or ''} of {self.dns.zone}".replace(
                "  ", " "
            )
        if self.elastic_ip is not None:
            return f"Elastic IP {self.elastic_ip.allocation}"
        if self.route is not None:
            return f"route {self.route.destination} of {self.route.table}"
        if self.transit_gateway_route is not None:
            return f"route {self.transit_gateway_route.destination} of {self.transit_gateway_route.table}"
        return ""


class Shutdown(Message):
    """How a source is stopped."""

    timeout_minutes: Annotated[float, Field(gt=0, le=240), NUMBER] = Field(
        default=15, description="Minutes that the guest gets to shut down (default 15)."
    )
    then: AfterTimeout = Field(
        default="power_off",
        description="If it has not: 'power_off' (default; like pulling the plug) or 'abort' (the cutover of this "
        "server fails). Also if VMware Tools don't run, without which a guest can't be asked.",
    )


class Window(Message):
    """When sources may be stopped."""

    start: At = Field(description="First instant, ISO 8601 with an offset.")
    end: At = Field(description="Last instant, ISO 8601 with an offset.")

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.end <= self.start:
            raise ValueError("the end of a window must be after its start")
        return self


class CutoverSettings(Message):
    """Cutover settings of all servers of a wave (under ``cutover``) or of one server (in its entry)."""

    tier: Name | None = Field(default=None, description="Tier of the server: one of the wave's 'tiers'.")
    checks: tuple[Check, ...] | None = Field(
        default=None,
        max_length=MAX_CHECKS,
        description="What a launched instance must pass. 'status' is always checked.",
    )
    address: AddressChoice | None = Field(
        default=None,
        description="'new' (default): any free address of the subnet, or 'private_ip'. 'keep': the source's own, which "
        "needs a step that moves its prefix (a route, or a person). If it has several, 'private_ip' says which.",
    )
    shutdown: Shutdown | None = Field(default=None, description="How the source is stopped.")
    downtime_minutes: Annotated[float, Field(gt=0, le=10_080), NUMBER] | None = Field(
        default=None,
        description="How long the server may be down. Replication runs come before until the forecast fits. "
        "Default: no limit, and two runs before.",
    )
    ami: AmiMethod | None = Field(
        default=None, description="How the last image is made: 'import' or 'register'. Default: as in 'replication'."
    )
    steps: tuple[NetworkStep, ...] | None = Field(
        default=None, max_length=MAX_STEPS, description="What is switched to the instance, in this order."
    )
    on_failure: OnFailure | None = Field(
        default=None,
        description="After a failure once the source was stopped: 'revert' (default; back to the source) or 'stop'.",
    )
    fence: FenceChoice | None = Field(
        default=None,
        description="If a switched-off source is found on, or connected: 'alert' (default) or 'enforce' (its network "
        "cards are disconnected again).",
    )
    backup: BackupChoice | None = Field(
        default=None, description="'finalize': an image of the instance is made before the way back is given up."
    )
    volume_initialization_mib_s: Annotated[int, Field(ge=MIN_INITIALIZATION, le=MAX_INITIALIZATION), WHOLE] | None = (
        Field(
            default=None,
            description="MiB per second at which EBS loads the volumes of a new instance, 100 to 300; AWS charges "
            "for it. Default: blocks are loaded when they are first read.",
        )
    )


class Cutover(CutoverSettings):
    """The ``cutover:`` section of a wave."""

    tiers: tuple[Name, ...] = Field(
        default=(),
        max_length=MAX_TIERS,
        description="Names of the tiers, in the order in which they are switched. A tier begins when every server of "
        "the earlier ones has passed its checks. Default: one tier.",
    )
    approval: ApprovalChoice = Field(
        default="required",
        description="'required' (default): someone who may cut over approves the plan. 'four_eyes': someone else than "
        "who asked. 'none'.",
    )
    approval_hours: Annotated[float, Field(gt=0, le=720), NUMBER] = Field(
        default=24, description="Hours in which the plan must be approved; so long is the approval valid, too."
    )
    window: Window | None = Field(
        default=None, description="When sources may be stopped. Default: at once. A request may give its own."
    )
    on_window_end: OnWindowEnd = Field(
        default="continue",
        description="What is under way when the window ends: 'continue' (default) or 'revert'.",
    )
    after_finalize: AfterFinalize = Field(
        default="delete_job",
        description="The replication job of a finalized server: 'delete_job' (default; AMIs stay) or 'pause_job'.",
    )
    test_hours: Annotated[float, Field(gt=0, le=720), NUMBER] = Field(
        default=24, description="Hours after which test instances are terminated."
    )


class CutoverPlan(Message):
    """The complete cutover settings of one server."""

    tier: str = DEFAULT_TIER
    tier_index: int = 0
    """Its place in the order; 0 is switched first."""
    checks: tuple[Check, ...] = ()
    address: AddressChoice = "new"
    shutdown: Shutdown = Shutdown()
    downtime_minutes: float | None = None
    ami: AmiMethod | None = None
    """None: as the replication says."""
    steps: tuple[NetworkStep, ...] = ()
    on_failure: OnFailure = "revert"
    fence: FenceChoice = "alert"
    backup: BackupChoice = "none"
    volume_initialization_mib_s: int | None = None
    approval: ApprovalChoice = "required"
    approval_hours: float = 24
    window: Window | None = None
    on_window_end: OnWindowEnd = "continue"
    after_finalize: AfterFinalize = "delete_job"
    test_hours: float = 24


def cutover_plan(wave: Cutover | None, server: CutoverSettings | None) -> CutoverPlan | None:
    """Merge defaults, the wave's values and the server's values; later ones win. None: neither has the section."""
    if wave is None and server is None:
        return None
    values: dict[str, Any] = {}
    for given in (wave, server):
        if given is not None:
            values |= {name: value for name in type(given).model_fields if (value := getattr(given, name)) is not None}
    tiers = values.pop("tiers", ())
    tier = values.get("tier", tiers[0] if tiers else DEFAULT_TIER)
    return CutoverPlan(**{**values, "tier": tier, "tier_index": tiers.index(tier) if tier in tiers else 0})
