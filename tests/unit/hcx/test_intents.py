"""The JSON of an order, for each type of migration."""

from __future__ import annotations

from typing import Any

import pytest

from wavelift.adapters.hcx import guesses
from wavelift.adapters.hcx.guesses import Word
from wavelift.adapters.hcx.intents import (
    CardMapping,
    Endpoint,
    MigrationOrder,
    Network,
    Options,
    Place,
    Storage,
    Vm,
    Window,
    intent,
)
from wavelift.base.errors import SpecError

pytestmark = pytest.mark.unit

MAC = "00:50:56:aa:bb:cc"
SOURCE = Endpoint(endpoint_id="ep-1", endpoint_name="HCX-CONN", resource_id="uuid-1", resource_name="vc01")
TARGET = Endpoint(endpoint_id="ep-2", endpoint_name="HCX-CLOUD", resource_id="uuid-2", resource_name="vc02")
WINDOW = Window(start_ms=1_700_080_000_000, end_ms=1_700_090_000_000)


def order(**changes: Any) -> MigrationOrder:
    values: dict[str, Any] = {
        "type": "rav",
        "vm": Vm(id="vm-956", name="app01", summary={"numCpu": 2}),
        "source": SOURCE,
        "destination": TARGET,
        "placement": (
            Place(id="resgroup-50", name="Compute-ResourcePool", type="resourcePool"),
            Place(id="group-v42", name="Workloads", type="folder"),
        ),
        "storage": Storage(id="datastore-58", name="WorkloadDatastore", provision="thin"),
        "cards": (
            CardMapping(
                mac=MAC,
                source=Network(id="dvportgroup-30", name="VLAN-100", type="DistributedVirtualPortgroup"),
                destination=Network(id="/infra/segments/x", name="x", type="NsxtSegment"),
            ),
        ),
    }
    return MigrationOrder(**(values | changes))


def test_hcx_01_a_rav_with_a_window_is_what_the_documents_show() -> None:
    found = intent(order(window=WINDOW, options=Options(remove_snapshots=True), mesh_id="servicemesh-1"))
    schedule = {"startTime": 1_700_080_000_000, "expiryTime": 1_700_090_000_000}
    assert found["migrationType"] == "RAV"
    assert found["entity"] == {
        "entityId": "vm-956",
        "entityName": "app01",
        "entityType": "VirtualMachine",
        "summary": {"numCpu": 2},
    }
    assert found["source"] == {
        "endpointId": "ep-1",
        "endpointName": "HCX-CONN",
        "endpointType": "VC",
        "computeResourceId": "uuid-1",
        "resourceId": "uuid-1",
        "resourceName": "vc01",
        "resourceType": "VC",
    }
    assert found["transferParams"]["transferType"] == "vSphereReplication"
    assert found["transferParams"]["schedule"] == found["switchoverParams"]["schedule"] == schedule
    assert found["switchoverParams"]["switchoverType"] == "RAV"
    assert found["switchoverParams"]["options"]["retainMac"] is True
    assert found["switchoverParams"]["options"]["removeSnapshots"] is True
    assert found["placement"][0] == {"id": "resgroup-50", "name": "Compute-ResourcePool", "type": "resourcePool"}
    assert found["storage"]["defaultStorage"]["diskProvisionType"] == "thin"
    assert found["networkParams"]["networkMappings"] == [
        {
            "macAddress": MAC,
            "srcNetworkId": "dvportgroup-30",
            "srcNetworkName": "VLAN-100",
            "srcNetworkType": "DistributedVirtualPortgroup",
            "destNetworkId": "/infra/segments/x",
            "destNetworkName": "x",
            "destNetworkType": "NsxtSegment",
        }
    ]
    assert found["servicemeshId"] == "servicemesh-1"


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("rav", ("RAV", "vSphereReplication", "RAV")),
        ("bulk", ("vSphereReplication",) * 3),
        ("vmotion", ("vMotion", "NO_OP", "vMotion")),
        ("cold", ("ColdMigration", "NO_OP", "ColdMigration")),
    ],
)
def test_each_type_has_its_three_words(kind: Any, words: tuple[str, ...]) -> None:
    found = intent(order(type=kind))
    assert (
        found["migrationType"],
        found["transferParams"]["transferType"],
        found["switchoverParams"]["switchoverType"],
    ) == words


@pytest.mark.parametrize("kind", ["vmotion", "cold"])
def test_vmotion_and_cold_have_no_window(kind: Any) -> None:
    with pytest.raises(SpecError, match="cannot schedule"):
        order(type=kind, window=WINDOW)
    found = intent(order(type=kind))
    assert "schedule" not in found["transferParams"]
    assert "schedule" not in found["switchoverParams"]


def test_without_a_window_bulk_and_rav_send_zeros() -> None:
    assert intent(order(type="bulk"))["switchoverParams"]["schedule"] == {"startTime": 0, "expiryTime": 0}


def test_a_window_ends_after_its_beginning() -> None:
    with pytest.raises(SpecError, match="before it begins"):
        Window(start_ms=2, end_ms=1)


def test_a_folder_alone_is_no_place_to_compute() -> None:
    with pytest.raises(SpecError, match="no place to compute"):
        order(placement=(Place(id="group-v42", name="Workloads", type="folder"),))


def test_every_word_has_its_mark_and_what_is_no_guess_has_a_source() -> None:
    words = [one for one in vars(guesses).values() if isinstance(one, Word)] + list(guesses.TYPES.values())
    assert len(words) > 30
    assert all(one.source for one in words if one.mark != "guess")
    assert all(one.note or one.source for one in words if one.mark == "guess"), "what is guessed is said"
