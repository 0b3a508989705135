"""VMs that leave one vCenter and appear in another, and the networks and places there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pyVmomi import vim, vmodl
from tests.eventually import eventually
from tests.vcenters import Processes
from tests.wire.simulators_vcenter.conftest import Client

from wavelift.simulators.vcenter import SimDisk, SimNic, SimulatorError, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Card = vim.vm.device.VirtualEthernetCard
MACS = ("00:50:56:01:02:03", "00:50:56:01:02:04")
APP = SimVm(
    "app 50%",
    [SimDisk(capacity=1 << 20), SimDisk(capacity=2 << 20, controller="sata", unit=3)],
    folder="prod",
    nics=(
        SimNic(("10.1.2.10", "fe80::1"), network="VLAN-100", network_kind="distributed", mac=MACS[0]),
        SimNic(("10.9.0.10",), network="back", mac=MACS[1], kind="e1000e", start_connected=False, connected=True),
    ),
    hardware="vmx-15",
    cdrom="[datastore1] tools.iso",
    snapshots=("before", "after"),
    pool="Compute/Web",
    inner_ips=("172.17.0.1",),
)


@pytest.fixture(scope="module")
def pair(processes: Processes) -> Iterator[tuple[VCenterSimulator, VCenterSimulator]]:
    """A source and a destination, for all tests of this module: each works with VMs of its own."""
    with processes.lend() as take:
        source = take([APP, SimVm("gold", power="poweredOff", template=True)], task_seconds=0.01)
        destination = take([], task_seconds=0.01, instance_uuid="11111111-2222-4333-8444-555555555555")
        destination.add_network("L2E_VLAN-100", "nsx", segment="/infra/segments/L2E_VLAN-100", id="switch-1")
        destination.add_network("L2E_back", "opaque", segment="/infra/segments/L2E_back", id="switch-2")
        yield source, destination


def cards(vm: Any) -> list[Any]:
    return [device for device in vm.config.hardware.device if isinstance(device, Card)]


def moved(spec: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The order for the destination, as HCX would make it."""
    nets = {"VLAN-100": "/infra/segments/L2E_VLAN-100", "back": "L2E_back"}
    nics = [nic | {"network": nets.get(nic["network"], nic["network"])} for nic in spec["nics"]]
    return spec | {"nics": nics, "folder": "Workloads", "pool": "", "cdrom": "", "snapshots": []} | changes


def test_a_running_vm_moves_with_what_it_is(pair: tuple[VCenterSimulator, VCenterSimulator], connect: Any) -> None:
    source, destination = pair
    before = source.get_vm("app 50%")
    spec = before["spec"]
    assert (spec["folder"], spec["pool"], spec["hardware"], spec["power"]) == (
        "prod",
        "Compute/Web",
        "vmx-15",
        "poweredOn",
    )
    assert (spec["cdrom"], spec["snapshots"]) == ("[datastore1] tools.iso", ["before", "after"])
    assert [(disk["capacity"], disk["controller"], disk["unit"]) for disk in spec["disks"]] == [
        (1 << 20, "pvscsi", 0),
        (2 << 20, "sata", 3),
    ]
    assert [each["address"] for each in before["addresses"]] == ["10.1.2.10", "fe80::1", "10.9.0.10"]
    here = connect(source).vm("app 50%")
    destination.add_folder("Workloads")
    added = destination.add_vm(moved(spec))
    source.remove_vm("app 50%")
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = here.name
    assert "app 50%" not in {vm["name"] for vm in source.state()["vms"]}
    assert [one["vm"] for one in source.address_log() if not one["up"]] == ["app 50%"] * 3
    vm = connect(destination).vm("app 50%")
    assert (vm._moId, vm.parent.name, vm.runtime.powerState) == (added["moref"], "Workloads", "poweredOn")
    assert (vm.config.uuid, vm.config.instanceUuid) == (before["uuid"], before["instance_uuid"])
    first, second = cards(vm)
    assert [card.macAddress for card in (first, second)] == list(MACS)
    assert (first.connectable.connected, second.connectable.connected, second.connectable.startConnected) == (
        True,
        True,
        False,
    )
    assert first.backing.port.portgroupKey in {network._moId for network in vm.network}
    assert (second.backing.opaqueNetworkId, second.backing.opaqueNetworkType) == ("switch-2", "nsx.LogicalSwitch")
    assert {network.name for network in vm.network} == {"L2E_VLAN-100", "L2E_back"}
    told = {entry.deviceConfigId: list(entry.ipAddress) for entry in vm.guest.net}
    assert told == {-1: ["172.17.0.1"], 4000: ["10.1.2.10", "fe80::1"], 4001: ["10.9.0.10"]}
    assert vm.config.version == "vmx-15"
    again = destination.get_vm(added["moref"])
    assert again["spec"] == moved(spec) | {
        "nics": [nic | {"network": name} for nic, name in zip(spec["nics"], ("L2E_VLAN-100", "L2E_back"), strict=True)]
    }
    # and back to where it was, into the same files
    destination.remove_vm(added["moref"])
    back = source.add_vm(spec)
    assert source.get_vm(back["moref"])["spec"] == spec
    assert (back["path"], back["instance_uuid"]) == (before["path"], before["instance_uuid"])


def test_two_vcenters_are_two(pair: tuple[VCenterSimulator, VCenterSimulator], connect: Any) -> None:
    source, destination = pair
    assert destination.instance_uuid == "11111111-2222-4333-8444-555555555555"
    assert [connect(vc).si.content.about.instanceUuid for vc in pair] == [
        source.instance_uuid,
        destination.instance_uuid,
    ]
    assert source.instance_uuid != destination.instance_uuid
    # nothing is alike by accident: a VM of one place in both
    made = []
    for vc in pair:
        vc.add_network("alike")
        made.append(vc.add_vm(SimVm("alike", nics=(SimNic(network="alike"),))))
    for fact in ("uuid", "instance_uuid"):
        assert made[0][fact] != made[1][fact]
    assert made[0]["nics"][0]["mac"] != made[1]["nics"][0]["mac"]
    for vc in pair:
        vc.remove_vm("alike")


def test_a_card_keeps_its_address(pair: tuple[VCenterSimulator, VCenterSimulator], connect: Any) -> None:
    source, _ = pair
    source.add_network("first", "distributed", key="a-key-of-its-own")
    source.add_network("second", "opaque")
    source.add_vm(SimVm("cards", nics=(SimNic(("10.5.0.1",), network="first", mac="00:50:56:0a:0b:0c"),)))
    client: Client = connect(source)
    vm = client.vm("cards")
    (card,) = cards(vm)
    assert card.backing.port.portgroupKey == "a-key-of-its-own"
    assert {network.key for network in vm.network} == {"a-key-of-its-own"}
    source.set_nic("cards", mac="00:50:56:0A:0B:0C", network="second")
    (card,) = cards(vm)
    assert (card.macAddress, [network.name for network in vm.network]) == ("00:50:56:0a:0b:0c", ["second"])
    card.macAddress, card.connectable.connected = None, False
    change = vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[change])))
    (card,) = cards(vm)
    assert (card.macAddress, card.connectable.connected) == ("00:50:56:0a:0b:0c", False)
    source.add_nic("cards", SimNic(("10.5.0.2",), network="first"))
    source.set_nic("cards", key=4000, remove=True)
    (card,) = cards(vm)
    assert (card.key, [network.name for network in vm.network]) == (4001, ["first"])
    assert [one["address"] for one in source.get_vm("cards")["addresses"]] == ["10.5.0.2"]
    source.set_nic("cards", key=4001, remove=True)
    assert (cards(vm), list(vm.network), source.get_vm("cards")["spec"]["nics"]) == ([], [], [])
    source.rename_vm("cards", "cards_moved")
    assert (vm.name, vm.config.name, vm.guest.hostName) == ("cards_moved", "cards_moved", "cards")
    source.remove_vm("cards_moved")


def test_what_is_not_there_is_refused(pair: tuple[VCenterSimulator, VCenterSimulator], connect: Any) -> None:
    source, _ = pair
    source.add_network("twice", "nsx")
    source.add_network("twice", "nsx")
    first = next(net["moref"] for net in source.inventory()["networks"] if net["name"] == "twice")
    for vm, words in (
        (SimVm("x", nics=(SimNic(network="nowhere"),)), "no network is named .+nowhere"),
        (SimVm("x", nics=(SimNic(network="twice"),)), "2 networks are named"),
        (SimVm("x", nics=(SimNic(network=first),), folder="nowhere"), "no folder .+nowhere"),
        (SimVm("x", nics=(SimNic(network=first),), pool="nowhere"), "no resource pool .+nowhere"),
        (SimVm("x", nics=(SimNic(network=first),), datastore="nowhere"), "no datastore is named .+nowhere"),
        (SimVm("gold", nics=(SimNic(network=first),)), "already has"),
        (
            SimVm("x", nics=(SimNic(network=first),), instance_uuid=source.get_vm("gold")["instance_uuid"].upper()),
            "gold has",
        ),
    ):
        with pytest.raises(SimulatorError, match=words):
            source.add_vm(vm)
    with pytest.raises(SimulatorError, match="name of another network"):
        source.add_network("VM Network")
    # one that could not be finished is not there
    with pytest.raises(SimulatorError, match="capacity of 7 bytes"):
        source.add_vm(SimVm("x", [SimDisk(capacity=7)], nics=(SimNic(("10.7.0.1",), network=first),)))
    assert source.inventory()["networks"][-1]["vms"] == []
    assert "x" not in {vm.name for vm in connect(source).vms()}
    source.add_vm(SimVm("x", nics=(SimNic(network=first),)))
    with pytest.raises(SimulatorError, match="has cards of vm-"):
        source.remove_network(first)
    source.remove_vm("x")
    source.remove_network(first)
    source.remove_network("twice")
    with pytest.raises(SimulatorError, match="0 networks"):
        source.remove_network("twice")
    # through the API too, where the embedded simulator would die
    client: Client = connect(source)
    gold = client.vm("gold")
    card = vim.vm.device.VirtualVmxnet3(key=-1, backing=Card.NetworkBackingInfo(deviceName="nowhere"))
    config = vim.vm.ConfigSpec(
        name="made",
        files=vim.vm.FileInfo(vmPathName="[datastore1]"),
        deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="add", device=card)],
    )
    with pytest.raises(vim.fault.InvalidDeviceSpec):
        gold.parent.CreateVM_Task(config, gold.parent.parent.hostFolder.childEntity[0].resourcePool)
    with pytest.raises(vim.fault.InvalidDeviceSpec):
        gold.CloneVM_Task(
            gold.parent, "made", vim.vm.CloneSpec(location=vim.vm.RelocateSpec(), config=config, powerOn=False)
        )
    assert source.alive()


def test_facts_change_without_the_api(pair: tuple[VCenterSimulator, VCenterSimulator], connect: Any) -> None:
    source, _ = pair
    source.add_vm(
        SimVm("facts", [SimDisk(capacity=1 << 20)], nics=(SimNic(("10.6.0.1",)),), tools_after=0.2, power="poweredOff")
    )
    client: Client = connect(source)
    vm = client.vm("facts")
    source.set_vm("facts", power="poweredOn")
    assert (vm.runtime.powerState, vm.guest.toolsRunningStatus, list(vm.guest.net)) == (
        "poweredOn",
        "guestToolsNotRunning",
        [],
    )
    assert eventually(lambda: [list(entry.ipAddress) for entry in vm.guest.net] == [["10.6.0.1"]])
    source.set_vm("facts", snapshot="one")
    source.set_vm("facts", cdrom="[datastore1] x.iso")
    drive: Any = next(device for device in vm.config.hardware.device if isinstance(device, vim.vm.device.VirtualCdrom))
    assert (drive.backing.fileName, drive.connectable.connected) == ("[datastore1] x.iso", True)
    assert [node.name for node in vm.snapshot.rootSnapshotList] == ["one"]
    with pytest.raises(SimulatorError, match="is not off"):
        source.set_vm("facts", template=True)
    source.set_vm("facts", remove_snapshots=True)
    source.rule(kind="task", method="CreateSnapshot_Task", delay=60)
    task = vm.CreateSnapshot_Task("held up", "", False, False)
    with pytest.raises(SimulatorError, match=r"task-.* works on facts"):
        source.remove_vm("facts")
    source.clear_rules()
    client.done(task)
    source.set_vm("facts", remove_snapshots=True)
    source.set_vm("facts", power="poweredOff")
    source.set_vm("facts", template=True)
    source.set_vm("facts", cdrom="")
    spec = source.get_vm("facts")["spec"]
    assert (spec["template"], spec["power"], spec["cdrom"], spec["snapshots"]) == (True, "poweredOff", "", [])
    source.remove_vm("facts")
