"""Targets of load balancers: their states, and what may be registered."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
Launch = Callable[..., str]


@pytest.fixture(scope="session")
def elb(running: AwsSimulator) -> Any:
    return running.client("elbv2")


@pytest.fixture
def group(elb: Any, base: Bootstrap) -> Iterator[Callable[..., str]]:
    """A target group, by default behind a load balancer in the first subnet's zone and another one; its ARN."""
    ends: list[tuple[Callable[..., Any], dict[str, str]]] = []

    def make(kind: str = "instance", *, used: bool = True) -> str:
        name = f"g-{uuid.uuid4().hex[:8]}"
        arn: str = elb.create_target_group(Name=name, Protocol="HTTP", Port=80, VpcId=base.vpc_id, TargetType=kind)[
            "TargetGroups"
        ][0]["TargetGroupArn"]
        ends.append((elb.delete_target_group, {"TargetGroupArn": arn}))
        if used:
            balancer = elb.create_load_balancer(Name=name, Subnets=list(base.subnet_ids))["LoadBalancers"][0]
            ends.append((elb.delete_load_balancer, {"LoadBalancerArn": balancer["LoadBalancerArn"]}))
            elb.create_listener(
                LoadBalancerArn=balancer["LoadBalancerArn"],
                Protocol="HTTP",
                Port=80,
                DefaultActions=[{"Type": "forward", "TargetGroupArn": arn}],
            )
        return arn

    yield make
    for end, what in reversed(ends):
        end(**what)


@pytest.fixture
def health(elb: Any) -> Callable[..., dict[str, tuple[str, str]]]:
    """State and reason by target."""

    def read(arn: str, *targets: dict[str, Any]) -> dict[str, tuple[str, str]]:
        which = {"Targets": list(targets)} if targets else {}
        rows = elb.describe_target_health(TargetGroupArn=arn, **which)["TargetHealthDescriptions"]
        return {
            row["Target"]["Id"]: (row["TargetHealth"]["State"], row["TargetHealth"].get("Reason", "")) for row in rows
        }

    return read


def test_a_target_becomes_healthy_and_drains(
    sim: AwsSimulator, ec2: Any, elb: Any, base: Bootstrap, launch: Launch, group: Any, health: Any
) -> None:
    before = sim.state()
    sim.settings(target_health_seconds=60, instance_pending_seconds=1)
    one, arn = launch(SubnetId=base.subnet_ids[0]), group()
    target = {"Id": one}
    assert health(arn, target) == {one: ("unused", "Target.NotRegistered")}
    elb.register_targets(TargetGroupArn=arn, Targets=[target])
    name = elb.describe_target_groups(TargetGroupArns=[arn])["TargetGroups"][0]["TargetGroupName"]
    assert sim.state()["targets"][name] == [f"{one}:80"]
    assert health(arn) == {one: ("initial", "Elb.RegistrationInProgress")}
    sim.advance(61)
    assert health(arn) == {one: ("healthy", "")}
    sim.rule(kind="unhealthy", key=f"{name}/{one}:80")
    assert health(arn) == {one: ("unhealthy", "Target.FailedHealthChecks")}
    sim.clear_rules()
    ec2.stop_instances(InstanceIds=[one])
    assert health(arn) == {one: ("unhealthy", "Target.Timeout")}
    sim.advance(1)
    assert health(arn) == {one: ("unused", "Target.InvalidState")}
    ec2.start_instances(InstanceIds=[one])
    sim.advance(2)
    assert health(arn)[one][0] == "initial", "its checks begin anew"
    sim.advance(61)
    elb.deregister_targets(TargetGroupArn=arn, Targets=[target, {"Id": "i-0123456789abcdef0"}])
    assert health(arn) == {one: ("draining", "Target.DeregistrationInProgress")}
    assert sim.state()["targets"][name] == []
    sim.advance(301)
    assert health(arn) == {}
    elb.register_targets(TargetGroupArn=arn, Targets=[target])
    elb.deregister_targets(TargetGroupArn=arn, Targets=[target])
    elb.register_targets(TargetGroupArn=arn, Targets=[target])
    assert health(arn)[one][0] == "initial", "an instance may come back while it drains"
    ec2.terminate_instances(InstanceIds=[one])
    assert health(arn) == {}
    assert sim.state() == {**before, "targets": {**before["targets"], name: []}}


def test_a_group_without_listener_is_unused(
    sim: AwsSimulator, elb: Any, base: Bootstrap, launch: Launch, group: Any, health: Any
) -> None:
    one, arn = launch(SubnetId=base.subnet_ids[0]), group(used=False)
    elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": one}])
    sim.advance(60)
    assert health(arn) == {one: ("unused", "Target.NotInUse")}


def test_only_what_runs_in_the_vpc_is_registered(
    sim: AwsSimulator, ec2: Any, elb: Any, base: Bootstrap, launch: Launch, group: Any, refused: Refused
) -> None:
    arn = group()

    def register(name: str) -> None:
        elb.register_targets(TargetGroupArn=arn, Targets=[{"Id": name}])

    one = launch(SubnetId=base.subnet_ids[0])
    ec2.stop_instances(InstanceIds=[one])
    refused("InvalidTarget", register, one)
    sim.advance(1)
    refused("InvalidTarget", register, one)
    refused("InvalidTarget", register, "i-0123456789abcdef0")
    vpc = ec2.create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="10.77.1.0/24")["Subnet"]["SubnetId"]
    other = launch(SubnetId=subnet)
    refused("InvalidTarget", register, other)
    ec2.terminate_instances(InstanceIds=[other])
    ec2.delete_subnet(SubnetId=subnet)
    ec2.delete_vpc(VpcId=vpc)
    unknown = arn.replace("targetgroup/", "targetgroup/x")
    refused("TargetGroupNotFound", elb.describe_target_health, TargetGroupArn=unknown)


def test_an_address_waits_for_its_deregistration_delay(
    sim: AwsSimulator, elb: Any, base: Bootstrap, launch: Launch, group: Any, health: Any, refused: Refused
) -> None:
    arn = group("ip")
    delay = [{"Key": "deregistration_delay.timeout_seconds", "Value": "30"}]
    elb.modify_target_group_attributes(TargetGroupArn=arn, Attributes=delay)
    launch(SubnetId=base.subnet_ids[0], PrivateIpAddress="10.20.1.80")
    mine, outside = {"Id": "10.20.1.80"}, {"Id": "192.168.7.7"}
    register = elb.register_targets
    refused("ValidationError", register, TargetGroupArn=arn, Targets=[{"Id": "i-0123456789abcdef0"}])
    refused("ValidationError", register, TargetGroupArn=arn, Targets=[outside])
    here = {**outside, "AvailabilityZone": f"{sim.region}a"}
    refused("ValidationError", register, TargetGroupArn=arn, Targets=[here])
    public = {"Id": "8.8.8.8", "AvailabilityZone": "all"}
    refused("InvalidTarget", register, TargetGroupArn=arn, Targets=[public])
    everywhere = {**outside, "AvailabilityZone": "all"}
    register(TargetGroupArn=arn, Targets=[mine, everywhere, {"Id": "10.20.1.81"}])
    sim.advance(1)
    assert {name: state for name, (state, _) in health(arn).items()} == {
        "10.20.1.80": "healthy",
        "192.168.7.7": "healthy",
        "10.20.1.81": "unhealthy",
    }, "nobody has the third one"
    elb.deregister_targets(TargetGroupArn=arn, Targets=[mine])
    refused("InvalidTarget", register, TargetGroupArn=arn, Targets=[mine])
    sim.advance(31)
    register(TargetGroupArn=arn, Targets=[mine])
    assert health(arn, mine)["10.20.1.80"][0] == "initial"
