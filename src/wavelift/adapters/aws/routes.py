"""Static routes: of VPC route tables and of transit gateway route tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from botocore.exceptions import ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors, error_code, is_missing
from wavelift.base.errors import NotFoundError, PermanentError

TARGETS: Final = {
    "cagw-": "CarrierGatewayId",
    "eigw-": "EgressOnlyInternetGatewayId",
    "eni-": "NetworkInterfaceId",
    "igw-": "GatewayId",
    "lgw-": "LocalGatewayId",
    "nat-": "NatGatewayId",
    "pcx-": "VpcPeeringConnectionId",
    "tgw-": "TransitGatewayId",
    "vgw-": "GatewayId",
    "vpce-": "VpcEndpointId",
}
"""Parameter of CreateRoute and ReplaceRoute for what an id begins with. No instances: EC2 names their interface."""
READ: Final = tuple(dict.fromkeys(TARGETS.values()))
PROPAGATED: Final = "EnableVgwRoutePropagation"
BLACKHOLE: Final = "blackhole"


def destination_parameter(destination: str) -> str:
    if destination.startswith("pl-"):
        return "DestinationPrefixListId"
    return "DestinationIpv6CidrBlock" if ":" in destination else "DestinationCidrBlock"


def target_parameter(target: str) -> dict[str, str]:
    """:raises PermanentError: no route can lead there."""
    for prefix, parameter in TARGETS.items():
        if target.startswith(prefix):
            return {parameter: target}
    raise PermanentError(
        f"a route to {target} can't be made",
        next_step=f"Name a target whose id begins with one of {', '.join(TARGETS)}",
    )


class Routes:
    """Route tables of one account and region. Routes that a gateway propagates are not ours to change: left out."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    # -- VPC ------------------------------------------------------------------------------------------------------

    def target(self, table: str, destination: str) -> str:
        """Id that the static route leads to; empty without such a route.

        :raises NotFoundError: there is no such table.
        """
        with aws_errors("could not look at the route table", service="ec2", route_table=table):
            found = self._client.describe_route_tables(Filters=[{"Name": "route-table-id", "Values": [table]}])
        if not found["RouteTables"]:
            raise NotFoundError("there is no such route table", next_step="Check account and region", route_table=table)
        member = destination_parameter(destination)
        for route in found["RouteTables"][0].get("Routes", ()):
            if route.get(member) == destination and route.get("Origin") != PROPAGATED:
                return _target_of(route)
        return ""

    def replace(self, table: str, destination: str, target: str) -> None:
        """:raises PermanentError: there is no such route."""
        self._write("replace_route", table, destination, **target_parameter(target))

    def create(self, table: str, destination: str, target: str) -> None:
        """:raises PermanentError: there is such a route already, to another target."""
        self._write("create_route", table, destination, **target_parameter(target))

    def delete(self, table: str, destination: str) -> None:
        """One that is gone is fine."""
        try:
            self._write("delete_route", table, destination)
        except NotFoundError as error:
            if not _says(error, "InvalidRoute.NotFound"):
                raise

    def _write(self, operation: str, table: str, destination: str, **target: str) -> None:
        place = {"route_table": table, "destination": destination, **target}
        with aws_errors("could not change the route", service="ec2", **place):
            getattr(self._client, operation)(
                RouteTableId=table, **{destination_parameter(destination): destination}, **target
            )

    # -- transit gateway ------------------------------------------------------------------------------------------

    def gateway_route(self, table: str, destination: str) -> tuple[str, str]:
        """Attachment of the static route (or :data:`BLACKHOLE`) and its state; both empty without such a route.

        :raises NotFoundError: there is no such table.
        """
        chosen = [
            {"Name": "route-search.exact-match", "Values": [destination]},
            {"Name": "type", "Values": ["static"]},
        ]
        with aws_errors("could not look at the transit gateway's routes", service="ec2", route_table=table):
            found = self._client.search_transit_gateway_routes(TransitGatewayRouteTableId=table, Filters=chosen)
        for route in found.get("Routes", ()):
            state = route.get("State", "")
            if route.get("DestinationCidrBlock") == destination and state not in {"deleting", "deleted"}:
                attachments: list[dict[str, str]] = route.get("TransitGatewayAttachments") or []
                attached = attachments[0].get("TransitGatewayAttachmentId", "") if attachments else ""
                return attached or BLACKHOLE, state
        return "", ""

    def replace_gateway_route(self, table: str, destination: str, attachment: str) -> None:
        self._write_gateway("replace_transit_gateway_route", table, destination, _attachment(attachment))

    def create_gateway_route(self, table: str, destination: str, attachment: str) -> None:
        self._write_gateway("create_transit_gateway_route", table, destination, _attachment(attachment))

    def delete_gateway_route(self, table: str, destination: str) -> None:
        """One that is gone is fine."""
        with aws_errors("could not delete the route", service="ec2", route_table=table, destination=destination):
            try:
                self._client.delete_transit_gateway_route(
                    TransitGatewayRouteTableId=table, DestinationCidrBlock=destination
                )
            except ClientError as error:
                if not is_missing(error_code(error)):
                    raise

    def _write_gateway(self, operation: str, table: str, destination: str, more: Mapping[str, Any]) -> None:
        place = {"route_table": table, "destination": destination, "target": str(next(iter(more.values())))}
        with aws_errors("could not change the transit gateway's route", service="ec2", **place):
            getattr(self._client, operation)(TransitGatewayRouteTableId=table, DestinationCidrBlock=destination, **more)


def _attachment(attachment: str) -> dict[str, Any]:
    return {"Blackhole": True} if attachment == BLACKHOLE else {"TransitGatewayAttachmentId": attachment}


def _target_of(route: Mapping[str, Any]) -> str:
    # The route to an attached interface names its instance as well.
    return next((str(route[member]) for member in READ if route.get(member)), "")


def _says(error: Exception, code: str) -> bool:
    said = error.__cause__
    return isinstance(said, ClientError) and error_code(said) == code
