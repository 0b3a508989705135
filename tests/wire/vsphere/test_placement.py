"""What is on a network of a vCenter, what the names of places mean, and VMs that are found again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Take

from wavelift.adapters.vsphere import networks, properties
from wavelift.adapters.vsphere.networks import cards_on
from wavelift.adapters.vsphere.placement import find_vms, placed
from wavelift.adapters.vsphere.places import Places, read_places
from wavelift.adapters.vsphere.privileges import missing_privileges
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.base.errors import AmbiguousError, NotFoundError
from wavelift.base.placement import Match, NetworkUse, Wanted
from wavelift.rules.policies import required_privileges
from wavelift.simulators.vcenter import ADMIN, SimDisk, SimNic, SimUser, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]
READER: Final = SimUser("reader", "reader-pw", privileges=())
ONE_CENTRE: Final = SimUser("centre", "centre-pw", privileges=(), below="/dc1/vm/prod")
MAC: Final = "00:50:56:01:02:03"
PLAIN: Final = "VLAN 100/a"
"""A name with a character that vSphere escapes."""


def on(network: str, *ips: str, **settings: Any) -> SimNic:
    return SimNic(ips, network=network, **settings)


SITE: Final = [
    SimVm(
        "app01",
        [SimDisk(capacity=1 << 20)],
        folder="prod",
        pool="Compute/Web",
        nics=[
            on("grey", "10.1.2.10", "fe80::1", mac=MAC.upper(), network_kind="distributed"),
            on(PLAIN, "10.9.0.10", start_connected=False),
        ],
        snapshots=["before", "after"],
        cdrom="[datastore1] tools.iso",
        hardware="vmx-15",
        inner_ips=["172.17.0.1"],
    ),
    SimVm("off01", folder="prod/sub", power="poweredOff", nics=[on("grey"), on("grey")]),
    SimVm("gold", folder="lib", power="poweredOff", template=True, nics=[on("grey", network_kind="distributed")]),
    SimVm("mute01", folder="prod", tools="not_running", nics=[on("seg", "10.3.0.1", network_kind="opaque")]),
    SimVm("twin", folder="a", nics=[]),
    SimVm("twin", folder="b", nics=[]),
]


@pytest.fixture
def site(start_vc: Take, monkeypatch: pytest.MonkeyPatch) -> VCenterSimulator:
    """A vCenter for all tests of this module. Those that change it change it back."""
    vc: VCenterSimulator = start_vc(
        SITE, world="a site with networks", users=(ADMIN, READER, ONE_CENTRE), task_seconds=0.01
    )
    if not any(network["name"] == "own key" for network in vc.inventory()["networks"]):
        vc.add_network("own key", "distributed", key="a-key-of-its-own")
        vc.add_network("wide", "nsx", id="switch-9", segment="/infra/segments/wide")
        vc.add_network("wide", "nsx", id="switch-9", segment="/infra/segments/wide-2")
        vc.add_network("twice", "nsx", folder="left")
        vc.add_network("twice", "standard", folder="right")
        vc.add_pool("Compute/Db")
        vc.add_pool("Spare/Db")
    # several pages, as of a large vCenter
    monkeypatch.setattr(properties, "PAGE", 2)
    monkeypatch.setattr(networks, "PAGE", 2)
    return vc


@pytest.fixture
def session(site: VCenterSimulator, config_of: Configure) -> Iterator[VsphereSession]:
    """Of a user that may only read: as little as is printed is enough for all of this."""
    with connect(config_of(site, username="reader", password="reader-pw")) as opened:
        yield opened


@pytest.fixture
def places(session: VsphereSession) -> Places:
    return read_places(session)


def told(use: NetworkUse) -> list[tuple[str, str, bool, bool]]:
    return [(card.path, card.power, card.template, card.connected) for card in use.cards]


# --- places ---------------------------------------------------------------------------------------------------------


def test_names_and_paths_of_places_are_ids(site: VCenterSimulator, places: Places) -> None:
    there = site.inventory()

    def moref(kind: str, path: str) -> str:
        return next(str(one["moref"]) for one in there[kind] if one["path"] == path)

    assert places.folder("sub").moref == moref("folders", "/dc1/vm/prod/sub")
    assert places.folder("/dc1/vm/prod").moref == moref("folders", "/dc1/vm/prod")
    assert places.pool("Web").moref == moref("pools", "/dc1/host/cluster1/Resources/Compute/Web")
    assert places.pool("/dc1/host/cluster1/Resources/Spare/Db").name == "Db"
    assert places.pool("Resources").moref == moref("pools", "/dc1/host/cluster1/Resources")
    store = places.datastore("datastore1")
    assert (store.path, store.data_centre, store.data_centre_moref) == (
        "/dc1/datastore/datastore1",
        "dc1",
        moref("datacenters", "/dc1"),
    )
    plain = places.network(PLAIN)
    assert (plain.name, plain.kind, plain.path) == (PLAIN, "Network", "/dc1/network/VLAN 100%2fa")
    assert places.network(plain.path) == plain
    grey = places.network("grey")
    assert (grey.kind, grey.ids) == ("DistributedVirtualPortgroup", (grey.moref,))
    own = places.network("own key")
    assert own.ids == (own.moref, "a-key-of-its-own")


def test_a_name_of_none_or_of_several_is_an_error(places: Places) -> None:
    for ask, wrong, near in (
        (places.folder, "pord", "'prod'"),
        (places.pool, "web", "'Web'"),
        (places.datastore, "datastore2", "'datastore1'"),
        (places.network, "gray", "'grey'"),
        (places.network, "/dc1/network/gray", "'/dc1/network/grey'"),
    ):
        with pytest.raises(NotFoundError, match=f"'{wrong}'.*did you mean {near}"):
            ask(wrong)
    with pytest.raises(NotFoundError, match="no folder"):
        places.folder("host")  # not of VMs
    with pytest.raises(AmbiguousError, match=r"/Compute/Db \(resgroup-\d+\), .*/Spare/Db \(resgroup-\d+\)"):
        places.pool("Db")
    with pytest.raises(AmbiguousError, match=r"/network/left/twice .*/network/right/twice"):
        places.network("twice")
    assert places.network("/dc1/network/right/twice").kind == "Network"


def test_a_segment_on_two_switches_is_one_network(site: VCenterSimulator, places: Places) -> None:
    wide = places.network("wide")
    both = {one["moref"] for one in site.inventory()["networks"] if one["name"] == "wide"}
    assert set(wide.ids) == {*both, "switch-9"}


# --- networks -------------------------------------------------------------------------------------------------------


def test_every_card_on_a_network_is_found_whatever_its_vm_does(
    site: VCenterSimulator, session: VsphereSession, places: Places
) -> None:
    site.reset_counters()
    use = cards_on(session, places.network("grey"))
    assert told(use) == [
        ("/dc1/vm/lib/gold", "poweredOff", True, False),
        ("/dc1/vm/prod/app01", "poweredOn", False, True),
        ("/dc1/vm/prod/sub/off01", "poweredOff", False, False),
        ("/dc1/vm/prod/sub/off01", "poweredOff", False, False),
    ]
    assert [card.mac for card in use.cards if card.on] == [MAC]
    assert [card.key for card in use.cards] == [4000, 4000, 4000, 4001]
    assert (use.whole, use.unread) == (True, ())
    pages = site.counters()["methods"]
    assert pages["RetrievePropertiesEx"] + pages.get("ContinueRetrievePropertiesEx", 0) <= 3 + 10
    assert NetworkUse.load(use.dump()) == use
    off, opaque = cards_on(session, places.network(PLAIN)), cards_on(session, places.network("seg"))
    assert told(off) == [("/dc1/vm/prod/app01", "poweredOn", False, False)]
    assert told(opaque) == [("/dc1/vm/prod/mute01", "poweredOn", False, True)]
    assert cards_on(session, places.network("own key")).cards == ()


def test_a_port_group_is_known_by_its_key(site: VCenterSimulator, session: VsphereSession, places: Places) -> None:
    second = next(one["moref"] for one in reversed(site.inventory()["networks"]) if one["name"] == "wide")
    site.add_vm(SimVm("keyed", nics=[on("own key"), on(second)]))
    try:
        (card,) = cards_on(session, places.network("own key")).cards
        assert (card.name, card.key) == ("keyed", 4000)
        (card,) = cards_on(session, places.network("wide")).cards
        assert (card.name, card.key) == ("keyed", 4001)
        (vm,) = placed(session, [card.vm])
        assert [(nic.network, nic.network_moref) for nic in vm.nics] == [
            ("own key", places.network("own key").moref),
            ("wide", second),
        ]
    finally:
        site.remove_vm("keyed")


def test_a_vm_that_tells_nothing_may_be_on_it(
    session: VsphereSession, places: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = properties.collect

    def less(session: Any, kind: Any, refs: Any, paths: Any, **where: Any) -> Any:
        """As of a VM whose host is away: its configuration is unset."""
        found = whole(session, kind, refs, paths, **where)
        for values in found.values():
            if values.get("name") == "mute01":
                del values["config.hardware.device"]
                values["runtime.connectionState"] = "disconnected"
        return found

    monkeypatch.setattr(networks, "collect", less)
    use = cards_on(session, places.network("grey"))
    assert [(vm.path, vm.why) for vm in use.unread] == [
        ("/dc1/vm/prod/mute01", "vCenter tells nothing about the VM: it is disconnected")
    ]
    assert len(use.cards) == 4


def test_a_card_of_a_network_that_its_host_lacks_has_only_its_name(places: Places) -> None:
    plain = places.network(PLAIN)
    card_type = vim.vm.device.VirtualEthernetCard
    for backing, expected in (
        (card_type.NetworkBackingInfo(deviceName="VLAN 100%2fa"), True),
        (card_type.NetworkBackingInfo(deviceName="VLAN 100"), False),
        (card_type.NetworkBackingInfo(deviceName=PLAIN, network=vim.Network("network-of-another-centre")), False),
        (card_type.NetworkBackingInfo(), False),
    ):
        assert networks._is_on(vim.vm.device.VirtualVmxnet3(backing=backing), plain) is expected


def test_who_does_not_see_the_whole_vcenter_is_told_so(
    site: VCenterSimulator, session: VsphereSession, places: Places, config_of: Configure
) -> None:
    grey = places.network("grey")
    required = required_privileges(("hcx",))
    vm = next(card.vm for card in cards_on(session, grey).cards if card.on)
    assert missing_privileges(session, [vm], required=required)[vm] == []
    with connect(config_of(site, username="centre", password="centre-pw")) as partly:
        use = cards_on(partly, grey)
        assert (use.whole, [card.path for card in use.cards if card.template]) == (False, [])
        (missing,) = [one for one in missing_privileges(partly, [vm], required=required)[vm] if one.scope == "root"]
    assert (missing.name, missing.privileges) == ("vCenter", ("System.Read",))


# --- virtual machines -----------------------------------------------------------------------------------------------


def found(matches: tuple[Match, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return [(match.vm.path, match.by) for match in matches]


def test_a_vm_is_where_it_lies_with_all_that_counts(site: VCenterSimulator, session: VsphereSession) -> None:
    there = site.get_vm("app01")
    ((match,),) = find_vms(session, [Wanted(name="app01", instance_uuid=there["instance_uuid"], macs=(MAC,))])
    vm = match.vm
    assert match.by == ("instance_uuid", "mac", "name")
    assert (vm.moref, vm.name, vm.folder, vm.power) == (there["moref"], "app01", "/dc1/vm/prod", "poweredOn")
    assert (vm.bios_uuid, vm.instance_uuid) == (there["uuid"], there["instance_uuid"])
    assert (vm.hardware_version, vm.snapshots, vm.isos) == ("vmx-15", ("before", "after"), ("[datastore1] tools.iso",))
    assert (vm.tools_status, vm.tools_running, vm.template, vm.unread) == ("toolsOk", True, False, "")
    assert vm.pool is not None
    assert (vm.pool.moref, vm.pool.name) == (there["pool_moref"], "Web")
    assert [store.name for store in vm.datastores] == ["datastore1"]
    assert [(nic.mac, nic.network, nic.connected) for nic in vm.nics] == [
        (MAC, "grey", True),
        (there["nics"][1]["mac"], PLAIN, False),
    ]
    # what docker has in the guest is no card's
    assert vm.addresses == {MAC: ("10.1.2.10", "fe80::1"), vm.macs[1]: ()}
    assert Match.load(match.dump()) == match


def test_a_vm_is_found_again_by_each_of_what_it_is(site: VCenterSimulator, session: VsphereSession) -> None:
    uuid = str(site.get_vm("app01")["instance_uuid"])
    site.rename_vm("app01", "app01_moved")
    copy = site.add_vm(SimVm("app01", folder="a", nics=[on("grey", mac=MAC)], power="poweredOff"))
    try:
        wanted = Wanted(name="app01", instance_uuid=uuid.upper(), macs=(MAC.upper(),))
        both, none, twins = find_vms(session, [wanted, Wanted(), Wanted(name="twin")])
        assert found(both) == [
            ("/dc1/vm/a/app01", ("mac", "name")),
            ("/dc1/vm/prod/app01_moved", ("instance_uuid", "mac")),
        ]
        assert none == ()
        assert found(twins) == [("/dc1/vm/a/twin", ("name",)), ("/dc1/vm/b/twin", ("name",))]
        ((only,),) = find_vms(
            session, [Wanted(macs=(MAC,), name="nobody", instance_uuid=copy["instance_uuid"])], by_mac=False
        )
        assert (only.vm.path, only.by, only.vm.nics[0].connected) == ("/dc1/vm/a/app01", ("instance_uuid",), False)
        site.remove_vm(copy["moref"])
        with pytest.raises(NotFoundError):
            placed(session, [copy["moref"]])
        assert placed(session, [copy["moref"]], gone_ok=True) == []
    finally:
        site.rename_vm("app01_moved", "app01")


def test_no_tools_are_not_no_addresses(site: VCenterSimulator, session: VsphereSession) -> None:
    mute, gold = (site.get_vm(name)["moref"] for name in ("mute01", "gold"))
    vm, template = placed(session, [mute, gold])
    assert (vm.tools_running, vm.addresses, vm.nics[0].network, vm.nics[0].network_kind) == (
        False,
        None,
        "seg",
        "opaque",
    )
    assert (template.template, template.pool, template.addresses, template.power) == (True, None, None, "poweredOff")
    late = site.add_vm(SimVm("late", nics=[on("grey", "10.1.2.99")], tools_after=0.2))["moref"]
    try:
        (vm,) = placed(session, [late])
        assert (vm.power, vm.addresses) == ("poweredOn", None)
        assert eventually(lambda: placed(session, [late])[0].addresses == {vm.macs[0]: ("10.1.2.99",)})
    finally:
        site.remove_vm(late)
