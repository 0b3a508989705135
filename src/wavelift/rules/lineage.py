"""Whether a disk's change tracking is reliable since the last run (invariant 3), and how disks of two runs match.

Since vSphere 6.5, a corrupt change map gives no error (Veritas KB 100033481). So every circumstance that is known to
break change tracking raises a doubt. A doubt costs time, because all digests are compared, but it never costs data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from wavelift.base.domain import DiskFacts, DiskLineage, ReplicatedDisk
from wavelift.base.units import human_bytes

EventKind = Literal["revert", "host failure", "hard power-off", "move"]
Fate = Literal["same", "grown", "new"]


@dataclass(frozen=True, slots=True)
class TrackingEvent:
    """An event of a VM that can affect its change tracking."""

    kind: EventKind
    at: datetime
    """According to vCenter's clock."""
    source: str
    """The vSphere type of the event, or the description id of its task."""
    text: str = ""
    """vCenter's text in vCenter's language; for display only."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:%Y-%m-%d %H:%M:%S} UTC ({self.source})"


DOUBTFUL: Final[frozenset[EventKind]] = frozenset({"revert", "host failure", "hard power-off"})
"""Events that raise a doubt. After a revert, the change map may belong to another state of the disk. "A power failure
or hard shutdown while powered on" may reset it (Broadcom KB 320557). A move to another host is no doubt, because the
map moves with the VM. A move to other storage changes the disk's file."""


TRUSTED_DAYS: Final = 14
"""wavelift's limit: change tracking is not used across a longer time, even if vCenter keeps events for longer. Normally
a run is due at least every day. After two weeks without a run, one full comparison is worth its cost."""


@dataclass(frozen=True, slots=True)
class EventMemory:
    """How far back the events of a VM reach.

    This is determined *after* the events were read. vCenter removes the oldest events first, so every event that still
    exists now also existed during the read.
    """

    age: timedelta
    """Age of the last run's snapshot, according to vCenter's clock."""
    kept_days: int | None
    """For how many days vCenter keeps events. None: without limit, or vCenter does not report it."""
    reaches: bool
    """Whether an event of this VM from the last run's snapshot or earlier still exists. Taking the snapshot was one."""


def memory_doubt(memory: EventMemory) -> str:
    """Why vCenter may not have all events of the VM since the last run; empty if it has them all.

    The retention setting alone is no proof: it may have been changed temporarily, and the database may have been pruned
    by size or restored. Also, a VM that was unregistered and registered again has no earlier events.
    """
    days = memory.age.days
    if memory.kept_days is not None and memory.age >= timedelta(days=memory.kept_days):
        return f"vCenter keeps events for {memory.kept_days} days, but the last run is {days} days old"
    if memory.age >= timedelta(days=TRUSTED_DAYS):
        return f"the last run is {days} days old; wavelift relies on change tracking for at most {TRUSTED_DAYS} days"
    if not memory.reaches:
        return "vCenter has no event of the VM from before the last run: the event of a later revert may be missing too"
    return ""


def lineage_doubts(
    previous: DiskLineage,
    now: DiskFacts,
    *,
    hardware_version: str,
    events: Iterable[TrackingEvent] = (),
    forgotten: str = "",
) -> str:
    """Why the changed areas of a disk since the last run can't be used; empty if they can.

    :param now: the disk as *our snapshot* froze it.
    :param hardware_version: of the VM, such as ``vmx-19``.
    :param events: the VM's events since the last run's snapshot was taken.
    :param forgotten: why these events may be incomplete (:func:`memory_doubt`).
    """
    seen = previous.quarantine or _of_ids(previous, now) or _of_disk(previous, now, hardware_version)
    return seen or _of(events) or forgotten


def lineage_of(change_id: str) -> str:
    """The part of a disk's change id that stays the same while tracking continues."""
    return _split(change_id)[0]


def _of_ids(previous: DiskLineage, now: DiskFacts) -> str:
    if not previous.change_id:
        return "the last run had no change id"
    if not now.change_id:
        return "vCenter reports no change id: tracking is off, or has not taken effect yet"
    old, old_number = _split(previous.change_id)
    new, new_number = _split(now.change_id)
    if old != new:
        return f"tracking was restarted: its id changed from {old} to {new}"
    if old_number is not None and new_number is not None and new_number < old_number:
        return f"the change id decreased from {old_number} to {new_number}"
    return ""


def _split(change_id: str) -> tuple[str, int | None]:
    """``52 ac …/7`` → lineage and sequence number. The number is None if the id has another format."""
    lineage, _, number = change_id.rpartition("/")
    return lineage or change_id, int(number) if lineage and number.isdecimal() else None


def _of_disk(previous: DiskLineage, now: DiskFacts, hardware_version: str) -> str:
    compared: tuple[tuple[str, object, object], ...] = (
        ("the disk's key", previous.key, now.key),
        ("the disk's uuid", previous.uuid, now.uuid),
        ("the disk's file", previous.file, now.base_file),
        ("the disk's size in bytes", previous.capacity, now.capacity),
        ("the hardware version", previous.hardware_version or hardware_version, hardware_version),
    )
    return next((f"{what} changed from {old} to {new}" for what, old, new in compared if old != new), "")


def _of(events: Iterable[TrackingEvent]) -> str:
    return next((f"since the last run: {event}" for event in events if event.kind in DOUBTFUL), "")


# --- which disk is which ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MatchedDisk:
    """A current disk and its lineage from the last run."""

    disk: DiskFacts
    previous: DiskLineage | None
    """None if the disk is new."""
    fate: Fate
    reason: str
    """Why the disk needs a new seed; empty for ``same``."""


@dataclass(frozen=True, slots=True)
class MatchedDisks:
    """The matches, in the order of the current disks, and the disks that no longer exist."""

    disks: tuple[MatchedDisk, ...]
    gone: tuple[DiskLineage, ...]


def match_disks(previous: Sequence[DiskLineage], now: Sequence[DiskFacts]) -> MatchedDisks:
    """Match the current disks with those of the last run: by uuid if it is unique, else by uuid and key.

    A disk that moved to another address is still the same disk. Another disk at the old address is new. A disk that
    grew needs a seed, because EBS may refuse a child that is larger than its parent. A disk that is smaller needs a
    seed too: vSphere can't shrink a disk, so it was replaced.
    """
    shared = _shared([disk.uuid for disk in previous]) | _shared([disk.uuid for disk in now])
    left = {_identity(old.uuid, old.key, shared): old for old in previous}
    matched = [_matched(disk, left.pop(_identity(disk.uuid, disk.key, shared), None)) for disk in now]
    return MatchedDisks(tuple(matched), tuple(left.values()))


def stray_child(sent: Iterable[ReplicatedDisk], recorded: Iterable[DiskLineage]) -> ReplicatedDisk | None:
    """The first disk whose parent isn't a recorded snapshot of the same disk, or is already another disk's parent.

    A pair from :func:`match_disks` is never reported: both use the uuid, because a move to another bus or unit changes
    the key.
    """
    left = {each.snapshot_id: each.uuid for each in recorded}
    children = (disk for disk in sent if disk.parent_snapshot_id)
    return next((disk for disk in children if left.pop(disk.parent_snapshot_id, None) != disk.lineage.uuid), None)


def _shared(uuids: Sequence[str]) -> frozenset[str]:
    """The uuids that several disks have: copies of one file keep its uuid. The empty uuid is always included."""
    return frozenset(uuid for uuid, count in Counter(uuids).items() if count > 1) | {""}


def _identity(uuid: str, key: int, shared: frozenset[str]) -> tuple[str, int]:
    return (uuid, key if uuid in shared else 0)


def _matched(disk: DiskFacts, previous: DiskLineage | None) -> MatchedDisk:
    if previous is None:
        return MatchedDisk(disk, None, "new", "the disk did not exist in the last run")
    was, size = human_bytes(previous.capacity), human_bytes(disk.capacity)
    if disk.capacity > previous.capacity:
        return MatchedDisk(disk, previous, "grown", f"the disk grew from {was} to {size}")
    if disk.capacity < previous.capacity:
        return MatchedDisk(disk, None, "new", f"the disk is smaller than in the last run ({size}, was {was})")
    return MatchedDisk(disk, previous, "same", "")
