"""Target groups of Elastic Load Balancing: targets, their health, and whether anybody sends to the group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors
from wavelift.base.errors import NotFoundError

ALL_ZONES: Final = "all"
"""Zone of an address outside the group's VPC (ELB API reference, TargetDescription)."""
NOT_REGISTERED: Final = "Target.NotRegistered"
DRAINING_REASON: Final = "Target.DeregistrationInProgress"
SERVICE: Final = "elasticloadbalancing"


@dataclass(frozen=True, slots=True)
class Target:
    """:ivar id: of an instance, or an IP address. :ivar zone: :data:`ALL_ZONES` for an address outside the VPC."""

    id: str
    port: int
    zone: str = ""

    def __str__(self) -> str:
        return f"{self.id}:{self.port}"

    def parameters(self) -> dict[str, Any]:
        return {"Id": self.id, "Port": self.port} | ({"AvailabilityZone": self.zone} if self.zone else {})


@dataclass(frozen=True, slots=True)
class TargetHealth:
    """``initial``, ``healthy``, ``unhealthy``, ``unhealthy.draining``, ``unused``, ``draining`` or ``unavailable``."""

    target: Target
    state: str
    reason: str = ""
    description: str = ""

    @property
    def is_draining(self) -> bool:
        """It was deregistered; its connections end."""
        return self.state == "draining" or self.reason == DRAINING_REASON

    @property
    def is_registered(self) -> bool:
        return not self.is_draining and self.reason != NOT_REGISTERED

    @property
    def is_useless(self) -> bool:
        """Registered and never checked: no listener sends to it, it is stopped, or its zone is not enabled."""
        return self.state == "unused" and self.is_registered


@dataclass(frozen=True, slots=True)
class TargetGroup:
    """:ivar load_balancers: those with a listener or a rule that sends to the group. Without one no target is checked:
    each stays ``unused``."""

    arn: str
    name: str
    kind: Literal["instance", "ip", "lambda", "alb"]
    port: int
    vpc: str = ""
    load_balancers: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=dict)


class Elbv2:
    """Load balancers of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("elbv2")

    def group(self, arn: str) -> TargetGroup:
        """:raises NotFoundError: there is no such group."""
        with aws_errors("could not look at the target group", service=SERVICE, target_group=arn):
            found = self._client.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"]
        if not found:
            raise NotFoundError("there is no such target group", next_step="Check its ARN", target_group=arn)
        one = found[0]
        return TargetGroup(
            arn=one["TargetGroupArn"],
            name=one["TargetGroupName"],
            kind=one.get("TargetType", "instance"),
            port=one.get("Port", 0),
            vpc=one.get("VpcId", ""),
            load_balancers=tuple(one.get("LoadBalancerArns", ())),
        )

    def health(self, arn: str) -> dict[tuple[str, int], TargetHealth]:
        """All targets of the group, those that drain as well, by id and port."""
        with aws_errors("could not look at the targets", service=SERVICE, target_group=arn):
            found = self._client.describe_target_health(TargetGroupArn=arn)["TargetHealthDescriptions"]
        read = [_read(one) for one in found]
        return {(one.target.id, one.target.port): one for one in read}

    def register(self, arn: str, targets: Sequence[Target]) -> None:
        """Repeated: nothing more. :raises PermanentError: a target does not fit into the group, or does not run."""
        place = _place(targets)
        with aws_errors("could not register the targets", service=SERVICE, target_group=arn, target=place):
            self._client.register_targets(TargetGroupArn=arn, Targets=[one.parameters() for one in targets])

    def deregister(self, arn: str, targets: Sequence[Target]) -> None:
        """They drain for the group's delay. One that is not registered is fine."""
        place = _place(targets)
        with aws_errors("could not deregister the targets", service=SERVICE, target_group=arn, target=place):
            self._client.deregister_targets(TargetGroupArn=arn, Targets=[one.parameters() for one in targets])


def _place(targets: Iterable[Target]) -> str:
    return ", ".join(map(str, targets))


def _read(one: Mapping[str, Any]) -> TargetHealth:
    target, health = one["Target"], one.get("TargetHealth", {})
    return TargetHealth(
        target=Target(target["Id"], int(target.get("Port") or 0), target.get("AvailabilityZone", "")),
        state=health.get("State", ""),
        reason=health.get("Reason", ""),
        description=health.get("Description", ""),
    )
