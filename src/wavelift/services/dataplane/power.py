"""Looking at a VM's power state."""

from __future__ import annotations

from wavelift.adapters.vsphere import inventory, switch
from wavelift.adapters.vsphere.session import VsphereSession
from wavelift.rules.wave import Selector


def power_state_of(session: VsphereSession, vm: str) -> str:
    """Power state of a VM by name or inventory path.

    :raises NotFoundError: no such VM; :raises AmbiguousError: several have this name.
    """
    selector = Selector(kind="path" if vm.startswith("/") else "name", value=vm)
    chosen = inventory.choose(inventory.list_summaries(session), selector, tags={})
    return switch.power_state(session, chosen.vms[0].moref, server=vm).power
