"""Names with escapes, pairs, managed machines, left deltas, and how long events are kept."""

from __future__ import annotations

from typing import Any

import pytest
from pyVmomi import vim, vmodl

from wavelift.simulators.vcenter import SimDisk, SimulatorError, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

MIB = 1 << 20
DAY = 86400.0


def named(client: Any, name: str) -> list[Any]:
    return [vm for vm in client.vms() if vm.name == name]


def test_names_are_stored_with_escapes(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("shop/50%", [SimDisk(capacity=MIB)], folder="a%2fb/c")])
    client = connect(vc)
    (vm,) = named(client, "shop%2f50%25")
    assert (vm.parent.name, vm.parent.parent.name) == ("c", "a%2fb")
    assert vm.config.files.vmPathName == "[datastore1] shop_50%/shop_50%.vmx", "files have other names"
    (known,) = vc.state()["vms"]
    assert (known["name"], known["path"]) == ("shop/50%", "a%2fb/c/shop%2f50%25")
    client.remove(client.snapshot(vm))


def test_a_fault_tolerant_pair_is_one_name_and_two_machines(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("ft01", [SimDisk(capacity=MIB)], ft=half) for half in ("primary", "secondary")])
    client = connect(vc)
    primary, secondary = sorted(named(client, "ft01"), key=lambda vm: vm.config.ftInfo.role)
    assert (primary.config.ftInfo.role, secondary.config.ftInfo.role) == (1, 2)
    assert primary.config.uuid == secondary.config.uuid
    assert primary.config.ftInfo.instanceUuids == [primary.config.instanceUuid, secondary.config.instanceUuid]
    assert primary.config.ftInfo.secondaries == [secondary]
    assert secondary.config.ftInfo.primaryVM == primary
    with pytest.raises(vmodl.fault.NotSupported):
        client.snapshot(secondary)
    client.remove(client.snapshot(primary))


@pytest.mark.parametrize("machine", [SimVm("lone", ft="primary"), SimVm("x", managed_by="nobody")])
def test_what_does_not_fit_together_is_refused(start_vc: Any, machine: SimVm) -> None:
    with pytest.raises(SimulatorError, match=r"no secondary|extension/type"):
        start_vc([machine])


def test_a_left_delta_shows_in_the_chain_alone(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("left01", [SimDisk(capacity=MIB)], on_delta=True), SimVm("later01", [SimDisk(capacity=MIB)])])
    vc.set_vm("later01", leave_delta=True)
    client = connect(vc)
    for name in ("left01", "later01"):
        (vm,) = named(client, name)
        assert vm.snapshot is None
        assert not vm.runtime.consolidationNeeded
        (disk,) = client.devices(vm.config).values()
        assert disk.backing.fileName.endswith("-000001.vmdk")
        assert disk.backing.parent.fileName == f"[datastore1] {name}/{name}.vmdk"
        client.done(vm.ConsolidateVMDisks_Task())
        (disk,) = client.devices(vm.config).values()
        assert disk.backing.parent is None


# --- events ---------------------------------------------------------------------------------------------------


def events(client: Any) -> list[Any]:
    spec = vim.event.EventFilterSpec(eventTypeId=["VmMigratedEvent"])
    return list(client.si.content.eventManager.QueryEvents(spec))


@pytest.fixture
def moved(start_vc: Any) -> VCenterSimulator:
    vc: VCenterSimulator = start_vc([SimVm("web01", host="127.0.0.11")])
    vc.migrate("web01", "127.0.0.12")
    return vc


def test_events_go_by_age_as_the_settings_say(moved: VCenterSimulator, connect: Any) -> None:
    client = connect(moved)
    options = client.si.content.setting
    assert [(one.key, one.value) for one in options.QueryOptions("event.maxAge")] == [
        ("event.maxAge", 30),
        ("event.maxAgeEnabled", True),
    ]
    moved.forward_clock(29 * DAY)
    assert len(events(client)) == 1
    options.UpdateOptions([vim.option.OptionValue(key="event.maxAge", value=20)])
    assert events(client) == []
    options.UpdateOptions([vim.option.OptionValue(key="event.maxAgeEnabled", value=False)])
    assert len(events(client)) == 1, "the simulator hides what a vCenter would have removed"
    with pytest.raises(SimulatorError, match="goes back"):
        moved.forward_clock(-1)
    moved.migrate("web01", "127.0.0.11")
    assert len(events(client)) == 2
    moved.reset_clock()
    assert len(events(client)) == 1, "of the time that has not come there are no events"


def test_events_are_lost_on_order(moved: VCenterSimulator, connect: Any) -> None:
    client = connect(moved)
    moved.forget_events()
    assert events(client) == []
    moved.migrate("web01", "127.0.0.11")
    assert len(events(client)) == 1
    collector = client.si.content.eventManager.CreateCollectorForEvents(
        vim.event.EventFilterSpec(eventTypeId=["VmMigratedEvent"])
    )
    assert len(collector.ReadNextEvents(10)) == 1
    collector.DestroyCollector()
