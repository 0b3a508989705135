"""The manifest: strict, deterministic, thread-safe."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wavelift.base.errors import CorruptStreamError
from wavelift.base.units import BLOCK, TIB
from wavelift.transfer.manifest import Manifest, differences

pytestmark = pytest.mark.unit


def digest(index: int) -> bytes:
    return hashlib.sha256(str(index).encode()).digest()


def test_an_empty_manifest_is_a_disk_of_zeros() -> None:
    manifest = Manifest.empty(3 * BLOCK + 1, server="web01")
    assert manifest.block_count == 4
    assert [manifest.digest(index) for index in range(4)] == [None] * 4
    assert manifest.data_bytes == 0
    assert manifest.content_digest() == hashlib.sha256(bytes(4 * 32)).hexdigest()


def test_set_replaces_and_data_bytes_follow() -> None:
    manifest = Manifest.empty(3 * BLOCK + 100)
    manifest.set(0, digest(0))
    manifest.set(3, digest(3))
    manifest.set(3, digest(4))
    assert manifest.data_bytes == BLOCK + 100
    assert list(manifest.data_blocks()) == [0, 3]
    manifest.set(0, None)
    assert manifest.data_bytes == 100
    assert manifest.digest(3) == digest(4)
    table = bytes(3 * 32) + digest(4)
    assert manifest.content_digest() == hashlib.sha256(table).hexdigest()


@given(
    st.integers(1, 600 * BLOCK),
    st.sets(st.integers(0, 599)),
    st.dictionaries(st.sampled_from(["server", "disk", "run"]), st.text() | st.integers()),
)
def test_bytes_survive_the_round_trip(capacity: int, indices: set[int], header: dict[str, Any]) -> None:
    manifest = Manifest.empty(capacity, **header)
    for index in indices:
        if index < manifest.block_count:
            manifest.set(index, digest(index))
    again = Manifest.from_bytes(manifest.to_bytes())
    assert again.to_bytes() == manifest.to_bytes()
    assert again.header == manifest.header
    assert again.data_bytes == manifest.data_bytes
    assert list(again.data_blocks()) == sorted(index for index in indices if index < manifest.block_count)
    assert again.content_digest() == manifest.content_digest()


@pytest.mark.parametrize("capacity", [1, BLOCK, 7 * BLOCK + 3])
def test_no_manifest_of_a_disk_is_larger_than_it_may_be(capacity: int) -> None:
    """Whoever may write to the bucket must not choose how much of it is read."""
    manifest = Manifest.empty(capacity, server="s" * 1000)
    assert len(manifest.to_bytes()) <= Manifest.most_bytes(capacity) <= 64 * 1024 + capacity // 1000 + 128


def test_equal_content_gives_equal_bytes_whatever_the_order() -> None:
    one = Manifest.empty(10 * BLOCK, server="a", disk="b")
    two = Manifest.empty(10 * BLOCK, disk="b", server="a")
    for index in range(10):
        one.set(index, digest(index))
        two.set(9 - index, digest(9 - index))
    assert one.to_bytes() == two.to_bytes()


def small() -> bytes:
    manifest = Manifest.empty(5 * BLOCK, server="web01")
    manifest.set(2, digest(2))
    return manifest.to_bytes()


@pytest.mark.parametrize("length", [0, 5, 18, 40, len(small()) - 33, len(small()) - 1])
def test_a_truncated_manifest_is_refused(length: int) -> None:
    with pytest.raises(CorruptStreamError, match="manifest"):
        Manifest.from_bytes(small()[:length])


@given(st.integers(0, len(small()) - 1), st.integers(1, 255))
def test_any_flipped_byte_is_refused(place: int, flip: int) -> None:
    data = bytearray(small())
    data[place] ^= flip
    with pytest.raises(CorruptStreamError):
        Manifest.from_bytes(bytes(data))


@pytest.mark.parametrize(
    ("header", "why"),
    [
        ([], "version"),
        ({"version": 2, "block_size": BLOCK, "capacity": BLOCK}, "version"),
        ({"version": 1, "block_size": 4096, "capacity": BLOCK}, "block size"),
        ({"version": 1, "block_size": BLOCK, "capacity": 0}, "capacity"),
        ({"version": 1, "block_size": BLOCK, "capacity": True}, "capacity"),
        ({"version": 1, "block_size": BLOCK, "capacity": "1"}, "capacity"),
        ({"version": 1, "block_size": BLOCK, "capacity": 2**70}, "capacity"),
        ({"version": 1, "block_size": BLOCK, "capacity": 2 * BLOCK}, "32 bytes of digests where 64 are due"),
    ],
)
def test_a_well_signed_but_impossible_header_is_refused(header: object, why: str) -> None:
    body = b"wavelift manifest\n" + json.dumps(header).encode() + b"\n" + bytes(32)
    with pytest.raises(CorruptStreamError, match=why):
        Manifest.from_bytes(body + hashlib.sha256(body).digest())


def test_a_signed_manifest_without_json_is_refused() -> None:
    body = b"wavelift manifest\nhello"
    with pytest.raises(CorruptStreamError, match="JSON"):
        Manifest.from_bytes(body + hashlib.sha256(body).digest())


def test_threads_may_set_at_once() -> None:
    manifest = Manifest.empty(2000 * BLOCK)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: manifest.set(index, digest(index)), range(2000)))
    assert manifest.data_bytes == 2000 * BLOCK
    assert all(manifest.digest(index) == digest(index) for index in range(2000))


@given(st.sets(st.integers(0, 399)), st.sets(st.integers(0, 399)))
def test_differences_are_exactly_the_blocks_that_differ(one: set[int], two: set[int]) -> None:
    manifests = Manifest.empty(400 * BLOCK), Manifest.empty(400 * BLOCK)
    for manifest, indices in zip(manifests, (one, two), strict=True):
        for index in indices:
            manifest.set(index, digest(index))
    assert list(differences(*manifests)) == sorted(one ^ two)


def test_manifests_of_different_disks_are_not_compared() -> None:
    with pytest.raises(ValueError, match="capacity"):
        list(differences(Manifest.empty(BLOCK), Manifest.empty(BLOCK + 1)))


def test_wrong_arguments_are_refused() -> None:
    manifest = Manifest.empty(BLOCK)
    with pytest.raises(IndexError):
        manifest.set(1, digest(1))
    with pytest.raises(IndexError):
        manifest.digest(-1)
    with pytest.raises(ValueError, match="32"):
        manifest.set(0, b"short")
    for capacity in (0, -1, 65 * TIB):
        with pytest.raises(ValueError, match="capacity"):
            Manifest.empty(capacity)
