"""The connection's *Test* button."""

from __future__ import annotations

from collections.abc import Mapping

from wavelift.adapters.hcx.intents import Endpoint
from wavelift.adapters.hcx.inventory import Inventory
from wavelift.adapters.hcx.transport import HcxAccess


def test_connection(access: HcxAccess) -> str:
    """One line on the manager, who we are, and the sites that it is paired with.

    :raises WaveliftError: what is wrong and which field cures it.
    """
    with access.client() as client:
        inventory = Inventory(client)
        versions = {each.endpoint_id: each.version for each in inventory.managers() if each.version}
        here, there = (
            sorted({_named(each, versions) for each in inventory.endpoints(local=local)}) for local in (True, False)
        )
    paired = f"paired with {', '.join(there)}" if there else "paired with no site"
    name = " and ".join(here) or "of no vCenter"
    return f"HCX {name} at {access.place.place}, signed in as {access.username}, {paired}"


def _named(endpoint: Endpoint, versions: Mapping[str, str]) -> str:
    version = versions.get(endpoint.endpoint_id)
    return f"{endpoint.endpoint_name} (HCX {version})" if version else endpoint.endpoint_name


test_connection.__test__ = False  # type: ignore[attr-defined]  # pytest must not collect it where tests import it
