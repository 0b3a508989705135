"""Shutting down, powering and fencing a VM, against the simulator: asked twice, cut off, refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from pyVmomi import vim
from tests.depth import examples
from tests.eventually import eventually
from tests.vcenters import Take

from wavelift.adapters.vsphere import switch
from wavelift.adapters.vsphere.inventory import list_summaries, resolve
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.switch import (
    CardsChangedError,
    ToolsError,
    fence,
    power_off,
    power_on,
    power_state,
    read_cards,
    shut_down_guest,
    unfence,
)
from wavelift.base.domain import NicFacts
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    GuardError,
    MissingPrivilegeError,
    NotFoundError,
    UnreachableError,
)
from wavelift.base.run import CancelFlag
from wavelift.rules.wave import Selector
from wavelift.simulators.vcenter import ADMIN, SimNic, SimUser, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]

SERVER = "web01"
CARDS = (
    SimNic(("10.0.0.5", "fd00::5"), network="front", network_kind="distributed"),
    SimNic(("10.1.0.5",), kind="e1000e", start_connected=False, connected=True, allow_guest_control=False),
    SimNic(("10.2.0.5",), network="back", network_kind="opaque", connected=False),
)
RUNNING = {"task": {"type": "Task", "value": "task-1"}}
OTHER = SimUser("other", "other-pw")
VMS = [
    SimVm(SERVER, nics=CARDS),
    SimVm("off01", nics=CARDS, power="poweredOff"),
    SimVm("mute01", tools="not_running"),
    SimVm("asleep01", power="suspended"),
    SimVm("bare01", nics=()),
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(switch, "POLL_S", 0.01)


@pytest.fixture
def vc(start_vc: Take) -> VCenterSimulator:
    return start_vc(VMS, users=(ADMIN, OTHER), task_seconds=0.01)


@pytest.fixture
def session(vc: VCenterSimulator, config_of: Configure) -> Iterator[VsphereSession]:
    with connect(config_of(vc)) as opened:
        yield opened


def shown(vc: VCenterSimulator, name: str = SERVER) -> dict[str, Any]:
    return next(vm for vm in vc.state()["vms"] if vm["name"] == name)


def ref(vc: VCenterSimulator, name: str = SERVER) -> str:
    return str(shown(vc, name)["moref"])


def calls(vc: VCenterSimulator, method: str) -> int:
    return int(vc.counters()["methods"].get(method, 0))


def connections(vc: VCenterSimulator, name: str = SERVER) -> list[tuple[bool, bool, bool]]:
    return [(nic["start_connected"], nic["connected"], nic["allow_guest_control"]) for nic in shown(vc, name)["nics"]]


def held(vc: VCenterSimulator, name: str = SERVER) -> list[str]:
    return [each["address"] for each in shown(vc, name)["addresses"]]


FENCED = [(False, False, False)] * 3
AS_MADE = [(True, True, True), (False, True, False), (True, False, True)]


# --- reading --------------------------------------------------------------------------------------------------------


def test_cards_with_their_networks_and_addresses(vc: VCenterSimulator, session: VsphereSession) -> None:
    front, middle, back = read_cards(session, ref(vc), server=SERVER)
    assert (front.key, front.label, front.kind) == (4000, "Network adapter 1", "vmxnet3")
    assert (front.network, front.network_kind) == ("front", "distributed")
    assert front.network_moref.startswith("dvportgroup-")
    assert (middle.kind, middle.network, middle.network_kind) == ("e1000e", "VM Network", "standard")
    assert (back.network, back.network_kind) == ("back", "opaque")  # the card itself has only an id of NSX
    assert back.network_moref.startswith("opaquenetwork-")
    assert [nic.addresses for nic in (front, middle, back)] == [("10.0.0.5", "fd00::5"), ("10.1.0.5",), ()]
    assert [nic.connection for nic in (front, middle, back)] == AS_MADE
    assert len({nic.mac for nic in (front, middle, back)}) == 3
    assert read_cards(session, ref(vc, "bare01")) == ()
    (found,) = resolve(session, [Selector(kind="name", value=SERVER)])
    assert found.servers[0].nics == (front, middle, back)


def test_a_portgroup_whose_name_may_not_be_read_is_shown_by_its_id(
    vc: VCenterSimulator, session: VsphereSession
) -> None:
    vc.rule(kind="fault", method="RetrievePropertiesEx", fault="NoPermission", args={"privilegeId": "a"}, skip=1)
    assert read_cards(session, ref(vc))[0].network.startswith("dvportgroup-")


def test_power_and_boot_time(vc: VCenterSimulator, session: VsphereSession) -> None:
    first = power_state(session, ref(vc))
    assert (first.on, first.off, first.tools_running) == (True, False, True)
    assert first.booted
    assert power_off(session, ref(vc), server=SERVER, cancel=CancelFlag())
    off = power_state(session, ref(vc))
    assert (off.on, off.off, off.tools_running, off.booted) == (False, True, False, "")
    assert power_on(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert power_state(session, ref(vc)).booted > first.booted
    asleep = power_state(session, ref(vc, "asleep01"))
    assert (asleep.on, asleep.off) == (False, False)


# --- power ----------------------------------------------------------------------------------------------------------


def test_what_is_so_already_takes_no_call(vc: VCenterSimulator, session: VsphereSession) -> None:
    assert not power_on(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert not power_off(session, ref(vc, "off01"), server="off01", cancel=CancelFlag())
    assert not shut_down_guest(session, ref(vc, "off01"), server="off01")
    assert [calls(vc, name) for name in ("PowerOnVM_Task", "PowerOffVM_Task", "ShutdownGuest")] == [0, 0, 0]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_power_is_replaced_by_a_look(vc: VCenterSimulator, session: VsphereSession, when: str) -> None:
    vc.rule(kind="drop", method="PowerOffVM_Task", action=when)
    assert power_off(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert shown(vc)["power"] == "poweredOff"
    vc.rule(kind="drop", method="PowerOnVM_Task", action=when)
    assert power_on(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert shown(vc)["power"] == "poweredOn"
    assert [rule["hits"] for rule in vc.rules()] == [1, 1]


def test_a_suspended_vm_keeps_its_memory(vc: VCenterSimulator, session: VsphereSession) -> None:
    vm = ref(vc, "asleep01")
    with pytest.raises(GuardError, match="suspended"):
        power_off(session, vm, server="asleep01", cancel=CancelFlag())
    with pytest.raises(GuardError, match="suspended"):
        shut_down_guest(session, vm, server="asleep01")
    assert shown(vc, "asleep01")["power"] == "suspended"


def test_no_room_is_no_matter_of_patience(vc: VCenterSimulator, session: VsphereSession) -> None:
    vc.rule(kind="task", method="PowerOnVM_Task", fault="InsufficientResourcesFault")
    with pytest.raises(GuardError, match="resources"):
        power_on(session, ref(vc, "off01"), server="off01", cancel=CancelFlag())
    assert calls(vc, "PowerOnVM_Task") == 1


def test_another_task_is_waited_for_and_patience_ends(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    vc.rule(kind="fault", method="PowerOffVM_Task", fault="TaskInProgress", args=RUNNING, times=3)
    assert power_off(session, ref(vc), server=SERVER, cancel=CancelFlag())
    monkeypatch.setattr(switch, "PATIENCE_S", 0.05)
    vc.rule(kind="fault", method="PowerOnVM_Task", fault="TaskInProgress", args=RUNNING, times=0)
    with pytest.raises(BusyError, match="another task"):
        power_on(session, ref(vc), server=SERVER, cancel=CancelFlag())


def test_a_cancel_ends_it_before_the_next_call(vc: VCenterSimulator, session: VsphereSession) -> None:
    cancel = CancelFlag()
    cancel.set()
    with pytest.raises(Cancelled):
        power_off(session, ref(vc), server=SERVER, cancel=cancel)
    assert calls(vc, "PowerOffVM_Task") == 0


# --- the guest ------------------------------------------------------------------------------------------------------


def test_the_guest_shuts_down_or_ignores_it_or_starts_again(vc: VCenterSimulator, session: VsphereSession) -> None:
    vm, first = ref(vc), power_state(session, ref(vc)).booted
    vc.set_vm(SERVER, shutdown={"how": "ignore"})
    assert shut_down_guest(session, vm, server=SERVER)
    vc.set_vm(SERVER, shutdown={"how": "reboot"})
    assert eventually(lambda: _asked(session, vm))
    assert eventually(lambda: (now := power_state(session, vm)).on and now.booted > first)
    vc.set_vm(SERVER, shutdown={"how": "off"})
    assert shut_down_guest(session, vm, server=SERVER)
    assert eventually(lambda: power_state(session, vm).off)


def _asked(session: VsphereSession, vm: str) -> bool:
    try:
        return shut_down_guest(session, vm, server=SERVER)
    except BusyError:
        return False


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_the_shutdown(vc: VCenterSimulator, session: VsphereSession, when: str) -> None:
    vc.rule(kind="drop", method="ShutdownGuest", action=when)
    assert shut_down_guest(session, ref(vc), server=SERVER)
    assert eventually(lambda: power_state(session, ref(vc)).off)


def test_no_shutdown_without_tools(vc: VCenterSimulator, session: VsphereSession) -> None:
    with pytest.raises(ToolsError, match="do not run in it"):
        shut_down_guest(session, ref(vc, "mute01"), server="mute01")
    assert calls(vc, "ShutdownGuest") == 0
    vc.rule(kind="fault", method="ShutdownGuest", fault="ToolsUnavailable")
    with pytest.raises(ToolsError, match="ToolsUnavailable"):
        shut_down_guest(session, ref(vc), server=SERVER)


# --- the fence ------------------------------------------------------------------------------------------------------


def test_a_fence_takes_one_edit_and_holds_whoever_powers_the_vm_on(
    vc: VCenterSimulator, session: VsphereSession
) -> None:
    vm = ref(vc)
    stored = json.loads(json.dumps([nic.dump() for nic in fence(session, vm, server=SERVER, cancel=CancelFlag())]))
    before = [NicFacts.load(each) for each in stored]
    assert [nic.connection for nic in before] == AS_MADE
    assert (connections(vc), held(vc), calls(vc, "ReconfigVM_Task")) == (FENCED, [], 1)
    again = fence(session, vm, server=SERVER, cancel=CancelFlag())
    assert all(nic.fenced for nic in again)
    assert fence(session, vm, server=SERVER, cancel=CancelFlag(), before=before) == tuple(before)
    assert calls(vc, "ReconfigVM_Task") == 1
    for start in ("ha", "autostart"):
        assert power_off(session, vm, server=SERVER, cancel=CancelFlag())
        vc.set_vm(SERVER, start_by=start)
        assert (shown(vc)["power"], connections(vc), held(vc)) == ("poweredOn", FENCED, [])
    assert unfence(session, vm, before, server=SERVER, cancel=CancelFlag())
    assert (connections(vc), held(vc)) == (AS_MADE, ["10.0.0.5", "fd00::5", "10.1.0.5"])
    assert not unfence(session, vm, before, server=SERVER, cancel=CancelFlag())


def test_while_off_only_the_settings_come_back(vc: VCenterSimulator, session: VsphereSession) -> None:
    vm, cancel = ref(vc), CancelFlag()
    before = read_cards(session, vm)
    power_off(session, vm, server=SERVER, cancel=cancel)
    fence(session, vm, server=SERVER, cancel=cancel, before=before)
    assert unfence(session, vm, before, server=SERVER, cancel=cancel)
    assert connections(vc) == [(True, False, True), (False, False, False), (True, False, True)]
    assert not unfence(session, vm, before, server=SERVER, cancel=cancel)
    power_on(session, vm, server=SERVER, cancel=cancel)
    assert unfence(session, vm, before, server=SERVER, cancel=cancel)
    assert connections(vc) == AS_MADE


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_to_the_fence(vc: VCenterSimulator, session: VsphereSession, when: str) -> None:
    vc.rule(kind="drop", method="ReconfigVM_Task", action=when)
    before = fence(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert ([nic.connection for nic in before], connections(vc)) == (AS_MADE, FENCED)
    vc.rule(kind="drop", method="ReconfigVM_Task", action=when)
    assert unfence(session, ref(vc), before, server=SERVER, cancel=CancelFlag())
    assert connections(vc) == AS_MADE


def test_a_change_at_the_same_time_is_read_before_it_is_fenced(
    vc: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    """Somebody connects a card between our look and our edit: the edit is refused, and what was is read anew."""
    vm = ref(vc)
    vc.rule(kind="latency", method="ReconfigVM_Task", user=ADMIN.name, delay=3600)
    result: list[tuple[NicFacts, ...]] = []
    worker = threading.Thread(
        target=lambda: result.append(fence(session, vm, server=SERVER, cancel=CancelFlag())), daemon=True
    )
    worker.start()
    assert eventually(lambda: any(rule["hits"] for rule in vc.rules()))
    with connect(config_of(vc, username=OTHER.name, password=OTHER.password)) as theirs:
        third = read_cards(theirs, vm)[2]
        now_on = third.model_copy(update={"connected": True})
        assert unfence(theirs, vm, (*read_cards(theirs, vm)[:2], now_on), server=SERVER, cancel=CancelFlag())
    vc.clear_rules()
    worker.join(60)
    assert [nic.connection for nic in result[0]] == [*AS_MADE[:2], (True, True, True)]
    assert connections(vc) == FENCED


def test_patience_with_changes_at_the_same_time_ends(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "PATIENCE_S", 0.05)
    vc.rule(kind="task", method="ReconfigVM_Task", fault="ConcurrentAccess", times=0)
    with pytest.raises(BusyError, match="at the same time"):
        fence(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert connections(vc) == AS_MADE


def test_a_card_that_was_not_there_before_stops_everything(vc: VCenterSimulator, session: VsphereSession) -> None:
    vm = ref(vc)
    before = read_cards(session, vm)
    replaced = (*before[:2], before[2].model_copy(update={"mac": "00:50:56:00:00:01"}))
    for other in (before[:2], replaced, (*before, before[0].model_copy(update={"key": 4007}))):
        with pytest.raises(CardsChangedError, match="were stored"):
            fence(session, vm, server=SERVER, cancel=CancelFlag(), before=other)
        with pytest.raises(CardsChangedError, match="4000"):
            unfence(session, vm, other, server=SERVER, cancel=CancelFlag())
    assert (connections(vc), calls(vc, "ReconfigVM_Task")) == (AS_MADE, 0)


def test_a_vm_without_cards_is_fenced_as_it_is(vc: VCenterSimulator, session: VsphereSession) -> None:
    vm = ref(vc, "bare01")
    assert fence(session, vm, server="bare01", cancel=CancelFlag()) == ()
    assert not unfence(session, vm, (), server="bare01", cancel=CancelFlag())


# --- refusals -------------------------------------------------------------------------------------------------------

EDIT, CONNECTION = "VirtualMachine.Config.EditDevice", "VirtualMachine.Interact.DeviceConnection"
OFF, ON = "VirtualMachine.Interact.PowerOff", "VirtualMachine.Interact.PowerOn"


def test_every_missing_privilege_is_named(start_vc: Take, config_of: Configure) -> None:
    users = [SimUser(f"no-{at}", "pw", without=(name,)) for at, name in enumerate((EDIT, CONNECTION, OFF, ON))]
    vc = start_vc(VMS, users=(ADMIN, *users), task_seconds=0.01)
    on, off, cancel = ref(vc), ref(vc, "off01"), CancelFlag()

    def refused(user: SimUser, act: Callable[[VsphereSession], object]) -> str:
        with (
            connect(config_of(vc, username=user.name, password=user.password)) as session,
            pytest.raises(MissingPrivilegeError) as refusal,
        ):
            act(session)
        return str(refusal.value.where["privilege"])

    def fencing(session: VsphereSession) -> object:
        return fence(session, on, server=SERVER, cancel=cancel)

    assert refused(users[0], fencing) == EDIT
    assert refused(users[1], fencing) == CONNECTION
    assert refused(users[2], lambda session: power_off(session, on, server=SERVER, cancel=cancel)) == OFF
    assert refused(users[2], lambda session: shut_down_guest(session, on, server=SERVER)) == OFF
    assert refused(users[3], lambda session: power_on(session, off, server="off01", cancel=cancel)) == ON
    assert connections(vc) == AS_MADE


def test_a_vm_that_is_gone(vc: VCenterSimulator, session: VsphereSession) -> None:
    cancel = CancelFlag()
    acts: list[Callable[[str], object]] = [
        lambda vm: power_state(session, vm),
        lambda vm: read_cards(session, vm),
        lambda vm: shut_down_guest(session, vm, server=SERVER),
        lambda vm: power_off(session, vm, server=SERVER, cancel=cancel),
        lambda vm: power_on(session, vm, server=SERVER, cancel=cancel),
        lambda vm: fence(session, vm, server=SERVER, cancel=cancel),
        lambda vm: unfence(session, vm, (), server=SERVER, cancel=cancel),
    ]
    for act in acts:
        with pytest.raises(NotFoundError):
            act("vm-4711")


@pytest.mark.parametrize("untold", ["config.hardware.device", "runtime.powerState"])
def test_cards_that_vcenter_does_not_tell_are_not_taken_for_none(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch, untold: str
) -> None:
    monkeypatch.setattr(switch, "_PATHS", tuple(path for path in switch._PATHS if path != untold))
    with pytest.raises(UnreachableError, match="does not tell"):
        fence(session, ref(vc), server=SERVER, cancel=CancelFlag())


def test_vcenter_away_is_borne_for_the_time_of_patience_only(
    vc: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "PATIENCE_S", 0.05)
    vc.rule(kind="drop", method="PowerOffVM_Task", action="before", times=0)
    with pytest.raises(UnreachableError):
        power_off(session, ref(vc), server=SERVER, cancel=CancelFlag())
    assert shown(vc)["power"] == "poweredOn"


# --- any order ------------------------------------------------------------------------------------------------------

flags = st.booleans()


@examples(5, 60, allow=[HealthCheck.function_scoped_fixture])
@given(
    cards=st.lists(st.tuples(flags, flags, flags), max_size=3),
    on=flags,
    between=st.lists(st.sampled_from(["ha", "off", "fence", "cut"]), max_size=4),
)
def test_whatever_the_cards_were_they_are_again(
    vc: VCenterSimulator, config_of: Configure, cards: list[tuple[bool, bool, bool]], on: bool, between: list[str]
) -> None:
    """Fenced while on or off, by cut calls too; between, anybody may power the VM. Then all is as it was."""
    nics = [
        SimNic((f"10.0.{at}.5",), start_connected=start, connected=connected, allow_guest_control=guest)
        for at, (start, connected, guest) in enumerate(cards)
    ]
    vm = SimVm(SERVER, nics=nics, power="poweredOn" if on else "poweredOff")
    vc.reset([vm], task_seconds=0.001)
    with connect(config_of(vc)) as session:
        _round_trip(vc, session, between)


def _round_trip(vc: VCenterSimulator, session: VsphereSession, between: list[str]) -> None:
    vm, cancel = ref(vc), CancelFlag()
    before, was, power = read_cards(session, vm), connections(vc), shown(vc)["power"]
    fence(session, vm, server=SERVER, cancel=cancel, before=before)
    for event in between:
        if event == "ha" and shown(vc)["power"] == "poweredOff":
            vc.set_vm(SERVER, start_by="ha")
        elif event == "off":
            power_off(session, vm, server=SERVER, cancel=cancel)
        elif event == "fence":
            assert fence(session, vm, server=SERVER, cancel=cancel, before=before) == before
        elif event == "cut":
            vc.rule(kind="drop", method="ReconfigVM_Task", action="after")
        assert held(vc) == []
    unfence(session, vm, before, server=SERVER, cancel=cancel)
    switch_back = power_on if power == "poweredOn" else power_off
    switch_back(session, vm, server=SERVER, cancel=cancel)
    unfence(session, vm, before, server=SERVER, cancel=cancel)
    assert (connections(vc), shown(vc)["power"]) == (was, power)
    assert [nic.connection for nic in read_cards(session, vm)] == [nic.connection for nic in before]


def test_the_list_of_servers_needs_no_card(session: VsphereSession) -> None:
    assert {vm.name for vm in list_summaries(session)} == {vm.name for vm in VMS}


def test_an_edit_of_anything_else_is_refused_by_the_simulator(vc: VCenterSimulator, session: VsphereSession) -> None:
    """Else a test of the fence could pass although it also moved a card to another network."""
    target = session.managed(vim.VirtualMachine, ref(vc))
    card = next(d for d in target.config.hardware.device if isinstance(d, vim.vm.device.VirtualEthernetCard))
    card.macAddress = "00:50:56:00:00:01"
    spec = vim.vm.ConfigSpec(deviceChange=[vim.vm.device.VirtualDeviceSpec(operation="edit", device=card)])
    task = target.ReconfigVM_Task(spec)
    assert eventually(lambda: str(task.info.state) == "error")
