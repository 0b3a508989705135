"""What an order names by id, as HCX's inventory gives it."""

from __future__ import annotations

import pytest
from tests.wire.hcx.conftest import DESTINATION, SEGMENT, SOURCE, SOURCE_NETWORK, TIER, Pair

from wavelift.adapters.hcx.inventory import Inventory
from wavelift.base.rest import RestClient

pytestmark = pytest.mark.wire


def test_both_endpoints_name_their_vcenter(pair: Pair, client: RestClient) -> None:
    inventory = Inventory(client)
    (here,), (there,) = inventory.endpoints(local=True), inventory.endpoints(local=False)
    assert (here.endpoint_id, here.endpoint_name, here.resource_name) == (SOURCE, "HCX-CONN", "vc01.example")
    assert here.resource_id == pair.source.inventory()["instance_uuid"]
    assert (there.endpoint_id, there.resource_id) == (DESTINATION, pair.destination.inventory()["instance_uuid"])


@pytest.mark.parametrize("ids", ["id", "entity_id", "both"])
def test_vms_come_in_pages(pair: Pair, client: RestClient, ids: str) -> None:
    wanted = {pair.add_vm(name): name for name in ("app01", "app02", "app03")}
    pair.hcx.settings(inventory_page=2, inventory_ids=ids)
    before = pair.calls("ListVirtualMachines")
    found = Inventory(client).vms(SOURCE)
    assert {each.id: each.name for each in found} == wanted
    assert found[0].networks == (SOURCE_NETWORK,)
    assert found[0].summary["numCpu"] == 2
    assert "powerState" not in found[0].summary, "only fields that an intent has"
    assert pair.calls("ListVirtualMachines") - before == 3, "the last page brings nothing new"


def test_networks_containers_and_datastores_of_the_destination(pair: Pair, client: RestClient) -> None:
    inventory = Inventory(client)
    assert (SEGMENT, "app", "NsxtSegment") in {
        (each.id, each.name, each.type) for each in inventory.networks(DESTINATION)
    }
    assert {"resourcePool", "folder", "dataCenter"} <= {each.type for each in inventory.containers(DESTINATION)}
    assert [each.type for each in inventory.datastores(DESTINATION)] == ["datastore"]


def test_an_appliance_names_its_mesh(pair: Pair, client: RestClient) -> None:
    pair.hcx.extend(SOURCE_NETWORK, gateway="10.1.2.1/24", tier=TIER)
    (found,) = Inventory(client).appliances(SOURCE)
    assert found.mesh_id == "servicemesh-1"
    assert found.extensions == 1
