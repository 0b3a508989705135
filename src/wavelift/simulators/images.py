"""Disk images with real content for the demo and the tests: partition tables, file systems, holes, random data.

The Windows-like image has an NTFS boot sector and nothing else of Windows. It proves nothing about Windows.
"""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import tempfile
import uuid
import zlib
from pathlib import Path
from typing import Final

SECTOR: Final = 512
MIB: Final = 1024 * 1024
PART_START: Final = MIB
"""Current partitioning tools start the first partition at 1 MiB."""
LINUX_TYPE: Final = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
ESP_TYPE: Final = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")


def linux_bios(path: Path, *, size: int, seed: int) -> None:
    """MBR, one ext4 partition with files, holes and random data."""
    _sparse(path, size)
    _ext4(path, offset=PART_START, size=size - PART_START, seed=seed)
    _write(path, 0, _mbr([(0x83, PART_START // SECTOR, (size - PART_START) // SECTOR, True)]))


def linux_uefi(path: Path, *, size: int, seed: int) -> None:
    """GPT, an EFI system partition with a FAT signature, one ext4 partition."""
    esp = 32 * MIB
    root = PART_START + esp
    last = size - MIB
    _sparse(path, size)
    _ext4(path, offset=root, size=last - root, seed=seed)
    _write(path, PART_START, _fat_boot_sector(esp // SECTOR))
    _write(path, PART_START + 64 * 1024, random.Random(seed).randbytes(256 * 1024))
    _gpt(path, size, [(ESP_TYPE, PART_START, esp, "EFI"), (LINUX_TYPE, root, last - root, "root")], seed)


def data_disk(path: Path, *, size: int, seed: int) -> None:
    """An ext4 file system on the bare disk."""
    _sparse(path, size)
    _ext4(path, offset=0, size=size, seed=seed)


def windows_like(path: Path, *, size: int, seed: int) -> None:
    """MBR, an NTFS boot sector, and random clusters between holes."""
    rng = random.Random(seed)
    _sparse(path, size)
    sectors = (size - PART_START) // SECTOR
    _write(path, 0, _mbr([(0x07, PART_START // SECTOR, sectors, True)]))
    _write(path, PART_START, _ntfs_boot_sector(sectors))
    for _ in range(24):
        offset = PART_START + rng.randrange(16, (size - PART_START) // MIB - 1) * MIB + rng.randrange(0, 200) * 4096
        _write(path, offset, rng.randbytes(rng.choice((4096, 64 * 1024, 700_000))))


def _sparse(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)


def _write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def _ext4(path: Path, *, offset: int, size: int, seed: int) -> None:
    rng = random.Random(seed)
    mke2fs = shutil.which("mkfs.ext4") or shutil.which("mkfs.ext4", path="/usr/sbin:/sbin")
    if mke2fs is None:
        raise RuntimeError("mkfs.ext4 is missing: install Debian's e2fsprogs")
    with tempfile.TemporaryDirectory(prefix="wavelift-root-") as folder:
        root = Path(folder)
        for name in ("bin", "etc", "var/log", "home/ops", "boot"):
            (root / name).mkdir(parents=True)
        (root / "etc/hostname").write_text(f"server-{seed}\n")
        (root / "etc/fstab").write_text("UUID=0000 / ext4 defaults 0 1\n")
        (root / "var/log/syslog").write_text("".join(f"line {n} of seed {seed}\n" for n in range(60_000)))
        (root / "home/ops/random.bin").write_bytes(rng.randbytes(12 * MIB))
        with (root / "home/ops/sparse.bin").open("wb") as sparse:
            sparse.truncate(64 * MIB)
            for _ in range(12):
                sparse.seek(rng.randrange(0, 63) * MIB)
                sparse.write(rng.randbytes(100_000))
        subprocess.run(
            [mke2fs, "-q", "-F", "-d", folder, "-E", f"offset={offset},root_owner=0:0", str(path), f"{size // 1024}k"],
            check=True,
            capture_output=True,
            timeout=120,
        )


def _mbr(partitions: list[tuple[int, int, int, bool]]) -> bytes:
    table = b"".join(
        struct.pack("<B3sB3sII", 0x80 if boot else 0, b"\xfe\xff\xff", kind, b"\xfe\xff\xff", start, count)
        for kind, start, count, boot in partitions
    )
    return b"\xfa\x31\xc0".ljust(440, b"\x90") + b"WLDM\0\0" + table.ljust(64, b"\0") + b"\x55\xaa"


def _gpt(path: Path, size: int, partitions: list[tuple[uuid.UUID, int, int, str]], seed: int) -> None:
    rng = random.Random(seed)
    disk_id = uuid.UUID(bytes=rng.randbytes(16))
    last = size // SECTOR - 1
    entries = b"".join(
        struct.pack(
            "<16s16sQQQ72s",
            kind.bytes_le,
            uuid.UUID(bytes=rng.randbytes(16)).bytes_le,
            start // SECTOR,
            (start + length) // SECTOR - 1,
            0,
            label.encode("utf-16-le"),
        )
        for kind, start, length, label in partitions
    ).ljust(128 * 128, b"\0")

    def header(here: int, other: int, table: int) -> bytes:
        def pack(crc: int) -> bytes:
            return struct.pack(
                "<8sIIIIQQQQ16sQIII",
                b"EFI PART", 0x10000, 92, crc, 0, here, other, 34, last - 33, disk_id.bytes_le, table, 128, 128,
                zlib.crc32(entries),
            )  # fmt: skip

        return pack(zlib.crc32(pack(0))).ljust(SECTOR, b"\0")

    _write(path, 0, _mbr([(0xEE, 1, min(last, 0xFFFFFFFF), False)]))
    _write(path, SECTOR, header(1, last, 2) + entries)
    _write(path, (last - 32) * SECTOR, entries + header(last, 1, last - 32))


def _fat_boot_sector(sectors: int) -> bytes:
    head = b"\xeb\x58\x90MSDOS5.0" + struct.pack(
        "<HBHBHHBHHHII", SECTOR, 8, 32, 2, 0, 0, 0xF8, 0, 63, 255, 2048, sectors
    )
    return (head.ljust(82, b"\0") + b"FAT32   ").ljust(510, b"\0") + b"\x55\xaa"


def _ntfs_boot_sector(sectors: int) -> bytes:
    head = b"\xeb\x52\x90NTFS    " + struct.pack("<HBH", SECTOR, 8, 0)
    body = head.ljust(40, b"\0") + struct.pack("<QQQ", sectors - 1, 786432 // 8, 2)
    return body.ljust(510, b"\0") + b"\x55\xaa"
