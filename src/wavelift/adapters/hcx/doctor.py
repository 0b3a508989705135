"""The connection's *Test* button."""

from __future__ import annotations

from wavelift.adapters.hcx.inventory import Inventory
from wavelift.adapters.hcx.transport import HcxAccess


def test_connection(access: HcxAccess) -> str:
    """One line on the manager, who we are, and the sites that it is paired with.

    :raises WaveliftError: what is wrong and which field cures it.
    """
    with access.client() as client:
        inventory = Inventory(client)
        managers = {each.endpoint_id: each for each in inventory.managers()}
        here = {each.endpoint_id: each.endpoint_name for each in inventory.endpoints(local=True)}
        there = sorted({each.endpoint_name for each in inventory.endpoints(local=False)})
    versions = sorted({managers[id].version for id in here if id in managers and managers[id].version})
    name = " ".join(["HCX", *versions, *sorted(set(here.values()))])
    paired = f"paired with {', '.join(there)}" if there else "paired with no site"
    return f"{name} at {access.place.place}, signed in as {access.username}, {paired}"


test_connection.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where tests import it
