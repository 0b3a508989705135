"""What a plan of a cutover asks AWS. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterable

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.elbv2 import Elbv2, TargetGroup
from wavelift.base.errors import WaveliftError
from wavelift.rules.plans import ServerPlan


def groups_of(plans: Iterable[ServerPlan]) -> tuple[str, ...]:
    """The ARNs of the target groups that steps of these plans name."""
    steps = [step for plan in plans if plan.cutover is not None for step in plan.cutover.steps]
    return tuple(dict.fromkeys(step.target_group.arn for step in steps if step.target_group is not None))


def look_at_groups(access: AwsAccess, arns: Iterable[str]) -> dict[str, str | None]:
    """ARN → why no instance can become healthy in the target group; None: it can.

    :raises WaveliftError: AWS did not answer, and a retry may help.
    """
    return {arn: _problem(Elbv2(access), arn) for arn in arns}


def _problem(balancing: Elbv2, arn: str) -> str | None:
    try:
        return _unfit(balancing.group(arn))
    except WaveliftError as error:
        if error.retryable:
            raise
        return str(error)


def _unfit(group: TargetGroup) -> str | None:
    if group.kind not in ("instance", "ip"):
        return f"its targets are of type {group.kind}, and not instances or addresses"
    if not group.load_balancers:
        return "no load balancer sends to it: it has no listener"
    return None
