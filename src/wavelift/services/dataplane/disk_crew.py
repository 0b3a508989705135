"""The disks of one server on their way out: what export and replication do in the same way.

A crew moves a few disks at a time. Before each round it checks the snapshot and the guards. It holds the export lease,
stops all disks at the first error, and opens the source again after an outage. A flow subclasses :class:`DiskCrew` and
says which disks earlier tries finished, how each of the others is read, and how one of them is moved.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.vsphere import inventory, snapshots
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.domain import DiskFacts, SnapshotRef
from wavelift.base.errors import (
    CorruptStreamError,
    FencedError,
    NotFoundError,
    TamperedError,
    ThrottledError,
    UnreachableError,
)
from wavelift.base.names import instant_of, run_hash, snapshot_name
from wavelift.base.rates import note_rate
from wavelift.base.run import Progress, RunContext
from wavelift.base.units import MBIT, SECTOR, exact_bytes
from wavelift.rules.flows import CONTINUE_FROM
from wavelift.services.dataplane.guards import GUARD_SECONDS, TransferGuards
from wavelift.services.dataplane.messages import ServerTask, TakenSnapshot
from wavelift.services.dataplane.outage import SourcePatience
from wavelift.services.dataplane.snapshot import check_power
from wavelift.services.dataplane.staging import ServerStaging, disk_label
from wavelift.transfer.report import Report
from wavelift.transfer.throttle import Pace, Paces, Throttle
from wavelift.transfer.vmdk import StreamVmdkSource


@dataclass(frozen=True, slots=True)
class FrozenServer:
    """A server while our snapshot of it stands, and the session that reads it."""

    session: VsphereSession
    task: ServerTask
    snapshot: TakenSnapshot


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferOptions:
    """How hard a transfer may work on the connector."""

    workers: int = 2
    """Threads that read, hash and compress, per disk."""
    parallel_disks: int = 2
    """Disks of one server that move at the same time."""
    guard_seconds: float = GUARD_SECONDS
    """Between two checks of datastore, host and age of the snapshot."""
    line: Pace | None = None
    """The connector's, which all its transfers share."""
    state_folder: Path | None = None
    """Where the connector keeps how fast it was."""


class DiskWork(Protocol):
    """The work on one disk in one round."""

    @property
    def index(self) -> int: ...

    @property
    def disk(self) -> DiskFacts: ...


_Work = TypeVar("_Work", bound=DiskWork)
_Done = TypeVar("_Done")


class TryRecord:
    """What a retry needs to know of this try, in the state store. It is bound to the vSphere snapshot that is read.

    Every write is also a fence: a try that another one has replaced stops there.

    :param key: of the value in the state store.
    """

    def __init__(self, ctx: RunContext, snapshot: SnapshotRef, key: str) -> None:
        self._checkpoints = ctx.checkpoints
        self._key = key
        self._lock = threading.Lock()
        stored: dict[str, Any] = self._checkpoints.get(key) or {}
        # A restored vCenter may give an id a second time; never an id and an instant.
        self.instant: Final = f"{snapshot.moref} {snapshot.created}"
        self.instant_id: Final = instant_of(self.instant)
        same = stored.get("snapshot") == self.instant
        self._value: dict[str, Any] = stored if same else {"snapshot": self.instant, "disks": {}, **self._fresh(stored)}
        self.write()

    def _fresh(self, stored: Mapping[str, Any]) -> dict[str, Any]:
        """The flow's own part of a new record.

        :param stored: the record of an earlier vSphere snapshot; empty if there is none.
        """
        return {}

    def write(self) -> None:
        """:raises FencedError: another try owns the work."""
        with self._lock:
            self._checkpoints.set(self._key, self._value)


class DiskCrew(ABC, Generic[_Work, _Done]):
    """One try of one server's transfer: all disks of the snapshot become a ``_Done`` each."""

    doing: ClassVar[str]
    """``exported``: for the error that says that the snapshot is gone."""
    if_gone: ClassVar[str]
    """What the user does then."""

    def __init__(
        self,
        source: FrozenServer,
        access: AwsAccess,
        staging: ServerStaging,
        ctx: RunContext,
        options: TransferOptions,
    ) -> None:
        self.session = source.session
        self.task = source.task
        self.snapshot = source.snapshot
        self.access = access
        self.staging = staging
        self.ctx = ctx
        self.options = options
        rate = self.task.plan.guards.max_mbit_s
        self.throttle = Paces(Throttle(rate * MBIT) if rate else None, options.line)
        self.stop = ctx.cancel.child()
        self.patience = SourcePatience(self.session.config.patience_s, ctx.clock)
        self.finished: dict[int, _Done] = {}
        """By the disk's index."""
        self.passed: dict[int, int] = {}
        """Bytes of each disk in the lease that were read, for its percentage."""

    # --- what differs between the flows -------------------------------------------------------------------------------

    @abstractmethod
    def take_up(self) -> None:
        """Add to :attr:`finished` what an earlier try of the same snapshot finished. Called before each round."""

    @abstractmethod
    def plan(self, pending: Sequence[int]) -> Sequence[_Work]:
        """The work on these disks."""

    @abstractmethod
    def leased(self, tasks: Sequence[_Work]) -> Sequence[int]:
        """The disks whose bytes count for the lease's percentage; empty if no export lease is needed."""

    @abstractmethod
    def move(self, lease: ExportLease | None, task: _Work) -> None:
        """Move one disk and add it to :attr:`finished`. Called by a thread per disk."""

    @abstractmethod
    def is_fresh(self) -> bool:
        """Whether no earlier try has done a part of the work. Asked before the first round."""

    @abstractmethod
    def read_whole(self) -> bool:
        """Whether every disk was read from end to end. Asked after the last round."""

    # --- rounds -------------------------------------------------------------------------------------------------------

    def run(self) -> tuple[_Done, ...]:
        """Move all disks; the results in the order of the snapshot's disks."""
        disks = range(len(self.snapshot.disks))
        began, in_one_go = self.ctx.clock.monotonic(), self.is_fresh()
        while not self._all_finished():
            try:
                self._round([index for index in disks if index not in self.finished])
            except (UnreachableError, ThrottledError) as error:
                in_one_go = False
                self.patience.again(error, self.ctx.cancel)
        self._check_off()
        if in_one_go and self.options.state_folder is not None and self.read_whole():
            passed = sum(disk.capacity for disk in self.snapshot.disks)
            note_rate(self.options.state_folder, passed, self.ctx.clock.monotonic() - began)
        return tuple(self.finished[index] for index in disks)

    def _check_off(self) -> None:
        """After the last block, too: what a source wrote that was on in between is not among them."""
        if self.task.final:
            (now,) = inventory.facts(self.session, [self.task.facts.moref])
            check_power(self.task, now)

    def _all_finished(self) -> bool:
        self.take_up()
        return len(self.finished) == len(self.snapshot.disks)

    def _round(self, pending: Sequence[int]) -> None:
        """Open the source and move what is pending, as far as it goes."""
        self.stop = self.ctx.cancel.child()
        interval = self.options.guard_seconds
        guards = TransferGuards(self.session, self.task, self.snapshot, self.ctx, interval=interval)
        self._check_snapshot()
        guards.check()
        with guards.watching(self.stop.set), self.access.obeying(self.stop):
            tasks = self.plan(pending)
            leased = self.leased(tasks)
            with self._lease(leased) if leased else nullcontext() as lease:
                self._move_all(lease, tasks)

    def _check_snapshot(self) -> None:
        """:raises NotFoundError: it was removed, by a person or by this run's teardown; a retry can't bring it back.
        :raises TamperedError: what came of it by XCom is not what vCenter says.
        """
        ref = self.snapshot.ref
        self._check_path()
        self._same("snapshot", (self.task.facts.moref, snapshot_name(self.ctx.run_key)), (ref.vm, ref.name))
        found = snapshots.find_snapshot(self.session, ref.vm, ref.name)
        if found is None or found.moref != ref.moref:
            raise NotFoundError(
                f"The snapshot that is to be {self.doing} is gone",
                server=self.task.name,
                snapshot=ref.name,
                next_step=f"{self.if_gone}; the VM's events in vCenter tell who removed it",
            )
        frozen = snapshots.snapshot_disks(self.session, ref.moref, server=self.task.name)
        self._same(
            "snapshot.disks", [_facts_of(disk) for disk in frozen], [_facts_of(disk) for disk in self.snapshot.disks]
        )
        for disk, known in zip(self.snapshot.disks, frozen, strict=True):
            if disk.change_id is not None:  # without one where tracking began with this snapshot
                self._same("snapshot.change_id", known.change_id, disk.change_id)

    def _check_path(self) -> None:
        """The control plane knows by which path the wave selects the server, and compares it in the manifest; which VM
        stands there only vCenter knows. Each try asks: what it would remember of it, an operator may edit.

        :raises TamperedError: another one than came by XCom.
        """
        vm, path = self.task.facts.moref, self.task.facts.path
        if (now := inventory.path_of(self.session, vm)) != path:
            raise TamperedError(
                "The VM that came by XCom does not stand where the wave selects it",
                field="facts.path",
                expected=now,
                found=path,
                vm=vm,
                server=self.task.name,
                next_step="If the VM was renamed or moved since the pre-flight, undo that, or trigger a new run of "
                "the wave for it; else find out who edited the run's XComs",
            )

    def _same(self, field: str, expected: object, found: object) -> None:
        """A change id that somebody invents would make the next run miss changes."""
        if expected != found:
            raise TamperedError(
                "What came by XCom of the snapshot is not what vCenter says",
                field=field,
                expected=expected,
                found=found,
                server=self.task.name,
                next_step=f"Clear this server from its {CONTINUE_FROM} task; find out who edited its XComs",
            )

    def _lease(self, leased: Sequence[int]) -> ExportLease:
        total = sum(self.snapshot.disks[index].capacity for index in leased)

        def percent() -> int:
            return min(100, 100 * sum(self.passed.get(index, 0) for index in leased) // total) if total else 100

        frozen = FrozenVm(self.task.facts.moref, self.snapshot.ref.moref, self.task.name)
        return ExportLease(self.session, frozen, self.snapshot.disks, cancel=self.stop, percent=percent)

    def _move_all(self, lease: ExportLease | None, tasks: Sequence[_Work]) -> None:
        """A few disks at a time; the first error stops the others and is raised once all have ended."""
        errors: list[BaseException] = []

        def guarded(task: _Work) -> None:
            try:
                self.stop.check()
                with self.access.obeying(self.stop):
                    self.move(lease, task)
            except BaseException as error:
                errors.append(error)
                self.stop.set("another disk of the server failed", fenced=isinstance(error, FencedError))

        with ThreadPoolExecutor(self.options.parallel_disks, thread_name_prefix="wavelift-disk") as pool:
            running = [pool.submit(guarded, task) for task in tasks]
            try:
                wait(running)
            except BaseException:  # Airflow's time-out is thrown into this thread
                self.stop.set("the task was interrupted")
                raise
        if errors:
            raise errors[0]  # the others are its echo

    # --- for the flows ------------------------------------------------------------------------------------------------

    def on_progress(self, index: int, progress: Progress) -> None:
        """News of a disk that is being moved."""
        self.passed[index] = progress.done
        self.patience.moved(progress)
        self.ctx.progress(progress)

    def report(self, index: int, phase: str) -> Report:
        """For the copy of a disk."""
        label = disk_label(index, self.snapshot.disks[index])
        return Report(self.task.name, label, phase, lambda progress: self.on_progress(index, progress))

    def manifest_header(self, index: int) -> dict[str, Any]:
        """What a manifest says of the disk and of this run. The control plane compares with it what a task returns."""
        disk, ref = self.snapshot.disks[index], self.snapshot.ref
        return {
            "server": self.task.name,
            "vm": ref.vm,
            "path": self.task.facts.path,
            "disk": index,
            "disks": len(self.snapshot.disks),
            "key": disk.key,
            "boot": disk.boot,
            "address": disk.address,
            "run": run_hash(self.ctx.run_key),
            "snapshot": ref.moref,
        }


def _facts_of(disk: DiskFacts) -> tuple[object, ...]:
    return disk.key, disk.address, disk.capacity, disk.boot, disk.uuid


@contextmanager
def lease_stream(lease: ExportLease, disk: DiskFacts) -> Iterator[StreamVmdkSource]:
    """The disk's content as the lease sends it.

    :raises CorruptStreamError: the stream is of a disk of another size.
    """
    with closing(lease.open(disk)) as raw:
        stream = StreamVmdkSource(raw)
        if stream.size != -(-disk.capacity // SECTOR) * SECTOR:
            raise CorruptStreamError(
                f"The stream is of a disk of {exact_bytes(stream.size)}, vCenter says {exact_bytes(disk.capacity)}",
                disk=disk.address,
                next_step="The retry asks for a new lease; if it says so again, check the VM's disks in vCenter",
            )
        yield stream
