"""What a test may set: speeds, limits and manners. Changed while it runs by ``POST /_sim/settings``."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

ACCOUNT: Final = "123456789012"
MANAGED_EBS_KEY: Final = "alias/aws/ebs"
"""How EC2 names the key that AWS keeps for EBS in an account (EC2 CLI reference, get-ebs-default-kms-key-id)."""
PARTITIONS: Final = (("cn-", "aws-cn"), ("us-gov-", "aws-us-gov"), ("eusc-", "aws-eusc"), ("us-iso-", "aws-iso"))
"""What a region's name begins with, and the partition that its ARNs name; all others are ``aws``."""
MINUTE: Final = 60.0


def partition_of(region: str) -> str:
    return next((name for start, name in PARTITIONS if region.startswith(start)), "aws")


@dataclass(slots=True)
class Settings:
    """Times in seconds, by the simulator's own :class:`Clock` where they are long."""

    region: str = "eu-central-1"
    session_seconds: float = 0.0
    """Life of AssumeRole's credentials whatever the caller asked for; 0 means as asked."""
    phase_seconds: float = 0.2
    """How long an import stays in each phase that does no work of its own."""
    import_limit: int = 5
    """Active import tasks of the region; one more is refused."""
    import_workers: int = 2
    """Conversions that run at the same time; the others stay in ``converting``."""
    change_boot_disk: bool = True
    """As the real one does: the boot disk of an imported machine is not what was uploaded."""
    change_data_disks: bool = False
    """As the real one must not do."""
    unseen_seconds: float = 0.0
    """Eventual consistency: new import tasks, images, snapshots and instances are there, but EC2 says for so long that
    they are not: describe calls leave them out or fail by id, RunInstances and CreateTags say NotFound."""
    shuffled: bool = True
    """Lists without a promised order come in another one than they were made in: an import's SnapshotDetails."""
    thin_pages: bool = False
    """EBS direct's lists begin with an empty page, and the others hold less than was asked for."""
    instance_pending_seconds: float = 0.3
    snapshot_seconds: float = 0.0
    """From CompleteSnapshot to state ``completed``."""
    allow_growth: bool = False
    """Whether StartSnapshot takes a child larger than its parent (not documented: refused by default)."""
    pending_snapshot_limit: int = 100
    concurrent_puts: int = 0
    """PutSnapshotBlock calls in flight before ConcurrentLimitExceededException; 0 means no limit."""
    block_token_seconds: float = 7 * 24 * 60 * MINUTE
    organisation_policy: str = ""
    """A service control policy, JSON: its denials hold for every caller, on what :mod:`.policy` knows of."""
    evidence: bool = True
    other_words: bool = False
    """Imports describe themselves in other invented words: what still works with it did not depend on them."""

    def update(self, values: Mapping[str, Any]) -> None:
        """Set fields by name. Raises ValueError for an unknown name or a value of the wrong kind."""
        kinds = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in kinds:
                raise ValueError(f"no setting {name!r}; there are: {', '.join(sorted(kinds))}")
            setattr(self, name, _coerce(kinds[name], value))

    @property
    def partition(self) -> str:
        return partition_of(self.region)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _coerce(kind: type, value: Any) -> Any:
    if kind is bool and isinstance(value, str):
        return value.lower() in {"1", "true", "yes", "on"}
    return kind(value)


class Clock:
    """Now, plus what a test has added: so that hours pass in no time."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += seconds
