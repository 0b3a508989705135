"""Targets of load balancers: they take time to become healthy, and to drain."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult, EmptyResult

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import DRAINING_CODE, DRAINING_MESSAGE, NO_ZONE_MESSAGE, ZONE_MESSAGE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import plain

EVERYWHERE: Final = "all"
PRIVATE: Final = tuple(
    ipaddress.ip_network(block) for block in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16")
)
"""Where the address of a target outside of the VPC must be (RegisterTargets' API reference)."""
DELAY: Final = "deregistration_delay.timeout_seconds"
NOT_REGISTERED: Final = ("unused", "Target.NotRegistered", "Target is not registered to the target group")
DRAINING: Final = ("draining", "Target.DeregistrationInProgress", "Target deregistration is in progress")
NOT_IN_USE: Final = (
    "unused",
    "Target.NotInUse",
    "Target group is not configured to receive traffic from the load balancer",
)
OTHER_ZONE: Final = (
    "unused",
    "Target.NotInUse",
    "Target is in an Availability Zone that is not enabled for the load balancer",
)
STOPPED: Final = ("unused", "Target.InvalidState", "Target is in the stopped state")
SILENT: Final = ("unhealthy", "Target.Timeout", "Request timed out")
INITIAL: Final = ("initial", "Elb.RegistrationInProgress", "Target registration is in progress")
FAILED: Final = ("unhealthy", "Target.FailedHealthChecks", "Health checks failed")
HEALTHY: Final = ("healthy", "", "")


@dataclass(slots=True)
class Target:
    """Times are seconds of the simulator's clock. ``ends`` is when a draining one is gone; None: it is registered."""

    id: str
    port: int
    zone: str
    since: float
    ends: float | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.id, self.port


class TargetActions:
    """A mixin of moto's ELBV2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        elbv2_backend: Any

    def register_targets(self) -> ActionResult:
        values = plain(self.params)
        group, account = self._group(values), self.account
        known = registered(account, group)
        wanted = [self._wanted(group, item, known) for item in values.get("Targets") or []]
        for target in wanted:
            standing = known.get(target.key)
            if standing is None or standing.ends is not None:
                known[target.key] = target
        return EmptyResult()

    def _group(self, values: Mapping[str, Any]) -> Any:
        group = self.elbv2_backend.target_groups.get(values.get("TargetGroupArn"))
        if group is None:
            raise AwsError("TargetGroupNotFound", "One or more target groups not found", 400)
        return group

    def _wanted(self, group: Any, item: Mapping[str, Any], known: Mapping[tuple[str, int], Target]) -> Target:
        target = Target(item["Id"], int(item.get("Port") or group.port), "", self.account.clock.now())
        if group.target_type == "instance":
            target.zone = self._check_instance(group, target.id)
        elif group.target_type == "ip":
            target.zone = self._check_address(group, target.id, item.get("AvailabilityZone") or "")
            standing = known.get(target.key)
            if standing is not None and standing.ends is not None:
                raise AwsError(DRAINING_CODE, DRAINING_MESSAGE.format(target=target.id), 400)
        return target

    def _check_instance(self, group: Any, name: str) -> str:
        instance = self.account.backends.ec2.get_instance_by_id(name)
        if instance is None or instance.state == "terminated":
            raise AwsError("InvalidTarget", f"The following targets are not valid instances: '{name}'", 400)
        if instance.vpc_id != group.vpc_id:
            text = f"The following targets are not in the target group VPC '{group.vpc_id}': '{name}'"
            raise AwsError("InvalidTarget", text, 400)
        if instance.state != "running":
            text = f"The following targets are not in a running state and cannot be registered: '{name}'"
            raise AwsError("InvalidTarget", text, 400)
        return str(instance.availability_zone)

    def _check_address(self, group: Any, name: str, zone: str) -> str:
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            raise AwsError("ValidationError", f"The IP address '{name}' is not a valid IPv4 address", 400) from None
        ec2 = self.account.backends.ec2
        subnets = [one for one in ec2.describe_subnets() if one.vpc_id == group.vpc_id and address in one.cidr]
        if subnets:
            return str(subnets[0].availability_zone)
        vpc = ec2.get_vpc(group.vpc_id)
        blocks = [ipaddress.ip_network(item["cidr_block"]) for item in vpc.get_cidr_block_association_set()]
        if any(address in block for block in blocks):
            return zone
        if not any(address in block for block in PRIVATE):
            raise AwsError("InvalidTarget", f"The IP address '{name}' is not in an allowed range", 400)
        if not zone:
            raise AwsError("ValidationError", NO_ZONE_MESSAGE.format(address=name), 400)
        if zone != EVERYWHERE:
            raise AwsError("ValidationError", ZONE_MESSAGE.format(address=name), 400)
        return zone

    def deregister_targets(self) -> ActionResult:
        """Of a target that is not registered, nothing is said (API reference)."""
        values = plain(self.params)
        group = self._group(values)
        known, now = registered(self.account, group), self.account.clock.now()
        for item in values.get("Targets") or []:
            target = known.get((item["Id"], int(item.get("Port") or group.port)))
            if target is not None and target.ends is None:
                target.ends = now + float(group.attributes.get(DELAY) or 0)
        return EmptyResult()

    def describe_target_health(self) -> ActionResult:
        values = plain(self.params)
        group = self._group(values)
        known = registered(self.account, group)
        keys = [(item["Id"], int(item.get("Port") or group.port)) for item in values.get("Targets") or []]
        return ActionResult({"TargetHealthDescriptions": [self._row(group, known, key) for key in keys or known]})

    def _row(self, group: Any, known: Mapping[tuple[str, int], Target], key: tuple[str, int]) -> dict[str, Any]:
        target = known.get(key)
        state, reason, text = NOT_REGISTERED if target is None else self._health(group, target)
        health = {"State": state}
        if reason:
            health |= {"Reason": reason, "Description": text}
        shown: dict[str, Any] = {"Id": key[0], "Port": key[1]}
        if target is not None and target.zone and group.target_type == "ip":
            shown["AvailabilityZone"] = target.zone
        port = group.health_check_port if group.health_check_port != "traffic-port" else str(key[1])
        return {"Target": shown, "HealthCheckPort": port, "TargetHealth": health}

    def _health(self, group: Any, target: Target) -> tuple[str, str, str]:
        if target.ends is not None:
            return DRAINING
        zones = zones_of(self.elbv2_backend, group)
        if not zones:
            return NOT_IN_USE
        if target.zone not in {"", EVERYWHERE} and target.zone not in zones:
            return OTHER_ZONE
        return self._checked(group, target)

    def _checked(self, group: Any, target: Target) -> tuple[str, str, str]:
        account, since = self.account, target.since
        instance = self._instance(group, target)
        if instance is not None:
            if instance.state == "stopped":
                return STOPPED if group.target_type == "instance" else SILENT
            if instance.state != "running":
                return SILENT
            since = max(since, account.running_since[instance.id])
        elif target.zone != EVERYWHERE:
            return SILENT  # nobody has the address
        if account.clock.now() < since + account.settings.target_health_seconds:
            return INITIAL
        name = f"{group.name}/{target.id}:{target.port}"
        rules = account.faults.take(
            "unhealthy", service="elasticloadbalancing", operation="DescribeTargetHealth", key=name
        )
        return FAILED if rules else HEALTHY

    def _instance(self, group: Any, target: Target) -> Any:
        """The instance of a target, or None. Of an address, the one whose interface has it."""
        ec2 = self.account.backends.ec2
        if group.target_type == "instance":
            return ec2.get_instance_by_id(target.id)
        for eni in ec2.enis.values():
            if eni.vpc_id == group.vpc_id and target.id in {
                one["PrivateIpAddress"] for one in eni.private_ip_addresses
            }:
                return eni.instance
        return None


def registered(account: Account, group: Any) -> dict[tuple[str, int], Target]:
    """The targets of a group as of now, draining ones too. A terminated instance is no target."""
    known: dict[tuple[str, int], Target] = account.targets.setdefault(group.arn, {})
    now = account.clock.now()
    for key, target in list(known.items()):
        instance = account.backends.ec2.get_instance_by_id(target.id) if group.target_type == "instance" else None
        ended = instance is not None and instance.state == "terminated"
        if ended or (target.ends is not None and target.ends <= now):
            del known[key]
    return known


def zones_of(backend: Any, group: Any) -> set[str]:
    """The zones of the load balancers whose listeners send to a group; none, if no listener does."""
    return {
        subnet.availability_zone
        for balancer in backend.load_balancers.values()
        if any(group.arn in set(_groups(listener)) for listener in balancer.listeners.values())
        for subnet in balancer.subnets
    }


def _groups(listener: Any) -> Iterator[str]:
    actions = [*listener.default_actions, *(action for rule in listener.rules.values() for action in rule.actions)]
    for action in actions:
        if arn := action.data.get("TargetGroupArn"):
            yield arn
        for one in (action.data.get("ForwardConfig") or {}).get("TargetGroups") or []:
            yield one["TargetGroupArn"]


def rows(account: Account) -> dict[str, list[str]]:
    """By group: its targets, without draining ones."""
    return {
        str(group.name): sorted(
            f"{one.id}:{one.port}" for one in registered(account, group).values() if one.ends is None
        )
        for group in account.backends.elbv2.target_groups.values()
    }
