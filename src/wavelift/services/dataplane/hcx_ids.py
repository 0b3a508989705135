"""Whether ids that came by XCom still mean in HCX what pre-flight found behind them (HCX-02).

Apart from :mod:`.hcx_sites`: what starts migrations asks HCX alone, and need not load a vCenter's client.
"""

from __future__ import annotations

from collections.abc import Sequence

from wavelift.adapters.hcx.inventory import Inventory
from wavelift.base.errors import TamperedError
from wavelift.base.rest import RestClient
from wavelift.rules.wave import decode_name
from wavelift.services.dataplane.live_messages import LiveTask


def refuse_other_ids(hcx: RestClient, tasks: Sequence[LiveTask]) -> None:
    """What pre-flight found came by XCom: names were compared with the wave and its environment, ids go to HCX. So the
    names behind the ids are asked again, of HCX itself.

    :raises TamperedError: an id has another name there, or HCX does not list it any more.
    """
    inventory = Inventory(hcx)
    for here, there in sorted({(task.source.endpoint_id, task.destination.endpoint_id) for task in tasks}):
        known: dict[str, set[str]] = {}
        listed = (inventory.containers(there), inventory.datastores(there), inventory.networks(there))
        for item in (item for items in listed for item in items):
            known.setdefault(item.id, set()).add(item.name)
        for vm in inventory.vms(here):
            known.setdefault(vm.id, set()).add(vm.name)
        for task in tasks:
            if (task.source.endpoint_id, task.destination.endpoint_id) != (here, there):
                continue
            refs = [(task.entity_id, task.entity_name), (task.storage.id, task.storage.name)]
            refs += [(place.id, place.name) for place in task.placement]
            refs += [(card.destination.id, card.destination.name) for card in task.cards]
            for id, name in refs:
                # A place may be named by its path; HCX says the last part of it.
                if known.get(id, set()).isdisjoint({name, decode_name(name.rpartition("/")[2])}):
                    raise TamperedError(
                        "HCX has another name for what the server is moved with, or does not list it any more",
                        server=task.name,
                        field=id,
                        expected=name,
                        found=", ".join(sorted(known.get(id, ()))) or "nothing",
                    )
