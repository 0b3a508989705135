"""Snapshots as idempotent steps. They are found by name (invariants 4 and 5).

vSphere allows two snapshots of one name, and an answer can be lost while the work goes on. So each step first waits for
running snapshot work on the VM, then looks, then acts. Removal removes every snapshot of the name.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.devices import disks
from wavelift.adapters.vsphere.faults import QuiesceError, moref
from wavelift.adapters.vsphere.properties import Values, WaitTimeout, read_one, snapshot_nodes, traverse
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.adapters.vsphere.tasks import running_snapshot_tasks, settle, wait_for_task
from wavelift.base.domain import DiskFacts, SnapshotRef
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    FencedError,
    NotFoundError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.names import SNAPSHOT_PREFIX
from wavelift.base.run import CancelFlag
from wavelift.rules.wave import Quiesce

log = logging.getLogger(__name__)

CREATE_TIMEOUT_S: Final = 3600.0
"""Seconds; quiescing a busy Windows guest takes minutes."""

REMOVE_TIMEOUT_S: Final = 24 * 3600.0
"""Seconds; merging a day's writes takes hours and goes on after we stop waiting."""

REMOVE_ROUNDS: Final = 3
"""Looks after removals whose answers were lost."""

BUSY_WAIT_S: Final = 600.0
"""A removal refused because the VM is busy is asked for again this long: the lease of a killed process holds the VM
until it times out, after five minutes."""

BUSY_POLL_S: Final = 5.0

_PATHS: Final = (
    "name",
    "snapshot.rootSnapshotList",
    "runtime.consolidationNeeded",
    "runtime.powerState",
    "guest.toolsRunningStatus",
)


@dataclass(frozen=True, slots=True)
class _State:
    """A VM as far as snapshots go."""

    vm: str
    server: str
    nodes: tuple[Any, ...]
    consolidation_needed: bool
    power: str
    tools_running: bool

    def named(self, name: str) -> list[Any]:
        """Oldest first."""
        return sorted((node for node in self.nodes if node.name == name), key=lambda node: node.id)

    def ref(self, node: Any, note: str = "") -> SnapshotRef:
        return _ref(self.server, self.vm, node, note)


def _ref(server: str, vm: str, node: Any, note: str = "") -> SnapshotRef:
    return SnapshotRef(
        server=server,
        vm=vm,
        moref=moref(node.snapshot),
        name=str(node.name),
        created=node.createTime.isoformat(),
        quiesced=bool(node.quiesced),
        quiesce_note=note,
    )


def _look(session: VsphereSession, vm: str) -> _State:
    values: Values = read_one(session, vim.VirtualMachine, vm, _PATHS)
    return _State(
        vm=vm,
        server=str(values.get("name", vm)),
        nodes=tuple(snapshot_nodes(values.get("snapshot.rootSnapshotList"))),
        consolidation_needed=bool(values.get("runtime.consolidationNeeded")),
        power=str(values.get("runtime.powerState", "")),
        tools_running=str(values.get("guest.toolsRunningStatus", "")) == "guestToolsRunning",
    )


def _settled(session: VsphereSession, vm: str, *, timeout: float, cancel: CancelFlag) -> _State:
    """The VM's state once no snapshot work runs on it: an earlier try may have left some under way."""
    settle(session, running_snapshot_tasks(session, vm), timeout=timeout, cancel=cancel, object=vm)
    return _look(session, vm)


def find_snapshot(
    session: VsphereSession, vm: str, name: str, *, cancel: CancelFlag | None = None
) -> SnapshotRef | None:
    """The (oldest) snapshot of this name, or None.

    :param cancel: given: what is under way on the VM's snapshots is awaited first; a killed try's may come yet.
    :raises NotFoundError: the VM is gone.
    """
    state = _settled(session, vm, timeout=CREATE_TIMEOUT_S, cancel=cancel) if cancel else _look(session, vm)
    return next((state.ref(node) for node in state.named(name)), None)


def find_ours(session: VsphereSession) -> list[SnapshotRef]:
    """Every snapshot with our prefix on any VM that the account may see; ceil(N / 500) calls for N VMs."""
    rows = traverse(session, [(vim.VirtualMachine, ("name", "snapshot.rootSnapshotList"))])
    return [
        _ref(str(row.values.get("name", row.moref)), row.moref, node)
        for row in {row.moref: row for row in rows}.values()
        for node in snapshot_nodes(row.values.get("snapshot.rootSnapshotList"))
        if node.name.startswith(SNAPSHOT_PREFIX)
    ]


def snapshot_disks(session: VsphereSession, snapshot: str, *, server: str = "") -> tuple[DiskFacts, ...]:
    """The disks as the snapshot froze them, in true order; the VM's own list may have changed since.

    :raises NotFoundError: the snapshot is gone.
    """
    paths = ("config.hardware.device", "config.bootOptions")
    values = read_one(session, vim.vm.Snapshot, snapshot, paths, server=server or None)
    return disks(values.get("config.hardware.device") or (), values.get("config.bootOptions"), server=server or None)


# --- make -----------------------------------------------------------------------------------------------------------


def ensure_snapshot(
    session: VsphereSession,
    vm: str,
    name: str,
    description: str,
    *,
    quiesce: Quiesce,
    cancel: CancelFlag,
) -> SnapshotRef:
    """The snapshot ``name`` of ``vm``, made if it isn't there; without memory.

    :param quiesce: ``prefer`` falls back to a crash-consistent one and says why in ``quiesce_note``. ``require`` does
        not take one that an earlier, killed try left unquiesced: it is replaced.
    Work under way is awaited for :data:`CREATE_TIMEOUT_S`, and the own task again as long.

    :raises BusyError: another snapshot of ours exists, or the VM needs consolidation.
    :raises QuiesceError: ``require`` could not be met. :raises Cancelled: the task may still make the snapshot;
        :func:`remove_snapshot` waits for it.
    """
    state = _settled(session, vm, timeout=CREATE_TIMEOUT_S, cancel=cancel)
    for node in state.named(name):
        if quiesce != "require" or node.quiesced or state.power == "poweredOff":
            return state.ref(node, "" if node.quiesced else "found from an earlier try, not quiesced")
    if state.named(name):
        log.warning("%s: an earlier try left a snapshot that is not quiesced, making another", state.server)
        remove_snapshot(session, vm, name, cancel=cancel)
        state = _settled(session, vm, timeout=CREATE_TIMEOUT_S, cancel=cancel)
    _refuse(state)
    cancel.check()
    asked, note = _plan(state, quiesce)
    try:
        made = _create(session, state, name, description, quiesce=asked, cancel=cancel)
    except QuiesceError as error:
        if quiesce == "require":
            raise
        log.warning("%s: %s; taking a crash-consistent snapshot", state.server, error.what)
        note = f"crash-consistent: {error.what}"
        made = _create(session, state, name, description, quiesce=False, cancel=cancel)
    if asked and not made.quiesced and not note:
        # vSphere ignores the wish without a fault when VMware Tools stop answering.
        note = "crash-consistent: vCenter did not quiesce although asked to"
        if quiesce == "require":
            remove_snapshot(session, vm, name, cancel=CancelFlag())
            raise QuiesceError(
                "vCenter made the snapshot without quiescing; it was removed",
                next_step="Look at VMware Tools in the guest, or set quiesce: prefer",
                server=state.server,
            )
    return made.model_copy(update={"quiesce_note": note})


def _refuse(state: _State) -> None:
    others = [node.name for node in state.nodes if node.name.startswith(SNAPSHOT_PREFIX)]
    if others:
        raise BusyError(
            f"the VM has another snapshot of ours: {', '.join(others)}",
            next_step="Another run works on this VM, or a dead one left it: see 'wavelift cleanup --dry-run'",
            server=state.server,
            object=state.vm,
        )
    if state.consolidation_needed:
        raise BusyError(
            "the VM's disks need consolidation, a snapshot now could corrupt them",
            next_step="Consolidate the disks in vCenter (Snapshots > Consolidate), then retry",
            server=state.server,
            object=state.vm,
        )


def _plan(state: _State, quiesce: Quiesce) -> tuple[bool, str]:
    """Whether to ask for quiescing, and what to note if not."""
    if quiesce == "never":
        return False, ""
    if state.power == "poweredOff":
        return False, "the VM is off: its disks are at rest"
    if state.power == "poweredOn" and state.tools_running:
        return True, ""
    reason = "VMware Tools are not running" if state.power == "poweredOn" else "the VM is suspended"
    if quiesce == "require":
        raise QuiesceError(
            f"the guest cannot be quiesced: {reason}",
            next_step="Start VMware Tools, shut the VM down, or set quiesce: prefer",
            server=state.server,
        )
    return False, f"crash-consistent: {reason}"


def _create(
    session: VsphereSession,
    state: _State,
    name: str,
    description: str,
    *,
    quiesce: bool,
    cancel: CancelFlag,
) -> SnapshotRef:
    where = {"server": state.server, "snapshot": name}
    target = session.managed(vim.VirtualMachine, state.vm)
    lost: UnreachableError | None = None
    try:
        task = session.change(
            lambda: target.CreateSnapshot_Task(name=name, description=description, memory=False, quiesce=quiesce),
            **where,
        )
        wait_for_task(session, task, timeout=CREATE_TIMEOUT_S, cancel=cancel, what="making the snapshot", **where)
        after = _look(session, state.vm)
    except WaitTimeout:
        raise
    except UnreachableError as error:
        lost = error
        after = _settled(session, state.vm, timeout=CREATE_TIMEOUT_S, cancel=cancel)
    for node in after.named(name):
        return after.ref(node)
    raise lost or WaveliftError(
        "vCenter made the snapshot, but it is gone again", next_step="Look at the VM's events: who removes it?", **where
    )


# --- remove ---------------------------------------------------------------------------------------------------------


def remove_snapshot(
    session: VsphereSession, vm: str, name: str, *, cancel: CancelFlag, timeout: float = REMOVE_TIMEOUT_S
) -> int:
    """Remove every snapshot ``name`` of ``vm`` and consolidate; how many were removed by this call.

    Waits for making or removing that is under way. A VM or snapshot that is gone counts as done.

    :raises UnreachableError: not finished in ``timeout`` seconds; vCenter goes on, and a later call waits on.
    :raises BusyError: removed, but the disks could not be consolidated.
    :raises PermanentError: the name is none of ours. It may come from an XCom, which a person may have edited.
    """
    if not name.startswith(SNAPSHOT_PREFIX):
        raise PermanentError("only snapshots of wavelift are removed", snapshot=name, vm=vm)
    removed = 0
    asked = False
    lost: WaveliftError | None = None
    try:
        state = _settled(session, vm, timeout=timeout, cancel=cancel)
        for _ in range(REMOVE_ROUNDS):
            nodes = state.named(name)
            if not nodes:
                break
            for node in nodes:
                asked = True
                lost = _remove(session, state, node, timeout=timeout, cancel=cancel)
                removed += lost is None
            state = _settled(session, vm, timeout=timeout, cancel=cancel)
            if lost is not None and not isinstance(lost, UnreachableError):
                break  # vCenter said no: asking again at once changes nothing
    except NotFoundError as error:
        log.info("snapshot %s: the VM %s is gone, nothing to remove (%s)", name, vm, error.what)
        return removed
    if state.named(name):
        raise lost or BusyError(
            "the snapshot is still there after its removal",
            next_step="Remove it in vCenter",
            server=state.server,
            snapshot=name,
        )
    if lost is not None:
        removed += 1
        log.info("%s: the snapshot went although its removal was not answered well: %s", state.server, lost.what)
    if asked and state.consolidation_needed:
        _consolidate(session, state, timeout=timeout, cancel=cancel)
    return removed


def _remove(
    session: VsphereSession, state: _State, node: Any, *, timeout: float, cancel: CancelFlag
) -> WaveliftError | None:
    """Ask and wait. A lost answer or a failed task is returned, for the caller to look what became of the snapshot: a
    removal whose merge fails (a locked file) takes it off the tree all the same.
    """
    where = {"server": state.server, "snapshot": str(node.name)}
    give_up = time.monotonic() + BUSY_WAIT_S
    while True:
        try:
            task = session.change(
                lambda: node.snapshot.RemoveSnapshot_Task(removeChildren=False, consolidate=True), **where
            )
            wait_for_task(session, task, timeout=timeout, cancel=cancel, what="removing the snapshot", **where)
            return None
        except NotFoundError:
            return None
        except (WaitTimeout, Cancelled, FencedError, PermanentError):
            raise
        except BusyError as error:
            if time.monotonic() >= give_up:
                return error
            log.info("%s: cannot remove the snapshot yet: %s", state.server, error.what)
            cancel.wait(BUSY_POLL_S)
            cancel.check()
        except WaveliftError as error:
            return error


def _consolidate(session: VsphereSession, state: _State, *, timeout: float, cancel: CancelFlag) -> None:
    log.warning("%s: vCenter wants consolidation after the removal, consolidating", state.server)
    target = session.managed(vim.VirtualMachine, state.vm)
    where = {"server": state.server, "object": state.vm}
    try:
        task = session.change(target.ConsolidateVMDisks_Task, **where)
        wait_for_task(session, task, timeout=timeout, cancel=cancel, what="consolidating the disks", **where)
    except BusyError as error:
        raise BusyError(
            f"the snapshot is removed, but the VM's disks still need consolidation: {error.what}",
            next_step="Release the lock (backup, other export) and consolidate in vCenter (Snapshots > Consolidate)",
            **where,
        ) from error
