"""Routes of VPCs and of transit gateways."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult
from moto.ec2.models.route_tables import Route

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import NO_TRANSIT_ROUTE_CODE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import plain

TARGETS: Final = (
    *("GatewayId", "InstanceId", "NetworkInterfaceId", "VpcPeeringConnectionId", "NatGatewayId"),
    *("EgressOnlyInternetGatewayId", "TransitGatewayId", "CarrierGatewayId", "VpcEndpointId"),
)
DESTINATIONS: Final = ("DestinationCidrBlock", "DestinationIpv6CidrBlock", "DestinationPrefixListId")
GONE: Final = ("deleted", "deleting", "failed")


class RouteActions:
    """A mixin of moto's EC2Response."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        ec2_backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...
        def _filters_from_querystring(self) -> dict[str, list[str]]: ...
        def error_on_dryrun(self) -> None: ...

    def create_route(self) -> ActionResult:
        """moto looks for a route that exists only if the target is no interface."""
        values = plain(self.params)
        table = self.ec2_backend.get_route_table(values.get("RouteTableId"))
        self._check_route_target(table, values)
        wanted = _destination(values)
        if any(wanted == _shown(route) for route in table.routes):
            raise AwsError("RouteAlreadyExists", f"The route identified by {wanted} already exists.", 400)
        self.error_on_dryrun()
        result: ActionResult = super().create_route()  # type: ignore[misc]
        return result

    def replace_route(self) -> ActionResult:
        """Of a route that does not exist AWS says InvalidParameterValue, not InvalidRoute.NotFound as DeleteRoute (moto
        found it out: pull request 6425), and so does moto."""
        values = plain(self.params)
        table = self.ec2_backend.get_route_table(values.get("RouteTableId"))
        self._check_route_target(table, values)
        self.error_on_dryrun()
        result: ActionResult = super().replace_route()  # type: ignore[misc]
        return result

    def delete_route(self) -> ActionResult:
        self.error_on_dryrun()
        result: ActionResult = super().delete_route()  # type: ignore[misc]
        return result

    def _check_route_target(self, table: Any, values: Mapping[str, Any]) -> None:
        """Exactly one, and it exists."""
        given = [name for name in TARGETS if values.get(name)]
        if len(given) != 1:
            code = "MissingParameter" if not given else "InvalidParameterCombination"
            raise AwsError(code, "The request must contain exactly one of the route's targets", 400)
        ec2 = self.ec2_backend
        if name := values.get("TransitGatewayId"):
            attached = [
                one
                for one in ec2.transit_gateway_attachments.values()
                if one.transit_gateway_id == name and one.resource_id == table.vpc_id and one.state not in GONE
            ]
            if not attached:
                text = f"transitGateway {name} was deleted or does not exist."
                raise AwsError("InvalidTransitGatewayID.NotFound", text, 400)
        if (name := values.get("NatGatewayId")) and name not in ec2.nat_gateways:
            raise AwsError("InvalidNatGatewayID.NotFound", f"The natGateway ID '{name}' does not exist", 400)

    # transit gateways

    def create_transit_gateway_route(self) -> ActionResult:
        table, block, route = self._transit_route()
        if block in table.routes:
            text = f"Route {block} already exists in Transit Gateway Route Table {table.id}."
            raise AwsError("RouteAlreadyExists", text, 400)
        return self._put_transit_route(table, block, route)

    def replace_transit_gateway_route(self) -> ActionResult:
        table, block, route = self._transit_route()
        self._known_transit_route(table, block)
        return self._put_transit_route(table, block, route)

    def delete_transit_gateway_route(self) -> ActionResult:
        table, block = self._transit_table(), str(self._get_param("DestinationCidrBlock"))
        route = self._known_transit_route(table, block)
        self.error_on_dryrun()
        del table.routes[block]
        return ActionResult({"Route": {**route, "State": "deleted"}})

    def search_transit_gateway_routes(self) -> ActionResult:
        table, filters = self._transit_table(), self._filters_from_querystring()
        if not filters:
            raise AwsError("MissingParameter", "The request must contain the parameter Filters", 400)
        found = [{**route, "State": self._transit_state(route)} for route in table.routes.values()]
        for name, values in filters.items():
            if name not in SEARCHES:
                raise AwsError("InvalidParameterValue", f"The filter '{name}' is invalid", 400)
            found = SEARCHES[name](found, values)
        size = int(self._get_param("MaxResults") or 1000)
        return ActionResult({"Routes": found[:size], "AdditionalRoutesAvailable": len(found) > size})

    def _transit_table(self) -> Any:
        name = self._get_param("TransitGatewayRouteTableId")
        table = self.ec2_backend.transit_gateways_route_tables.get(name)
        if table is None or table.state in GONE:
            text = f"Transit Gateway Route Table {name} was deleted or does not exist."
            raise AwsError("InvalidRouteTableID.NotFound", text, 400)
        return table

    def _transit_route(self) -> tuple[Any, str, dict[str, Any]]:
        """The table, the destination and the route of a request."""
        table, values = self._transit_table(), plain(self.params)
        block = _network(values.get("DestinationCidrBlock") or "")
        name, blackhole = values.get("TransitGatewayAttachmentId"), bool(values.get("Blackhole"))
        if bool(name) == blackhole:
            raise AwsError(
                "InvalidParameterCombination", "A route needs either an attachment or to be a blackhole", 400
            )
        route: dict[str, Any] = {
            "DestinationCidrBlock": block,
            "Type": "static",
            "State": "blackhole" if blackhole else "active",
        }
        if name:
            attachment = self.ec2_backend.transit_gateway_attachments.get(name)
            if attachment is None or attachment.state in GONE:
                text = f"Transit Gateway Attachment {name} was deleted or does not exist."
                raise AwsError("InvalidTransitGatewayAttachmentID.NotFound", text, 400)
            route["TransitGatewayAttachments"] = [
                {
                    "TransitGatewayAttachmentId": name,
                    "ResourceId": attachment.resource_id,
                    "ResourceType": attachment.resource_type,
                }
            ]
        return table, block, route

    def _put_transit_route(self, table: Any, block: str, route: dict[str, Any]) -> ActionResult:
        self.error_on_dryrun()
        table.routes[block] = route
        return ActionResult({"Route": route})

    def _known_transit_route(self, table: Any, block: str) -> dict[str, Any]:
        found: dict[str, Any] | None = table.routes.get(block)
        if found is None:
            text = f"no route with destination-cidr-block {block} in route table {table.id}"
            raise AwsError(NO_TRANSIT_ROUTE_CODE, text, 400)
        return found

    def _transit_state(self, route: Mapping[str, Any]) -> str:
        """A route whose attachment is gone sends into nothing."""
        known = self.ec2_backend.transit_gateway_attachments
        for one in route.get("TransitGatewayAttachments") or []:
            attachment = known.get(one["TransitGatewayAttachmentId"])
            if attachment is None or attachment.state in GONE:
                return "blackhole"
        return str(route["State"])


Found = list[dict[str, Any]]


def _by(member: str) -> Callable[[Found, list[str]], Found]:
    return lambda found, values: [one for one in found if one[member] in values]


def _by_attachment(found: Found, values: list[str]) -> Found:
    return [
        one
        for one in found
        if {each["TransitGatewayAttachmentId"] for each in one.get("TransitGatewayAttachments") or []} & set(values)
    ]


def _exact(found: Found, values: list[str]) -> Found:
    return [one for one in found if one["DestinationCidrBlock"] in {_network(each) for each in values}]


def _longest(found: Found, values: list[str]) -> Found:
    covering = _supernets(found, values)
    return sorted(covering, key=lambda one: -ipaddress.ip_network(one["DestinationCidrBlock"]).prefixlen)[:1]


def _supernets(found: Found, values: list[str]) -> Found:
    wanted = [ipaddress.IPv4Network(each) for each in values]
    return [one for one in found if any(each.subnet_of(_block(one)) for each in wanted)]


def _subnets(found: Found, values: list[str]) -> Found:
    wanted = [ipaddress.IPv4Network(each) for each in values]
    return [one for one in found if any(_block(one).subnet_of(each) for each in wanted)]


def _block(route: Mapping[str, Any]) -> ipaddress.IPv4Network:
    return ipaddress.IPv4Network(route["DestinationCidrBlock"])


SEARCHES: Final[dict[str, Callable[[Found, list[str]], Found]]] = {
    "type": _by("Type"),
    "state": _by("State"),
    "attachment.transit-gateway-attachment-id": _by_attachment,
    "route-search.exact-match": _exact,
    "route-search.longest-prefix-match": _longest,
    "route-search.subnet-of-match": _subnets,
    "route-search.supernet-of-match": _supernets,
}


def _network(text: str) -> str:
    """EC2 modifies a block "to its canonical form"."""
    try:
        return str(ipaddress.ip_network(text, strict=False))
    except ValueError:
        text = f"Value ({text}) for parameter destinationCidrBlock is invalid. This is not a valid CIDR block."
        raise AwsError("InvalidParameterValue", text, 400) from None


def _destination(values: Mapping[str, Any]) -> str:
    name = next((name for name in DESTINATIONS if values.get(name)), "")
    if not name:
        raise AwsError("MissingParameter", "The request must contain the parameter destinationCidrBlock", 400)
    return str(values[name]) if name == "DestinationPrefixListId" else _network(str(values[name]))


def _shown(route: Any) -> str:
    return str(route.destination_cidr_block or route.destination_ipv6_cidr_block or route.destination_prefix_list_id)


def route_state(route: Any) -> str:
    """``blackhole`` for an interface that no running instance has."""
    card, ec2 = route.interface, route.route_table.ec2_backend
    if card is None:
        return "active"
    runs = card.id in ec2.enis and card.instance is not None and card.instance.state == "running"
    return "active" if runs else "blackhole"


Route.state = property(route_state)


def rows(ec2: Any) -> dict[str, dict[str, str]]:
    """Destinations and targets by route table, without the routes that a table begins with."""
    found = {
        str(table.id): {_shown(route): _target(route) for route in table.routes if not route.local}
        for table in ec2.route_tables.values()
    }
    return {name: routes for name, routes in found.items() if routes}


def _target(route: Any) -> str:
    names = (
        *("network_interface_id", "instance_id", "transit_gateway_id", "nat_gateway_id", "gateway_id"),
        *("vpc_peering_connection_id", "egress_only_internet_gateway_id", "carrier_gateway_id"),
    )
    return next((str(value) for name in names if (value := getattr(route, name))), "")


def transit_rows(ec2: Any) -> dict[str, dict[str, str]]:
    """The same of transit gateways: the attachment, or ``blackhole``."""
    found = {
        str(table.id): {
            block: next(
                (one["TransitGatewayAttachmentId"] for one in route.get("TransitGatewayAttachments") or []), "blackhole"
            )
            for block, route in table.routes.items()
        }
        for table in ec2.transit_gateways_route_tables.values()
    }
    return {name: routes for name, routes in found.items() if routes}
