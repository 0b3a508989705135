"""Routes of a VPC and of a transit gateway: none is replaced that is not there, none is made twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
Launch = Callable[..., str]


@pytest.fixture(scope="session")
def gateway(ec2: Any, base: Bootstrap) -> tuple[str, str]:
    """A transit gateway, attached to the VPC: its id and the attachment's."""
    made: str = ec2.create_transit_gateway()["TransitGateway"]["TransitGatewayId"]
    attached = ec2.create_transit_gateway_vpc_attachment(
        TransitGatewayId=made, VpcId=base.vpc_id, SubnetIds=[base.subnet_ids[0]]
    )["TransitGatewayVpcAttachment"]
    return made, attached["TransitGatewayAttachmentId"]


@pytest.fixture
def table(ec2: Any, base: Bootstrap) -> Iterator[str]:
    made: str = ec2.create_route_table(VpcId=base.vpc_id)["RouteTable"]["RouteTableId"]
    yield made
    ec2.delete_route_table(RouteTableId=made)


def test_routes_of_a_vpc(
    sim: AwsSimulator,
    ec2: Any,
    base: Bootstrap,
    table: str,
    gateway: tuple[str, str],
    launch: Launch,
    refused: Refused,
) -> None:
    before = sim.state()
    where = {"RouteTableId": table, "DestinationCidrBlock": "10.50.0.0/24"}
    one = launch(SubnetId=base.subnet_ids[0])
    found = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"][0]
    card = found["NetworkInterfaces"][0]["NetworkInterfaceId"]
    refused("InvalidParameterValue", ec2.replace_route, **where, NetworkInterfaceId=card)
    refused("InvalidRoute.NotFound", ec2.delete_route, **where)
    refused("MissingParameter", ec2.create_route, **where)
    refused("InvalidParameterCombination", ec2.create_route, **where, NetworkInterfaceId=card, GatewayId="igw-1")
    refused("InvalidTransitGatewayID.NotFound", ec2.create_route, **where, TransitGatewayId="tgw-0123456789abcdef0")
    refused("InvalidNetworkInterfaceID.NotFound", ec2.create_route, **where, NetworkInterfaceId="eni-0123456789abcdef0")
    ec2.create_route(**where, NetworkInterfaceId=card)
    for target in ({"NetworkInterfaceId": card}, {"TransitGatewayId": gateway[0]}):
        refused("RouteAlreadyExists", ec2.create_route, **where, **target)
    assert sim.state()["routes"] == {table: {"10.50.0.0/24": card}}

    def state() -> str:
        routes = ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        return str(next(item["State"] for item in routes if item["DestinationCidrBlock"] == "10.50.0.0/24"))

    assert state() == "active"
    ec2.stop_instances(InstanceIds=[one])
    assert state() == "blackhole", "nobody takes what is sent there"
    ec2.replace_route(**where, TransitGatewayId=gateway[0])
    assert (state(), sim.state()["routes"]) == ("active", {table: {"10.50.0.0/24": gateway[0]}})
    ec2.delete_route(**where)
    ec2.terminate_instances(InstanceIds=[one])
    assert sim.state() == before


def test_routes_of_a_transit_gateway(sim: AwsSimulator, ec2: Any, gateway: tuple[str, str], refused: Refused) -> None:
    before = sim.state()
    made, attachment = gateway
    table = ec2.create_transit_gateway_route_table(TransitGatewayId=made)["TransitGatewayRouteTable"][
        "TransitGatewayRouteTableId"
    ]
    where = {"TransitGatewayRouteTableId": table, "DestinationCidrBlock": "10.60.0.0/16"}
    to = {"TransitGatewayAttachmentId": attachment}
    refused("InvalidRoute.NotFound", ec2.replace_transit_gateway_route, **where, **to)
    refused("InvalidRoute.NotFound", ec2.delete_transit_gateway_route, **where)
    refused("InvalidParameterCombination", ec2.create_transit_gateway_route, **where)
    unknown = {"TransitGatewayAttachmentId": "tgw-attach-0123456789abcdef0"}
    refused("InvalidTransitGatewayAttachmentID.NotFound", ec2.create_transit_gateway_route, **where, **unknown)
    lost = {**where, "TransitGatewayRouteTableId": "tgw-rtb-0123456789abcdef0"}
    refused("InvalidRouteTableID.NotFound", ec2.create_transit_gateway_route, **lost, **to)
    ec2.create_transit_gateway_route(**where, **to)
    refused("RouteAlreadyExists", ec2.create_transit_gateway_route, **where, Blackhole=True)
    ec2.create_transit_gateway_route(**{**where, "DestinationCidrBlock": "10.60.7.0/24"}, Blackhole=True)

    def search(name: str, value: str) -> list[tuple[str, str]]:
        found = ec2.search_transit_gateway_routes(
            TransitGatewayRouteTableId=table, Filters=[{"Name": name, "Values": [value]}]
        )["Routes"]
        return [(item["DestinationCidrBlock"], item["State"]) for item in found]

    assert search("route-search.exact-match", "10.60.0.0/16") == [("10.60.0.0/16", "active")]
    assert search("route-search.longest-prefix-match", "10.60.7.9/32") == [("10.60.7.0/24", "blackhole")]
    assert search("attachment.transit-gateway-attachment-id", attachment) == [("10.60.0.0/16", "active")]
    route = ec2.replace_transit_gateway_route(**where, Blackhole=True)["Route"]
    assert (route["State"], route["Type"]) == ("blackhole", "static")
    assert sim.state()["transit_gateway_routes"] == {table: {"10.60.0.0/16": "blackhole", "10.60.7.0/24": "blackhole"}}
    route = ec2.replace_transit_gateway_route(**where, **to)["Route"]
    assert route["TransitGatewayAttachments"][0]["TransitGatewayAttachmentId"] == attachment
    for block in ("10.60.0.0/16", "10.60.7.0/24"):
        ec2.delete_transit_gateway_route(TransitGatewayRouteTableId=table, DestinationCidrBlock=block)
    ec2.delete_transit_gateway_route_table(TransitGatewayRouteTableId=table)
    assert sim.state() == before
