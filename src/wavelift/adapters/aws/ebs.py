"""EBS direct, reading: what an import made of the disks, compared with their manifests (invariant 1)."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest
from wavelift.adapters.aws.errors import StaleTokenError, aws_errors
from wavelift.adapters.aws.sigv4 import encode_query
from wavelift.base.domain import ChangedRange
from wavelift.base.errors import CorruptStreamError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB

LIST_PAGE: Final = 10_000
"""Blocks in one listing: EBS's most; 50 listings a second is the account's quota."""
GET_TRIES: Final = 3
"""Reads of one block whose bytes do not fit their checksum, or whose token expired."""
WORKERS: Final = 16
"""Blocks in flight: at 100 ms each, 80 MiB/s; the account's quota is 1000 blocks a second."""
_ZEROS: Final = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class BlockRef:
    """A block that the snapshot holds, and the token that reads it (for some days)."""

    index: int
    token: str


@dataclass(frozen=True, slots=True)
class SnapshotComparison:
    """A snapshot against a manifest. Sizes in bytes; ranges are whole blocks, joined."""

    snapshot_id: str
    volume_bytes: int
    blocks_compared: int
    bytes_read: int
    changed: tuple[ChangedRange, ...]


class SnapshotBlocks:
    """The blocks of one completed EBS snapshot; safe to share between threads."""

    def __init__(self, access: AwsAccess, snapshot_id: str, *, policy: RetryPolicy | None = None) -> None:
        self.snapshot_id = snapshot_id
        self.volume_bytes = 0
        self._client: Any = access.client("ebs")
        self._bulk = BulkClient(access, "ebs", policy=policy)
        self._endpoint = str(self._client.meta.endpoint_url).rstrip("/")

    def close(self) -> None:
        self._bulk.close()

    def pages(self, start: int = 0) -> Iterator[list[BlockRef]]:
        """The blocks that hold data, ascending from ``start``; what never comes is zeros.

        :raises NotFoundError: there is no such snapshot, or it is not completed.
        """
        selection: dict[str, Any] = {"StartingBlockIndex": start} if start else {}
        while True:
            with aws_errors("could not list the snapshot's blocks", service="ebs", snapshot=self.snapshot_id):
                page = self._client.list_snapshot_blocks(SnapshotId=self.snapshot_id, MaxResults=LIST_PAGE, **selection)
            self.volume_bytes = page.get("VolumeSize", 0) * GIB
            yield [BlockRef(block["BlockIndex"], block["BlockToken"]) for block in page.get("Blocks", [])]
            if not page.get("NextToken"):
                return
            selection = {"NextToken": page["NextToken"]}

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

    def _get(self, block: BlockRef, cancel: CancelFlag) -> bytes | None:
        """The bytes, or None when they were damaged on the way."""
        query = encode_query({"blockToken": block.token})
        request = BulkRequest(
            method="GET",
            url=f"{self._endpoint}/snapshots/{self.snapshot_id}/blocks/{block.index}?{query}",
            doing="could not read the snapshot's block",
            action="ebs:GetSnapshotBlock",
            where={"snapshot": self.snapshot_id, "offset": block.index * BLOCK},
        )
        answer = self._bulk.send(request, cancel)
        checksum = base64.b64encode(hashlib.sha256(answer.data).digest()).decode()
        whole = len(answer.data) == BLOCK and checksum == answer.headers.get("x-amz-Checksum")
        return answer.data if whole else None

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


def compare_snapshot(
    access: AwsAccess,
    snapshot_id: str,
    digest_of: Callable[[int], bytes | None],
    capacity: int,
    *,
    indices: Collection[int] | None = None,
    workers: int = WORKERS,
    cancel: CancelFlag | None = None,
    policy: RetryPolicy | None = None,
    on_progress: Callable[[int, int], None] = lambda passed, read: None,
) -> SnapshotComparison:
    """Which blocks of a snapshot differ from what a manifest says.

    :param digest_of: SHA-256 of block ``index`` of the source disk, None for a block of zeros
        (:meth:`Manifest.digest`).
    :param capacity: size of the source disk in bytes; the volume is the next whole GiB, its tail must be zeros.
    :param indices: look only at these blocks; all without it.
    :param on_progress: told after every block: bytes of the disk that were passed, and bytes that were read.
    """
    chosen = None if indices is None else frozenset(indices)
    flag = cancel or CancelFlag()
    blocks = SnapshotBlocks(access, snapshot_id, policy=policy)
    changed: list[int] = []
    read = 0

    def differs(block: BlockRef) -> bool:
        expected = digest_of(block.index) if block.index * BLOCK < capacity else None
        return not _equal(blocks.get(block, flag), expected, capacity - block.index * BLOCK)

    listed = _Listed(digest_of, -(-capacity // BLOCK), chosen)
    try:
        with ThreadPoolExecutor(workers, thread_name_prefix="ebs-compare") as pool:
            for page in blocks.pages():
                wanted = [block for block in page if chosen is None or block.index in chosen]
                for block, differ in zip(wanted, pool.map(differs, wanted), strict=True):
                    changed.extend([block.index] if differ else [])
                    read += 1
                    on_progress(min(capacity, (block.index + 1) * BLOCK), read * BLOCK)
                changed.extend(listed.missing_before(page))
        changed.extend(listed.missing_at_the_end())
    finally:
        blocks.close()
    return SnapshotComparison(
        snapshot_id=snapshot_id,
        volume_bytes=blocks.volume_bytes,
        blocks_compared=listed.count if chosen is None else len(chosen),
        bytes_read=read * BLOCK,
        changed=tuple(_joined(sorted(changed))),
    )


class _Listed:
    """Follows a listing and tells which data blocks of the source it passes over."""

    def __init__(self, digest_of: Callable[[int], bytes | None], count: int, chosen: frozenset[int] | None) -> None:
        self.count = count
        self._digest_of = digest_of
        self._chosen = chosen
        self._next = 0

    def missing_before(self, page: Sequence[BlockRef]) -> list[int]:
        missing: list[int] = []
        for block in page:
            missing.extend(self._data_blocks(self._next, block.index))
            self._next = block.index + 1
        return missing

    def missing_at_the_end(self) -> list[int]:
        return list(self._data_blocks(self._next, self.count))

    def _data_blocks(self, start: int, end: int) -> Iterator[int]:
        for index in range(start, min(end, self.count)):
            if (self._chosen is None or index in self._chosen) and self._digest_of(index) is not None:
                yield index


def _equal(data: bytes, expected: bytes | None, length: int) -> bool:
    """Is this block the source's, whose disk may end ``length`` bytes into it?"""
    if expected is None:
        return data == _ZEROS
    if length >= BLOCK:
        return hashlib.sha256(data).digest() == expected
    return hashlib.sha256(data[:length]).digest() == expected and not any(data[length:])


def _joined(indices: Sequence[int]) -> Iterator[ChangedRange]:
    """Ascending block indices as byte ranges."""
    start = previous = -1
    for index in indices:
        if start >= 0 and index != previous + 1:
            yield ChangedRange(offset=start * BLOCK, length=(previous + 1 - start) * BLOCK)
            start = index
        start = index if start < 0 else start
        previous = index
    if start >= 0:
        yield ChangedRange(offset=start * BLOCK, length=(previous + 1 - start) * BLOCK)
