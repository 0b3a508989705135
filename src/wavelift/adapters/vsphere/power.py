"""Power state: read it, wait for it. Nothing here switches anything."""

from __future__ import annotations

from typing import Literal

from pyVmomi import vim

from wavelift.adapters.vsphere.properties import Values, read_one, watch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.base.run import CancelFlag

PowerState = Literal["poweredOn", "poweredOff", "suspended"]

_PATH = "runtime.powerState"


def power_state(session: VsphereSession, vm: str, *, server: str | None = None) -> str:
    """``poweredOn``, ``poweredOff`` or ``suspended``.

    :raises NotFoundError: the VM is gone.
    """
    return str(read_one(session, vim.VirtualMachine, vm, [_PATH], server=server).get(_PATH, ""))


def wait_for_power(
    session: VsphereSession,
    vm: str,
    wanted: PowerState,
    *,
    timeout: float,
    cancel: CancelFlag,
    server: str | None = None,
) -> None:
    """Return once ``vm`` is ``wanted``; for waits of up to a minute (longer ones reschedule, invariant 7).

    :param timeout: seconds. :raises UnreachableError: time is up. :raises NotFoundError: the VM is gone.
    """

    def reached(values: Values) -> bool | None:
        return True if str(values.get(_PATH)) == wanted else None

    target = session.managed(vim.VirtualMachine, vm)
    what = f"waiting for {wanted}"
    watch(session, target, [_PATH], reached, timeout=timeout, cancel=cancel, what=what, server=server, object=vm)
