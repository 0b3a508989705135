"""Steps over target groups, against the simulator's load balancers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from tests.wire.aws.proving import Proof, settle

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.elbv2 import ALL_ZONES, Target, TargetHealth
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.services.dataplane.steps.poll import poll, target_is, target_settled
from wavelift.services.dataplane.steps.step import Settled, Step, Waiting, apply, look, undo, verify
from wavelift.services.dataplane.steps.targets import DeregisterTargets, RegisterTargets
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

OLD, NEW, OTHER = (Target(f"192.168.7.{number}", 443, ALL_ZONES) for number in (200, 15, 16))
"""Outside of the VPC, so that no instance must run there."""


@dataclass
class Group:
    client: Any
    arn: str
    load_balancer: str

    def register(self, *targets: Target) -> None:
        self.client.register_targets(TargetGroupArn=self.arn, Targets=[one.parameters() for one in targets])

    def deregister(self, *targets: Target) -> None:
        self.client.deregister_targets(TargetGroupArn=self.arn, Targets=[one.parameters() for one in targets])

    def registered(self) -> set[str]:
        found = self.client.describe_target_health(TargetGroupArn=self.arn)["TargetHealthDescriptions"]
        return {one["Target"]["Id"] for one in found if one["TargetHealth"]["State"] != "draining"}


@pytest.fixture
def make_group(aws: AwsSimulator, account: Bootstrap) -> Iterator[Callable[..., Group]]:
    client, made = aws.client("elbv2"), list[Group]()

    def make(*, listener: bool = True, kind: str = "ip", delay_s: int = 0) -> Group:
        name = f"app-{uuid.uuid4().hex[:8]}"
        arn = client.create_target_group(Name=name, Protocol="TCP", Port=443, VpcId=account.vpc_id, TargetType=kind)[
            "TargetGroups"
        ][0]["TargetGroupArn"]
        delay = [{"Key": "deregistration_delay.timeout_seconds", "Value": str(delay_s)}]
        client.modify_target_group_attributes(TargetGroupArn=arn, Attributes=delay)
        balancer = ""
        if listener:
            balancer = client.create_load_balancer(Name=name, Subnets=list(account.subnet_ids), Type="network")[
                "LoadBalancers"
            ][0]["LoadBalancerArn"]
            forward = [{"Type": "forward", "TargetGroupArn": arn}]
            client.create_listener(LoadBalancerArn=balancer, Protocol="TCP", Port=443, DefaultActions=forward)
        made.append(Group(client, arn, balancer))
        return made[-1]

    yield make
    aws.clear_rules()
    for group in made:
        if group.load_balancer:
            for one in client.describe_listeners(LoadBalancerArn=group.load_balancer)["Listeners"]:
                client.delete_listener(ListenerArn=one["ListenerArn"])
            client.delete_load_balancer(LoadBalancerArn=group.load_balancer)
        client.delete_target_group(TargetGroupArn=group.arn)


def test_inv_12_new_targets_join_and_leave(
    aws: AwsSimulator, access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    group = make_group()
    group.register(OLD)

    def make() -> Step:
        return RegisterTargets(access, group=group.arn, targets=[NEW, OTHER])

    Proof(aws, access, make, lambda: group.deregister(OTHER), "RegisterTargets", "DeregisterTargets").run()
    assert group.registered() == {OLD.id, NEW.id}


def test_inv_12_old_targets_leave_and_join_again(
    aws: AwsSimulator, access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    group = make_group()
    group.register(OLD, OTHER)

    def make() -> Step:
        return DeregisterTargets(access, group=group.arn, targets=[OLD, OTHER])

    Proof(aws, access, make, lambda: group.register(OTHER), "DeregisterTargets", "RegisterTargets").run()


def test_a_target_that_was_there_before_stays_after_the_undo(
    access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    group = make_group()
    group.register(NEW)
    step = RegisterTargets(access, group=group.arn, targets=[NEW, OTHER])
    before = look(step)
    settle(access, lambda receipt: apply(step, before, receipt))
    settle(access, lambda receipt: undo(step, before, receipt))
    assert group.registered() == {NEW.id}


def test_a_group_that_serves_nobody_or_takes_no_such_target_is_refused(
    access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    silent, instances = make_group(listener=False), make_group(kind="instance")
    with pytest.raises(PermanentError, match="no listener sends"):
        look(RegisterTargets(access, group=silent.arn, targets=[NEW]))
    with pytest.raises(PermanentError, match=f"no target {NEW} that could leave it; it has none"):
        look(DeregisterTargets(access, group=silent.arn, targets=[NEW]))
    silent.register(OLD)
    wrong_port = Target(OLD.id, 8443, ALL_ZONES)
    with pytest.raises(PermanentError, match=f"no target {wrong_port} that could leave it; it has {OLD}"):
        look(DeregisterTargets(access, group=silent.arn, targets=[OLD, wrong_port]))
    assert look(DeregisterTargets(access, group=silent.arn, targets=[OLD])) != {str(OLD): None}
    for kind in (RegisterTargets, DeregisterTargets):
        with pytest.raises(PermanentError, match="type instance"):
            look(kind(access, group=instances.arn, targets=[NEW]))
    with pytest.raises(NotFoundError, match="target_group"):
        look(RegisterTargets(access, group=silent.arn + "0", targets=[NEW]))
    with pytest.raises(PermanentError, match="each once"):
        RegisterTargets(access, group=silent.arn, targets=[])


def test_one_describe_answers_for_all_targets_of_a_group(
    aws: AwsSimulator, access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    group = make_group()
    group.register(NEW)
    aws.reset_counters()
    found = poll(
        access,
        [
            target_is(group.arn, NEW.id, NEW.port, "drained"),
            target_is(group.arn, OLD.id, OLD.port, "drained"),
            target_is(group.arn, OLD.id, OLD.port, "healthy"),
        ],
    )
    assert list(found.values()) == [False, True, True]
    assert sum(row["calls"] for row in aws.counters().values()) == 1
    gone = f"{group.arn}0"
    assert poll(access, [target_is(gone, NEW.id, 443, "healthy")]) == {target_is(gone, NEW.id, 443, "healthy"): True}


@pytest.mark.parametrize(
    ("state", "reason", "registered", "healthy", "drained"),
    [
        ("initial", "Elb.RegistrationInProgress", True, False, False),
        ("healthy", "", True, True, False),
        ("unhealthy", "Target.FailedHealthChecks", True, False, False),
        ("unused", "Target.NotInUse", True, True, False),
        ("unused", "Target.NotRegistered", False, True, True),
        ("draining", "Target.DeregistrationInProgress", False, True, False),
    ],
)
def test_what_the_states_of_a_target_mean(
    state: str, reason: str, registered: bool, healthy: bool, drained: bool
) -> None:
    health = TargetHealth(NEW, state, reason)
    assert health.is_registered is registered
    assert target_settled(health, "healthy") is healthy, "over: healthy, or can't become so"
    assert target_settled(health, "drained") is drained


def test_a_target_that_drains_is_waited_for_and_registered_again_in_its_zone(
    aws: AwsSimulator, access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    group = make_group(delay_s=300)
    group.register(OLD)
    step = DeregisterTargets(access, group=group.arn, targets=[Target(OLD.id, OLD.port)])
    before = look(step)
    drained = target_is(group.arn, OLD.id, OLD.port, "drained")
    assert apply(step, before) == Waiting(f"until {OLD} has drained", drained)
    assert undo(step, before) == Waiting(f"until {OLD} has drained", drained)
    assert poll(access, [drained]) == {drained: False}
    aws.advance(301)
    assert poll(access, [drained]) == {drained: True}
    assert apply(step, before) == Settled()
    assert undo(step, before) == Settled()
    assert look(step) == before == {str(OLD): ALL_ZONES}
    group.deregister(OLD)
    aws.advance(301)


def test_a_target_that_is_not_healthy_is_waited_for_and_one_that_is_never_checked_is_refused(
    aws: AwsSimulator, access: AwsAccess, make_group: Callable[..., Group]
) -> None:
    group = make_group()
    name = group.arn.split("/")[1]
    step = RegisterTargets(access, group=group.arn, targets=[NEW])
    before = look(step)
    aws.rule(kind="unhealthy", key=f"{name}/{NEW}")
    settle_at = target_is(group.arn, NEW.id, NEW.port, "healthy")
    aws.advance(60)
    outcome = apply(step, before)
    assert isinstance(outcome, Waiting)
    aws.advance(60)
    outcome = apply(step, before)
    assert outcome == Waiting(f"until {NEW} is healthy (unhealthy: Health checks failed)", settle_at)
    assert poll(access, [settle_at]) == {settle_at: False}
    aws.clear_rules()
    assert apply(step, before) == Settled()
    for one in group.client.describe_listeners(LoadBalancerArn=group.load_balancer)["Listeners"]:
        group.client.delete_listener(ListenerArn=one["ListenerArn"])
    assert poll(access, [settle_at]) == {settle_at: True}
    with pytest.raises(PermanentError, match="can't become healthy"):
        verify(step, before)
    assert undo(step, before) == Settled()
