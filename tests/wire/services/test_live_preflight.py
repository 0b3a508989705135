"""What pre-flight of a live migration finds in HCX and in both vCenters, before anything is started (HCX-01)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.live_journey import THERE, Live, a_wave, codes, errors
from tests.wire.services.test_requester import ADMIN, granted
from tests.wire.simulators_hcx.conftest import MIB, TIER, Sites, running, sites, vm

from wavelift.base.domain import Severity
from wavelift.rules.hcx_wave import MigrationType
from wavelift.services.dataplane.hcx_preflight import preflight
from wavelift.simulators.vcenter import SimDisk, SimNic, SimUser

pytestmark = pytest.mark.wire

__all__ = ["running", "sites"]


@pytest.fixture
def live(sites: Sites) -> Live:
    return Live(sites)


def test_hcx_01_names_become_ids(live: Live) -> None:
    wave = a_wave(
        "app01", {"path": "/dc1/vm/shop/app02"}, target={"networks": {"VLAN-100": THERE}, "provision": "thin"}
    )
    before = live.world.hcx.state()
    report = live.preflight(wave)
    assert not report.findings, report.findings
    assert (report.wave, report.manager, report.at) == ("first", "hcx1", live.clock.now())
    assert [task.name for task in report.tasks] == ["app01", "app02"]
    inventory = live.world.destination.inventory()
    ids = {each["name"]: each["moref"] for kind in ("pools", "folders", "datacenters") for each in inventory[kind]}
    task = report.tasks[0]
    assert task.entity_id == task.before.moref == live.there("app01", "source")
    assert (task.source.resource_id, task.destination.resource_id) == (
        live.world.source.instance_uuid,
        live.world.destination.instance_uuid,
    )
    assert task.source.endpoint_name == "HCX-CONN"
    assert task.mesh_id == "servicemesh-1"
    assert [(place.type, place.id) for place in task.placement] == [
        ("resourcePool", ids["Compute"]),
        ("folder", ids["Workloads"]),
        ("dataCenter", ids["dc1"]),
    ]
    assert task.provision == "thin"
    (card,) = task.cards
    assert (card.mac, card.source.name, card.destination.name) == ("00:50:56:01:02:0b", "VLAN-100", THERE)
    assert card.destination.type == "NsxtSegment"
    assert card.connected
    assert task.before.addresses == ("10.1.2.11",)
    assert task.before.tools_running
    assert live.world.hcx.state() == before


VMS: list[tuple[str, dict[str, Any], MigrationType, str]] = [
    ("old hardware", {"hardware": "vmx-08"}, "rav", "hcx.hardware"),
    ("old hardware", {"hardware": "vmx-08"}, "vmotion", "hcx.hardware"),
    ("older hardware", {"hardware": "vmx-04"}, "bulk", "hcx.hardware"),
    ("no tools", {"tools": "not_running"}, "bulk", "hcx.no_tools"),
    ("off", {"power": "poweredOff"}, "rav", "hcx.not_powered_on"),
    ("off", {"power": "poweredOff"}, "bulk", "hcx.not_powered_on"),
    ("suspended", {"power": "suspended"}, "cold", "hcx.not_powered_on"),
    ("on", {}, "cold", "hcx.powered_on"),
    ("snapshots", {"snapshots": ["before"]}, "rav", "hcx.snapshots"),
    ("snapshots", {"snapshots": ["before"]}, "bulk", "hcx.snapshots"),
    ("an image", {"cdrom": "[datastore1] iso/x.iso"}, "rav", "hcx.iso"),
    ("a shared disk", {"disks": [SimDisk(capacity=MIB, sharing="sharingMultiWriter")]}, "rav", "hcx.shared_disk"),
    ("a shared bus", {"disks": [SimDisk(capacity=MIB, bus_sharing="physicalSharing")]}, "bulk", "hcx.shared_disk"),
    ("a device", {"disks": [SimDisk(capacity=MIB, rdm="physical")]}, "bulk", "hcx.rdm"),
    ("a template", {"template": True, "power": "poweredOff"}, "cold", "hcx.template"),
]


def test_hcx_01_what_each_type_needs_of_a_vm(live: Live) -> None:
    for number, (_, fields, _, _) in enumerate(VMS):
        live.world.source.add_vm(replace(vm(f"odd{number:02}", 30 + number), **fields))
    by_type: dict[MigrationType, dict[str, str]] = {}
    for number, (_, _, type, code) in enumerate(VMS):
        by_type.setdefault(type, {})[f"odd{number:02}"] = code
    for type, wanted in by_type.items():
        report = live.preflight(a_wave(*wanted, type=type))
        found = codes(report)
        assert set(wanted.items()) <= found, (type, found)
        for one in errors(report):
            assert one.why
            assert one.next_action, one.code
        also = {(name, code) for name, code in found if wanted.get(name) != code}
        assert also <= {(name, "hcx.powered_on") for name in wanted} | {(name, "hcx.no_tools") for name in wanted}, also


def test_hcx_01_an_option_makes_the_difference(live: Live) -> None:
    live.world.source.add_vm(vm("odd01", 31, snapshots=["before"], cdrom="[datastore1] iso/x.iso"))
    options = {"remove_snapshots": True, "remove_isos": True}
    report = live.preflight(a_wave("odd01", options=options))
    assert not errors(report), errors(report)
    assert report.tasks[0].options["remove_isos"] is True
    assert report.tasks[0].before.snapshots
    assert report.tasks[0].before.iso


@pytest.mark.parametrize("type", ["rav", "bulk"])
def test_hcx_05_new_mac_addresses_are_a_warning(live: Live, type: MigrationType) -> None:
    report = live.preflight(a_wave("app01", type=type, options={"retain_mac": False}))
    assert codes(report, Severity.WARNING) == {("*", "hcx.mac_not_kept")}
    assert not errors(report)


# --- networks -------------------------------------------------------------------------------------------------------


def test_hcx_01_a_network_that_is_not_extended_stops_its_server_only(live: Live) -> None:
    live.world.source.add_network("VLAN-200", "distributed")
    nics = (SimNic(("10.1.3.9",), network="VLAN-200", network_kind="distributed"),)
    live.world.source.add_vm(replace(vm("app09", 39), nics=nics))
    report = live.preflight(a_wave("app01", "app09", target={"networks": {"VLAN-100": THERE, "VLAN-200": THERE}}))
    assert codes(report) == {("app09", "hcx.not_extended")}
    assert [task.name for task in report.tasks] == ["app01"]


def test_hcx_01_extended_to_another_network_is_not_by_us(live: Live) -> None:
    live.world.there.put_segment(
        "/infra/segments/other", display_name="other", gateway="10.9.9.1/24", connectivity_path=TIER
    )
    wave = a_wave("app01", environment={"networks": ["other"]}, target={"networks": {"VLAN-100": "other"}})
    (one,) = errors(live.preflight(wave))
    assert one.code == "hcx.network"
    assert "is extended to 'L2E_VLAN-100', and not to 'other'" in one.what
    assert "'L2E_VLAN-100'" in one.next_action


@pytest.mark.parametrize(
    ("networks", "code", "words"),
    [
        ({"VLAN-100": "L2E_VLAN-10"}, "hcx.network", "did you mean 'L2E_VLAN-100'?"),
        ({"VLAN-10": THERE}, "hcx.unmapped", "did you mean 'VLAN-10'?"),
        ({}, "hcx.unmapped", "'VLAN-100'"),
    ],
)
def test_hcx_01_unknown_networks_have_near_names(live: Live, networks: Any, code: str, words: str) -> None:
    allowed = [*networks.values(), "any"]
    (one,) = errors(live.preflight(a_wave("app01", environment={"networks": allowed}, target={"networks": networks})))
    assert one.code == code
    assert words in f"{one.what} {one.next_action}"


def test_hcx_01_every_card_needs_its_network(live: Live) -> None:
    live.world.source.add_network("VLAN-200", "standard")
    cards = (*(vm("app09", 39).nics or ()), SimNic(network="VLAN-200", network_kind="standard"))
    live.world.source.add_vm(replace(vm("app09", 39), nics=cards))
    report = live.preflight(a_wave("app09"))
    (one,) = errors(report)
    assert one.code == "hcx.unmapped"
    assert one.subject.startswith("app09/")
    assert "'VLAN-200'" in one.what


# --- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("field", "name", "near"),
    [("folder", "Workload", "Workloads"), ("pool", "compute", "Compute"), ("datastore", "datastore", "datastore1")],
)
def test_hcx_01_unknown_places_have_near_names(live: Live, field: str, name: str, near: str) -> None:
    report = live.preflight(a_wave("app01", "app02", environment={f"{field}s": [name]}))
    assert codes(report) == {("app01", f"hcx.{field}"), ("app02", f"hcx.{field}")}
    assert f"did you mean '{near}'?" in errors(report)[0].what
    assert not report.tasks


def test_hcx_01_an_ambiguous_folder_lists_its_paths(live: Live) -> None:
    live.world.destination.add_folder("deep/Workloads")
    (one,) = errors(live.preflight(a_wave("app01")))
    assert one.code == "hcx.folder"
    assert "/dc1/vm/Workloads" in one.what
    assert "/dc1/vm/deep/Workloads" in one.what
    path = "/dc1/vm/deep/Workloads"
    assert not errors(live.preflight(a_wave("app01", environment={"folders": [path]})))


# --- the servers ----------------------------------------------------------------------------------------------------


def test_hcx_01_who_is_not_found_or_not_clear_stops_no_other(live: Live) -> None:
    live.world.source.add_folder("other")
    live.world.source.add_vm(vm("app02", 42, folder="other"))
    wave = a_wave("app01", "APP01", "app02", {"path": "/dc1/vm/shop/app02"}, {"path": "/dc1/vm/shop/app01"})
    report = live.preflight(wave)
    said = {(one.subject, one.code): one.what for one in errors(report)}
    assert [code for _, code in said].count("server.not_found") == 2
    assert any("/dc1/vm/shop/app01" in what for what in said.values()), "a near name"
    assert any("/dc1/vm/other/app02" in what for what in said.values()), "both of a name"
    assert [code for _, code in said].count("hcx.twice") == 1, "one VM by name and by path"
    assert len(report.tasks) == 3


def test_hcx_01_a_vm_that_hcx_moves_already_is_refused(live: Live) -> None:
    order = live.order(a_wave("app01"))
    live.started(order)
    report = live.preflight(a_wave("app01", "app02"))
    assert codes(report) == {("app01", "hcx.moves_already")}


def test_hcx_05_what_is_at_the_destination_already(live: Live) -> None:
    twin = replace(vm("other", 11), folder="", instance_uuid="", nics=None)
    live.world.destination.add_vm(twin)
    assert not errors(live.preflight(a_wave("app01")))
    mac = replace(vm("other2", 11), folder="", nics=(SimNic(mac="00:50:56:01:02:0b"),))
    live.world.destination.add_vm(mac)
    live.world.destination.add_vm(replace(vm("app02", 99), folder="Workloads", nics=None))
    live.world.destination.add_vm(replace(vm("app01", 98), folder="", nics=None))
    report = live.preflight(a_wave("app01", "app02"))
    said = {one.subject: one.what for one in errors(report)}
    assert said.keys() == {"app01", "app02"}, said
    assert "one of its MAC addresses" in said["app01"]
    assert "its name, in the target folder" in said["app02"]


# --- the sites ------------------------------------------------------------------------------------------------------


def test_hcx_01_other_vcenters_than_the_pair_are_told(live: Live) -> None:
    wave = a_wave("app01")
    with live.hcx() as hcx, live.vcenter("source") as source:
        report = preflight(wave, hcx=hcx, source=source, destination=source, ctx=live.ctx())
    (one,) = errors(report)
    assert (one.code, one.subject) == ("hcx.site", "*/destination site")
    assert "HCX-CLOUD" in one.why
    assert not report.tasks


@pytest.mark.parametrize(("mesh", "good"), [("servicemesh-1", True), ("SM", True), ("SM2", False)])
def test_hcx_01_the_mesh_is_found_by_its_id_or_name(live: Live, mesh: str, good: bool) -> None:
    wave = a_wave("app01", environment={"hcx": {"connection": "hcx1", "mesh": mesh}})
    report = live.preflight(wave)
    assert (not errors(report)) is good
    assert {task.mesh_id for task in report.tasks} == ({"servicemesh-1"} if good else set())


def test_hcx_05_an_account_that_does_not_see_all_is_refused(live: Live) -> None:
    live.world.source.reset(
        [vm("app01", 11)],
        users=(SimUser("administrator@vsphere.local", "simulator!1", below="/dc1"),),
        task_seconds=0.01,
    )
    report = live.preflight(a_wave("app01"))
    assert ("*", "hcx.reads_not_all") in codes(report)


def test_amp_03_the_person_behind_the_run_is_asked_for(live: Live) -> None:
    def found(**changes: Any) -> set[tuple[str, str]]:
        report = live.preflight(a_wave("app01"), grant=granted(scope="look", action="live", **changes))
        return codes(report)

    assert not found(principals={"*": ADMIN})
    assert found(principals={"*": "VSPHERE.LOCAL\\nobody"}) == {("app01", "requester.unknown")}
    assert found(principals={"*": ""}) == {("app01", "requester.unmapped")}
