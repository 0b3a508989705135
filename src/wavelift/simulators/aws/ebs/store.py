"""All snapshots of the region, and their rules."""

from __future__ import annotations

import base64
import bisect
import hashlib
import hmac
import json
import secrets
import struct
import threading
import uuid
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from wavelift.simulators.aws.ebs.snapshot import COMPLETED, ERROR, PENDING, Snapshot
from wavelift.simulators.aws.ebs.volume import Volume
from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.invented import (
    COMPLETED_AGAIN_MESSAGE,
    COMPLETED_AGAIN_REASON,
    NO_BLOCKS_MESSAGE,
    NO_BLOCKS_REASON,
    UNENCRYPTED_PARENT_MESSAGE,
    UNENCRYPTED_PARENT_REASON,
)
from wavelift.simulators.aws.settings import MINUTE, Settings
from wavelift.simulators.kit.clock import Clock
from wavelift.simulators.kit.counters import Counters

MAX_SIZE: Final = 65_536
"""GiB; the limit of io2 Block Express."""
DEFAULT_TIMEOUT: Final = 60
MIN_TIMEOUT: Final = 10
MAX_TIMEOUT: Final = 4320
"""Minutes, from the service model."""
MAX_TOKEN: Final = 64
"""EBS user guide, "Ensure idempotency in StartSnapshot API requests". The service model allows 255."""
TOKEN_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class StartRequest:
    """StartSnapshot's parameters."""

    size: int
    parent: str = ""
    description: str = ""
    encrypted: bool | None = None
    kms_key: str = ""
    timeout: int = DEFAULT_TIMEOUT
    tags: tuple[tuple[str, str], ...] = ()

    def fingerprint(self) -> str:
        return json.dumps([getattr(self, name) for name in self.__slots__])


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """What :meth:`EbsStore.create` makes. ``timeout`` is seconds, the others are as in :class:`Snapshot`."""

    size: int
    parent: Snapshot | None = None
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    encrypted: bool = False
    kms_key: str = ""
    timeout: float = 0.0
    hidden: bool = False
    origin: str = "direct"


@dataclass(frozen=True, slots=True)
class NewVolume:
    """A volume as EC2 knows it. ``size`` is GiB; ``snapshot`` is the id of the one that it was made from, or ""."""

    id: str
    size: int
    snapshot: str = ""
    encrypted: bool = False
    kms_key: str = ""


def invalid(reason: str, message: str) -> AwsError:
    return AwsError("ValidationException", message, 400, {"Reason": reason})


class EbsStore:
    """``on_new`` is called with each snapshot that EC2 must show."""

    def __init__(self, folder: Path, clock: Clock, settings: Settings, counters: Counters) -> None:
        self._folder, self._clock, self._settings, self._counters = folder, clock, settings, counters
        self._lock = threading.RLock()
        self._secret = secrets.token_bytes(32)
        self._snapshots: dict[str, Snapshot] = {}
        self._tokens: dict[str, tuple[str, Snapshot]] = {}
        self._in_flight = 0
        self.volumes: dict[str, Volume] = {}
        """What volumes hold, by id."""
        self.on_new: Callable[[Snapshot], None] = lambda snapshot: None
        self.encrypts: Callable[[], bool] = lambda: False
        """Whether the account encrypts by default (an EC2 setting)."""
        self.default_key: Callable[[], str] = lambda: ""
        """The ARN of the account's default key."""
        folder.mkdir(parents=True)

    # looking

    def all(self) -> list[Snapshot]:
        """All snapshots that are not deleted, with their states as of now."""
        with self._lock:
            living = [item for item in self._snapshots.values() if not item.deleted and not item.hidden]
            for snapshot in living:
                self._age(snapshot)
            return living

    def find(self, snapshot_id: str) -> Snapshot:
        """Raises ResourceNotFoundException."""
        with self._lock:
            snapshot = self._snapshots.get(snapshot_id)
            if snapshot is None or snapshot.deleted or snapshot.hidden:
                raise AwsError(
                    "ResourceNotFoundException",
                    f"The snapshot '{snapshot_id}' does not exist.",
                    404,
                    {"Reason": "SNAPSHOT_NOT_FOUND"},
                )
            self._age(snapshot)
            return snapshot

    def readable(self, snapshot_id: str) -> Snapshot:
        snapshot = self.find(snapshot_id)
        if snapshot.state != COMPLETED:
            raise invalid("INVALID_SNAPSHOT_ID", f"The snapshot '{snapshot_id}' is in state {snapshot.state}")
        return snapshot

    def state_of(self, snapshot: Snapshot) -> str:
        """The state as of now."""
        with self._lock:
            self._age(snapshot)
            return snapshot.state

    def _age(self, snapshot: Snapshot) -> None:
        """Complete a pending snapshot, or let it fail, if its time has come."""
        if snapshot.state != PENDING:
            return
        now = self._clock.now()
        if snapshot.completes is not None:
            if now >= snapshot.completes:
                snapshot.state = COMPLETED
        elif snapshot.completing is not None:
            if now >= snapshot.completing + self._settings.snapshot_seconds:
                snapshot.state = COMPLETED
        elif snapshot.timeout and now >= snapshot.last_write + snapshot.timeout:
            snapshot.state = ERROR

    # making

    def start(self, request: StartRequest, token: str) -> Snapshot:
        """StartSnapshot. The same token with the same request returns the same snapshot, in whatever state it is."""
        if len(token) > MAX_TOKEN:
            raise invalid("INVALID_PARAMETER_VALUE", f"ClientToken has more than {MAX_TOKEN} characters")
        own = request.kms_key or self._default_key(request)  # before the lock: it asks KMS, which has its own
        with self._lock:
            if token in self._tokens:
                fingerprint, snapshot = self._tokens[token]
                if fingerprint != request.fingerprint():
                    raise AwsError("ConflictException", "The client token was used with other parameters.", 409)
                return snapshot
            parent = self._parent(request)
            pending = sum(item.state == PENDING for item in self.all())
            if pending >= self._settings.pending_snapshot_limit:
                raise AwsError(
                    "ServiceQuotaExceededException",
                    "Too many pending snapshots",
                    402,
                    {"Reason": "DEPENDENCY_SERVICE_QUOTA_EXCEEDED"},
                )
            encrypted = parent.encrypted if parent else bool(request.encrypted) or self.encrypts()
            snapshot = self.create(
                NewSnapshot(
                    size=request.size,
                    parent=parent,
                    description=request.description,
                    tags=dict(request.tags),
                    encrypted=encrypted,
                    kms_key=parent.kms_key if parent else own,
                    timeout=request.timeout * MINUTE,
                )
            )
            if token:
                self._tokens[token] = (request.fingerprint(), snapshot)
        self.on_new(snapshot)
        return snapshot

    def _default_key(self, request: StartRequest) -> str:
        return self.default_key() if not request.parent and (request.encrypted or self.encrypts()) else ""

    def _parent(self, request: StartRequest) -> Snapshot | None:
        _check_start(request)
        if not request.parent:
            return None
        parent = self.readable(request.parent)
        if request.encrypted is not None or request.kms_key:
            raise invalid("INVALID_PARAMETER_VALUE", "ParentSnapshotId excludes Encrypted and KmsKeyArn")
        if not parent.encrypted and self.encrypts():
            raise invalid(UNENCRYPTED_PARENT_REASON, UNENCRYPTED_PARENT_MESSAGE)
        if request.size < parent.size or (request.size > parent.size and not self._settings.allow_growth):
            raise invalid(
                "INVALID_VOLUME_SIZE", f"VolumeSize {request.size} does not fit the parent's {parent.size} GiB"
            )
        return parent

    def create(self, new: NewSnapshot, body: Path | None = None) -> Snapshot:
        """Make a pending snapshot. ``body``, if given, is moved and becomes its file."""
        snapshot_id = f"snap-0{uuid.uuid4().hex[:16]}"
        path = self._folder / f"{snapshot_id}.blocks"
        if body is None:
            path.touch()
        else:
            body.rename(path)
        now = self._clock.now()
        snapshot = Snapshot(
            snapshot_id,
            new.size,
            path,
            new.parent,
            now,
            description=new.description,
            encrypted=new.encrypted,
            kms_key=new.kms_key,
            tags=dict(new.tags),
            timeout=new.timeout,
            last_write=now,
            origin=new.origin,
            hidden=new.hidden,
        )
        with self._lock:
            self._snapshots[snapshot_id] = snapshot
        return snapshot

    def put(self, snapshot_id: str, index: int, data: bytes, digest: bytes) -> None:
        """PutSnapshotBlock, after the checks on the body."""
        snapshot = self.find(snapshot_id)
        if snapshot.state == ERROR:
            raise invalid("WRITE_REQUEST_TIMEOUT", f"The snapshot '{snapshot_id}' was cancelled for inactivity")
        if snapshot.state != PENDING or snapshot.completing is not None:
            raise invalid("INVALID_SNAPSHOT_ID", f"The snapshot '{snapshot_id}' is not pending")
        if not 0 <= index < snapshot.block_count:
            raise invalid("INVALID_BLOCK", f"Block index {index} is outside of the volume")
        self._enter(snapshot, index)
        try:
            snapshot.write(index, data)
        finally:
            self._leave(snapshot, index, digest)

    def _enter(self, snapshot: Snapshot, index: int) -> None:
        with self._lock:
            if self._settings.concurrent_puts and self._in_flight >= self._settings.concurrent_puts:
                raise AwsError("ConcurrentLimitExceededException", "Too many requests at the same time", 400)
            if index in snapshot.writing:
                raise invalid("CONFLICTING_BLOCK_UPDATE", f"Block {index} is being written by another request")
            snapshot.writing.add(index)
            self._in_flight += 1

    def _leave(self, snapshot: Snapshot, index: int, digest: bytes) -> None:
        with self._lock:
            self._in_flight -= 1
            snapshot.writing.discard(index)
            self._counters.add("ebs.blocks", "puts")
            if index in snapshot.digests:
                self._counters.add("ebs.blocks", "repeated")
            snapshot.digests[index] = digest
            snapshot.puts += 1
            snapshot.last_write = self._clock.now()

    def complete(self, snapshot_id: str, *, changed: int, checksum: bytes | None) -> Snapshot:
        """CompleteSnapshot; ``checksum`` is the LINEAR one: SHA-256 over the blocks' digests by index."""
        snapshot = self.find(snapshot_id)
        with self._lock:
            if snapshot.state == COMPLETED or snapshot.completing is not None:
                raise invalid(COMPLETED_AGAIN_REASON, COMPLETED_AGAIN_MESSAGE.format(snapshot=snapshot_id))
            if snapshot.state == ERROR:
                raise invalid("WRITE_REQUEST_TIMEOUT", f"The snapshot '{snapshot_id}' was cancelled for inactivity")
            if changed != len(snapshot.digests):
                raise invalid(
                    "INVALID_PARAMETER_VALUE",
                    f"ChangedBlocksCount is {changed}, but {len(snapshot.digests)} blocks were put",
                )
            if checksum is not None and not changed:
                raise invalid(NO_BLOCKS_REASON, NO_BLOCKS_MESSAGE)
            linear = hashlib.sha256(b"".join(snapshot.digests[index] for index in sorted(snapshot.digests)))
            if checksum is not None and checksum != linear.digest():
                raise invalid("INVALID_PARAMETER_VALUE", "The checksum is not that of the blocks that were put")
            snapshot.completing = self._clock.now()
            self._age(snapshot)
        return snapshot

    def finish(self, snapshot: Snapshot) -> None:
        """Complete a snapshot that an import made; EC2 then shows it."""
        snapshot.state = COMPLETED
        if not snapshot.hidden:
            self.on_new(snapshot)

    def delete(self, snapshot_id: str) -> None:
        """EC2 DeleteSnapshot. The snapshot can no longer be read; its children keep the blocks that they need."""
        snapshot = self.find(snapshot_id)
        with self._lock:
            snapshot.deleted = True
            self._sweep()

    def discard(self, snapshot: Snapshot) -> None:
        """Delete a snapshot of a failed import."""
        with self._lock:
            snapshot.deleted = True
            self._sweep()

    # volumes

    def open_volume(self, new: NewVolume) -> Volume:
        """The content of a volume. A new one is of its snapshot, or empty."""
        with self._lock:
            known = self.volumes.get(new.id)
            if known is not None:
                known.size = new.size
                return known
            path = self._folder / f"{new.id}.blocks"
            path.touch()
            base = self._snapshots.get(new.snapshot)
            encrypted = new.encrypted or (base is not None and base.encrypted)
            key = new.kms_key or (base.kms_key if base is not None else "")
            made = Volume(new.id, new.size, base, path, encrypted=encrypted, kms_key=key if encrypted else "")
            self.volumes[new.id] = made
            return made

    def close_volumes(self, kept: Container[str]) -> None:
        """Forget all volumes but some."""
        if gone := [name for name in self.volumes if name not in kept]:
            with self._lock:
                for name in gone:
                    self.volumes.pop(name).path.unlink(missing_ok=True)
                self._sweep()

    def snapshots_of(self, volumes: Sequence[Volume], new: Callable[[Volume], NewSnapshot]) -> list[Snapshot]:
        """Snapshots of volumes as they are at one instant, pending for ``image_seconds``; EC2 shows them.

        :param new: what is said of a volume's snapshot. Its size, parent, encryption and origin are the volume's.
        """
        with ExitStack() as stack:  # nothing is written meanwhile
            for volume in volumes:
                stack.enter_context(volume.lock)
            made = [self._freeze(volume, new(volume)) for volume in volumes]
        for snapshot in made:
            self.on_new(snapshot)
        return made

    def _freeze(self, volume: Volume, new: NewSnapshot) -> Snapshot:
        """What was written becomes the snapshot's file, and the snapshot the volume's base: nothing is copied."""
        snapshot = self.create(
            replace(
                new,
                size=volume.size,
                parent=volume.base,
                encrypted=volume.encrypted,
                kms_key=volume.kms_key,
                origin=volume.id,
            ),
            body=volume.path,
        )
        snapshot.present |= volume.written
        snapshot.completes = snapshot.started + self._settings.image_seconds
        volume.path.touch()
        volume.base, volume.written = snapshot, set()
        return snapshot

    def _sweep(self) -> None:
        """Remove the files that no snapshot needs any more."""
        needed = {
            id(node)
            for item in self._snapshots.values()
            if not item.deleted and not item.hidden
            for node in item.lineage()
        }
        bases = (volume.base for volume in self.volumes.values())
        needed |= {id(node) for base in bases if base is not None for node in base.lineage()}
        for snapshot in list(self._snapshots.values()):
            gone = snapshot.deleted or (snapshot.hidden and snapshot.state == COMPLETED)
            if gone and id(snapshot) not in needed:
                snapshot.path.unlink(missing_ok=True)
                del self._snapshots[snapshot.id]

    # tokens

    def block_token(self, snapshot: Snapshot, index: int) -> str:
        expires = self._clock.now() + self._settings.block_token_seconds
        return self._sign(struct.pack(">d", expires), f"{snapshot.id}/{index}")

    def check_block_token(self, token: str, snapshot: Snapshot, index: int) -> None:
        head = self._open(token, f"{snapshot.id}/{index}")
        if head is None:
            raise invalid("INVALID_BLOCK_TOKEN", "The block token is not valid for this block")
        if struct.unpack(">d", head)[0] <= self._clock.now():
            raise invalid("INVALID_BLOCK_TOKEN", "The block token has expired")

    def page_token(self, start: int, context: str) -> str:
        return self._sign(struct.pack(">Q", start), context)

    def page_start(self, token: str, context: str) -> int:
        head = self._open(token, context)
        if head is None:
            raise invalid("INVALID_PAGE_TOKEN", "The page token is not valid for this request")
        start: int = struct.unpack(">Q", head)[0]
        return start

    def _sign(self, head: bytes, context: str) -> str:
        mac = hmac.new(self._secret, head + context.encode(), hashlib.sha256).digest()[:TOKEN_BYTES]
        return base64.b64encode(head + mac).decode()

    def _open(self, token: str, context: str) -> bytes | None:
        try:
            raw = base64.b64decode(token, validate=True)
        except ValueError:
            return None
        head = raw[:8]
        return head if len(raw) == 8 + TOKEN_BYTES and self._sign(head, context) == token else None


def _check_start(request: StartRequest) -> None:
    if not 1 <= request.size <= MAX_SIZE:
        raise invalid("INVALID_VOLUME_SIZE", f"VolumeSize {request.size} is not between 1 and {MAX_SIZE} GiB")
    if not MIN_TIMEOUT <= request.timeout <= MAX_TIMEOUT:
        raise invalid("INVALID_PARAMETER_VALUE", f"Timeout {request.timeout} is not between 10 and 4320 minutes")
    if request.kms_key and not request.encrypted and not request.parent:
        raise invalid("INVALID_PARAMETER_VALUE", "KmsKeyArn needs Encrypted")


def changed_indices(first: Snapshot | None, second: Snapshot) -> list[tuple[int, bool, bool]]:
    """Blocks that different snapshots wrote: (index, exists in first, exists in second), ascending."""
    if first is None:
        return [(index, False, True) for index in second.indices()]
    if not {id(node) for node in first.lineage()} & {id(node) for node in second.lineage()}:
        raise invalid("UNRELATED_SNAPSHOTS", "The snapshots are not of one volume")
    rows = []
    for index in sorted(set(first.indices()) | set(second.indices())):
        old, new = first.owner(index), second.owner(index)
        if old is not new:
            rows.append((index, old is not None, new is not None))
    return rows


def page(rows: Sequence[int], start: int, size: int) -> tuple[Sequence[int], int | None]:
    """The rows from index ``start``, and the index at which the next page starts."""
    first = bisect.bisect_left(rows, start)
    chosen = rows[first : first + size]
    following = rows[first + size] if first + size < len(rows) else None
    return chosen, following
