"""EBS direct, reading: a completed snapshot as a stream of blocks, and its comparison with a manifest (invariant 1)."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections import deque
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest
from wavelift.adapters.aws.errors import StaleTokenError, aws_errors
from wavelift.adapters.aws.sigv4 import encode_query
from wavelift.base.errors import CorruptStreamError, UnreachableError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB
from wavelift.transfer.pipeline import UNREPORTED
from wavelift.transfer.protocols import Piece
from wavelift.transfer.report import Report
from wavelift.transfer.verify import Comparison, Expected, compare

LIST_PAGE: Final = 10_000
"""Blocks in one listing: EBS's most; 50 listings a second is the account's quota."""
GET_TRIES: Final = 3
"""Reads of one block whose bytes do not fit their checksum, or whose token expired."""
GETS_IN_FLIGHT: Final = 16
"""Blocks that are read at the same time: at 100 ms each, 80 MiB/s; the account's quota is 1000 blocks a second."""


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block that the snapshot holds, and the token that reads it (for some days)."""

    index: int
    token: str


@dataclass(frozen=True, slots=True)
class BlockPage:
    """One page of a snapshot's list of blocks: it may be short, or empty.

    :param following: the token of the next page; empty: this is the last one.
    """

    blocks: list[BlockRef]
    volume_bytes: int
    following: str


class SnapshotBlocks:
    """The blocks of one completed EBS snapshot; safe to share between threads."""

    def __init__(self, access: AwsAccess, snapshot_id: str, *, policy: RetryPolicy | None = None) -> None:
        self.snapshot_id = snapshot_id
        self._client: Any = access.client("ebs")
        self._bulk = BulkClient(access, "ebs", policy=policy)
        self._endpoint = str(self._client.meta.endpoint_url).rstrip("/")
        self._digests: dict[int, bytes] = {}
        """Of the blocks that were read, until they are taken."""

    def close(self) -> None:
        self._bulk.close()

    def page(self, token: str = "", *, start: int = 0) -> BlockPage:
        """One page of the blocks that hold data, ascending.

        :param token: of the page before; empty: the first page, which begins at block ``start``.
        :raises NotFoundError: there is no such snapshot, or it is not completed.
        """
        place: dict[str, Any] = {"NextToken": token} if token else {"StartingBlockIndex": start} if start else {}
        with aws_errors("could not list the snapshot's blocks", service="ebs", snapshot=self.snapshot_id):
            page = self._client.list_snapshot_blocks(SnapshotId=self.snapshot_id, MaxResults=LIST_PAGE, **place)
        if "VolumeSize" not in page:  # each page has it: without it this is no answer of EBS, and no end of the list
            raise UnreachableError(
                "EBS answered a list of blocks without the size of the volume",
                next_step="The retry asks again; look for a proxy that changes answers",
                snapshot=self.snapshot_id,
            )
        blocks = [BlockRef(block["BlockIndex"], block["BlockToken"]) for block in page.get("Blocks", [])]
        return BlockPage(blocks, page["VolumeSize"] * GIB, page.get("NextToken", ""))

    def pages(self, start: int = 0) -> Iterator[list[BlockRef]]:
        """The blocks that hold data, ascending from ``start``; what never comes is zeros.

        :raises NotFoundError: as :meth:`page`.
        """
        page = self.page(start=start)
        yield page.blocks
        while page.following:
            page = self.page(page.following)
            yield page.blocks

    def get(self, block: BlockRef, cancel: CancelFlag) -> bytes:
        """One block's 512 KiB, checked against the checksum that EBS sends with it.

        :raises CorruptStreamError: bytes and checksum differ every time.
        """
        for _ in range(GET_TRIES):
            try:
                data = self._get(block, cancel)
            except StaleTokenError:
                block = self._listed_again(block)
                continue
            if data is not None:
                return data
        raise CorruptStreamError(
            "EBS sends bytes that do not fit their checksum",
            next_step="Check the network path, then read the snapshot again",
            snapshot=self.snapshot_id,
            offset=block.index * BLOCK,
        )

    def take_digest(self, index: int) -> bytes | None:
        """The SHA-256 of block ``index`` as it was read, once: its checksum is that, computed here of its bytes."""
        return self._digests.pop(index, None)

    def _get(self, block: BlockRef, cancel: CancelFlag) -> bytes | None:
        """The bytes, or None when they were damaged on the way."""
        query = encode_query({"blockToken": block.token})
        request = BulkRequest(
            method="GET",
            url=f"{self._endpoint}/snapshots/{self.snapshot_id}/blocks/{block.index}?{query}",
            doing="could not read the snapshot's block",
            action="ebs:GetSnapshotBlock",
            where={"snapshot": self.snapshot_id, "offset": block.index * BLOCK},
            at_most=BLOCK,
        )
        answer = self._bulk.send(request, cancel)
        digest = hashlib.sha256(answer.data).digest()
        checksum = base64.b64encode(digest).decode()
        if len(answer.data) != BLOCK or checksum != answer.headers.get("x-amz-Checksum"):
            return None
        self._digests[block.index] = digest
        return answer.data

    def _listed_again(self, block: BlockRef) -> BlockRef:
        for page in self.pages(block.index):
            if page and page[0].index == block.index:
                return page[0]
            if page:
                break
        raise CorruptStreamError(
            "a block vanished from the snapshot while it was read",
            snapshot=self.snapshot_id,
            offset=block.index * BLOCK,
        )


class EbsStream:
    """A completed EBS snapshot as a :class:`~wavelift.transfer.protocols.BlockStream`; safe against a cut line.

    A read of a block takes EBS about 100 ms: :data:`GETS_IN_FLIGHT` blocks are read ahead.

    :param cancel: the task's wish to stop.
    :param indices: the blocks to read; None: all that the snapshot holds.
    """

    def __init__(
        self,
        access: AwsAccess,
        snapshot_id: str,
        *,
        cancel: CancelFlag,
        indices: Collection[int] | None = None,
        policy: RetryPolicy | None = None,
    ) -> None:
        self._access = access
        self._stop = cancel.child()
        self._chosen = None if indices is None else frozenset(indices)
        self._blocks = SnapshotBlocks(access, snapshot_id, policy=policy)
        self._first: BlockPage | None = None
        self._first_lock = threading.Lock()
        self._pool = ThreadPoolExecutor(GETS_IN_FLIGHT, thread_name_prefix="ebs-get")

    @property
    def size(self) -> int:
        """Of the volume, bytes: whole GiB, the source disk may be shorter.

        :raises NotFoundError: there is no such snapshot, or it is not completed.
        """
        return self._first_page().volume_bytes

    def pieces(self) -> Iterator[Piece]:
        """The blocks that the snapshot holds, ascending.

        :raises NotFoundError: as :attr:`size`. :raises CorruptStreamError: from ``load``; see
            :meth:`SnapshotBlocks.get`.
        """
        asked: deque[_EbsPiece] = deque()
        for block in self._listed():
            if len(asked) >= GETS_IN_FLIGHT:
                yield asked.popleft()
            asked.append(_EbsPiece(block.index, self._blocks, self._pool.submit(self._blocks.get, block, self._stop)))
        yield from asked

    def interrupt(self) -> None:
        self._stop.set("the transfer was interrupted")

    def close(self) -> None:
        self.interrupt()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._blocks.close()

    def _listed(self) -> Iterator[BlockRef]:
        page = self._first_page()
        while True:
            yield from (block for block in page.blocks if self._chosen is None or block.index in self._chosen)
            if not page.following:
                return
            page = self._page(page.following)

    def _first_page(self) -> BlockPage:
        """Asked for once: workers want the size of it while the reader lists the others."""
        with self._first_lock:
            if self._first is None:
                self._first = self._page()
            return self._first

    def _page(self, token: str = "") -> BlockPage:
        with self._access.obeying(self._stop):
            return self._blocks.page(token)


class _EbsPiece:
    """A block that was asked for; a :class:`~wavelift.transfer.protocols.HashedPiece`."""

    __slots__ = ("_blocks", "_data", "digest", "index")

    def __init__(self, index: int, blocks: SnapshotBlocks, data: Future[bytes]) -> None:
        self.index = index
        self.digest: bytes | None = None
        self._blocks = blocks
        self._data = data

    def load(self, into: memoryview) -> None:
        into[:] = self._data.result()
        self.digest = self._blocks.take_digest(self.index)


def compare_snapshot(
    access: AwsAccess,
    snapshot_id: str,
    expected: Expected,
    *,
    cancel: CancelFlag,
    report: Report = UNREPORTED,
    policy: RetryPolicy | None = None,
) -> Comparison:
    """Which blocks of a snapshot differ from what a manifest says.

    :raises NotFoundError: there is no such snapshot, or it is not completed.
    """
    indices = expected.indices
    with closing(EbsStream(access, snapshot_id, cancel=cancel, indices=indices, policy=policy)) as stream:
        return compare(stream, expected, cancel=cancel, report=report)
