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
Resource = Literal[
    "bucket",
    "objects",
    "export-bucket",
    "export-objects",
    "key",
    "any",
    "snapshots",
    "our-snapshots",
    "our-imports",
    "our-exports",
    "our-images",
    "our-instances",
]
"""``export-…``: the exports bucket of an environment. ``our-…``: what has the tag of a wavelift run."""
Where = Literal["vm", "datastore", "root"]

AwsFeature = Literal["migrate", "replicate", "test", "cutover", "network", "backup", "export", "export-setup"]
"""What an identity may be allowed to do for us. Some have no calls in this version."""

MIGRATION: Final[tuple[AwsFeature, ...]] = ("migrate",)
REPLICATION: Final[tuple[AwsFeature, ...]] = ("replicate",)
TEST: Final[tuple[AwsFeature, ...]] = ("test",)
CUTOVER: Final[tuple[AwsFeature, ...]] = ("cutover",)
LAUNCHING: Final[tuple[AwsFeature, ...]] = ("test", "cutover")
"""What launches instances of replicas, and checks them."""
BACKUP: Final[tuple[AwsFeature, ...]] = ("backup",)
EXPORT: Final[tuple[AwsFeature, ...]] = ("export",)
EXPORT_SETUP: Final[tuple[AwsFeature, ...]] = ("export-setup",)
"""Making the exports bucket, or granting on one."""
OF_EXPORTS: Final[tuple[AwsFeature, ...]] = (*EXPORT, *EXPORT_SETUP)
"""What needs the name of the exports bucket."""
ALL_FLOWS: Final[tuple[AwsFeature, ...]] = ("migrate", "replicate")
UNASKED: Final = ALL_FLOWS
"""What policies are made for when nobody names a feature: the flows that read disks."""
OFFERED: Final[tuple[AwsFeature, ...]] = (*ALL_FLOWS, *TEST, *CUTOVER, *BACKUP, *OF_EXPORTS)
"""What this version can be allowed. The table also has rows of later features."""
CONNECTOR: Final[tuple[Identity, ...]] = ("connector",)
CALLER: Final[tuple[Identity, ...]] = ("caller",)
BOTH: Final[tuple[Identity, ...]] = ("connector", "caller")


@dataclass(frozen=True, slots=True)
class AwsCall:
    """One AWS operation, by its botocore name, and the IAM actions that it needs.

    :ivar feature: those that make this call; whoever asks for none of them is not given the right.
    """

    operation: str
    """Service and operation, such as ``ec2:describe_images``."""
    actions: tuple[str, ...]
    resource: Resource
    identities: tuple[Identity, ...]
    feature: tuple[AwsFeature, ...]
    purpose: str


AWS_CALLS: Final = (
    # Staging: only the connector writes objects; both identities read them back, and delete them in clean-up.
    AwsCall(
        "s3:create_multipart_upload",
        ("s3:PutObject", "s3:PutObjectTagging"),
        "objects",
        CONNECTOR,
        MIGRATION,
        "export",
    ),
    AwsCall("s3:upload_part", ("s3:PutObject",), "objects", CONNECTOR, MIGRATION, "export"),
    AwsCall("s3:complete_multipart_upload", ("s3:PutObject",), "objects", CONNECTOR, MIGRATION, "export"),
    AwsCall("s3:abort_multipart_upload", ("s3:AbortMultipartUpload",), "objects", BOTH, ALL_FLOWS, "export, cleanup"),
    AwsCall(
        "s3:list_parts", ("s3:ListMultipartUploadParts",), "objects", BOTH, ALL_FLOWS, "resuming or aborting an upload"
    ),
    AwsCall("s3:list_multipart_uploads", ("s3:ListBucketMultipartUploads",), "bucket", BOTH, ALL_FLOWS, "cleanup"),
    AwsCall("s3:put_object", ("s3:PutObject", "s3:PutObjectTagging"), "objects", CONNECTOR, ALL_FLOWS, "manifests"),
    AwsCall("s3:get_object", ("s3:GetObject",), "objects", BOTH, ALL_FLOWS, "verify, manifests"),
    AwsCall("s3:get_object", ("s3:GetObjectVersion",), "objects", CALLER, MIGRATION, "verify in a versioned bucket"),
    AwsCall("s3:head_object", ("s3:GetObject",), "objects", BOTH, ALL_FLOWS, "export, verify, import"),
    AwsCall("s3:list_objects_v2", ("s3:ListBucket",), "bucket", BOTH, ALL_FLOWS, "cleanup"),
    AwsCall("s3:delete_objects", ("s3:DeleteObject",), "objects", BOTH, ALL_FLOWS, "cleanup"),
    # Pre-flight: read-only. The caller answers the same questions about an environment for people.
    AwsCall("s3:get_bucket_location", ("s3:GetBucketLocation",), "bucket", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("s3:get_bucket_encryption", ("s3:GetEncryptionConfiguration",), "bucket", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("s3:get_bucket_versioning", ("s3:GetBucketVersioning",), "bucket", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("s3:head_bucket", ("s3:ListBucket",), "bucket", BOTH, ALL_FLOWS, "pre-flight"),
    # Any key: which one the bucket, or the account, encrypts with by default is what the call is to find out.
    AwsCall("kms:describe_key", ("kms:DescribeKey",), "any", BOTH, ALL_FLOWS, "pre-flight, replication"),
    AwsCall("iam:get_role", ("iam:GetRole",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("iam:list_role_policies", ("iam:ListRolePolicies",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("iam:get_role_policy", ("iam:GetRolePolicy",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("iam:list_attached_role_policies", ("iam:ListAttachedRolePolicies",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("iam:get_policy", ("iam:GetPolicy",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("iam:get_policy_version", ("iam:GetPolicyVersion",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("sts:get_caller_identity", ("sts:GetCallerIdentity",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("ec2:describe_vpcs", ("ec2:DescribeVpcs",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("ec2:describe_subnets", ("ec2:DescribeSubnets",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall(
        "ec2:describe_network_interfaces", ("ec2:DescribeNetworkInterfaces",), "any", BOTH, ALL_FLOWS, "pre-flight"
    ),
    AwsCall("ec2:describe_security_groups", ("ec2:DescribeSecurityGroups",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall("ec2:describe_instance_types", ("ec2:DescribeInstanceTypes",), "any", BOTH, ALL_FLOWS, "pre-flight"),
    AwsCall(
        "ec2:describe_instance_type_offerings",
        ("ec2:DescribeInstanceTypeOfferings",),
        "any",
        BOTH,
        ALL_FLOWS,
        "pre-flight",
    ),
    AwsCall(
        "ec2:get_ebs_encryption_by_default", ("ec2:GetEbsEncryptionByDefault",), "any", BOTH, ALL_FLOWS, "pre-flight"
    ),
    AwsCall(
        "ec2:get_ebs_default_kms_key_id", ("ec2:GetEbsDefaultKmsKeyId",), "any", CONNECTOR, REPLICATION, "replication"
    ),
    # Import and launch: only the control plane. The connector, which cleans up, ends imports with our tag.
    AwsCall("ec2:import_image", ("ec2:ImportImage", "ec2:CreateTags"), "any", CALLER, ALL_FLOWS, "import"),
    AwsCall(
        "ec2:describe_import_image_tasks", ("ec2:DescribeImportImageTasks",), "any", BOTH, ALL_FLOWS, "import, cleanup"
    ),
    AwsCall("ec2:cancel_import_task", ("ec2:CancelImportTask",), "any", CALLER, ALL_FLOWS, "cancel"),
    AwsCall("ec2:cancel_import_task", ("ec2:CancelImportTask",), "our-imports", CONNECTOR, ALL_FLOWS, "cleanup"),
    AwsCall(
        "ec2:describe_images",
        ("ec2:DescribeImages",),
        "any",
        CALLER,
        (*ALL_FLOWS, *LAUNCHING, *BACKUP),
        "import, launch, backup",
    ),
    AwsCall(
        "ec2:describe_snapshots", ("ec2:DescribeSnapshots",), "any", BOTH, ALL_FLOWS, "replication, import, cleanup"
    ),
    AwsCall("ec2:create_tags", ("ec2:CreateTags",), "any", CALLER, ALL_FLOWS, "import, launch"),
    AwsCall(
        "ec2:run_instances", ("ec2:RunInstances", "ec2:CreateTags"), "any", CALLER, (*MIGRATION, *LAUNCHING), "launch"
    ),
    AwsCall(
        "ec2:describe_instances",
        ("ec2:DescribeInstances",),
        "any",
        CALLER,
        (*ALL_FLOWS, *LAUNCHING, *BACKUP),
        "launch, older images, backup",
    ),
    AwsCall("ec2:terminate_instances", ("ec2:TerminateInstances",), "our-instances", CALLER, TEST, "test launches"),
    AwsCall("ec2:deregister_image", ("ec2:DeregisterImage",), "any", CALLER, ALL_FLOWS, "older images, cleanup"),
    AwsCall("ec2:delete_snapshot", ("ec2:DeleteSnapshot",), "any", CALLER, ALL_FLOWS, "older images, cleanup"),
    AwsCall(
        "ebs:list_snapshot_blocks", ("ebs:ListSnapshotBlocks",), "any", CALLER, ALL_FLOWS, "conversion report, verify"
    ),
    AwsCall("ebs:get_snapshot_block", ("ebs:GetSnapshotBlock",), "any", CALLER, ALL_FLOWS, "conversion report, verify"),
    # Replication: the connector writes snapshots, and the control plane makes images from them.
    AwsCall("ebs:start_snapshot", ("ebs:StartSnapshot",), "snapshots", CONNECTOR, REPLICATION, "replication"),
    AwsCall(
        "ec2:create_tags",
        ("ec2:CreateTags",),
        "snapshots",
        CONNECTOR,
        REPLICATION,
        "replication: StartSnapshot, unfinished seeds",
    ),
    AwsCall(
        "ebs:put_snapshot_block", ("ebs:PutSnapshotBlock",), "our-snapshots", CONNECTOR, REPLICATION, "replication"
    ),
    AwsCall("ebs:complete_snapshot", ("ebs:CompleteSnapshot",), "our-snapshots", CONNECTOR, REPLICATION, "replication"),
    AwsCall(
        "ec2:delete_snapshot",
        ("ec2:DeleteSnapshot",),
        "our-snapshots",
        CONNECTOR,
        REPLICATION,
        "replication: abandoning a snapshot",
    ),
    AwsCall("ec2:register_image", ("ec2:RegisterImage", "ec2:CreateTags"), "any", CALLER, REPLICATION, "replication"),
    # Cutover: the control plane changes records, targets, addresses and routes, and starts and stops the target.
    AwsCall(
        "route53:list_resource_record_sets", ("route53:ListResourceRecordSets",), "any", CALLER, CUTOVER, "records"
    ),
    AwsCall(
        "route53:change_resource_record_sets", ("route53:ChangeResourceRecordSets",), "any", CALLER, CUTOVER, "records"
    ),
    AwsCall("route53:get_change", ("route53:GetChange",), "any", CALLER, CUTOVER, "records"),
    AwsCall(
        "elbv2:describe_target_groups",
        ("elasticloadbalancing:DescribeTargetGroups",),
        "any",
        CALLER,
        CUTOVER,
        "targets",
    ),
    AwsCall(
        "elbv2:describe_target_health",
        ("elasticloadbalancing:DescribeTargetHealth",),
        "any",
        CALLER,
        CUTOVER,
        "targets",
    ),
    AwsCall("elbv2:register_targets", ("elasticloadbalancing:RegisterTargets",), "any", CALLER, CUTOVER, "targets"),
    AwsCall("elbv2:deregister_targets", ("elasticloadbalancing:DeregisterTargets",), "any", CALLER, CUTOVER, "targets"),
    AwsCall(
        "ec2:create_network_interface",
        ("ec2:CreateNetworkInterface", "ec2:CreateTags"),
        "any",
        CALLER,
        CUTOVER,
        "address",
    ),
    AwsCall(
        "ec2:describe_network_interfaces",
        ("ec2:DescribeNetworkInterfaces",),
        "any",
        CALLER,
        CUTOVER,
        "address, security groups",
    ),
    AwsCall("ec2:delete_network_interface", ("ec2:DeleteNetworkInterface",), "any", CALLER, CUTOVER, "address"),
    AwsCall(
        "ec2:modify_network_interface_attribute",
        ("ec2:ModifyNetworkInterfaceAttribute",),
        "any",
        CALLER,
        CUTOVER,
        "security groups",
    ),
    AwsCall("ec2:describe_addresses", ("ec2:DescribeAddresses",), "any", CALLER, CUTOVER, "Elastic IP"),
    AwsCall("ec2:associate_address", ("ec2:AssociateAddress",), "any", CALLER, CUTOVER, "Elastic IP"),
    AwsCall("ec2:disassociate_address", ("ec2:DisassociateAddress",), "any", CALLER, CUTOVER, "Elastic IP"),
    AwsCall("ec2:describe_route_tables", ("ec2:DescribeRouteTables",), "any", CALLER, CUTOVER, "routes"),
    AwsCall("ec2:replace_route", ("ec2:ReplaceRoute",), "any", CALLER, CUTOVER, "routes"),
    AwsCall("ec2:create_route", ("ec2:CreateRoute",), "any", CALLER, CUTOVER, "routes"),
    AwsCall("ec2:delete_route", ("ec2:DeleteRoute",), "any", CALLER, CUTOVER, "routes"),
    AwsCall(
        "ec2:search_transit_gateway_routes",
        ("ec2:SearchTransitGatewayRoutes",),
        "any",
        CALLER,
        CUTOVER,
        "transit gateway routes",
    ),
    AwsCall(
        "ec2:replace_transit_gateway_route",
        ("ec2:ReplaceTransitGatewayRoute",),
        "any",
        CALLER,
        CUTOVER,
        "transit gateway routes",
    ),
    AwsCall(
        "ec2:create_transit_gateway_route",
        ("ec2:CreateTransitGatewayRoute",),
        "any",
        CALLER,
        CUTOVER,
        "transit gateway routes",
    ),
    AwsCall(
        "ec2:delete_transit_gateway_route",
        ("ec2:DeleteTransitGatewayRoute",),
        "any",
        CALLER,
        CUTOVER,
        "transit gateway routes",
    ),
    AwsCall("ec2:describe_instance_status", ("ec2:DescribeInstanceStatus",), "any", CALLER, LAUNCHING, "power, checks"),
    AwsCall("ec2:start_instances", ("ec2:StartInstances",), "any", CALLER, CUTOVER, "power"),
    AwsCall("ec2:stop_instances", ("ec2:StopInstances",), "any", CALLER, CUTOVER, "power"),
    AwsCall("ssm:list_commands", ("ssm:ListCommands",), "any", CALLER, LAUNCHING, "checks in the guest"),
    AwsCall("ssm:send_command", ("ssm:SendCommand",), "any", CALLER, LAUNCHING, "checks in the guest"),
    AwsCall(
        "ssm:get_command_invocation", ("ssm:GetCommandInvocation",), "any", CALLER, LAUNCHING, "checks in the guest"
    ),
    # Backup of instances: an image, and a launch template.
    AwsCall("ec2:create_image", ("ec2:CreateImage", "ec2:CreateTags"), "any", CALLER, BACKUP, "backup"),
    AwsCall("ec2:describe_launch_templates", ("ec2:DescribeLaunchTemplates",), "any", CALLER, BACKUP, "backup"),
    AwsCall(
        "ec2:describe_launch_template_versions",
        ("ec2:DescribeLaunchTemplateVersions",),
        "any",
        CALLER,
        BACKUP,
        "backup",
    ),
    AwsCall(
        "ec2:create_launch_template", ("ec2:CreateLaunchTemplate", "ec2:CreateTags"), "any", CALLER, BACKUP, "backup"
    ),
    AwsCall(
        "ec2:create_launch_template_version", ("ec2:CreateLaunchTemplateVersion",), "any", CALLER, BACKUP, "backup"
    ),
    AwsCall("ec2:modify_launch_template", ("ec2:ModifyLaunchTemplate",), "any", CALLER, BACKUP, "backup"),
    # Exports of instances: the facts of instance and bucket, which the check looks at.
    AwsCall("sts:get_caller_identity", ("sts:GetCallerIdentity",), "any", CALLER, OF_EXPORTS, "check of an export"),
    AwsCall("ec2:describe_instances", ("ec2:DescribeInstances",), "any", CALLER, EXPORT, "check of an export"),
    AwsCall("ec2:describe_volumes", ("ec2:DescribeVolumes",), "any", CALLER, EXPORT, "check of an export"),
    AwsCall("ec2:describe_images", ("ec2:DescribeImages",), "any", CALLER, EXPORT, "check of an export, own image"),
    AwsCall("ec2:describe_snapshots", ("ec2:DescribeSnapshots",), "any", CALLER, EXPORT, "check, own snapshots"),
    AwsCall("ec2:describe_instance_types", ("ec2:DescribeInstanceTypes",), "any", CALLER, EXPORT, "check of an export"),
    AwsCall("s3:head_bucket", ("s3:ListBucket",), "export-bucket", CALLER, OF_EXPORTS, "check of the bucket"),
    AwsCall(
        "s3:get_bucket_location",
        ("s3:GetBucketLocation",),
        "export-bucket",
        CALLER,
        OF_EXPORTS,
        "check of the bucket",
    ),
    AwsCall(
        "s3:get_bucket_ownership_controls",
        ("s3:GetBucketOwnershipControls",),
        "export-bucket",
        CALLER,
        OF_EXPORTS,
        "check of the bucket",
    ),
    AwsCall("s3:get_bucket_acl", ("s3:GetBucketAcl",), "export-bucket", CALLER, OF_EXPORTS, "check of the bucket"),
    AwsCall(
        "s3:get_bucket_policy", ("s3:GetBucketPolicy",), "export-bucket", CALLER, OF_EXPORTS, "check of the bucket"
    ),
    AwsCall(
        "s3:get_bucket_encryption",
        ("s3:GetEncryptionConfiguration",),
        "export-bucket",
        CALLER,
        OF_EXPORTS,
        "check of the bucket",
    ),
    AwsCall(
        "s3:get_public_access_block",
        ("s3:GetBucketPublicAccessBlock",),
        "export-bucket",
        CALLER,
        OF_EXPORTS,
        "check of the bucket",
    ),
    # The service role, which method image needs.
    AwsCall("iam:get_role", ("iam:GetRole",), "any", CALLER, EXPORT, "check of method image"),
    AwsCall("iam:list_role_policies", ("iam:ListRolePolicies",), "any", CALLER, EXPORT, "check of method image"),
    AwsCall("iam:get_role_policy", ("iam:GetRolePolicy",), "any", CALLER, EXPORT, "check of method image"),
    AwsCall(
        "iam:list_attached_role_policies",
        ("iam:ListAttachedRolePolicies",),
        "any",
        CALLER,
        EXPORT,
        "check of method image",
    ),
    AwsCall("iam:get_policy", ("iam:GetPolicy",), "any", CALLER, EXPORT, "check of method image"),
    AwsCall("iam:get_policy_version", ("iam:GetPolicyVersion",), "any", CALLER, EXPORT, "check of method image"),
    # Exports: the three methods. AWS's own tasks carry our tag, and so do snapshots and image: only those are ended.
    AwsCall(
        "ec2:create_instance_export_task",
        ("ec2:CreateInstanceExportTask", "ec2:CreateTags"),
        "any",
        CALLER,
        EXPORT,
        "method instance",
    ),
    AwsCall("ec2:describe_export_tasks", ("ec2:DescribeExportTasks",), "any", CALLER, EXPORT, "following, places"),
    AwsCall("ec2:cancel_export_task", ("ec2:CancelExportTask",), "our-exports", CALLER, EXPORT, "cancel"),
    AwsCall("ec2:create_image", ("ec2:CreateImage", "ec2:CreateTags"), "any", CALLER, EXPORT, "method image"),
    AwsCall("ec2:export_image", ("ec2:ExportImage", "ec2:CreateTags"), "any", CALLER, EXPORT, "method image"),
    AwsCall(
        "ec2:describe_export_image_tasks",
        ("ec2:DescribeExportImageTasks",),
        "any",
        CALLER,
        EXPORT,
        "following, places",
    ),
    AwsCall("ec2:deregister_image", ("ec2:DeregisterImage",), "our-images", CALLER, EXPORT, "own image"),
    AwsCall("ec2:create_snapshots", ("ec2:CreateSnapshots", "ec2:CreateTags"), "any", CALLER, EXPORT, "method direct"),
    AwsCall("ec2:delete_snapshot", ("ec2:DeleteSnapshot",), "our-snapshots", CALLER, EXPORT, "own snapshots"),
    AwsCall("ebs:list_snapshot_blocks", ("ebs:ListSnapshotBlocks",), "any", CALLER, EXPORT, "method direct, verify"),
    AwsCall("ebs:get_snapshot_block", ("ebs:GetSnapshotBlock",), "any", CALLER, EXPORT, "method direct, verify"),
    # Exports: the worker near AWS writes the OVA and its manifests, and opens what AWS wrote.
    AwsCall(
        "s3:create_multipart_upload",
        ("s3:PutObject", "s3:PutObjectTagging"),
        "export-objects",
        CALLER,
        EXPORT,
        "method direct",
    ),
    AwsCall("s3:upload_part", ("s3:PutObject",), "export-objects", CALLER, EXPORT, "method direct"),
    AwsCall("s3:complete_multipart_upload", ("s3:PutObject",), "export-objects", CALLER, EXPORT, "method direct"),
    AwsCall(
        "s3:abort_multipart_upload",
        ("s3:AbortMultipartUpload",),
        "export-objects",
        CALLER,
        EXPORT,
        "method direct, cleanup",
    ),
    AwsCall("s3:list_parts", ("s3:ListMultipartUploadParts",), "export-objects", CALLER, EXPORT, "another try"),
    AwsCall(
        "s3:list_multipart_uploads",
        ("s3:ListBucketMultipartUploads",),
        "export-bucket",
        CALLER,
        EXPORT,
        "cleanup",
    ),
    AwsCall("s3:put_object", ("s3:PutObject", "s3:PutObjectTagging"), "export-objects", CALLER, EXPORT, "manifests"),
    AwsCall("s3:get_object", ("s3:GetObject",), "export-objects", CALLER, EXPORT, "verify"),
    AwsCall("s3:get_object", ("s3:GetObjectVersion",), "export-objects", CALLER, EXPORT, "verify with versioning"),
    AwsCall("s3:head_object", ("s3:GetObject",), "export-objects", CALLER, EXPORT, "verify"),
    AwsCall("s3:list_objects_v2", ("s3:ListBucket",), "export-bucket", CALLER, EXPORT, "cleanup"),
    AwsCall("s3:delete_objects", ("s3:DeleteObject",), "export-objects", CALLER, EXPORT, "cleanup"),
    # The exports bucket. CreateBucket sets ownership and tags, each of which asks for a right of its own.
    AwsCall(
        "s3:create_bucket",
        ("s3:CreateBucket", "s3:PutBucketOwnershipControls", "s3:TagResource"),
        "export-bucket",
        CALLER,
        EXPORT_SETUP,
        "making the bucket",
    ),
    AwsCall(
        "s3:get_bucket_tagging",
        ("s3:GetBucketTagging",),
        "export-bucket",
        CALLER,
        EXPORT_SETUP,
        "is the bucket ours",
    ),
    AwsCall("s3:put_bucket_acl", ("s3:PutBucketAcl",), "export-bucket", CALLER, EXPORT_SETUP, "grants"),
    AwsCall(
        "s3:put_bucket_encryption",
        ("s3:PutEncryptionConfiguration",),
        "export-bucket",
        CALLER,
        EXPORT_SETUP,
        "making the bucket",
    ),
    AwsCall(
        "s3:put_public_access_block",
        ("s3:PutBucketPublicAccessBlock",),
        "export-bucket",
        CALLER,
        EXPORT_SETUP,
        "making the bucket",
    ),
)


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What S3, EBS and EC2 do with the KMS key on an identity's behalf; wavelift makes no such calls itself.

    EBS user guide, "Requirements for Amazon EBS encryption"; S3 user guide, "Using server-side encryption with KMS".
    """

    actions: tuple[str, ...]
    identities: tuple[Identity, ...]
    feature: tuple[AwsFeature, ...]
    purpose: str


_EBS_KEY: Final = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncrypt*",
)
KEY_USES: Final = (
    KeyUse(("kms:Decrypt", "kms:DescribeKey"), BOTH, ALL_FLOWS, "reading staged objects; pre-flight"),
    KeyUse(("kms:GenerateDataKey",), CONNECTOR, ALL_FLOWS, "writing staged objects"),
    KeyUse(_EBS_KEY, CONNECTOR, REPLICATION, "encrypted EBS snapshots"),
    # Also to start an instance again, and to make an image of one.
    KeyUse(_EBS_KEY, CALLER, (*ALL_FLOWS, *LAUNCHING, *BACKUP, *EXPORT), "encrypted images, instances and snapshots"),
)

Feature = Literal["migrate", "sms", "replicate", "cutover", "hcx"]


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
    VsphereCall(
        "ReconfigVM_Task", "VirtualMachine.Config.EditDevice", "vm", "cutover", "keep the source off the network"
    ),
    VsphereCall(
        "ReconfigVM_Task",
        "VirtualMachine.Interact.DeviceConnection",
        "vm",
        "cutover",
        "disconnect the source's network cards, and connect them again",
    ),
    VsphereCall("RetrievePropertiesEx", "System.Read", "root", "hcx", "see every card on a network, whoever's the VM"),
    VsphereCall("HasPrivilegeOnEntities", "System.View", "root", "hcx", "whether the account sees everything"),
)
FREE: Final = frozenset({"System.Anonymous", "System.Read", "System.View"})
"""Privileges that every role has: vCenter adds them automatically, and its role editor doesn't list them."""
