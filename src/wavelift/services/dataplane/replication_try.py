"""What one try of a replication run knows for the next try, and what it need not read again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from wavelift.base.domain import SnapshotRef
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK
from wavelift.services.dataplane.disk_crew import TryRecord
from wavelift.transfer.protocols import Extent

CHECKPOINT_KEY: Final = "replication"


class ReplicationRecord(TryRecord):
    """The EBS snapshot of each disk, and what is known of it."""

    def __init__(self, ctx: RunContext, snapshot: SnapshotRef) -> None:
        super().__init__(ctx, snapshot, CHECKPOINT_KEY)

    def _fresh(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        begun = _never_completed(stored.get("disks", {}).values())
        return {"outdated": [*stored.get("outdated", ()), *begun]}

    @property
    def outdated(self) -> tuple[str, ...]:
        """EBS snapshots of earlier instants of this run; a seed among them may have been taken up since."""
        return tuple(self._value.get("outdated", ()))

    def keep(self, target: str) -> None:
        """``target`` is of this instant from now on."""
        self._value["outdated"] = [one for one in self._value.get("outdated", ()) if one != target]
        self.write()

    def disk(self, index: int) -> dict[str, Any]:
        known: dict[str, Any] = self._value["disks"].get(str(index), {})
        return dict(known)

    def update(self, index: int, **changes: Any) -> None:
        with self._lock:
            self._value["disks"][str(index)] = {**self.disk(index), **changes}
        self.write()


def _never_completed(disks: Iterable[dict[str, Any]]) -> list[str]:
    """Who else may name such a snapshot? Of a disk that is ``done``, CompleteSnapshot may have been called: the run's
    record, a lineage and an image may name it, which only the ledger knows; what they don't name goes with the end of
    the run (:func:`wavelift.services.replication.image.tidy_run`). Without ``done`` it is pending still, which no
    record takes, and the try that wrote to it was fenced."""
    return [disk["target"] for disk in disks if disk.get("target") and not disk.get("done")]


def without_blocks(areas: Sequence[Extent], known: frozenset[int], capacity: int) -> Iterator[Extent]:
    """Block-aligned ``areas`` less the blocks that are ``known``."""
    for area in areas:
        start = area.offset
        end = min(area.offset + area.length, capacity)
        for index in range(area.offset // BLOCK, -(-end // BLOCK)):
            if index in known:
                if start < index * BLOCK:
                    yield Extent(start, index * BLOCK - start)
                start = (index + 1) * BLOCK
        if start < end:
            yield Extent(start, end - start)
