"""Network extensions: making, removing, and all that can go wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.unit.simulators_hcx.fakes import PLAIN, SEGMENT, TIER, VLAN, Manager

from wavelift.simulators.hcx.world import APPLIANCE

pytestmark = pytest.mark.unit


@pytest.fixture
def hcx(tmp_path: Path) -> Manager:
    return Manager(tmp_path, extend_seconds=30.0, unextend_seconds=60.0).login()


def order(**changes: Any) -> dict[str, Any]:
    return {
        "vcGuid": "uuid-here",
        "gateway": "10.1.2.1",
        "netmask": "255.255.255.0",
        "dns": [],
        "destination": {"endpointId": "endpoint-there", "resourceId": "uuid-there"},
        "destinationNetwork": {"gatewayId": TIER},
        "features": {"egressOptimization": False, "mobilityOptimizedNetworking": False},
        "sourceAppliance": {"applianceId": f"{APPLIANCE}-I1"},
        "sourceNetwork": {"networkId": VLAN.id, "networkName": VLAN.name, "networkType": VLAN.kind},
        **changes,
    }


def extensions(hcx: Manager) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = hcx.call("GET", "/l2Extensions").json["items"]
    return found


def job(hcx: Manager, ident: str) -> dict[str, Any]:
    """At its end."""
    for _ in range(hcx.world.settings.job_polls):
        assert not hcx.call("GET", f"/jobs/{ident}").json["isDone"]
    found: dict[str, Any] = hcx.call("GET", f"/jobs/{ident}").json
    return found


def extend(hcx: Manager) -> dict[str, Any]:
    ident = hcx.call("POST", "/l2Extensions", order()).json["id"]
    hcx.advance(30)
    told = job(hcx, ident)
    assert (told["isDone"], told["didFail"]) == (True, False), told
    return extensions(hcx)[-1]


def segment(hcx: Manager, extension: dict[str, Any]) -> Any:
    return hcx.nsx.found[extension["destinationNetwork"]["networkId"]]


def test_an_extension_makes_a_segment_whose_gateway_is_off(hcx: Manager) -> None:
    ident = hcx.call("POST", "/l2Extensions", order()).json["id"]
    assert extensions(hcx) == []
    hcx.advance(30)
    job(hcx, ident)
    (made,) = extensions(hcx)
    found = segment(hcx, made)
    assert (found.on, found.gateways, found.tier) == (False, ("10.1.2.1/24",), TIER)
    assert found.path in hcx.nsx.extended
    assert (made["gateway"], made["netmask"]) == ("10.1.2.1", "255.255.255.0")
    assert made["sourceNetwork"]["networkId"] == VLAN.id
    assert any(each.segment == found.path for each in hcx.there.networks)
    count = hcx.call("POST", "/interconnect/appliances/query", {"filter": {"applianceType": "HCX-NET-EXT"}})
    assert count.json["items"][0]["networkExtensionCount"] == 1


def test_a_segment_of_the_same_subnet_is_used_and_switched_off(hcx: Manager) -> None:
    there = hcx.nsx.put("kept", "10.1.2.1/24", on=True)
    assert segment(hcx, extend(hcx)).path == there.path
    assert not hcx.nsx.found[there.path].on


def test_an_inexact_overlap_fails(hcx: Manager) -> None:
    hcx.nsx.put("larger", "10.1.0.1/16", on=True)
    ident = hcx.call("POST", "/l2Extensions", order()).json["id"]
    hcx.advance(30)
    assert job(hcx, ident)["didFail"]
    assert extensions(hcx) == []
    assert hcx.nsx.found["/infra/segments/larger"].on


def test_a_network_is_extended_once(hcx: Manager) -> None:
    extend(hcx)
    ident = hcx.call("POST", "/l2Extensions", order()).json["id"]
    hcx.advance(30)
    assert job(hcx, ident)["didFail"]
    assert len(extensions(hcx)) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"vcGuid": "other"},
        {"gateway": "10.1.2"},
        {"netmask": "255.0.255.0"},
        {"colour": "red"},
        {"destination": {"endpointId": "other"}},
        {"destinationNetwork": {"gatewayId": "/infra/tier-1s/none"}},
        {"sourceAppliance": {"applianceId": "other"}},
        {"sourceNetwork": {"networkId": "dvportgroup-1", "networkType": VLAN.kind}},
        {"sourceNetwork": {"networkId": VLAN.id, "networkType": "NsxtSegment"}},
        {"sourceNetwork": {"networkId": PLAIN.id, "networkType": PLAIN.kind}},
    ],
)
def test_a_wrong_order_is_refused(hcx: Manager, changes: dict[str, Any]) -> None:
    assert hcx.call("POST", "/l2Extensions", order(**changes)).status == 400


@pytest.mark.parametrize(
    ("query", "on"), [("?connectToLocalRouter=true", True), ("?connectToLocalRouter=false", False)]
)
def test_unextending_connects_the_destination_if_it_is_asked_to(hcx: Manager, query: str, on: bool) -> None:
    made = extend(hcx)
    ident = hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}{query}").json["id"]
    hcx.advance(59)
    assert not segment(hcx, made).on
    assert extensions(hcx)
    hcx.advance(1)
    assert segment(hcx, made).on is on
    assert extensions(hcx) == []
    assert made["destinationNetwork"]["networkId"] not in hcx.nsx.extended
    told = job(hcx, ident)
    assert told["isDone"]
    assert not told["didFail"]
    assert told["percentComplete"] == 100


def test_without_the_parameter_the_destination_stays_off(hcx: Manager) -> None:
    made = extend(hcx)
    hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}")
    hcx.advance(60)
    assert not segment(hcx, made).on
    assert hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}?connectToLocalRouter=yes").status == 400


def test_a_job_is_done_after_its_polls_only(hcx: Manager) -> None:
    made = extend(hcx)
    hcx.world.settings.job_polls = 4
    ident = hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}").json["id"]
    hcx.advance(60)
    assert job(hcx, ident)["isDone"]


@pytest.mark.parametrize("fails", ["kept", "gone"])
@pytest.mark.parametrize("end", ["didFail", "isCancelled", "isRolledBack"])
def test_a_job_that_fails(hcx: Manager, fails: str, end: str) -> None:
    made = extend(hcx)
    hcx.world.settings.update({"unextend_fails": fails, "job_end": end})
    ident = hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}?connectToLocalRouter=true").json["id"]
    hcx.advance(60)
    told = job(hcx, ident)
    assert [name for name in ("didFail", "isCancelled", "isRolledBack") if told[name]] == [end]
    assert told["isDone"]
    assert bool(extensions(hcx)) is (fails == "kept")
    assert not segment(hcx, made).on


def test_it_lingers_and_the_destination_stays_off_by_order(hcx: Manager) -> None:
    made = extend(hcx)
    hcx.world.settings.update({"extension_lingers_seconds": 100.0, "destination_stays_off": True})
    ident = hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}?connectToLocalRouter=true").json["id"]
    hcx.advance(60)
    assert not job(hcx, ident)["didFail"]
    assert len(extensions(hcx)) == 1
    assert not segment(hcx, made).on
    assert hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}").status == 404
    hcx.advance(100)
    assert extensions(hcx) == []


def test_the_newer_calls_have_no_job(hcx: Manager) -> None:
    told = hcx.call("POST", "/networkExtensions", order())
    ident = told.json["data"]["stretchId"]
    path = f"/networkExtensions/{ident}"
    told = hcx.call("DELETE", f"{path}?connectToLocalRouter=true&forceOperation=false")
    assert (told.status, told.json) == (202, {"warnings": [], "errors": []})
    assert hcx.call("DELETE", path).status == 400
    (made,) = extensions(hcx)
    hcx.advance(60)
    assert extensions(hcx) == []
    assert segment(hcx, made).on


def test_mobility_optimised_networking_is_switched_off_first(hcx: Manager) -> None:
    made = extend(hcx)
    path = f"/networkExtensions/{made['stretchId']}"
    hcx.world.extensions.set_mon(made["stretchId"], on=True)
    assert extensions(hcx)[0]["features"]["mobilityOptimizedNetworking"] is True
    hcx.call("DELETE", f"{path}?connectToLocalRouter=true")
    hcx.advance(60)
    assert len(extensions(hcx)) == 1
    assert not segment(hcx, made).on
    assert hcx.call("PUT", path, {"features": {}}).status == 400
    assert hcx.call("PUT", path, {"features": {"mobilityOptimizedNetworking": False}}).status == 202
    hcx.call("DELETE", f"{path}?connectToLocalRouter=true")
    hcx.advance(60)
    assert extensions(hcx) == []


@pytest.mark.parametrize(("generation", "old", "new"), [("l2", 200, 404), ("network", 404, 202), ("both", 200, 202)])
def test_generations(hcx: Manager, generation: str, old: int, new: int) -> None:
    made = hcx.world.extensions.extend(VLAN.name, "10.1.2.1/24", TIER)
    hcx.world.settings.extensions = generation
    body = {"features": {"mobilityOptimizedNetworking": False}}
    assert hcx.call("PUT", f"/networkExtensions/{made}", body).status == new
    assert hcx.call("DELETE", f"/l2Extensions/{made}").status == old
    assert len(extensions(hcx)) == 1


def test_a_test_extends_at_once_and_is_told_of_mistakes(hcx: Manager) -> None:
    with pytest.raises(ValueError, match="no network other"):
        hcx.world.extensions.extend("other", "10.1.2.1/24", TIER)
    made = hcx.world.extensions.extend(VLAN.id, "10.1.2.1/24", TIER)
    assert [each["stretchId"] for each in extensions(hcx)] == [made]
    assert hcx.world.extensions.log[-1][1:] == ["extended", VLAN.name]
    with pytest.raises(ValueError, match="extended already"):
        hcx.world.extensions.extend(VLAN.name, "10.1.3.1/24", TIER)


def test_the_words_for_the_state_of_an_extension_are_invented(hcx: Manager) -> None:
    made = extend(hcx)
    usual = extensions(hcx)[0]["operationStatus"]["state"]
    hcx.world.settings.other_words = True
    assert extensions(hcx)[0]["operationStatus"]["state"] != usual
    hcx.world.settings.update({"other_words": False, "unextend_fails": "kept"})
    hcx.call("DELETE", f"/l2Extensions/{made['stretchId']}")
    busy = extensions(hcx)[0]["operationStatus"]["state"]
    hcx.advance(60)
    assert len({usual, busy, extensions(hcx)[0]["operationStatus"]["state"]}) == 3


def test_the_router_logs_each_change_once(hcx: Manager) -> None:
    routes = hcx.world.routes()
    for routed in (True, True, False):
        routes["POST", "router"]({"prefix": "10.1.2.0/24", "routed": routed})
    found = routes["GET", "prefixes"]({})
    assert [row[1:] for row in found["log"]] == [["10.1.2.0/24", "ON", "router"], ["10.1.2.0/24", "OFF", "router"]]
    assert found["routed"] == {}
    with pytest.raises(ValueError, match="has host bits set"):
        routes["POST", "router"]({"prefix": "10.1.2.1/24", "routed": True})


def test_the_segment_of_the_mapping_is_in_the_inventory(hcx: Manager) -> None:
    body = {"filter": {"cloud": {"endpointId": "endpoint-there"}}}
    found = hcx.call("POST", "/service/inventory/networks", body).json["data"]["items"]
    assert {each["entity_id"]: each["entityType"] for each in found}[SEGMENT] == "NsxtSegment"
