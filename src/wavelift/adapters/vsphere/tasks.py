"""Waiting for vCenter's tasks (pyVim's own helper breaks on slow tasks with names that it does not know)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.faults import moref, translate
from wavelift.adapters.vsphere.properties import Values, Wait, collect, read_one, watch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import NotFoundError
from wavelift.base.run import CancelFlag

_PATHS: Final = ("info.state", "info.progress", "info.error", "info.result")
_TERMINAL: Final = frozenset({"success", "error"})
_RUNNING: Final = frozenset({"queued", "running"})

_SNAPSHOT_WORK: Final = ("snapshot", "consolidatevmdisks", "consolidatedisks")
"""Parts of description ids, lower case: ``VirtualMachine.createSnapshot``, ``vm.Snapshot.remove`` …"""


@dataclass(frozen=True, slots=True)
class _Outcome:
    error: Any
    result: Any


def _outcome(values: Values) -> _Outcome | None:
    if str(values.get("info.state")) not in _TERMINAL:
        return None
    return _Outcome(error=values.get("info.error"), result=values.get("info.result"))


def wait_for_task(
    session: VsphereSession, task: Any, *, timeout: float, cancel: CancelFlag, what: str, **where: object
) -> Any:
    """The task's result. A cancel leaves the task running: who asked for it knows how to undo it.

    :param timeout: seconds. :param what: the work in words, for errors.
    :raises WaveliftError: the task's fault, translated. :raises UnreachableError: time is up.
    """
    where = {"task": moref(task), **where}
    outcome = watch(session, task, _PATHS, _outcome, Wait(what, timeout, cancel), **where)
    if outcome.error is not None:
        raise translate(outcome.error, **where)
    return outcome.result


def running_snapshot_tasks(session: VsphereSession, vm: str, **where: object) -> list[Any]:
    """Tasks on ``vm`` that are making, removing or consolidating snapshots right now."""
    recent = read_one(session, vim.VirtualMachine, vm, ["recentTask"], **where).get("recentTask") or []
    states = collect(session, vim.Task, [moref(task) for task in recent], ["info.state", "info.descriptionId"], **where)
    return [
        task
        for task in recent
        if (values := states.get(moref(task)))
        and str(values.get("info.state")) in _RUNNING
        and any(part in str(values.get("info.descriptionId", "")).lower() for part in _SNAPSHOT_WORK)
    ]


def settle(session: VsphereSession, tasks: list[Any], *, timeout: float, cancel: CancelFlag, **where: object) -> None:
    """Wait until none of ``tasks`` runs any more, however they end."""
    for task in tasks:
        try:
            watch(session, task, _PATHS, _outcome, Wait("a snapshot task", timeout, cancel), **where)
        except NotFoundError:
            continue  # vCenter forgets finished tasks
