"""Parts: where they are cut, that they repeat, and what happens when one fails."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import accumulate
from operator import ne
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import Cancelled, PermanentError, ThrottledError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB, MIB, TIB
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import copy
from wavelift.transfer.vmdk import PreparedBlock, StreamVmdkEncoder, prepare_block
from wavelift.transfer.vmdk import format as vmdk
from wavelift.transfer.vmdk.encoder import WORST_BLOCK, worst_size
from wavelift.transfer.vmdk_writer import MAX_PART, MAX_PARTS, MIN_PART, VmdkPartWriter, part_size_for

pytestmark = pytest.mark.unit

SMALL_PART = 300_000


@cache
def content(count: int = 40, seed: int = 1) -> bytes:
    chance = random.Random(seed)
    return b"".join(
        chance.randbytes(BLOCK) if number % 3 else (b"block %d " % number) * (BLOCK // 8) for number in range(count)
    )[: count * BLOCK]


@cache
def plain_parts(box: Any) -> Any:
    """Of :func:`content`, encoded once for all examples."""
    one, _ = box.encode(content(), part_size=SMALL_PART)
    assert box.decode(one.object)[0] == content()
    return one


def send(data: bytes, sink: Any, box: Any, **more: Any) -> VmdkPartWriter:
    stream = box.Disk(data).stream()
    writer = VmdkPartWriter(sink, len(data), part_size=SMALL_PART, **more)
    try:
        copy(stream, writer, Manifest.empty(len(data)), cancel=CancelFlag())
    finally:
        stream.close()
    return writer


def test_the_same_disk_gives_the_same_parts(box: Any) -> None:
    """Invariant 6: what a killed try stored is recognised by its SHA-256."""
    one, _ = box.encode(content(), part_size=SMALL_PART)
    two, _ = box.encode(content(), part_size=SMALL_PART)
    assert len(one.parts) > 20
    assert one.digests == two.digests


def test_a_grain_is_encoded_alike_wherever_the_stack_of_a_thread_lies() -> None:
    """isal's own ``compress`` is not: with it some 6 of these 24,000 differ."""
    chance = random.Random(1)
    grains = [memoryview(chance.randbytes(40) * 26) for _ in range(3000)]
    together = threading.Barrier(8)  # all live at once, so no two have one stack

    def encode(_: int) -> list[bytes]:
        together.wait(60)
        made = [b"".join(prepare_block(0, grain).chunks) for grain in grains]
        together.wait(240)
        return made

    with ThreadPoolExecutor(8) as threads:
        first, *others = threads.map(encode, range(8))
    assert [sum(map(ne, first, other)) for other in others] == [0] * 7


@examples(3, 24)
@given(changed=st.integers(0, 39), how=st.sampled_from(["byte", "zero", "text"]))
def test_parts_before_a_change_stay_equal(box: Any, changed: int, how: str) -> None:
    before = content()
    after = bytearray(before)
    one = plain_parts(box)
    if how == "byte":
        after[changed * BLOCK + 70_000] ^= 1
    else:
        after[changed * BLOCK : (changed + 1) * BLOCK] = {"zero": bytes(BLOCK), "text": b"new text" * 65536}[how]
    two, _ = box.encode(bytes(after), part_size=SMALL_PART)
    assert box.decode(two.object)[0] == after
    unchanged = 128 * 512 + sum(
        prepare_block(index, memoryview(before)[index * BLOCK : (index + 1) * BLOCK]).size for index in range(changed)
    )
    ends = list(accumulate(len(one.parts[number]) for number in sorted(one.parts)))
    due = sum(end <= unchanged for end in ends)
    assert one.digests[:due] == two.digests[:due], first_difference(one, two)
    assert one.digests != two.digests


def first_difference(one: Any, two: Any) -> str:
    number = next(number for number in sorted(one.parts) if one.parts[number] != two.parts[number])
    pairs = zip(one.parts[number], two.parts[number], strict=False)
    at = next((index for index, (left, right) in enumerate(pairs) if left != right), -1)
    sector = slice(at // 512 * 512, at // 512 * 512 + 128)
    return f"part {number} at {at}: {one.parts[number][sector].hex()} | {two.parts[number][sector].hex()}"


def test_parts_are_at_least_the_target_and_at_most_a_block_more(box: Any) -> None:
    sink, _ = box.encode(content(), part_size=SMALL_PART)
    sizes = [len(sink.parts[number]) for number in sorted(sink.parts)]
    assert all(SMALL_PART <= size <= SMALL_PART + WORST_BLOCK for size in sizes[:-1])
    assert 0 < sizes[-1] <= SMALL_PART + WORST_BLOCK


def test_a_disk_of_zeros_is_one_small_part(box: Any) -> None:
    sink, manifest = box.encode(bytes(5 * MIB))
    assert len(sink.parts) == 1
    assert len(sink.object) == 128 * 512 + 5 * 512
    assert manifest.data_bytes == 0


@examples(40, 300)
@given(capacity=st.integers(1, 8 * TIB))
def test_the_worst_disk_fits_into_ten_thousand_parts(capacity: int) -> None:
    size = part_size_for(capacity)
    assert MIN_PART <= size <= MAX_PART
    # A part is never shorter than its target but for the last one.
    assert -(-worst_size(capacity) // size) <= MAX_PARTS
    assert size == MIN_PART or worst_size(capacity) / (size - MIB) > MAX_PARTS - 100


def test_the_worst_size_is_the_true_one(box: Any) -> None:
    data = random.Random(1).randbytes(33 * MIB)
    sink, _ = box.encode(data)
    assert worst_size(len(data)) * 0.999 < len(sink.object) <= worst_size(len(data))


def test_small_disks_have_the_smallest_parts() -> None:
    assert part_size_for(1) == part_size_for(70 * GIB) == MIN_PART


def test_a_failed_part_stops_the_upload_with_its_own_error(box: Any) -> None:
    class Failing(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            if number == 3:
                raise ThrottledError("S3 says slow down")
            super().put_part(number, data, sha256)

    sink = Failing()
    with pytest.raises(ThrottledError):
        send(content(200), sink, box)
    assert not sink.completed
    assert len(sink.parts) < 20


def test_the_last_part_failing_is_not_overlooked(box: Any) -> None:
    class Failing(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            time.sleep(0.05)
            raise ThrottledError("S3 says slow down")

    sink = Failing()
    with pytest.raises(ThrottledError):
        send(bytes(BLOCK), sink, box)
    assert not sink.completed


def test_memory_is_bounded_by_the_buffers(box: Any) -> None:
    """A sink that never lets go holds back the writer: one part in each upload thread and one being filled."""
    release = threading.Event()
    inside = threading.Semaphore(0)

    class Slow(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            inside.release()
            assert release.wait(120)
            super().put_part(number, data, sha256)

    sink = Slow()
    data = content(60)
    writer = VmdkPartWriter(sink, len(data), part_size=SMALL_PART, uploads=2)
    done: list[int] = []

    def feed() -> None:
        for index in range(60):
            writer.write(index, prepare_block(index, memoryview(data)[index * BLOCK : (index + 1) * BLOCK]))
            done.append(index)

    thread = threading.Thread(target=feed)
    thread.start()
    assert inside.acquire(timeout=60)
    assert inside.acquire(timeout=60)
    assert not inside.acquire(timeout=0.3)
    stuck = len(done)
    assert stuck < 12
    release.set()
    thread.join(60)
    writer.finish(Manifest.empty(len(data)))
    writer.close()
    assert len(done) == 60
    assert box.decode(sink.object)[0] == data


def test_big_parts_leave_two_buffers_and_small_ones_as_many_as_uploads(box: Any) -> None:
    for capacity, uploads, buffers in ((10 * GIB, 3, 4), (10 * GIB, 9, 5), (150 * GIB, 9, 2), (2 * TIB, 9, 2)):
        writer = VmdkPartWriter(box.Sink(), capacity, uploads=uploads)
        assert writer._spare + 1 == buffers
        writer.close()


def test_interrupt_frees_a_writer_that_waits(box: Any) -> None:
    release = threading.Event()
    inside = threading.Event()

    class Slow(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            inside.set()
            assert release.wait(120)

    data = content(60)
    writer = VmdkPartWriter(Slow(), len(data), part_size=SMALL_PART, uploads=1)
    raised: list[BaseException] = []

    def feed() -> None:
        try:
            for index in range(60):
                writer.write(index, prepare_block(index, memoryview(data)[index * BLOCK : (index + 1) * BLOCK]))
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    assert inside.wait(60)
    thread.join(0.2)  # and so it waits, as nothing is released
    assert thread.is_alive()
    writer.interrupt()
    thread.join(60)
    assert not thread.is_alive()
    assert raised
    release.set()
    writer.close()
    writer.close()


def test_blocks_must_ascend_within_the_disk() -> None:
    encoder = StreamVmdkEncoder(4 * BLOCK, lambda chunks, size: None)
    encoder.append(PreparedBlock(2, (), 0, ()))
    for index in (2, 1, 64):
        with pytest.raises(ValueError, match="block"):
            encoder.append(PreparedBlock(index, (), 0, ()))


@pytest.mark.parametrize("capacity", [0, -1, 65 * TIB])
def test_impossible_capacities_are_refused(capacity: int) -> None:
    with pytest.raises(ValueError, match="capacity"):
        StreamVmdkEncoder(capacity, lambda chunks, size: None)


def test_a_file_that_outgrows_the_format_is_a_clear_error() -> None:
    encoder = StreamVmdkEncoder(4 * TIB, lambda chunks, size: None)
    encoder.begin()
    block = prepare_block(0, memoryview(random.Random(1).randbytes(BLOCK)))
    encoder.append(block)
    encoder._sector = vmdk.MAX_SECTOR - 1000
    with pytest.raises(PermanentError, match="2 TiB") as caught:
        encoder.append(PreparedBlock(1, block.chunks, block.size, block.grains))
    assert caught.value.where["offset"] == BLOCK
    assert "EBS" in caught.value.next_step
