"""Sessions, validation, groups and cancelling, by calls on a manager in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.unit.simulators_hcx.fakes import FOLDER, PLAIN, SEGMENT, VLAN, Manager

from wavelift.simulators.hcx.sessions import PASSWORD, TOKEN_HEADER, USERNAME
from wavelift.simulators.hcx.sites import Nic, Vm

pytestmark = pytest.mark.unit

BULK, VMOTION, COLD = "vSphereReplication", "vMotion", "ColdMigration"
OFF: dict[str, Any] = {"power": "poweredOff", "tools": False}


@pytest.fixture
def hcx(tmp_path: Path) -> Manager:
    return Manager(tmp_path).login()


def errors(told: Any) -> list[str]:
    return [each["message"] for item in told.json["items"] for each in item["errors"]]


def test_the_token_is_in_a_header_only_and_ends_with_time(hcx: Manager) -> None:
    told = hcx.call("POST", "/sessions", {"username": USERNAME, "password": PASSWORD})
    assert told.status == 200
    assert told.headers[TOKEN_HEADER].encode() not in told.body
    assert hcx.call("GET", "/cloudConfigs").status == 200
    hcx.advance(1801)
    assert hcx.call("GET", "/cloudConfigs").status == 401
    assert hcx.login().call("GET", "/cloudConfigs").status == 200
    hcx.world.routes()["POST", "sessions/expire"]({})
    assert hcx.call("GET", "/cloudConfigs").status == 401


def test_failed_logins_and_errors_on_demand_are_xml(hcx: Manager) -> None:
    wrong = {"username": USERNAME, "password": "no"}
    told = hcx.call("POST", "/sessions", wrong)
    assert (told.status, told.headers["Content-Type"]) == (401, "application/xml")
    assert told.body.startswith(b"<?xml")
    assert b"<entries><entry><string>message</string><string>" in told.body
    hcx.world.settings.update({"xml_login_errors": False, "starting": True})
    assert b"Trusted root certificates" in hcx.call("POST", "/sessions", wrong).body
    hcx.world.settings.starting = False
    assert hcx.call("POST", "/sessions", wrong).json["errors"][0]["code"]
    hcx.world.faults.add({"operation": "ListClouds", "status": 503, "xml": True, "message": "<later>"})
    told = hcx.call("GET", "/cloudConfigs")
    assert told.status == 503
    assert b"&lt;later&gt;" in told.body


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/nothing", None, 404),
        ("POST", "/migrations?action=start", {}, 400),
        ("POST", "/migrations?action=query", {"filter": {"vm": ["a"]}, "options": {"compat": 2.1}}, 400),
        ("POST", "/migrations?action=query", {"filter": {}}, 400),
        ("POST", "/mobility/migrations/validate", {"items": []}, 400),
        ("POST", "/mobility/migrations/validate", {"migrations": []}, 400),
        ("POST", "/mobility/groups", {"items": [{"name": ""}]}, 400),
        ("POST", "/mobility/groups/start", {"items": [{"migrationGroupId": "none"}]}, 400),
        ("DELETE", "/l2Extensions/none?force=true", None, 400),
        ("DELETE", "/l2Extensions/none", None, 404),
        ("GET", "/jobs/none", None, 404),
    ],
)
def test_what_is_wrong_is_refused(hcx: Manager, method: str, path: str, body: Any, status: int) -> None:
    assert hcx.call(method, path, body).status == status


def test_bodies_are_json_objects(hcx: Manager) -> None:
    assert hcx.call("POST", "/mobility/groups/query", raw=b"{").status == 400
    assert hcx.call("POST", "/mobility/groups/query", raw=b"[]").status == 400
    assert hcx.call("POST", "/mobility/groups/query", {}, kind="text/plain").status == 415


@pytest.mark.parametrize(
    "change",
    [
        lambda intent: intent.update(color="red"),
        lambda intent: intent.pop("switchoverParams"),
        lambda intent: intent["entity"].pop("entityId"),
        lambda intent: intent["switchoverParams"]["options"].update(retainMAC=True),
        lambda intent: intent["switchoverParams"]["options"].update(retainMac="yes"),
        lambda intent: intent["switchoverParams"].update(schedule={"startTime": "soon"}),
        lambda intent: intent["networkParams"].update(mappings=[]),
        lambda intent: intent.update(placement={}),
    ],
)
def test_an_intent_of_a_wrong_form_is_an_error_of_the_request(
    hcx: Manager, change: Callable[[dict[str, Any]], Any]
) -> None:
    intent = hcx.intent(hcx.vm())
    change(intent)
    told = hcx.validate(intent)
    assert told.status == 400
    assert "items" not in told.json
    assert told.json["errors"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"migrationType": "Bulk"}, "not supported"),
        ({"source": {"endpointId": "other", "computeResourceId": "uuid-here"}}, "source endpoint"),
        ({"destination": {"endpointId": "endpoint-there", "computeResourceId": "other"}}, "destination compute"),
        ({"placement": [{"id": FOLDER, "type": "folder"}]}, "no compute container"),
        ({"placement": [{"id": "resgroup-1", "type": "resourcePool"}]}, "does not exist at the destination"),
        ({"storage": {}}, "does not exist at the destination"),
        ({"networkParams": {}}, "is not mapped"),
        ({"networkParams": {"defaultMappings": [{"srcNetworkId": VLAN.id, "destNetworkId": "no"}]}}, "Network no does"),
        ({"networkParams": {"defaultMappings": [{"srcNetworkId": "no", "destNetworkId": SEGMENT}]}}, "at the source"),
        ({"servicemeshId": "other"}, "mesh"),
        ({"entity": {"entityId": "vm-99"}}, "vm-99 does not exist"),
    ],
)
def test_an_intent_that_names_something_unknown_is_an_error_of_the_vm(
    hcx: Manager, changes: dict[str, Any], words: str
) -> None:
    told = hcx.validate(hcx.intent(hcx.vm(), **changes))
    assert told.status == 400
    assert any(words in each for each in errors(told)), errors(told)


@pytest.mark.parametrize(
    ("kind", "vm", "changes", "words"),
    [
        ("RAV", {}, {}, ""),
        (BULK, {}, {}, ""),
        (VMOTION, {}, {}, ""),
        (COLD, OFF, {}, ""),
        ("RAV", {"tools": False}, {}, ""),
        ("RAV", {"hardware": 8}, {}, "hardware version 8"),
        (BULK, {"hardware": 8}, {}, ""),
        (BULK, {"hardware": 6}, {}, "hardware version 6"),
        (BULK, {"tools": False}, {}, "VMware Tools"),
        ("RAV", OFF, {}, "poweredOff"),
        (BULK, OFF, {}, "poweredOff"),
        (VMOTION, OFF, {}, "poweredOff"),
        (COLD, {}, {}, "poweredOn"),
        (COLD, {**OFF, "template": True}, {}, "template"),
        ("RAV", {"snapshots": 1}, {}, ""),
        ("RAV", {"snapshots": 1}, {"options": {"removeSnapshots": False}}, "snapshots"),
        (BULK, {"snapshots": 1}, {"options": {"removeSnapshots": False}}, ""),
        ("RAV", {"iso": True}, {}, "ISO"),
        ("RAV", {"iso": True}, {"options": {"removeISOs": True}}, ""),
    ],
)
def test_rules_of_the_types(hcx: Manager, kind: str, vm: dict[str, Any], changes: dict[str, Any], words: str) -> None:
    told = hcx.validate(hcx.intent(hcx.vm(**vm), kind, **changes))
    assert (told.status == 202) is (not words), told.json
    assert words in " ".join(errors(told))


@pytest.mark.parametrize(
    ("kind", "start", "end", "words"),
    [
        ("RAV", 10, 20, ""),
        (VMOTION, 10, 20, "can not be scheduled"),
        (COLD, 10, 20, "can not be scheduled"),
        ("RAV", -20, -10, "in the past"),
        ("RAV", 20, 10, "expiry after it"),
    ],
)
def test_windows(hcx: Manager, kind: str, start: float, end: float, words: str) -> None:
    vm = hcx.vm(**(OFF if kind == COLD else {}))
    assert words in " ".join(errors(hcx.validate(hcx.intent(vm, kind, schedule=hcx.window(start, end)))))


def test_each_card_needs_its_own_mapping_and_its_own_network(hcx: Manager) -> None:
    second = Nic("00:50:56:bb:00:01", PLAIN)
    vm = hcx.vm(nics=(Nic("00:50:56:AA:00:01", VLAN), second))
    assert hcx.validate(hcx.intent(vm)).status == 202
    first = {"macAddress": "00:50:56:aa:00:01", "srcNetworkId": VLAN.id, "destNetworkId": SEGMENT}
    params = {"networkMappings": [first], "defaultMappings": [{"srcNetworkId": PLAIN.id, "destNetworkId": "network-1"}]}
    assert hcx.validate(hcx.intent(vm, networkParams=params)).status == 202
    told = hcx.validate(hcx.intent(vm, networkParams={"networkMappings": [{**first, "srcNetworkId": PLAIN.id}]}))
    assert {each.split(" of ")[0] for each in errors(told)} == {
        f"Adapter 00:50:56:AA:00:01 is not on network {PLAIN.id}",
        "Network VM Network",
    }
    told = hcx.validate(hcx.intent(vm, networkParams={"networkMappings": [{**first, "macAddress": "00:00"}]}))
    assert f"{vm.name} has no network adapter 00:00" in errors(told)


def test_a_name_is_free_in_the_folder_of_the_destination(hcx: Manager) -> None:
    vm = hcx.vm()
    hcx.there.vms["vm-1"] = vm
    assert f"A virtual machine named {vm.name} exists" in " ".join(errors(hcx.validate(hcx.intent(vm))))


def test_errors_and_warnings_mixed(hcx: Manager) -> None:
    good, warned, bad = (hcx.vm(name) for name in ("good", "warned", "bad"))
    hcx.world.faults.add({"kind": "warning", "key": "warned", "message": "tools are old"})
    hcx.world.faults.add({"kind": "error", "key": "bad", "message": "no room"})
    told = hcx.validate(*(hcx.intent(each) for each in (good, warned, bad)))
    assert told.status == 400
    by_vm = {each["entityId"]: each for each in told.json["items"]}
    assert by_vm[good.id]["errors"] == by_vm[good.id]["warnings"] == []
    assert by_vm[warned.id]["warnings"] == [{"message": "tools are old"}]
    assert by_vm[bad.id]["errors"][0]["code"]
    assert hcx.validate(hcx.intent(warned)).status == 202
    hcx.world.settings.warnings_status = 400
    assert hcx.validate(hcx.intent(warned)).status == 400
    assert hcx.call("POST", "/mobility/migrations/start", {"items": [hcx.intent(good), hcx.intent(bad)]}).status == 400
    assert hcx.query() == []


def group(hcx: Manager, name: str, *vms: Vm) -> Any:
    intents = [hcx.intent(vm) for vm in vms]
    return hcx.call("POST", "/mobility/groups", {"items": [{"name": name, "migrations": intents}]})


def test_a_group_is_found_by_its_name_and_starts_once(hcx: Manager) -> None:
    vms = hcx.vm("one"), hcx.vm("two")
    made = group(hcx, "run-1", *vms)
    assert made.status == 202
    ident = made.json["items"][0]["migrationGroupId"]
    again = group(hcx, "run-1", *vms)
    assert again.json["items"][0]["errors"][0]["message"] == "Mobility group with same name exist."
    assert again.status == 400
    found = hcx.call("POST", "/mobility/groups/query", {"filters": {"groups": [{"name": "run-1"}]}})
    assert [each["migrationGroupId"] for each in found.json["items"]] == [ident]
    assert hcx.query(migrationGroupId=[ident]) == []
    start = {"items": [{"migrationGroupId": ident}]}
    told = hcx.call("POST", "/mobility/groups/start", start)
    assert told.status == 202
    ids = {each["migrationId"] for each in told.json["items"][0]["migrations"]}
    assert {each["migrationId"] for each in hcx.query(migrationGroupId=[ident])} == ids
    assert len(ids) == 2
    assert hcx.call("POST", "/mobility/groups/start", start).status == 400
    assert hcx.call("POST", "/mobility/groups/delete", start).status == 400
    hcx.advance(1000)
    assert hcx.call("POST", "/mobility/groups/delete", start).status == 202
    assert hcx.call("POST", "/mobility/groups/query", {}).json["items"] == []


def test_of_a_group_the_good_ones_start(hcx: Manager) -> None:
    good, bad = hcx.vm("good"), hcx.vm("bad")
    ident = group(hcx, "run-1", good, bad).json["items"][0]["migrationGroupId"]
    hcx.world.faults.add({"kind": "error", "key": "bad"})
    told = hcx.call("POST", "/mobility/groups/start", {"items": [{"migrationGroupId": ident}]})
    first, second = told.json["items"][0]["migrations"]
    assert first["migrationId"]
    assert not first["errors"]
    assert second["errors"]
    assert "migrationId" not in second
    assert [each["entityId"] for each in hcx.query()] == [good.id]


def test_drafts_may_be_listed_and_have_no_progress(hcx: Manager) -> None:
    hcx.world.settings.drafts_listed = True
    ident = group(hcx, "run-1", hcx.vm()).json["items"][0]["migrationGroupId"]
    (draft,) = hcx.query(migrationGroupId=[ident])
    assert "migrationId" not in draft
    assert set(draft["progress"]) == {"draftState"}
    assert hcx.query(migrationId=["other"]) == []
    hcx.call("POST", "/mobility/groups/start", {"items": [{"migrationGroupId": ident}]})
    assert [each["migrationGroupId"] for each in hcx.query()] == [ident]


def test_a_vm_moves_once_at_a_time(hcx: Manager) -> None:
    vm = hcx.vm()
    hcx.begin(hcx.intent(vm))
    assert "in progress" in " ".join(errors(hcx.validate(hcx.intent(vm))))


def test_cancelling(hcx: Manager) -> None:
    first, second = hcx.begin(hcx.intent(hcx.vm("one")), hcx.intent(hcx.vm("two"), schedule=hcx.window(500, 600)))

    def cancel(*ids: str) -> int:
        body = {"items": [{"migrationId": each} for each in ids], "removeLongRecoveryData": False}
        return hcx.call("POST", "/mobility/migrations/forceCancel", body).status

    hcx.advance(105)
    assert (hcx.phase(first), hcx.phase(second)) == ("SWITCHOVER", "WAITING")
    assert cancel(first) == 400
    assert cancel("none") == 400
    assert cancel(second) == 202
    assert hcx.phase(second) == "CANCELLED"
    assert cancel(second) == 400
    hcx.advance(1000)
    assert {each.name for each in hcx.here.vms.values()} == {"two"}
    assert hcx.phase(first) == "COMPLETE"
