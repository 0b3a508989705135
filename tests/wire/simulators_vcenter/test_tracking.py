"""Change tracking: ids and QueryChangedDiskAreas against what was really written."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.eventually import eventually

from wavelift.simulators.kit.process import SimulatorError
from wavelift.simulators.vcenter import SimDisk, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

KIB, MIB = 1 << 10, 1 << 20
GRANULE = 64 * KIB
MIXED = 4 * MIB - 61 * KIB
"""Bytes of `a`."""


def enable(client: Any, vm: Any) -> None:
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)))


def change_id(client: Any, config: Any, key: int = 2000) -> str | None:
    found: str | None = client.devices(config)[key].backing.changeId
    return found


def areas(vm: Any, snapshot: Any, changed_since: str, key: int = 2000, capacity: int = 0) -> list[tuple[int, int]]:
    """Asked again until the answers cover the disk, as one must."""
    capacity = capacity or (MIXED if key == 2000 else 4 * MIB)
    found, at = [], 0
    while at < capacity:
        answer = vm.QueryChangedDiskAreas(snapshot, key, at, changed_since)
        assert answer.startOffset == at
        assert answer.length > 0
        found += [(a.start, a.length) for a in answer.changedArea]
        at += answer.length
    return found


def covered(found: list[tuple[int, int]], offset: int, length: int) -> bool:
    wanted = set(range(offset // GRANULE, (offset + length - 1) // GRANULE + 1))
    have = {g for start, size in found for g in range(start // GRANULE, (start + size + GRANULE - 1) // GRANULE)}
    return wanted <= have


def test_the_flag_takes_effect_at_the_next_stun_only(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    enable(client, vm)
    assert vm.config.changeTrackingEnabled is True
    assert change_id(client, vm.config) is None
    snapshot = client.snapshot(vm)
    lineage, _, number = (change_id(client, snapshot.config) or "").partition("/")
    assert len(lineage) == 36
    assert number == "1"
    client.remove(snapshot)
    assert change_id(client, vm.config) == f"{lineage}/1"
    vm.QueryChangedDiskAreas(client.snapshot(vm), 2000, 0, f"{lineage}/1")


def test_areas_are_what_was_written_between_two_snapshots(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    vc = start_vc(inventory, changed_area_window=MIB)
    client = connect(vc)
    vm = client.vm("web01")
    enable(client, vm)
    first = client.snapshot(vm, "first")
    before = change_id(client, first.config) or ""
    other = change_id(client, first.config, 16001) or ""
    client.remove(first)  # ids outlive their snapshot
    noise = random.Random(3)
    writes = [(noise.randrange(0, 3 * MIB), noise.randrange(1, 100_000)) for _ in range(12)]
    for offset, length in writes:
        vc.guest_write("web01", 0, offset, noise.randbytes(length))
    second = client.snapshot(vm, "second")
    vc.guest_write("web01", 0, MIXED - KIB, b"after the second one")
    found = areas(vm, second, before)
    assert all(covered(found, offset, length) for offset, length in writes)
    granules = {g for o, n in writes for g in range(o // GRANULE, (o + n - 1) // GRANULE + 1)}
    assert sum(length for _, length in found) == len(granules) * GRANULE
    assert areas(vm, second, change_id(client, second.config) or "") == []
    assert areas(vm, second, other, key=16001) == []


def test_star_reports_areas_in_use_in_allocation_units(
    start_vc: Any, connect: Any, raws: dict[str, Path], content: dict[str, bytes]
) -> None:
    client = connect(start_vc([SimVm("web01", [SimDisk(raws["large"])])]))
    vm, image = client.vm("web01"), content["large"]
    enable(client, vm)
    found = areas(vm, client.snapshot(vm), "*", capacity=len(image))
    data = [at for at in range(0, len(image), GRANULE) if image[at : at + GRANULE].strip(b"\0")]
    assert all(covered(found, at, 1) for at in data)
    assert all(start % MIB == 0 for start, _ in found)
    assert sum(length for _, length in found) < 8 * MIB


def test_refusals(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    off = client.snapshot(vm)
    with pytest.raises(vim.fault.FileFault):  # tracking is off
        vm.QueryChangedDiskAreas(off, 2000, 0, "*")
    with pytest.raises(vim.fault.InvalidState):  # a snapshot stands
        enable(client, vm)
    client.remove(off)
    enable(client, vm)
    snapshot = client.snapshot(vm)
    known = change_id(client, snapshot.config) or ""
    for wrong in ("00000000-0000-0000-0000-000000000000/1", known.rpartition("/")[0] + "/77"):
        with pytest.raises(vim.fault.FileFault):
            vm.QueryChangedDiskAreas(snapshot, 2000, 0, wrong)
    for arguments in (
        (snapshot, 2000, 0, "nonsense"),
        (snapshot, 2001, 0, known),
        (snapshot, 2000, 1 << 40, known),
        (None, 2000, 0, known),
    ):
        with pytest.raises(Exception, match="InvalidArgument"):
            vm.QueryChangedDiskAreas(*arguments)


def test_a_revert_starts_a_new_lineage_unless_told_to_lie(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    enable(client, vm)
    snapshot = client.snapshot(vm)
    before = (change_id(client, snapshot.config) or "").partition("/")[0]
    vc.rule(kind="revert_keeps_change_id")
    client.done(snapshot.RevertToSnapshot_Task())
    assert (change_id(client, vm.config) or "").partition("/")[0] == before
    client.done(snapshot.RevertToSnapshot_Task())
    assert (change_id(client, vm.config) or "").partition("/")[0] != before


def test_rules_that_lie_about_areas(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    enable(client, vm)
    before = change_id(client, client.snapshot(vm).config) or ""
    vc.guest_write("web01", 0, MIB, b"x")
    vc.guest_write("web01", 0, 3 * MIB, b"x")
    now = client.snapshot(vm)
    true = areas(vm, now, before)
    assert len(true) == 2
    vc.rule(kind="cbt", action="few_areas")
    assert areas(vm, now, before) == true[1:]
    vc.rule(kind="cbt", action="whole_disk")
    assert areas(vm, now, before) == [(0, MIXED)]
    vc.rule(kind="cbt", action="fault", fault="FileFault", args={"file": "x"})
    with pytest.raises(vim.fault.FileFault):
        areas(vm, now, before)


def test_a_host_that_fails_starts_a_new_lineage_unless_told_to_lie(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    enable(client, vm)
    client.remove(client.snapshot(vm))
    before = change_id(client, vm.config)
    host = vm.runtime.host.name
    vc.rule(kind="power_loss_keeps_change_id")
    vc.set_vm("web01", power_loss=True)
    assert (change_id(client, vm.config), vm.runtime.powerState) == (before, "poweredOn")
    assert vm.runtime.host.name != host, "HA started it on another one"
    vc.set_vm("web01", power_loss=True)
    assert (change_id(client, vm.config) or "").partition("/")[0] != (before or "").partition("/")[0]
    with pytest.raises(SimulatorError, match="does not run"):
        vc.set_vm("off01", power_loss=True)


def test_a_disk_grows_under_its_old_change_id(vc: VCenterSimulator, client: Any, content: dict[str, bytes]) -> None:
    vm = client.vm("web01")
    enable(client, vm)
    first = client.snapshot(vm)
    before = change_id(client, first.config) or ""
    with pytest.raises(SimulatorError, match="not under snapshots"):
        vc.set_vm("web01", grow={"disk": 0, "capacity": 8 * MIB})
    client.remove(first)
    vc.set_vm("web01", grow={"disk": 0, "capacity": 8 * MIB})
    assert client.devices(vm.config)[2000].capacityInBytes == 8 * MIB
    vc.guest_write("web01", 0, 7 * MIB, b"new")
    now = client.snapshot(vm)
    assert (change_id(client, now.config) or "").partition("/")[0] == before.partition("/")[0]
    answer = vm.QueryChangedDiskAreas(now, 2000, 0, before)
    assert [(a.start, a.length) for a in answer.changedArea] == [(7 * MIB, GRANULE)]
    assert vc.guest_read("web01", 0, 0, 1000) == content["a"][:1000]
    assert vc.guest_read("web01", 0, 7 * MIB, 4) == b"new\0"
    for capacity in (1, 8 * MIB, 9 * MIB + 1):
        with pytest.raises(SimulatorError):
            vc.set_vm("web01", grow={"disk": 0, "capacity": capacity})


def test_disks_come_and_go(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    enable(client, vm)
    client.remove(client.snapshot(vm))
    old = client.devices(vm.config)[16001].backing
    vc.set_vm("web01", remove_disk=1)
    assert list(client.devices(vm.config)) == [2000]
    vc.set_vm("web01", add_disk={"capacity": 2 * MIB, "controller": "sata", "unit": 1})
    new = client.devices(vm.config)[16001].backing
    assert (new.uuid == old.uuid, new.fileName == old.fileName) == (False, False)
    assert change_id(client, vm.config, 16001) is None, "not before the next stun"
    assert {disk.key for disk in vm.layoutEx.disk} == {2000, 16001}
    snapshot = client.snapshot(vm)
    assert change_id(client, snapshot.config, 16001)
    for wrong in (
        {"remove_disk": 0},
        {"remove_disk": 7},
        {"add_disk": {"capacity": MIB, "controller": "sata", "unit": 1}},
    ):
        with pytest.raises(SimulatorError):
            vc.set_vm("web01", **wrong)
    client.remove(snapshot)


def test_events_are_kept_by_vcenters_own_clock(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    vc = start_vc(inventory, clock_skew=3600)
    client = connect(vc)
    vm = client.vm("web01")
    now = client.si.CurrentTime()
    snapshot = client.snapshot(vm)
    client.done(snapshot.RevertToSnapshot_Task())
    client.done(vm.PowerOnVM_Task())
    vm.ShutdownGuest()
    vc.set_vm("web01", hardware="vmx-21")
    spec = vim.event.EventFilterSpec
    entity = spec.ByEntity(entity=vm, recursion="self")
    wanted = spec(entity=entity, time=spec.ByTime(beginTime=now))
    found: list[Any] = []

    def switched_off() -> bool:
        collector = client.si.content.eventManager.CreateCollectorForEvents(wanted)
        found[:] = collector.ReadNextEvents(100)
        collector.DestroyCollector()
        return any(isinstance(event, vim.event.VmPoweredOffEvent) for event in found)

    assert eventually(switched_off)
    told = [
        e.info.descriptionId if isinstance(e, vim.event.TaskEvent) else getattr(e, "eventTypeId", type(e).__name__)
        for e in found
    ]
    assert told == [
        "VirtualMachine.createSnapshot",
        "vm.Snapshot.revert",
        "com.vmware.vc.vm.VmStateRevertedToSnapshot",
        "VirtualMachine.powerOn",
        "vim.event.VmPoweredOnEvent",
        "vim.event.VmGuestShutdownEvent",
        "vim.event.VmPoweredOffEvent",
    ]
    assert all(0 <= (e.createdTime - now).total_seconds() < 600 for e in found)
    assert vm.config.version == "vmx-21"
