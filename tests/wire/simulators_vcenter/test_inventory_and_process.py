"""What the inventory holds, a thousand machines, and the process's start and end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl
from tests.eventually import eventually

from wavelift.simulators.vcenter import (
    SimDatastore,
    SimDisk,
    SimHost,
    SimulatorError,
    SimVm,
    VCenterSimulator,
    build,
    to_json,
)

pytestmark = pytest.mark.wire

MIB = 1 << 20


def test_properties_of_a_machine(start_vc: Any, connect: Any, raws: dict[str, Path]) -> None:
    vc = start_vc(
        [
            SimVm(
                "db01",
                [SimDisk(raws["b"], controller="sata"), SimDisk(capacity=MIB, rdm="physical", unit=3)],
                folder="prod/db",
                guest_id="rhel9_64Guest",
                guest_full_name="Red Hat Enterprise Linux 9 (64-bit)",
                firmware="efi",
                secure_boot=True,
                ip="10.1.2.3",
                host="esx-b",
                cpus=8,
                memory_mb=16384,
                cdrom="[datastore1] iso/tools.iso",
                snapshots=("old", "older"),
                consolidation_needed=True,
            ),
            SimVm("db01", [SimDisk(capacity=MIB, mode="independent_persistent")], folder="test", power="poweredOff"),
            SimVm("gone", [], template=True, power="poweredOff"),
        ],
        hosts=(
            SimHost("esx-a", address="", connection="notResponding"),
            SimHost("esx-b", address="127.0.0.1", version="7.0.3"),
        ),
        datastores=(SimDatastore("datastore1", type="VMFS5", capacity=1 << 40, free=5 << 30),),
    )
    client = connect(vc)
    first, second = (v for v in client.vms() if v.name == "db01")
    assert {first.parent.name, second.parent.name} == {"db", "test"}
    first, second = (first, second) if first.parent.name == "db" else (second, first)
    assert first.config.files.vmPathName == "[datastore1] db01/db01.vmx"
    assert second.config.files.vmPathName == "[datastore1] db01_1/db01.vmx"
    assert (first.config.guestId, first.config.guestFullName) == (
        "rhel9_64Guest",
        "Red Hat Enterprise Linux 9 (64-bit)",
    )
    assert (first.config.firmware, first.config.bootOptions.efiSecureBootEnabled) == ("efi", True)
    assert (first.config.hardware.numCPU, first.config.hardware.memoryMB) == (8, 16384)
    assert (first.guest.ipAddress, first.guest.toolsStatus) == ("10.1.2.3", "toolsOk")
    assert (first.runtime.host.name, first.runtime.host.config.product.version) == ("esx-b", "7.0.3")
    assert first.runtime.host.config.certificate
    assert first.runtime.consolidationNeeded is True
    disks = client.devices(first.config)
    assert sorted(disks) == [2003, 16000]
    assert isinstance(disks[2003].backing, vim.vm.device.VirtualDisk.RawDiskMappingVer1BackingInfo)
    assert [t.name for t in first.snapshot.rootSnapshotList] == ["old"]
    assert first.snapshot.rootSnapshotList[0].childSnapshotList[0].name == "older"
    drive: Any = next(d for d in first.config.hardware.device if isinstance(d, vim.vm.device.VirtualCdrom))
    assert drive.connectable.connected is True
    assert drive.backing.fileName == "[datastore1] iso/tools.iso"
    assert client.devices(second.config)[2000].backing.diskMode == "independent_persistent"
    store = first.datastore[0]
    assert (store.summary.type, store.info.vmfs.majorVersion, store.summary.freeSpace) == ("VMFS", 5, 5 << 30)
    assert client.vm("gone").config.template is True
    hosts = {h.name: h for h in first.runtime.host.parent.host}
    assert hosts["esx-a"].runtime.connectionState == "notResponding"
    client.done(first.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=False)))  # with an RDM: no crash


def test_a_thousand_machines_in_pages(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    vc = start_vc(inventory, extra_vms=1000)  # must be ready within a minute
    client = connect(vc)
    content = client.si.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
    collector = content.propertyCollector
    spec = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=[
            vmodl.query.PropertyCollector.ObjectSpec(
                obj=view,
                skip=True,
                selectSet=[
                    vmodl.query.PropertyCollector.TraversalSpec(type=vim.view.ContainerView, path="view", skip=False)
                ],
            )
        ],
        propSet=[
            vmodl.query.PropertyCollector.PropertySpec(
                type=vim.VirtualMachine, pathSet=["name", "config.instanceUuid", "runtime.powerState", "runtime.host"]
            )
        ],
    )
    vc.reset_counters()
    page = collector.RetrievePropertiesEx([spec], vmodl.query.PropertyCollector.RetrieveOptions(maxObjects=500))
    rows = list(page.objects)
    while page.token:
        page = collector.ContinueRetrievePropertiesEx(page.token)
        rows += page.objects
    values = [{p.name: p.val for p in row.propSet} for row in rows]
    assert len({v["config.instanceUuid"] for v in values}) == len(values) == 1002
    assert {"web01", "bulk-0000", "bulk-0999"} <= {v["name"] for v in values}
    assert vc.counters()["methods"] == {"RetrievePropertiesEx": 1, "ContinueRetrievePropertiesEx": 2}


def test_updates_of_a_lease_and_a_task_arrive_through_a_filter(client: Any) -> None:
    collector = client.si.content.propertyCollector.CreatePropertyCollector()
    lease = client.vm("off01").ExportVm()
    spec = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=lease)],
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.HttpNfcLease, pathSet=["state", "error"])],
    )
    collector.CreateFilter(spec, True)
    states, version = [], ""
    while "ready" not in states:
        update = collector.WaitForUpdatesEx(version, vmodl.query.PropertyCollector.WaitOptions(maxWaitSeconds=60))
        assert update is not None
        version = update.version
        states += [str(c.val) for f in update.filterSet for o in f.objectSet for c in o.changeSet if c.name == "state"]
    assert states[-1] == "ready"
    collector.Destroy()


# --- the process ---


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_python_m_prints_one_line_and_sigterm_cleans_up(tmp_path: Path, inventory: list[SimVm]) -> None:
    state = tmp_path / "alone"
    (tmp_path / "inventory.json").write_text(to_json(inventory))
    argv = [sys.executable, "-m", "wavelift.simulators.vcenter", "--state", str(state)]
    argv += ["--inventory", str(tmp_path / "inventory.json"), "--listen", "127.0.0.2:0"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["pid"] == process.pid
        assert ready["url"].startswith("https://127.0.0.2:")
        assert (state / "vcenter" / "datastores" / "datastore1" / "web01").is_dir()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        process.stdout and process.stdout.close()
    assert list(state.iterdir()) == []


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from wavelift.simulators.vcenter import start\n"
        "vc = start(pathlib.Path(sys.argv[1]), [])\n"
        "print(vc.pid, flush=True)\n"
        "time.sleep(3600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "s")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(60)
    parent.stdout.close()
    assert eventually(lambda: gone(pid))


def test_a_crash_leaves_no_process_and_close_no_files(vc: VCenterSimulator) -> None:
    vc.crash()
    assert eventually(lambda: not vc.alive())
    with pytest.raises(OSError), socket.create_connection((vc.host, vc.port), timeout=60):
        pass


def test_a_destroyed_machine_is_gone(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("off01")
    client.done(vm.Destroy_Task())
    assert [v.name for v in client.vms()] == ["web01"]
    assert [v["name"] for v in vc.state()["vms"]] == ["web01"]


def test_no_go_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "go"
    old.write_text("#!/bin/sh\necho go1.19.8\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(SimulatorError, match=r"needs Go 1\.23 or newer \(.*go is 1\.19\)") as error:
        build.ensure_binary()
    assert "\n" not in str(error.value)
