"""Every value of this simulator that AWS does not document, in one place.

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
"""Boot disk first; what the real one names data disks is not documented."""
COMPLETED_AGAIN_REASON: Final = "INVALID_SNAPSHOT_ID"
COMPLETED_AGAIN_MESSAGE: Final = "The snapshot '{snapshot}' is not pending"
"""What CompleteSnapshot says of a snapshot that it was called for before, also while AWS works on it. That the state
must be pending is documented of PutSnapshotBlock only: the harder case."""
NO_BLOCKS_REASON: Final = "INVALID_PARAMETER_VALUE"
NO_BLOCKS_MESSAGE: Final = "There is no checksum of no blocks"
"""A checksum beside ChangedBlocksCount 0: AWS documents one "based on the checksums of each written block"."""
UNENCRYPTED_PARENT_REASON: Final = "INVALID_PARAMETER_VALUE"
UNENCRYPTED_PARENT_MESSAGE: Final = "The parent snapshot must be encrypted because encryption by default is on"
"""That StartSnapshot refuses it with ValidationException is documented, its reason and words are not."""
PLAIN_DESCRIPTIONS: Final = True
"""That descriptions of images hold ASCII only is not in the API reference, but what EC2 answers; that it holds for
import tasks and their disks too is our guess."""
