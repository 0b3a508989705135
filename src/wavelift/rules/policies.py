"""The IAM documents and the vSphere role that wavelift needs. ``iam show`` and ``vsphere role`` print them.

There are three identities (SMS-13): the service role ``vmimport``, which VM Import assumes; the connector; the caller.
The policies of connector and caller are generated from the table of calls. The policy of the staging bucket says the
same from the other side: it also binds identities that are not wavelift's.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from wavelift.base.names import TAG_RUN
from wavelift.rules.calls import (
    AWS_CALLS,
    FREE,
    KEY_USES,
    LAUNCHING,
    UNASKED,
    VSPHERE_CALLS,
    AwsFeature,
    Feature,
    Identity,
    Resource,
    Where,
)

VMIE: Final = "vmie.amazonaws.com"
EXTERNAL_ID: Final = "vmimport"

Document = dict[str, Any]

TAGGED: Final[tuple[Resource, ...]] = ("our-snapshots", "our-imports", "our-exports", "our-images", "our-instances")
"""What may only be changed if it has our tag."""

ROLE_BUCKET: Final = ("s3:GetBucketLocation", "s3:ListBucket")
ROLE_OBJECTS: Final = ("s3:GetObject",)
ROLE_EC2: Final = ("ec2:CopySnapshot", "ec2:Describe*", "ec2:ModifySnapshotAttribute", "ec2:RegisterImage")
ROLE_KEY: Final = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:Encrypt",
    "kms:GenerateDataKey*",
    "kms:ReEncrypt*",
)
"""All four: VM Import/Export User Guide, "Required permissions", Dec 2022."""
ROLE_EXPORT_BUCKET: Final = (*ROLE_BUCKET, "s3:GetBucketAcl")
ROLE_EXPORT_OBJECTS: Final = (*ROLE_OBJECTS, "s3:PutObject")
"""Of ExportImage, the same page: the bucket's ACL and new objects, and again what an import needs of its bucket."""
HANDS_ROLE_ON: Final = frozenset({"ec2:ImportImage", "ec2:ExportImage"})
"""Who makes these calls passes the service role to VM Import/Export."""


@dataclass(frozen=True, slots=True)
class Staging:
    """The buckets, prefix and key that the policies refer to."""

    bucket: str
    prefix: str = ""
    kms_key_arn: str = ""
    """ARN of the key for converted volumes or staged objects; empty: no statement about keys."""
    partition: str = "aws"
    exports: str = ""
    """Name of the exports bucket; empty: no statement about it."""

    def _bucket_arn(self, name: str) -> str:
        return f"arn:{self.partition}:s3:::{name}" if name else ""

    @property
    def bucket_arn(self) -> str:
        return self._bucket_arn(self.bucket)

    @property
    def objects_arn(self) -> str:
        folder = self.prefix.strip("/")
        return f"{self.bucket_arn}/{folder + '/' if folder else ''}*"

    def resource(self, kind: Resource) -> str:
        """The ARN that actions on ``kind`` apply to; empty if there is none."""
        snapshots = f"arn:{self.partition}:ec2:*::snapshot/*"
        return {
            "bucket": self.bucket_arn,
            "objects": self.objects_arn,
            "export-bucket": self._bucket_arn(self.exports),
            "export-objects": f"{self._bucket_arn(self.exports)}/*" if self.exports else "",
            "key": self.kms_key_arn,
            "any": "*",
            "snapshots": snapshots,
            "our-snapshots": snapshots,
            "our-imports": f"arn:{self.partition}:ec2:*:*:import-image-task/*",
            "our-exports": f"arn:{self.partition}:ec2:*:*:export-*-task/*",
            "our-images": f"arn:{self.partition}:ec2:*::image/*",
            "our-instances": f"arn:{self.partition}:ec2:*:*:instance/*",
        }[kind]


def trust_policy(account: str = "") -> Document:
    """The trust policy of the service role: only VM Import may assume it, and only for ``account`` if that is given."""
    condition: dict[str, Any] = {"StringEquals": {"sts:Externalid": EXTERNAL_ID}}
    if account:
        condition["StringEquals"]["aws:SourceAccount"] = account
        # Any partition: the account is the restriction. A fixed partition could make the condition impossible to meet.
        condition["ArnLike"] = {"aws:SourceArn": f"arn:*:vmie:*:{account}:*"}
    return _document(
        {
            "Effect": "Allow",
            "Principal": {"Service": VMIE},
            "Action": "sts:AssumeRole",
            "Condition": condition,
        }
    )


def role_policy(staging: Staging, *, exports: str = "") -> Document:
    """The permissions that the service role needs for imports from the staging bucket (AMP-06).

    :param exports: name of the exports bucket, for ExportImage; empty: that of ``staging``, if it has one.
    """
    if exports:
        staging = replace(staging, exports=exports)
    return _document(
        _allow("ReadStaging", ROLE_BUCKET, staging.bucket_arn),
        _allow("ReadDisks", ROLE_OBJECTS, staging.objects_arn),
        _allow("MakeImages", ROLE_EC2, "*"),
        *([_allow("UseKey", ROLE_KEY, staging.kms_key_arn)] if staging.kms_key_arn else []),
        *(
            [
                _allow("LookAtExports", ROLE_EXPORT_BUCKET, staging.resource("export-bucket")),
                _allow("WriteExports", ROLE_EXPORT_OBJECTS, staging.resource("export-objects")),
            ]
            if staging.exports
            else []
        ),
    )


def identity_policy(
    identity: Identity,
    staging: Staging,
    *,
    role_arn: str = "",
    features: Collection[AwsFeature] = UNASKED,
    profile_roles: Sequence[str] = (),
) -> Document:
    """The permissions of the connector or the caller, generated from the calls that it makes.

    :param role_arn: the service role, which the caller passes to VM Import.
    :param features: what the identity shall be able to do; it is allowed nothing else.
    :param profile_roles: ARNs of the roles in instance profiles, which the caller passes to EC2 at a launch.
    """
    kinds: tuple[tuple[Resource, str], ...] = (
        ("bucket", "Staging"),
        ("objects", "StagingObjects"),
        ("export-bucket", "Exports"),
        ("export-objects", "ExportObjects"),
        ("any", "Account"),
        ("snapshots", "Snapshots"),
        ("our-snapshots", "OurSnapshots"),
        ("our-imports", "OurImports"),
        ("our-exports", "OurExports"),
        ("our-images", "OurImages"),
        ("our-instances", "OurInstances"),
    )
    statements = []
    for kind, name in kinds:
        if (actions := actions_of(identity, kind, features)) and (resource := staging.resource(kind)):
            statements.append(_allow(name, actions, resource))
            if kind in TAGGED:
                # Who writes snapshots may change only those that wavelift made, and no other backups. So of imports.
                statements[-1]["Condition"] = {"StringLike": {f"aws:ResourceTag/{TAG_RUN}": "*"}}
    if staging.kms_key_arn and (uses := key_actions_of(identity, features)):
        statements.append(_allow("Key", uses, staging.kms_key_arn))
    if identity == "caller" and role_arn and not HANDS_ROLE_ON.isdisjoint(actions_of(identity, "any", features)):
        statements.append(_allow("HandRoleOn", ("iam:PassRole",), role_arn))
    if identity == "caller" and profile_roles and not set(features).isdisjoint(LAUNCHING):
        statements.append(_allow("HandProfilesOn", ("iam:PassRole",), list(profile_roles)))
        statements[-1]["Condition"] = {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}
    return _document(*statements)


WRITES: Final = ("s3:PutObject*", "s3:ReplicateObject", "s3:ReplicateTags")
DELETES: Final = ("s3:DeleteObject", "s3:DeleteObjectTagging", "s3:AbortMultipartUpload")
DELETES_FOR_GOOD: Final = ("s3:DeleteObjectVersion", "s3:DeleteObjectVersionTagging")


def bucket_policy(staging: Staging, *, connectors: Sequence[str], callers: Sequence[str]) -> Document:
    """The policy of the staging bucket: below the prefix only connectors write, and only they and callers delete.

    It only denies, so what it does not name stays as the identities' own policies say. Nobody deletes versions: who
    could, could hide a swap. Lifecycle rules do, because no bucket policy applies to them.

    :param connectors: ARNs of roles or users. :param callers: the same, of the control plane.
    """
    return _document(
        _deny("OnlyConnectorsWrite", WRITES, staging.objects_arn, _other_than(connectors)),
        _deny("OnlyOursDelete", DELETES, staging.objects_arn, _other_than([*connectors, *callers])),
        _deny("NobodyDeletesVersions", DELETES_FOR_GOOD, staging.objects_arn),
        _deny(
            "OnlyByTls",
            ("s3:*",),
            [staging.bucket_arn, staging.objects_arn],
            {"Bool": {"aws:SecureTransport": "false"}},
        ),
    )


def _other_than(arns: Sequence[str]) -> dict[str, Any]:
    # Of a role's session, aws:PrincipalArn is the role's ARN. A service of AWS has none, and is denied.
    return {"ArnNotLike": {"aws:PrincipalArn": list(dict.fromkeys(arns))}}


def _deny(
    name: str, actions: Sequence[str], resource: str | list[str], condition: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    statement: dict[str, Any] = {
        "Sid": f"Wavelift{name}",
        "Effect": "Deny",
        "Principal": "*",
        "Action": list(actions),
        "Resource": resource,
    }
    return {**statement, "Condition": dict(condition)} if condition else statement


def actions_of(identity: Identity, resource: Resource, features: Collection[AwsFeature] = UNASKED) -> tuple[str, ...]:
    """The IAM actions of one identity on one kind of resource, for these features, sorted."""
    return tuple(
        sorted(
            {
                action
                for call in AWS_CALLS
                if call.resource == resource and identity in call.identities and set(features) & set(call.feature)
                for action in call.actions
            }
        )
    )


def key_actions_of(identity: Identity, features: Collection[AwsFeature] = UNASKED) -> tuple[str, ...]:
    """The actions on the KMS key, sorted: those that AWS takes on the identity's behalf."""
    chosen = (use for use in KEY_USES if identity in use.identities and set(features) & set(use.feature))
    return tuple(sorted({action for use in chosen for action in use.actions}))


def _document(*statements: Mapping[str, Any]) -> Document:
    return {"Version": "2012-10-17", "Statement": [dict(statement) for statement in statements]}


def _allow(name: str, actions: Sequence[str], resource: str | list[str]) -> dict[str, Any]:
    return {"Sid": f"Wavelift{name}", "Effect": "Allow", "Action": list(actions), "Resource": resource}


def printable(document: Document) -> str:
    """The document as JSON that can be pasted into IAM."""
    return json.dumps(document, indent=2)


@dataclass(frozen=True, slots=True)
class Privilege:
    """One privilege of the vSphere role, and the reason for it."""

    id: str
    where: Where
    feature: Feature
    calls: tuple[str, ...]
    purpose: str


FEATURES: Final[tuple[Feature, ...]] = ("migrate", "sms", "replicate", "cutover")


def vsphere_role(features: Iterable[Feature] = FEATURES) -> list[Privilege]:
    """The privileges of the role to create, generated from the calls (SMS-12).

    ``sms``: the five privileges of SMS are kept, although current calls need fewer. Assign the role on the source data
    centre with propagation, and *No access* elsewhere.
    """
    wanted = set(features)
    found: dict[tuple[str, Where], list[int]] = {}
    for index, call in enumerate(VSPHERE_CALLS):
        if call.feature in wanted and call.privilege and call.privilege not in FREE:
            found.setdefault((call.privilege, call.where), []).append(index)
    return [
        Privilege(
            id=privilege,
            where=where,
            feature=VSPHERE_CALLS[indices[0]].feature,
            calls=tuple(VSPHERE_CALLS[index].method for index in indices),
            purpose=VSPHERE_CALLS[indices[0]].purpose,
        )
        for (privilege, where), indices in found.items()
    ]


def required_privileges(features: Iterable[Feature] = ("migrate", "sms")) -> dict[Where, tuple[str, ...]]:
    """The privileges that pre-flight checks, by kind of object, including the rights to read the object."""
    required: dict[Where, list[str]] = {"vm": ["System.Read"], "datastore": ["System.Read"], "root": ["System.View"]}
    wanted = set(features)
    for call in VSPHERE_CALLS:
        if call.feature in wanted and call.privilege:
            required[call.where].append(call.privilege)
    return {where: tuple(dict.fromkeys(ids)) for where, ids in required.items()}
