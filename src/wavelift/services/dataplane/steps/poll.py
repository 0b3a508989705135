"""What steps wait for, and one look at many of them: a trigger polls all of a connection in a few calls.

A wait is a text, so that it travels through XCom and can be the key of a shared poller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import GONE_STATES, Ec2
from wavelift.adapters.aws.elbv2 import Elbv2, TargetHealth
from wavelift.adapters.aws.instances import Health, Instances
from wavelift.adapters.aws.route53 import Route53
from wavelift.adapters.aws.routes import Routes
from wavelift.base.errors import NotFoundError, PermanentError

CHECKED: Final = "checked"
_BETWEEN: Final = "|"
"""Of a wait's parts: no id, ARN or address has it."""


def in_sync(change_id: str) -> str:
    """Route 53's name servers answer as the change says."""
    return _wait("in sync", change_id)


def target_is(group: str, target: str, port: int, state: str) -> str:
    """:param state: ``healthy``, or ``drained``: neither registered nor draining."""
    return _wait("target", group, target, str(port), state)


def instance_is(instance_id: str, state: str) -> str:
    """:param state: ``running``, ``stopped``, or ``checked``: EC2's status checks passed."""
    return _wait("instance", instance_id, state)


def image_is_available(image_id: str) -> str:
    return _wait("image", image_id)


def gateway_route_stands(table: str, destination: str) -> str:
    """The transit gateway has made the route."""
    return _wait("gateway route", table, destination)


def answered(step: str) -> str:
    """A person answered. No AWS call tells that: who waits asks the ledger."""
    return _wait("person", step)


def _wait(*parts: str) -> str:
    if any(_BETWEEN in part for part in parts):
        raise PermanentError(f"no id has a {_BETWEEN!r}: {parts}")
    return _BETWEEN.join(parts)


def _parts(wait: str) -> tuple[str, ...]:
    return tuple(wait.split(_BETWEEN))


def poll(aws: AwsAccess, waits: Iterable[str]) -> dict[str, bool]:
    """Whether each wait is over. One call for each change, target group and route; one or two for all instances.

    Over is also what can't come any more, such as the health of a target that was deregistered. So when a wait is over,
    ask the step: its ``apply``, ``undo`` or ``verify`` says what became of it.
    """
    kinds: dict[str, list[str]] = {}
    for wait in dict.fromkeys(waits):
        kinds.setdefault(_parts(wait)[0], []).append(wait)
    found: dict[str, bool] = {}
    for kind, same in kinds.items():
        if kind not in _KINDS:
            raise PermanentError(f"nothing here can poll {same[0]!r}", next_step="Wait for it where it is known")
        found |= _KINDS[kind](aws, same)
    return found


def _changes(aws: AwsAccess, waits: list[str]) -> dict[str, bool]:
    dns = Route53(aws)
    return {wait: _or_over(partial(dns.in_sync, _parts(wait)[1])) for wait in waits}


def _targets(aws: AwsAccess, waits: list[str]) -> dict[str, bool]:
    groups: dict[str, list[str]] = {}
    for wait in waits:
        groups.setdefault(_parts(wait)[1], []).append(wait)
    found: dict[str, bool] = {}
    for group, same in groups.items():
        try:
            health = Elbv2(aws).health(group)
        except NotFoundError:
            found |= dict.fromkeys(same, True)
            continue
        for wait in same:
            _, _, target, port, state = _parts(wait)
            found[wait] = target_settled(health.get((target, int(port))), state)
    return found


def target_settled(health: TargetHealth | None, state: str) -> bool:
    """Over for ``drained`` once the group does not know the target; for ``healthy`` also if it can't become so."""
    if state == "drained":
        return health is None or not (health.is_registered or health.is_draining)
    return health is None or not health.is_registered or health.is_useless or health.state == "healthy"


def _instances(aws: AwsAccess, waits: list[str]) -> dict[str, bool]:
    wanted = [_parts(wait)[1:] for wait in waits]
    look = Instances(aws).health if any(state == CHECKED for _, state in wanted) else Instances(aws).states
    health = look(name for name, _ in wanted)
    return {wait: instance_settled(health.get(_parts(wait)[1]), _parts(wait)[2]) for wait in waits}


def instance_settled(health: Health | None, state: str) -> bool:
    """Over also if it is terminated, or stopped while it is to run: nothing starts it by itself."""
    if health is None or health.state in GONE_STATES:
        return True
    if state == "stopped":
        return health.state == "stopped"
    if health.state in {"stopping", "stopped"}:
        return True
    return health.passed if state == CHECKED else health.state == "running"


def _images(aws: AwsAccess, waits: list[str]) -> dict[str, bool]:
    images = Ec2(aws).images(_parts(wait)[1] for wait in waits)
    states = {wait: images[name].state if (name := _parts(wait)[1]) in images else "" for wait in waits}
    return {wait: state != "pending" for wait, state in states.items()}


def _gateway_routes(aws: AwsAccess, waits: list[str]) -> dict[str, bool]:
    routes = Routes(aws)

    def stands(table: str, destination: str) -> bool:
        return routes.gateway_route(table, destination)[1] != "pending"

    return {wait: _or_over(partial(stands, *_parts(wait)[1:])) for wait in waits}


def _or_over(ask: Callable[[], bool]) -> bool:
    try:
        return ask()
    except NotFoundError:
        return True


_KINDS: Final[Mapping[str, Callable[[AwsAccess, list[str]], dict[str, bool]]]] = {
    "in sync": _changes,
    "target": _targets,
    "instance": _instances,
    "image": _images,
    "gateway route": _gateway_routes,
}
