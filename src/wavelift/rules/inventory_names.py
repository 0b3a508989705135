"""Names and paths of a vCenter inventory, as vSphere stores them and as users write them.

vSphere stores ``/``, ``\\`` and ``%`` in a name as ``%2f``, ``%5c`` and ``%25``. So a stored path can be split at its
slashes into the names of folders and VM, and must be compared in this form, name by name. After decoding,
``/dc/vm/shop%2fweb02`` would look like a VM *web02* in a folder *shop*, which is a different VM.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from wavelift.base.errors import AmbiguousError
from wavelift.rules.wave import Selector, decode_name

_ESCAPE: Final = re.compile(r"%(2f|5c|25)", re.IGNORECASE)
_SPECIAL: Final = {"%": "%25", "/": "%2f", "\\": "%5c"}

Vm = TypeVar("Vm")


def segments(path: str) -> tuple[str, ...]:
    """The names in a stored path, normalised for comparison: escapes occur in upper and lower case."""
    return tuple(map(_comparable, path.strip("/").split("/")))


def _comparable(name: str) -> str:
    return _ESCAPE.sub(lambda match: match[0].lower(), name)


def escape_name(name: str) -> str:
    """Encode a displayed name as vSphere stores it."""
    return re.sub(r"[%/\\]", lambda match: _SPECIAL[match[0]], name)


def select(selector: Selector, vms: Iterable[Vm], path: Callable[[Vm], str]) -> list[Vm]:
    """The VMs that match a selector by name, path or folder. A folder matches every VM below it.

    Users may write a name as displayed (``50%``) or as stored (``50%25``). Only a ``/`` inside a name of a path must be
    written as ``%2f``.

    :param path: returns the path of a VM, as vSphere stores it.
    :raises AmbiguousError: if the displayed form and the stored form match different VMs.
    """
    written = (selector.value,) if selector.kind == "name" else tuple(selector.value.strip("/").split("/"))
    either = [{_comparable(name), escape_name(name)} for name in written]
    found: list[Vm] = []
    meant: dict[tuple[str, ...], str] = {}
    for vm in vms:
        names = _compared(selector, segments(path(vm)), len(either))
        if len(names) == len(either) and all(name in known for name, known in zip(names, either, strict=True)):
            found.append(vm)
            meant.setdefault(names, path(vm))
    if len(meant) > 1:
        raise AmbiguousError(
            f"{selector.kind} '{selector.value}' can be read in two ways: {' and '.join(meant.values())}",
            next_step="For the longer of the two, write the path as shown here; for the other, as the vSphere client "
            "shows it",
            server=selector.value,
        )
    return found


def _compared(selector: Selector, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The part of a VM's path that is compared with the selector."""
    if selector.kind == "folder":
        return names[:count] if len(names) > count else ()
    return names if selector.kind == "path" else names[-1:]


def parent_of(path: str) -> str:
    """The folder of a stored path, without leading and trailing slashes."""
    return decode_name(path.strip("/").rpartition("/")[0])
