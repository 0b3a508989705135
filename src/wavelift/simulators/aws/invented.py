"""Every value of this simulator that AWS does not document.

The product must not depend on any of them; a test shows that it does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.simulators.kit.invented import Word


@dataclass(frozen=True, slots=True)
class Phase:
    """What DescribeImportImageTasks says in a phase of an import."""

    message: str
    progress: int
    status: Word


PHASES: Final = (
    Phase("pending", 1, Word("active", other="contemplating")),
    Phase("validating", 4, Word("active", other="validating")),
    Phase("validated", 6, Word("active", other="validated")),
    Phase("converting", 19, Word("active", other="converting")),
    Phase("updating", 28, Word("active", other="updating")),
    Phase("booting", 53, Word("active", other="booting")),
    Phase("preparing ami", 76, Word("active", other="preparing ami")),
)
"""The messages have been seen in practice; the percentages are invented. Of the other words for the status, those that
are documented as messages are used, and an unknown one for "pending"."""
LIMIT_CODE: Final = "ResourceCountLimitExceeded"
LIMIT_MESSAGE: Final = "You have reached the limit of {limit} concurrent import tasks in this region."
UNKNOWN_TASK_CODE: Final = "InvalidConversionTaskId"
NO_ROLE_MESSAGE: Final = "The service role {role} provided does not exist or does not have sufficient permissions"
NO_OBJECT_MESSAGE: Final = "User does not have access to the S3 object.({bucket}/{key})"
CANCELLED_MESSAGE: Final = "User initiated task cancelation"
DEVICE_NAMES: Final = ("/dev/sda1", *(f"/dev/xvd{letter}" for letter in "bcdefghijklmnopqrstuvwxyz"))
"""The boot disk comes first. AWS does not document the names of data disks."""
COMPLETED_AGAIN_REASON: Final = "INVALID_SNAPSHOT_ID"
COMPLETED_AGAIN_MESSAGE: Final = "The snapshot '{snapshot}' is not pending"
"""The answer to a second CompleteSnapshot, also while the first one still runs. AWS documents only for PutSnapshotBlock
that the state must be pending; to refuse is the harder case for a client."""
NO_BLOCKS_REASON: Final = "INVALID_PARAMETER_VALUE"
NO_BLOCKS_MESSAGE: Final = "There is no checksum of no blocks"
"""The answer to a checksum with ChangedBlocksCount 0. AWS documents a checksum "based on the checksums of each written
block"."""
UNENCRYPTED_PARENT_REASON: Final = "INVALID_PARAMETER_VALUE"
UNENCRYPTED_PARENT_MESSAGE: Final = "The parent snapshot must be encrypted because encryption by default is on"
"""AWS documents that StartSnapshot refuses it with ValidationException, but not the reason and the message."""
PLAIN_DESCRIPTIONS: Final = True
"""EC2 refuses descriptions of images that are not ASCII, which the API reference does not say. That it refuses them for
import tasks and their disks too is a guess."""
IMPORT_ASKS_FOR_PASS_ROLE: Final = True
"""VM Import's list of required permissions does not name iam:PassRole. To ask for it is the harder case."""
EBS_KEY_ACTIONS: Final = (
    "kms:CreateGrant",
    "kms:Decrypt",
    "kms:DescribeKey",
    "kms:GenerateDataKeyWithoutPlaintext",
    "kms:ReEncryptFrom",
    "kms:ReEncryptTo",
)
"""What users of encryption must be allowed (EBS user guide, "Requirements for Amazon EBS encryption"). Which call asks
for which of them is not documented: StartSnapshot, ImportImage and RunInstances ask for all."""
ENI_WITH_OTHERS_MESSAGE: Final = "A network interface may not specify both a network interface ID and {name}"
NOT_ATTACHED_TWICE_MESSAGE: Final = "Interface: [{interface}] in use."
NOT_STARTABLE_MESSAGE: Final = "The instance '{instance}' is not in a state from which it can be started."
NOT_STOPPABLE_MESSAGE: Final = "The instance '{instance}' is not in a state from which it can be stopped."
STOPPED_ONLY_MESSAGE: Final = "The instance '{instance}' is not in the 'stopped' state."
"""AWS documents the codes of these errors, but not the messages."""
CHECKS_BEGIN_ANEW: Final = True
"""A reboot begins the status checks anew, as a start does. AWS documents it for a start only."""
DRAINING_CODE: Final = "InvalidTarget"
DRAINING_MESSAGE: Final = "The following targets are deregistering and cannot be registered: '{target}'"
"""AWS documents that an IP address can be registered again only after its deregistration delay, but not the error."""
NO_ZONE_MESSAGE: Final = "You must specify an Availability Zone for '{address}', which is outside of the VPC"
ZONE_MESSAGE: Final = "The only Availability Zone for '{address}', which is outside of the VPC, is 'all'"
"""AWS documents the rule, but not the messages."""
NO_TRANSIT_ROUTE_CODE: Final = "InvalidRoute.NotFound"
"""Of ReplaceTransitGatewayRoute and DeleteTransitGatewayRoute. AWS documents the code for routes in general."""
NO_INVOCATION_MESSAGE: Final = "The command ID and managed node ID you specified didn't match any invocations."
NO_SNAPSHOTS_MESSAGE: Final = "The instance '{instance}' is not in a state from which snapshots can be taken."
NOT_LEFT_OUT_MESSAGE: Final = "The volume '{volume}' is not a data volume of the instance."
NO_VOLUMES_MESSAGE: Final = "The instance '{instance}' has no volumes to take snapshots of."
"""CreateSnapshots: AWS documents neither the codes nor the messages."""
ATTACHABLE_MESSAGE: Final = "Instance '{instance}' is not 'running' or 'stopped'."
DEVICE_TAKEN_MESSAGE: Final = "Invalid value '{device}' for unixDevice. Attachment point {device} is already in use"
"""AttachVolume: AWS documents the codes of these errors, but not the messages."""
FOREIGN_OWNER_CODE: Final = "AccessDenied"
"""PutBucketAcl with another owner than the bucket's. AWS does not document the error."""
EXPORT_PHASES: Final = (
    Phase("pending", 0, Word("active", other="waiting")),
    Phase("preparing", 8, Word("active", other="snapshotting")),
    Phase("converting", 25, Word("active", other="converting")),
    Phase("uploading", 62, Word("active", other="uploading")),
    Phase("finishing", 91, Word("active", other="finalising")),
)
"""AWS documents neither the messages nor the percentages of exports. In the last phase a task can't be cancelled, which
is documented ("the process of transferring the final disk image")."""
NOT_EXPORTABLE_CODE: Final = "NotExportable"
"""AWS documents this code ("The specified instance can't be exported; only certain instances can be exported"), but not
which refusals it is the code of, nor the messages."""
EXPORT_LIMIT_CODE: Final = LIMIT_CODE
EXPORT_LIMIT_MESSAGE: Final = "You have reached the limit of {limit} concurrent export tasks in this region."
ALREADY_EXPORTED_CODE: Final = Word("IncorrectState", other="ExportTaskInProgress")
ALREADY_EXPORTED_MESSAGE: Final = "{source} is already being exported."
UNKNOWN_EXPORT_CODE: Final = "InvalidExportTaskID.NotFound"
NOT_CANCELLED_MESSAGE: Final = "The export task {task} is {status} and cannot be cancelled"
FINAL_STAGE_MESSAGE: Final = "The export task {task} is in its final stage and cannot be cancelled"
NO_EXPORT_GRANT_CODE: Final = "AuthFailure"
NO_EXPORT_GRANT_MESSAGE: Final = (
    "vm-import-export@amazon.com must have WRITE and READ_ACL permission on the S3 bucket {bucket}."
)
"""Seen in practice. That a bucket of another account gets the same answer is a guess."""
EXPORTS_WITHOUT_ACLS: Final = False
"""The user guide has ACLs enabled also where a policy grants. Whether it works without is not known."""
NO_EXPORT_BUCKET_MESSAGE: Final = "The specified bucket does not exist: {bucket}"
OTHER_REGION_MESSAGE: Final = "The bucket {bucket} is not in the region {region}"
WITH_KMS_MESSAGE: Final = "The bucket {bucket} is encrypted with SSE-KMS, which exports do not support"
IMAGES_OF_ONE_DISK: Final = True
"""What ExportImage does with an image of several disks is not documented: to refuse is the harder case."""
RAW_OF_INSTANCES: Final = False
"""Whether CreateInstanceExportTask takes RAW: its service model lists it, its user guide does not."""
EXPORT_REBOOTS: Final = True
"""The user guide says that an instance may be restarted while it is exported, but not when: a running one is, once."""
