"""Converts an uploaded disk image to snapshot blocks with qemu-img, and changes some, as AWS's conversion does."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wavelift.simulators.aws.ebs.snapshot import BLOCK, GIB, Snapshot
from wavelift.simulators.aws.vmimport import vmdk

QEMU_FORMATS: Final = {"VMDK": "vmdk", "RAW": "raw", "VHD": "vpc", "VHDX": "vhdx"}
POLL: Final = 0.1
"""Seconds between checks of a running qemu-img and of the cancel flag."""
CHANGED_BLOCKS: Final = 4
CHANGED_SHARE: Final = 8
"""At most every eighth block with data is changed, and at least one: a conversion rewrites configuration, boot loader
and file-system structures (VM Import/Export User Guide, "Programmatic modifications to VMs"), not the guest's data."""
CHANGE_BYTES: Final = 4096
EMPTY_SEARCH: Final = 4096
"""How many blocks are searched for one without data."""
SECTOR: Final = 512
ZEROS: Final = bytes(BLOCK)


class ImportFailed(Exception):
    """Ends the task; the text is its StatusMessage."""


class Cancelled(Exception):
    """CancelImportTask was called."""


@dataclass(frozen=True, slots=True)
class ChangedRange:
    """Bytes of a snapshot that the conversion wrote."""

    offset: int
    length: int


def check(path: Path, image_format: str) -> None:
    """The validation phase. Raises :class:`ImportFailed` in AWS's words."""
    if image_format not in QEMU_FORMATS:
        raise ImportFailed(f"ClientError: Disk validation failed [Unsupported format {image_format}]")
    if image_format != "VMDK":
        return
    try:
        for _ in vmdk.grains(path):
            pass
    except vmdk.VmdkError as error:
        raise ImportFailed("ClientError: Disk validation failed [Unsupported VMDK File Format]") from error


def to_raw(source: Path, image_format: str, target: Path, cancelled: Callable[[], bool]) -> int:
    """Write ``target`` as a sparse raw image; its virtual size in bytes. Raises ImportFailed or Cancelled."""
    kind = QEMU_FORMATS[image_format]
    info = subprocess.run(
        ["qemu-img", "info", "--output=json", "-f", kind, str(source)], capture_output=True, check=False
    )
    if info.returncode:
        raise ImportFailed("ClientError: Disk validation failed [Unsupported VMDK File Format]")
    size = int(json.loads(info.stdout)["virtual-size"])
    command = ["qemu-img", "convert", "-q", "-f", kind, "-O", "raw", "-S", "4k", str(source), str(target)]
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
        raise ImportFailed("ServerError: an internal error has occurred during conversion.")
    return size


def gib(size: int) -> int:
    """Bytes as whole GiB, rounded up: snapshots have no other sizes."""
    return max(1, -(-size // GIB))


def data_blocks(path: Path) -> Iterator[int]:
    """Indices of 512 KiB blocks that are not all zero; holes are not read."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as source:
        handle, position = source.fileno(), 0
        while position < size:
            try:
                start = os.lseek(handle, position, os.SEEK_DATA)
            except OSError:
                return
            end = os.lseek(handle, start, os.SEEK_HOLE)
            first, last = max(start // BLOCK, position // BLOCK), -(-end // BLOCK)
            for index in range(first, last):
                data = os.pread(handle, BLOCK, index * BLOCK)
                if data.ljust(BLOCK, b"\0") != ZEROS:
                    yield index
            position = last * BLOCK


def change_blocks(snapshot: Snapshot, *, seed: str, size: int) -> Iterator[ChangedRange]:
    """Change some blocks with data and one without, as drivers and agents do on a boot disk.

    ``size`` is the disk's in bytes: the snapshot may be larger.
    """
    chooser = random.Random(seed)
    there = [index for index in snapshot.indices() if index]
    few = max(1, len(there) // CHANGED_SHARE)
    chosen = set(chooser.sample(there, min(CHANGED_BLOCKS, few, len(there))))
    empty = sorted(set(range(1, min(size // BLOCK, EMPTY_SEARCH))) - set(there))
    if empty:
        chosen.add(chooser.choice(empty))
    for index in sorted(chosen):
        inside = chooser.randrange(BLOCK // CHANGE_BYTES) * CHANGE_BYTES
        owner = snapshot.owner(index)
        block = bytearray(owner.own_bytes(index) if owner is not None else ZEROS)
        block[inside : inside + CHANGE_BYTES] = chooser.randbytes(CHANGE_BYTES)
        snapshot.write(index, bytes(block))
        yield ChangedRange(index * BLOCK + inside, CHANGE_BYTES)


def looks_like_windows(snapshot: Snapshot) -> bool:
    """Whether a partition of the MBR starts with an NTFS boot sector."""
    table = _read(snapshot, 0, SECTOR)
    for entry in range(4):
        start = int.from_bytes(table[446 + 16 * entry + 8 :][:4], "little") * SECTOR
        if start and _read(snapshot, start, SECTOR)[3:7] == b"NTFS":
            return True
    return False


def _read(snapshot: Snapshot, offset: int, length: int) -> bytes:
    index, inside = divmod(offset, BLOCK)
    owner = snapshot.owner(index)
    return (owner.own_bytes(index) if owner is not None else ZEROS)[inside : inside + length]
