"""What one try of a replication run is made of: its record for the next try, and its stream."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from wavelift.base.names import instant_of
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK
from wavelift.services.dataplane.messages import TakenSnapshot
from wavelift.transfer.extents import as_stream
from wavelift.transfer.protocols import DiskReader, Extent

CHECKPOINT_KEY: Final = "replication"


class TryRecord:
    """What a retry needs of this try, in the state store. Every write is also a fence: an outlived try stops there."""

    def __init__(self, ctx: RunContext, snapshot: TakenSnapshot) -> None:
        self._checkpoints = ctx.checkpoints
        self._lock = threading.Lock()
        stored: dict[str, Any] = self._checkpoints.get(CHECKPOINT_KEY) or {}
        # A restored vCenter may give an id a second time; never an id and an instant.
        self.instant = f"{snapshot.ref.moref} {snapshot.ref.created}"
        self.instant_id = instant_of(self.instant)
        same = stored.get("snapshot") == self.instant
        self._value: dict[str, Any] = stored if same else {"snapshot": self.instant, "disks": {}, "outdated": []}
        if not same:
            begun = _never_completed(stored.get("disks", {}).values())
            self._value["outdated"] = [*stored.get("outdated", ()), *begun]
        self.write()

    @property
    def outdated(self) -> tuple[str, ...]:
        """EBS snapshots of earlier instants of this run; a seed among them may have been taken up since."""
        return tuple(self._value.get("outdated", ()))

    def keep(self, target: str) -> None:
        """``target`` is of this instant from now on."""
        self._value["outdated"] = [one for one in self._value.get("outdated", ()) if one != target]
        self.write()

    def write(self) -> None:
        """:raises FencedError: another try owns the work."""
        with self._lock:
            self._checkpoints.set(CHECKPOINT_KEY, self._value)

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


class OwnedStream:
    """A reader as a stream that closes the reader too."""

    def __init__(self, reader: DiskReader) -> None:
        self._reader = reader
        self._stream = as_stream(reader)
        self.size = reader.size
        self.pieces = self._stream.pieces
        self.interrupt = self._stream.interrupt

    def close(self) -> None:
        self._stream.close()
        self._reader.close()


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
