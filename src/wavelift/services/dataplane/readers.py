"""Chooses how a disk is read in this run, and how much of it. It probes each way and records the reason (invariant 3).

The way of reading decides speed, never correctness. Change tracking is used only if there is no doubt about it, and
under an audit. Any doubt leads to a comparison of digests over the whole disk.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime

from wavelift.adapters.vsphere import datastore, nbdkit
from wavelift.adapters.vsphere.datastore import DatastoreReader, DatastoreRoute
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.faults import TrackingLostError
from wavelift.adapters.vsphere.nbdkit import VddkReader, VddkRoute
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tracking import IN_USE, ChangedAreas, changed_areas, event_memory, tracking_events
from wavelift.base.domain import DiskFacts, DiskLineage
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, human_bytes, human_offset
from wavelift.rules.lineage import lineage_doubts, lineage_of, memory_doubt
from wavelift.services.dataplane.bases import Base
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.transfer.audit import AUDIT_PCT, Audit, audit, audit_indices
from wavelift.transfer.extents import round_to_blocks
from wavelift.transfer.manifest import Manifest, block_count
from wavelift.transfer.protocols import DiskReader, Extent

log = logging.getLogger(__name__)

WHOLE_STREAM = "the stream of our snapshot is whole: every block's digest is compared"


Route = DatastoreRoute | VddkRoute
"""A way to any place of the frozen disk."""


@dataclass(frozen=True, slots=True)
class Reading:
    """How one disk is read.

    :param route: any place of the frozen disk; None: the stream of an export lease.
    :param areas: whole blocks to read; None: the whole disk.
    :param why_whole: of a delta that reads the whole disk.
    :param skip_zeros: of a seed through VDDK: what its block status promises to be zero is not read.
    :param quarantine: why its tracking is not to be believed any more; empty while it is.
    """

    reader: str
    reader_reason: str
    route: Route | None = None
    areas: tuple[Extent, ...] | None = None
    why_whole: str = ""
    quarantine: str = ""
    audited: int = 0
    skip_zeros: bool = False


def open_reader(
    session: VsphereSession,
    route: Route,
    *,
    cancel: CancelFlag,
    areas: Sequence[Extent] | None = None,
    skip_zeros: bool = False,
) -> DiskReader:
    """The reader of a route; to be closed by the thread that opens it.

    :raises WaveliftError: it can't be opened any more.
    """
    if isinstance(route, VddkRoute):
        return VddkReader(session.config, route, cancel=cancel, areas=areas, skip_zeros=skip_zeros)
    return DatastoreReader(session, route, cancel=cancel, areas=areas)


def doubt_after(session: VsphereSession, route: Route) -> str:
    """Why what was read through ``route`` may not be our snapshot's content; empty when it is. After the last byte."""
    if isinstance(route, VddkRoute):
        return nbdkit.snapshot_gone(session, route)
    return datastore.still_frozen(session, route)


class Readings:
    """Decides for the disks of one server in one run."""

    def __init__(
        self,
        session: VsphereSession,
        task: ServerTask,
        snapshot: TakenSnapshot,
        cancel: CancelFlag,
        *,
        audit_pct: float = AUDIT_PCT,
    ) -> None:
        self._session = session
        self._task = task
        self._snapshot = snapshot
        self._frozen = FrozenVm(task.facts.moref, snapshot.ref.moref, task.name)
        self._cancel = cancel
        self._audit_pct = audit_pct

    def of(self, disk: DiskFacts, base: Base) -> Reading:
        """How to read ``disk`` over ``base``: through VDDK, by ranges, or whole from a lease, the first that goes.

        :raises MovedError: the VM left the host whose NFC sessions were taken; nothing was opened.
        """
        route, reason = self._route(disk)
        kept = _kept_quarantine(base.lineage, disk) or self._begun_on_a_delta(base.lineage, disk)
        if route is None:
            why = WHOLE_STREAM if base.lineage else ""
            return Reading("nfc", reason, why_whole=why, quarantine=kept)
        name = "nbd" if isinstance(route, VddkRoute) else "datastore"
        if base.lineage is None or base.manifest is None:
            return self._seed(Reading(name, reason, route, quarantine=kept), disk)
        why = kept or self._doubts(base.lineage, disk)
        if why:
            return Reading(name, reason, route, why_whole=why, quarantine=kept)
        return self._tracked(disk, base, base.lineage, Reading(name, reason, route))

    def _route(self, disk: DiskFacts) -> tuple[Route | None, str]:
        """The first way that serves the disk, and why it and no better one."""
        refused: list[str] = []
        if self._session.config.vddk is not None:
            share = self._task.nfc
            host = share.host if share else ""
            vddk = nbdkit.probe(self._session, self._frozen, disk, cancel=self._cancel, expected_host=host)
            if isinstance(vddk, VddkRoute):
                return vddk, vddk.reason
            refused.append(vddk.reason)
        ranges = datastore.probe(self._session, self._frozen, disk, cancel=self._cancel)
        reason = "; ".join([ranges.reason, *refused])
        return (ranges if isinstance(ranges, DatastoreRoute) else None), reason

    def _seed(self, reading: Reading, disk: DiskFacts) -> Reading:
        """All of it, but for what is promised to be zero: a sample of that is read first, since a promise of an
        allocation map is no better than one of a change map (invariant 3)."""
        if isinstance(reading.route, VddkRoute):
            return self._seed_by_block_status(reading, reading.route, disk)
        if isinstance(reading.route, DatastoreRoute) and reading.route.store == "VMFS":
            return self._seed_in_use(reading, reading.route, disk)
        return reading

    def _seed_in_use(self, reading: Reading, route: DatastoreRoute, disk: DiskFacts) -> Reading:
        """The areas in use, where vSphere means them (Broadcom KB 320557): on VMFS, and with tracking that was turned
        on while no snapshot stood, which only who turned it on can know."""
        if not self._snapshot.tracked_from_here:
            return reading
        try:
            found = self._changed(disk, IN_USE)
        except NotFoundError:
            raise
        except (TrackingLostError, PermanentError) as error:
            return replace(reading, reader_reason=f"{reading.reader_reason}; {error.what}, so all of it is read")
        areas = round_to_blocks(found.areas, disk.capacity)
        with closing(DatastoreReader(self._session, route, cancel=self._cancel)) as reader:
            audited = self._audit_zeros(reader, disk, areas)
        if audited.differing:
            lie = f"vSphere calls data unused at {human_offset(audited.differing[0] * BLOCK)}, so all of it is read"
            log.warning("%s %s: %s", self._task.name, disk.address, lie)
            return replace(reading, reader_reason=f"{reading.reader_reason}; {lie}", audited=audited.checked)
        used = f"only the {human_bytes(sum(area.length for area in areas))} in use are read"
        return replace(reading, reader_reason=f"{reading.reader_reason}; {used}", areas=areas, audited=audited.checked)

    def _audit_zeros(self, reader: DiskReader, disk: DiskFacts, data: Sequence[Extent]) -> Audit:
        """A sample of what is not ``data``, compared with zeros: both ends, where partition tables are, among it."""
        count, known = block_count(disk.capacity), _blocks_of(data)
        chosen = {0, count - 1} - known
        chosen.update(audit_indices(count, known, cancel=self._cancel, pct=self._audit_pct))
        return audit(reader, Manifest.empty(disk.capacity), sorted(chosen), self._cancel)

    def _seed_by_block_status(self, reading: Reading, route: VddkRoute, disk: DiskFacts) -> Reading:
        with VddkReader(self._session.config, route, cancel=self._cancel) as reader:
            data = (each for each in reader.client.allocation() if not each.zero)
            found = self._audit_zeros(reader, disk, round_to_blocks(data, disk.capacity))
        if not found.differing:
            return replace(reading, skip_zeros=True, audited=found.checked)
        lie = f"its block status calls data zero at {human_offset(found.differing[0] * BLOCK)}, so all of it is read"
        log.warning("%s %s: %s", self._task.name, disk.address, lie)
        return replace(reading, reader_reason=f"{reading.reader_reason}; {lie}", audited=found.checked)

    def _begun_on_a_delta(self, lineage: DiskLineage | None, disk: DiskFacts) -> str:
        """Tracking that is seen for the first time while the disk runs on a delta that no snapshot accounts for.

        vSphere lets it be turned on there, with changes missing from then on; to consolidate does not mend the map.
        """
        if disk.key not in {left.key for left in self._task.facts.left_behind} or not disk.change_id:
            return ""
        if lineage is not None and lineage.change_id and lineage_of(lineage.change_id) == lineage_of(disk.change_id):
            return ""
        return "its tracking may have been turned on while the disk ran on a delta without a snapshot"

    def _doubts(self, lineage: DiskLineage, disk: DiskFacts) -> str:
        if not lineage.taken_at:
            return "the record of the last run does not say when its snapshot was taken"
        since, vm, server = datetime.fromisoformat(lineage.taken_at), self._task.facts.moref, self._task.name
        events = tracking_events(self._session, vm, since, server=server)
        # Of the instant after the events were read: those that are gone by now may have been gone then.
        forgotten = memory_doubt(event_memory(self._session, vm, since, server=server))
        return lineage_doubts(
            lineage,
            disk,
            hardware_version=self._task.facts.hardware_version,
            events=events,
            forgotten=forgotten,
        )

    def _tracked(self, disk: DiskFacts, base: Base, lineage: DiskLineage, reading: Reading) -> Reading:
        """Ask what changed, and check a sample of what is said to be unchanged."""
        assert lineage.change_id  # else there is a doubt
        try:
            found = self._changed(disk, lineage.change_id)
        except TrackingLostError as error:
            return replace(reading, why_whole=error.what)
        areas = round_to_blocks(found.areas, disk.capacity)
        assert reading.route is not None
        audited, lie = self._audit(disk, base, areas, reading.route)
        if lie:
            log.warning("%s %s: %s", self._task.name, disk.address, lie)
            return replace(reading, why_whole=lie, quarantine=lie, audited=audited)
        return replace(reading, areas=areas, audited=audited)

    def _changed(self, disk: DiskFacts, change_id: str) -> ChangedAreas:
        return changed_areas(self._session, self._frozen, disk, change_id=change_id, cancel=self._cancel)

    def _audit(self, disk: DiskFacts, base: Base, areas: Sequence[Extent], route: Route) -> tuple[int, str]:
        """Blocks that were checked, and what is wrong with the map."""
        assert base.manifest is not None
        changed = _blocks_of(areas)
        count = block_count(disk.capacity)
        chosen = audit_indices(count, changed, cancel=self._cancel, pct=self._audit_pct)
        with closing(open_reader(self._session, route, cancel=self._cancel)) as reader:
            found = audit(reader, base.manifest, chosen, self._cancel)
        if not found.differing:
            return found.checked, ""
        where = human_offset(found.differing[0] * BLOCK)
        return found.checked, (
            f"change tracking called {len(found.differing)} of {found.checked} audited blocks unchanged that had "
            f"changed, the first at {where}"
        )


def _blocks_of(areas: Sequence[Extent]) -> set[int]:
    return {index for area in areas for index in range(area.offset // BLOCK, -(-(area.offset + area.length) // BLOCK))}


def _kept_quarantine(lineage: DiskLineage | None, disk: DiskFacts) -> str:
    """A quarantine holds until tracking is started anew, which gives the change id another lineage."""
    if lineage is None or not lineage.quarantine or not disk.change_id or not lineage.change_id:
        return ""
    same = lineage_of(lineage.change_id) == lineage_of(disk.change_id)
    return lineage.quarantine if same else ""
