"""Steps over target groups of load balancers: register the new targets, then deregister the old ones.

Two steps, because the old targets serve until the new ones are healthy; their undos go the other way round.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.elbv2 import Elbv2, Target, TargetGroup, TargetHealth
from wavelift.adapters.aws.instances import Instances
from wavelift.base.errors import PermanentError
from wavelift.services.dataplane.steps.poll import instance_is, target_is
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step, Waiting


class _Targets(Step):
    """Some targets of one group. A state is target → None if it is not registered (or drains), else its zone, which is
    needed to register it again.

    :param targets: each an instance id or an IP address, as the group wants it, and a port.
    """

    _prefix: ClassVar[str]

    def __init__(self, aws: AwsAccess, *, group: str, targets: Sequence[Target]) -> None:
        self._elb, self._instances = Elbv2(aws), Instances(aws)
        self._arn = group
        self._targets = sorted(targets, key=str)
        if not self._targets or len({str(one) for one in self._targets}) != len(self._targets):
            raise PermanentError("a step needs targets, each once", next_step="Correct the step", target_group=group)

    @property
    def name(self) -> str:
        return f"{self._prefix}:{self._arn}:{','.join(map(str, self._targets))}"

    @property
    def _said(self) -> str:
        """``10.20.1.15:443``, and the group's name out of its ARN."""
        parts = self._arn.split("/")
        return f"{', '.join(map(str, self._targets))} (target group {parts[1] if len(parts) > 1 else self._arn})"

    def read(self) -> State:
        health = self._elb.health(self._arn)
        return {str(one): _zone(_of(health, one)) for one in self._targets}

    def same(self, one: State, other: State) -> bool:
        return {key: zone is None for key, zone in one.items()} == {key: zone is None for key, zone in other.items()}

    def _joining(self, now: State, to: State) -> list[Target]:
        return [
            replace(one, zone=to[str(one)])
            for one in self._targets
            if to[str(one)] is not None and now[str(one)] is None
        ]

    def change(self, now: State, to: State) -> str:
        joining = self._joining(now, to)
        leaving = [one for one in self._targets if now[str(one)] is not None and to[str(one)] is None]
        if joining:
            self._elb.register(self._arn, joining)
        if leaving:
            self._elb.deregister(self._arn, leaving)
        return ""

    def ready(self, now: State, to: State) -> Outcome | None:
        """An instance must run, and an address must have drained, before it can be registered."""
        joining = self._joining(now, to)
        health = self._elb.health(self._arn) if joining else {}
        for one in joining:
            if one.id.startswith("i-"):
                found = self._instances.states([one.id]).get(one.id)
                if found is None or found.state != "running":
                    return Waiting(f"until {one.id} runs", instance_is(one.id, "running"))
            elif (draining := _of(health, one)) is not None and draining.is_draining:
                return Waiting(f"until {one} has drained", target_is(self._arn, one.id, one.port, "drained"))
        return None

    def check(self) -> None:
        """:raises PermanentError: the targets do not fit into the group, or there is no such group."""
        self._check(self._elb.group(self._arn))

    def _check(self, group: TargetGroup) -> None:
        for one in self._targets:
            kind = "instance" if one.id.startswith("i-") else "ip"
            if group.kind != kind:
                raise PermanentError(
                    f"the target group takes targets of type {group.kind}, not {one.id}",
                    next_step="Correct the step, or make a group of the other type",
                    target_group=group.arn,
                )


class RegisterTargets(_Targets):
    """Register the new targets and wait until they are healthy. Its undo deregisters them."""

    kind = "targets"
    _prefix = "targets"

    @property
    def words(self) -> str:
        return f"Register {self._said} and wait until it is healthy"

    @property
    def undo_words(self) -> str:
        return "Deregister it"

    def _check(self, group: TargetGroup) -> None:
        """:raises PermanentError: no listener sends to the group, too."""
        super()._check(group)
        if not group.load_balancers:
            raise PermanentError(
                "no listener sends to the target group, so no target of it becomes healthy",
                next_step="Add a listener or a rule to the load balancer first",
                target_group=self._arn,
            )

    def wanted(self, before: State) -> State:
        zones = {str(one): one.zone for one in self._targets}
        return {key: zones[key] if zone is None else zone for key, zone in before.items()}

    def settled(self, to: State, receipt: str = "") -> Outcome:
        """Healthy after apply. After undo nothing is waited for: what drains ends by itself.

        :raises PermanentError: a target is never checked: it was stopped, or its zone is not one of the load balancer.
        """
        health = self._elb.health(self._arn)
        for one in self._targets:
            found = _of(health, one)
            if to[str(one)] is not None and (found is None or found.state != "healthy"):
                if found is not None and found.is_useless:
                    raise PermanentError(
                        f"{one} can't become healthy: {found.description or found.reason}",
                        next_step="Start it, or add its availability zone to the load balancer; then clear the task",
                        target_group=self._arn,
                    )
                said = f"{found.state}: {found.description or found.reason}".rstrip(": ") if found else "unknown"
                return Waiting(f"until {one} is healthy ({said})", target_is(self._arn, one.id, one.port, "healthy"))
        return Settled()


class DeregisterTargets(_Targets):
    """Deregister the old targets and wait until they have drained. Its undo registers them again.

    The undo does not wait for their health: their server is started last.
    """

    kind = "old_targets"
    _prefix = "old_targets"

    @property
    def words(self) -> str:
        return f"Deregister {self._said} and wait until its connections have ended"

    @property
    def undo_words(self) -> str:
        return "Register it again"

    def _check(self, group: TargetGroup) -> None:
        """:raises PermanentError: the group has no such target, and another one would go on serving, too."""
        super()._check(group)
        if absent := absent_targets(self._elb, group.arn, self._targets):
            raise PermanentError(
                absent,
                next_step="Correct port and replaces of the step: as the target group lists its targets",
                target_group=self._arn,
            )

    def wanted(self, before: State) -> State:
        return dict.fromkeys(before, None)

    def settled(self, to: State, receipt: str = "") -> Outcome:
        health = self._elb.health(self._arn)
        for one in self._targets:
            found = _of(health, one)
            if to[str(one)] is None and found is not None and found.is_draining:
                return Waiting(f"until {one} has drained", target_is(self._arn, one.id, one.port, "drained"))
        return Settled()


def absent_targets(elb: Elbv2, group: str, targets: Sequence[Target]) -> str:
    """Why these can't leave the group, in words: they are not in it under their port. Empty: they can.

    One that drains already is fine.
    """
    health = elb.health(group)
    absent = []
    for one in targets:
        found = _of(health, one)
        if found is None or not (found.is_registered or found.is_draining):
            absent.append(str(one))
    if not absent:
        return ""
    there = ", ".join(sorted(str(one.target) for one in health.values() if one.is_registered)) or "none"
    return f"the target group has no target {', '.join(absent)} that could leave it; it has {there}"


def _zone(health: TargetHealth | None) -> str | None:
    return health.target.zone if health is not None and health.is_registered else None


def _of(health: dict[tuple[str, int], TargetHealth], target: Target) -> TargetHealth | None:
    return health.get((target.id, target.port))
