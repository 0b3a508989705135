"""The IAM actions that a request needs, each on its resources, as IAM sees it.

Service Authorization Reference of each service. What it does not settle is in :mod:`.invented`, and is taken as the
harder case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from wavelift.simulators.aws import rights_network
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.held import refusal
from wavelift.simulators.aws.invented import EBS_KEY_ACTIONS, IMPORT_ASKS_FOR_PASS_ROLE
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.resources import SimAmi
from wavelift.simulators.aws.policy import Use, form_tags, tag_context, uses_of
from wavelift.simulators.aws.s3 import xml
from wavelift.simulators.aws.s3.encryption import KEY, encryption
from wavelift.simulators.aws.s3.routes import address
from wavelift.simulators.aws.settings import ACCOUNT
from wavelift.simulators.kit.message import Request

EC2_READS: Final = re.compile(r"Describe[A-Z]\w+|GetEbsEncryptionByDefault|GetEbsDefaultKmsKeyId")
"""Actions without a resource."""
KINDS: Final = {
    "ami": "image",
    "i": "instance",
    "export-ami": "export-image-task",
    "export-i": "export-instance-task",
    "import-ami": "import-image-task",
    "snap": "snapshot",
    "vol": "volume",
}
"""What the beginning of an id says."""
OWNERLESS: Final = ("image", "snapshot")
"""Their ARNs have no account."""
S3_ACTIONS: Final = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload",
    "CompleteMultipartUpload": "s3:PutObject",
    "CreateBucket": "s3:CreateBucket",
    "CreateMultipartUpload": "s3:PutObject",
    "DeleteBucket": "s3:DeleteBucket",
    "DeleteBucketOwnershipControls": "s3:PutBucketOwnershipControls",
    "DeleteObject": "s3:DeleteObject",
    "DeletePublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "GetBucketAcl": "s3:GetBucketAcl",
    "GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "GetBucketLocation": "s3:GetBucketLocation",
    "GetBucketOwnershipControls": "s3:GetBucketOwnershipControls",
    "GetBucketPolicy": "s3:GetBucketPolicy",
    "GetBucketTagging": "s3:GetBucketTagging",
    "GetBucketVersioning": "s3:GetBucketVersioning",
    "GetObject": "s3:GetObject",
    "GetObjectTagging": "s3:GetObjectTagging",
    "GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "HeadBucket": "s3:ListBucket",
    "HeadObject": "s3:GetObject",
    "ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "ListObjectVersions": "s3:ListBucketVersions",
    "ListObjects": "s3:ListBucket",
    "ListObjectsV2": "s3:ListBucket",
    "ListParts": "s3:ListMultipartUploadParts",
    "PutBucketAcl": "s3:PutBucketAcl",
    "PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "PutBucketOwnershipControls": "s3:PutBucketOwnershipControls",
    "PutBucketPolicy": "s3:PutBucketPolicy",
    "PutObject": "s3:PutObject",
    "PutObjectTagging": "s3:PutObjectTagging",
    "PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "UploadPart": "s3:PutObject",
}
OF_A_VERSION: Final = ("s3:DeleteObject", "s3:GetObject")
EXPORT_PLACES: Final = {
    "CreateInstanceExportTask": ("ExportToS3", "export-i-"),
    "ExportImage": ("S3ExportLocation", "export-ami-"),
}
"""The parameter that names bucket and prefix, and how the object's name begins."""
BEGIN_OBJECTS: Final = ("CreateMultipartUpload", "PutObject")
IAM_KINDS: Final = (
    ("RoleName", "role"),
    ("UserName", "user"),
    ("GroupName", "group"),
    ("PolicyName", "policy"),
)
IAM_ACTIONS: Final = frozenset(
    {
        *("GetRole", "ListRolePolicies", "GetRolePolicy", "ListAttachedRolePolicies", "CreateRole", "PutRolePolicy"),
        *("UpdateAssumeRolePolicy", "AttachRolePolicy", "GetUser", "ListUserPolicies", "GetUserPolicy"),
        *("ListAttachedUserPolicies", "ListGroupsForUser", "AttachUserPolicy", "ListGroupPolicies", "GetGroupPolicy"),
        *("ListAttachedGroupPolicies", "GetPolicy", "GetPolicyVersion", "ListPolicyVersions", "CreatePolicy"),
        *("CreatePolicyVersion", "DeletePolicyVersion", "ListEntitiesForPolicy", "ListPolicies"),
    }
)
"""Named like their operations."""
FREE: Final = ("sts:GetCallerIdentity", "sts:GetSessionToken")
"""STS answers them whatever the policies say."""


class Rights:
    """Reads requests in the light of what the account holds: tags, keys, defaults."""

    def __init__(self, account: Account) -> None:
        self._account, self._settings = account, account.settings
        self._find_key = account.backends.find_key
        self._services: dict[str, Callable[[Request], Iterator[Use]]] = {
            "ec2": self._ec2,
            "ebs": self._of_snapshots,
            "s3": self._of_objects,
            "iam": self._iam,
            "sts": self._sts,
            "kms": self._kms,
            "route53": lambda request: rights_network.route53(request, self._settings.partition),
            "elasticloadbalancing": lambda request: rights_network.elasticloadbalancing(
                request.operation, _form(request)
            ),
            "ssm": self._ssm,
        }

    def of(self, request: Request, arn: str) -> list[Use]:
        """Raises AwsError if the request's action has no name here: nobody is allowed what nobody can name."""
        reader = self._services.get(request.service)
        uses = list(reader(request)) if reader else []
        if not uses and request.operation != "DeleteObjects":  # S3 asks for each key, and answers for each
            unknown = Use(f"{request.service}:{request.operation or 'Unknown'}", "*")
            raise refusal(request.service, arn, unknown)
        return uses

    def is_free(self, use: Use) -> bool:
        return use.action in FREE

    # EC2

    def _ec2(self, request: Request) -> Iterator[Use]:
        if EC2_READS.fullmatch(request.operation):
            yield Use(f"ec2:{request.operation}", "*")
            return
        form = _form(request)
        made = {use.resource: use for use in uses_of(request, self._settings.region)}
        for resource in self._ec2_resources(request.operation, form):
            asked = made.get(resource)
            context = {**(asked.context if asked else {}), **self._resource_tags(resource)}
            yield Use(f"ec2:{request.operation}", resource, context)
        yield from self._tagging(request.operation, form)
        if request.operation == "ImportImage":
            yield from self._import(form)
        if request.operation in EXPORT_PLACES:
            yield from self._export(request.operation, form)
        if request.operation == "RunInstances":
            keys = (self._key_of(snapshot) for snapshot in self._snapshots_of(form.get("ImageId", "")))
            yield from self._key_uses(EBS_KEY_ACTIONS, keys)
            yield from self._profile_roles(form)

    def _profile_roles(self, form: Mapping[str, str]) -> Iterator[Use]:
        """A launch hands the roles of its instance profile on (EC2 user guide, "Permissions to pass an IAM role")."""
        name = form.get("IamInstanceProfile.Name") or form.get("IamInstanceProfile.Arn", "").rpartition("/")[2]
        for arn in self._account.backends.profile_roles(name) if name else ():
            yield Use("iam:PassRole", arn, {"iam:PassedToService": "ec2.amazonaws.com"})

    def _ec2_resources(self, operation: str, form: Mapping[str, str]) -> list[str]:
        ids: dict[str, Iterable[str]] = {
            "CancelExportTask": (form.get("ExportTaskId", ""),),
            "CancelImportTask": (form.get("ImportTaskId", ""),),
            "CreateTags": _many(form, "ResourceId."),
            "DeleteSnapshot": (form.get("SnapshotId", ""),),
            "CreateInstanceExportTask": (form.get("InstanceId", ""),),
            "DeregisterImage": (form.get("ImageId", ""),),
            "ExportImage": (form.get("ImageId", ""),),
            "RegisterImage": _named(form, ".Ebs.SnapshotId"),
            "RunInstances": (form.get("ImageId", ""),),
            "TerminateInstances": _many(form, "InstanceId."),
        }
        more = {
            "CreateInstanceExportTask": ("export-instance-task/*",),
            "ExportImage": ("export-image-task/*",),
            "ImportImage": ("import-image-task/*", "image/*", "snapshot/*"),
            "RegisterImage": ("image/*",),
            "RunInstances": (
                *("instance/*", "volume/*"),
                *(
                    [f"network-interface/{one}" for one in _named(form, "NetworkInterfaceId")]
                    or ["network-interface/*"]
                ),
                *(f"launch-template/{one}" for one in _named(form, "LaunchTemplateId")),
                *(f"subnet/{one}" for one in _named(form, "SubnetId")),
                *(f"security-group/{value}" for name, value in form.items() if "SecurityGroupId." in name),
            ),
        }
        if operation == "CreateSnapshots":
            ids[operation] = self._instance_and_volumes(form.get("InstanceSpecification.InstanceId", ""))
        named = [self._arn(f"{_kind(one)}/{one}") for one in ids.get(operation, ()) if one]
        found = [*more.get(operation, ()), *rights_network.ec2_resources(operation, form)]
        return named + [self._arn(one) for one in found]

    def _instance_and_volumes(self, instance_id: str) -> list[str]:
        """CreateSnapshots is asked for each volume, too (Service Authorization Reference for EC2)."""
        with self._account.backends.lock:
            instance = self._account.backends.ec2.get_instance_by_id(instance_id)
            blocks = instance.block_device_mapping.values() if instance is not None else ()
            return [instance_id, *(str(block.volume_id) for block in blocks)]

    def _arn(self, resource: str) -> str:
        owner = "" if resource.partition("/")[0] in OWNERLESS else ACCOUNT
        return f"arn:{self._settings.partition}:ec2:{self._settings.region}:{owner}:{resource}"

    def _resource_tags(self, arn: str) -> dict[str, str]:
        name = arn.rpartition("/")[2]
        tasks: dict[str, Mapping[str, str]] = {one.id: one.tags for one in self._account.imports.all()}
        tasks |= {one.id: one.new.tags for one in self._account.exports.all()}
        with self._account.backends.lock:
            tags = dict(self._account.backends.ec2.tags.get(name, {}))
        return tag_context("aws:ResourceTag", {**tags, **tasks.get(name, {})})

    def _tagging(self, operation: str, form: Mapping[str, str]) -> Iterator[Use]:
        """A call that makes something and tags it needs the right to tag, too."""
        for name, kind in form.items():
            if name.startswith("TagSpecification") and name.endswith(".ResourceType"):
                tags = form_tags(form, f"{name.removesuffix('ResourceType')}Tag.")
                if tags:
                    context = {**tag_context("aws:RequestTag", tags), "ec2:CreateAction": operation}
                    yield Use("ec2:CreateTags", self._arn(f"{kind}/*"), context)

    def _import(self, form: Mapping[str, str]) -> Iterator[Use]:
        """VM Import/Export user guide, "Required permissions": the caller needs the bucket and its objects as well."""
        yield from self._key_uses(EBS_KEY_ACTIONS, [form.get("KmsKeyId", "")])
        if IMPORT_ASKS_FOR_PASS_ROLE and form.get("RoleName"):
            role = f"arn:{self._settings.partition}:iam::{ACCOUNT}:role/{form['RoleName']}"
            yield Use("iam:PassRole", role, {"iam:PassedToService": "vmie.amazonaws.com"})
        for name, bucket in form.items():
            if name.endswith(".UserBucket.S3Bucket"):
                yield Use("s3:GetBucketLocation", self._bucket(bucket))
                yield Use("s3:GetObject", self._bucket(f"{bucket}/{form.get(name.replace('S3Bucket', 'S3Key'), '')}"))

    def _export(self, operation: str, form: Mapping[str, str]) -> Iterator[Use]:
        """The same page: the caller needs the bucket, and to write into it."""
        if IMPORT_ASKS_FOR_PASS_ROLE and form.get("RoleName"):
            role = f"arn:{self._settings.partition}:iam::{ACCOUNT}:role/{form['RoleName']}"
            yield Use("iam:PassRole", role, {"iam:PassedToService": "vmie.amazonaws.com"})
        place, name = EXPORT_PLACES[operation]
        bucket, prefix = form.get(f"{place}.S3Bucket", ""), form.get(f"{place}.S3Prefix", "")
        yield Use("s3:GetBucketLocation", self._bucket(bucket))
        yield Use("s3:PutObject", self._bucket(f"{bucket}/{prefix}{name}"))

    # snapshots

    def _of_snapshots(self, request: Request) -> Iterator[Use]:
        action = f"ebs:{request.operation}"
        if request.operation == "StartSnapshot":
            values = json.loads(request.body.content or b"{}")
            tags = {str(tag["Key"]): str(tag["Value"]) for tag in values.get("Tags") or []}
            context = tag_context("aws:RequestTag", tags)
            yield Use(action, self._arn("snapshot/*"), context)
            if tags:
                yield Use("ec2:CreateTags", self._arn("snapshot/*"), context)
            yield from self._key_uses(EBS_KEY_ACTIONS, [self._key_of_new(values)])
        elif request.operation:
            snapshot_id = request.target.partition("/")[0]
            resource = self._arn(f"snapshot/{snapshot_id}")
            yield Use(action, resource, self._resource_tags(resource))
            if request.operation == "GetSnapshotBlock":
                yield from self._key_uses(("kms:Decrypt",), [self._key_of(snapshot_id)])

    def _key_of_new(self, values: Mapping[str, Any]) -> str:
        if key := values.get("KmsKeyArn"):
            return str(key)
        if key := self._key_of(values.get("ParentSnapshotId") or ""):
            return key
        return self._account.ebs.default_key() if values.get("Encrypted") or self._account.ebs.encrypts() else ""

    def _key_of(self, snapshot_id: str) -> str:
        return next((one.kms_key for one in self._account.ebs.all() if one.id == snapshot_id), "")

    def _snapshots_of(self, image_id: str) -> list[str]:
        with self._account.backends.lock:
            image = self._account.backends.ec2.amis.get(image_id)
            mappings = list(image.block_device_mappings) if isinstance(image, SimAmi) else []
        return [str(one.get("Ebs", {}).get("SnapshotId", "")) for one in mappings]

    def _key_uses(self, actions: Iterable[str], keys: Iterable[str]) -> Iterator[Use]:
        """None for a key that AWS keeps for the service: whoever may use the service may use it."""
        for text in dict.fromkeys(keys):
            key = self._find_key(text) if text else None
            if key is not None and not key.service:
                yield from (Use(action, key.arn) for action in actions)

    # S3

    def _bucket(self, target: str) -> str:
        return f"arn:{self._settings.partition}:s3:::{target}"

    def _of_objects(self, request: Request) -> Iterator[Use]:
        action = S3_ACTIONS.get(request.operation)
        if action is None:
            return
        versioned = "Version" if action in OF_A_VERSION and request.query().get("versionId") else ""
        yield Use(f"{action}{versioned}", self._bucket(request.target))
        if request.operation == "CreateBucket":
            yield from self._new_bucket(request)
        if request.headers.get("x-amz-tagging") and request.operation in BEGIN_OBJECTS:
            yield Use("s3:PutObjectTagging", self._bucket(request.target))
        if request.operation in BEGIN_OBJECTS and _has_acl(request):
            yield Use("s3:PutObjectAcl", self._bucket(request.target))
        yield from self._object_key(request)

    def _new_bucket(self, request: Request) -> Iterator[Use]:
        """S3 API reference, CreateBucket, "Permissions": ACL, ownership and tags need rights of their own."""
        if _has_acl(request):
            yield Use("s3:PutBucketAcl", self._bucket(request.target))
        if "x-amz-object-ownership" in request.headers:
            yield Use("s3:PutBucketOwnershipControls", self._bucket(request.target))
        if xml.parse_bucket_tags(request.body.content):
            yield Use("s3:TagResource", self._bucket(request.target))

    def _object_key(self, request: Request) -> Iterator[Use]:
        """S3 user guide, "Using server-side encryption with KMS keys": to put needs the key's data key, to read or to
        send in parts needs to decrypt."""
        name, key = address(request)
        if request.operation in BEGIN_OBJECTS:
            try:
                found = encryption(request.headers, self._account.s3.bucket(name), self._find_key).get(KEY, "")
            except AwsError:
                return  # S3 says it itself
            many = ("kms:Decrypt",) if request.operation == "CreateMultipartUpload" else ()
            yield from self._key_uses(("kms:GenerateDataKey", *many), [found])
        elif request.operation == "GetObject":
            stored = self._account.s3.peek(name, key)
            yield from self._key_uses(("kms:Decrypt",), [stored.info.headers.get(KEY, "")] if stored else [])

    # IAM, STS, KMS

    def _iam(self, request: Request) -> Iterator[Use]:
        if request.operation not in IAM_ACTIONS:
            return
        form = _form(request)
        # A user's or role's call may name a policy too: it is on the user or role.
        owner = next(((kind, form[name]) for name, kind in IAM_KINDS if name in form), None)
        if owner is not None:
            resource = f"arn:{self._settings.partition}:iam::{ACCOUNT}:{owner[0]}/{owner[1]}"
        else:
            resource = form.get("PolicyArn", "*")
        yield Use(f"iam:{request.operation}", resource)

    def _sts(self, request: Request) -> Iterator[Use]:
        if f"sts:{request.operation}" in FREE:
            yield Use(f"sts:{request.operation}", "*")
        elif request.operation == "AssumeRole":
            yield Use("sts:AssumeRole", _form(request).get("RoleArn", ""))

    def _ssm(self, request: Request) -> Iterator[Use]:
        for use in rights_network.ssm(request, self._settings.partition, self._settings.region):
            yield Use(use.action, use.resource, self._resource_tags(use.resource))

    def _kms(self, request: Request) -> Iterator[Use]:
        if request.operation == "DescribeKey":
            text = str(json.loads(request.body.content or b"{}").get("KeyId") or "")
            found = self._find_key(text)
            arn = found.arn if found else f"arn:{self._settings.partition}:kms:{self._settings.region}:{ACCOUNT}:{text}"
            yield Use("kms:DescribeKey", arn)


def _has_acl(request: Request) -> bool:
    return any(name == "x-amz-acl" or name.startswith("x-amz-grant-") for name in request.headers)


def _form(request: Request) -> dict[str, str]:
    return dict(parse_qsl(request.body.content.decode("utf-8", "replace"), keep_blank_values=True))


def _many(form: Mapping[str, str], start: str) -> list[str]:
    return [value for name, value in form.items() if name.startswith(start)]


def _named(form: Mapping[str, str], end: str) -> list[str]:
    return [value for name, value in form.items() if name.endswith(end)]


def _kind(resource_id: str) -> str:
    return KINDS.get(resource_id.rpartition("-")[0], "*")
