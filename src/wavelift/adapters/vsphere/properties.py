"""Reading vSphere: only through the PropertyCollector, with explicit paths, in pages.

An attribute read costs a round trip each and trips over unset values on some servers; a collector call brings 500
objects. Threads that wait make a collector of their own: filters of a shared one wake the wrong waiter.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from pyVmomi import vim, vmodl

from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import NotFoundError, UnreachableError
from wavelift.base.printable import printable
from wavelift.base.run import CancelFlag

T = TypeVar("T")
Values = dict[str, Any]
"""Property path → value; what is unset, or may not be read, is absent."""

PAGE: Final = 500
"""Objects per answer: 1,000 VMs in two calls; larger pages make answers of many megabytes."""

MOST_OBJECTS: Final = 1_000_000
"""In one answer, all pages together; the largest vCenters have some 100,000. More is a list without an end."""

WAIT_S: Final = 2
"""Seconds that one WaitForUpdatesEx may take: how late a cancel is seen. Must stay below the socket's time-out."""

SLICE_S: Final = 300
"""A waiter makes a new collector this often: whatever became of the old one, nobody waits for ever."""

LOST_PAUSE_S: Final = 0.5
"""Before a waiter whose collector was lost makes another."""

_Collector: Final = vmodl.query.PropertyCollector


class WaitTimeout(UnreachableError):
    """A wait of ours ran out; the work in vCenter goes on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One object of a traversal."""

    moref: str
    kind: str
    """vSphere type, ``VirtualMachine`` …"""
    values: Values


def _spec(kind: Any, paths: Sequence[str]) -> Any:
    return _Collector.PropertySpec(type=kind, pathSet=list(paths), all=False)


def _kind(reference: Any) -> str:
    return type(reference).__name__.rsplit(".", 1)[-1]


def _plain(value: Any) -> Any:
    """Texts are printable from here on, whoever gave the VM, the folder or the host its name."""
    return printable(value, TEXT_LONGEST) if type(value) is str else value


def snapshot_nodes(tree: Iterable[Any] | None) -> Iterator[Any]:
    """Every snapshot of a VM's tree, parents first; without recursion, however deep an answer is."""
    pending = list(reversed(list(tree or ())))
    while pending:
        node = pending.pop()
        yield node
        pending += reversed(node.childSnapshotList or ())


def _rows(session: VsphereSession, spec: Any) -> list[Row]:
    """All pages of one question, as pyvmomi answers it: for :meth:`VsphereSession.read`."""
    collector = session.content.propertyCollector
    rows: list[Row] = []
    page = collector.RetrievePropertiesEx([spec], _Collector.RetrieveOptions(maxObjects=PAGE))
    while page is not None:
        if len(rows) > MOST_OBJECTS:
            raise UnreachableError(
                f"vCenter's list of objects does not end after {MOST_OBJECTS}", next_step="Look at the inventory"
            )
        rows += [
            Row(moref(item.obj), _kind(item.obj), {p.name: _plain(p.val) for p in item.propSet})
            for item in page.objects
        ]
        page = collector.ContinueRetrievePropertiesEx(page.token) if page.token else None
    return rows


def _retrieve(session: VsphereSession, spec: Any, **where: object) -> list[Row]:
    return session.read(lambda: _rows(session, spec), **where)


def collect(
    session: VsphereSession, kind: Any, morefs: Iterable[str], paths: Sequence[str], **where: object
) -> dict[str, Values]:
    """Properties of the given objects, moref → values. Objects that vanished are absent."""
    wanted = list(dict.fromkeys(morefs))
    found: dict[str, Values] = {}
    for start in range(0, len(wanted), PAGE):
        batch = wanted[start : start + PAGE]
        while batch:
            objects = [_Collector.ObjectSpec(obj=session.managed(kind, ref)) for ref in batch]
            spec = _Collector.FilterSpec(propSet=[_spec(kind, paths)], objectSet=objects)
            try:
                found |= {row.moref: row.values for row in _retrieve(session, spec, **where)}
                break
            except NotFoundError as error:
                # One vanished object fails the whole call; its name comes with the fault.
                left = [ref for ref in batch if ref != error.where.get("object")]
                if len(left) == len(batch):
                    raise
                batch = left
    return found


def read_one(session: VsphereSession, kind: Any, ref: str, paths: Sequence[str], **where: object) -> Values:
    """Properties of one object.

    :raises NotFoundError: it is gone.
    """
    found = collect(session, kind, [ref], paths, **where)
    if ref not in found:
        where = {"object": ref, **where}
        raise NotFoundError("vCenter no longer has this object", next_step="Look at the inventory", **where)
    return found[ref]


def all_refs(session: VsphereSession, kind: Any) -> list[str]:
    """Every object of one kind below the root folder, as managed object ids, in three calls whatever their number."""
    views = session.managed(vim.view.ViewManager, moref(session.content.viewManager))

    def look() -> list[str]:
        # In one piece, read anew as a whole: a view ends with the login that made it.
        view = views.CreateContainerView(session.content.rootFolder, [kind], True)
        try:
            objects = [_Collector.ObjectSpec(obj=view)]
            spec = _Collector.FilterSpec(propSet=[_spec(vim.view.ContainerView, ["view"])], objectSet=objects)
            found = _rows(session, spec)
        finally:
            view.DestroyView()
        return [moref(one) for row in found for one in row.values.get("view") or ()]

    return session.read(look)


def _traversals() -> list[Any]:
    """From the root folder through folders and data centres down to VMs and vApps."""
    step = _Collector.SelectionSpec
    path = _Collector.TraversalSpec
    everything = [step(name="folder"), step(name="datacenter"), step(name="vapp-vm"), step(name="vapp-vapp")]
    return [
        path(name="folder", type=vim.Folder, path="childEntity", skip=False, selectSet=everything),
        path(name="datacenter", type=vim.Datacenter, path="vmFolder", skip=False, selectSet=[step(name="folder")]),
        path(name="vapp-vm", type=vim.VirtualApp, path="vm", skip=False),
        path(name="vapp-vapp", type=vim.VirtualApp, path="resourcePool", skip=False, selectSet=everything[2:]),
    ]


def _traversals_of_places() -> list[Any]:
    """From the root folder through all four folders of a data centre down to datastores, networks and pools."""
    step = _Collector.SelectionSpec
    path = _Collector.TraversalSpec
    folder, pool = step(name="folder"), step(name="pool")
    roots = ("vmFolder", "hostFolder", "datastoreFolder", "networkFolder")
    return [
        path(
            name="folder",
            type=vim.Folder,
            path="childEntity",
            skip=False,
            selectSet=[folder, *(step(name=root) for root in roots), step(name="compute")],
        ),
        *(path(name=root, type=vim.Datacenter, path=root, skip=False, selectSet=[folder]) for root in roots),
        path(name="compute", type=vim.ComputeResource, path="resourcePool", skip=False, selectSet=[pool]),
        path(name="pool", type=vim.ResourcePool, path="resourcePool", skip=False, selectSet=[pool]),
    ]


def traverse(session: VsphereSession, specs: Sequence[tuple[Any, Sequence[str]]], *, places: bool = False) -> list[Row]:
    """All objects of the given kinds below the root folder, with these properties, in pages of :data:`PAGE`.

    :param places: also through what VMs are put into, beside their folders; then not into vApps.
    """
    ways = _traversals_of_places() if places else _traversals()
    start = _Collector.ObjectSpec(obj=session.content.rootFolder, skip=False, selectSet=ways)
    spec = _Collector.FilterSpec(propSet=[_spec(kind, paths) for kind, paths in specs], objectSet=[start])
    return _retrieve(session, spec)


# --- waiting --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wait:
    """How long something is awaited.

    :param what: the work in words: begins the error "… took longer than".
    :param timeout: seconds.
    """

    what: str
    timeout: float
    cancel: CancelFlag


def watch(
    session: VsphereSession,
    target: Any,
    paths: Sequence[str],
    until: Callable[[Values], T | None],
    wait: Wait,
    **where: object,
) -> T:
    """Wait until ``until`` returns something for the properties of ``target``; its first answer is final.

    :raises WaitTimeout: time is up. :raises NotFoundError: the object is gone. :raises Cancelled: by ``cancel``.
    """
    deadline = time.monotonic() + wait.timeout
    while True:
        slice_end = min(deadline, time.monotonic() + SLICE_S)
        answer = session.read(partial(_watch_slice, session, target, paths, until, slice_end, wait.cancel), **where)
        if answer is not None:
            return answer
        if time.monotonic() >= deadline:
            raise WaitTimeout(
                f"{wait.what} took longer than {wait.timeout:.0f} s", next_step="Look at the task in vCenter", **where
            )


def _watch_slice(
    session: VsphereSession,
    target: Any,
    paths: Sequence[str],
    until: Callable[[Values], T | None],
    end: float,
    cancel: CancelFlag,
) -> T | None:
    collector = session.content.propertyCollector.CreatePropertyCollector()
    try:
        spec = _Collector.FilterSpec(
            propSet=[_spec(type(target), paths)], objectSet=[_Collector.ObjectSpec(obj=target, skip=False)]
        )
        collector.CreateFilter(spec, partialUpdates=False)
        values: Values = {}
        version = ""
        options = _Collector.WaitOptions(maxWaitSeconds=WAIT_S)
        while True:
            cancel.check()
            updates = collector.WaitForUpdatesEx(version, options)
            if updates is not None:
                version = updates.version
                answer = _first_answer(updates, values, until)
                if answer is not None:
                    return answer
            if time.monotonic() >= end:
                return None
    except vmodl.fault.ManagedObjectNotFound as gone:
        if moref(gone.obj) in ("", moref(target)):
            raise
        cancel.wait(LOST_PAUSE_S)  # another thread signed in anew, and our collector went with the old login
        return None
    finally:
        _destroy(collector)


def _first_answer(updates: Any, values: Values, until: Callable[[Values], T | None]) -> T | None:
    """Apply the updates one by one: queued changes may be replayed, and only the first terminal state counts."""
    for filter_update in updates.filterSet:
        for update in filter_update.objectSet:
            if str(update.kind) == "leave":
                raise vmodl.fault.ManagedObjectNotFound(obj=update.obj)
            for change in update.changeSet:
                values[change.name] = _plain(change.val)
            answer = until(values)
            if answer is not None:
                return answer
    return None


def _destroy(collector: Any) -> None:
    """A collector that the server already forgot is as good as destroyed."""
    try:
        collector.DestroyPropertyCollector()
    except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated):
        return
