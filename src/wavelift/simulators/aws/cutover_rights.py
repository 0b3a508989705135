"""The IAM actions of the calls that switch traffic, and the resources they are asked for.

Service Authorization Reference: Amazon EC2, Route 53, Elastic Load Balancing v2, Systems Manager.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Final

from wavelift.simulators.aws.policy import Use
from wavelift.simulators.aws.settings import ACCOUNT, partition_of
from wavelift.simulators.kit.message import Request

EC2_NAMED: Final[dict[str, tuple[str, ...]]] = {
    "AssociateAddress": ("AllocationId", "NetworkInterfaceId", "InstanceId"),
    "CreateImage": ("InstanceId",),
    "CreateLaunchTemplateVersion": ("LaunchTemplateId",),
    "CreateNetworkInterface": ("SubnetId", "SecurityGroupId."),
    "CreateRoute": ("RouteTableId",),
    "CreateTransitGatewayRoute": ("TransitGatewayRouteTableId", "TransitGatewayAttachmentId"),
    "DeleteNetworkInterface": ("NetworkInterfaceId",),
    "DeleteRoute": ("RouteTableId",),
    "DeleteTransitGatewayRoute": ("TransitGatewayRouteTableId",),
    "ModifyLaunchTemplate": ("LaunchTemplateId",),
    "ModifyNetworkInterfaceAttribute": ("NetworkInterfaceId", "SecurityGroupId."),
    "ReplaceRoute": ("RouteTableId",),
    "ReplaceTransitGatewayRoute": ("TransitGatewayRouteTableId", "TransitGatewayAttachmentId"),
    "SearchTransitGatewayRoutes": ("TransitGatewayRouteTableId",),
    "StartInstances": ("InstanceId.",),
    "StopInstances": ("InstanceId.",),
}
"""Parameters that name resources; those with a dot at the end are lists."""
EC2_MADE: Final[dict[str, tuple[str, ...]]] = {
    "CreateImage": ("image/*", "snapshot/*"),
    "CreateLaunchTemplate": ("launch-template/*",),
    "CreateNetworkInterface": ("network-interface/*",),
    "DisassociateAddress": ("elastic-ip/*",),
}
"""What has no id yet. DisassociateAddress names only the association."""
ELB_WRITES: Final = ("RegisterTargets", "DeregisterTargets")


def ec2_resources(operation: str, form: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Ids that the request names, and resources without an id."""
    ids = [
        value
        for parameter in EC2_NAMED.get(operation, ())
        for name, value in form.items()
        if name == parameter or (parameter.endswith(".") and name.startswith(parameter))
    ]
    return ids, list(EC2_MADE.get(operation, ()))


def route53_uses(request: Request, region: str) -> Iterator[Use]:
    kind = "change" if request.operation == "GetChange" else "hostedzone"
    if request.operation and " " not in request.operation:
        yield Use(f"route53:{request.operation}", f"arn:{partition_of(region)}:route53:::{kind}/{request.target}")


def elb_uses(request: Request, form: Mapping[str, str]) -> Iterator[Use]:
    resource = form.get("TargetGroupArn", "*") if request.operation in ELB_WRITES else "*"
    if request.operation:
        yield Use(f"elasticloadbalancing:{request.operation}", resource)


def ssm_uses(request: Request, region: str) -> Iterator[Use]:
    partition = partition_of(region)
    if request.operation != "SendCommand":
        yield Use(f"ssm:{request.operation}", "*")
        return
    values = json.loads(request.body.content or b"{}")
    for name in values.get("InstanceIds") or []:
        yield Use("ssm:SendCommand", f"arn:{partition}:ec2:{region}:{ACCOUNT}:instance/{name}")
    # AWS's own documents have no account.
    name = str(values.get("DocumentName"))
    owner = "" if name.startswith("AWS-") else ACCOUNT
    yield Use("ssm:SendCommand", f"arn:{partition}:ssm:{region}:{owner}:document/{name}")
