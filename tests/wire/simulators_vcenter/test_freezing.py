"""Snapshots freeze content and configuration while the guest goes on writing."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim

from wavelift.simulators.vcenter import SimDisk, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

MIB = 1 << 20
PVSCSI, SATA = "ParaVirtualSCSIController0:0", "VirtualAHCIController0:1"


@pytest.mark.parametrize("body", ["footer", "qemu"])
def test_an_export_holds_what_the_disk_held_at_the_snapshot(
    start_vc: Any, connect: Any, inventory: list[SimVm], decoded: Any, body: str
) -> None:
    vc = start_vc(inventory, evidence=True, body=body)
    client = connect(vc)
    vc.guest_write("web01", 0, 1000, b"before the snapshot")
    vc.start_writer(rate=8 * MIB, size=65536)
    snapshot = client.snapshot(client.vm("web01"))
    vc.guest_write("web01", 0, 1000, b"after the snapshot!")
    written = vc.state()["writer"]["writes"]
    lease = client.settled(snapshot.ExportSnapshot())
    bodies = {label: decoded(client.disk(lease, label)) for label in (PVSCSI, SATA)}
    vc.stop_writer()
    assert vc.state()["writer"]["writes"] > written
    lease.HttpNfcLeaseComplete()
    client.remove(snapshot)
    # the writer also wrote before the snapshot, so the evidence says what was frozen; written after its removal
    evidence = {d["label"]: Path(d["file"]).read_bytes() for d in vc.evidence()[0]["disks"]}
    assert bodies == evidence
    assert bodies[PVSCSI][1000:1019] == b"before the snapshot"
    assert vc.guest_read("web01", 0, 0, MIB) != bodies[PVSCSI][:MIB]


def test_without_a_writer_the_export_is_the_raw_file_and_the_raw_file_stays(
    start_vc: Any, connect: Any, raws: dict[str, Path], content: dict[str, bytes], decoded: Any
) -> None:
    """Of a disk that needs three grain tables."""
    vc = start_vc([SimVm("web01", [SimDisk(raws["large"]), SimDisk(raws["b"], controller="sata", unit=1)])])
    client = connect(vc)
    snapshot = client.snapshot(client.vm("web01"))
    vc.guest_write("web01", 0, 5 * MIB - 7, b"x" * 70_000)
    lease = client.settled(snapshot.ExportSnapshot())
    assert decoded(client.disk(lease, PVSCSI)) == content["large"]
    assert decoded(client.disk(lease, SATA)) == content["b"]
    lease.HttpNfcLeaseComplete()
    client.remove(snapshot)
    assert vc.guest_read("web01", 0, 5 * MIB - 8, 70_002) == b"\0" + b"x" * 70_000 + b"\0"
    assert raws["large"].read_bytes() == content["large"]


def test_a_snapshot_keeps_the_base_backing_and_the_vm_gets_a_delta(client: Any) -> None:
    vm = client.vm("web01")
    first = client.snapshot(vm, "one")
    second = client.snapshot(vm, "two")
    disk = client.devices(vm.config)[2000].backing
    assert disk.fileName == "[datastore1] web01/web01-000002.vmdk"
    assert disk.parent.fileName == "[datastore1] web01/web01-000001.vmdk"
    assert disk.parent.parent.fileName == "[datastore1] web01/web01.vmdk"
    assert client.devices(first.config)[2000].backing.fileName == "[datastore1] web01/web01.vmdk"
    assert client.devices(first.config)[2000].backing.parent is None
    assert client.devices(second.config)[2000].backing.fileName == "[datastore1] web01/web01-000001.vmdk"
    assert vm.snapshot.currentSnapshot == second
    assert [t.name for t in vm.snapshot.rootSnapshotList] == ["one"]
    assert [len(d.chain) for d in vm.layoutEx.disk] == [3, 3]

    client.remove(first)
    assert client.devices(vm.config)[2000].backing.fileName == "[datastore1] web01/web01-000002.vmdk"
    assert client.devices(second.config)[2000].backing.fileName == "[datastore1] web01/web01.vmdk"
    assert [t.name for t in vm.snapshot.rootSnapshotList] == ["two"]
    client.remove(second)
    assert client.devices(vm.config)[2000].backing.fileName == "[datastore1] web01/web01.vmdk"
    assert client.devices(vm.config)[2000].backing.parent is None
    assert vm.snapshot is None
    assert vm.rootSnapshot == []


def test_layers_merge_in_any_order_of_removal(
    vc: VCenterSimulator, client: Any, content: dict[str, bytes], decoded: Any
) -> None:
    vm = client.vm("web01")
    live = bytearray(content["b"])
    snapshots, states = [], []
    for n in range(4):
        snapshots.append(client.snapshot(vm, f"s{n}"))
        states.append(bytes(live))
        for at in (n * MIB, 3 * MIB + n * 4096):
            vc.guest_write("web01", 1, at, bytes([n + 1]) * 9000)
            live[at : at + 9000] = bytes([n + 1]) * 9000
    for gone, kept in ((1, (0, 2, 3)), (0, (2, 3)), (3, (2,))):
        client.remove(snapshots[gone])
        for n in kept:
            lease = client.settled(snapshots[n].ExportSnapshot())
            assert decoded(client.disk(lease, SATA)) == states[n], f"s{n} after s{gone} went"
            lease.HttpNfcLeaseComplete()
    client.remove(snapshots[2])
    assert vc.guest_read("web01", 1, 0, 4 * MIB) == bytes(live)
    assert [d["layers"] for d in vc.state()["vms"][0]["disks"]] == [1, 1]


def test_revert_brings_the_frozen_bytes_back_and_switches_off(
    vc: VCenterSimulator, client: Any, content: dict[str, bytes]
) -> None:
    vm = client.vm("web01")
    snapshot = client.snapshot(vm)
    vc.guest_write("web01", 0, 0, b"gone")
    client.done(snapshot.RevertToSnapshot_Task())
    assert vc.guest_read("web01", 0, 0, 4) == content["a"][:4]
    assert vm.runtime.powerState == "poweredOff"
    assert vm.snapshot.currentSnapshot == snapshot
    client.done(vm.RemoveAllSnapshots_Task())
    assert vm.snapshot is None
    assert vc.state()["vms"][0]["disks"][0]["layers"] == 1


def test_remove_children_removes_the_branch(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    client.snapshot(vm, "root")
    middle = client.snapshot(vm, "middle")
    client.snapshot(vm, "leaf")
    client.done(middle.RemoveSnapshot_Task(True))
    assert [s["name"] for s in vc.state()["vms"][0]["snapshots"]] == ["root"]
    assert vm.snapshot.rootSnapshotList[0].childSnapshotList == []
    assert vm.snapshot.currentSnapshot == vm.snapshot.rootSnapshotList[0].snapshot


def test_independent_disks_are_not_frozen_and_shared_ones_refuse(
    start_vc: Any, connect: Any, raws: dict[str, Path]
) -> None:
    b = SimDisk(raws["b"])
    free = SimDisk(raws["b"], unit=1, mode="independent_persistent")
    vc = start_vc([SimVm("mixed", [b, free]), SimVm("cluster", [SimDisk(raws["b"], bus_sharing="physicalSharing")])])
    client = connect(vc)
    snapshot = client.snapshot(client.vm("mixed"))
    files = [d.backing.fileName for d in client.devices(client.vm("mixed").config).values()]
    assert files == ["[datastore1] mixed/mixed-000001.vmdk", "[datastore1] mixed/mixed_1.vmdk"]
    assert len(client.devices(snapshot.config)) == 2
    with pytest.raises(vim.fault.SnapshotFault):
        client.snapshot(client.vm("cluster"))


def test_consolidation_left_behind_is_flagged_and_cured(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    snapshot = client.snapshot(vm)
    vc.guest_write("web01", 0, 0, b"written above the snapshot")
    vc.rule(kind="consolidation", vm="web01")
    client.remove(snapshot)
    assert vm.runtime.consolidationNeeded is True
    assert vm.snapshot is None
    assert client.devices(vm.config)[2000].backing.parent is not None
    client.done(vm.ConsolidateVMDisks_Task())
    assert vm.runtime.consolidationNeeded is False
    assert client.devices(vm.config)[2000].backing.parent is None
    assert vc.guest_read("web01", 0, 0, 26) == b"written above the snapshot"


def test_two_tasks_on_one_vm_exclude_each_other(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    vc.rule(kind="task", method="CreateSnapshot_Task", delay=0.2)
    client.done(vm.CreateSnapshot_Task("slow", "", False, False))
    vc.rule(kind="task", method="CreateSnapshot_Task", delay=3600)
    endless = vm.CreateSnapshot_Task("endless", "", False, False)
    assert vm.name == "web01"  # a slow task does not hold up reads
    with pytest.raises(vim.fault.TaskInProgress):
        vm.CreateSnapshot_Task("second", "", False, False)
    assert endless.info.state in ("queued", "running")
    assert [s["name"] for s in vc.state()["vms"][0]["snapshots"]] == ["slow"]


def test_eight_vms_in_parallel(start_vc: Any, connect: Any, raws: dict[str, Path]) -> None:
    fleet = [SimVm(f"vm{n}", [SimDisk(raws["b"])], change_tracking=True) for n in range(8)]
    vc = start_vc(fleet, lease_ready_after=0.05)
    vc.start_writer(rate=4 * MIB)
    errors: list[BaseException] = []
    lock = threading.Lock()

    def work(name: str) -> None:
        with lock:  # connecting is not thread-safe in pyvmomi
            client = connect(vc)
        vm = client.vm(name)
        for cycle in range(4):
            snapshot = client.snapshot(vm, f"{name}-{cycle}")
            lease = client.settled(snapshot.ExportSnapshot())
            status, _, body = client.get(lease.info.deviceUrl[0].url)
            assert status == 200
            assert len(body) > 512
            lease.HttpNfcLeaseProgress(100)
            lease.HttpNfcLeaseComplete()
            client.remove(snapshot)

    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(work, vm.name) for vm in fleet]:
            error = future.exception()
            if error:
                errors.append(error)
    assert errors == []
    vc.stop_writer()
    state = vc.state()
    assert state["leases"] == []
    assert all(vm["snapshots"] == [] and vm["disks"][0]["layers"] == 1 for vm in state["vms"])
    assert vc.state()["writer"]["writes"] == state["writer"]["writes"] > 0
