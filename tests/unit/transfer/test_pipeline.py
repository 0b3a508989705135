"""The pipeline under everything that can go wrong: one error, no thread left, nothing out of order."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.depth import examples

from wavelift.base.errors import Cancelled, CorruptStreamError, FencedError, UnreachableError
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.pipeline import UNREPORTED, CopyOptions, copy
from wavelift.transfer.report import Report
from wavelift.transfer.throttle import Throttle

pytestmark = pytest.mark.unit


class Piece:
    def __init__(self, index: int, data: bytes, hook: Callable[[], None] = lambda: None) -> None:
        self.index = index
        self._data = data
        self._hook = hook

    def load(self, into: memoryview) -> None:
        self._hook()
        into[:] = self._data


class Stream:
    """Blocks from a dict; ``before(n)`` runs in the reader thread before the n-th one, ``on_load`` in the worker."""

    def __init__(self, blocks: dict[int, bytes], size: int) -> None:
        self.blocks = blocks
        self.size = size
        self.before: Callable[[int], None] = lambda number: None
        self.on_load: Callable[[int], None] = lambda index: None
        self.interrupted = threading.Event()
        self.given = 0

    def pieces(self) -> Iterator[Piece]:
        for number, (index, data) in enumerate(self.blocks.items()):
            self.before(number)
            self.given += 1
            yield Piece(index, data, lambda index=index: self.on_load(index))  # type: ignore[misc]

    def interrupt(self) -> None:
        self.interrupted.set()

    def close(self) -> None: ...


def stream(count: int = 40) -> Stream:
    return Stream({index: bytes([index % 255 + 1]) * BLOCK for index in range(count)}, count * BLOCK)


def run(
    source: Stream, writer: Any, *, cancel: CancelFlag | None = None, report: Report = UNREPORTED, **options: Any
) -> Any:
    manifest = Manifest.empty(source.size)
    return copy(source, writer, manifest, cancel=cancel or CancelFlag(), options=CopyOptions(**options), report=report)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_an_ordered_writer_gets_blocks_in_disk_order(box: Any, workers: int) -> None:
    source = stream(100)
    chance = random.Random(1)
    delays = {index: chance.random() / 500 for index in range(100)}
    source.on_load = lambda index: time.sleep(delays[index])
    writer = box.Writer(source.size, ordered=True)
    run(source, writer, workers=workers)
    assert writer.written == list(range(100))
    assert bytes(writer.content) == b"".join(source.blocks.values())
    assert writer.finished
    assert writer.closed


@examples(15, 100)
@given(
    kinds=st.lists(st.sampled_from(["absent", "zero", "data"]), min_size=1, max_size=30),
    last=st.integers(1, BLOCK),
    ordered=st.booleans(),
    writes_zeros=st.booleans(),
    workers=st.integers(1, 3),
)
def test_every_block_lands_once_and_the_manifest_says_so(
    box: Any, kinds: list[str], last: int, ordered: bool, writes_zeros: bool, workers: int
) -> None:
    size = (len(kinds) - 1) * BLOCK + last
    expected = bytearray(size)
    blocks = {}
    for index, kind in enumerate(kinds):
        length = last if index == len(kinds) - 1 else BLOCK
        if kind == "data":
            expected[index * BLOCK + length - 1] = index + 1
        if kind != "absent":
            blocks[index] = bytes(expected[index * BLOCK : index * BLOCK + length])
    manifest = Manifest.empty(size)
    writer = box.Writer(size, ordered=ordered, writes_zeros=writes_zeros, fill=0xAA if writes_zeros else 0)
    stats = copy(Stream(blocks, size), writer, manifest, cancel=CancelFlag(), options=CopyOptions(workers))
    assert writer.content == expected
    assert manifest.to_bytes() == box.manifest_of(bytes(expected)).to_bytes()
    data = [index for index, kind in enumerate(kinds) if kind == "data"]
    assert sorted(writer.written) == (list(range(len(kinds))) if writes_zeros else data)
    assert (stats.size, stats.data_bytes, stats.blocks) == (size, manifest.data_bytes, len(data))
    assert stats.sent_bytes == (size if writes_zeros else manifest.data_bytes)
    for index in writer.written:
        block = expected[index * BLOCK : (index + 1) * BLOCK]
        assert writer.digests[index] == hashlib.sha256(block).digest()


def fail(error: BaseException) -> None:
    raise error


PLACES = [(place, at) for place in ("source", "load", "prepare", "write") for at in (0, 1, 17, 39)]
PLACES += [("finish", 0), ("progress", 0)]


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("place", "at"), PLACES)
def test_the_first_error_stops_all_and_is_the_one_raised(box: Any, place: str, at: int, ordered: bool) -> None:
    error = UnreachableError(f"{place} broke")
    source = stream()
    writer = box.Writer(source.size, ordered=ordered)

    def when(index: int) -> None:
        if index == at:
            raise error

    def wrap(method: str) -> None:
        whole = getattr(writer, method)

        def replaced(index: int, *more: Any) -> Any:
            when(index)
            return whole(index, *more)

        setattr(writer, method, replaced)

    if place == "source":
        source.before = when
    elif place == "load":
        source.on_load = when
    elif place == "finish":
        writer.finish = lambda manifest: fail(error)
    elif place == "progress":
        source.before = lambda number: time.sleep(0.02)
    else:
        wrap(place)
    with pytest.raises(UnreachableError) as caught:
        tell: Callable[[Progress], None] = (lambda _: fail(error)) if place == "progress" else (lambda _: None)
        run(source, writer, report=Report("web01", "SCSI 0:1", to=tell))
    assert caught.value is error
    assert caught.value.where == {"server": "web01", "disk": "SCSI 0:1"}
    assert not writer.finished
    assert writer.closed
    assert writer.interrupted
    assert source.interrupted.is_set()


def test_an_error_that_is_not_ours_comes_through_as_it_is(box: Any) -> None:
    source = stream()
    source.on_load = lambda index: fail(ZeroDivisionError("ours to fix"))
    with pytest.raises(ZeroDivisionError):
        run(source, box.Writer(source.size))


@pytest.mark.parametrize("which", ["-read", "-drain"])
def test_a_thread_that_cannot_start_is_told_and_leaves_none_behind(
    box: Any, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name.endswith(which):
            raise RuntimeError("can't start new thread")
        start(thread)

    before = set(threading.enumerate())
    monkeypatch.setattr(threading.Thread, "start", refuse)
    source = stream(200)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run(source, box.Writer(source.size))
    assert set(threading.enumerate()) == before


def test_a_fence_raised_by_progress_stops_the_copy(box: Any) -> None:
    source = stream(200)
    source.before = lambda number: time.sleep(0.02)
    with pytest.raises(FencedError):
        run(
            source, box.Writer(source.size), report=Report(to=lambda progress: fail(FencedError("another try owns it")))
        )
    assert source.given < 200


def test_cancel_ends_a_source_that_blocks(box: Any) -> None:
    source = stream()

    def block(number: int) -> None:
        if number == 3:
            assert source.interrupted.wait(60)
            raise OSError("socket is shut")

    source.before = block
    cancel = CancelFlag()
    threading.Timer(0.1, lambda: cancel.set("killed by the user")).start()
    with pytest.raises(Cancelled, match="killed by the user"):  # else it would be the source's own error
        run(source, box.Writer(source.size), cancel=cancel)


def test_cancel_ends_a_wait_for_the_throttle(box: Any) -> None:
    source = stream()
    cancel = CancelFlag()
    threading.Timer(0.1, cancel.set).start()
    with pytest.raises(Cancelled):  # the throttle would let a block pass after six days
        run(source, box.Writer(source.size), cancel=cancel, throttle=Throttle(1.0))


def test_a_cancel_set_before_ends_it_before_the_end(box: Any) -> None:
    cancel = CancelFlag()
    cancel.set()
    source = stream(400)
    writer = box.Writer(source.size)
    source.before = lambda number: time.sleep(0.01)
    with pytest.raises(Cancelled):
        run(source, writer, cancel=cancel)
    assert not writer.finished


def test_little_is_under_way_when_the_writer_is_slow(box: Any) -> None:
    source = stream(100)
    writer = box.Writer(source.size, ordered=True)
    ahead = []
    whole = writer.write

    def write(index: int, prepared: bytes) -> None:
        time.sleep(0.002)
        ahead.append(source.given - index)
        whole(index, prepared)

    writer.write = write
    run(source, writer, workers=2)
    assert max(ahead) <= 2 * 2 + 2 + 3


def test_the_throttle_paces_what_is_sent(box: Any) -> None:
    source = stream(6)
    started = time.monotonic()
    run(source, box.Writer(source.size), throttle=Throttle(10 * BLOCK, burst=BLOCK))
    assert time.monotonic() - started >= 0.49


def test_progress_ends_with_the_whole_disk(box: Any) -> None:
    source = stream(60)
    source.before = lambda number: time.sleep(0.02)
    seen: list[Progress] = []
    run(source, box.Writer(source.size, ordered=True), report=Report("a", "b", "seed", seen.append))
    assert len(seen) >= 2
    assert [progress.done for progress in seen] == sorted(progress.done for progress in seen)
    assert seen[-1] == Progress("a", "b", "seed", source.size, source.size, source.size, source.size)


@pytest.mark.parametrize("order", [[1, 0], [0, 0], [2]])
def test_a_source_out_of_order_is_refused(box: Any, order: list[int]) -> None:
    class Wrong(Stream):
        def pieces(self) -> Iterator[Piece]:
            return iter([Piece(index, b"x" * BLOCK) for index in order])

    source = Wrong({}, 2 * BLOCK)
    with pytest.raises(CorruptStreamError, match="Block"):
        run(source, box.Writer(source.size, ordered=True))


def test_a_manifest_of_another_disk_is_refused(box: Any) -> None:
    source = stream(2)
    with pytest.raises(ValueError, match="manifest"):
        copy(source, box.Writer(source.size), Manifest.empty(source.size * 2), cancel=CancelFlag())


# --- over a base: what a delta run sends ----------------------------------------------------------------------------


def _manifest_of(blocks: dict[int, bytes], size: int) -> Manifest:
    manifest = Manifest.empty(size)
    for index, data in blocks.items():
        manifest.set(index, hashlib.sha256(data).digest())
    return manifest


@given(st.data())
@examples(15, 100)
def test_inv_2_a_delta_ends_as_the_source_whatever_changed(box: Any, data: st.DataObject) -> None:
    """Whole or partial sources; blocks that appear, change and vanish; the target starts as the base."""
    count = data.draw(st.integers(1, 12))
    size = count * BLOCK
    kinds = st.dictionaries(st.integers(0, count - 1), st.sampled_from([b"a", b"b", b"\0"]))
    before = {index: kind * BLOCK for index, kind in data.draw(kinds).items() if kind != b"\0"}
    writes = {index: kind * BLOCK for index, kind in data.draw(kinds).items()}
    after = {**before, **writes}
    partial = data.draw(st.booleans())
    mentioned = writes if partial else {index: each for index, each in after.items() if each != bytes(BLOCK)}
    source = Stream(dict(sorted(mentioned.items())), size)
    base = _manifest_of(before, size)
    manifest = base.successor(run="2")
    writer = box.Writer(size, ordered=data.draw(st.booleans()), writes_zeros=True)
    for index, each in before.items():
        writer.content[index * BLOCK : (index + 1) * BLOCK] = each
    stats = copy(source, writer, manifest, cancel=CancelFlag(), options=CopyOptions(base=base, partial=partial))
    wanted = b"".join(after.get(index, bytes(BLOCK)) for index in range(count))
    assert bytes(writer.content) == wanted
    assert (
        manifest.content_digest()
        == _manifest_of({index: each for index, each in after.items() if each != bytes(BLOCK)}, size).content_digest()
    )
    differing = [index for index in range(count) if after.get(index, bytes(BLOCK)) != before.get(index, bytes(BLOCK))]
    assert sorted(writer.written) == differing, "and nothing else is sent"
    assert stats.sent_blocks == len(differing)
    assert stats.read_bytes == len(mentioned) * BLOCK


def test_inv_2_a_writer_that_skips_zeros_takes_no_base(box: Any) -> None:
    source = stream(3)
    base = _manifest_of(source.blocks, source.size)
    with pytest.raises(ValueError, match="became zero"):
        copy(source, box.Writer(source.size), base.successor(), cancel=CancelFlag(), options=CopyOptions(base=base))
    with pytest.raises(ValueError, match="over a base"):
        copy(
            source,
            box.Writer(source.size, writes_zeros=True),
            base,
            cancel=CancelFlag(),
            options=CopyOptions(partial=True),
        )


def test_a_digest_that_the_source_has_computed_is_not_computed_again(box: Any) -> None:
    """Of a block of zeros it means nothing; and who has none, or only behind ``load``, is no exception."""
    content = b"a" * BLOCK + b"b" * BLOCK + bytes(BLOCK)
    told = hashlib.sha256(b"told by the source").digest()

    class Hashed(Piece):
        digest: bytes | None = None

        def load(self, into: memoryview) -> None:
            super().load(into)
            self.digest = None if self.index == 1 else told

    class Source(Stream):
        def pieces(self) -> Iterator[Piece]:
            return (Hashed(index, data) for index, data in self.blocks.items())

    blocks = {index: content[index * BLOCK : (index + 1) * BLOCK] for index in range(3)}
    manifest, writer = Manifest.empty(len(content)), box.Writer(len(content))
    copy(Source(blocks, len(content)), writer, manifest, cancel=CancelFlag())
    assert [manifest.digest(index) for index in range(3)] == [told, hashlib.sha256(b"b" * BLOCK).digest(), None]
    assert writer.digests == {0: told, 1: hashlib.sha256(b"b" * BLOCK).digest()}
