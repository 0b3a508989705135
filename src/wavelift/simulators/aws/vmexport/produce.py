"""The bytes of an export: blocks to a raw image, by qemu-img into the format that was asked for, and into an OVA."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from wavelift.simulators.aws.ebs.snapshot import BLOCK, GIB

QEMU: Final = {
    "VMDK": ("-O", "vmdk", "-o", "subformat=streamOptimized"),
    "VHD": ("-O", "vpc", "-o", "subformat=dynamic,force_size=on"),
    "RAW": ("-O", "raw", "-S", "4k"),
}
POLL: Final = 0.1
"""Seconds between looks at a running qemu-img and at the cancel flag."""
PAD: Final = 512
"""A tar file is of records of 512 bytes, and ends with two empty ones (POSIX, "ustar Interchange Format")."""
OCTAL_SIZE: Final = 8 << 30
"""A size from here on does not fit into the 11 octal digits of a header; GNU's base-256 form holds it."""
COPY: Final = 4 << 20
OVF: Final = """<?xml version="1.0" encoding="UTF-8"?>
<Envelope xmlns="http://schemas.dmtf.org/ovf/envelope/1" xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"
 xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData">
  <References><File ovf:id="file1" ovf:href="{disk}" ovf:size="{size}"/></References>
  <DiskSection><Info>Virtual disk information</Info>
    <Disk ovf:capacity="{capacity}" ovf:capacityAllocationUnits="byte" ovf:diskId="vmdisk1" ovf:fileRef="file1"
     ovf:format="http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"/></DiskSection>
  <VirtualSystem ovf:id="{name}"><Info>A virtual machine</Info><Name>{name}</Name>
    <VirtualHardwareSection><Info>Virtual hardware requirements</Info>
      <Item><rasd:InstanceID>1</rasd:InstanceID><rasd:ElementName>SCSI</rasd:ElementName>
        <rasd:ResourceSubType>lsilogic</rasd:ResourceSubType><rasd:ResourceType>6</rasd:ResourceType></Item>
      <Item><rasd:AddressOnParent>0</rasd:AddressOnParent><rasd:ElementName>disk1</rasd:ElementName>
        <rasd:HostResource>ovf:/disk/vmdisk1</rasd:HostResource><rasd:InstanceID>2</rasd:InstanceID>
        <rasd:Parent>1</rasd:Parent><rasd:ResourceType>17</rasd:ResourceType></Item>
    </VirtualHardwareSection></VirtualSystem>
</Envelope>
"""
"""What AWS's descriptor says is not documented; this is the least that describes one disk."""


class ExportFailed(Exception):
    """Ends the task; the text is its StatusMessage."""


class Cancelled(Exception):
    """CancelExportTask was called."""


def write_raw(path: Path, size: int, indices: Iterable[int], read: Callable[[int], bytes]) -> None:
    """A sparse raw image of ``size`` GiB from blocks of 512 KiB."""
    with path.open("wb", buffering=0) as target:
        target.truncate(size * GIB)
        for index in indices:
            os.pwrite(target.fileno(), read(index), index * BLOCK)


def convert(source: Path, image_format: str, target: Path, cancelled: Callable[[], bool]) -> None:
    """Raises ExportFailed or Cancelled."""
    command = ["qemu-img", "convert", "-q", "-f", "raw", *QEMU[image_format], str(source), str(target)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while True:
            try:
                process.wait(POLL)
                break
            except subprocess.TimeoutExpired:
                if cancelled():
                    process.kill()
                    raise Cancelled from None
    if process.returncode:
        raise ExportFailed("ServerError: an internal error has occurred during conversion.")


def write_ova(target: Path, name: str, disk: Path, capacity: int) -> None:
    """A tar file of the descriptor, the disk and the manifest. ``capacity`` is the disk's, in bytes."""
    size = disk.stat().st_size
    inside = f"{name}-disk1.vmdk"
    descriptor = OVF.format(disk=inside, size=size, capacity=capacity, name=name).encode()
    sums = {f"{name}.ovf": hashlib.sha256(descriptor).hexdigest(), inside: _sha256(disk)}
    manifest = "".join(f"SHA256({each})= {digest}\n" for each, digest in sums.items()).encode()
    with target.open("wb") as out:
        for each, data in ((f"{name}.ovf", descriptor), (f"{name}.mf", manifest)):
            out.write(header(each, len(data)) + data + bytes(-len(data) % PAD))
        out.write(header(inside, size))
        with disk.open("rb") as source:
            while piece := source.read(COPY):
                out.write(piece)
        out.write(bytes(-size % PAD) + bytes(2 * PAD))


def header(name: str, size: int) -> bytes:
    """A header of a plain file, as ustar has it."""
    octal = f"{size:011o}\0".encode() if size < OCTAL_SIZE else b"\x80" + size.to_bytes(11, "big")
    fields = [
        name.encode().ljust(100, b"\0"),
        *(b"0000644\0", b"0000000\0", b"0000000\0"),
        *(octal, f"{0:011o}\0".encode(), b" " * 8, b"0"),
        *(bytes(100), b"ustar\x0000", bytes(64), b"0000000\0", b"0000000\0"),
    ]
    block = b"".join(fields).ljust(PAD, b"\0")
    return block[:148] + f"{sum(block):06o}\0 ".encode() + block[156:]


def _sha256(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()
