"""The whole inventory in pages, for the catalogue: light properties only, and never more than one page in memory.

For N VMs at most ceil(N / 500) + 10 calls. The list of references comes first, by one view: every page can then be
read again on its own when a login ends, which a traversal's token would not survive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pyVmomi import vim

from wavelift.adapters.vsphere.devices import LARGEST
from wavelift.adapters.vsphere.faults import TEXT_LONGEST
from wavelift.adapters.vsphere.inventory import OWNER, folder_paths, is_secondary, managed_by, path_below
from wavelift.adapters.vsphere.properties import PAGE, Values, all_refs, collect
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.catalog import CatalogManager, CatalogRow
from wavelift.base.printable import printable
from wavelift.rules.wave import decode_name

_LIGHT: Final = (
    *OWNER,
    "name",
    "parent",
    "parentVApp",
    "runtime.connectionState",
    "runtime.powerState",
    "summary.config.guestFullName",
    "summary.config.instanceUuid",
    "summary.config.memorySizeMB",
    "summary.config.numCpu",
    "summary.config.template",
    "summary.storage.committed",
    "summary.storage.uncommitted",
)


WORD: Final = 32
"""Characters of a state, as the ledger's columns have them."""
INT32: Final = 2**31 - 1


def manager(session: VsphereSession) -> CatalogManager:
    """The vCenter itself; no call is made."""
    about = session.about
    return CatalogManager(
        id=about.instance_uuid,
        name=session.config.host,
        type=printable(about.api_type, WORD),
        product=about.full_name,
    )


def vm_refs(session: VsphereSession) -> list[str]:
    """Every VM that the account may see, as managed object ids."""
    return all_refs(session, vim.VirtualMachine)


def pages(session: VsphereSession, tags: Mapping[str, tuple[str, ...]] | None = None) -> Iterator[list[CatalogRow]]:
    """The VMs in pages of :data:`~wavelift.adapters.vsphere.properties.PAGE`; those that vanish meanwhile are left
    out, and so is what is no server: a fault-tolerant VM's secondary, and what vSphere or an extension manages.

    :param tags: VM's moref → its tags.
    """
    folders = folder_paths(session)
    refs = vm_refs(session)
    for start in range(0, len(refs), PAGE):
        batch = collect(session, vim.VirtualMachine, refs[start : start + PAGE], _LIGHT)
        yield [
            _row(ref, values, path_below(folders, values), (tags or {}).get(ref, ()))
            for ref, values in batch.items()
            if not is_secondary(values) and not managed_by(values)
        ]


def _row(ref: str, values: Values, path: str, tags: tuple[str, ...]) -> CatalogRow:
    return CatalogRow(
        vm_id=ref,
        instance_uuid=_text(values, "summary.config.instanceUuid"),
        name=decode_name(_text(values, "name")),
        path=path,
        power=_text(values, "runtime.powerState", WORD),
        connection_state=_text(values, "runtime.connectionState", WORD),
        template=bool(values.get("summary.config.template")),
        guest_id=_text(values, "summary.config.guestId"),
        guest_full_name=_text(values, "summary.config.guestFullName"),
        cpus=_number(values, "summary.config.numCpu"),
        memory_mib=_number(values, "summary.config.memorySizeMB"),
        disk_bytes=_number(values, "summary.storage.committed", LARGEST)
        + _number(values, "summary.storage.uncommitted", LARGEST),
        tags=tags,
    )


def _text(values: Values, path: str, most: int = TEXT_LONGEST) -> str:
    return printable(values.get(path) or "", most)


def _number(values: Values, path: str, most: int = INT32) -> int:
    """Within what a column of the ledger holds, whatever vCenter says."""
    return min(max(int(values.get(path) or 0), 0), most)
