"""EBS direct, writing: puts the blocks of one disk into one pending snapshot. AWS checks each against its SHA-256.

A put takes about 100 ms from anywhere, so a thousand per second need a hundred in flight. One thread keeps them all in
flight (:mod:`~wavelift.adapters.aws.put_lines`). A put that fails gets a thread of its own, which retries. ``write``
copies the block into a buffer and returns; it waits only if all :data:`BUFFERS` buffers are in use. That bounds the
memory.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import mmap
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from http.client import HTTPException
from typing import Final
from urllib.parse import quote

from urllib3 import BaseHTTPResponse

from wavelift.adapters.aws.access import AwsAccess, Keys
from wavelift.adapters.aws.bulk import (
    BulkClient,
    BulkRequest,
    Failure,
    connection_failure,
    read_failure,
)
from wavelift.adapters.aws.ebs_snapshot import StartedSnapshot, complete_snapshot
from wavelift.adapters.aws.errors import SnapshotGoneError
from wavelift.adapters.aws.put_lines import PutCalls, PutLines
from wavelift.base.errors import Cancelled, NotFoundError, ProofError, UnreachableError, WaveliftError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.base.wire import Answer
from wavelift.transfer.journal import Journal
from wavelift.transfer.manifest import Manifest, block_length
from wavelift.transfer.throttle import Throttle

log = logging.getLogger(__name__)

PUTS_IN_FLIGHT: Final = 128
"""At AWS's usual 100 ms that is a little more than the 1000 a second that one snapshot takes."""
BUFFERS: Final = PUTS_IN_FLIGHT + 32
"""Blocks that are copied and not yet acknowledged: those in flight and a few in front of them; 80 MiB."""
PUTS_PER_SECOND: Final = 1000.0
"""AWS's quotas, per snapshot (fixed) and per account (default): EBS user guide, "Quotas for Amazon EBS"."""
PUT_BURST: Final = 50
"""Puts that may follow a pause at once: a twentieth of a second's worth."""
YOUNG_S: Final = 60.0
"""For so long after the start a part of AWS may not know the snapshot yet, though another part took a block of it
already (coldsnap waits up to 132 s for it)."""
YOUNG_POLL_S: Final = 1.0
TICK_S: Final = 1.0
"""How often the journal is asked whether a segment is due, and the credentials whether they are."""
_ZERO_DIGEST: Final = hashlib.sha256(bytes(BLOCK)).digest()
_ZEROS: Final = bytes(BLOCK)

_account_buckets: dict[tuple[str, str], Throttle] = {}
_account_lock: Final = threading.Lock()


def _puts_bucket() -> Throttle:
    return Throttle(PUTS_PER_SECOND, burst=PUT_BURST)


def account_bucket(access: AwsAccess) -> Throttle:
    """The process's one bucket for this region: two accounts in one process share it, which only slows them."""
    place = (access.region, str(access.client("ebs").meta.endpoint_url))
    with _account_lock:
        return _account_buckets.setdefault(place, _puts_bucket())


@dataclass(slots=True)
class _Put:
    """A block on its way; the buffer is its own until it is acknowledged."""

    index: int
    buffer: mmap.mmap
    digest: bytes
    request: BulkRequest
    keys: Keys | None = None
    """What it was signed with last."""


@dataclass(frozen=True, slots=True)
class PreparedBlock:
    """A block as it will be sent: ``digest`` is of the padded 512 KiB; ``kept``: AWS has it already."""

    data: memoryview
    digest: bytes
    kept: bool


@dataclass(frozen=True, slots=True)
class PutOptions:
    """How blocks are sent.

    :param in_flight: blocks on their way at the same time.
    :param policy: how long a block is worth trying; None: as long as the connection says.
    """

    in_flight: int = PUTS_IN_FLIGHT
    policy: RetryPolicy | None = None


DEFAULT_PUTS: Final = PutOptions()


class EbsWriter:
    """An unordered block writer into one pending snapshot; see :class:`~wavelift.transfer.protocols.BlockWriter`.

    It owns the journal: ``close`` stores its last segment and closes it.

    :param snapshot: from :func:`start_snapshot`, or remembered from an earlier try.
    :param journal: of this snapshot; what it knows under the same digest is not sent again (invariant 6).
    :param before_complete: a last look, once AWS has acknowledged all and before it is told so, with what it will be
        told: the number of blocks and their linear checksum. What it raises leaves the snapshot pending.
    :param cancel: the task's wish to stop.
    :ivar blocks_sent: puts that AWS acknowledged.
    :ivar bytes_sent: their bytes.
    :ivar blocks_kept: blocks that an earlier try had sent.
    """

    ordered = False

    def __init__(
        self,
        access: AwsAccess,
        snapshot: StartedSnapshot,
        journal: Journal,
        *,
        before_complete: Callable[[int, bytes], None] = lambda blocks, linear: None,
        cancel: CancelFlag | None = None,
        puts: PutOptions = DEFAULT_PUTS,
    ) -> None:
        in_flight = puts.in_flight
        self.snapshot = snapshot
        self.writes_zeros = bool(snapshot.parent) or snapshot.holds_others
        """On top of others a block that became zero is written (invariant 2); an empty volume reads as zeros."""
        self.blocks_sent = 0
        self.bytes_sent = 0
        self.blocks_kept = 0
        self._access = access
        self._before_complete = before_complete
        self._journal = journal
        self._capacity = journal.identity.capacity
        self._bulk = BulkClient(access, "ebs", policy=puts.policy, connections=in_flight)
        endpoint = str(access.client("ebs").meta.endpoint_url).rstrip("/")
        self._url = f"{endpoint}/snapshots/{quote(snapshot.snapshot_id, safe='')}/blocks"
        self._buckets = (_puts_bucket(), account_bucket(access))
        self._stop = (cancel or CancelFlag()).child()
        calls: PutCalls[_Put] = PutCalls(
            dial=lambda: self._bulk.dial(self._url),
            head=self._head,
            done=self._acknowledged,
            trouble=self._in_trouble,
            dropped=self._unanswered,
            pace=lambda: max(bucket.book(1) for bucket in self._buckets),
            failed=self._fail,
        )
        self._lines: PutLines[_Put] = PutLines(
            calls,
            stop=self._stop,
            lines=in_flight,
            silence_s=self._bulk.silence_s,
        )
        self._dials = self._bulk.can_dial(self._url)
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="ebs-put")
        self._spare = in_flight + BUFFERS - PUTS_IN_FLIGHT
        self._free: list[mmap.mmap] = []
        self._changed = threading.Condition()
        self._under_way = 0
        self._accepted = 0
        """Blocks that are to be sent."""
        self._error: BaseException | None = None
        self._young_until = 0.0 if len(journal) else time.monotonic() + YOUNG_S
        self._keys: Keys | None = None
        """To sign with; refreshed by the keeper: the thread that sends must not wait for an answer of STS."""
        self._untold_since: float | None = None
        """Since when no segment could be stored."""
        self._closing = threading.Event()
        self._keeper: threading.Thread | None = None

    # -- the conveyor's side --------------------------------------------------------------------------------------

    def prepare(self, index: int, data: memoryview, digest: bytes) -> PreparedBlock:
        """:param digest: of ``data``; of the disk's short last block another one is made, as it is sent padded."""
        if len(data) < BLOCK:
            padded = hashlib.sha256(data)
            padded.update(_ZEROS[len(data) :])
            digest = padded.digest()
        return PreparedBlock(data, digest, self._journal.digest(index) == digest)

    def wire_bytes(self, prepared: PreparedBlock) -> int:
        return 0 if prepared.kept else BLOCK

    def write(self, index: int, prepared: PreparedBlock) -> None:
        """Take the block; it is sent soon.

        :raises: the first error of any put so far.
        """
        if prepared.kept:
            with self._changed:
                self._check()
                self.blocks_kept += 1
            return
        buffer = self._take_buffer()
        length = len(prepared.data)
        buffer[:length] = prepared.data
        if length < BLOCK:
            buffer[length:] = _ZEROS[length:]
        put = _Put(index, buffer, prepared.digest, self._request(index, buffer, prepared.digest))
        if not self._dials:
            self._patiently(put)
        elif not self._lines.add(put, memoryview(buffer)):
            self._give_back(buffer)
            with self._changed:
                self._check()
            raise Cancelled("the transfer was interrupted")

    def finish(self, manifest: Manifest) -> None:
        """Wait for every put, compare what AWS acknowledged with ``manifest``, and complete the snapshot.

        AWS is told the number of blocks of this snapshot (earlier tries' too, the parent's not) and their linear
        checksum. The snapshot is ``pending`` still for a while: :func:`snapshot_status`.

        :param manifest: of the whole disk, or of the blocks of this run.
        :raises ProofError: an acknowledged block is not the manifest's.
        """
        with self._changed:
            while self._under_way and self._error is None and not self._stop.is_set():
                self._changed.wait(TICK_S)
            self._check()
            lost = self._accepted - self.blocks_sent
        if lost:
            raise ProofError(
                f"{lost} blocks were taken and never acknowledged",
                next_step="Report this fault of wavelift; the next try of the run sends what is missing",
                snapshot=self.snapshot.snapshot_id,
            )
        self._compare(manifest)
        self._journal.flush()
        blocks, linear = len(self._journal), self._journal.linear_checksum()
        self._before_complete(blocks, linear)
        complete_snapshot(self._access, self.snapshot.snapshot_id, blocks=blocks, linear=linear, cancel=self._stop)

    def interrupt(self) -> None:
        self._stop.set("the transfer was interrupted")
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads; what AWS holds stays, and what it acknowledged is stored for the next try. Idempotent.

        A last segment that can't be stored is logged, not raised: it must not hide why the transfer ends. Of an
        outlived try none is stored: its number may be the next try's by now. Nor after an outage that outlasted all
        patience: nothing was acknowledged since the last one, and there is no patience left for another wait.
        """
        self.interrupt()
        self._closing.set()
        self._lines.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        if self._keeper is not None:
            self._keeper.join()
        self._free.clear()
        self._bulk.close()
        try:
            self._journal.close(store=not self._stop.fenced and not isinstance(self._error, UnreachableError))
        except Exception as error:
            log.warning("the last acknowledged blocks are known on this machine only: %s", error)

    # -- on the way -----------------------------------------------------------------------------------------------

    def _request(self, index: int, buffer: mmap.mmap, digest: bytes) -> BulkRequest:
        return BulkRequest(
            method="PUT",
            url=f"{self._url}/{index}",
            doing="could not store a block in the snapshot",
            action="ebs:PutSnapshotBlock",
            headers={
                "x-amz-Data-Length": str(BLOCK),
                "x-amz-Checksum": base64.b64encode(digest).decode(),
                "x-amz-Checksum-Algorithm": "SHA256",
                "Content-Type": "application/octet-stream",
            },
            body=memoryview(buffer),
            sha256=digest,
            where={"snapshot": self.snapshot.snapshot_id, "offset": index * BLOCK},
            unsigned=True,
        )

    def _head(self, put: _Put) -> bytes:
        keys = self._keys  # once: the keeper may take them away
        if keys is None:
            keys = self._keys = self._bulk.keys()
        put.keys = keys
        return self._bulk.head(put.request, keys)

    def _acknowledged(self, put: _Put, answer: Answer | BaseHTTPResponse) -> None:
        try:
            checksum = put.request.headers["x-amz-Checksum"]
            if answer.headers.get("x-amz-Checksum", checksum) != checksum:
                raise ProofError(
                    "AWS acknowledges another block than the one that was sent",
                    next_step="Check the network path, give this snapshot up and transfer the disk again",
                    **put.request.where,
                )
            self._journal.append(put.index, put.digest)
            with self._changed:
                self.blocks_sent += 1
                self.bytes_sent += BLOCK
        except BaseException as error:
            self._fail(error)
        finally:
            self._give_back(put.buffer)

    def _in_trouble(self, put: _Put, what: Answer | Exception) -> None:
        """The plain way did not do: what lasts ends all, for the rest there is patience."""
        if isinstance(what, Answer):
            failure = read_failure(put.request, what, put.keys)
        elif isinstance(what, OSError | HTTPException):
            failure = connection_failure(put.request, what)
        else:
            self._fail(what)
            self._unanswered(put)
            return
        self._patiently(put, failure)

    def _patiently(self, put: _Put, failure: Failure | None = None) -> None:
        """A thread of its own for a put, after it failed or from the start."""
        try:
            self._pool.submit(self._send, put, failure)
        except RuntimeError as error:
            # Closed under us, which is an echo; or the machine is out of threads, which must not pass for a put. The
            # buffer stays out: the pool may have taken the put up all the same.
            self._fail(Cancelled("the transfer was interrupted") if self._stop.is_set() else error)

    def _send(self, put: _Put, failure: Failure | None) -> None:
        try:
            if failure is None:
                for bucket in self._buckets:
                    bucket.take(1, self._stop)
            answer = self._answer(put, failure)
        except BaseException as error:
            self._fail(error)
            self._unanswered(put)
        else:
            self._acknowledged(put, answer)

    def _unanswered(self, put: _Put) -> None:
        """It may have arrived: a retry sends the same again, but a later run, of another instant, must know."""
        try:
            if not self._stop.fenced and not self.snapshot.parent:
                self._journal.doubt(put.index)
        except WaveliftError as error:
            log.warning("a block without an answer is not noted: %s", error)
        finally:
            self._give_back(put.buffer)

    def _answer(self, put: _Put, failure: Failure | None) -> BaseHTTPResponse:
        """The bulk client retries what AWS says may be retried; here, only a snapshot too young to be known."""
        while True:
            try:
                return self._bulk.send(put.request, self._stop, after=failure)
            except NotFoundError as error:
                if time.monotonic() >= self._young_until:
                    raise SnapshotGoneError(
                        "the unfinished snapshot does not exist any more",
                        next_step="Find out who deleted it; this disk needs a new snapshot",
                        **put.request.where,
                    ) from error
            failure = None
            self._stop.wait(YOUNG_POLL_S)
            self._stop.check()

    def _keep(self) -> None:
        while not self._closing.wait(TICK_S):
            try:
                self._tick()
                self._refresh_keys()
            except BaseException as error:
                self._fail(error)
                return

    def _tick(self) -> None:
        """:raises WaveliftError: what time does not cure, or what lasted longer than there is patience. The state store
        lies behind the same line as AWS, often; what it does not take now is in the next segment."""
        try:
            self._journal.tick()
        except WaveliftError as error:
            now = time.monotonic()
            self._untold_since = self._untold_since or now
            if not error.retryable or now - self._untold_since >= self._bulk.policy.patience_s:
                raise
            log.warning("the last acknowledged blocks are known on this machine only, so far: %s", error)
        else:
            self._untold_since = None

    def _refresh_keys(self) -> None:
        try:
            self._keys = self._bulk.keys()
        except WaveliftError:
            self._keys = None  # a put that needs them will say so, or have patience

    # -- buffers and errors ---------------------------------------------------------------------------------------

    def _take_buffer(self) -> mmap.mmap:
        with self._changed:
            self._check()
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep, name="ebs-keeper")
                self._keeper.start()
            while not self._free and not self._spare:
                self._changed.wait(TICK_S)
                self._check()
            self._under_way += 1
            self._accepted += 1
            if self._free:
                return self._free.pop()
            # Anonymous maps, not bytearrays: only what is filled becomes memory, and it goes back at the end.
            self._spare -= 1
            return mmap.mmap(-1, BLOCK, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def _give_back(self, buffer: mmap.mmap) -> None:
        with self._changed:
            self._free.append(buffer)
            self._under_way -= 1
            self._changed.notify_all()

    def _fail(self, error: BaseException) -> None:
        """The first error stops all; what the others say then is its echo."""
        with self._changed:
            if self._error is None and not (isinstance(error, Cancelled) and self._stop.is_set()):
                self._error = error
            self._changed.notify_all()
        self._stop.set("another block of the transfer failed")

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        self._stop.check()

    def _compare(self, manifest: Manifest) -> None:
        for index in self._journal.indices():
            if block_length(self._capacity, index) < BLOCK:
                continue  # acknowledged padded, recorded short
            if self._journal.digest(index) != (manifest.digest(index) or _ZERO_DIGEST):
                raise ProofError(
                    "AWS acknowledged another block than the manifest names",
                    next_step="Give this snapshot up and transfer the disk again",
                    snapshot=self.snapshot.snapshot_id,
                    offset=index * BLOCK,
                )
