"""Every value of this simulator that VMware does not document.

The product must not depend on any of them; a test shows that it does not.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

from wavelift.simulators.kit.invented import Word


class Phase(Enum):
    """Where a migration is. The value is the invented ``state`` of the query, except for ends, whose names are seen."""

    DRAFT = Word("DRAFT", other="SKETCH")
    QUEUED = Word("MIGRATE_QUEUED", other="IN_LINE")
    PREPARING = Word("MIGRATE_STARTED", other="MAKING_READY")
    BASE_SYNC = Word("TRANSFER_STARTED", other="COPYING_ALL")
    WAITING = Word("TRANSFER_COMPLETED", other="HOLDING")
    SWITCHOVER = Word("SWITCHOVER_STARTED", other="CROSSING")
    COMPLETE = Word("MIGRATION_COMPLETE", other="MIGRATION_COMPLETE")
    FAILED = Word("MIGRATION_FAILED", other="MIGRATION_FAILED")
    CANCELLED = Word("MIGRATION_CANCELLED", other="MIGRATION_CANCELLED")
    ENDED = Word("MIGRATE_ENDED", other="OVER")
    """Ended, and nothing says how."""


TRANSFER_FAILED: Final = "TRANSFER_FAILED"
"""Seen in a client: a migration that failed before its switchover."""
MESSAGES: Final = {
    Phase.DRAFT: Word("Draft", other="Not begun"),
    Phase.QUEUED: Word("Migration is queued", other="Waits its turn"),
    Phase.PREPARING: Word("Collecting source details", other="Getting ready"),
    Phase.BASE_SYNC: Word("Base sync in progress", other="Copies everything"),
    Phase.WAITING: Word("Waiting for maintenance window", other="Holds for the hour"),
    Phase.SWITCHOVER: Word("Switchover in progress", other="Goes across"),
    Phase.COMPLETE: Word("Migration completed", other="All over"),
    Phase.FAILED: Word("Migration failed", other="It went wrong"),
    Phase.CANCELLED: Word("Migration cancelled", other="Called off"),
    Phase.ENDED: Word("Migration ended", other="No more"),
}
"""``progress.message``."""
WINDOW_PASSED: Final = Word("Switchover window expired", other="The hour is past")
UNKNOWN_FAILED: Final = Word("RELOCATE_FAILED", other="CROSSING_FAILED")
"""A name like that of TRANSFER_FAILED, which nobody has listed; no flag says that it failed."""
GROUP_DRAFT: Final = Word("DRAFT", other="SKETCH")
GROUP_STARTED: Final = Word("STARTED", other="AFOOT")
STATUS_TYPE: Final = Word("migration", other="movement")

EXTENSION_BUSY: Final = Word("REMOVE_IN_PROGRESS", other="GOING")
EXTENSION_GOOD: Final = Word("REALIZED", other="STANDING")
EXTENSION_BROKEN: Final = Word("REMOVE_FAILED", other="STUCK")
"""``operationStatus.state``."""
SEGMENT_NAME: Final = Word("L2E_{network}", other="stretched {network}")
"""Name of the segment that HCX makes. Often shown as ``L2E_…``: not confirmed."""

START_STATUS: Final = 500
"""Of a login while the manager starts. The message has been seen, the status has not."""
STARTING: Final = "'Trusted root certificates' value should not be empty"
BAD_LOGIN: Final = Word("Invalid username or password", other="Who are you?")
NO_SESSION: Final = Word("Unauthorized", other="Log in")

CODES: Final = {
    "entity": Word("ENTITY_NOT_FOUND", other="E1"),
    "running": Word("MIGRATION_IN_PROGRESS", other="E2"),
    "type": Word("INVALID_MIGRATION_TYPE", other="E3"),
    "endpoint": Word("ENDPOINT_NOT_FOUND", other="E4"),
    "placement": Word("INVALID_PLACEMENT", other="E5"),
    "storage": Word("INVALID_STORAGE", other="E6"),
    "network": Word("INVALID_NETWORK_MAPPING", other="E7"),
    "mesh": Word("SERVICE_MESH_NOT_FOUND", other="E8"),
    "hardware": Word("HARDWARE_VERSION", other="E9"),
    "tools": Word("TOOLS_NOT_RUNNING", other="E10"),
    "power": Word("POWER_STATE", other="E11"),
    "schedule": Word("INVALID_SCHEDULE", other="E12"),
    "snapshots": Word("SNAPSHOTS", other="E13"),
    "iso": Word("ISO_MOUNTED", other="E14"),
    "template": Word("TEMPLATE", other="E15"),
    "name": Word("NAME_EXISTS", other="E16"),
    "ordered": Word("ORDERED", other="E17"),
    "shape": Word("INVALID_REQUEST", other="E20"),
    "group": Word("GROUP", other="E21"),
    "ended": Word("MIGRATION_NOT_ACTIVE", other="E22"),
    "extension": Word("EXTENSION", other="E23"),
    "session": Word("UNAUTHENTICATED", other="E24"),
    "call": Word("NOT_FOUND", other="E25"),
    "internal": Word("INTERNAL", other="E26"),
}
"""``code`` of errors: not listed anywhere."""
SAME_NAME: Final = "Mobility group with same name exist."
"""Seen, the only one of the messages."""
SWITCHING_REFUSED: Final = True
"""A forceCancel of a migration that has begun its switchover is refused."""
STARTED_AGAIN_REFUSED: Final = True
"""A second start of a group is refused."""
GROUP_STARTS_IN_PART: Final = True
"""Of a group, each VM without an error starts, and the answer's item has the errors of the others."""
MON_BLOCKS_UNEXTEND: Final = True
"""VMware's guide says to turn Mobility Optimized Networking off first; what happens else is not documented."""
