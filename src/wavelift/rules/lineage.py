"""Whether a disk's change tracking may be believed against the last run (invariant 3), and which disks are which.

Since vSphere 6.5 a corrupt change map gives no error (Veritas KB 100033481), so nothing of it is taken on trust: every
circumstance that is known to break it is a doubt, and a doubt costs a comparison of digests, never data.
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
    """Something that happened to a VM and bears on its change tracking."""

    kind: EventKind
    at: datetime
    """By vCenter's clock."""
    source: str
    """vSphere's type of the event, or its task's description id."""
    text: str = ""
    """In vCenter's own words and language; for people only."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.at:%Y-%m-%d %H:%M:%S} UTC ({self.source})"


DOUBTFUL: Final[frozenset[EventKind]] = frozenset({"revert", "host failure", "hard power-off"})
"""A revert may leave the map of another past; "a power failure or hard shutdown while powered on" may reset it
(Broadcom KB 320557). A move to another host is no doubt: the map travels. One to other storage shows in the file."""


TRUSTED_DAYS: Final = 14
"""Ours: change tracking is not believed across a longer time, whatever vCenter keeps. A run is due every day at most;
after two weeks of none, one whole comparison is cheap against two weeks of trust."""


@dataclass(frozen=True, slots=True)
class EventMemory:
    """How far back the events of a VM reach, as seen *after* they were read: what was there then is there now, since
    vCenter removes its oldest first."""

    age: timedelta
    """Of the last run's snapshot, by vCenter's clock."""
    kept_days: int | None
    """What vCenter keeps events for; None: without end, or it would not tell."""
    reaches: bool
    """Whether an event of this VM from before the last run's snapshot is left: that it was taken was one itself."""


def memory_doubt(memory: EventMemory) -> str:
    """Why the VM's events since the last run may be less than what happened; empty when they are all there.

    The setting alone proves nothing: it may have been changed and changed back, and a database is also pruned by its
    size or restored. A VM that was taken off the inventory and put back has no event from before either.
    """
    days = memory.age.days
    if memory.kept_days is not None and memory.age >= timedelta(days=memory.kept_days):
        return f"vCenter keeps events for {memory.kept_days} days, the last run is {days} days old"
    if memory.age >= timedelta(days=TRUSTED_DAYS):
        return f"the last run is {days} days old: change tracking is believed for {TRUSTED_DAYS}"
    if not memory.reaches:
        return "no event of the VM from before the last run is left in vCenter: a revert since may be forgotten"
    return ""


def lineage_doubts(
    previous: DiskLineage,
    now: DiskFacts,
    *,
    hardware_version: str,
    events: Iterable[TrackingEvent] = (),
    forgotten: str = "",
) -> str:
    """Why the changes of a disk since the last run must not be asked for; empty when they may.

    :param now: as *our snapshot* froze it. :param hardware_version: of the VM, ``vmx-19``.
    :param events: of the VM, since the last run's snapshot was made.
    :param forgotten: why these may not be all (:func:`memory_doubt`).
    """
    seen = previous.quarantine or _of_ids(previous, now) or _of_disk(previous, now, hardware_version)
    return seen or _of(events) or forgotten


def lineage_of(change_id: str) -> str:
    """What stays the same in a disk's change ids for as long as its tracking goes on."""
    return _split(change_id)[0]


def _of_ids(previous: DiskLineage, now: DiskFacts) -> str:
    if not previous.change_id:
        return "the last run had no change id"
    if not now.change_id:
        return "vCenter gives no change id: tracking is off, or has not taken effect yet"
    old, old_number = _split(previous.change_id)
    new, new_number = _split(now.change_id)
    if old != new:
        return f"tracking was started anew: its id is {new}, was {old}"
    if old_number is not None and new_number is not None and new_number < old_number:
        return f"the change id went back from {old_number} to {new_number}"
    return ""


def _split(change_id: str) -> tuple[str, int | None]:
    """``52 ac …/7`` → lineage and sequence number; None when vSphere counts in another way."""
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
    """A disk of today and what the last run left of it."""

    disk: DiskFacts
    previous: DiskLineage | None
    """None when it is new."""
    fate: Fate
    reason: str
    """Why it needs a new seed; empty for ``same``."""


@dataclass(frozen=True, slots=True)
class MatchedDisks:
    """In the order of today's disks."""

    disks: tuple[MatchedDisk, ...]
    gone: tuple[DiskLineage, ...]


def match_disks(previous: Sequence[DiskLineage], now: Sequence[DiskFacts]) -> MatchedDisks:
    """Pair today's disks with those of the last run, by uuid where that is unique, else by uuid and key.

    A disk at another address is still the same disk; another disk at the old address is a new one. What grew needs a
    seed, since EBS may refuse a larger child; so does what shrank: no vSphere disk shrinks, it was replaced.
    """
    shared = _shared([disk.uuid for disk in previous]) | _shared([disk.uuid for disk in now])
    left = {_identity(old.uuid, old.key, shared): old for old in previous}
    matched = [_matched(disk, left.pop(_identity(disk.uuid, disk.key, shared), None)) for disk in now]
    return MatchedDisks(tuple(matched), tuple(left.values()))


def stray_child(sent: Iterable[ReplicatedDisk], recorded: Iterable[DiskLineage]) -> ReplicatedDisk | None:
    """The first disk whose parent isn't a recorded snapshot of the same disk, or is another one's parent already.

    What :func:`match_disks` pairs is never one: it pairs by uuid too, as a move to another bus or unit changes the key.
    """
    left = {each.snapshot_id: each.uuid for each in recorded}
    children = (disk for disk in sent if disk.parent_snapshot_id)
    return next((disk for disk in children if left.pop(disk.parent_snapshot_id, None) != disk.lineage.uuid), None)


def _shared(uuids: Sequence[str]) -> frozenset[str]:
    """Those that name several disks: copies of one file keep its uuid."""
    return frozenset(uuid for uuid, count in Counter(uuids).items() if count > 1) | {""}


def _identity(uuid: str, key: int, shared: frozenset[str]) -> tuple[str, int]:
    return (uuid, key if uuid in shared else 0)


def _matched(disk: DiskFacts, previous: DiskLineage | None) -> MatchedDisk:
    if previous is None:
        return MatchedDisk(disk, None, "new", "the disk was not there in the last run")
    was, size = human_bytes(previous.capacity), human_bytes(disk.capacity)
    if disk.capacity > previous.capacity:
        return MatchedDisk(disk, previous, "grown", f"the disk grew from {was} to {size}")
    if disk.capacity < previous.capacity:
        return MatchedDisk(disk, None, "new", f"the disk is smaller than in the last run ({size}, was {was})")
    return MatchedDisk(disk, previous, "same", "")
