"""A VM's virtual devices in our words: disks in true order, the boot disk, and what pre-flight asks about.

Order of disks (invariant 11): the boot disk first, then by kind of controller (IDE, SATA, SCSI, NVMe: the order in
which VMware's firmware looks for boot disks), bus number, unit number. Device keys say nothing: a controller added
later can have a lower bus and a higher key. The boot disk is the first *disk* of ``bootOptions.bootOrder``; without
one, the first by address.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from pyVmomi import vim

from wavelift.adapters.vsphere.faults import TEXT_LONGEST, moref
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import WaveliftError
from wavelift.base.printable import printable
from wavelift.base.units import KIB, TIB

_DEVICE: Final = vim.vm.device

# The last one is SCSI in all its classes (LSI Logic, BusLogic, paravirtual …).
_CONTROLLERS: Final = (
    (_DEVICE.VirtualIDEController, "IDE"),
    (_DEVICE.VirtualSATAController, "SATA"),
    (_DEVICE.VirtualSCSIController, "SCSI"),
    (_DEVICE.VirtualNVMEController, "NVMe"),
)
LARGEST: Final = 1024 * TIB
"""Bytes. vSphere's largest disk has 62 TiB; a number beyond this is none of a disk."""
_RANK: Final = {name: rank for rank, (_, name) in enumerate(_CONTROLLERS)}


@dataclass(frozen=True, slots=True)
class FrozenVm:
    """A VM as our snapshot froze it: the two managed object ids, and the server's name for messages."""

    vm: str
    snapshot: str
    server: str


def disk_order(disk: DiskFacts) -> tuple[bool, int, int, int]:
    """The sort key of the true order."""
    return (not disk.boot, _RANK[disk.controller], disk.bus, disk.unit)


def class_name(device: Any) -> str:
    """vSphere's own name of a device's or backing's class."""
    return str(type(device)._wsdlName)


def _controller_kind(controller: Any) -> str | None:
    return next((name for kind, name in _CONTROLLERS if isinstance(controller, kind)), None)


def _datastore(file: str) -> str:
    """``[datastore1] web01/web01.vmdk`` → ``datastore1``."""
    return file[1 : file.index("]")] if file.startswith("[") and "]" in file else ""


def _base(backing: Any) -> str:
    """The file at the bottom of the chain under a delta; empty without a parent."""
    at = getattr(backing, "parent", None)
    found = ""
    while at is not None:
        found = printable(getattr(at, "fileName", None) or "")
        at = getattr(at, "parent", None)
    return found


def _sharing(controller: Any, backing: Any) -> str:
    """A disk is shared by its own flag, or by a controller whose bus is shared (clusters)."""
    bus = str(getattr(controller, "sharedBus", None) or "noSharing")
    return bus if bus != "noSharing" else str(getattr(backing, "sharing", None) or "sharingNone")


def _capacity(disk: Any) -> int:
    return int(disk.capacityInBytes if disk.capacityInBytes else (disk.capacityInKB or 0) * KIB)


def _disk(disk: Any, controller: Any, kind: str, *, boot: bool) -> DiskFacts:
    backing = disk.backing
    file = printable(getattr(backing, "fileName", None) or "")
    return DiskFacts(
        key=disk.key,
        label=printable((disk.deviceInfo.label if disk.deviceInfo else "") or f"disk {disk.key}", TEXT_LONGEST),
        capacity=_capacity(disk),
        controller=kind,
        controller_class=class_name(controller),
        bus=controller.busNumber,
        unit=disk.unitNumber,
        backing=class_name(backing),
        file=file,
        base=_base(backing),
        uuid=printable(getattr(backing, "uuid", None) or "", TEXT_LONGEST),
        datastore=_datastore(file),
        datastore_moref=moref(getattr(backing, "datastore", None)),
        mode=printable(getattr(backing, "diskMode", None) or "persistent", TEXT_LONGEST),
        sharing=_sharing(controller, backing),
        thin=getattr(backing, "thinProvisioned", None),
        encrypted=getattr(backing, "keyId", None) is not None,
        rdm=str(getattr(backing, "compatibilityMode", None) or ""),
        change_id=getattr(backing, "changeId", None) or None,
        boot=boot,
    )


def disks(devices: Sequence[Any], boot_options: Any, **where: object) -> tuple[DiskFacts, ...]:
    """The disks among ``devices``, in true order.

    :raises WaveliftError: a disk hangs on no controller that we know.
    """
    by_key = {device.key: device for device in devices}
    found = [device for device in devices if isinstance(device, _DEVICE.VirtualDisk)]
    facts: list[DiskFacts] = []
    for disk in found:
        controller = by_key.get(disk.controllerKey)
        kind = _controller_kind(controller)
        if controller is None or kind is None or disk.unitNumber is None:
            raise WaveliftError(
                f"disk {disk.key} hangs on no known controller",
                next_step="Look at the VM's hardware in vCenter",
                controller=disk.controllerKey,
                **where,
            )
        if not 0 <= _capacity(disk) <= LARGEST:
            raise WaveliftError(
                f"vCenter says that disk {disk.key} has {_capacity(disk)} bytes",
                next_step="Look at the VM's hardware in vCenter",
                **where,
            )
        facts.append(_disk(disk, controller, kind, boot=False))
    facts.sort(key=disk_order)
    boot_key = _boot_key(boot_options, {disk.key for disk in found})
    if facts and boot_key is None:
        boot_key = facts[0].key
    named = [disk.model_copy(update={"boot": True}) if disk.key == boot_key else disk for disk in facts]
    return tuple(sorted(named, key=disk_order))


def _boot_key(boot_options: Any, keys: set[int]) -> int | None:
    for entry in getattr(boot_options, "bootOrder", None) or ():
        key = getattr(entry, "deviceKey", None)
        if isinstance(entry, vim.vm.BootOptions.BootableDiskDevice) and key in keys:
            return int(key)
    return None


@dataclass(frozen=True, slots=True)
class Others:
    """What else pre-flight asks about the hardware."""

    cdrom_connected: tuple[str, ...]
    passthrough_devices: int
    vtpm: bool


def others(devices: Sequence[Any]) -> Others:
    return Others(
        cdrom_connected=tuple(_cdrom(device) for device in devices if _is_connected_cdrom(device)),
        passthrough_devices=sum(isinstance(device, _DEVICE.VirtualPCIPassthrough) for device in devices),
        vtpm=any(isinstance(device, _DEVICE.VirtualTPM) for device in devices),
    )


def _is_connected_cdrom(device: Any) -> bool:
    connectable = getattr(device, "connectable", None)
    return isinstance(device, _DEVICE.VirtualCdrom) and bool(connectable and connectable.connected)


def _cdrom(device: Any) -> str:
    label = (device.deviceInfo.label if device.deviceInfo else "") or f"CD-ROM {device.key}"
    medium = getattr(device.backing, "fileName", None) or getattr(device.backing, "deviceName", None)
    return printable(f"{label}: {medium}" if medium else label, TEXT_LONGEST)
