"""Policies that restrict callers: of a bucket, and of an organisation (SCP). Only Deny statements are evaluated.

The conditions are those on calls that create (tags on create, and S3's encryption headers), and for S3's objects who
calls and whether by TLS. A part of an upload, and its end, are not looked at: to begin one is.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Final
from urllib.parse import parse_qsl

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.settings import ACCOUNT, partition_of
from wavelift.simulators.kit.message import Request

MADE: Final = {
    "CreateImage": ("image", "snapshot"),
    "CreateInstanceExportTask": ("export-instance-task",),
    "CreateLaunchTemplate": ("launch-template",),
    "CreateNetworkInterface": ("network-interface",),
    "CreateSnapshot": ("snapshot",),
    "CreateSnapshots": ("snapshot",),
    "CreateVolume": ("volume",),
    "ExportImage": ("export-image-task",),
    "ImportImage": ("import-image-task",),
    "RegisterImage": ("image",),
    "RunInstances": ("instance", "volume", "network-interface"),
}
"""What an EC2 call creates and can tag at the same time (Service Authorization Reference for EC2)."""
SSE: Final = "x-amz-server-side-encryption"
SSE_KEY: Final = "x-amz-server-side-encryption-aws-kms-key-id"
REFUSALS: Final = {
    "ec2": ("UnauthorizedOperation", "You are not authorized to perform this operation."),
    "s3": ("AccessDenied", "Access Denied"),
}
NEGATED: Final = ("StringNot", "ArnNot")
PRINCIPAL: Final = "aws:PrincipalArn"
OBJECT_ACTIONS: Final = {
    "PutObject": "s3:PutObject",
    "CreateMultipartUpload": "s3:PutObject",
    "PutObjectTagging": "s3:PutObjectTagging",
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "DeleteObject": "s3:DeleteObject",
    "GetObject": "s3:GetObject",
    "HeadObject": "s3:GetObject",
}
"""By operation. DeleteObjects asks for each key."""
HAVE_VERSIONS: Final = ("s3:DeleteObject", "s3:GetObject")
"""A version that is named needs a right of its own."""


@dataclass(frozen=True, slots=True)
class Use:
    """One action on one resource, with the values that conditions can test."""

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def check_policy(document: str | bytes, uses: Iterator[Use], service: str) -> None:
    """Raises the service's AwsError if a Deny statement covers a use. An empty document denies nothing."""
    if not document:
        return
    statements = statements_of(json.loads(document))
    for use in uses:
        if any(one.get("Effect") == "Deny" and covers(one, use) for one in statements):
            code, message = REFUSALS.get(service, ("AccessDeniedException", "explicit deny"))
            said = f"{message} User is not authorized to perform: {use.action} on resource: {use.resource}"
            raise AwsError(code, f"{said} with an explicit deny", 403)


def uses_of(request: Request, region: str) -> Iterator[Use]:
    """The actions of a request that creates something, as IAM sees it; none for other requests."""
    if request.service == "ec2" and request.operation in {*MADE, "CreateTags"}:
        yield from _ec2(request, region)
    elif request.service == "ebs" and request.operation == "StartSnapshot":
        tags = {tag["Key"]: tag["Value"] for tag in json.loads(request.body.content or b"{}").get("Tags") or []}
        yield Use(
            "ebs:StartSnapshot",
            f"arn:{partition_of(region)}:ec2:{region}::snapshot/*",
            tag_context("aws:RequestTag", tags),
        )
    elif request.service == "s3" and (action := OBJECT_ACTIONS.get(request.operation)):
        versioned = "Version" if action in HAVE_VERSIONS and request.query().get("versionId") else ""
        yield object_use(request, f"{action}{versioned}", request.target, region)


def object_use(request: Request, action: str, target: str, region: str) -> Use:
    """One action on one object."""
    context = {PRINCIPAL: request.caller} if request.caller else {}
    if action == "s3:PutObject":
        tags = dict(parse_qsl(request.headers.get("x-amz-tagging", ""), keep_blank_values=True))
        sent = {f"s3:{name}": request.headers[name] for name in (SSE, SSE_KEY) if name in request.headers}
        context |= {**tag_context("s3:RequestObjectTag", tags), **sent}
    return Use(action, f"arn:{partition_of(region)}:s3:::{target}", context)


def _ec2(request: Request, region: str) -> Iterator[Use]:
    form = dict(parse_qsl(request.body.content.decode("utf-8", "replace"), keep_blank_values=True))
    if request.operation == "CreateTags":
        for name, resource in form.items():
            if name.startswith("ResourceId."):
                kind = f"arn:{partition_of(region)}:ec2:{region}:{ACCOUNT}:*/{resource}"
                yield Use("ec2:CreateTags", kind, tag_context("aws:RequestTag", form_tags(form, "Tag.")))
        return
    told = {
        value: form_tags(form, f"{name.removesuffix('ResourceType')}Tag.")
        for name, value in form.items()
        if name.startswith("TagSpecification.") and name.endswith(".ResourceType")
    }
    for kind in MADE[request.operation]:
        resource = f"arn:{partition_of(region)}:ec2:{region}:{ACCOUNT}:{kind}/*"
        yield Use(f"ec2:{request.operation}", resource, tag_context("aws:RequestTag", told.get(kind, {})))


def form_tags(form: Mapping[str, str], prefix: str) -> dict[str, str]:
    return {
        value: form.get(name.removesuffix("Key") + "Value", "")
        for name, value in form.items()
        if name.startswith(prefix) and name.endswith(".Key")
    }


def tag_context(key: str, tags: Mapping[str, str]) -> dict[str, str]:
    return {f"{key}/{name}": value for name, value in tags.items()}


def statements_of(document: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return _listed(document.get("Statement"))


def canonical_users(statement: Mapping[str, Any]) -> list[str]:
    """The canonical ids that a bucket policy's statement names as principals."""
    principal = statement.get("Principal")
    return [str(one) for one in _listed(principal.get("CanonicalUser"))] if isinstance(principal, dict) else []


def acts_on(statement: Mapping[str, Any], action: str) -> list[str]:
    """The statement's patterns that cover the action. Case does not count."""
    patterns = [str(item) for item in _listed(statement.get("Action"))]
    return [item for item in patterns if fnmatchcase(action.lower(), item.lower())]


def covers(statement: Mapping[str, Any], use: Use) -> bool:
    """Whether a statement is about this use, by action, resource and condition."""
    return (
        bool(acts_on(statement, use.action))
        and any(fnmatchcase(use.resource, str(item)) for item in _listed(statement.get("Resource")))
        and all(
            _holds(operator, use.context.get(key), [str(value) for value in _listed(wanted)])
            for operator, block in (statement.get("Condition") or {}).items()
            for key, wanted in block.items()
        )
    )


def _holds(operator: str, found: str | None, wanted: list[str]) -> bool:
    """IAM's rule: if the key is missing, a positive test fails and a negated one succeeds."""
    name = operator.removesuffix("IfExists")
    if name == "Null":
        return (found is None) is (wanted[0].lower() == "true")
    if found is None:
        return name.startswith(NEGATED) or operator != name
    tests: dict[str, Callable[[str], bool]] = {
        "StringEquals": lambda value: found == value,
        "StringLike": lambda value: fnmatchcase(found, value),
        "ArnEquals": lambda value: fnmatchcase(found, value),
        "ArnLike": lambda value: fnmatchcase(found, value),
        "Bool": lambda value: found == value.lower(),
    }
    test = tests[name.replace("Not", "", 1)]  # KeyError for an operator that is not simulated
    return any(map(test, wanted)) is not name.startswith(NEGATED)


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]
