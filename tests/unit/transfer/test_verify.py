"""Read-back: exactly what differs is named, and nothing that is wrong passes."""

from __future__ import annotations

import io
import random
import struct
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import Cancelled, UnreachableError
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK, MIB, SECTOR
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Verification, sample_indices, verify_full, verify_sample
from wavelift.transfer.vmdk import StreamVmdkSource, VmdkFile

pytestmark = pytest.mark.unit

GRAIN = 65536
CAPACITY = 40 * BLOCK


@cache
def content() -> bytes:
    chance = random.Random(9)
    blocks = [chance.randbytes(BLOCK) if number % 2 else bytes(BLOCK) for number in range(40)]
    blocks[38] = b"half a block of text ".ljust(BLOCK, b"\0")
    return b"".join(blocks)


@pytest.fixture(scope="module")
def stored(box: Any) -> tuple[bytes, Manifest]:
    sink, manifest = box.encode(content())
    return sink.object, manifest


def full(file: bytes, manifest: Manifest, **more: Any) -> Verification:
    return verify_full(StreamVmdkSource(io.BytesIO(file)), manifest, cancel=CancelFlag(), **more)


def grain_place(file: bytes, grain: int) -> int:
    """Where the marker of ``grain`` lies."""
    for place in range(128 * SECTOR, len(file), SECTOR):
        lba, size = struct.unpack_from("<QI", file, place)
        if size and lba == grain * 128 and size < 70_000:
            return place
    raise AssertionError(grain)


def test_an_equal_disk_is_proven(stored: tuple[bytes, Manifest]) -> None:
    seen: list[Progress] = []
    result = full(*stored, report=Report("web01", "SCSI 0:0", "verify", seen.append))
    assert result.ok
    assert result.mismatches == ()
    assert result.blocks_checked == 40
    assert result.bytes_read == stored[1].data_bytes == 21 * BLOCK
    assert seen[-1] == Progress("web01", "SCSI 0:0", "verify", CAPACITY, CAPACITY, 21 * BLOCK, 21 * BLOCK)


@examples(6, 50)
@given(grain=st.sampled_from([8, 15, 24, 77, 8 * 39 + 7]), inside=st.integers(30, 60_000), bit=st.integers(0, 7))
def test_a_flipped_bit_names_its_grain_and_the_rest_is_still_compared(
    stored: tuple[bytes, Manifest], grain: int, inside: int, bit: int
) -> None:
    file = bytearray(stored[0])
    file[grain_place(stored[0], grain) + inside] ^= 1 << bit
    result = full(bytes(file), stored[1])
    assert [mismatch.offset for mismatch in result.mismatches] == [grain * GRAIN]
    assert not result.ok
    assert result.complete
    assert result.bytes_read == 20 * BLOCK


def test_two_flips_are_two_mismatches_in_order(stored: tuple[bytes, Manifest]) -> None:
    file = bytearray(stored[0])
    for grain in (301, 9):
        file[grain_place(stored[0], grain) + 500] ^= 1
    result = full(bytes(file), stored[1])
    assert [mismatch.offset for mismatch in result.mismatches] == [9 * GRAIN, 301 * GRAIN]
    assert result.mismatch_count == 2


@pytest.mark.parametrize("index", [0, 1, 2, 38, 39])
def test_another_content_names_its_block(box: Any, stored: tuple[bytes, Manifest], index: int) -> None:
    other = bytearray(content())
    other[index * BLOCK + 123_456] ^= 0xFF
    file = box.encode(bytes(other))[0].object
    result = full(file, stored[1])
    assert [mismatch.offset for mismatch in result.mismatches] == [index * BLOCK]
    assert result.complete


@pytest.mark.parametrize("index", [1, 21, 38, 39])
def test_a_block_that_became_zero_is_missing(box: Any, stored: tuple[bytes, Manifest], index: int) -> None:
    other = bytearray(content())
    other[index * BLOCK : (index + 1) * BLOCK] = bytes(BLOCK)
    result = full(box.encode(bytes(other))[0].object, stored[1])
    assert [(mismatch.offset, "missing" in mismatch.why) for mismatch in result.mismatches] == [(index * BLOCK, True)]


def test_a_broken_structure_ends_it_and_is_one_mismatch(stored: tuple[bytes, Manifest]) -> None:
    file = bytearray(stored[0])
    place = grain_place(stored[0], 24)
    file[place : place + 8] = struct.pack("<Q", 8 * 128)
    result = full(bytes(file), stored[1])
    assert not result.complete
    assert not result.ok
    assert result.mismatch_count == 1
    assert result.mismatches[0].offset == 15 * GRAIN
    truncated = full(stored[0][: len(stored[0]) // 2], stored[1])
    assert not truncated.ok
    assert not truncated.complete


def test_another_capacity_is_no_match(box: Any, stored: tuple[bytes, Manifest]) -> None:
    result = full(box.encode(content() + bytes(SECTOR))[0].object, stored[1])
    assert not result.ok
    assert "bytes where the manifest says" in result.mismatches[0].why


@pytest.mark.parametrize("size", [1, 511, BLOCK + 100, 3 * BLOCK - 1])
def test_a_disk_of_odd_size_verifies_and_its_padding_counts(box: Any, size: int) -> None:
    data = random.Random(size).randbytes(size)
    file = box.encode(data)[0].object
    manifest = box.manifest_of(data)
    assert full(file, manifest).ok
    spoiled = data.ljust(-(-size // SECTOR) * SECTOR, b"\0")[:-1] + b"\x01"
    result = full(box.encode(spoiled)[0].object, manifest)
    assert [mismatch.offset for mismatch in result.mismatches] == [(size - 1) // BLOCK * BLOCK]


def test_a_cut_connection_is_an_error_not_a_mismatch(stored: tuple[bytes, Manifest]) -> None:
    class Cut(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() > MIB:
                raise UnreachableError("connection reset")
            return super().readinto(memoryview(buffer)[:100_000])

    with pytest.raises(UnreachableError):
        verify_full(StreamVmdkSource(Cut(stored[0])), stored[1], cancel=CancelFlag())


def test_verification_can_be_cancelled(stored: tuple[bytes, Manifest]) -> None:
    cancel = CancelFlag()
    woken = threading.Event()

    class Blocking(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() > MIB:
                cancel.set()
                assert woken.wait(60)
                raise OSError("shut")
            return super().readinto(memoryview(buffer)[:100_000])

        def interrupt(self) -> None:
            woken.set()

    with pytest.raises(Cancelled):
        verify_full(StreamVmdkSource(Blocking(stored[0])), stored[1], cancel=cancel)


def pread(file: bytes, calls: list[tuple[int, int]] | None = None) -> Callable[[int, int], bytes]:
    def read(offset: int, length: int) -> bytes:
        assert length > 0
        assert offset + length <= len(file)
        if calls is not None:
            calls.append((offset, length))
        return file[offset : offset + length]

    return read


def sampled(file: bytes, manifest: Manifest, indices: list[int] | range) -> Verification:
    image = VmdkFile(lambda offset, length: file[offset : offset + length], len(file))
    return verify_sample(image.read_block, manifest, indices)


def test_a_sample_of_everything_is_everything(stored: tuple[bytes, Manifest]) -> None:
    result = sampled(*stored, range(40))
    assert result.ok
    assert (result.blocks_checked, result.bytes_read) == (40, 21 * BLOCK)


def test_a_sample_names_the_damaged_grain_and_only_what_it_reads(stored: tuple[bytes, Manifest]) -> None:
    file = bytearray(stored[0])
    file[grain_place(stored[0], 77) + 1000] ^= 4
    assert [mismatch.offset for mismatch in sampled(bytes(file), stored[1], [1, 9, 39]).mismatches] == [77 * GRAIN]
    assert sampled(bytes(file), stored[1], [1, 39]).ok


def test_a_sample_asks_for_nothing_behind_the_end_however_damaged_the_file_is(stored: tuple[bytes, Manifest]) -> None:
    """S3 answers such a request with an error of its own, which knows no grain."""
    last = 39 * 8 + 7
    place = grain_place(stored[0], last)
    longer = bytearray(stored[0])
    struct.pack_into("<I", longer, place + 8, 2 * GRAIN)
    astray = bytearray(stored[0])
    (directory,) = struct.unpack_from("<Q", astray, len(astray) - 2 * SECTOR + 56)
    (table,) = struct.unpack_from("<I", astray, directory * SECTOR)
    struct.pack_into("<I", astray, table * SECTOR + 4 * last, len(astray) // SECTOR + 9)
    for file in (longer, astray):
        image = VmdkFile(pread(bytes(file)), len(file))
        result = verify_sample(image.read_block, stored[1], [39])
        assert [mismatch.offset for mismatch in result.mismatches] == [last * GRAIN]


@pytest.mark.parametrize("index", [0, 1])
def test_a_sample_s_short_block_is_no_match(stored: tuple[bytes, Manifest], index: int) -> None:
    part = content()[index * BLOCK :][: BLOCK // 2]
    assert not verify_sample(lambda _: part, stored[1], [index]).ok


def test_a_sample_sees_missing_and_surplus_blocks(box: Any, stored: tuple[bytes, Manifest]) -> None:
    other = bytearray(content())
    other[BLOCK : 2 * BLOCK] = bytes(BLOCK)
    other[2 * BLOCK] = 1
    file = box.encode(bytes(other))[0].object
    result = sampled(file, stored[1], range(5))
    assert [mismatch.offset for mismatch in result.mismatches] == [BLOCK, 2 * BLOCK]


def test_a_sample_asks_for_a_block_with_one_request(stored: tuple[bytes, Manifest]) -> None:
    calls: list[tuple[int, int]] = []
    image = VmdkFile(pread(stored[0], calls), len(stored[0]))
    opened = len(calls)
    assert opened == 3
    assert image.read_block(3) == content()[3 * BLOCK : 4 * BLOCK]
    assert len(calls) == opened + 2
    assert image.read_block(5) == content()[5 * BLOCK : 6 * BLOCK]
    assert image.read_block(4) is None
    assert len(calls) == opened + 3
    assert max(length for _, length in calls) <= 8 * (GRAIN + SECTOR)


def test_random_access_reads_the_front_style_too(qemu_like: Any) -> None:
    grains = {number: random.Random(number).randbytes(GRAIN) for number in (0, 9, 600)}
    image_bytes = qemu_like(1024 * 128, grains)
    image = VmdkFile(pread(image_bytes), len(image_bytes))
    assert image.read_block(0) == grains[0].ljust(BLOCK, b"\0")
    assert image.read_block(1) == (bytes(GRAIN) + grains[9]).ljust(BLOCK, b"\0")
    assert image.read_block(2) is None
    assert image.read_block(75) == grains[600].ljust(BLOCK, b"\0")
    for index in (-1, 128):
        with pytest.raises(IndexError):
            image.read_block(index)


def test_an_error_of_the_connection_stops_a_sample(stored: tuple[bytes, Manifest]) -> None:
    def read_block(index: int) -> bytes | None:
        raise UnreachableError("no route")

    with pytest.raises(UnreachableError):
        verify_sample(read_block, stored[1], range(40))


def test_a_sample_can_be_cancelled(stored: tuple[bytes, Manifest]) -> None:
    cancel = CancelFlag()
    cancel.set()
    with pytest.raises(Cancelled):
        verify_sample(lambda index: None, stored[1], range(40), cancel=cancel)


@examples(20, 100)
@given(
    data=st.sets(st.integers(0, 999), min_size=0, max_size=300),
    pct=st.floats(0.1, 100),
    seed=st.integers(0, 3),
)
def test_a_sample_has_its_share_of_both_kinds(data: set[int], pct: float, seed: int) -> None:
    manifest = Manifest.empty(1000 * BLOCK)
    for index in data:
        manifest.set(index, b"x" * 32)
    indices = sample_indices(manifest, pct, random.Random(seed))
    assert indices == sorted(set(indices))
    assert indices == sample_indices(manifest, pct, random.Random(seed))
    chosen = set(indices)
    assert len(chosen & data) >= len(data) * pct / 100
    assert len(chosen - data) >= (1000 - len(data)) * pct / 100
    assert len(chosen) <= 1000 * pct / 100 + 4
    if data:
        assert {min(data), max(data)} <= chosen


def test_nobody_can_compute_a_sample_from_what_is_stored() -> None:
    manifest = Manifest.empty(4000 * BLOCK)
    assert sample_indices(manifest, 5) != sample_indices(manifest, 5)


@pytest.mark.parametrize("pct", [0, -1, 100.5])
def test_an_impossible_share_is_refused(pct: float) -> None:
    with pytest.raises(ValueError, match="per cent"):
        sample_indices(Manifest.empty(BLOCK), pct)
