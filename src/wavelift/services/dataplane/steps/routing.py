"""Steps over routes: of VPC route tables and of transit gateway route tables. Static routes only."""

from __future__ import annotations

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.routes import Routes, target_parameter
from wavelift.services.dataplane.steps.poll import gateway_route_stands
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step, Waiting


class SetRoute(Step):
    """Lead a route of a VPC's route table to a target: replace it, or create it where none is.

    A state is the id of the route's target, empty without a route.

    :param destination: CIDR block or prefix list id. :param target: id of a gateway, a network interface …
    """

    kind = "route"

    def __init__(self, aws: AwsAccess, *, table: str, destination: str, target: str) -> None:
        self._routes = Routes(aws)
        self._table, self._destination, self._target = table, destination, target

    @property
    def name(self) -> str:
        return f"route:{self._table}:{self._destination}"

    @property
    def words(self) -> str:
        return f"Route {self._destination} to {self._target} in {self._table}"

    @property
    def undo_words(self) -> str:
        return f"Route {self._destination} as before, or delete the route if there was none"

    def read(self) -> State:
        return self._routes.target(self._table, self._destination)

    def wanted(self, before: State) -> State:
        for each in (before, self._target):
            if each:
                target_parameter(each)  # what can't be written can't be undone
        return self._target

    def change(self, now: State, to: State) -> str:
        if not to:
            self._routes.delete(self._table, self._destination)
        elif now:
            self._routes.replace(self._table, self._destination, to)
        else:
            self._routes.create(self._table, self._destination, to)
        return ""


class SetGatewayRoute(Step):
    """Lead a static route of a transit gateway's route table to an attachment, or into a ``blackhole``.

    A state is the id of the attachment, ``blackhole``, or empty without a route.
    """

    kind = "transit_gateway_route"

    def __init__(self, aws: AwsAccess, *, table: str, destination: str, attachment: str) -> None:
        self._routes = Routes(aws)
        self._table, self._destination, self._attachment = table, destination, attachment

    @property
    def name(self) -> str:
        return f"transit_gateway_route:{self._table}:{self._destination}"

    @property
    def words(self) -> str:
        return f"Route {self._destination} to {self._attachment} in the transit gateway's {self._table}"

    @property
    def undo_words(self) -> str:
        return f"Route {self._destination} as before, or delete the route if there was none"

    def read(self) -> State:
        return self._routes.gateway_route(self._table, self._destination)[0]

    def wanted(self, before: State) -> State:
        return self._attachment

    def change(self, now: State, to: State) -> str:
        if not to:
            self._routes.delete_gateway_route(self._table, self._destination)
        elif now:
            self._routes.replace_gateway_route(self._table, self._destination, to)
        else:
            self._routes.create_gateway_route(self._table, self._destination, to)
        return ""

    def settled(self, to: State, receipt: str = "") -> Outcome:
        if to and self._routes.gateway_route(self._table, self._destination)[1] == "pending":
            wait = gateway_route_stands(self._table, self._destination)
            return Waiting(f"until the route of {self._destination} is active", wait)
        return Settled()
