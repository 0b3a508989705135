"""Which way a disk is read in this run, and how much of it: chosen by probe, with the reason told (invariant 3).

How a running VM is read decides speed, never correctness: whatever change tracking says is believed only without a
doubt and under an audit, and every doubt ends in a comparison of digests over the whole disk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from wavelift.adapters.vsphere.datastore import DatastoreReader, DatastoreRoute, probe
from wavelift.adapters.vsphere.faults import TrackingLostError
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tracking import changed_areas, tracking_events
from wavelift.base.domain import DiskFacts, DiskLineage
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.rules.lineage import TrackingEvent, lineage_doubts
from wavelift.services.dataplane.bases import Base
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.transfer.audit import AUDIT_PCT, audit, audit_indices
from wavelift.transfer.extents import round_to_blocks
from wavelift.transfer.manifest import block_count
from wavelift.transfer.protocols import Extent

log = logging.getLogger(__name__)

WHOLE_STREAM = "the stream of our snapshot is whole: every block's digest is compared"


@dataclass(frozen=True, slots=True)
class Reading:
    """How one disk is read.

    :param route: ranges of the frozen file; None: the stream of an export lease.
    :param areas: whole blocks to read; None: the whole disk.
    :param why_whole: of a delta that reads the whole disk.
    :param quarantine: why its tracking is not to be believed any more; empty while it is.
    """

    reader: str
    reader_reason: str
    route: DatastoreRoute | None = None
    areas: tuple[Extent, ...] | None = None
    why_whole: str = ""
    quarantine: str = ""
    audited: int = 0


class Readings:
    """Decides for the disks of one server in one run."""

    def __init__(
        self,
        session: VsphereSession,
        task: ServerTask,
        snapshot: TakenSnapshot,
        cancel: CancelFlag,
        *,
        run: str,
        audit_pct: float = AUDIT_PCT,
    ) -> None:
        self._session = session
        self._task = task
        self._snapshot = snapshot
        self._cancel = cancel
        self._run = run
        self._audit_pct = audit_pct

    def of(self, disk: DiskFacts, base: Base) -> Reading:
        """How to read ``disk`` over ``base``."""
        route = probe(
            self._session,
            vm=self._task.facts.moref,
            snapshot=self._snapshot.ref.moref,
            disk=disk,
            server=self._task.name,
            cancel=self._cancel,
        )
        kept = _kept_quarantine(base.lineage, disk)
        if not isinstance(route, DatastoreRoute):
            why = WHOLE_STREAM if base.lineage else ""
            return Reading("nfc", route.reason, why_whole=why, quarantine=kept)
        if base.lineage is None or base.manifest is None:
            return Reading("datastore", route.reason, route)
        why = self._doubts(base.lineage, disk)
        if why:
            return Reading("datastore", route.reason, route, why_whole=why, quarantine=kept)
        return self._tracked(disk, base, base.lineage, route)

    def _doubts(self, lineage: DiskLineage, disk: DiskFacts) -> str:
        events: tuple[TrackingEvent, ...] = ()
        if lineage.taken_at:
            since = datetime.fromisoformat(lineage.taken_at)
            events = tracking_events(self._session, self._task.facts.moref, since, server=self._task.name)
        return lineage_doubts(lineage, disk, hardware_version=self._task.facts.hardware_version, events=events)

    def _tracked(self, disk: DiskFacts, base: Base, lineage: DiskLineage, route: DatastoreRoute) -> Reading:
        """Ask what changed, and check a sample of what is said to be unchanged."""
        assert lineage.change_id  # else there is a doubt
        try:
            found = changed_areas(
                self._session,
                vm=self._task.facts.moref,
                snapshot=self._snapshot.ref.moref,
                disk=disk,
                change_id=lineage.change_id,
                cancel=self._cancel,
                server=self._task.name,
            )
        except TrackingLostError as error:
            return Reading("datastore", route.reason, route, why_whole=error.what)
        areas = round_to_blocks(found.areas, disk.capacity)
        audited, lie = self._audit(disk, base, areas, route)
        if lie:
            log.warning("%s %s: %s", self._task.name, disk.address, lie)
            return Reading("datastore", route.reason, route, why_whole=lie, quarantine=lie, audited=audited)
        return Reading("datastore", route.reason, route, areas, audited=audited)

    def _audit(self, disk: DiskFacts, base: Base, areas: Sequence[Extent], route: DatastoreRoute) -> tuple[int, str]:
        """Blocks that were checked, and what is wrong with the map."""
        assert base.manifest is not None
        changed = {
            index for area in areas for index in range(area.offset // BLOCK, -(-(area.offset + area.length) // BLOCK))
        }
        chosen = audit_indices(block_count(disk.capacity), changed, seed=self._run, pct=self._audit_pct)
        reader = DatastoreReader(self._session, route, cancel=self._cancel)
        try:
            found = audit(reader, base.manifest, chosen, self._cancel)
        finally:
            reader.close()
        if not found.differing:
            return found.checked, ""
        where = found.differing[0] * BLOCK
        return found.checked, (
            f"change tracking called {len(found.differing)} of {found.checked} audited blocks unchanged that had "
            f"changed, the first at offset {where}"
        )


def _kept_quarantine(lineage: DiskLineage | None, disk: DiskFacts) -> str:
    """A quarantine holds until tracking is started anew, which gives the change id another lineage."""
    if lineage is None or not lineage.quarantine or not disk.change_id or not lineage.change_id:
        return ""
    same = lineage.change_id.rpartition("/")[0] == disk.change_id.rpartition("/")[0]
    return lineage.quarantine if same else ""
