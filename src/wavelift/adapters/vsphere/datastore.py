"""Reads a frozen disk by ranges of its file on the datastore. It is fast, but often not available.

While a VM runs, VMFS6 locks the whole chain, and vSAN has no such file. So each disk is probed first; the probe gives a
route, or the reason why there is none. The *base* file under our snapshot is read. It is frozen as long as the VM runs
on a child of it; :func:`still_frozen` checks that afterwards.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.devices import FrozenVm, class_name
from wavelift.adapters.vsphere.esxi import esxi_context
from wavelift.adapters.vsphere.faults import moref
from wavelift.adapters.vsphere.hosts import HostFacts, host_facts
from wavelift.adapters.vsphere.inventory import DEEPEST
from wavelift.adapters.vsphere.properties import Values, collect, read_one, snapshot_nodes
from wavelift.adapters.vsphere.range_stream import RangeStream
from wavelift.adapters.vsphere.ranges import (
    CONNECT_TIMEOUT_S,
    RangeRefusedError,
    Ranges,
    RemoteFile,
    Via,
    folder_path,
)
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import LoginError, NotFoundError, WaveliftError
from wavelift.base.printable import printable
from wavelift.base.run import CancelFlag
from wavelift.base.units import KIB, SECTOR
from wavelift.transfer.extents import coalesce
from wavelift.transfer.protocols import Extent

log = logging.getLogger(__name__)

GAP_LIMIT: Final = 64 * KIB
"""Areas no further apart are read by one range: a second request costs a round trip, in which a line of 1 Gbit/s
carries these bytes (0.5 ms)."""

SERVED: Final = frozenset({"VMFS", "NFS", "NFS41"})
"""Kinds of datastore that keep a disk as a flat file."""

PROBE_PATIENCE_S: Final = 0.25
"""A refusal that stands after one more try means: not served. Shorter than the first pause."""

_FLAT: Final = "VirtualDiskFlatVer2BackingInfo"


@dataclass(frozen=True, slots=True)
class DatastoreRoute:
    """One disk's frozen base file, and the way that served its first sector."""

    vm: str
    snapshot: str
    server: str
    disk: str
    """``SCSI 0:1``."""
    key: int
    base: str
    """``[ds] web01/web01.vmdk``: the descriptor under our snapshot."""
    file: RemoteFile
    runtime_host: str
    """moref of the host that the VM was on."""
    thumbprint: str
    """SHA-1 that vCenter reports for that host."""
    store: str
    """Kind of the datastore: ``VMFS``, ``NFS`` …"""

    @property
    def via(self) -> Via:
        return self.file.via

    @property
    def reason(self) -> str:
        """For the run's record."""
        return f"{self.base} is served by ranges through {'vCenter' if self.via == 'vcenter' else self.file.host}"


@dataclass(frozen=True, slots=True)
class NotServed:
    """Why a disk can't be read by ranges now."""

    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", printable(self.reason))  # it quotes vCenter and goes into logs and reports


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at the VM tells."""

    values: Values
    host: str
    running: bool


_VM: Final = (
    "config.hardware.device",
    "datastore",
    "layoutEx",
    "parent",
    "parentVApp",
    "runtime.consolidationNeeded",
    "runtime.host",
    "runtime.powerState",
    "snapshot.rootSnapshotList",
)


def probe(
    session: VsphereSession, frozen: FrozenVm, disk: DiskFacts, *, cancel: CancelFlag | None = None
) -> DatastoreRoute | NotServed:
    """A way to read ``disk`` as the snapshot froze it, by ranges; or why there is none.

    Through vCenter first, then from the host that runs the VM.

    :param disk: as the snapshot froze it. :raises NotFoundError: the VM or the snapshot is gone.
    :raises LoginError: vCenter refuses the account.
    """
    where = {"server": frozen.server, "disk": disk.address}
    look = _look(session, frozen.vm, where)
    store = _store_kind(session, look, disk)
    reason = _unfit(disk, _backing(session, frozen.snapshot, disk.key, where)) or _unfit_store(store, disk)
    extent = "" if reason else _extent(look.values.get("layoutEx"), disk)
    if not extent:
        return NotServed(
            reason or f"vCenter shows no extent file of {disk.file} at the bottom of its chain, as on vSAN"
        )
    host = host_facts(session, [look.host]).get(look.host)
    prober = _Prober(session, frozen, disk, _Place(look, host, store), cancel or CancelFlag())
    return prober.try_all(extent, _datacenter(session, look.values, where))


def _look(session: VsphereSession, vm: str, where: dict[str, str]) -> _Look:
    values = read_one(session, vim.VirtualMachine, vm, _VM, **where)
    running = str(values.get("runtime.powerState")) == "poweredOn"
    return _Look(values, moref(values.get("runtime.host")), running)


def _backing(session: VsphereSession, snapshot: str, key: int, where: dict[str, str]) -> Any:
    """The disk's backing in the *snapshot's* config; None when it holds no such disk."""
    values = read_one(session, vim.vm.Snapshot, snapshot, ["config.hardware.device"], **where)
    return _backing_of(values, key)


def _backing_of(values: Values, key: int) -> Any:
    devices = values.get("config.hardware.device") or ()
    return next((device.backing for device in devices if device.key == key), None)


def _unfit(disk: DiskFacts, backing: Any) -> str:
    if backing is None:
        return "our snapshot does not hold this disk"
    if class_name(backing) != _FLAT:
        return f"the disk is a {class_name(backing)}, not a flat file"
    if backing.parent is not None:
        return f"older snapshots stand under ours: {backing.fileName} is not the whole disk"
    if disk.encrypted:
        return "the disk's file is encrypted"
    now = printable(backing.fileName)  # as the facts have it: a name may have invisible characters
    return "" if now == disk.file else f"the disk's file is now {now}"


def _store_kind(session: VsphereSession, look: _Look, disk: DiskFacts) -> str:
    """``VMFS``, ``NFS`` …; empty when vCenter does not show the disk's datastore."""
    refs = [moref(store) for store in look.values.get("datastore") or ()]
    for store in collect(session, vim.Datastore, refs, ["summary.name", "summary.type"]).values():
        if str(store.get("summary.name")) == disk.datastore:
            return str(store.get("summary.type"))
    return ""


def _unfit_store(kind: str, disk: DiskFacts) -> str:
    if not kind:
        return f"vCenter does not show the datastore {disk.datastore}"
    return "" if kind in SERVED else f"datastore {disk.datastore} is of type {kind}, which has no flat files"


def _extent(layout: Any, disk: DiskFacts) -> str:
    """The name of the one file that holds the bytes behind ``disk.file``; empty when there is none.

    Asked of the bottom of the disk's chain only: what stands above another file is not the whole disk.
    """
    files = {file.key: file for file in getattr(layout, "file", None) or ()}
    chains = [entry.chain for entry in getattr(layout, "disk", None) or () if entry.key == disk.key]
    for unit in (chain[0] for chain in chains if chain):
        parts = [files[key] for key in unit.fileKey if key in files]
        extents = [str(part.name) for part in parts if str(part.type) == "diskExtent"]
        if len(extents) == 1 and any(printable(part.name) == disk.file for part in parts):
            return extents[0]
    return ""


def _datacenter(session: VsphereSession, values: Values, where: dict[str, str]) -> str:
    """The inventory path of the VM's datacenter without the root folder, as ``dcPath`` wants it."""
    names: list[str] = []
    at = values.get("parent") or values.get("parentVApp")
    for _ in range(DEEPEST):
        if at is None:
            break
        kind = type(at)
        paths = ["name", "parent", "parentFolder"] if issubclass(kind, vim.VirtualApp) else ["name", "parent"]
        found = read_one(session, kind, moref(at), paths, **where)
        if isinstance(at, vim.Datacenter) or names:
            names.insert(0, str(found.get("name", "")))
        at = found.get("parentFolder") or found.get("parent")
    return "/".join(names[1:])  # without the root folder


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a disk lies."""

    look: _Look
    host: HostFacts | None
    store: str
    """``VMFS``, ``NFS`` …"""


class _Prober:
    """One disk's tries."""

    def __init__(
        self,
        session: VsphereSession,
        frozen: FrozenVm,
        disk: DiskFacts,
        place: _Place,
        cancel: CancelFlag,
    ) -> None:
        self._session = session
        self._frozen = frozen
        self._disk = disk
        self._look = place.look
        self._host = place.host
        self._store = place.store
        self._cancel = cancel

    def try_all(self, extent: str, datacenter: str) -> DatastoreRoute | NotServed:
        config = self._session.config
        size = self._disk.capacity
        path = folder_path(extent, datacenter=datacenter)
        reasons = []
        route = self._route(RemoteFile("vcenter", config.host, config.port, path, size))
        refusal = self._refusal(route)
        if not refusal:
            return route
        reasons.append(f"vCenter: {refusal}")
        if self._host is not None:
            try:
                name = config.esxi_name(self._host.name)
                route = self._route(RemoteFile("host", name, self._host.port, folder_path(extent), size))
                refusal = self._refusal(route)
            except LoginError:
                raise
            except WaveliftError as error:
                refusal = error.what
            if not refusal:
                return route
            reasons.append(f"host {self._host.name}: {refusal}")
        state = "runs" if self._look.running else "is off"
        return NotServed(f"no range of {extent} is served while the VM {state} ({'; '.join(reasons)})")

    def _route(self, file: RemoteFile) -> DatastoreRoute:
        return DatastoreRoute(
            vm=self._frozen.vm,
            snapshot=self._frozen.snapshot,
            server=self._frozen.server,
            disk=self._disk.address,
            key=self._disk.key,
            base=self._disk.file,
            file=file,
            runtime_host=self._look.host,
            thumbprint=self._host.thumbprint if self._host else "",
            store=self._store,
        )

    def _refusal(self, route: DatastoreRoute) -> str:
        """Read the first sector; why it can't be, or empty."""
        try:
            ranges = _open(self._session, route, self._cancel)
        except LoginError:
            raise
        except WaveliftError as error:
            return error.what
        try:
            ranges.read_into(0, memoryview(bytearray(SECTOR)), patience_s=PROBE_PATIENCE_S)
            return ""
        except LoginError:
            raise
        except RangeRefusedError as error:
            return error.what.partition(": ")[2]
        except WaveliftError as error:
            self._cancel.check()
            return error.what
        finally:
            ranges.close()


def _open(session: VsphereSession, route: DatastoreRoute, cancel: CancelFlag) -> Ranges:
    file = route.file
    context: ssl.SSLContext = session.context
    if route.via == "host":
        timeout = min(CONNECT_TIMEOUT_S, session.config.timeout)
        context = esxi_context(session.config, file.host, file.port, (route.thumbprint,), timeout=timeout)
    return Ranges(session, file, context, cancel=cancel, server=route.server, disk=route.disk)


class DatastoreReader:
    """A :class:`~wavelift.transfer.protocols.DiskReader` over a route. Clones share its connections; ``close`` of the
    first one closes them.

    :param areas: what to read, in any order; None reads the whole disk.
    :raises TlsError: the host's certificate is refused.
    """

    def __init__(
        self,
        session: VsphereSession,
        route: DatastoreRoute,
        *,
        cancel: CancelFlag,
        areas: Sequence[Extent] | None = None,
        shared: Ranges | None = None,
    ) -> None:
        self.route = route
        self._session = session
        self._cancel = cancel
        self._areas = areas
        self._owns = shared is None
        self._ranges = shared or _open(session, route, cancel)

    @property
    def size(self) -> int:
        return self.route.file.size

    def extents(self) -> Iterator[Extent]:
        """Ascending; areas closer than :data:`GAP_LIMIT` as one. For whole blocks, give
        :func:`~wavelift.transfer.extents.round_to_blocks` of them."""
        if self._areas is None:
            yield Extent(0, self.size)
        else:
            yield from coalesce(self._areas, gap=GAP_LIMIT)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill the whole ``buffer``; see :meth:`~wavelift.adapters.vsphere.ranges.Ranges.read_into` for errors."""
        if len(buffer):
            self._ranges.read_into(offset, buffer)

    def stream(self) -> RangeStream:
        """The blocks that hold any extent, in ranges that are asked for ahead."""
        return RangeStream(self._ranges, self.extents())

    def clone(self) -> DatastoreReader:
        return DatastoreReader(self._session, self.route, cancel=self._cancel, areas=self._areas, shared=self._ranges)

    def close(self) -> None:
        if self._owns:
            self._ranges.close()


# --- afterwards ---------------------------------------------------------------------------------------------------


def still_frozen(session: VsphereSession, route: DatastoreRoute) -> str:
    """Why what was read through ``route`` may not be our snapshot's content; empty when it is.

    To be asked after the last byte: until then the VM must have run on a child of the base file.
    """
    where = {"server": route.server, "disk": route.disk}
    try:
        look = _look(session, route.vm, where)
        frozen = _backing(session, route.snapshot, route.key, where)
    except NotFoundError as error:
        gone = "the VM" if error.where.get("object") == route.vm else "our snapshot"
        return f"{gone} is gone"
    if route.snapshot not in {
        moref(node.snapshot) for node in snapshot_nodes(look.values.get("snapshot.rootSnapshotList"))
    }:
        return "our snapshot is gone"
    if frozen is None or str(frozen.fileName) != route.base or frozen.parent is not None:
        return f"our snapshot no longer stands on {route.base}"
    if look.values.get("runtime.consolidationNeeded"):
        return "the VM's disks need consolidation"
    if not _on_a_child(_backing_of(look.values, route.key), route.base):
        return f"the VM no longer runs on a child of {route.base}"
    if look.host != route.runtime_host:
        return "the VM was moved to another host"
    return ""


def _on_a_child(backing: Any, base: str) -> bool:
    """A disk that was unplugged meanwhile has no backing: its file rests."""
    if backing is None:
        return True
    if str(getattr(backing, "fileName", "")) == base:
        return False
    while (backing := getattr(backing, "parent", None)) is not None:
        if str(backing.fileName) == base:
            return True
    return False
