"""The network steps of a cutover, and a backup, run with exactly the rights that are printed for them (SMS-13).

As in ``test_printed_rights``: what is printed and never used fails the test, and so does what is used and not printed.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import pytest
from tests.wire.aws.proving import bare_image, settle, until
from tests.wire.aws.test_step_records import APP, Zone

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.backups import BackupRequest, Backups
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.elbv2 import ALL_ZONES, Target
from wavelift.adapters.aws.instances import Instances
from wavelift.adapters.aws.launch import LaunchRequest
from wavelift.adapters.aws.ssm import Ssm
from wavelift.base.errors import BusyError, PermanentError
from wavelift.base.names import tags
from wavelift.rules.calls import Identity
from wavelift.rules.policies import key_actions_of
from wavelift.services.dataplane.steps.addresses import MoveElasticIp, PrepareAddress, SetSecurityGroups
from wavelift.services.dataplane.steps.poll import image_is_available, instance_is
from wavelift.services.dataplane.steps.records import Record, SwitchRecords
from wavelift.services.dataplane.steps.routing import SetGatewayRoute, SetRoute
from wavelift.services.dataplane.steps.step import Step, apply, look, undo
from wavelift.services.dataplane.steps.targets import RegisterTargets

from .journey import Stage
from .test_printed_rights import Rights, held

__all__ = ["held"]

pytestmark = pytest.mark.wire

TARGET = Target("192.168.7.15", 443, ALL_ZONES)
CIDR = "172.16.0.0/16"


@dataclass
class Landscape:
    """What a cutover finds in the account. Made and removed by the administrator."""

    stage: Stage

    def __post_init__(self) -> None:
        aws, account = self.stage.aws, self.stage.account
        self.ec2, self.elb = aws.client("ec2"), aws.client("elbv2")
        self.zone = Zone(aws.client("route53"))
        self.zone.put(APP, "192.0.2.7")
        name = f"app-{uuid.uuid4().hex[:8]}"
        self.group: str = self.elb.create_target_group(
            Name=name, Protocol="TCP", Port=443, VpcId=account.vpc_id, TargetType="ip"
        )["TargetGroups"][0]["TargetGroupArn"]
        self.balancer: str = self.elb.create_load_balancer(Name=name, Subnets=list(account.subnet_ids), Type="network")[
            "LoadBalancers"
        ][0]["LoadBalancerArn"]
        forward = [{"Type": "forward", "TargetGroupArn": self.group}]
        self.listener: str = self.elb.create_listener(
            LoadBalancerArn=self.balancer, Protocol="TCP", Port=443, DefaultActions=forward
        )["Listeners"][0]["ListenerArn"]
        self.allocation: str = self.ec2.allocate_address(Domain="vpc")["AllocationId"]
        self.table: str = self.ec2.create_route_table(VpcId=account.vpc_id)["RouteTable"]["RouteTableId"]
        self.gateway: str = self.ec2.create_transit_gateway()["TransitGateway"]["TransitGatewayId"]
        self.attachment: str = self.ec2.create_transit_gateway_vpc_attachment(
            TransitGatewayId=self.gateway, VpcId=account.vpc_id, SubnetIds=[account.subnet_ids[0]]
        )["TransitGatewayVpcAttachment"]["TransitGatewayAttachmentId"]
        self.gateway_table: str = self.ec2.create_transit_gateway_route_table(TransitGatewayId=self.gateway)[
            "TransitGatewayRouteTable"
        ]["TransitGatewayRouteTableId"]
        self.image = bare_image(self.stage.access())

    def remove(self) -> None:
        self.zone.put(APP, "192.0.2.7", action="DELETE")
        self.zone.client.delete_hosted_zone(Id=self.zone.id)
        self.elb.delete_listener(ListenerArn=self.listener)
        self.elb.delete_load_balancer(LoadBalancerArn=self.balancer)
        self.elb.delete_target_group(TargetGroupArn=self.group)
        self.ec2.release_address(AllocationId=self.allocation)
        self.ec2.delete_route_table(RouteTableId=self.table)
        self.ec2.delete_transit_gateway_vpc_attachment(TransitGatewayAttachmentId=self.attachment)
        self.ec2.delete_transit_gateway_route_table(TransitGatewayRouteTableId=self.gateway_table)
        self.ec2.delete_transit_gateway(TransitGatewayId=self.gateway)
        Ec2(self.stage.access()).deregister(self.image, delete_snapshots=True)


@pytest.fixture
def landscape(stage: Stage) -> Iterator[Landscape]:
    made = Landscape(stage)
    yield made
    made.remove()


def of_key(rights: Rights) -> set[tuple[Identity, str]]:
    """What EC2 needs of the key for volumes and images. The simulator's instances have volumes without it."""
    return {("caller", action) for action in key_actions_of("caller", rights.features)}


def _there_and_back(access: AwsAccess, step: Step) -> None:
    before = look(step)
    settle(access, lambda receipt: apply(step, before, receipt))
    settle(access, lambda receipt: undo(step, before, receipt))


def test_sms_13_the_steps_of_a_cutover_have_the_rights_that_they_use_and_no_others(
    stage: Stage, held: Callable[..., Rights], landscape: Landscape
) -> None:
    rights = held("cutover")
    caller, subnet = rights.sides["caller"], stage.account.subnet_ids[0]
    address = PrepareAddress(caller, subnet=subnet, token=uuid.uuid4().hex, tags={"wavelift:server": "app01"})
    before = look(address)
    settle(caller, lambda receipt: apply(address, before, receipt))
    card = address.interface()
    assert card is not None
    card_id, power = card.interface_id, Instances(caller)
    request = LaunchRequest(landscape.image, "t3.small", subnet, uuid.uuid4().hex, network_interface=card_id)
    # The pace asks the image for its devices.
    instance = Ec2(caller).launch(replace(request, volume_initialization_mib_s=200)).instance_id
    try:
        until(caller, instance_is(instance, "checked"))
        with pytest.raises(BusyError, match="Systems Manager"):  # its image has no agent
            Ssm(caller).send(instance, "AWS-RunShellScript", {"commands": ["true"]}, token=uuid.uuid4().hex)
        Ssm(caller).invocation(str(uuid.uuid4()), instance)
        dns = SwitchRecords(caller, zone=landscape.zone.id, records=[Record(APP, "A", (card.address,))])
        for step in (
            dns,
            RegisterTargets(caller, group=landscape.group, targets=[TARGET]),
            MoveElasticIp(caller, allocation=landscape.allocation, interface=card_id),
            SetSecurityGroups(caller, interface=card_id, groups=[stage.account.security_group_id]),
            SetRoute(caller, table=landscape.table, destination=CIDR, target=card_id),
            SetGatewayRoute(caller, table=landscape.gateway_table, destination=CIDR, attachment=landscape.attachment),
        ):
            _there_and_back(caller, step)
        _replaced(caller, landscape, card_id)
        power.stop(instance)
        until(caller, instance_is(instance, "stopped"))
        power.start(instance)
    finally:
        Ec2(stage.access()).terminate([instance])  # a cutover never does
        settle(caller, lambda receipt: undo(address, before, receipt))
    assert rights.denied() == []
    assert rights.unused() == of_key(rights)


def _replaced(caller: AwsAccess, landscape: Landscape, card: str) -> None:
    """Routes that exist are replaced, not created."""
    route = {"RouteTableId": landscape.table, "DestinationCidrBlock": CIDR}
    landscape.ec2.create_route(**route, TransitGatewayId=landscape.gateway)
    _there_and_back(caller, SetRoute(caller, table=landscape.table, destination=CIDR, target=card))
    landscape.ec2.delete_route(**route)
    route = {"TransitGatewayRouteTableId": landscape.gateway_table, "DestinationCidrBlock": CIDR}
    landscape.ec2.create_transit_gateway_route(**route, TransitGatewayAttachmentId=landscape.attachment)
    _there_and_back(
        caller,
        SetGatewayRoute(caller, table=landscape.gateway_table, destination=CIDR, attachment="blackhole"),
    )
    landscape.ec2.delete_transit_gateway_route(**route)


def test_sms_13_a_test_launch_has_the_rights_that_it_uses_and_no_others(
    stage: Stage, held: Callable[..., Rights], landscape: Landscape
) -> None:
    """Launched, checked, ended; and what is not ours stays, whoever asks."""
    rights, admin = held("test"), stage.access()
    caller, subnet = rights.sides["caller"], stage.account.subnet_ids[0]
    ours, foreign = (
        LaunchRequest(landscape.image, "t3.small", subnet, uuid.uuid4().hex, tags=given)
        for given in (tags("lab", "app01", "lab.test/r1/app01"), {"wavelift:server": "app01"})
    )
    other = Ec2(admin).launch(foreign).instance_id
    # The pace asks the image for its devices.
    instance = Ec2(caller).launch(replace(ours, volume_initialization_mib_s=200)).instance_id
    try:
        until(caller, instance_is(instance, "checked"))
        with pytest.raises(BusyError, match="Systems Manager"):  # its image has no agent
            Ssm(caller).send(instance, "AWS-RunShellScript", {"commands": ["true"]}, token=uuid.uuid4().hex)
        Ssm(caller).invocation(str(uuid.uuid4()), instance)
        assert {one.instance_id for one in Ec2(caller).instances_of([landscape.image])} == {instance, other}
        Ec2(caller).terminate([instance])
        assert rights.denied() == []
        assert rights.unused() == of_key(rights)
        with pytest.raises(PermanentError):
            Ec2(caller).terminate([other])
        assert [one["action"] for one in rights.denied()] == ["ec2:TerminateInstances"]
        assert Ec2(admin).describe_instances([other])[other].state in ("pending", "running")
    finally:
        Ec2(admin).terminate([instance, other])


def test_amp_09_a_backup_has_the_rights_that_it_uses_and_no_others(
    stage: Stage, held: Callable[..., Rights], landscape: Landscape
) -> None:
    rights, admin = held("backup"), stage.access()
    caller = rights.sides["caller"]
    request = LaunchRequest(landscape.image, "t3.small", stage.account.subnet_ids[0], uuid.uuid4().hex)
    instance = Ec2(admin).launch(request).instance_id
    until(admin, instance_is(instance, "running"))
    backups, made, template = Backups(caller), "", ""
    try:
        made = backups.create_image(BackupRequest(instance, f"wavelift-{uuid.uuid4().hex}", tags={"a": "b"})).image_id
        until(caller, image_is_available(made))
        for _ in range(2):
            saved = backups.save_template("app01", made, instance, token=uuid.uuid4().hex, tags={"a": "b"})
            template = saved.template_id
        assert saved.version == 2
        assert rights.denied() == []
        assert rights.unused() == of_key(rights)
    finally:
        Ec2(admin).terminate([instance])
        if template:
            landscape.ec2.delete_launch_template(LaunchTemplateId=template)
        if made:
            Ec2(admin).deregister(made, delete_snapshots=True)
