"""The manager moves VMs between two vCenters and switches gateways of two NSX, all of them processes."""

from __future__ import annotations

import time
from http.client import HTTPException
from typing import Any

import pytest
from tests.eventually import eventually
from tests.gateways import GatewayAlarm
from tests.wire.simulators_hcx.conftest import HERE, PREFIX, TIER, Sites

from wavelift.simulators.kit.process import SimulatorError

pytestmark = pytest.mark.wire

THERE = "/infra/segments/L2E_VLAN-100"


def machines(vcenter: Any) -> dict[str, dict[str, Any]]:
    """By name, as they are now."""
    return {each["name"]: vcenter.get_vm(each["moref"]) for each in vcenter.state()["vms"]}


def ports(sites: Sites) -> tuple[list[str], list[str]]:
    sites.here.advance(10)
    there = sites.there.control("GET", f"ports?segment={THERE}")
    here = sites.here.control("GET", f"ports?segment={HERE}")
    return sorted(each["display_name"] for each in here), sorted(each["display_name"] for each in there)


@pytest.mark.parametrize(("name", "kind"), [("app01", "RAV"), ("app01", "vMotion"), ("cold", "ColdMigration")])
def test_a_vm_arrives_the_same_and_is_gone_from_the_source(sites: Sites, name: str, kind: str) -> None:
    before = machines(sites.source)[name]
    told = sites.ask("/mobility/migrations/start", items=[sites.intent(name, kind)])
    (ident,) = [each["migrationId"] for each in told["items"]]
    sites.hcx.advance(500)
    (item,) = sites.ask("/migrations?action=query", filter={"migrationId": [ident]}, options={"compat": 2.1})["data"][
        "items"
    ]
    assert item["state"] == "MIGRATION_COMPLETE", sites.hcx.migrations()
    here, there = machines(sites.source), machines(sites.destination)
    assert name not in here
    after = there[name]
    for key in ("uuid", "instance_uuid"):
        assert after[key] == before[key]
    assert after["path"] == f"Workloads/{name}"
    assert after["spec"]["power"] == before["spec"]["power"]
    assert [(nic["mac"], nic["addresses"]) for nic in after["nics"]] == [
        (nic["mac"], nic["addresses"]) for nic in before["nics"]
    ]
    assert [nic["network"] for nic in after["nics"]] == ["L2E_VLAN-100"]
    assert ports(sites) == (sorted({"app01", "app02", "cold"} - {name}), [name])


def test_bulk_leaves_its_source_behind(sites: Sites) -> None:
    before = machines(sites.source)["app02"]
    sites.ask("/mobility/migrations/start", items=[sites.intent("app02", "vSphereReplication")])
    sites.hcx.advance(500)
    here, there = machines(sites.source), machines(sites.destination)
    (old,) = [name for name in here if name.startswith("app02-")]
    assert here[old]["spec"]["power"] == "poweredOff"
    assert here[old]["nics"] == []
    assert there["app02"]["spec"]["power"] == "poweredOn"
    assert there["app02"]["uuid"] != before["uuid"]
    assert [nic["mac"] for nic in there["app02"]["nics"]] == [nic["mac"] for nic in before["nics"]]
    assert ports(sites) == (["app01", "cold"], ["app02"])


def test_a_guest_that_ignores_the_shutdown_fails_bulk(sites: Sites) -> None:
    sites.source.set_vm("app01", shutdown={"how": "ignore"})
    sites.ask("/mobility/migrations/start", items=[sites.intent("app01", "vSphereReplication")])
    sites.hcx.advance(500)
    assert [each["phase"] for each in sites.hcx.migrations()] == ["FAILED"]
    assert machines(sites.source)["app01"]["spec"]["power"] == "poweredOn"


def test_what_the_vcenter_refuses_fails_the_migration_alone(sites: Sites) -> None:
    """Somebody made a VM of its name at the destination in the meantime."""
    intents = [sites.intent(name, "RAV") for name in ("app01", "app02")]
    sites.ask("/mobility/migrations/start", items=intents)
    spec = machines(sites.source)["app01"]["spec"]
    sites.destination.add_vm(spec | {"folder": "Workloads", "nics": [], "uuid": "", "instance_uuid": ""})
    sites.hcx.advance(500)
    assert {each["vm"]: each["phase"] for each in sites.hcx.migrations()} == {"app01": "FAILED", "app02": "COMPLETE"}
    assert "app01" in machines(sites.source)


def test_the_prefix_changes_sides(sites: Sites) -> None:
    alarm = GatewayAlarm([sites.here], [sites.there])
    (extension,) = sites.call("GET", "/l2Extensions")[1]["items"]
    assert extension["destinationNetwork"]["networkId"] == THERE
    assert sites.there.segment(THERE)["advanced_config"]["connectivity"] == "OFF"
    sites.here.put_segment(HERE, connectivity="OFF")
    path = f"/l2Extensions/{extension['stretchId']}?connectToLocalRouter=true"
    assert sites.call("DELETE", path)[0] == 200
    assert alarm.routing(PREFIX) == []
    sites.hcx.advance(60)
    assert sites.there.segment(THERE)["advanced_config"]["connectivity"] == "ON"
    assert alarm.routing(PREFIX) == [THERE]
    assert sites.call("GET", "/l2Extensions")[1]["items"] == []
    ((start, end),) = alarm.gaps(PREFIX)
    assert 0 < end - start < 60
    alarm.check()


def test_the_alarm_rings_when_the_source_was_not_disconnected(sites: Sites) -> None:
    alarm = GatewayAlarm([sites.here], [sites.there])
    (extension,) = sites.call("GET", "/l2Extensions")[1]["items"]
    sites.call("DELETE", f"/l2Extensions/{extension['stretchId']}?connectToLocalRouter=true")
    sites.hcx.advance(60)
    with pytest.raises(AssertionError, match=f"{PREFIX}: {HERE} and {THERE}"):
        alarm.check()
    sites.there.reset()  # for the alarm that every test of this module stands under


def test_the_router_of_a_site_without_nsx(sites: Sites) -> None:
    sites.hcx.route("10.7.0.0/24", routed=True)
    assert sites.hcx.routed() == {"10.7.0.0/24": "router"}
    sites.hcx.route("10.7.0.0/24", routed=False)
    assert [row[1:] for row in sites.hcx.prefix_log()] == [
        ("10.7.0.0/24", "ON", "router"),
        ("10.7.0.0/24", "OFF", "router"),
    ]
    assert abs(sites.hcx.prefix_log()[0][0] - time.time()) < 60
    with pytest.raises(SimulatorError, match="host bits"):
        sites.hcx.route("10.7.0.1/24", routed=True)


def test_the_manager_works_while_nobody_asks(sites: Sites) -> None:
    sites.hcx.settings(unextend_seconds=0.0)
    (extension,) = sites.call("GET", "/l2Extensions")[1]["items"]
    sites.here.put_segment(HERE, connectivity="OFF")
    sites.call("DELETE", f"/l2Extensions/{extension['stretchId']}?connectToLocalRouter=true")
    assert eventually(lambda: sites.there.segment(THERE)["advanced_config"]["connectivity"] == "ON")


def test_an_expired_session_and_a_lost_answer(sites: Sites) -> None:
    sites.hcx.expire_sessions()
    assert sites.call("GET", "/cloudConfigs")[0] == 401
    sites.ask("/sessions", username=sites.hcx.username, password=sites.hcx.password)
    body = {"items": [{"name": "run-1", "migrations": [sites.intent("app01", "RAV")]}]}
    sites.hcx.rule(operation="MakeGroups", cut_response_after=0, count=1)
    with pytest.raises((OSError, HTTPException)):
        sites.call("POST", "/mobility/groups", body)
    found = sites.ask("/mobility/groups/query", filters={"groups": [{"name": "run-1"}]})["items"]
    assert len(found) == 1
    assert "same name exist" in str(sites.call("POST", "/mobility/groups", body))
    assert sites.hcx.state()["drafts"] == ["run-1"]


def test_nothing_survives_a_reset(sites: Sites) -> None:
    empty: dict[str, list[str]] = {"migrations": [], "drafts": [], "extensions": []}
    sites.ask("/mobility/migrations/start", items=[sites.intent("app01", "RAV")])
    sites.hcx.route("10.7.0.0/24", routed=True)
    assert sites.hcx.state() == {"migrations": ["app01"], "drafts": [], "extensions": ["VLAN-100"]}
    sites.hcx.reset()
    assert sites.hcx.state() == empty
    assert (sites.hcx.prefix_log(), sites.hcx.migrations(), sites.hcx.extension_log()) == ([], [], [])
    assert sites.call("GET", "/cloudConfigs")[0] == 401
    assert TIER in sites.there.state()["tiers"]
