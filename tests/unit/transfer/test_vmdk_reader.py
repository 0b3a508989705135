"""Streams made by hand: every rule of the format, broken one at a time."""

from __future__ import annotations

import io
import random
import re
import struct
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from wavelift.base.errors import CorruptStreamError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, MIB, SECTOR
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.report import Report
from wavelift.transfer.vmdk import StreamVmdkSource

pytestmark = pytest.mark.unit

GRAIN = 65536
TABLE = 512 * GRAIN


def grain(seed: int) -> bytes:
    return random.Random(seed).randbytes(700) * 93 + bytes(GRAIN - 93 * 700)


def expect(stream: Any, box: Any, grains: dict[int, bytes]) -> None:
    content = bytearray(stream.capacity * SECTOR)
    for number, data in grains.items():
        room = len(content) - number * GRAIN
        content[number * GRAIN : number * GRAIN + min(GRAIN, room)] = data[:room]
    decoded, manifest = box.decode(stream.build())
    assert decoded == bytes(content)
    assert manifest.to_bytes() == box.manifest_of(bytes(content)).to_bytes()


def refused(data: bytes, box: Any, why: str | None = None) -> CorruptStreamError:
    with pytest.raises(CorruptStreamError, match=why) as caught:
        box.decode(data)
    assert caught.value.next_step
    return caught.value


@pytest.mark.parametrize("version", [1, 2, 3])
def test_grains_become_blocks_and_gaps_zeros(hand_made: Any, box: Any, version: int) -> None:
    grains = {number: grain(number) for number in (0, 7, 8, 9, 31)}
    expect(hand_made(capacity=32 * 128, grains=grains, version=version), box, grains)


def test_a_disk_without_a_grain_is_zeros(hand_made: Any, box: Any) -> None:
    expect(hand_made(capacity=1), box, {})


def test_the_last_grain_may_be_cut_or_whole(hand_made: Any, box: Any) -> None:
    whole = {1: grain(1)}
    expect(hand_made(capacity=128 + 3, grains=whole), box, whole)
    cut = {1: grain(1)[: 3 * SECTOR]}
    expect(hand_made(capacity=128 + 3, grains=cut), box, cut)


@pytest.mark.parametrize("knobs", [{}, {"empty_tables": True}, {"tables_last": True}, {"flags": 0x30005}])
def test_tables_may_come_late_be_empty_or_know_zero_grains(hand_made: Any, box: Any, knobs: dict[str, Any]) -> None:
    grains = {number: grain(number) for number in (0, 511, 512, 1029)}
    expect(hand_made(capacity=2 * 65536 + 6 * 128 + 77, grains=grains, **knobs), box, grains)


@pytest.mark.parametrize("knobs", [{}, {"empty_tables": True}, {"tables_last": True}])
def test_signs_of_life_may_stand_between_any_two_records(hand_made: Any, box: Any, knobs: dict[str, Any]) -> None:
    grains = {number: grain(number) for number in (0, 511, 512, 1029)}
    expect(hand_made(capacity=2 * 65536 + 6 * 128 + 77, grains=grains, progress=4, **knobs), box, grains)


def test_a_sign_of_life_moves_the_position_and_never_hides_a_truncation(hand_made: Any, box: Any) -> None:
    alive = struct.pack("<QIIQ", 0, 0, 4, 4 * 128).ljust(SECTOR, b"\0")
    head = hand_made(capacity=8 * 128).build()[: 128 * SECTOR] + hand_made.grain(0, grain(0)) + alive
    source = StreamVmdkSource(io.BytesIO(head))
    with pytest.raises(CorruptStreamError, match="truncated"):
        list(source.pieces())
    assert source.position == 4 * GRAIN


def test_a_table_entry_of_one_is_a_zero_grain_when_the_header_says_so(hand_made: Any, box: Any) -> None:
    def edit(_: int, table: list[int]) -> None:
        table[3] = 1

    grains = {0: grain(0)}
    expect(hand_made(capacity=8 * 128, grains=grains, flags=0x30005, edit_table=edit), box, grains)
    refused(hand_made(capacity=8 * 128, grains=grains, edit_table=edit).build(), box, "table contradicts")


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"version": 4}, "version 4"),
        ({"version": 0}, "version 0"),
        ({"flags": 0x20001}, "flags"),
        ({"flags": 0x10001}, "flags"),
        ({"flags": 0x30009}, "unknown bits"),
        ({"grain_sectors": 64}, "grains of 64"),
        ({"entries": 1024}, "tables of 1024"),
        ({"compression": 0}, "compression 0"),
        ({"newlines": b"\n \n\n"}, "line ends"),
        ({"unclean": 1}, "not closed"),
        ({"capacity": 0}, "capacity"),
        ({"capacity": 2**40}, "capacity"),
        ({"descriptor": (1, 128)}, "descriptor"),
        ({"descriptor": (200, 20)}, "descriptor"),
    ],
)
def test_a_wrong_header_is_refused_at_once(hand_made: Any, knobs: dict[str, Any], why: str) -> None:
    stream = hand_made(**knobs)
    data = stream.header(2**64 - 1, stream.capacity).ljust(128 * SECTOR, b"\0")
    with pytest.raises(CorruptStreamError, match=re.escape(why)):
        StreamVmdkSource(io.BytesIO(data))


@pytest.mark.parametrize("data", [b"", b"KDMV", bytes(512), b"# Disk DescriptorFile".ljust(1024), b"\x7fELF" * 200])
def test_something_else_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(CorruptStreamError):
        StreamVmdkSource(io.BytesIO(data))


def test_what_contradicts_names_the_grain(hand_made: Any, box: Any) -> None:
    def drop(number: int, table: list[int]) -> None:
        if number == 1:
            table[5] = 0

    def invent(number: int, table: list[int]) -> None:
        if number == 1:
            table[9] = 4711

    grains = {number: grain(number) for number in (0, 512, 517)}
    for edit, slot in ((drop, 5), (invent, 9)):
        error = refused(hand_made(capacity=2 * 65536, grains=grains, edit_table=edit).build(), box, "table contradicts")
        assert error.where["offset"] == TABLE + slot * GRAIN


@pytest.mark.parametrize(
    ("knobs", "why"),
    [
        ({"leave_out": frozenset({"table"})}, "table is missing"),
        ({"edit_directory": lambda directory: directory.__setitem__(0, 0)}, "directory contradicts"),
        ({"edit_directory": lambda directory: directory.__setitem__(0, 5)}, "directory contradicts"),
        ({"edit_directory": lambda directory: directory.__setitem__(1, 5)}, "directory contradicts"),
        ({"footer_capacity": 65537}, "footer contradicts"),
        ({"footer_gd": 4711}, "footer contradicts"),
        ({"leave_out": frozenset({"footer"})}, "without a footer"),
        ({"leave_out": frozenset({"eos"})}, "truncated"),
        ({"leave_out": frozenset({"footer", "eos"})}, "truncated"),
        ({"tail": b"\0"}, "something follows"),
        ({"tail": bytes(512)}, "something follows"),
    ],
)
def test_a_wrong_end_is_refused(hand_made: Any, box: Any, knobs: dict[str, Any], why: str) -> None:
    refused(hand_made(capacity=2 * 65536, grains={0: grain(0), 3: grain(3)}, **knobs).build(), box, why)


@pytest.mark.parametrize(
    ("order", "why"), [([3, 1], "claims sector"), ([1, 1], "claims sector"), ([9], "claims sector")]
)
def test_grains_must_ascend_within_the_disk(hand_made: Any, box: Any, order: list[int], why: str) -> None:
    grains = {number: grain(number) for number in order}
    refused(hand_made(capacity=4 * 128, grains=grains, order=order).build(), box, why)


def test_a_grain_behind_its_table_is_refused(hand_made: Any, box: Any) -> None:
    whole = hand_made(capacity=600 * 128, grains={0: grain(0)}).build()
    body, end = whole[: -5 * SECTOR], whole[-5 * SECTOR :]
    refused(body + hand_made.grain(1, grain(1)) + end, box, "behind its table")


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (lambda make: make.grain(1, grain(1), lba=129), "claims sector 129"),
        (lambda make: make.grain(1, grain(1), size=200_000), "200000 compressed bytes"),
        (lambda make: make.grain(1, grain(1)).replace(b"\x78\x01", b"\x78\x03", 1)[:300], "ends within"),
        (lambda make: b"\x07" + bytes(11) + b"\x09" + bytes(499), "unknown type 9"),
        (lambda make: b"\x07" + bytes(11) + b"\x01" + bytes(499), "announces 7 sectors"),
        (lambda make: b"\x07" + bytes(11) + b"\x02" + bytes(499), "announces 7 sectors"),
        (lambda make: b"\x01" + bytes(11) + b"\x03" + bytes(499), "announces 1 sectors"),
        (lambda make: b"\x04" + bytes(11) + b"\x01" + bytes(499) + b"\x01" * 2048, "contradicts the grains"),
        (lambda make: b"\x01" + bytes(11) + b"\x04" + bytes(499), "progress marker of 1"),
        (lambda make: bytes(12) + b"\x04" + bytes(3) + b"\xff" * 8 + bytes(488), "progress marker of 0"),
        (lambda make: b"\x01" + bytes(511), "end mark that announces more"),
    ],
)
def test_a_broken_record_is_refused(hand_made: Any, box: Any, record: Callable[[Any], bytes], why: str) -> None:
    head = hand_made(capacity=4 * 128).build()[: 128 * SECTOR]
    error = refused(head + hand_made.grain(0, grain(0)) + record(hand_made), box, why)
    assert error.where["offset"] in (0, GRAIN)


@pytest.mark.parametrize(
    ("packed", "why"),
    [
        (zlib.compress(grain(1)[:-1]), "holds 65535 bytes"),
        (zlib.compress(grain(1) + b"x"), "holds 65537 bytes"),
        (zlib.compress(bytes(64 * MIB)), "too long"),
        (zlib.compress(b""), "holds 0 bytes"),
        (zlib.compress(grain(1))[:-1], "ends early"),
        (zlib.compress(grain(1))[:-4], "ends early"),
        (zlib.compress(grain(1))[:1], "ends early"),
        (zlib.compress(grain(1))[:-4] + b"abcd", "checksum"),
        (zlib.compress(grain(1))[2:], "damaged"),
        (b"\x78\x01" + b"\xff" * 300, "damaged"),
    ],
)
def test_a_broken_payload_is_refused_with_its_offset(hand_made: Any, box: Any, packed: bytes, why: str) -> None:
    grains = {0: grain(0), 1: grain(1), 2: grain(2)}
    data = hand_made(capacity=4 * 128, grains=grains, packed={1: packed}).build()
    assert refused(data, box, why).where["offset"] == GRAIN


def test_a_flipped_payload_byte_names_its_grain_and_spares_the_others(hand_made: Any) -> None:
    grains = {number: grain(number) for number in range(20)}
    data = bytearray(hand_made(capacity=20 * 128, grains=grains).build())
    place = data.index(zlib.compress(grains[13], 1)) + 300
    data[place] ^= 0x10
    source = StreamVmdkSource(io.BytesIO(data))
    pieces = list(source.pieces())
    buffer = memoryview(bytearray(BLOCK))
    pieces[0].load(buffer)
    assert bytes(buffer) == b"".join(grains[number] for number in range(8))
    with pytest.raises(CorruptStreamError, match="grain is damaged") as caught:
        pieces[1].load(buffer)
    assert caught.value.where["offset"] == 13 * GRAIN


def test_the_front_style_of_qemu_is_read(qemu_like: Any, box: Any) -> None:
    grains = {number: grain(number) for number in (0, 8, 511, 513, 1023)}
    content = bytearray(1024 * GRAIN)
    for number, data in grains.items():
        content[number * GRAIN : (number + 1) * GRAIN] = data
    for tail in (0, 1, 126):
        decoded, _ = box.decode(qemu_like(1024 * 128, grains, tail=tail))
        assert decoded == content


@pytest.mark.parametrize("dropped", [0, 8, 513, 1023])
def test_a_grain_missing_from_the_front_style_is_named(qemu_like: Any, box: Any, dropped: int) -> None:
    grains = {number: grain(number) for number in (0, 8, 511, 513, 1023)}
    offset = refused(qemu_like(1024 * 128, grains, drop=dropped), box).where["offset"]
    assert isinstance(offset, int)
    assert offset >= dropped * GRAIN


def test_a_front_style_stream_cut_between_grains_is_truncated(qemu_like: Any, box: Any) -> None:
    grains = {number: grain(number) for number in (0, 8, 700)}
    whole = qemu_like(1024 * 128, grains, tail=0)
    cut = whole[: -len(qemu_like(1024 * 128, {700: grains[700]}, tail=0)) + 128 * SECTOR]
    assert refused(cut, box, "missing or the stream is truncated").where["offset"] == 700 * GRAIN


def test_front_style_ends_with_zeros_only(qemu_like: Any, box: Any) -> None:
    grains = {0: grain(0)}
    refused(qemu_like(128, grains, tail=129 + 1), box, "something follows")
    refused(qemu_like(128, grains, tail=3) + b"x".ljust(512), box)
    refused(qemu_like(128, grains, tail=3) + b"\0", box)


class Trickle(io.RawIOBase):
    """Gives odd little amounts, as a socket does."""

    def __init__(self, data: bytes, seed: int) -> None:
        self._data = io.BytesIO(data)
        self._chance = random.Random(seed)

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        return self._data.readinto(view[: self._chance.choice((1, 11, 12, 511, 512, 4096, 70_000))])


@pytest.mark.parametrize("seed", range(3))
def test_short_reads_change_nothing(hand_made: Any, box: Any, seed: int) -> None:
    grains = {number: random.Random(number).randbytes(GRAIN) for number in range(40)}
    data = hand_made(capacity=40 * 128, grains=grains).build()
    decoded, _ = box.decode(b"", raw=Trickle(data, seed))
    assert decoded == b"".join(grains[number] for number in range(40))


def test_position_follows_the_disk_since_a_lease_has_no_length(hand_made: Any) -> None:
    grains = {number: random.Random(number).randbytes(GRAIN) for number in range(0, 640, 32)}
    source = StreamVmdkSource(io.BytesIO(hand_made(capacity=640 * 128, grains=grains).build()))
    seen = []
    for piece in source.pieces():
        seen.append(source.position)
        assert piece.index * BLOCK <= source.position <= source.size
    assert seen == sorted(seen)
    assert source.position == source.size


def test_a_broken_stream_leaves_no_whole_manifest(hand_made: Any, box: Any) -> None:
    data = hand_made(capacity=20 * 128, grains={number: grain(number) for number in range(20)}).build()
    source = StreamVmdkSource(io.BytesIO(data[: len(data) // 2 // SECTOR * SECTOR]))
    writer = box.Writer(source.size)
    with pytest.raises(CorruptStreamError) as caught:
        copy(source, writer, Manifest.empty(source.size), cancel=CancelFlag(), report=Report("web01", "SCSI 0:0"))
    assert not writer.finished
    assert caught.value.where["server"] == "web01"
    assert caught.value.where["disk"] == "SCSI 0:0"
