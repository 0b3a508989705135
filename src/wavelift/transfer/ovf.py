"""The descriptor of an OVA: one virtual machine in OVF 1.1, as vSphere writes and reads it.

OVF 1.1 is DMTF DSP0243; ``vmw:`` is VMware's own part, each of it marked as not required, so that other readers may
pass over it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal
from xml.sax.saxutils import escape, quoteattr

from wavelift.base.errors import PermanentError
from wavelift.base.units import KIB

Controller = Literal["lsilogic", "pvscsi", "sata"]
Firmware = Literal["bios", "efi"]

DESCRIPTOR_SIZE: Final = 64 * KIB
"""It is written before the sizes of the disks are known and filled in afterwards, so its own size must be fixed:
trailing white space, which XML allows behind its root, makes up for what it is shorter."""
HARDWARE: Final = "vmx-13"
"""ESXi 6.5 and all newer ones."""
LONGEST_NAME: Final = 80
"""Characters of a VM's name in vSphere."""
CARD: Final = "VmxNet3"
"""vSphere's own choice for Linux, whose kernel has had the driver since 2.6.32."""
CARD_WINDOWS: Final = "E1000e"
"""Windows has no driver for VmxNet3 until VMware Tools bring it."""
DEFAULT_GUEST: Final = "otherLinux64Guest"

_VMDK: Final = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_NOT_XML: Final = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_CIM: Final = (
    ("windows", 1, "Windows"),
    ("rhel", 80, "Red Hat Enterprise Linux"),
    ("sles", 85, "SUSE Linux Enterprise"),
    ("ubuntu", 94, "Ubuntu Linux"),
    ("debian", 96, "Debian GNU/Linux"),
    ("", 36, "Linux"),
)
"""Beginning of vSphere's guest id, CIM's number of the system, words. vSphere reads ``vmw:osType``, others the number;
36 is CIM's Linux, 1 its *other*."""
_PLATFORMS: Final = (
    ("windows", "windows9Server64Guest"),
    ("red hat", "rhel7_64Guest"),
    ("suse", "sles12_64Guest"),
    ("ubuntu", "ubuntu64Guest"),
)
"""Words of EC2's ``PlatformDetails``, and the newest guest id of that kind that ESXi 6.5 knows."""


@dataclass(frozen=True, slots=True)
class _Bus:
    """A kind of disk controller."""

    words: str
    kind: int
    """CIM's resource type."""
    subtype: str
    units: tuple[int, ...]
    """Addresses of disks on one controller."""


_SCSI_UNITS: Final = tuple(unit for unit in range(16) if unit != 7)
"""7 is the controller's own."""
_BUSES: Final[dict[Controller, _Bus]] = {
    "lsilogic": _Bus("SCSI Controller", 6, "lsilogic", _SCSI_UNITS),
    "pvscsi": _Bus("SCSI Controller", 6, "VirtualSCSI", _SCSI_UNITS),
    "sata": _Bus("SATA Controller", 20, "vmware.sata.ahci", tuple(range(30))),
}
_MOST_CONTROLLERS: Final = 4
_CPU_ID: Final = 1
_MEMORY_ID: Final = 2
_FIRST_DEVICE: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What the descriptor says of the virtual machine.

    :param name: any text; vSphere offers it as the VM's name.
    :param cpus: virtual CPUs. :param memory_mib: MiB.
    :param networks: name of the network of each card, in the cards' order; equal ones get a number.
    :param guest: vSphere's id of the operating system, a hint: see :func:`guest_of`.
    :param note: any text, shown as the VM's annotation.
    """

    name: str
    cpus: int
    memory_mib: int
    firmware: Firmware = "bios"
    controller: Controller = "lsilogic"
    networks: tuple[str, ...] = ()
    guest: str = DEFAULT_GUEST
    note: str = ""


@dataclass(frozen=True, slots=True)
class DiskFile:
    """A disk and its file; sizes in bytes.

    :param size: of the file. :param capacity: of the disk. :param populated: bytes of the disk that are not zero.
    """

    href: str
    size: int
    capacity: int
    populated: int


def guest_of(platform_details: str, architecture: str = "x86_64") -> str:
    """vSphere's guest id for what EC2 says of an instance (``PlatformDetails``, ``Architecture``): a hint, no more.

    ``Linux/UNIX`` stands for every Linux that costs nothing.
    """
    if architecture == "i386":
        return "otherLinuxGuest"
    told = platform_details.lower()
    return next((guest for words, guest in _PLATFORMS if words in told), DEFAULT_GUEST)


def descriptor(machine: Machine, disks: Sequence[DiskFile]) -> bytes:
    """The ``.ovf`` file, :data:`DESCRIPTOR_SIZE` bytes, the disks in the order of their addresses.

    :raises PermanentError: more disks than the controllers take, or more text than the size has room for.
    """
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1"'
        ' xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
        ' xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
        ' xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"'
        ' xmlns:vmw="http://www.vmware.com/schema/ovf">',
        *_files(disks),
        *_networks(machine),
        *_system(machine, disks),
        "</Envelope>",
        "",
    ]
    text = "\n".join(lines).encode()
    if len(text) > DESCRIPTOR_SIZE:
        raise PermanentError(
            f"The descriptor of {len(disks)} disks and {len(machine.networks)} networks has {len(text)} bytes where"
            f" {DESCRIPTOR_SIZE} were set aside",
            next_step="Export the instance with a shorter name or note, or with fewer disks",
        )
    return text.ljust(DESCRIPTOR_SIZE, b" ")


def _clean(text: str, most: int = 1000) -> str:
    """As XML may hold it: neither controls nor halves of characters."""
    return _NOT_XML.sub("_", text)[:most]


def _attribute(text: str, most: int = LONGEST_NAME) -> str:
    """Quoted."""
    return quoteattr(_clean(text, most).replace("\n", " "))


def _files(disks: Sequence[DiskFile]) -> Iterator[str]:
    yield "<References>"
    for number, disk in enumerate(disks, start=1):
        yield f'<File ovf:href={_attribute(disk.href, 255)} ovf:id="file{number}" ovf:size="{disk.size}"/>'
    yield "</References>"
    yield "<DiskSection>"
    yield "<Info>Virtual disks</Info>"
    for number, disk in enumerate(disks, start=1):
        yield (
            f'<Disk ovf:capacity="{disk.capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk{number}"'
            f' ovf:fileRef="file{number}" ovf:format="{_VMDK}" ovf:populatedSize="{disk.populated}"/>'
        )
    yield "</DiskSection>"


def _network_names(machine: Machine) -> list[str]:
    """One for each card, all different."""
    names: list[str] = []
    for number, told in enumerate(machine.networks, start=1):
        plain = name = _clean(told, LONGEST_NAME - 5).strip() or f"Network {number}"
        again = number
        while name in names:
            name = f"{plain} ({again})"
            again += 1
        names.append(name)
    return names


def _networks(machine: Machine) -> Iterator[str]:
    yield "<NetworkSection>"
    yield "<Info>Logical networks, one for each card</Info>"
    for name in _network_names(machine):
        yield f"<Network ovf:name={_attribute(name)}><Description>{escape(name)}</Description></Network>"
    yield "</NetworkSection>"


def _system(machine: Machine, disks: Sequence[DiskFile]) -> Iterator[str]:
    name = _clean(machine.name, LONGEST_NAME).strip() or "exported"
    number, words = next((number, words) for begin, number, words in _CIM if machine.guest.startswith(begin))
    yield f"<VirtualSystem ovf:id={_attribute(name)}>"
    yield "<Info>A virtual machine</Info>"
    yield f"<Name>{escape(name)}</Name>"
    yield f'<OperatingSystemSection ovf:id="{number}" vmw:osType={_attribute(machine.guest)}>'
    yield f"<Info>The operating system</Info><Description>{words}</Description>"
    yield "</OperatingSystemSection>"
    yield "<VirtualHardwareSection>"
    yield "<Info>Virtual hardware</Info>"
    yield "<System><vssd:ElementName>Virtual Hardware Family</vssd:ElementName><vssd:InstanceID>0</vssd:InstanceID>"
    yield f"<vssd:VirtualSystemIdentifier>{escape(name)}</vssd:VirtualSystemIdentifier>"
    yield f"<vssd:VirtualSystemType>{HARDWARE}</vssd:VirtualSystemType></System>"
    yield from _items(machine, disks)
    yield f'<vmw:Config ovf:required="false" vmw:key="firmware" vmw:value="{machine.firmware}"/>'
    if machine.firmware == "efi":
        # Nobody signed the boot loader for VMware's keys; EC2's own are not in this file.
        yield '<vmw:Config ovf:required="false" vmw:key="bootOptions.efiSecureBootEnabled" vmw:value="false"/>'
    yield "</VirtualHardwareSection>"
    if machine.note:
        yield "<AnnotationSection><Info>What this machine is</Info>"
        yield f"<Annotation>{escape(_clean(machine.note, 4 * KIB))}</Annotation></AnnotationSection>"
    yield "</VirtualSystem>"


def _items(machine: Machine, disks: Sequence[DiskFile]) -> Iterator[str]:
    bus = _BUSES[machine.controller]
    controllers = max(-(-len(disks) // len(bus.units)), 1)
    if controllers > _MOST_CONTROLLERS:
        most = _MOST_CONTROLLERS * len(bus.units)
        raise PermanentError(
            f"A machine with {machine.controller} takes {most} disks, and this one has {len(disks)}",
            next_step="Export the instance with fewer disks",
        )
    yield _item(
        _CPU_ID, 3, f"{machine.cpus} virtual CPUs", AllocationUnits="hertz * 10^6", VirtualQuantity=machine.cpus
    )
    yield _item(
        _MEMORY_ID,
        4,
        f"{machine.memory_mib} MB of memory",
        AllocationUnits="byte * 2^20",
        VirtualQuantity=machine.memory_mib,
    )
    for number in range(controllers):
        yield _item(
            _FIRST_DEVICE + number, bus.kind, f"{bus.words} {number}", Address=number, ResourceSubType=bus.subtype
        )
    first_disk = _FIRST_DEVICE + controllers
    for number in range(len(disks)):
        controller, place = divmod(number, len(bus.units))
        yield _item(
            first_disk + number,
            17,
            f"Hard disk {number + 1}",
            AddressOnParent=bus.units[place],
            HostResource=f"ovf:/disk/vmdisk{number + 1}",
            Parent=_FIRST_DEVICE + controller,
        )
    card = CARD_WINDOWS if machine.guest.startswith("windows") else CARD
    for number, name in enumerate(_network_names(machine)):
        yield _item(
            first_disk + len(disks) + number,
            10,
            f"Network adapter {number + 1}",
            AddressOnParent=number + 7,
            AutomaticAllocation="true",
            Connection=name,
            ResourceSubType=card,
        )


def _item(instance: int, kind: int, name: str, **more: object) -> str:
    """One device. The schema of CIM wants its elements in alphabetical order."""
    values = {**more, "ElementName": name, "InstanceID": instance, "ResourceType": kind}
    inside = "".join(f"<rasd:{key}>{escape(str(values[key]))}</rasd:{key}>" for key in sorted(values))
    return f"<Item>{inside}</Item>"
