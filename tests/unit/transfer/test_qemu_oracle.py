"""qemu-img checks the VMDK codec in both directions. It shares no code with wavelift."""

from __future__ import annotations

import io
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, MIB, SECTOR
from wavelift.transfer.verify import verify_full
from wavelift.transfer.vmdk import StreamVmdkSource

pytestmark = pytest.mark.wire


def qemu_img(*words: object) -> str:
    command = [shutil.which("qemu-img") or "qemu-img", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mixed(size: int) -> bytes:
    chance = random.Random(size)
    disk = bytearray(size)
    for _ in range(12):
        place = chance.randrange(size)
        length = min(chance.randrange(1, 2 * MIB), size - place)
        kind = chance.choice(["text", "random", "zero"])
        data = {"text": b"some text " * (length // 10 + 1), "random": chance.randbytes(length), "zero": bytes(length)}
        disk[place : place + length] = data[kind][:length]
    return bytes(disk)


DISKS = {
    "zeros": bytes(3 * MIB),
    "one sector": b"x" * SECTOR,
    "one byte more than a grain": mixed(65536 + 1),
    "odd sectors": mixed(5 * MIB + 3 * SECTOR),
    "odd bytes": mixed(7 * MIB + 123),
    "several tables": mixed(70 * MIB),
    "incompressible": random.Random(1).randbytes(2 * BLOCK),
}


@pytest.fixture(params=DISKS, ids=lambda name: name.replace(" ", "-"))
def disk(request: pytest.FixtureRequest) -> bytes:
    return DISKS[request.param]


def test_qemu_reads_what_we_write(box: Any, tmp_path: Path, disk: bytes) -> None:
    raw, vmdk, back = tmp_path / "disk.raw", tmp_path / "disk.vmdk", tmp_path / "back.raw"
    raw.write_bytes(disk.ljust(-(-len(disk) // SECTOR) * SECTOR, b"\0"))
    vmdk.write_bytes(box.encode(disk, part_size=400_000)[0].object)
    assert "No errors" in qemu_img("check", "-f", "vmdk", vmdk)
    assert "identical" in qemu_img("compare", "-f", "raw", "-F", "vmdk", raw, vmdk)
    assert "streamOptimized" in qemu_img("info", vmdk)
    qemu_img("convert", "-f", "vmdk", "-O", "raw", vmdk, back)
    assert back.read_bytes() == raw.read_bytes()


def test_we_read_what_qemu_writes(box: Any, tmp_path: Path, disk: bytes) -> None:
    raw, vmdk = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    content = disk.ljust(-(-len(disk) // SECTOR) * SECTOR, b"\0")
    raw.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk)
    decoded, manifest = box.decode(vmdk.read_bytes())
    assert decoded == content
    assert manifest.to_bytes() == box.manifest_of(content).to_bytes()


def test_both_writers_mean_the_same_disk(box: Any, tmp_path: Path) -> None:
    """The manifest of one proves the file of the other."""
    content = DISKS["several tables"]
    raw, vmdk = tmp_path / "disk.raw", tmp_path / "disk.vmdk"
    raw.write_bytes(content)
    qemu_img("convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk)
    sink, manifest = box.encode(content)
    for file in (sink.object, vmdk.read_bytes()):
        assert verify_full(StreamVmdkSource(io.BytesIO(file)), manifest, cancel=CancelFlag()).ok
