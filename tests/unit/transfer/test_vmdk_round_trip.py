"""Any disk is restored exactly, and any damage to its file is detected."""

from __future__ import annotations

import io
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import depth, examples

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import BLOCK, MIB, SECTOR
from wavelift.transfer.protocols import Extent
from wavelift.transfer.vmdk import StreamVmdkSource, VmdkFile

pytestmark = pytest.mark.unit

GRAIN = 65536
CONTENTS = ("text", "random", "zero", "sparse", "ones")


def fill(kind: str, length: int, seed: int) -> bytes:
    chance = random.Random(seed)
    if kind == "text":
        return (b"%d lines of text, " % seed * (length // 8 + 1))[:length]
    if kind == "random":
        return chance.randbytes(length)
    if kind == "sparse":
        return bytes(length - 1) + b"\x01" if length else b""
    return bytes([kind == "ones"]) * length


@st.composite
def disks(draw: st.DrawFn, *, largest: int = 3 * MIB) -> tuple[bytes, list[Extent]]:
    """Content and extents that cover all that is not zero."""
    unit = draw(st.sampled_from([1, SECTOR, 4096, GRAIN, BLOCK]))
    size = draw(st.integers(1, largest // unit)) * unit
    content = bytearray(size)
    extents: list[Extent] = []
    position = 0
    while position < size and len(extents) < 12:
        position += draw(st.integers(0, (size - position) // unit)) * unit
        length = min(draw(st.integers(1, 20)) * draw(st.sampled_from([1, SECTOR, 4096, GRAIN])), size - position)
        kind = draw(st.sampled_from(CONTENTS))
        content[position : position + length] = fill(kind, length, draw(st.integers(0, 99)))
        if length:
            extents.append(Extent(position, length, zero=kind == "zero" and draw(st.booleans())))
        position += length
    return bytes(content), extents


def rounded(content: bytes) -> bytes:
    """The disk as a VMDK can say it: whole sectors."""
    return content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")


@examples(30, 300)
@given(disk=disks())
def test_any_disk_comes_back_and_its_manifests_agree(box: Any, disk: tuple[bytes, list[Extent]]) -> None:
    content, extents = disk
    sink, manifest = box.encode(content, extents, part_size=70_000)
    decoded, decoded_manifest = box.decode(sink.object)
    assert decoded == rounded(content)
    assert manifest.to_bytes() == box.manifest_of(content).to_bytes()
    assert decoded_manifest.to_bytes() == box.manifest_of(rounded(content)).to_bytes()
    file = VmdkFile(lambda offset, length: sink.object[offset : offset + length], len(sink.object))
    for index in range(manifest.block_count):
        block = file.read_block(index)
        expected = rounded(content)[index * BLOCK : (index + 1) * BLOCK]
        assert (block or bytes(len(expected))) == expected


@pytest.mark.parametrize("size", [1, 511, 512, 513, GRAIN - 1, GRAIN, GRAIN + 1, BLOCK - 512, BLOCK, BLOCK + 1])
@pytest.mark.parametrize("kind", CONTENTS)
def test_odd_sizes_come_back(box: Any, size: int, kind: str) -> None:
    content = fill(kind, size, 7)
    sink, manifest = box.encode(content)
    assert box.decode(sink.object)[0] == rounded(content)
    assert manifest.capacity == size


def test_disks_of_several_tables_with_gaps_come_back(box: Any) -> None:
    content = bytearray(5 * 32 * MIB + 3 * GRAIN)
    places = [0, 32 * MIB - GRAIN, 32 * MIB, 97 * MIB + 17, len(content) - 9]
    for place in places:
        content[place : place + 9] = b"wavelift!"
    extents = [Extent(place // SECTOR * SECTOR, SECTOR) for place in places[:-1]]
    extents.append(Extent(len(content) - SECTOR, SECTOR))
    sink, _ = box.encode(bytes(content), extents)
    assert box.decode(sink.object)[0] == content
    assert len(sink.object) < 128 * SECTOR + 30 * 1024


def test_zero_grains_inside_a_block_with_data_take_no_room(box: Any) -> None:
    content = bytearray(BLOCK)
    content[3 * GRAIN] = 1
    one = len(box.encode(bytes(content))[0].object)
    content[:] = b"\x01" + bytes(GRAIN - 1)
    content = content.ljust(BLOCK, b"\0")
    assert len(box.encode(bytes(content))[0].object) == one


def test_incompressible_data_grows_by_less_than_one_per_cent(box: Any) -> None:
    content = random.Random(3).randbytes(8 * MIB)
    sink, _ = box.encode(content)
    assert len(sink.object) - 128 * SECTOR < len(content) * 1.01
    assert box.decode(sink.object)[0] == content


def test_compressible_grains_behind_hopeless_ones_are_still_compressed(box: Any) -> None:
    content = (random.Random(3).randbytes(GRAIN) + b"text " * (GRAIN // 5 + 1))[: 2 * GRAIN] * 4
    sink, _ = box.encode(content)
    assert len(sink.object) - 128 * SECTOR < 4.2 * GRAIN
    assert box.decode(sink.object)[0] == content


SAMPLE = b"".join(
    (
        fill("text", 2 * GRAIN, 1),
        fill("random", GRAIN, 2),
        bytes(6 * GRAIN),
        fill("sparse", GRAIN, 3),
        fill("text", 3 * SECTOR, 4),
    )
)


class Files(dict[str, bytes]):
    def __repr__(self) -> str:  # hypothesis prints arguments
        return "files"


def streamed(file: bytes, box: Any) -> bytes | None:
    """The decoded disk, None when the harm was noticed."""
    try:
        source = StreamVmdkSource(io.BytesIO(file))
        if source.size > 64 * MIB:
            list(source.pieces())
            return b"a disk of another size"
        decoded: bytes = box.decode(file)[0]
    except CorruptStreamError:
        return None
    return decoded


def walked(file: bytes) -> None:
    """Random access to a harmed file: whatever it says, it says no other exception."""
    try:
        image = VmdkFile(lambda offset, length: file[offset : offset + length], len(file))
        for index in range(3):
            try:
                image.read_block(index)
            except (CorruptStreamError, IndexError):
                continue
    except CorruptStreamError:
        return


@pytest.fixture(scope="session")
def files(box: Any, qemu_like: Any) -> Files:
    grains = {
        number: SAMPLE[number * GRAIN : (number + 1) * GRAIN].ljust(GRAIN, b"\0")
        for number in range(-(-len(SAMPLE) // GRAIN))
        if any(SAMPLE[number * GRAIN : (number + 1) * GRAIN])
    }
    return Files(ours=box.encode(SAMPLE)[0].object, front=qemu_like(len(SAMPLE) // SECTOR, grains))


HARMS = st.tuples(st.integers(0, 10**9), st.integers(1, 255))
CAPACITY_FIELD = range(12, 20)


@examples(80, 800)
@given(style=st.sampled_from(["ours", "front"]), harm=HARMS, where=st.sampled_from(["any", "head", "records"]))
def test_any_flipped_byte_is_harmless_or_noticed(
    files: Files, box: Any, style: str, harm: tuple[int, int], where: str
) -> None:
    file = bytearray(files[style])
    low, high = {"any": (0, len(file)), "head": (0, 79), "records": (128 * SECTOR, len(file))}[where]
    place = low + harm[0] % (high - low)
    if style == "front" and place in CAPACITY_FIELD:
        return  # nothing else in that style repeats the capacity: the caller compares it with the inventory
    file[place] ^= harm[1]
    assert streamed(bytes(file), box) in (None, rounded(SAMPLE))
    walked(bytes(file))


@pytest.mark.sampled
def test_every_flip_in_markers_tables_and_footer_is_harmless_or_noticed(files: Files, box: Any) -> None:
    """The metadata in full: every byte of the last sectors and the first bytes of every sector of the body."""
    whole = files["ours"]
    places = [*range(79), *range(len(whole) - 9 * SECTOR, len(whole), 3)]
    for sector in range(128, len(whole) // SECTOR):
        places += range(sector * SECTOR, sector * SECTOR + 14)
    chance = random.Random(5)
    for place in chance.sample(places, depth(100, 500)):
        file = bytearray(whole)
        file[place] ^= 1 << chance.randrange(8)
        assert streamed(bytes(file), box) in (None, rounded(SAMPLE)), place


@examples(30, 300)
@given(style=st.sampled_from(["ours", "front"]), cut=st.integers(0, 10**9))
def test_any_truncation_is_noticed(files: Files, box: Any, style: str, cut: int) -> None:
    file = files[style][: cut % len(files[style])]
    decoded = streamed(file, box)
    if style == "ours" or len(file) < len(files[style]) - 126 * SECTOR:
        assert decoded is None
    else:  # only zeros behind the last grain were lost
        assert decoded in (None, rounded(SAMPLE))
    walked(file)


def test_every_truncation_at_a_sector_is_noticed(files: Files, box: Any) -> None:
    whole = files["ours"]
    for sector in range(128, len(whole) // SECTOR):
        assert streamed(whole[: sector * SECTOR], box) is None


@examples(20, 200)
@given(start=st.integers(0, 10**9), length=st.integers(1, 2000), move=st.booleans())
def test_lost_or_doubled_bytes_are_noticed(files: Files, box: Any, start: int, length: int, move: bool) -> None:
    whole = files["ours"]
    start = 128 * SECTOR + start % (len(whole) - 128 * SECTOR - length)
    harmed = whole[: start + length] + whole[start:] if move else whole[:start] + whole[start + length :]
    assert streamed(harmed, box) in (None, rounded(SAMPLE))


@examples(15, 100)
@given(garbage=st.binary(max_size=3000), keep=st.sampled_from([79, 512, 128 * SECTOR, 140 * SECTOR]))
def test_garbage_is_refused(files: Files, box: Any, garbage: bytes, keep: int) -> None:
    assert streamed(files["ours"][:keep] + garbage, box) is None


def test_the_header_alone_costs_no_memory_for_what_it_claims(hand_made: Any) -> None:
    """A capacity of 64 TiB: the directory is 8 MiB, and that is all that a liar gets."""
    stream = hand_made(capacity=2**37)
    source = StreamVmdkSource(io.BytesIO(stream.header(2**64 - 1, 2**37).ljust(128 * SECTOR, b"\0")))
    with pytest.raises(CorruptStreamError, match="truncated"):
        list(source.pieces())
