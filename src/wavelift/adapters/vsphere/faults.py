"""vSphere's faults and the network's errors as our own: the one place where that happens (invariant 13).

Fault *texts* are never matched: they are translated by the server's locale, and simulators give type names.
"""

from __future__ import annotations

from collections.abc import Callable
from http.client import HTTPException
from typing import Any, Final
from xml.parsers.expat import ExpatError

from pyVmomi import vim, vmodl

from wavelift.base.errors import (
    BusyError,
    GuardError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.printable import printable

VENDOR_ERRORS: Final = (vmodl.MethodFault, OSError, HTTPException, ExpatError)
"""Everything that a call through pyvmomi may raise. MethodFault is the root of all faults."""

TEXT_LONGEST: Final = 250
"""Characters of one text of the inventory. vSphere's names have 80, as stored (``%2f`` …) up to 240."""

FAULT_LONGEST: Final = 1000
"""Characters of a fault's text."""

MESSAGES_SHOWN: Final = 3
"""vCenter sends a stack of explanations with some faults; the first ones say what is the matter."""


class QuiesceError(WaveliftError):
    """The guest could not be quiesced; a snapshot without quiescing may still work."""


class TrackingLostError(WaveliftError):
    """vCenter cannot or does not soundly say what changed on a disk: compare digests instead."""


def words(fault: Any) -> str:
    """``Type: text`` of a fault, with vCenter's first explanations."""
    name = type(fault).__name__.rsplit(".", 1)[-1]
    texts = [getattr(fault, "msg", None)]
    texts += [getattr(item, "message", None) for item in (getattr(fault, "faultMessage", None) or ())][:MESSAGES_SHOWN]
    unique = dict.fromkeys(text.strip().rstrip(".") for text in texts if text)
    return printable(f"{name}: {'; '.join(unique)}" if unique else name, FAULT_LONGEST)


def moref(reference: Any) -> str:
    """``vm-12`` of a managed object; empty for None."""
    return printable(reference._moId, TEXT_LONGEST) if reference is not None else ""


def _missing_privilege(fault: Any, where: dict[str, object]) -> WaveliftError:
    names = [str(fault.privilegeId)] if getattr(fault, "privilegeId", None) else []
    for entity in getattr(fault, "missingPrivileges", None) or ():
        names += [str(name) for name in entity.privilegeIds]
    where.setdefault("object", moref(getattr(fault, "object", None)) or None)
    wanted = ", ".join(dict.fromkeys(names)) or "a privilege that vCenter does not name"
    return MissingPrivilegeError(
        f"the vCenter account lacks {wanted}",
        next_step="Add it to the account's role on that object ('wavelift vsphere role' prints the whole role)",
        privilege=wanted,
        **where,
    )


def _gone(fault: Any, where: dict[str, object]) -> WaveliftError:
    where.setdefault("object", moref(getattr(fault, "obj", None)) or None)
    return NotFoundError("vCenter no longer has this object", next_step="Look at the inventory", **where)


def _login(fault: Any, where: dict[str, object]) -> WaveliftError:
    return LoginError(
        "vCenter refused the user name or password",
        next_step="Correct the connection; nothing is tried again by itself, as that may lock the account",
        **where,
    )


def _say(kind: type[WaveliftError], what: str, next_step: str) -> Callable[[Any, dict[str, object]], WaveliftError]:
    return lambda fault, where: kind(f"{what} ({words(fault)})", next_step=next_step, **where)


_AGAIN: Final = "A later try may succeed"
_NOT_AVAILABLE: Final = _say(
    PermanentError, "this vCenter does not offer the call", "Compare its version with the docs"
)

_QUIESCE: Final = _say(
    QuiesceError, "the guest could not be quiesced", "Look at VMware Tools and VSS in the guest, or set quiesce: prefer"
)

# Most special first: NotAuthenticated is a NoPermission, InvalidPowerState an InvalidState.
_TABLE: Final[tuple[tuple[Any, Callable[[Any, dict[str, object]], WaveliftError]], ...]] = (
    (vim.fault.NotAuthenticated, _say(UnreachableError, "the vCenter session has ended", "A retry signs in again")),
    (vim.fault.InvalidLogin, _login),
    (vmodl.fault.SecurityError, _missing_privilege),
    (vmodl.fault.ManagedObjectNotFound, _gone),
    (vim.fault.NotFound, _gone),
    (vim.fault.UserNotFound, _gone),
    (vim.fault.ApplicationQuiesceFault, _QUIESCE),
    (vim.fault.FilesystemQuiesceFault, _QUIESCE),
    (vim.fault.ToolsUnavailable, _QUIESCE),
    (vim.fault.TaskInProgress, _say(BusyError, "another task works on this object", _AGAIN)),
    (vim.fault.ConcurrentAccess, _say(BusyError, "the object was changed at the same time", _AGAIN)),
    (vim.fault.FileLocked, _say(BusyError, "a file of the VM is locked", "Look for a backup or another export")),
    (vim.fault.InvalidState, _say(BusyError, "the object's state does not allow it", "Look at its state and tasks")),
    (vim.fault.NoDiskSpace, _say(GuardError, "the datastore is full", "Free space on it before anything else")),
    (vim.fault.InsufficientResourcesFault, _say(GuardError, "vCenter lacks resources for it", "Look at the host")),
    (vim.fault.HostConnectFault, _say(UnreachableError, "vCenter cannot talk to the host", "Look at the host's state")),
    (vmodl.fault.HostCommunication, _say(UnreachableError, "vCenter cannot talk to the host", "Look at its state")),
    (vim.fault.Timedout, _say(UnreachableError, "vCenter's operation timed out", _AGAIN)),
    (vmodl.fault.RequestCanceled, _say(WaveliftError, "someone cancelled the task in vCenter", "Ask who, then retry")),
    (vmodl.fault.MethodNotFound, _NOT_AVAILABLE),
    (vmodl.fault.NotSupported, _NOT_AVAILABLE),
    (vmodl.fault.NotImplemented, _NOT_AVAILABLE),
)


def _speaks_of_quiescing(error: BaseException) -> bool:
    """Some hosts report it as a general fault; the message *key*, ``msg.snapshot.quiesce…``, is not translated."""
    keys = (str(getattr(item, "key", "")) for item in getattr(error, "faultMessage", None) or ())
    return any("quiesc" in key.lower() for key in keys)


def translate(error: BaseException, **where: object) -> WaveliftError:
    """``error`` as ours; errors of ours pass unchanged. Raise the result *outside* the ``except`` block: a pyvmomi
    fault kept as context breaks code that reads its ``__traceback__`` (pyvmomi issue 1116).
    """
    if isinstance(error, WaveliftError):
        return error
    if _speaks_of_quiescing(error):
        return _QUIESCE(error, dict(where))
    for kind, make in _TABLE:
        if isinstance(error, kind):
            return make(error, dict(where))
    if isinstance(error, vmodl.MethodFault):
        return WaveliftError(f"vCenter refused: {words(error)}", next_step="Look at the VM's tasks and events", **where)
    if isinstance(error, ExpatError):
        return UnreachableError("the answer is not vCenter's (no valid XML)", next_step="Check host and port", **where)
    detail = str(error) or type(error).__name__
    return UnreachableError(f"the call to vCenter failed: {detail}", next_step="Check the network", **where)
