"""Whether an exported object opens: as an OVA, a stream-optimised VMDK, a VHD, or a raw disk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wavelift.base.errors import CorruptStreamError, located
from wavelift.base.units import SECTOR
from wavelift.transfer.ova_image import open_ova
from wavelift.transfer.tar import ReadRange
from wavelift.transfer.vhd import open_vhd
from wavelift.transfer.vmdk import VmdkFile

ExportFormat = Literal["ova", "vmdk", "vhd", "raw"]


@dataclass(frozen=True, slots=True)
class OpenedDisk:
    """A disk that opens.

    :param name: of its file in an OVA; else empty. :param capacity: of the disk, bytes.
    """

    name: str
    capacity: int


def open_exported(read: ReadRange, length: int, form: ExportFormat) -> tuple[OpenedDisk, ...]:
    """The disks of an object of ``length`` bytes, in their order. Reads headers, tables and some grains: a few MiB.

    It opens, so it was written to its end; that every byte is right, only a comparison with manifests can say.

    :raises CorruptStreamError: it is not of this form, or damaged; naming the file and the position.
    """
    if form == "ova":
        return _open_ova(read, length)
    if form == "vmdk":
        vmdk = VmdkFile(read, length)
        vmdk.probe()
        return (OpenedDisk("", vmdk.size),)
    if form == "vhd":
        return (OpenedDisk("", open_vhd(read, length).capacity),)
    if not length or length % SECTOR:
        raise CorruptStreamError(
            f"A raw disk of {length} bytes, which is not whole sectors", next_step="Export it again", position=length
        )
    return (OpenedDisk("", length),)


def _open_ova(read: ReadRange, length: int) -> tuple[OpenedDisk, ...]:
    image = open_ova(read, length)
    opened = []
    for number, disk in enumerate(image.disks):
        vmdk = image.vmdk(number)
        with located(file=disk.member.name):
            vmdk.probe()
        opened.append(OpenedDisk(disk.member.name, vmdk.size))
    return tuple(opened)
