"""What a test may set: speeds, limits and behaviour. ``POST /_sim/settings`` changes them at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.simulators.aws.invented import EXPORT_REBOOTS
from wavelift.simulators.kit import settings

ACCOUNT: Final = "123456789012"
MANAGED_EBS_KEY: Final = "alias/aws/ebs"
"""EC2's name of the AWS managed key for EBS (EC2 CLI reference, get-ebs-default-kms-key-id)."""
PARTITIONS: Final = (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov"), ("eusc-", "aws-eusc"), ("us-iso-", "aws-iso"))
"""Prefix of a region's name, and the partition in its ARNs. All other regions are in ``aws``."""
MINUTE: Final = 60.0


def partition_of(region: str) -> str:
    return next((name for start, name in PARTITIONS if region.startswith(start)), "aws")


@dataclass(slots=True)
class Settings(settings.Settings):
    """Times are seconds. Long ones are measured by the simulator's clock."""

    region: str = "eu-central-1"
    session_seconds: float = 0.0
    """Life of AssumeRole's credentials, whatever the caller asks for; 0 means as asked."""
    phase_seconds: float = 0.2
    """How long an import or export stays in each phase."""
    import_limit: int = 5
    """Active import tasks in the region; one more is refused."""
    export_limit: int = 5
    """Active export tasks of both kinds in the region; one more is refused (user guide: "up to five", up to 20)."""
    export_memory_seconds: float = 7 * 24 * 60 * MINUTE
    """How long an export task that has ended can be described."""
    export_filters: str = "ignored"
    """What DescribeExportTasks does with filters, of which AWS documents no name: ``ignored`` or ``refused``."""
    export_reboots: bool = EXPORT_REBOOTS
    """Whether CreateInstanceExportTask restarts a running instance."""
    import_workers: int = 2
    """Conversions that run at the same time. The others wait in the phase ``converting``."""
    change_boot_disk: bool = True
    """The conversion changes the boot disk, as AWS's does."""
    change_data_disks: bool = False
    """The conversion changes data disks too, which AWS's must not do."""
    unseen_seconds: float = 0.0
    """Eventual consistency: for this long, EC2 does not show a new import task, image, snapshot or instance. Describe
    calls leave it out, or fail if its id is given; RunInstances and CreateTags answer NotFound."""
    shuffled: bool = True
    """Reverse lists that have no documented order: an import's SnapshotDetails."""
    thin_pages: bool = False
    """The first page of EBS direct's lists is empty, and the others hold less than was asked for."""
    page_blocks: int = 0
    """Blocks in one page of EBS direct's lists, however many more are asked for; 0 means as many as are asked for."""
    instance_pending_seconds: float = 0.3
    instance_stopping_seconds: float = 0.2
    instance_terminating_seconds: float = 0.0
    """Time in ``shutting-down``; 0 means that the instance is terminated, and its addresses free, at once."""
    status_check_seconds: float = 0.2
    """From ``running`` to the end of the first status checks."""
    agent_seconds: float = 0.0
    """From ``running`` until Systems Manager knows the instance."""
    command_seconds: float = 0.1
    """How long a command is Pending, and then InProgress."""
    image_seconds: float = 0.2
    """From CreateImage to ``available``, and from CreateSnapshot to ``completed``."""
    dns_change_seconds: float = 0.2
    """From ChangeResourceRecordSets to INSYNC."""
    target_health_seconds: float = 0.2
    """From RegisterTargets, or the target's start, to ``healthy``."""
    snapshot_seconds: float = 0.0
    """Time from CompleteSnapshot to the state ``completed``."""
    allow_growth: bool = False
    """Whether StartSnapshot accepts a child larger than its parent. AWS does not document it: refused by default."""
    pending_snapshot_limit: int = 100
    concurrent_puts: int = 0
    """PutSnapshotBlock calls in flight; one more gets ConcurrentLimitExceededException. 0 means no limit."""
    block_token_seconds: float = 7 * 24 * 60 * MINUTE
    organisation_policy: str = ""
    """A service control policy, JSON. Its Deny statements apply to every caller, for the actions in :mod:`.policy`."""

    @property
    def partition(self) -> str:
        return partition_of(self.region)
