"""Network cards, what connects them, the addresses that they hold, and power that nobody asked for."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest
from pyVmomi import vim
from tests.eventually import eventually

from wavelift.simulators.vcenter import (
    ADMIN,
    SimNic,
    SimShutdown,
    SimulatorError,
    SimUser,
    SimVm,
    VCenterSimulator,
)

pytestmark = pytest.mark.wire

Card = vim.vm.device.VirtualEthernetCard
Edit = vim.vm.device.VirtualDeviceSpec

TWO = (
    SimNic(("10.0.0.5", "fd00::5")),
    SimNic(
        ("10.1.0.5",), network="back", network_kind="distributed", kind="e1000e", start_connected=False, connected=True
    ),
)


@pytest.fixture
def vc(start_vc: Any) -> VCenterSimulator:
    found: VCenterSimulator = start_vc([SimVm("web01", nics=TWO), SimVm("off01", ip="10.0.0.6", power="poweredOff")])
    return found


def cards(vm: Any) -> list[Any]:
    return [device for device in vm.config.hardware.device if isinstance(device, Card)]


def edit(card: Any, **connection: bool) -> Any:
    for name, value in connection.items():
        setattr(card.connectable, name, value)
    return Edit(operation="edit", device=card)


def shown(vc: VCenterSimulator, name: str = "web01") -> dict[str, Any]:
    return next(vm for vm in vc.state()["vms"] if vm["name"] == name)


def held(vc: VCenterSimulator, name: str = "web01") -> list[str]:
    return [each["address"] for each in shown(vc, name)["addresses"]]


def told(vm: Any) -> list[tuple[bool, list[str]]]:
    return [(entry.connected, list(entry.ipAddress)) for entry in vm.guest.net]


def test_only_a_power_on_asks_what_start_connected_says(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    first, second = cards(vm)
    assert [type(card)._wsdlName for card in (first, second)] == ["VirtualVmxnet3", "VirtualE1000e"]
    assert second.backing.port.portgroupKey in {network._moId for network in vm.network}
    assert (first.macAddress != second.macAddress, held(vc)) == (True, ["10.0.0.5", "fd00::5", "10.1.0.5"])
    assert told(vm) == [(True, ["10.0.0.5", "fd00::5"]), (True, ["10.1.0.5"])]
    booted = vm.runtime.bootTime
    client.done(vm.PowerOffVM_Task())
    assert [card.connectable.connected for card in cards(vm)] == [False, False]
    assert (held(vc), told(vm)) == ([], [])
    client.done(vm.PowerOnVM_Task())
    assert [card.connectable.connected for card in cards(vm)] == [True, False]
    assert told(vm) == [(True, ["10.0.0.5", "fd00::5"]), (False, [])]
    assert (held(vc), vm.guest.ipAddress) == (["10.0.0.5", "fd00::5"], "10.0.0.5")
    assert vm.runtime.bootTime > booted


def test_an_edit_connects_at_once_while_the_vm_runs(vc: VCenterSimulator, client: Any) -> None:
    vm, off = client.vm("web01"), client.vm("off01")
    changes = [edit(card, connected=False, startConnected=False, allowGuestControl=False) for card in cards(vm)]
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=changes)))
    assert (held(vc), told(vm)) == ([], [(False, []), (False, [])])
    assert [nic["allow_guest_control"] for nic in shown(vc)["nics"]] == [False, False]
    (card,) = cards(off)
    client.done(off.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit(card, connected=True)])))
    assert cards(off)[0].connectable.connected is False


def test_a_snapshot_keeps_the_cards_as_they_were(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    snapshot = client.snapshot(vm)
    spec = vim.vm.ConfigSpec(deviceChange=[edit(cards(vm)[0], startConnected=False)])
    client.done(vm.ReconfigVM_Task(spec))
    frozen: list[Any] = [device for device in snapshot.config.hardware.device if isinstance(device, Card)]
    assert [card.connectable.startConnected for card in frozen] == [True, False]
    client.remove(snapshot)


def test_an_edit_of_an_older_version_is_refused(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    old = vm.config.changeVersion
    assert old
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="by somebody", changeVersion=old)))
    spec = vim.vm.ConfigSpec(deviceChange=[edit(cards(vm)[0], connected=False)], changeVersion=old)
    with pytest.raises(vim.fault.ConcurrentAccess):
        client.done(vm.ReconfigVM_Task(spec))
    assert shown(vc)["nics"][0]["connected"]


def test_settings_and_connection_are_two_privileges(start_vc: Any, connect: Any) -> None:
    names = ("VirtualMachine.Config.EditDevice", "VirtualMachine.Interact.DeviceConnection")
    users = [SimUser(f"user-{at}", "pw", without=(name,)) for at, name in enumerate(names)]
    vc = start_vc([SimVm("web01", nics=TWO)], users=(ADMIN, *users))
    for user, name in zip(users, names, strict=True):
        client = connect(vc, user.name, user.password)
        vm = client.vm("web01")
        with pytest.raises(vim.fault.NoPermission) as refused:
            vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit(cards(vm)[0], connected=False)]))
        assert refused.value.privilegeId == name
    vm = client.vm("web01")
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit(cards(vm)[0], startConnected=False)])))


def test_a_guest_may_ignore_a_shutdown_or_start_again(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("deaf", shutdown=SimShutdown("ignore")), SimVm("loop", shutdown=SimShutdown("reboot"))])
    client = connect(vc)
    deaf, loop = client.vm("deaf"), client.vm("loop")
    booted = loop.runtime.bootTime
    deaf.ShutdownGuest()
    loop.ShutdownGuest()
    assert eventually(lambda: loop.runtime.powerState == "poweredOn" and loop.runtime.bootTime > booted)
    assert deaf.runtime.powerState == "poweredOn"
    vc.rule(kind="task", method="ShutdownGuest", vm="loop", delay=3600)
    vc.set_vm("loop", shutdown={"how": "off"})
    loop.ShutdownGuest()
    with pytest.raises(vim.fault.TaskInProgress):
        loop.ShutdownGuest()
    vc.clear_rules()
    assert eventually(lambda: loop.runtime.powerState == "poweredOff")


def test_a_hard_stop_comes_before_a_slow_shutdown(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    vc.rule(kind="task", method="ShutdownGuest", delay=3600)
    vm.ShutdownGuest()
    client.done(vm.PowerOffVM_Task())
    client.done(vm.PowerOnVM_Task())
    vc.clear_rules()  # the request was the guest's that is gone
    client.remove(client.snapshot(vm))
    assert vm.runtime.powerState == "poweredOn"


@pytest.mark.parametrize("by", ["ha", "autostart"])
def test_a_vm_may_be_started_by_nobody(vc: VCenterSimulator, client: Any, by: str) -> None:
    before = shown(vc, "off01")["host"]
    vc.set_vm("off01", start_by=by)
    assert (shown(vc, "off01")["power"], held(vc, "off01")) == ("poweredOn", ["10.0.0.6"])
    assert (shown(vc, "off01")["host"] != before) is (by == "ha")
    for wrong in ("off01", "web01"):
        with pytest.raises(SimulatorError, match="not off"):
            vc.set_vm(wrong, start_by=by)
    vc.set_vm("off01", power="poweredOff")
    with pytest.raises(SimulatorError, match="ha or autostart"):
        vc.set_vm("off01", start_by="magic")


def test_the_log_knows_when_every_address_was_up(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    client.done(vm.PowerOffVM_Task())
    client.done(vm.PowerOnVM_Task())
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=[edit(cards(vm)[0], connected=False)])))
    log = vc.state()["address_log"]
    assert [(each["address"], each["up"]) for each in log] == [
        ("10.0.0.5", True),
        ("fd00::5", True),
        ("10.1.0.5", True),
        ("10.0.0.5", False),
        ("fd00::5", False),
        ("10.1.0.5", False),
        ("10.0.0.5", True),
        ("fd00::5", True),
        ("10.0.0.5", False),
        ("fd00::5", False),
    ]
    times = [datetime.fromisoformat(each["at"]) for each in log]
    assert times == sorted(times)
    assert {(each["vm"], each["moref"]) for each in log} == {("web01", vm._moId)}


def test_an_unknown_card_or_network_is_refused(vc: VCenterSimulator) -> None:
    with pytest.raises(SimulatorError, match="unknown network card"):
        vc.reset([SimVm("web01", nics=[SimNic(kind="token-ring")])])  # type: ignore[arg-type]
