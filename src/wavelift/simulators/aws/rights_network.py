"""The same as :mod:`.rights` for what a cutover calls: instances, interfaces, routes, DNS, targets, commands.

Resources of an EC2 call are ``kind/id``, or ``kind/*`` for one that the call makes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Final

from wavelift.simulators.aws.policy import Use
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.kit.message import Request

FIELDS: Final = {
    "AllocationId": "elastic-ip",
    "InstanceId": "instance",
    "LaunchTemplateId": "launch-template",
    "NetworkInterfaceId": "network-interface",
    "RouteTableId": "route-table",
    "SubnetId": "subnet",
    "TransitGatewayAttachmentId": "transit-gateway-attachment",
    "TransitGatewayRouteTableId": "transit-gateway-route-table",
    "VolumeId": "volume",
}
"""Parameters that name a resource, and its kind."""
SECURITY_GROUP: Final = re.compile(r"(?:SecurityGroup|Group)(?:Id|Set)?(?:\.item)?\.\d+")
MAKES: Final = {
    "CreateImage": ("image/*", "snapshot/*"),
    "CreateLaunchTemplate": ("launch-template/*",),
    "CreateNetworkInterface": ("network-interface/*",),
    "CreateSnapshot": ("snapshot/*",),
    "CreateSnapshots": ("snapshot/*",),
    "CreateVolume": ("volume/*",),
    "DisassociateAddress": ("elastic-ip/*",),
}
NAMES: Final = frozenset(
    {
        *("StartInstances", "StopInstances", "RebootInstances", "ModifyInstanceAttribute"),
        *("DeleteNetworkInterface", "AttachNetworkInterface", "DetachNetworkInterface"),
        *("ModifyNetworkInterfaceAttribute", "AssignPrivateIpAddresses", "UnassignPrivateIpAddresses"),
        *("AttachVolume", "DetachVolume", "DeleteVolume"),
        *("AssociateAddress", "CreateRoute", "ReplaceRoute", "DeleteRoute"),
        *("CreateTransitGatewayRoute", "ReplaceTransitGatewayRoute", "DeleteTransitGatewayRoute"),
        *("SearchTransitGatewayRoutes", "CreateLaunchTemplateVersion", "DeleteLaunchTemplate", "ModifyLaunchTemplate"),
    }
)
"""EC2's calls on resources that they name."""
BY_ROUTE_TABLE: Final = ("CreateRoute", "ReplaceRoute", "DeleteRoute")
"""Only the table is a resource of these, not the target."""
OF_A_ZONE: Final = frozenset(
    {"ChangeResourceRecordSets", "ListResourceRecordSets", "GetHostedZone", "DeleteHostedZone"}
)
OF_NO_ZONE: Final = frozenset({"ListHostedZones", "ListHostedZonesByName", "CreateHostedZone"})
OF_A_GROUP: Final = frozenset({"RegisterTargets", "DeregisterTargets", "ModifyTargetGroupAttributes"})
COMMANDS: Final = frozenset({"GetCommandInvocation", "CancelCommand", "DescribeInstanceInformation", "ListCommands"})


def ec2_resources(operation: str, form: Mapping[str, str]) -> list[str]:
    if operation not in NAMES and operation not in MAKES:
        return []
    found = list(MAKES.get(operation, ()))
    for name, value in form.items():
        kind = FIELDS.get(name.partition(".")[0])
        if kind and (operation not in BY_ROUTE_TABLE or kind == "route-table"):
            found.append(f"{kind}/{value}")
        elif SECURITY_GROUP.fullmatch(name):
            found.append(f"security-group/{value}")
    return found


def route53(request: Request, partition: str) -> Iterator[Use]:
    where = f"arn:{partition}:route53:::"
    if request.operation in OF_A_ZONE:
        yield Use(f"route53:{request.operation}", f"{where}hostedzone/{request.target}")
    elif request.operation == "GetChange":
        yield Use("route53:GetChange", f"{where}change/{request.target}")
    elif request.operation in OF_NO_ZONE:
        yield Use(f"route53:{request.operation}", "*")


def elasticloadbalancing(operation: str, form: Mapping[str, str]) -> Iterator[Use]:
    """What describes has no resource."""
    if operation.startswith("Describe"):
        yield Use(f"elasticloadbalancing:{operation}", "*")
    elif operation in OF_A_GROUP:
        yield Use(f"elasticloadbalancing:{operation}", form.get("TargetGroupArn", ""))


def ssm(request: Request, partition: str, region: str) -> Iterator[Use]:
    if request.operation in COMMANDS:
        yield Use(f"ssm:{request.operation}", "*")
    elif request.operation == "SendCommand":
        values = json.loads(request.body.content or b"{}")
        document = str(values.get("DocumentName") or "")
        owner = "" if document.startswith("AWS-") else ACCOUNT
        yield Use("ssm:SendCommand", f"arn:{partition}:ssm:{region}:{owner}:document/{document}")
        for one in values.get("InstanceIds") or []:
            yield Use("ssm:SendCommand", f"arn:{partition}:ec2:{region}:{ACCOUNT}:instance/{one}")
