"""A snapshot whose list of blocks has several pages: what a comparison reads and finds."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, nullcontext
from threading import Barrier
from types import SimpleNamespace
from typing import Any, cast

import pytest

from wavelift.adapters.aws import ebs
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ebs import BlockRef, EbsStream, SnapshotBlocks, compare_snapshot
from wavelift.base.errors import NotFoundError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB
from wavelift.transfer.verify import Comparison, Expected, compare

pytestmark = pytest.mark.unit

PAGE = 20
"""More than the stream reads ahead: the workers begin before page 2 is asked for."""
BLOCKS = 3 * PAGE
LIST_SECONDS = 0.05
FULL = None
SAMPLE = [index for index in range(BLOCKS) if index % PAGE not in (3, 11)]


def content(index: int) -> bytes:
    return bytes([index + 1]) * BLOCK


DIGESTS = [hashlib.sha256(content(index)).digest() for index in range(BLOCKS)]


class Snapshot:
    """An EBS client and its access: every block holds data, a page lists :data:`PAGE` of them."""

    meta = SimpleNamespace(endpoint_url="https://ebs.example")

    def __init__(self) -> None:
        self.delay = 0.0
        self.listed: list[int] = []
        self.failures: list[Exception] = []

    def client(self, service: str) -> Snapshot:
        return self

    def obeying(self, cancel: CancelFlag) -> AbstractContextManager[None]:
        return nullcontext()

    def list_snapshot_blocks(
        self, *, SnapshotId: str, MaxResults: int, StartingBlockIndex: int = 0, NextToken: str = ""
    ) -> dict[str, Any]:
        start = int(NextToken) if NextToken else StartingBlockIndex
        self.listed.append(start)
        time.sleep(self.delay)
        if self.failures:
            raise self.failures.pop()
        end = min(start + PAGE, BLOCKS)
        blocks = [{"BlockIndex": index, "BlockToken": "t"} for index in range(start, end)]
        more = {"NextToken": str(end)} if end < BLOCKS else {}
        return {"VolumeSize": 1, "Blocks": blocks, **more}

    def stream(self, indices: Collection[int] | None = None) -> EbsStream:
        return EbsStream(cast(AwsAccess, self), "snap-1", cancel=CancelFlag(), indices=indices)

    def compared(
        self, digest_of: Callable[[int], bytes | None] = DIGESTS.__getitem__, indices: Collection[int] | None = None
    ) -> Comparison:
        expected = Expected(digest_of, BLOCKS * BLOCK, indices)
        return compare_snapshot(cast(AwsAccess, self), "snap-1", expected, cancel=CancelFlag())


@pytest.fixture
def snapshot(monkeypatch: pytest.MonkeyPatch) -> Snapshot:
    def get(blocks: SnapshotBlocks, block: BlockRef, cancel: CancelFlag) -> bytes:
        return content(block.index)

    monkeypatch.setattr(ebs, "BulkClient", lambda *_, **__: SimpleNamespace(close=lambda: None))
    monkeypatch.setattr(SnapshotBlocks, "get", get)
    return Snapshot()


def differing(found: Comparison) -> list[int]:
    return [block for one in found.changed for block in range(one.offset // BLOCK, (one.offset + one.length) // BLOCK)]


@pytest.mark.parametrize("indices", [FULL, SAMPLE], ids=["full", "sample"])
@pytest.mark.parametrize("delay", [0.0, LIST_SECONDS])
def test_inv_1_every_page_is_read_and_compared(snapshot: Snapshot, indices: list[int] | None, delay: float) -> None:
    snapshot.delay = delay
    found = snapshot.compared(indices=indices)
    assert (found.changed, found.bytes_read) == ((), len(indices or range(BLOCKS)) * BLOCK)
    assert snapshot.listed == [0, PAGE, 2 * PAGE]


@pytest.mark.parametrize("indices", [FULL, SAMPLE], ids=["full", "sample"])
@pytest.mark.parametrize("delay", [0.0, LIST_SECONDS])
def test_inv_1_differing_blocks_of_later_pages_are_named(
    snapshot: Snapshot, indices: list[int] | None, delay: float
) -> None:
    snapshot.delay = delay
    wrong = {PAGE, PAGE + 7, 2 * PAGE + 1, BLOCKS - 1}
    found = snapshot.compared(lambda index: DIGESTS[0 if index in wrong else index], indices)
    assert [(one.offset, one.length) for one in found.changed] == [(each * BLOCK, BLOCK) for each in sorted(wrong)]


@pytest.mark.parametrize("indices", [FULL, SAMPLE], ids=["full", "sample"])
@pytest.mark.parametrize("delay", [0.0, LIST_SECONDS])
@pytest.mark.parametrize("page", [1, 2])
def test_inv_1_data_where_zeros_are_due_is_found_on_every_page(
    snapshot: Snapshot, indices: list[int] | None, delay: float, page: int
) -> None:
    """A page that is not read would compare as equal: the manifest expects nothing there."""
    snapshot.delay = delay
    zeros = range(page * PAGE, (page + 1) * PAGE)
    found = snapshot.compared(lambda index: None if index in zeros else DIGESTS[index], indices)
    assert differing(found) == [index for index in (indices or range(BLOCKS)) if index in zeros]


def test_the_first_page_is_fetched_once_whoever_asks_first(snapshot: Snapshot) -> None:
    snapshot.delay = LIST_SECONDS
    together = Barrier(8)

    def size(stream: EbsStream) -> int:
        together.wait()
        return stream.size

    with closing(snapshot.stream()) as stream, ThreadPoolExecutor(8) as pool:
        assert set(pool.map(size, [stream] * 8)) == {GIB}
        assert snapshot.listed == [0]
        assert [piece.index for piece in stream.pieces()] == list(range(BLOCKS))
    assert snapshot.listed == [0, PAGE, 2 * PAGE]


def test_the_size_may_be_asked_between_any_two_blocks(snapshot: Snapshot) -> None:
    with closing(snapshot.stream()) as stream:
        assert [(piece.index, stream.size) for piece in stream.pieces()] == [(index, GIB) for index in range(BLOCKS)]


def test_a_first_page_that_failed_is_asked_for_again(snapshot: Snapshot) -> None:
    snapshot.failures = [NotFoundError("not completed")]
    with closing(snapshot.stream()) as stream:
        with pytest.raises(NotFoundError):
            _ = stream.size
        assert stream.size == GIB
        found = compare(stream, Expected(DIGESTS.__getitem__, BLOCKS * BLOCK), cancel=CancelFlag())
    assert (found.changed, found.bytes_read) == ((), BLOCKS * BLOCK)


def test_inv_1_a_piece_has_the_digest_of_its_bytes_from_the_comparison_with_ebs_s_checksum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also after a try whose bytes were damaged: of those nothing is left."""
    damaged = {3, 7}

    class Bulk:
        def send(self, request: Any, cancel: CancelFlag) -> Any:
            index = int(request.where["offset"]) // BLOCK
            checksum = base64.b64encode(DIGESTS[index]).decode()
            data = bytes(BLOCK) if index in damaged else content(index)
            damaged.discard(index)
            return SimpleNamespace(data=data, headers={"x-amz-Checksum": checksum})

        def close(self) -> None: ...

    monkeypatch.setattr(ebs, "BulkClient", lambda *_, **__: Bulk())
    buffer = memoryview(bytearray(BLOCK))
    with closing(Snapshot().stream()) as stream:
        for piece in stream.pieces():
            piece.load(buffer)
            assert bytes(buffer) == content(piece.index)
            assert getattr(piece, "digest", None) == DIGESTS[piece.index]
        assert not stream._blocks._digests
    assert not damaged
