"""Raw files, and how extents become blocks."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import CorruptStreamError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, MIB
from wavelift.transfer.extents import block_ranges
from wavelift.transfer.file import FileReader, FileWriter
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.protocols import Extent

pytestmark = pytest.mark.unit


@examples(40, 300)
@given(
    size=st.integers(1, 5 * BLOCK),
    gaps=st.lists(st.tuples(st.integers(0, BLOCK), st.integers(1, 2 * BLOCK), st.booleans()), max_size=8),
)
def test_extents_are_cut_at_blocks_and_lose_nothing(size: int, gaps: list[tuple[int, int, bool]]) -> None:
    extents = []
    position = 0
    for gap, length, zero in gaps:
        extents.append(Extent(position + gap, length, zero))
        position += gap + length
    last = -1
    covered = 0
    for index, ranges in block_ranges(iter(extents), size):
        assert index > last
        last = index
        for offset, length in ranges:
            assert index * BLOCK <= offset
            assert offset + length <= min((index + 1) * BLOCK, size)
            assert length > 0
            covered += length
    assert covered == sum(
        max(min(extent.offset + extent.length, size) - extent.offset, 0) for extent in extents if not extent.zero
    )


@pytest.mark.parametrize(
    "extents", [[Extent(100, 10), Extent(50, 10)], [Extent(0, 10), Extent(9, 10)], [Extent(0, -1)]]
)
def test_extents_that_overlap_are_refused(extents: list[Extent]) -> None:
    with pytest.raises(ValueError, match="extent"):
        list(block_ranges(iter(extents), BLOCK))


def test_only_extents_are_read_and_the_rest_is_zero(box: Any) -> None:
    disk = box.Disk(b"\xff" * (2 * BLOCK), [Extent(10, 5), Extent(BLOCK - 3, 6), Extent(BLOCK + 100, 9, zero=True)])
    stream = disk.stream()
    writer = box.Writer(disk.size)
    copy(stream, writer, Manifest.empty(disk.size), cancel=CancelFlag())
    expected = bytearray(2 * BLOCK)
    expected[10:15] = b"\xff" * 5
    expected[BLOCK - 3 : BLOCK + 3] = b"\xff" * 6
    assert writer.content == expected
    stream.close()
    assert 1 <= len(disk.clones) <= 2
    assert all(clone.closed for clone in disk.clones)
    assert not disk.closed


def test_a_sparse_file_is_copied_and_stays_sparse(tmp_path: Path) -> None:
    source, target = tmp_path / "a.raw", tmp_path / "b.raw"
    data = random.Random(1).randbytes(300_000)
    with source.open("wb") as file:
        file.truncate(64 * MIB + 77)
        for place in (0, 10 * MIB + 5, 64 * MIB + 77 - len(data)):
            file.seek(place)
            file.write(data)
    reader = FileReader(source)
    assert sum(extent.length for extent in reader.extents()) < 4 * MIB
    stream = reader.stream()
    manifest = Manifest.empty(reader.size)
    copy(stream, FileWriter(target, reader.size), manifest, cancel=CancelFlag())
    stream.close()
    reader.close()
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 < 4 * MIB
    assert manifest.data_bytes < 4 * MIB


def test_a_file_of_holes_has_no_extent(tmp_path: Path) -> None:
    path = tmp_path / "holes"
    path.touch()
    os.truncate(path, 10 * MIB)
    reader = FileReader(path)
    assert list(reader.extents()) == []
    reader.close()
    reader.close()


def test_a_file_that_shrinks_is_an_error_with_its_offset(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(b"x" * 1000)
    reader = FileReader(path)
    with pytest.raises(CorruptStreamError, match="shorter") as caught:
        reader.read_into(900, memoryview(bytearray(200)))
    assert caught.value.where["offset"] == 1000
    reader.close()


def test_a_file_that_is_replaced_while_it_is_read_is_not_mixed(tmp_path: Path) -> None:
    path, other = tmp_path / "disk", tmp_path / "other"
    path.write_bytes(b"a" * 1000)
    other.write_bytes(b"b" * 1000)
    reader = FileReader(path)
    other.replace(path)
    clone = reader.clone()
    reader.close()
    buffer = bytearray(1000)
    clone.read_into(0, memoryview(buffer))
    clone.close()
    assert buffer == b"a" * 1000


def test_inv_13_a_medium_error_names_file_and_offset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    path = tmp_path / "disk"
    path.write_bytes(b"a" * 1000)
    reader = FileReader(path)
    monkeypatch.setattr(os, "preadv", broken)
    with pytest.raises(WaveliftError, match="disk could not be read: Input/output error") as caught:
        reader.read_into(512, memoryview(bytearray(100)))
    assert caught.value.where["offset"] == 512
    reader.close()


def test_a_target_is_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "target"
    writer = FileWriter(path, BLOCK)
    with pytest.raises(FileExistsError):
        FileWriter(path, BLOCK)
    assert path.stat().st_size == BLOCK
    writer.close()
