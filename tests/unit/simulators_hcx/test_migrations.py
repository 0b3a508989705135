"""Migrations by the clock: phases, windows, one at a time, what arrives and what stays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.unit.simulators_hcx.fakes import GIB, SEGMENT, Manager

from wavelift.simulators.hcx.sites import Nic

pytestmark = pytest.mark.unit

BULK, VMOTION, COLD = "vSphereReplication", "vMotion", "ColdMigration"
OFF: dict[str, Any] = {"power": "poweredOff", "tools": False}
BASE = 101.0
"""Seconds from the start to the end of the base sync."""


@pytest.fixture
def hcx(tmp_path: Path) -> Manager:
    return Manager(tmp_path).login()


def progress(hcx: Manager, ident: str) -> dict[str, Any]:
    (item,) = hcx.query(migrationId=[ident])
    found: dict[str, Any] = item["progress"]
    return found


def test_bytes_rise_and_flags_follow_the_phases(hcx: Manager) -> None:
    (ident,) = hcx.begin(hcx.intent(hcx.vm(disks=(6 * GIB, 4 * GIB)), schedule=hcx.window(200, 300)))
    assert progress(hcx, ident)["total"] == {"bytesTransferred": 0, "value": 10 * GIB}
    hcx.advance(51)
    half = progress(hcx, ident)
    assert 45 <= half["percentComplete"] <= 55
    assert half["state"]["isTransferProgress"] == 1
    assert half["isDone"] is False
    hcx.advance(51)
    waiting = progress(hcx, ident)
    assert waiting["state"]["isWaitingForMaintWindow"] == 1
    assert waiting["percentComplete"] == 100
    assert waiting["state"]["isTransferProgress"] == 0
    hcx.advance(100)
    assert progress(hcx, ident)["state"]["isSwitchoverProgress"] == 1
    hcx.advance(10)
    (item,) = hcx.query(migrationId=[ident])
    assert item["state"] == "MIGRATION_COMPLETE"
    assert item["progress"]["isDone"] is True
    assert item["progress"]["state"]["isSwitchoverCompleted"] == 1


@pytest.mark.parametrize(
    ("start", "end", "at", "phase"),
    [
        (200, 300, 199, "WAITING"),
        (200, 300, 201, "SWITCHOVER"),
        (0.5, 200, 102, "SWITCHOVER"),
        (50, 100, 102, "WAITING"),
        (50, 100, 1500, "WAITING"),
        (200, 201, 1500, "COMPLETE"),
    ],
)
def test_switchover_begins_inside_of_its_window_only(
    hcx: Manager, start: float, end: float, at: float, phase: str
) -> None:
    (ident,) = hcx.begin(hcx.intent(hcx.vm(), schedule=hcx.window(start, end)))
    hcx.advance(at)
    assert hcx.phase(ident) == phase
    assert progress(hcx, ident)["isRescheduleAllowed"] is (phase == "WAITING")


def test_without_a_window_it_switches_after_the_base_sync(hcx: Manager) -> None:
    (ident,) = hcx.begin(hcx.intent(hcx.vm()))
    hcx.advance(BASE - 1)
    assert hcx.phase(ident) == "BASE_SYNC"
    hcx.advance(1)
    assert hcx.phase(ident) == "SWITCHOVER"


def spans(hcx: Manager, phase: str) -> list[tuple[float, float]]:
    """From the beginning of this phase to the end of each migration, by the simulator's clock."""
    found = []
    for each in hcx.world.migrations.listing():
        begun = [at for at, name in each["history"] if name == phase]
        found += [(at, each["history"][-1][0]) for at in begun]
    return sorted(found)


def test_rav_replicates_side_by_side_and_switches_one_after_the_other(hcx: Manager) -> None:
    hcx.begin(*(hcx.intent(hcx.vm(f"app{number}")) for number in range(3)))
    hcx.advance(1000)
    begun = [start for start, _ in spans(hcx, "BASE_SYNC")]
    assert max(begun) - min(begun) < 1
    (a, b), (c, d), (e, f) = spans(hcx, "SWITCHOVER")
    assert b - a == pytest.approx(10)
    assert c >= b
    assert e >= d
    assert f - e == pytest.approx(10)


def test_bulk_switches_side_by_side(hcx: Manager) -> None:
    hcx.begin(*(hcx.intent(hcx.vm(f"app{number}"), BULK) for number in range(3)))
    hcx.advance(BASE + 5)
    assert len(spans(hcx, "SWITCHOVER")) == 3


def test_vmotion_and_cold_run_one_at_a_time_with_rav_s_switchover(hcx: Manager) -> None:
    vmotion, cold, rav = hcx.begin(
        hcx.intent(hcx.vm("hot"), VMOTION), hcx.intent(hcx.vm("cold", **OFF), COLD), hcx.intent(hcx.vm("rav"))
    )
    hcx.advance(BASE - 5)
    assert progress(hcx, vmotion)["state"]["isVMotionBaseSyncInProgress"] is True
    assert [hcx.phase(each) for each in (vmotion, cold, rav)] == ["BASE_SYNC", "QUEUED", "BASE_SYNC"]
    hcx.advance(10)
    assert [hcx.phase(each) for each in (vmotion, cold, rav)] == ["SWITCHOVER", "QUEUED", "WAITING"]
    hcx.advance(10)  # both waited for the pair of sites: the older one got it
    assert [hcx.phase(each) for each in (vmotion, cold, rav)] == ["COMPLETE", "BASE_SYNC", "WAITING"]
    hcx.advance(1000)
    assert {hcx.phase(each) for each in (vmotion, cold, rav)} == {"COMPLETE"}


def test_limits_of_mesh_and_manager_queue(hcx: Manager) -> None:
    hcx.world.settings.update({"mesh_limit": 2, "manager_limit": 3})
    bulk = hcx.begin(*(hcx.intent(hcx.vm(f"app{number}"), BULK) for number in range(3)))
    hot = hcx.begin(*(hcx.intent(hcx.vm(f"hot{number}"), VMOTION) for number in range(2)))
    hcx.advance(50)
    assert [hcx.phase(each) for each in bulk] == ["BASE_SYNC", "BASE_SYNC", "QUEUED"]
    assert [hcx.phase(each) for each in hot] == ["BASE_SYNC", "QUEUED"]
    hcx.advance(BASE + 20)
    assert hcx.phase(bulk[2]) == "BASE_SYNC"
    hcx.advance(2000)
    assert {hcx.phase(each) for each in (*bulk, *hot)} == {"COMPLETE"}


@pytest.mark.parametrize("kind", ["RAV", VMOTION, COLD])
def test_a_moved_vm_is_the_same_and_gone_from_the_source(hcx: Manager, kind: str) -> None:
    vm = hcx.vm(**(OFF if kind == COLD else {}))
    hcx.begin(hcx.intent(vm, kind, options={"retainMac": False}))
    hcx.advance(500)
    moved = hcx.there.named(vm.name)
    assert hcx.here.vms == {}
    assert (moved.nics[0].mac, moved.nics[0].ips) == (vm.nics[0].mac, vm.nics[0].ips)
    assert moved.nics[0].network.id == SEGMENT
    assert (moved.power, moved.uuid) == (vm.power, vm.uuid)
    assert hcx.nsx.ports == [(SEGMENT, vm.name)]
    assert any(each.segment == SEGMENT for each in hcx.there.networks)


@pytest.mark.parametrize("retain", [True, False])
def test_bulk_leaves_its_source_renamed_off_and_without_a_card(hcx: Manager, retain: bool) -> None:
    vm = hcx.vm()
    (ident,) = hcx.begin(hcx.intent(vm, BULK, options={"retainMac": retain}))
    hcx.advance(BASE + 5)
    assert hcx.here.vms[vm.id].power == "poweredOff"
    assert hcx.there.vms == {}
    hcx.advance(5)
    left, moved = hcx.here.vms[vm.id], hcx.there.named(vm.name)
    ended = int(hcx.world.migrations.all[ident].ended)
    assert (left.name, left.power, left.nics) == (f"{vm.name}-{ended}", "poweredOff", ())
    assert moved.power == "poweredOn"
    assert (moved.nics[0].mac == vm.nics[0].mac) is retain


@pytest.mark.parametrize("how", ["tools", "obeys", "rule"])
@pytest.mark.parametrize("force", [True, False])
def test_a_guest_that_does_not_shut_down_fails_bulk_without_force(hcx: Manager, how: str, force: bool) -> None:
    vm = hcx.vm()
    (ident,) = hcx.begin(hcx.intent(vm, BULK, options={"forcePowerOffVm": force}))
    if how == "rule":
        hcx.world.faults.add({"kind": "guest", "key": vm.name})
    else:
        hcx.here.vms[vm.id] = replace(vm, tools=how != "tools", obeys=how != "obeys")
    hcx.advance(500)
    assert hcx.phase(ident) == ("COMPLETE" if force else "FAILED")
    if not force:
        assert hcx.here.vms[vm.id].on
        assert hcx.here.vms[vm.id].name == vm.name
        (item,) = hcx.query()
        assert item["state"] == "MIGRATION_FAILED"
        assert "did not shut down" in item["progress"]["message"]
        assert item["progress"]["didFail"] is True
        assert item["progress"]["state"]["isSwitchoverError"] == 1


@pytest.mark.parametrize(("phase", "state"), [("base_sync", "TRANSFER_FAILED"), ("switchover", "MIGRATION_FAILED")])
def test_a_rule_fails_a_migration_in_a_phase_and_the_source_is_as_it_was(hcx: Manager, phase: str, state: str) -> None:
    vm, other = hcx.vm("bad"), hcx.vm("good")
    hcx.world.faults.add({"kind": "migration", "key": "bad", "operation": phase, "message": "link lost"})
    bad, good = hcx.begin(hcx.intent(vm, BULK), hcx.intent(other, BULK))
    hcx.advance(500)
    assert (hcx.phase(bad), hcx.phase(good)) == ("FAILED", "COMPLETE")
    (item,) = hcx.query(migrationId=[bad])
    assert item["state"] == state
    assert item["progress"]["state"]["errorMessage"] == "link lost"
    assert hcx.here.vms[vm.id] == vm


def test_strange_ends(hcx: Manager) -> None:
    names = ("ended", "unnamed", "stuck")
    for name in names:
        hcx.world.faults.add({"kind": "migration", "key": name, "operation": "base_sync", "outcome": name})
    ids = dict(zip(names, hcx.begin(*(hcx.intent(hcx.vm(name)) for name in names)), strict=True))
    hcx.advance(1500)
    ended, unnamed, stuck = (hcx.query(migrationId=[ids[name]])[0] for name in names)
    assert ended["progress"]["isDone"] is True
    assert not ended["progress"]["didFail"]
    assert not ended["progress"]["state"]["isSwitchoverCompleted"]
    assert unnamed["state"].endswith("_FAILED")
    assert not unnamed["progress"]["isDone"]
    assert not unnamed["progress"]["didFail"]
    assert stuck["progress"]["state"]["isTransferProgress"] == 1
    body = {"items": [{"migrationId": ids["stuck"]}]}
    assert hcx.call("POST", "/mobility/migrations/forceCancel", body).status == 202
    (item,) = hcx.query(migrationId=[ids["stuck"]])
    assert item["state"] == "MIGRATION_CANCELLED"
    assert item["progress"]["isCancelled"] == 1


def test_a_vm_that_vanishes_fails(hcx: Manager) -> None:
    vm = hcx.vm()
    (ident,) = hcx.begin(hcx.intent(vm))
    del hcx.here.vms[vm.id]
    hcx.advance(500)
    assert hcx.phase(ident) == "FAILED"


def test_a_card_that_came_later_stays_behind(hcx: Manager) -> None:
    vm = hcx.vm()
    hcx.begin(hcx.intent(vm))
    hcx.here.vms[vm.id] = replace(vm, nics=(Nic("00:50:56:cc:00:01", vm.nics[0].network), *vm.nics))
    hcx.advance(500)
    assert [nic.mac for nic in hcx.there.named(vm.name).nics] == [vm.nics[0].mac]


def leaves(value: Any, at: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        return {path: leaf for name, each in value.items() for path, leaf in leaves(each, f"{at}.{name}").items()}
    return {at: value}


def test_looseness_of_the_answers(hcx: Manager) -> None:
    (ident,) = hcx.begin(hcx.intent(hcx.vm()))
    hcx.advance(10)

    def kinds(flags: str) -> set[type]:
        hcx.world.settings.flags = flags
        found = leaves(progress(hcx, ident))
        return {type(value) for path, value in found.items() if path.rpartition(".")[2].startswith(("is", "did"))}

    assert kinds("booleans") == {bool}
    assert kinds("integers") == {int}
    assert kinds("documented") == {bool, int}
    hcx.world.settings.update({"absent_when_false": True, "times_as_text": True, "total_as_text": True})
    thin = progress(hcx, ident)
    assert "isDone" not in thin
    assert thin["state"]["isTransferProgress"] == 1
    assert isinstance(thin["startTime"], str)
    assert json.loads(thin["total"])["value"] == 10 * GIB
    hcx.world.settings.absent_every = 2
    assert sorted("state" in progress(hcx, ident) for _ in range(2)) == [False, True]


def test_every_invented_word_has_another(hcx: Manager) -> None:
    hcx.begin(hcx.intent(hcx.vm(), schedule=hcx.window(50, 60)))
    hcx.call("POST", "/mobility/groups", {"items": [{"name": "run-1"}]})

    def words() -> set[str]:
        (item,) = hcx.query()
        told = hcx.call("POST", "/mobility/groups/query", {}).json["items"][0]["state"]
        error = hcx.call("GET", "/jobs/none").json["errors"][0]["code"]
        state = item["progress"]["state"]
        return {item["state"], item["progress"]["message"], state["statusType"], told, error}

    for seconds in (0, 10, 500):
        hcx.advance(seconds)
        usual = words()
        hcx.world.settings.other_words = True
        assert not usual & words()
        hcx.world.settings.other_words = False
