"""Whether an exported object opens: as an OVA, a VMDK, a VHD, or a raw disk."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, Literal

from wavelift.base.errors import CorruptStreamError, located
from wavelift.base.units import MIB, SECTOR
from wavelift.transfer.ova_image import open_ova
from wavelift.transfer.tar import ReadRange
from wavelift.transfer.vhd import open_vhd
from wavelift.transfer.vmdk import VmdkFile
from wavelift.transfer.vmdk.format import FLAG_COMPRESSED, FLAG_MARKERS, MAGIC

_SPARSE: Final = struct.Struct("<4sIIQQ16xIQQ")
"""Beginning of a header ("Virtual Disk Format 5.0"): magic, version, flags, capacity, grain; entries of a table,
redundant directory, directory. Sectors."""

_MOST_TABLES: Final = 1 << 20
"""More than a sparse VMDK of 2 TiB has, with tables of half the usual size."""
_MOST_ENTRIES: Final = 1 << 16
_PROBED: Final = 16
"""Tables of either end that are looked into."""

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
        return (OpenedDisk("", _open_vmdk(read, length)),)
    if form == "vhd":
        return (OpenedDisk("", open_vhd(read, length).capacity),)
    if not length or length % SECTOR:
        raise CorruptStreamError(
            f"A raw disk of {length} bytes, which is not whole sectors", next_step="Export it again", position=length
        )
    return (OpenedDisk("", length),)


def _open_vmdk(read: ReadRange, length: int) -> int:
    """Capacity, bytes. AWS says "VMDK", and not of which kind: one that is no stream opens as well."""
    head = read(0, SECTOR) if length >= SECTOR else b""
    if head[: len(MAGIC)] == MAGIC:
        _, _, flags, capacity, grain, entries, _, directory = _SPARSE.unpack_from(head)
        if not flags & (FLAG_COMPRESSED | FLAG_MARKERS):
            _check_sparse(read, length, -(-capacity // (grain * entries or 1)), entries, directory * SECTOR)
            return int(capacity) * SECTOR
    vmdk = VmdkFile(read, length)
    vmdk.probe()
    return vmdk.size


def _check_sparse(read: ReadRange, length: int, tables: int, entries: int, directory: int) -> None:
    """The tables of a sparse VMDK that is no stream lie in the file, and of the outermost ones the grains too.

    :param directory: its place, bytes. :param entries: of a table.
    """
    if not 0 < tables <= _MOST_TABLES or not 0 < entries <= _MOST_ENTRIES or not directory:
        raise _cut_off("its header makes no sense", 0)
    used: list[int] = []
    for start in range(0, 4 * tables, MIB):
        used += [sector for sector in _sectors(read, length, directory + start, min(MIB, 4 * tables - start)) if sector]
    if any(sector * SECTOR + 4 * entries > length for sector in used):
        raise _cut_off("a table lies behind its end", directory)
    for sector in dict.fromkeys((*used[:_PROBED], *used[-_PROBED:])):
        if max(_sectors(read, length, sector * SECTOR, 4 * entries)) * SECTOR >= length:
            raise _cut_off("a grain lies behind its end", sector * SECTOR)


def _sectors(read: ReadRange, length: int, position: int, size: int) -> tuple[int, ...]:
    data = read(position, size) if position + size <= length else b""
    if len(data) != size:
        raise _cut_off("it ends within a table", position)
    return struct.unpack(f"<{size // 4}I", data)


def _cut_off(why: str, position: int) -> CorruptStreamError:
    return CorruptStreamError(f"Broken sparse VMDK: {why}", next_step="Export it again", position=position)


def _open_ova(read: ReadRange, length: int) -> tuple[OpenedDisk, ...]:
    image = open_ova(read, length)
    opened = []
    for number, disk in enumerate(image.disks):
        vmdk = image.vmdk(number)
        with located(file=disk.member.name):
            vmdk.probe()
        opened.append(OpenedDisk(disk.member.name, vmdk.size))
    return tuple(opened)
