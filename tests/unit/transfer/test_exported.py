"""Exported objects that are no OVA: a VMDK, a VHD of either kind, a raw disk."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import BLOCK, MIB, SECTOR
from wavelift.transfer.exported import OpenedDisk, open_exported

pytestmark = pytest.mark.unit


def read_of(file: bytes) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert offset >= 0
        assert 0 < length <= 2 * MIB
        return file[offset : offset + length]

    return read


def opened(file: bytes, form: Any) -> tuple[OpenedDisk, ...]:
    return open_exported(read_of(file), len(file), form)


def summed(data: bytes, place: int) -> bytes:
    """With the checksum at ``place`` that the format asks for."""
    zeroed = data[:place] + bytes(4) + data[place + 4 :]
    return zeroed[:place] + struct.pack(">I", ~sum(zeroed) & 0xFFFFFFFF) + zeroed[place + 4 :]


def footer(
    size: int, *, kind: int = 2, data: int = 2**64 - 1, cookie: bytes = b"conectix", version: int = 0x10000
) -> bytes:
    fields = struct.pack(">8sIIQI4sI4sQQ", cookie, 2, version, data, 0, b"test", 0, b"Wi2k", size, size)
    return summed((fields + struct.pack(">III", 0, kind, 0)).ljust(SECTOR, b"\0"), 64)


def dynamic(
    size: int,
    table: list[int],
    *,
    block: int = 2 * MIB,
    entries: int | None = None,
    cookie: bytes = b"cxsparse",
    tail: int = 0,
) -> bytes:
    end = footer(size, kind=3, data=SECTOR)
    count = len(table) if entries is None else entries
    head = struct.pack(">8sQQIIII", cookie, 2**64 - 1, 3 * SECTOR, 0x10000, count, block, 0).ljust(1024, b"\0")
    places = struct.pack(f">{len(table)}I", *table)
    return end + summed(head, 36) + places.ljust(-(-len(places) // SECTOR) * SECTOR, b"\xff") + bytes(tail) + end


def test_a_vmdk_opens(box: Any) -> None:
    content = random.Random(1).randbytes(BLOCK) + bytes(70 * MIB) + b"end"
    file = box.encode(content)[0].object
    assert opened(file, "vmdk") == (OpenedDisk("", -(-len(content) // SECTOR) * SECTOR),)


def test_a_disk_of_zeros_opens(box: Any) -> None:
    assert opened(box.encode(bytes(5 * MIB))[0].object, "vmdk") == (OpenedDisk("", 5 * MIB),)


def test_a_vmdk_with_a_table_behind_its_end_is_told(hand_made: Any) -> None:
    def lie(directory: list[int]) -> None:
        directory[0] = 10**6

    with pytest.raises(CorruptStreamError, match="table lies behind its end") as caught:
        opened(hand_made(grains={0: b"a" * 65536}, edit_directory=lie).build(), "vmdk")
    assert caught.value.where["position"] == 10**6 * SECTOR


def test_a_damaged_first_or_last_grain_is_told(hand_made: Any) -> None:
    grains = {0: b"a" * 65536, 1: b"b" * 65536, 700: b"c" * 65536}
    for broken in (0, 700):
        file = hand_made(capacity=1000 * 128, grains=grains, packed={broken: b"no zlib"}).build()
        with pytest.raises(CorruptStreamError, match="damaged") as caught:
            opened(file, "vmdk")
        assert caught.value.where["offset"] == broken * 65536


def test_empty_tables_of_a_large_disk_are_not_all_read(qemu_like: Any) -> None:
    """qemu-img makes a table for every 32 MiB, used or not."""
    file: bytes = qemu_like(128 * 512 * 300, {512 * 150: b"a" * 65536})
    reads = 0

    def read(offset: int, length: int) -> bytes:
        nonlocal reads
        reads += 1
        return file[offset : offset + length]

    assert open_exported(read, len(file), "vmdk") == (OpenedDisk("", 300 * 32 * MIB),)
    assert reads < 40


def sparse(*, grains: int = 2, directory: int = 1, entries: int = 512, capacity: int = 128 * 512) -> bytes:
    """A sparse VMDK that is no stream: header, directory, one table, grains of 64 KiB."""
    head = struct.pack("<4sIIQQQQIQQ", b"KDMV", 1, 3, capacity, 128, 0, 0, entries, 0, directory).ljust(SECTOR, b"\0")
    table = struct.pack("<2I", 6, 6 + 128).ljust(4 * 512, b"\0")
    return head + struct.pack("<I", 2).ljust(SECTOR, b"\0") + table + bytes(grains * 65536)


def test_a_sparse_vmdk_that_is_no_stream_opens() -> None:
    assert opened(sparse(), "vmdk") == (OpenedDisk("", 32 * MIB),)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (sparse(grains=1), "a grain lies behind its end"),
        (sparse()[: 5 * SECTOR], "a table lies behind its end"),
        (sparse()[:SECTOR], "it ends within a table"),
        (sparse(directory=0), "header makes no sense"),
        (sparse(entries=0), "header makes no sense"),
        (sparse(capacity=0), "header makes no sense"),
        (sparse(capacity=2**60), "header makes no sense"),
        (sparse()[:100], "truncated"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_sparse_vmdk_that_was_cut_is_told(file: bytes, words: str) -> None:
    with pytest.raises(CorruptStreamError, match=words):
        opened(file, "vmdk")


def test_a_fixed_vhd_opens() -> None:
    assert opened(bytes(3 * MIB) + footer(3 * MIB), "vhd") == (OpenedDisk("", 3 * MIB),)


def test_a_dynamic_vhd_opens() -> None:
    unused = 0xFFFFFFFF
    file = dynamic(5 * MIB, [4, unused, unused], tail=2 * MIB + SECTOR)
    assert opened(file, "vhd") == (OpenedDisk("", 5 * MIB),)


FIXED = bytes(MIB) + footer(MIB)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        (FIXED[:-1], "does not end with a footer|too early|checksum"),
        (FIXED[:-SECTOR], "does not end with a footer"),
        (b"", "too early"),
        (b"x" * 100, "too early"),
        (FIXED[:-100] + b"x" + FIXED[-99:], "footer's checksum"),
        (FIXED[SECTOR:], "has room for"),
        (bytes(MIB) + footer(MIB, kind=4), "differs from another file"),
        (bytes(MIB) + footer(MIB, kind=9), "kind 9"),
        (bytes(MIB) + footer(MIB, version=0x20000), "version 2"),
        (bytes(MIB) + footer(0), "disk of 0 bytes"),
        (bytes(MIB) + footer(2**60), "disk of 1152921504606846976"),
        (dynamic(MIB, [0xFFFFFFFF])[1:], "first sector|too early"),
        (bytes(SECTOR) + dynamic(MIB, [0xFFFFFFFF]), "first sector"),
        (dynamic(MIB, [0xFFFFFFFF], cookie=b"nonsense"), "no header of a dynamic"),
        (dynamic(MIB, [0xFFFFFFFF], block=3), "blocks of 3"),
        (dynamic(MIB, [0xFFFFFFFF], block=0), "blocks of 0"),
        (dynamic(9 * MIB, [0xFFFFFFFF]), "table of 1 entries"),
        (dynamic(3 * MIB, [0xFFFFFFFF] * 2, entries=1), "table of 1 entries"),
        (dynamic(MIB, [4]), "block 0 lies behind its end"),
        (footer(MIB, kind=3, data=2**63), "first sector|too early"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",
)
def test_a_vhd_that_is_none_is_told(file: bytes, words: str) -> None:
    with pytest.raises(CorruptStreamError, match=words) as caught:
        opened(file, "vhd")
    assert caught.value.next_step
    assert "position" in caught.value.where


@examples(100, 1000)
@given(data=st.binary(min_size=1, max_size=40), place=st.integers(0, 3000))
def test_any_damage_of_a_vhd_opens_or_is_told(data: bytes, place: int) -> None:
    file = bytearray(dynamic(5 * MIB, [4, 0xFFFFFFFF, 0xFFFFFFFF]))
    file[place : place + len(data)] = data
    with pytest.raises(CorruptStreamError):
        opened(bytes(file), "vhd")


def test_a_raw_disk_is_whole_sectors() -> None:
    assert opened(bytes(3 * SECTOR), "raw") == (OpenedDisk("", 3 * SECTOR),)
    for file in (b"", bytes(SECTOR + 1)):
        with pytest.raises(CorruptStreamError, match="not whole sectors"):
            opened(file, "raw")
