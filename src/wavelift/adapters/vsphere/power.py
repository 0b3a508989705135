"""Power state: read. Nothing here switches anything."""

from __future__ import annotations

from pyVmomi import vim

from wavelift.adapters.vsphere.properties import read_one
from wavelift.adapters.vsphere.session import VsphereSession

_PATH = "runtime.powerState"


def power_state(session: VsphereSession, vm: str, *, server: str | None = None) -> str:
    """``poweredOn``, ``poweredOff`` or ``suspended``.

    :raises NotFoundError: the VM is gone.
    """
    return str(read_one(session, vim.VirtualMachine, vm, [_PATH], server=server).get(_PATH, ""))
