"""Places that are filled later: what their parts hold, when those go out, and how much of them lies in memory."""

from __future__ import annotations

import hashlib
import random
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import Cancelled, ThrottledError
from wavelift.base.units import GIB, MIB, TIB
from wavelift.transfer.parts import HELD_PART, MAX_PART, MAX_PARTS, MIN_PART, PartStream, Place, part_size_of

pytestmark = pytest.mark.unit

PART = 1000
LONGEST = 300


def stream_of(sink: Any, *, part_size: int = PART, uploads: int = 2, longest: int = LONGEST) -> PartStream:
    return PartStream(sink, part_size=part_size, longest=longest, uploads=uploads)


def steps() -> st.SearchStrategy[list[tuple[str, int, int]]]:
    """(what, bytes, how many steps later the place is filled)."""
    return st.lists(st.tuples(st.sampled_from(["put", "put", "reserve"]), st.integers(1, LONGEST), st.integers(0, 30)))


@examples(60, 1000)
@given(plan=steps(), seed=st.integers(0, 9))
def test_the_object_is_what_was_put_whenever_places_are_filled(box: Any, plan: Any, seed: int) -> None:
    chance = random.Random(seed)
    sink, expected = box.Sink(), bytearray()
    due: list[tuple[int, Place, bytes]] = []
    stream = stream_of(sink)
    for step, (what, length, later) in enumerate(plan):
        data = chance.randbytes(length)
        expected += data
        if what == "put":
            stream.put((data[: length // 2], data[length // 2 :]), length)
        else:
            due.append((step + later, stream.reserve(length), data))
        for one in [one for one in due if one[0] <= step]:
            stream.fill(one[1], one[2])
            due.remove(one)
    for _, place, data in due:
        stream.fill(place, data)
    stream.complete()
    stream.close()
    assert sink.completed
    assert sink.object == expected
    assert (stream.parts, stream.object_bytes) == (len(sink.parts), len(expected))
    sizes = [len(sink.parts[number]) for number in sorted(sink.parts)]
    assert all(PART <= size <= PART + LONGEST for size in sizes[:-1])


def test_a_held_part_ends_at_five_mib_and_goes_out_when_its_last_place_is_filled(box: Any) -> None:
    sink = box.Sink()
    stream = stream_of(sink, part_size=8 * MIB, longest=MIB)
    block = bytes(range(256)) * (MIB // 256)
    first, second = stream.reserve(512), stream.reserve(10)
    for _ in range(30):
        stream.put((block,), MIB)
    stream.fill(second, b"0123456789")
    stream._pool.submit(lambda: None).result(60)  # behind every part that was handed over
    assert 1 not in sink.parts, "the part went out with an open place"
    assert 2 in sink.parts, "the parts behind a held one wait for it"
    stream.fill(first, b"x" * 512)
    stream.complete()
    stream.close()
    assert sink.parts[1] == b"x" * 512 + b"0123456789" + block * 5
    assert [len(sink.parts[number]) for number in (2, 3)] == [8 * MIB] * 2
    assert sink.object == sink.parts[1] + block * 25


def test_a_place_begins_a_part_of_its_own_where_the_one_before_is_long_enough(box: Any) -> None:
    sink = box.Sink()
    stream = stream_of(sink, part_size=8 * MIB, longest=MIB)
    for _ in range(6):
        stream.put((bytes(MIB),), MIB)
    place = stream.reserve(512)
    stream.fill(place, b"y" * 512)
    stream.complete()
    stream.close()
    assert place == Place(2, 0, 512)
    assert [len(sink.parts[number]) for number in (1, 2)] == [6 * MIB, 512]
    assert len(sink.parts[1]) >= HELD_PART


def test_a_place_that_is_filled_in_time_holds_nothing(box: Any) -> None:
    sink = box.Sink()
    stream = stream_of(sink)
    place = stream.reserve(8)
    stream.put((bytes(100),), 100)
    stream.fill(place, b"12345678")
    for _ in range(9):
        stream.put((bytes(100),), 100)
    stream.put((bytes(100),), 100)
    assert stream.parts == 1
    stream.complete()
    stream.close()
    assert len(sink.parts[1]) == 1008


def test_a_place_that_was_never_filled_is_no_object(box: Any) -> None:
    for later in (10, 2000):
        sink = box.Sink()
        stream = stream_of(sink)
        stream.reserve(8)
        for _ in range(later // 10):
            stream.put((bytes(10),), 10)
        with pytest.raises(ValueError, match="never filled"):
            stream.complete()
        stream.close()
        assert not sink.completed


def test_a_place_takes_its_own_length_once(box: Any) -> None:
    stream = stream_of(box.Sink())
    place = stream.reserve(8)
    with pytest.raises(ValueError, match="a place of 8"):
        stream.fill(place, b"123")
    stream.fill(place, b"12345678")
    with pytest.raises(KeyError):
        stream.fill(place, b"12345678")
    stream.close()


def test_held_parts_on_their_way_do_not_pile_up(box: Any) -> None:
    """Many small disks and a slow line: at most the open one and one that is sent are in memory."""
    release, inside = threading.Event(), threading.Semaphore(0)

    class Slow(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            inside.release()
            assert release.wait(120)
            super().put_part(number, data, sha256)

    sink = Slow()
    stream = stream_of(sink, uploads=3)
    made: list[int] = []

    def feed() -> None:
        for number in range(20):
            place = stream.reserve(8)
            for _ in range(5):
                stream.put((bytes(LONGEST),), LONGEST)
            stream.fill(place, b"%8d" % number)
            made.append(number)

    thread = threading.Thread(target=feed)
    thread.start()
    assert inside.acquire(timeout=60)
    assert not inside.acquire(timeout=0.3)
    assert len(made) <= 1
    release.set()
    thread.join(60)
    stream.complete()
    stream.close()
    assert len(made) == 20
    assert sink.object == b"".join(b"%8d" % number + bytes(5 * LONGEST) for number in range(20))


def test_an_interrupt_frees_who_waits_for_a_held_part(box: Any) -> None:
    release = threading.Event()

    class Slow(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            assert release.wait(120)

    stream = stream_of(Slow())
    raised: list[BaseException] = []

    def feed() -> None:
        try:
            while True:
                place = stream.reserve(8)
                for _ in range(5):
                    stream.put((bytes(LONGEST),), LONGEST)
                stream.fill(place, bytes(8))
        except Cancelled as error:
            raised.append(error)

    thread = threading.Thread(target=feed)
    thread.start()
    thread.join(0.2)
    assert thread.is_alive()
    stream.interrupt()
    thread.join(60)
    assert raised
    release.set()
    stream.close()


def test_a_held_part_that_fails_fails_the_object(box: Any) -> None:
    class Failing(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            if number == 1:
                raise ThrottledError("S3 says slow down")
            super().put_part(number, data, sha256)

    sink = Failing()
    stream = stream_of(sink)
    place = stream.reserve(8)
    for _ in range(10):
        stream.put((bytes(LONGEST),), LONGEST)
    stream.fill(place, bytes(8))
    with pytest.raises(ThrottledError):
        stream.complete()
    stream.close()
    assert not sink.completed


def test_the_digest_is_of_the_bytes_as_they_were_filled(box: Any) -> None:
    seen: list[tuple[int, bytes]] = []

    class Noting(box.Sink):  # type: ignore[misc]
        def put_part(self, number: int, data: memoryview, sha256: bytes) -> None:
            seen.append((number, sha256))
            super().put_part(number, data, sha256)

    stream = stream_of(Noting())
    place = stream.reserve(4)
    for _ in range(4):
        stream.put((bytes(LONGEST),), LONGEST)
    stream.put((b"end",), 3)
    stream.fill(place, b"head")
    stream.complete()
    stream.close()
    assert dict(seen)[1] == hashlib.sha256(b"head" + bytes(4 * LONGEST)).digest()


@examples(40, 300)
@given(most=st.integers(1, 5 * TIB), parts=st.integers(9000, MAX_PARTS - 1))
def test_the_largest_object_fits_into_its_parts(most: int, parts: int) -> None:
    size = part_size_of(most, parts=parts)
    assert MIN_PART <= size <= MAX_PART
    assert -(-most // size) <= parts
    assert size == MIN_PART or size - MIB < -(-most // parts)


def test_small_objects_have_the_smallest_parts() -> None:
    assert part_size_of(70 * GIB) == MIN_PART
