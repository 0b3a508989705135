"""All calls that wavelift makes to AWS and vSphere, and the rights that they need.

Roles and policies are generated from this table. Tests compare it with the adapters (each botocore operation and each
vSphere method in their source) and with pyvmomi's table of privileges. So the tests find a call without a right, and a
right without a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Identity = Literal["connector", "caller"]
"""``connector``: the worker near vCenter. ``caller``: the control plane, and the worker near AWS that reads back."""
Resource = Literal["bucket", "objects", "key", "any", "snapshots", "our-snapshots"]
"""``our-snapshots``: EBS snapshots with the tag of a wavelift run."""
Where = Literal["vm", "datastore", "root"]

CONNECTOR: Final[tuple[Identity, ...]] = ("connector",)
CALLER: Final[tuple[Identity, ...]] = ("caller",)
BOTH: Final[tuple[Identity, ...]] = ("connector", "caller")


@dataclass(frozen=True, slots=True)
class AwsCall:
    """One AWS operation, by its botocore name, and the IAM actions that it needs."""

    operation: str
    """Service and operation, such as ``ec2:describe_images``."""
    actions: tuple[str, ...]
    resource: Resource
    identities: tuple[Identity, ...]
    purpose: str


AWS_CALLS: Final = (
    # Staging: only the connector writes objects; both identities read them back, and delete them in clean-up.
    AwsCall("s3:create_multipart_upload", ("s3:PutObject", "s3:PutObjectTagging"), "objects", CONNECTOR, "export"),
    AwsCall("s3:upload_part", ("s3:PutObject",), "objects", CONNECTOR, "export"),
    AwsCall("s3:complete_multipart_upload", ("s3:PutObject",), "objects", CONNECTOR, "export"),
    AwsCall("s3:abort_multipart_upload", ("s3:AbortMultipartUpload",), "objects", BOTH, "export, cleanup"),
    AwsCall("s3:list_parts", ("s3:ListMultipartUploadParts",), "objects", BOTH, "resuming an upload"),
    AwsCall("s3:list_multipart_uploads", ("s3:ListBucketMultipartUploads",), "bucket", BOTH, "cleanup"),
    AwsCall("s3:put_object", ("s3:PutObject", "s3:PutObjectTagging"), "objects", CONNECTOR, "manifests"),
    AwsCall("s3:get_object", ("s3:GetObject", "s3:GetObjectVersion"), "objects", BOTH, "verify, manifests"),
    AwsCall("s3:head_object", ("s3:GetObject",), "objects", BOTH, "export, verify, import"),
    AwsCall("s3:list_objects_v2", ("s3:ListBucket",), "bucket", BOTH, "cleanup"),
    AwsCall("s3:delete_objects", ("s3:DeleteObject",), "objects", BOTH, "cleanup"),
    # Pre-flight: read-only.
    AwsCall("s3:get_bucket_location", ("s3:GetBucketLocation",), "bucket", BOTH, "pre-flight"),
    AwsCall("s3:get_bucket_encryption", ("s3:GetEncryptionConfiguration",), "bucket", BOTH, "pre-flight"),
    AwsCall("s3:get_bucket_versioning", ("s3:GetBucketVersioning",), "bucket", BOTH, "pre-flight"),
    AwsCall("s3:head_bucket", ("s3:ListBucket",), "bucket", BOTH, "pre-flight"),
    AwsCall("kms:describe_key", ("kms:DescribeKey",), "key", BOTH, "pre-flight"),
    AwsCall("iam:get_role", ("iam:GetRole",), "any", BOTH, "pre-flight"),
    AwsCall("iam:list_role_policies", ("iam:ListRolePolicies",), "any", BOTH, "pre-flight"),
    AwsCall("iam:get_role_policy", ("iam:GetRolePolicy",), "any", BOTH, "pre-flight"),
    AwsCall("iam:list_attached_role_policies", ("iam:ListAttachedRolePolicies",), "any", BOTH, "pre-flight"),
    AwsCall("iam:get_policy", ("iam:GetPolicy",), "any", BOTH, "pre-flight"),
    AwsCall("iam:get_policy_version", ("iam:GetPolicyVersion",), "any", BOTH, "pre-flight"),
    AwsCall("sts:get_caller_identity", ("sts:GetCallerIdentity",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:describe_vpcs", ("ec2:DescribeVpcs",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:describe_subnets", ("ec2:DescribeSubnets",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:describe_network_interfaces", ("ec2:DescribeNetworkInterfaces",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:describe_security_groups", ("ec2:DescribeSecurityGroups",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:describe_instance_types", ("ec2:DescribeInstanceTypes",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:describe_instance_type_offerings", ("ec2:DescribeInstanceTypeOfferings",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:get_ebs_encryption_by_default", ("ec2:GetEbsEncryptionByDefault",), "any", BOTH, "pre-flight"),
    AwsCall("ec2:get_ebs_default_kms_key_id", ("ec2:GetEbsDefaultKmsKeyId",), "any", BOTH, "replication"),
    # Import and launch: only the control plane.
    AwsCall("ec2:import_image", ("ec2:ImportImage", "ec2:CreateTags"), "any", CALLER, "import"),
    AwsCall("ec2:describe_import_image_tasks", ("ec2:DescribeImportImageTasks",), "any", CALLER, "import"),
    AwsCall("ec2:cancel_import_task", ("ec2:CancelImportTask",), "any", CALLER, "cancel"),
    AwsCall("ec2:describe_images", ("ec2:DescribeImages",), "any", CALLER, "import, launch"),
    AwsCall("ec2:describe_snapshots", ("ec2:DescribeSnapshots",), "any", BOTH, "replication, import, cleanup"),
    AwsCall("ec2:create_tags", ("ec2:CreateTags",), "any", CALLER, "import, launch"),
    AwsCall("ec2:run_instances", ("ec2:RunInstances", "ec2:CreateTags"), "any", CALLER, "launch"),
    AwsCall("ec2:describe_instances", ("ec2:DescribeInstances",), "any", CALLER, "launch"),
    AwsCall("ec2:terminate_instances", ("ec2:TerminateInstances",), "any", CALLER, "cleanup"),
    AwsCall("ec2:deregister_image", ("ec2:DeregisterImage",), "any", CALLER, "older images, cleanup"),
    AwsCall("ec2:delete_snapshot", ("ec2:DeleteSnapshot",), "any", CALLER, "older images, cleanup"),
    AwsCall("ebs:list_snapshot_blocks", ("ebs:ListSnapshotBlocks",), "any", CALLER, "conversion report, verify"),
    AwsCall("ebs:get_snapshot_block", ("ebs:GetSnapshotBlock",), "any", CALLER, "conversion report, verify"),
    # Replication: the connector writes snapshots, and the control plane makes images from them.
    AwsCall("ebs:start_snapshot", ("ebs:StartSnapshot",), "snapshots", BOTH, "replication"),
    AwsCall("ec2:create_tags", ("ec2:CreateTags",), "snapshots", BOTH, "replication: StartSnapshot, unfinished seeds"),
    AwsCall("ebs:put_snapshot_block", ("ebs:PutSnapshotBlock",), "our-snapshots", BOTH, "replication"),
    AwsCall("ebs:complete_snapshot", ("ebs:CompleteSnapshot",), "our-snapshots", BOTH, "replication"),
    AwsCall(
        "ec2:delete_snapshot", ("ec2:DeleteSnapshot",), "our-snapshots", BOTH, "replication: abandoning a snapshot"
    ),
    AwsCall("ec2:register_image", ("ec2:RegisterImage", "ec2:CreateTags"), "any", CALLER, "replication"),
)

KEY_USE: Final[dict[Identity, tuple[str, ...]]] = {
    "connector": (
        "kms:CreateGrant",
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncrypt*",
    ),
    "caller": (
        "kms:CreateGrant",
        "kms:Decrypt",
        "kms:DescribeKey",
        "kms:GenerateDataKey",
        "kms:GenerateDataKeyWithoutPlaintext",
        "kms:ReEncrypt*",
    ),
}
"""wavelift does not make these calls itself: S3, EBS and EC2 use the key on its behalf, for staged objects, encrypted
snapshots and instances."""

Feature = Literal["migrate", "sms", "replicate", "cutover"]


@dataclass(frozen=True, slots=True)
class VsphereCall:
    """One vSphere method, by its name in the SOAP API, and the privilege that it needs on ``where``."""

    method: str
    privilege: str
    where: Where
    feature: Feature
    purpose: str


VSPHERE_CALLS: Final = (
    VsphereCall("CreateSnapshot_Task", "VirtualMachine.State.CreateSnapshot", "vm", "migrate", "freeze the disks"),
    VsphereCall("CreateSnapshotEx_Task", "VirtualMachine.State.CreateSnapshot", "vm", "migrate", "freeze, quiesced"),
    VsphereCall("RemoveSnapshot_Task", "VirtualMachine.State.RemoveSnapshot", "vm", "migrate", "clean up"),
    VsphereCall("ConsolidateVMDisks_Task", "VirtualMachine.State.RemoveSnapshot", "vm", "migrate", "clean up"),
    VsphereCall("ExportSnapshot", "VApp.Export", "vm", "migrate", "read the frozen disks"),
    VsphereCall("HttpNfcLeaseProgress", "", "vm", "migrate", "keep the lease alive"),
    VsphereCall("HttpNfcLeaseGetManifest", "", "vm", "migrate", "compare checksums"),
    VsphereCall("HttpNfcLeaseComplete", "", "vm", "migrate", "give the lease back"),
    VsphereCall("HttpNfcLeaseAbort", "", "vm", "migrate", "give the lease back"),
    VsphereCall("HasPrivilegeOnEntities", "System.View", "root", "migrate", "pre-flight"),
    VsphereCall("FetchUserPrivilegeOnEntities", "", "root", "migrate", "pre-flight for another user"),
    VsphereCall("RetrievePropertiesEx", "System.Read", "vm", "migrate", "inventory"),
    VsphereCall("RefreshDatastore", "System.Read", "datastore", "migrate", "read the current free space"),
    VsphereCall(
        "/folder", "Datastore.Browse", "datastore", "sms", "one of SMS's five privileges: browse the datastore"
    ),
    VsphereCall(
        "/folder",
        "Datastore.FileManagement",
        "datastore",
        "sms",
        "one of SMS's five privileges: read files of the datastore",
    ),
    VsphereCall(
        "QueryChangedDiskAreas", "VirtualMachine.Provisioning.DiskRandomRead", "vm", "replicate", "query changed areas"
    ),
    VsphereCall("ReconfigVM_Task", "VirtualMachine.Config.ChangeTracking", "vm", "replicate", "enable change tracking"),
    VsphereCall("CreateCollectorForEvents", "System.View", "root", "replicate", "events that make tracking doubtful"),
    VsphereCall("QueryOptions", "System.View", "root", "replicate", "how long vCenter keeps events"),
    VsphereCall("ShutdownGuest", "VirtualMachine.Interact.PowerOff", "vm", "cutover", "shut the source down"),
    VsphereCall("PowerOffVM_Task", "VirtualMachine.Interact.PowerOff", "vm", "cutover", "stop the source"),
    VsphereCall("PowerOnVM_Task", "VirtualMachine.Interact.PowerOn", "vm", "cutover", "start the source again"),
)
FREE: Final = frozenset({"System.Anonymous", "System.Read", "System.View"})
"""Privileges that every role has: vCenter adds them automatically, and its role editor doesn't list them."""
