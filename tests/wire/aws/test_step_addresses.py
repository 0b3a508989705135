"""Steps over interfaces, Elastic IP addresses, security groups and routes, against the simulator's EC2."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from tests.wire.aws.proving import Proof, settle

from wavelift.adapters.aws import addresses
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.services.dataplane.steps.addresses import MoveElasticIp, PrepareAddress, SetSecurityGroups
from wavelift.services.dataplane.steps.routing import SetGatewayRoute, SetRoute
from wavelift.services.dataplane.steps.step import ChangedElsewhere, apply, look, undo
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

ADDRESS = "10.20.1.77"
Make = Callable[..., str]


@pytest.fixture
def ec2(aws: AwsSimulator) -> Any:
    return aws.client("ec2")


@pytest.fixture
def interface(aws: AwsSimulator, ec2: Any, account: Bootstrap) -> Iterator[Make]:
    """Makes interfaces of somebody else; their ids."""
    made: list[str] = []

    def make(address: str = "") -> str:
        more = {"PrivateIpAddress": address} if address else {}
        found = ec2.create_network_interface(SubnetId=account.subnet_ids[0], Groups=[account.security_group_id], **more)
        made.append(found["NetworkInterface"]["NetworkInterfaceId"])
        return made[-1]

    yield make
    aws.clear_rules()
    for one in made:
        ec2.delete_network_interface(NetworkInterfaceId=one)


@pytest.fixture
def prepare(access: AwsAccess, account: Bootstrap) -> Callable[..., PrepareAddress]:
    return partial(
        PrepareAddress,
        access,
        subnet=account.subnet_ids[0],
        token=uuid.uuid4().hex,
        security_groups=[account.security_group_id],
        tags={"wavelift:server": "app01"},
    )


def test_inv_5_an_interface_is_made_once_and_deleted(
    aws: AwsSimulator,
    access: AwsAccess,
    account: Bootstrap,
    prepare: Callable[..., PrepareAddress],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Again and again under the same token, of which EC2 remembers what was deleted."""
    monkeypatch.setattr(addresses, "SEEN_WAIT_S", 0.1)
    make = partial(prepare, address=ADDRESS)
    proof = Proof(aws, access, make, lambda: None, "CreateNetworkInterface", "DeleteNetworkInterface")
    before = look(make())
    assert before == "free"
    proof.round_trip(before)
    proof.lost_answers(before)
    proof.applied(before)
    (found,) = Addresses(access).interfaces_at(account.subnet_ids[0], ADDRESS)
    assert found == make().interface()
    assert (found.address, found.security_groups) == (ADDRESS, (account.security_group_id,))
    assert found.tags["wavelift:server"] == "app01"
    proof.undone(before)
    assert make().name == f"address:{account.subnet_ids[0]}:{ADDRESS}"


def test_a_subnet_may_choose_the_address(access: AwsAccess, prepare: Callable[..., PrepareAddress]) -> None:
    step = prepare()
    before = look(step)
    settle(access, lambda receipt: apply(step, before, receipt))
    found = step.interface()
    assert found is not None
    assert found.address.startswith("10.20.1.")
    settle(access, lambda receipt: undo(step, before, receipt))
    assert step.interface() is None


def test_an_address_that_somebody_has_is_refused_and_said(
    access: AwsAccess, prepare: Callable[..., PrepareAddress], interface: Make
) -> None:
    free = look(prepare(address=ADDRESS))
    theirs = interface(ADDRESS)
    with pytest.raises(PermanentError, match=f"taken by {theirs}"):
        look(prepare(address=ADDRESS))
    with pytest.raises(ChangedElsewhere, match=f"now=taken by {theirs}"):
        apply(prepare(address=ADDRESS), free)


def test_inv_12_an_elastic_ip_moves_and_comes_back(
    aws: AwsSimulator, access: AwsAccess, ec2: Any, interface: Make
) -> None:
    old, new, theirs = (interface() for _ in range(3))
    allocation = ec2.allocate_address(Domain="vpc")["AllocationId"]
    try:

        def take() -> None:
            ec2.associate_address(AllocationId=allocation, NetworkInterfaceId=theirs, AllowReassociation=True)

        make = partial(MoveElasticIp, access, allocation=allocation, interface=new)
        proof = Proof(aws, access, make, take, "AssociateAddress", "DisassociateAddress")
        assert proof.run()["interface"] == ""
        ec2.associate_address(AllocationId=allocation, NetworkInterfaceId=old, AllowReassociation=True)
        before = proof.run()
        assert before["interface"] == old
        # Killed between the two calls, on either way.
        for call, end in ((apply, new), (undo, old)):
            association = Addresses(access).elastic_ip(allocation).association_id
            if association:
                ec2.disassociate_address(AssociationId=association)
            settle(access, lambda receipt, call=call: call(make(), before, receipt))  # type: ignore[misc]
            assert make().read()["interface"] == end
    finally:
        association = Addresses(access).elastic_ip(allocation).association_id
        if association:
            ec2.disassociate_address(AssociationId=association)
        ec2.release_address(AllocationId=allocation)
    with pytest.raises(NotFoundError, match=f"allocation={allocation}"):
        look(make())


def test_inv_12_security_groups_are_set_and_set_back(
    aws: AwsSimulator, access: AwsAccess, ec2: Any, account: Bootstrap, interface: Make
) -> None:
    card = interface()
    groups = [
        ec2.create_security_group(GroupName=uuid.uuid4().hex, Description="of a test", VpcId=account.vpc_id)["GroupId"]
        for _ in range(2)
    ]
    try:

        def meddle() -> None:
            ec2.modify_network_interface_attribute(NetworkInterfaceId=card, Groups=[groups[1]])

        make = partial(SetSecurityGroups, access, interface=card, groups=[*groups, account.security_group_id])
        before = Proof(aws, access, make, meddle, "ModifyNetworkInterfaceAttribute").run()
        assert before == [account.security_group_id]
    finally:
        ec2.modify_network_interface_attribute(NetworkInterfaceId=card, Groups=[account.security_group_id])
        for group in groups:
            ec2.delete_security_group(GroupId=group)
    with pytest.raises(NotFoundError):
        look(SetSecurityGroups(access, interface="eni-0123456789abcdef0", groups=groups))


@pytest.fixture
def table(aws: AwsSimulator, ec2: Any, account: Bootstrap) -> Iterator[str]:
    made = ec2.create_route_table(VpcId=account.vpc_id)["RouteTable"]["RouteTableId"]
    yield made
    aws.clear_rules()
    ec2.delete_route_table(RouteTableId=made)


@pytest.mark.parametrize(
    ("existed", "write", "unwrite"),
    [(True, "ReplaceRoute", ""), (False, "CreateRoute", "DeleteRoute")],
    ids=["replaced", "created"],
)
def test_inv_12_a_route_is_set_and_set_back(
    aws: AwsSimulator,
    access: AwsAccess,
    ec2: Any,
    table: str,
    interface: Make,
    existed: bool,
    write: str,
    unwrite: str,
) -> None:
    old, new, theirs = (interface() for _ in range(3))
    route = {"RouteTableId": table, "DestinationCidrBlock": "172.16.0.0/16"}
    if existed:
        ec2.create_route(**route, NetworkInterfaceId=old)
    make = partial(SetRoute, access, table=table, destination="172.16.0.0/16", target=new)
    before = Proof(
        aws, access, make, lambda: ec2.replace_route(**route, NetworkInterfaceId=theirs), write, unwrite
    ).run()
    assert before == (old if existed else "")
    ec2.delete_route(**route)


def test_a_route_that_cant_be_put_back_is_refused(
    access: AwsAccess, ec2: Any, table: str, account: Bootstrap, interface: Make
) -> None:
    with pytest.raises(PermanentError, match="a route to local"):
        look(SetRoute(access, table=table, destination="10.20.0.0/16", target=interface()))
    with pytest.raises(PermanentError, match="a route to i-0123"):
        look(SetRoute(access, table=table, destination="172.16.0.0/16", target="i-0123"))
    with pytest.raises(NotFoundError, match="route_table=rtb-0123456789abcdef0"):
        look(SetRoute(access, table="rtb-0123456789abcdef0", destination="172.16.0.0/16", target=interface()))


@pytest.fixture
def gateway(aws: AwsSimulator, ec2: Any) -> Iterator[str]:
    """A route table of a transit gateway."""
    made = ec2.create_transit_gateway()["TransitGateway"]["TransitGatewayId"]
    yield ec2.create_transit_gateway_route_table(TransitGatewayId=made)["TransitGatewayRouteTable"][
        "TransitGatewayRouteTableId"
    ]
    aws.clear_rules()
    for one in ec2.describe_transit_gateway_route_tables()["TransitGatewayRouteTables"]:
        ec2.delete_transit_gateway_route_table(TransitGatewayRouteTableId=one["TransitGatewayRouteTableId"])
    ec2.delete_transit_gateway(TransitGatewayId=made)


@pytest.mark.parametrize(
    ("existed", "write", "unwrite"),
    [
        (True, "ReplaceTransitGatewayRoute", ""),
        (False, "CreateTransitGatewayRoute", "DeleteTransitGatewayRoute"),
    ],
    ids=["replaced", "created"],
)
def test_inv_12_a_transit_gateways_route_is_set_and_set_back(
    aws: AwsSimulator,
    access: AwsAccess,
    ec2: Any,
    gateway: str,
    account: Bootstrap,
    existed: bool,
    write: str,
    unwrite: str,
) -> None:
    tgw = ec2.describe_transit_gateways()["TransitGateways"][0]["TransitGatewayId"]
    attachment = ec2.create_transit_gateway_vpc_attachment(
        TransitGatewayId=tgw, VpcId=account.vpc_id, SubnetIds=[account.subnet_ids[0]]
    )["TransitGatewayVpcAttachment"]["TransitGatewayAttachmentId"]
    route = {"TransitGatewayRouteTableId": gateway, "DestinationCidrBlock": "172.16.0.0/16"}

    def meddle() -> None:
        ec2.delete_transit_gateway_route(**route)
        if not existed:
            ec2.create_transit_gateway_route(**route, Blackhole=True)

    if existed:
        ec2.create_transit_gateway_route(**route, Blackhole=True)
    make = partial(SetGatewayRoute, access, table=gateway, destination="172.16.0.0/16", attachment=attachment)
    try:
        before = Proof(aws, access, make, meddle, write, unwrite).run()
        assert before == ("blackhole" if existed else "")
    finally:
        if make().read():
            ec2.delete_transit_gateway_route(**route)
        ec2.delete_transit_gateway_vpc_attachment(TransitGatewayAttachmentId=attachment)


def test_states_are_json(access: AwsAccess, table: str, interface: Make) -> None:
    card = interface()
    for step in (
        SetRoute(access, table=table, destination="172.16.0.0/16", target=card),
        SetSecurityGroups(access, interface=card, groups=["sg-1"]),
    ):
        state = step.read()
        assert json.loads(json.dumps(state)) == state
