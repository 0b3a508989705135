"""vSphere's change tracking: enabling it, asking what changed, and events that make it doubtful.

Its answer is a hint, not a proof: :func:`wavelift.rules.lineage.lineage_doubts` decides whether to use it at all.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final, TypeVar

from pyVmomi import vim, vmodl

from wavelift.adapters.vsphere.devices import FrozenVm, disks
from wavelift.adapters.vsphere.faults import FAULT_LONGEST, TrackingLostError, words
from wavelift.adapters.vsphere.properties import Values, Wait, WaitTimeout, read_one, watch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tasks import running_snapshot_tasks, settle, wait_for_task
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import BusyError, LoginError, PermanentError, UnreachableError, WaveliftError
from wavelift.base.printable import printable
from wavelift.base.run import CancelFlag
from wavelift.rules.lineage import EventKind, EventMemory, TrackingEvent
from wavelift.transfer.extents import coalesce
from wavelift.transfer.protocols import Extent

log = logging.getLogger(__name__)

T = TypeVar("T")

IN_USE: Final = "*"
"""In place of a change id: the areas in use. Only of use on VMFS, and for a disk whose tracking was turned on with no
snapshot standing (Broadcom KB 320557); elsewhere it fails or names the whole disk."""

QUERY_TIMEOUT_S: Final = 900.0
"""For one answer about what changed: vCenter reads the change map of a large disk on a busy datastore in minutes. What
takes longer is a doubt: comparing digests gets there without it."""

MOST_ANSWERS: Final = 10_000
"""For one disk. vCenter covers a disk by one answer or a few; some thousand are no answer any more."""

CANCEL_POLL_S: Final = 1.0

RECONFIGURE_TIMEOUT_S: Final = 300.0

LOST_ANSWER_S: Final = 10.0
"""How long a reconfiguration whose answer was lost may take to show; it writes one line into a file."""

EVENT_PAGE: Final = 100
"""Events per answer; a VM has few of these kinds."""

MOST_EVENTS: Final = 100_000
"""Of one VM. A list that goes on after that has no end."""

_EVENTS: Final[dict[str, EventKind]] = {
    "com.vmware.vc.vm.VmStateRevertedToSnapshot": "revert",
    "com.vmware.vc.ha.VmRestartedByHAEvent": "host failure",
    "VmRestartedOnAlternateHostEvent": "host failure",
    "VmPowerOffOnIsolationEvent": "hard power-off",
    "VmMigratedEvent": "move",
    "DrsVmMigratedEvent": "move",
    "VmRelocatedEvent": "move",
}
"""vSphere's event types, and type ids of ``EventEx``, that say something happened already."""

_TASKS: Final[dict[str, EventKind]] = {
    "vm.snapshot.revert": "revert",
    "virtualmachine.reverttocurrentsnapshot": "revert",
    "virtualmachine.poweroff": "hard power-off",
}
"""Description ids, lower case, of ``TaskEvent``: the task was begun, which is enough for a doubt. A guest's own
shutdown has no such task."""


@dataclass(frozen=True, slots=True)
class ChangedAreas:
    """What vCenter says changed on one disk. Bytes."""

    areas: tuple[Extent, ...]
    """Ascending, joined, within the disk. May cover bytes that did not change."""
    since: str
    """The change id that was asked about."""
    capacity: int
    answers: int
    """Calls that it took."""

    @property
    def bytes(self) -> int:
        return sum(area.length for area in self.areas)


def changed_areas(
    session: VsphereSession, frozen: FrozenVm, disk: DiskFacts, *, change_id: str, cancel: CancelFlag
) -> ChangedAreas:
    """What changed on ``disk`` between ``change_id`` and the snapshot; asked until the answers cover the disk.

    :param disk: as the snapshot froze it. :param change_id: of the last run's snapshot, or :data:`IN_USE`.
    :raises TrackingLostError: vCenter does not know, or contradicts itself. :raises NotFoundError: the VM or our
        snapshot is gone.
    """
    where = {"server": frozen.server, "disk": disk.address}
    found: list[Extent] = []
    at = answers = 0
    while at < disk.capacity:
        cancel.check()
        answer = _interruptible(partial(_ask, session, frozen, disk, at, change_id), cancel)
        answers += 1
        end = int(answer.startOffset) + int(answer.length)
        if answers > MOST_ANSWERS:
            raise _lost(f"{MOST_ANSWERS} answers do not cover the disk", where)
        if answer.startOffset > at or end <= at:
            raise _lost(f"an answer about the bytes {answer.startOffset} to {end} where {at} was asked for", where)
        found += _areas(answer, end, disk.capacity, where)
        at = end
    return ChangedAreas(coalesce(found), change_id, disk.capacity, answers)


def _ask(session: VsphereSession, frozen: FrozenVm, disk: DiskFacts, at: int, change_id: str) -> Any:
    """One answer, over a connection of its own: others must not wait behind it, nor it be cut by their time-out."""
    where = {"server": frozen.server, "disk": disk.address}

    def call() -> Any:
        with session.own_connection(timeout=QUERY_TIMEOUT_S) as stub:
            target = session.managed(vim.VirtualMachine, frozen.vm, stub)
            snapshot = session.managed(vim.vm.Snapshot, frozen.snapshot)
            try:
                return target.QueryChangedDiskAreas(snapshot, disk.key, at, change_id)
            except TimeoutError:
                return f"no answer within {QUERY_TIMEOUT_S / 60:g} minutes"
            except (vim.fault.FileFault, vim.fault.NotFound, vim.fault.Timedout) as fault:
                return f"vCenter refused: {words(fault)}"
            except vmodl.fault.InvalidArgument as fault:
                # Of a wrong offset we want to hear; which of the other two it blames depends on the version.
                named = str(fault.invalidProperty or "").rpartition(".")[2]
                if named == "startOffset":
                    raise
                return f"vCenter refused: {words(fault)} ({named or 'no argument named'})"

    answer = session.read(call, **where, object=frozen.vm)
    if isinstance(answer, str):
        raise _lost(answer, where)
    return answer


def _interruptible(call: Callable[[], T], cancel: CancelFlag) -> T:
    """``call`` in a thread, so that a cancelled task, or a guard, need not wait for vCenter's answer. A thread that
    nobody waits for any more ends with its time-out.

    :raises Cancelled: and what ``call`` raises.
    """
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True, name="wavelift-changed-areas").start()
    while not wait([outcome], timeout=CANCEL_POLL_S).done:
        cancel.check()
    return outcome.result()


def _areas(answer: Any, end: int, capacity: int, where: dict[str, str]) -> Iterator[Extent]:
    """The answer's areas, clipped to the disk. One that only reaches out of the answer's window does no harm: more is
    read than need be."""
    for area in answer.changedArea or ():
        start, length = int(area.start), int(area.length)
        if length < 0 or start < 0 or start >= max(end, 1) or start + length < answer.startOffset:
            raise _lost(f"an area at offset {start} of {length} bytes in an answer up to offset {end}", where)
        if start < capacity:
            yield Extent(start, min(length, capacity - start))


def _lost(reason: str, where: dict[str, str]) -> TrackingLostError:
    return TrackingLostError(
        f"what changed on the disk cannot be told: {reason}",
        next_step="The run compares digests instead; if it stays so, turn change tracking off and on again",
        **where,
    )


# --- turning it on ------------------------------------------------------------------------------------------------


_STATE: Final = (
    "capability.changeTrackingSupported",
    "config.changeTrackingEnabled",
    "config.changeVersion",
    "config.hardware.device",
    "snapshot.rootSnapshotList",
)


def enable_tracking(session: VsphereSession, vm: str, *, cancel: CancelFlag, server: str) -> bool:
    """Have vSphere track changes of ``vm``'s disks; whether this call turned it on.

    It takes effect at the next *stun*: the next snapshot, power-on or migration. The first change id may be used only
    after that snapshot was made and removed again, so the run that enables it is followed by one that still compares
    digests. Under a standing snapshot the map would be wrong without an error, so there it is refused.

    :raises BusyError: the VM has snapshots, also of others, or runs on a delta that none accounts for; or somebody
        changed it at the same time.
    :raises PermanentError: the VM can't (hardware version below 7).
    """
    where = {"server": server, "object": vm}
    settle(session, running_snapshot_tasks(session, vm), timeout=RECONFIGURE_TIMEOUT_S, cancel=cancel, **where)
    state = read_one(session, vim.VirtualMachine, vm, _STATE, **where)
    if state.get("config.changeTrackingEnabled"):
        return False
    if state.get("capability.changeTrackingSupported") is False:
        raise PermanentError(
            "this VM cannot track changes",
            next_step="Raise its hardware version to 7 or newer, or leave tracking off: runs then compare digests",
            **where,
        )
    _refuse_snapshots(state, where)
    cancel.check()
    _set_tracking(session, vm, str(state.get("config.changeVersion") or ""), on=True, cancel=cancel, where=where)
    state = read_one(session, vim.VirtualMachine, vm, _STATE, **where)
    try:
        _refuse_snapshots(state, where)
    except BusyError:
        # Somebody was quicker: their snapshot may be older than the flag.
        _set_tracking(session, vm, "", on=False, cancel=CancelFlag(), where=where)
        raise
    return True


def _refuse_snapshots(state: Values, where: dict[str, str]) -> None:
    names = [str(node.name) for node in state.get("snapshot.rootSnapshotList") or ()]
    if names:
        raise BusyError(
            f"change tracking would lose changes when turned on while the VM has snapshots ({', '.join(names)})",
            next_step="Remove every snapshot of the VM; until then runs compare digests",
            **where,
        )
    heads = [disk.file for disk in disks(state.get("config.hardware.device") or (), None, **where) if disk.on_delta]
    if heads:
        raise BusyError(
            f"change tracking would lose changes when turned on while the VM runs on deltas ({', '.join(heads)})",
            next_step="Consolidate the VM's disks in vCenter (Snapshots > Consolidate); till then runs compare digests",
            **where,
        )


def _set_tracking(
    session: VsphereSession, vm: str, version: str, *, on: bool, cancel: CancelFlag, where: dict[str, str]
) -> None:
    target = session.managed(vim.VirtualMachine, vm)
    # With the version that we looked at, vCenter refuses when somebody changed the VM since.
    spec = vim.vm.ConfigSpec(changeTrackingEnabled=on, changeVersion=version or None)
    try:
        task = session.change(lambda: target.ReconfigVM_Task(spec), **where)
        what = "setting change tracking"
        wait_for_task(session, task, timeout=RECONFIGURE_TIMEOUT_S, cancel=cancel, what=what, **where)
    except UnreachableError as error:
        if not _came_through(session, target, on, cancel, where):
            raise
        log.info("%s: change tracking is set although the answer was lost: %s", where["server"], error.what)


def _came_through(session: VsphereSession, target: Any, on: bool, cancel: CancelFlag, where: dict[str, str]) -> bool:
    """Whether a call whose answer was lost did its work; its task may still run."""
    flag = "config.changeTrackingEnabled"
    try:
        return watch(
            session,
            target,
            [flag],
            lambda values: True if bool(values.get(flag)) is on else None,
            Wait("setting change tracking", LOST_ANSWER_S, cancel),
            **where,
        )
    except WaitTimeout:
        return False


# --- what happened since ------------------------------------------------------------------------------------------


def tracking_events(
    session: VsphereSession, vm: str, since: datetime, *, server: str = ""
) -> tuple[TrackingEvent, ...]:
    """Reverts, hard stops and moves of ``vm`` since ``since``, oldest first.

    vCenter keeps events for a set time (30 days by default, often fewer): whether these are all, only
    :func:`event_memory` tells, *after* this call.

    :param since: by vCenter's clock, with a zone: a snapshot's creation is.
    """
    spec = vim.event.EventFilterSpec
    asked = spec(
        entity=spec.ByEntity(entity=session.managed(vim.VirtualMachine, vm), recursion="self"),
        time=spec.ByTime(beginTime=since),
        eventTypeId=[*_EVENTS, "TaskEvent"],
    )

    found = _read_events(session, asked, server=server or None, object=vm)
    events = [each for event in found if (each := _event(event)) is not None and each.at >= since]
    return tuple(sorted(events, key=lambda event: event.at))


def event_memory(session: VsphereSession, vm: str, since: datetime, *, server: str = "") -> EventMemory:
    """Whether vCenter's events of ``vm`` still reach back to ``since``; to be asked after they were read.

    :param since: as for :func:`tracking_events`.
    """
    spec = vim.event.EventFilterSpec
    before = spec(
        entity=spec.ByEntity(entity=session.managed(vim.VirtualMachine, vm), recursion="self"),
        time=spec.ByTime(endTime=since),
    )
    witness = _read_events(session, before, most=1, server=server or None, object=vm)
    now: datetime = session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
    return EventMemory(age=now - since, kept_days=_kept_days(session), reaches=bool(witness))


def _kept_days(session: VsphereSession) -> int | None:
    """``event.maxAge``, where vCenter follows it and says so: our role lies on a data centre, not on the root."""
    try:
        if not _option(session, "event.maxAgeEnabled"):
            return None
        return int(_option(session, "event.maxAge"))
    except LoginError:
        raise
    except (WaveliftError, TypeError, ValueError) as error:
        log.info("vCenter does not say how long it keeps events: %s", error)
        return None


def _option(session: VsphereSession, name: str) -> Any:
    settings = session.content.setting
    found = session.read(lambda: settings.QueryOptions(name), option=name) if settings is not None else ()
    return next((option.value for option in found or () if option.key == name), None)


def _read_events(session: VsphereSession, asked: Any, *, most: int | None = None, **where: object) -> list[Any]:
    """Events in order, oldest first; ``most`` of them, None: all."""

    def all_pages() -> list[Any]:
        # Not QueryEvents: it cuts its answer, and says not where. A new collector stands before the oldest event.
        collector = session.content.eventManager.CreateCollectorForEvents(asked)
        try:
            found: list[Any] = []
            while (most is None or len(found) < most) and (page := collector.ReadNextEvents(most or EVENT_PAGE)):
                found += page
                if len(found) > MOST_EVENTS:
                    raise UnreachableError(
                        f"vCenter's list of events does not end after {MOST_EVENTS}",
                        next_step="Look at the VM's events in vCenter",
                        **where,
                    )
            return found
        finally:
            collector.DestroyCollector()

    return session.read(all_pages, **where)


def _event(event: Any) -> TrackingEvent | None:
    kind: EventKind | None
    if isinstance(event, vim.event.TaskEvent):
        source = str(event.info.descriptionId or "")
        kind = _TASKS.get(source.lower())
    else:
        source = str(getattr(event, "eventTypeId", None) or type(event)._wsdlName)
        kind = _EVENTS.get(source)
    if kind is None:
        return None
    return TrackingEvent(kind, event.createdTime, source, printable(event.fullFormattedMessage or "", FAULT_LONGEST))
