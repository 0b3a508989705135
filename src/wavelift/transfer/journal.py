"""The journal of acknowledged blocks: a killed transfer continues where it stopped (invariant 6).

There is one file per (target snapshot, source snapshot) in the connector's state folder: a magic line, one line of JSON
(the identity), then records of 36 bytes: index (u32, big endian) and SHA-256 of the block. At least every 30 s the new
records go to the caller as a *segment* (for S3), so that another machine can continue as well.

A record is one ``write`` into the page cache and is never synced: ``kill -9`` does not lose it. If the whole machine
fails, the last records are lost or read as zeros (no digest is all zeros, so they are dropped). A lost record means
that its block is sent again. A false record cannot pass: AWS counts the blocks and knows their checksum.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final, Self

from wavelift.base.errors import CorruptStreamError, WaveliftError
from wavelift.base.private import private_folder
from wavelift.transfer.manifest import DIGEST_SIZE, Manifest, block_count

log = logging.getLogger(__name__)

RECORD: Final = struct.Struct(f">I{DIGEST_SIZE}s")
SEGMENT_SECONDS: Final = 25.0
"""How old an acknowledgement may get before it is stored elsewhere: 30 s is promised, storing takes a moment."""
NONCE_LENGTH: Final = 8
TIMES_A_BLOCK: Final = 2
"""How often a segment names a block on average, at most: whoever may write to the bucket must not choose its size."""
_MARK: Final = 0xFFFF_FFFF
"""Index of a record that is no block: a segment was stored, and all before it is in it but for the last n records."""
_MAGIC: Final = b"wavelift journal 1\n"
_LOAD_BYTES: Final = RECORD.size * 16_384
_MAX_HEADER: Final = 4096
_NO_DIGEST: Final = bytes(DIGEST_SIZE)
UNKNOWN_DIGEST: Final = b"\xff" * DIGEST_SIZE
"""Of a block that was sent and not answered: it may lie there or not. No content has this digest."""
_MARK_BODY: Final = struct.Struct(">QQ16x")
"""Number of the segment, records before the mark that are not in it."""

Segments = dict[str, int]
"""Which segments are stored: the nonce of each journal file → how many. Small however long the transfer takes."""


@dataclass(frozen=True, slots=True)
class JournalIdentity:
    """What a journal is about; acknowledgements of another pair are never mixed in.

    :param target: the remote thing that holds the blocks (EBS snapshot id).
    :param source: the frozen source: vSphere snapshot and disk.
    :param capacity: of the disk, bytes.
    """

    target: str
    source: str
    capacity: int

    def file_name(self) -> str:
        spoken = "".join(letter for letter in self.target if letter.isalnum() or letter == "-")[:40]
        return f"{spoken}-{hashlib.sha256(self._line()).hexdigest()[:16]}.journal"

    def _line(self) -> bytes:
        return json.dumps(asdict(self), sort_keys=True).encode()

    def header(self, nonce: str) -> bytes:
        return _MAGIC + json.dumps({**asdict(self), "nonce": nonce}, sort_keys=True).encode() + b"\n"


def most_segment_bytes(capacity: int) -> int:
    """How large a segment of a disk's journal can be."""
    return _MAX_HEADER + TIMES_A_BLOCK * (block_count(capacity) + 1) * RECORD.size + DIGEST_SIZE


def segment_name(nonce: str, number: int) -> str:
    """The last component of a segment's key."""
    return f"{nonce}-{number:06d}.segment"


def _drop(name: str, data: bytes) -> None:
    """The default store: keeps nothing, for a transfer that is bound to its machine."""


def _forget(segments: Segments) -> None:
    """The default checkpoint."""


@dataclass(frozen=True, slots=True)
class SegmentStore:
    """Where a journal's segments lie, for a try on another machine.

    :param store: takes a segment's name and bytes, e.g. into S3; its own retries are its business.
    :param checkpoint: is told the list of stored segments after each; what it raises (a fence) reaches the caller.
    :param segments: the list as the last checkpoint had it.
    :param fetch: a stored segment by name; called only for those that this machine's file does not have.
    """

    store: Callable[[str, bytes], None] = _drop
    checkpoint: Callable[[Segments], None] = _forget
    segments: Mapping[str, int] | None = None
    fetch: Callable[[str], bytes] | None = None


class Journal:
    """Acknowledged blocks of one transfer; ``append`` may be called from many threads.

    Memory: 64 MiB per TiB of acknowledged blocks (a page only where there are any), and what is not in a segment yet.

    :param far: where segments go; None: they stay on this machine.
    :param clock: seconds, monotonic.
    """

    def __init__(
        self,
        folder: Path,
        identity: JournalIdentity,
        far: SegmentStore | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        interval: float = SEGMENT_SECONDS,
    ) -> None:
        self.identity = identity
        self.path = folder / identity.file_name()
        far = far or SegmentStore()
        self.segments: Segments = dict(far.segments or {})
        self._store, self._checkpoint, self._fetch = far.store, far.checkpoint, far.fetch
        self._clock, self._interval = clock, interval
        self._table = Manifest.empty(identity.capacity)
        self._count = 0
        self._fresh = bytearray()
        self._fresh_since = 0.0
        self._lock = threading.Lock()
        self._storing = threading.Lock()
        self._fd = -1
        private_folder(folder)
        self._load()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        """Blocks that were acknowledged."""
        return self._count

    def digest(self, index: int) -> bytes | None:
        """The SHA-256 under which block ``index`` was last acknowledged; None when it never was."""
        return self._table.digest(index)

    def indices(self) -> Iterator[int]:
        """Acknowledged blocks, ascending."""
        return self._table.data_blocks()

    def linear_checksum(self) -> bytes:
        """SHA-256 over the digests of all acknowledged blocks in index order: EBS's LINEAR checksum."""
        whole = hashlib.sha256()
        for index in self.indices():
            whole.update(self._table.digest(index) or b"")
        return whole.digest()

    def append(self, index: int, digest: bytes) -> None:
        """Block ``index`` is acknowledged.

        :raises WaveliftError: the state folder is full or gone.
        """
        record = RECORD.pack(index, digest)
        with self._lock:
            self._remember(index, digest)
            if not self._fresh:
                self._fresh_since = self._clock()
            self._fresh += record
            self._write(record)

    def doubt(self, index: int) -> None:
        """Block ``index`` was sent, and nobody knows whether it arrived: it must be sent again, whatever it is then."""
        self.append(index, UNKNOWN_DIGEST)

    def inherit(self, other: Journal) -> None:
        """Know what ``other`` knows of the same target, which read another instant."""
        if other.identity.target != self.identity.target or other.identity.capacity != self.identity.capacity:
            raise ValueError(f"{other.identity} is no journal of {self.identity.target}")
        for index in other.indices():
            if self.digest(index) is None:
                self.append(index, other.digest(index) or UNKNOWN_DIGEST)

    def tick(self) -> bool:
        """Store a segment when the oldest acknowledgement that is in none is 25 s old; call it every second or so.

        :raises: what ``store`` and ``checkpoint`` raise.
        """
        with self._lock:
            due = bool(self._fresh) and self._clock() - self._fresh_since >= self._interval
        return self.flush() if due else False

    def flush(self) -> bool:
        """Store what is in no segment yet; whether there was any.

        :raises: what ``store`` and ``checkpoint`` raise; the acknowledgements then stay for the next segment.
        """
        with self._storing:
            with self._lock:
                size, taken = len(self._fresh), self._clock()
                records = bytes(self._fresh)
            if not size:
                return False
            number = self.segments.get(self._nonce, 0) + 1
            body = self.identity.header(self._nonce) + self._bounded(records)
            self._store(segment_name(self._nonce, number), body + hashlib.sha256(body).digest())
            stored = {**self.segments, self._nonce: number}
            self._checkpoint(stored)
            with self._lock:
                self.segments = stored
                del self._fresh[:size]
                self._fresh_since = taken
                self._write(RECORD.pack(_MARK, _MARK_BODY.pack(number, len(self._fresh) // RECORD.size)))
            return True

    def _bounded(self, records: bytes) -> bytes:
        """What was stored nowhere for very long may name its blocks many times: then the last word on each is kept."""
        if len(records) <= TIMES_A_BLOCK * self._table.block_count * RECORD.size:
            return records
        return b"".join(RECORD.pack(*each) for each in dict(RECORD.iter_unpack(records)).items())

    def close(self, *, store: bool = True) -> None:
        """Store the last segment and close the file, which stays. Idempotent.

        :param store: False where another try owns the work by now.
        :raises: what ``store`` and ``checkpoint`` raise; the file is closed all the same.
        """
        if self._fd < 0:
            return
        try:
            if store:
                self.flush()
        finally:
            self._close_file()

    def discard(self) -> None:
        """Close without storing, and remove the file: the target is complete or given up."""
        self._close_file()
        self.path.unlink(missing_ok=True)

    # -- loading --------------------------------------------------------------------------------------------------

    def _known_file(self) -> tuple[str, int]:
        """Nonce of the file and where its records begin; nothing and 0 when there is no usable file."""
        try:
            with self.path.open("rb") as file:
                return _read_header(file.read(_MAX_HEADER), self.identity)
        except FileNotFoundError:
            pass
        except CorruptStreamError as error:
            # Killed while it was made, or written over: what it knew is sent again.
            log.warning("the journal %s is begun anew: %s", self.path.name, error.what)
        return "", 0

    def _load(self) -> None:
        """The file, then what other machines stored after it; the file goes on only when nobody did."""
        nonce, begin = self._known_file()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        stored = 0
        if begin:
            stored = self._load_records(begin)
        nonces = list(self.segments)
        later = nonces[nonces.index(nonce) + 1 :] if nonce in nonces else nonces
        for other in later:
            self._load_segments(other)
        if begin and not later:
            self._nonce = nonce
            if known := max(stored, self.segments.get(nonce, 0)):
                self.segments[nonce] = known
        else:
            self._nonce = uuid.uuid4().hex[:NONCE_LENGTH]
            self._begin_file()
        self._fresh_since = self._clock()

    def _load_segments(self, nonce: str) -> None:
        if self._fetch is None:
            return
        for number in range(1, self.segments[nonce] + 1):
            for index, digest in read_segment(self._fetch(segment_name(nonce, number)), self.identity):
                self._remember(index, digest)

    def _begin_file(self) -> None:
        """All that is known, in a new file: the next try on this machine needs nothing else."""
        # What is in no segment yet keeps its place behind those that are; a block acknowledged anew counts as that.
        fresh = {index for index, _ in RECORD.iter_unpack(self._fresh)}
        self._fresh = bytearray(b"".join(RECORD.pack(index, self._known(index)) for index in sorted(fresh)))
        os.ftruncate(self._fd, 0)
        self._write(self.identity.header(self._nonce))
        for index in self._table.data_blocks():
            if index not in fresh:
                self._write(RECORD.pack(index, self._known(index)))
        self._write(RECORD.pack(_MARK, _MARK_BODY.pack(0, 0)))
        if self._fresh:
            self._write(bytes(self._fresh))

    def _known(self, index: int) -> bytes:
        return self._table.digest(index) or _NO_DIGEST

    def _load_records(self, begin: int) -> int:
        """How many segments the file knows to be stored; what none of them has is in ``_fresh`` then."""
        size = os.fstat(self._fd).st_size
        whole = begin + (size - begin) // RECORD.size * RECORD.size
        os.ftruncate(self._fd, whole)  # a torn record at the end was never acknowledged to anybody
        number = 0
        for start in range(begin, whole, _LOAD_BYTES):
            chunk = os.pread(self._fd, min(_LOAD_BYTES, whole - start), start)
            for index, digest in RECORD.iter_unpack(chunk):
                if index == _MARK:
                    number, tail = _MARK_BODY.unpack(digest)
                    del self._fresh[: max(0, len(self._fresh) - tail * RECORD.size)]
                elif self._remember(index, digest):
                    self._fresh += RECORD.pack(index, digest)
        return number

    # -- keeping --------------------------------------------------------------------------------------------------

    def _remember(self, index: int, digest: bytes) -> bool:
        """False for what can't be an acknowledgement: left by a machine that died."""
        if digest == _NO_DIGEST or not 0 <= index < self._table.block_count:
            return False
        self._count += self._table.digest(index) is None
        self._table.set(index, digest)
        return True

    def _write(self, data: bytes) -> None:
        if self._fd < 0:
            return
        end = os.fstat(self._fd).st_size
        try:
            written = os.write(self._fd, data)
        except OSError as error:
            raise self._unwritable(error.strerror or str(error)) from error
        if written < len(data):
            os.ftruncate(self._fd, end)  # half a record would shift all that follow
            raise self._unwritable("no space left")

    def _unwritable(self, why: str) -> WaveliftError:
        return WaveliftError(
            f"the journal of acknowledged blocks can't be written: {why}",
            next_step="Make room in the connector's state folder, then try again",
            file=str(self.path),
        )

    def _close_file(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1


def read_segment(data: bytes, identity: JournalIdentity) -> Iterator[tuple[int, bytes]]:
    """The acknowledgements in a stored segment.

    :raises CorruptStreamError: it is damaged, or another transfer's.
    """
    body, checksum = data[:-DIGEST_SIZE], data[-DIGEST_SIZE:]
    if hashlib.sha256(body).digest() != checksum:
        raise _unusable("its checksum does not fit")
    _, begin = _read_header(body[:_MAX_HEADER], identity)
    if (len(body) - begin) % RECORD.size:
        raise _unusable("its last record is torn")
    return RECORD.iter_unpack(memoryview(body)[begin:])


def _read_header(head: bytes, identity: JournalIdentity) -> tuple[str, int]:
    """Nonce, and where the records begin."""
    end = head.find(b"\n", len(_MAGIC))
    if not head.startswith(_MAGIC) or end < 0:
        raise _unusable("it does not begin as a journal")
    try:
        said = json.loads(head[len(_MAGIC) : end])
        nonce = str(said.pop("nonce"))
    except (ValueError, KeyError, AttributeError) as error:
        raise _unusable("its header can't be read") from error
    if said != asdict(identity):
        raise _unusable(f"it belongs to {said.get('target')} of {said.get('source')}")
    return nonce, end + 1


def _unusable(why: str) -> CorruptStreamError:
    return CorruptStreamError(
        f"Not a usable journal: {why}", next_step="Give the unfinished snapshot up and transfer the disk again"
    )
