"""Names and paths of a vCenter's inventory, as vSphere stores them and as people write them.

vSphere stores ``/``, ``\\`` and ``%`` of a name as ``%2f``, ``%5c`` and ``%25``, so a stored path falls apart at its
slashes into the names of folders and VM. It must be compared so, name by name: turned back into what people see,
``/dc/vm/shop%2fweb02`` looks like a VM *web02* in a folder *shop*, and is another one.
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
    """The names in a stored path, comparable: vSphere and clients write escapes in either case."""
    return tuple(map(_comparable, path.strip("/").split("/")))


def _comparable(name: str) -> str:
    return _ESCAPE.sub(lambda match: match[0].lower(), name)


def escape_name(name: str) -> str:
    """How vSphere stores a name that a person sees."""
    return re.sub(r"[%/\\]", lambda match: _SPECIAL[match[0]], name)


def select(selector: Selector, vms: Iterable[Vm], path: Callable[[Vm], str]) -> list[Vm]:
    """The VMs that a selector by name, path or folder means; a folder means every VM below it.

    People may write a name as they see it (``50%``) or as vSphere stores it (``50%25``); only a ``/`` within a name
    of a path must be written ``%2f``.

    :param path: of a VM, as vSphere stores it.
    :raises AmbiguousError: the two ways of writing mean different names here.
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
            next_step="Write the longer of the two as it stands here, or the other as the vSphere client shows it",
            server=selector.value,
        )
    return found


def _compared(selector: Selector, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    """The part of a VM's path that the selector speaks of."""
    if selector.kind == "folder":
        return names[:count] if len(names) > count else ()
    return names if selector.kind == "path" else names[-1:]


def parent_of(path: str) -> str:
    """The folder of a stored path, without the outer slashes."""
    return decode_name(path.strip("/").rpartition("/")[0])
