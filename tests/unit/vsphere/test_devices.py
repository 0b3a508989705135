from __future__ import annotations

import random
from typing import Any

import pytest
from pyVmomi import vim

from wavelift.adapters.vsphere.datastore import _extent, _unfit
from wavelift.adapters.vsphere.devices import disks, others
from wavelift.base.errors import WaveliftError

pytestmark = pytest.mark.unit

device = vim.vm.device
GIB = 1 << 30


def controller(kind: Any, key: int, bus: int) -> Any:
    return kind(key=key, busNumber=bus)


def disk(key: int, controller_key: int, unit: int, backing: Any = None) -> Any:
    backing = backing or device.VirtualDisk.FlatVer2BackingInfo(fileName="[ds1] vm/d.vmdk", diskMode="persistent")
    return device.VirtualDisk(
        key=key,
        controllerKey=controller_key,
        unitNumber=unit,
        capacityInKB=GIB >> 10,
        capacityInBytes=GIB,
        backing=backing,
        deviceInfo=vim.Description(label=f"Hard disk {key}", summary=""),
    )


def ten_controllers() -> list[Any]:
    """Keys run against the buses, as they do on VMs that grew: what sorts by key gets it wrong (forklift 5967)."""
    devices: list[Any] = []
    kinds = [
        (device.VirtualNVMEController, 31000, 2),
        (device.VirtualAHCIController, 15000, 2),
        (device.ParaVirtualSCSIController, 1000, 4),
        (device.VirtualIDEController, 200, 2),
    ]
    disk_key = 9000
    for kind, key, count in kinds:
        for bus in range(count):
            # A higher bus gets the lower key.
            devices.append(controller(kind, key + count - bus, bus))
            for unit in (1, 0):
                disk_key -= 1
                devices.append(disk(disk_key, key + count - bus, unit))
    return devices


def test_inv_11_ten_controllers_give_address_order_not_key_order() -> None:
    devices = ten_controllers()
    expected = [
        f"{kind} {bus}:{unit}"
        for kind, count in (("IDE", 2), ("SATA", 2), ("SCSI", 4), ("NVMe", 2))
        for bus in range(count)
        for unit in (0, 1)
    ]
    for seed in range(5):
        random.Random(seed).shuffle(devices)
        found = disks(devices, None)
        assert [item.address for item in found] == expected
        assert [item.boot for item in found] == [True] + [False] * 19


def test_inv_11_the_boot_order_names_the_boot_disk() -> None:
    devices = ten_controllers()
    target = next(d for d in disks(devices, None) if d.address == "SCSI 2:1")
    options = vim.vm.BootOptions(
        bootOrder=[
            vim.vm.BootOptions.BootableCdromDevice(),
            vim.vm.BootOptions.BootableEthernetDevice(deviceKey=4000),
            vim.vm.BootOptions.BootableDiskDevice(deviceKey=77777),  # a disk that was removed
            vim.vm.BootOptions.BootableDiskDevice(deviceKey=target.key),
        ]
    )
    found = disks(devices, options)
    assert (found[0].address, found[0].boot) == ("SCSI 2:1", True)
    assert [item.address for item in found[1:4]] == ["IDE 0:0", "IDE 0:1", "IDE 1:0"]
    assert sum(item.boot for item in found) == 1


def test_backings_are_told_as_they_are() -> None:
    scsi = controller(device.VirtualLsiLogicSASController, 1000, 0)
    scsi.sharedBus = "physicalSharing"
    plain = controller(device.ParaVirtualSCSIController, 1001, 1)
    rdm = device.VirtualDisk.RawDiskMappingVer1BackingInfo(
        fileName="[ds1] vm/rdm.vmdk", compatibilityMode="physicalMode", diskMode="independent_persistent"
    )
    sparse = device.VirtualDisk.SeSparseBackingInfo(fileName="[my ds] vm/d-000001.vmdk", diskMode="persistent")
    sparse.keyId = vim.encryption.CryptoKeyId(keyId="k")
    flat = device.VirtualDisk.FlatVer2BackingInfo(
        fileName="[ds1] vm/d.vmdk",
        diskMode="persistent",
        thinProvisioned=True,
        uuid="6000C29",
        changeId="52 de/3",
        sharing="sharingMultiWriter",
    )
    found = disks(
        [scsi, plain, disk(1, 1000, 0, rdm), disk(2, 1001, 0, sparse), disk(3, 1001, 1, flat)], None, server="x"
    )
    first, second, third = found
    assert (first.rdm, first.sharing, first.mode) == ("physicalMode", "physicalSharing", "independent_persistent")
    assert first.backing == "VirtualDiskRawDiskMappingVer1BackingInfo"
    assert first.controller_class == "VirtualLsiLogicSASController"
    assert (second.backing, second.encrypted, second.datastore) == ("VirtualDiskSeSparseBackingInfo", True, "my ds")
    assert (third.thin, third.uuid, third.change_id, third.sharing) == (
        True,
        "6000C29",
        "52 de/3",
        "sharingMultiWriter",
    )
    assert third.capacity == GIB


def test_old_servers_tell_the_capacity_in_kib_only() -> None:
    one = disk(1, 1000, 0)
    one.capacityInBytes = None
    assert disks([controller(device.ParaVirtualSCSIController, 1000, 0), one], None)[0].capacity == GIB


def test_a_disk_on_no_known_controller_stops() -> None:
    with pytest.raises(WaveliftError, match="no known controller") as refusal:
        disks([disk(1, 4711, 0)], None, server="web01")
    assert refusal.value.where["server"] == "web01"


def test_what_preflight_asks_about() -> None:
    def cdrom(key: int, connected: bool) -> Any:
        return device.VirtualCdrom(
            key=key,
            deviceInfo=vim.Description(label=f"CD/DVD drive {key}", summary=""),
            backing=device.VirtualCdrom.IsoBackingInfo(fileName="[iso] tools.iso"),
            connectable=device.VirtualDevice.ConnectInfo(
                connected=connected, startConnected=True, allowGuestControl=True
            ),
        )

    found = others([cdrom(1, True), cdrom(2, False)])
    assert found.cdrom_connected == ("CD/DVD drive 1: [iso] tools.iso",)
    assert (found.passthrough_devices, found.vtpm) == (0, False)
    found = others([device.VirtualTPM(key=1), device.VirtualPCIPassthrough(key=2)])
    assert (found.passthrough_devices, found.vtpm) == (1, True)


@pytest.mark.parametrize("size", [-1, -(1 << 62), 1 << 63, 10**4000])
def test_a_disk_of_an_impossible_size_is_refused(size: int) -> None:
    one = disk(2000, 1000, 0)
    one.capacityInBytes = size
    with pytest.raises(WaveliftError, match="disk 2000 has"):
        disks([controller(device.ParaVirtualSCSIController, 1000, 0), one], None, server="web01")


def test_what_vcenter_tells_of_a_disk_is_printable() -> None:
    backing = device.VirtualDisk.FlatVer2BackingInfo(fileName="[ds\x1b[2J] a\nb.vmdk", uuid="6000\r\n")
    one = disk(2000, 1000, 0, backing)
    one.deviceInfo.label = "Hard\u202e disk 1"
    (told,) = disks([controller(device.ParaVirtualSCSIController, 1000, 0), one], None)
    assert (told.label, told.file, told.uuid) == (r"Hard\u202e disk 1", r"[ds\x1b[2J] a\nb.vmdk", r"6000\r\n")
    assert told.model_dump_json().isprintable()


def test_a_disk_whose_file_has_an_invisible_character_is_still_read_by_ranges() -> None:
    """Names that were pasted have zero-width spaces. The facts write them as escapes; the file keeps its name."""
    file, extent = "[ds1] web\u200b/web\u200b.vmdk", "[ds1] web\u200b/web\u200b-flat.vmdk"
    backing = device.VirtualDisk.FlatVer2BackingInfo(fileName=file, diskMode="persistent")
    scsi = controller(device.ParaVirtualSCSIController, 1000, 0)
    scsi.sharedBus = "noSharing"
    (facts,) = disks([scsi, disk(2000, 1000, 0, backing)], None)
    files = [
        vim.vm.FileLayoutEx.FileInfo(key=1, name=file, type="diskDescriptor", size=1),
        vim.vm.FileLayoutEx.FileInfo(key=2, name=extent, type="diskExtent", size=GIB),
    ]
    unit = vim.vm.FileLayoutEx.DiskUnit(fileKey=[1, 2])
    layout = vim.vm.FileLayoutEx(file=files, disk=[vim.vm.FileLayoutEx.DiskLayout(key=2000, chain=[unit])])
    assert facts.file == r"[ds1] web\u200b/web\u200b.vmdk"
    assert _unfit(facts, backing) == ""
    assert _extent(layout, facts) == extent
    backing.fileName = "[ds1] web/web.vmdk"
    assert "the disk's file is now [ds1] web/web.vmdk" in _unfit(facts, backing)
