"""Which privileges are missing, and where (SMS-12): the list is that of the table of calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from pyVmomi import vim, vmodl

from wavelift.adapters.vsphere.faults import moref
from wavelift.adapters.vsphere.inventory import paths_of
from wavelift.adapters.vsphere.properties import collect, traverse
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.errors import MissingPrivilegeError, NotFoundError
from wavelift.rules.calls import Where
from wavelift.rules.policies import required_privileges

Scope = Where

REQUIRED: Final[Mapping[Scope, tuple[str, ...]]] = required_privileges()
"""For taking a VM's disks. ``root`` stands for vCenter itself."""


class UnknownPrincipalError(NotFoundError):
    """vCenter knows no user of this name."""


@dataclass(frozen=True, slots=True)
class MissingPrivileges:
    """What one principal lacks on one object."""

    principal: str
    scope: Scope
    entity: str
    """moref, ``vm-12``."""
    name: str
    privileges: tuple[str, ...]


def missing_privileges(
    session: VsphereSession,
    vms: Sequence[str],
    *,
    principal: str | None = None,
    required: Mapping[Scope, Sequence[str]] = REQUIRED,
) -> dict[str, list[MissingPrivileges]]:
    """VM's moref → what is missing on it, on its datastores and on the root; an empty list when nothing is.
    VMs that are gone are absent.

    :param principal: another user as vCenter names it (``DOMAIN\\user``), for AMP-03; None asks about ourselves.
    :raises UnknownPrincipalError: vCenter knows no such user.
    """
    found = collect(session, vim.VirtualMachine, vms, ["name", "datastore"])
    stores = {ref: [moref(store) for store in values.get("datastore") or ()] for ref, values in found.items()}
    store_refs = list(dict.fromkeys(ref for refs in stores.values() for ref in refs))
    names = {ref: str(values.get("name", ref)) for ref, values in found.items()}
    names |= {ref: str(v.get("name", ref)) for ref, v in collect(session, vim.Datastore, store_refs, ["name"]).items()}
    root = session.content.rootFolder
    names[moref(root)] = "vCenter"
    scopes: dict[Scope, list[Any]] = {
        "vm": [session.managed(vim.VirtualMachine, ref) for ref in found],
        "datastore": [session.managed(vim.Datastore, ref) for ref in store_refs],
        "root": [root],
    }
    lacking: dict[str, MissingPrivileges] = {}
    who = principal or session.user
    for scope, entities in scopes.items():
        for ref, privileges in _lacking(session, entities, tuple(required.get(scope, ())), principal).items():
            lacking[ref] = MissingPrivileges(who, scope, ref, names.get(ref, ref), privileges)
    return {
        vm: [lacking[ref] for ref in (vm, *stores.get(vm, ()), moref(root)) if ref in lacking]
        for vm in vms
        if vm in found
    }


def reads_all(session: VsphereSession) -> bool:
    """Whether the account has its role on the root folder. Else there may be objects that it does not see."""
    return not _lacking(session, [session.content.rootFolder], ("System.Read",), None)


EXPORT: Final = "VApp.Export"
"""Whoever has it can read every disk of a VM."""


@dataclass(frozen=True, slots=True)
class DataCentre:
    """A data centre that the account sees, and whether it may export the VMs in it (asked of the data centre, from
    which the role comes down)."""

    path: str
    exports: bool


def data_centres_beside(session: VsphereSession, paths: Sequence[str]) -> list[DataCentre]:
    """The data centres that the account sees although none of these VMs is in them (SMS-12: no access elsewhere), by
    path; in two calls whatever their number.

    :param paths: inventory paths of the VMs.
    """
    rows = traverse(session, [(vim.Folder, ("name", "parent")), (vim.Datacenter, ("name", "parent"))])
    root = moref(session.content.rootFolder)
    found = paths_of([row for row in rows if row.moref != root])
    kinds = {row.moref: row.kind for row in rows}
    beside = {
        ref: path
        for ref, path in found.items()
        if kinds[ref] == "Datacenter" and not any(vm.startswith(f"{path}/") for vm in paths)
    }
    entities = [session.managed(vim.Datacenter, ref) for ref in beside]
    lacking = _lacking(session, entities, (EXPORT,), None)
    return sorted((DataCentre(path, ref not in lacking) for ref, path in beside.items()), key=lambda one: one.path)


def _lacking(
    session: VsphereSession, entities: list[Any], wanted: tuple[str, ...], principal: str | None
) -> dict[str, tuple[str, ...]]:
    if not entities or not wanted:
        return {}
    ask = partial(_held_by_us, session, wanted=wanted) if principal is None else partial(_held_by, session, principal)
    held = _held(ask, entities)  # an object that the answer leaves out is one on which nothing is held
    missing = {ref: tuple(name for name in wanted if name not in held.get(ref, ())) for ref in map(moref, entities)}
    return {ref: names for ref, names in missing.items() if names}


def _held(ask: Callable[[list[Any]], dict[str, set[str]]], entities: list[Any]) -> dict[str, set[str]]:
    """One call for all; one each when we may not even look at some of them: then we hold nothing there."""
    try:
        return ask(entities)
    except MissingPrivilegeError:
        if len(entities) == 1:
            return {moref(entities[0]): set()}
    return {ref: names for entity in entities for ref, names in _held(ask, [entity]).items()}


def _held_by_us(session: VsphereSession, entities: list[Any], *, wanted: tuple[str, ...]) -> dict[str, set[str]]:
    manager = session.content.authorizationManager
    answer = session.read(lambda: manager.HasPrivilegeOnEntities(entities, session.session_key, list(wanted)))
    return {
        moref(item.entity): {str(priv.privId) for priv in item.privAvailability or () if priv.isGranted}
        for item in answer or ()
    }


def _held_by(session: VsphereSession, principal: str, entities: list[Any]) -> dict[str, set[str]]:
    manager = session.content.authorizationManager

    def ask() -> Any:
        try:
            return manager.FetchUserPrivilegeOnEntities(entities, principal)
        except (vim.fault.UserNotFound, vmodl.fault.InvalidArgument):
            pass  # the API names no fault for an unknown user; raised below: a pyvmomi fault must not become a context
        raise UnknownPrincipalError(
            f"vCenter knows no user '{principal}'",
            next_step="Name it as vCenter does: DOMAIN\\user",
            principal=principal,
        )

    answer = session.read(ask, principal=principal)
    return {moref(item.entity): {str(name) for name in item.privileges or ()} for item in answer or ()}
