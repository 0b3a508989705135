"""EBS direct, writing: a disk's blocks become a snapshot, a seed or a delta on its parent.

One PutSnapshotBlock costs about 0.1 s of latency and almost no CPU, so many are in flight over pooled connections,
while the memory that they hold stays bounded. What AWS acknowledged goes into the journal, and only that counts.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.bulk import BulkClient, BulkRequest, RetryPolicy
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.errors import aws_errors, error_code, error_message, from_client_error, from_library_error
from wavelift.adapters.aws.tagging import to_aws
from wavelift.base.errors import PermanentError, ProofError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, GIB
from wavelift.transfer.journal import Journal
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.throttle import Throttle

log = logging.getLogger(__name__)

PUTS_PER_SECOND: Final = 1000
"""EBS direct's quota per snapshot, which AWS does not raise, and the account's default (facts/aws.md 4)."""
IN_FLIGHT: Final = 64
"""Blocks under way, one connection each: 640 puts a second at 100 ms, 32 MiB of memory per disk."""
SNAPSHOT_TIMEOUT_MIN: Final = 24 * 60
"""AWS cancels a pending snapshot into which nothing was written for so long; its default is an hour, its most 3 days.
A run that waits for a retry overnight must not lose what it sent."""
_TAG_LIMIT: Final = 50


class SnapshotGoneError(WaveliftError):
    """The unfinished snapshot was deleted, or AWS cancelled it: the retry begins a new one."""


class ParentRefusedError(PermanentError):
    """AWS takes no child of this parent (gone, of another size, not encrypted …): the disk needs a new seed."""


_accounts: dict[tuple[str, str], Throttle] = {}
_accounts_lock = threading.Lock()


def account_pace(access: AwsAccess) -> Throttle:
    """The bucket that all writers of this process share for one account and region (counted in blocks)."""
    # The key id stands for the account: who assumes roles gets a bucket per session, and AWS's own throttling.
    key = (access.region, access.credentials().access_key)
    with _accounts_lock:
        return _accounts.setdefault(key, Throttle(PUTS_PER_SECOND))


@dataclass(frozen=True, slots=True)
class StartedSnapshot:
    """A pending snapshot. ``volume_gib`` is the size of its volume."""

    snapshot_id: str
    volume_gib: int
    parent: str = ""


def start_snapshot(
    access: AwsAccess,
    *,
    capacity: int,
    parent: str,
    token: str,
    tags: Mapping[str, str],
    description: str,
    encrypted: bool,
    kms_key: str,
) -> StartedSnapshot:
    """Begin the snapshot of a disk of ``capacity`` bytes. The same token gives the same snapshot.

    :param parent: id of a completed snapshot, empty for a seed. A child takes its parent's encryption.
    :raises ParentRefusedError: AWS takes no child of it. :raises LimitReachedError: too many snapshots are pending.
    """
    where: dict[str, Any] = {"parent": parent or None, "token": token}
    request: dict[str, Any] = {
        "VolumeSize": -(-capacity // GIB),
        "ClientToken": token,
        "Description": description[:255],
        "Tags": to_aws(dict(list(tags.items())[:_TAG_LIMIT])),
        "Timeout": SNAPSHOT_TIMEOUT_MIN,
    }
    if parent:
        request["ParentSnapshotId"] = parent
    elif encrypted:
        request["Encrypted"] = True
        if kms_key:
            request["KmsKeyArn"] = kms_key
    try:
        answer = access.client("ebs").start_snapshot(**request)
    except ClientError as error:
        if parent and error_code(error) in ("ValidationException", "ResourceNotFoundException"):
            raise ParentRefusedError(
                f"AWS takes no child of {parent}: {error_message(error)}",
                next_step="The disk is sent as a new seed",
                **where,
            ) from error
        raise from_client_error(error, "could not start the snapshot", **where) from error
    except BotoCoreError as error:
        raise from_library_error(error, "could not start the snapshot", service="ebs", **where) from error
    return StartedSnapshot(answer["SnapshotId"], answer["VolumeSize"], parent)


def encryption_by_default(access: AwsAccess) -> bool:
    """Whether the account encrypts every new EBS snapshot in this region."""
    with aws_errors("could not ask for encryption by default", service="ec2"):
        return bool(access.client("ec2").get_ebs_encryption_by_default()["EbsEncryptionByDefault"])


def give_up(access: AwsAccess, snapshot_id: str) -> None:
    """Delete an unfinished snapshot; one that is gone is fine."""
    Ec2(access).delete_snapshot(snapshot_id)


class EbsWriter:
    """A :class:`~wavelift.transfer.protocols.BlockWriter` into a pending snapshot.

    :param capacity: of the disk, bytes; its last block is padded with zeros.
    :param has_parent: then a block of zeros is written, as the parent may hold another (invariant 2).
    :param journal: what earlier tries acknowledged is not sent again while its digest is the same.
    """

    ordered = False

    def __init__(
        self,
        access: AwsAccess,
        snapshot_id: str,
        *,
        capacity: int,
        has_parent: bool,
        journal: Journal,
        cancel: CancelFlag,
        throttle: Throttle | None = None,
        in_flight: int = IN_FLIGHT,
        policy: RetryPolicy | None = None,
    ) -> None:
        self.snapshot_id = snapshot_id
        self.writes_zeros = has_parent
        self.blocks_sent = 0
        self.bytes_sent = 0
        self._access = access
        self._client: Any = access.client("ebs")
        self._bulk = BulkClient(access, "ebs", policy=policy)
        self._endpoint = str(self._client.meta.endpoint_url).rstrip("/")
        self._capacity = capacity
        self._journal = journal
        self._throttle = throttle
        self._paces = (Throttle(PUTS_PER_SECOND), account_pace(access))
        self._stop = cancel.child()
        self._free = threading.BoundedSemaphore(in_flight)
        self._in_flight = in_flight
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="ebs-put")
        self._lock = threading.Lock()
        self._error: BaseException | None = None

    # -- the writer's part -----------------------------------------------------------------------------------------

    def prepare(self, index: int, data: memoryview, digest: bytes) -> tuple[bytes, bytes]:
        """A copy of the block, as the worker uses its buffer again; empty when it is stored already."""
        if len(data) < BLOCK:
            data = memoryview(bytes(data).ljust(BLOCK, b"\0"))
            digest = hashlib.sha256(data).digest()
        return (b"" if self._journal.digest(index) == digest else bytes(data)), digest

    def wire_bytes(self, prepared: tuple[bytes, bytes]) -> int:
        return len(prepared[0])

    def write(self, index: int, prepared: tuple[bytes, bytes]) -> None:
        """Hand the block to a free connection; waits while all are busy.

        :raises WaveliftError: what a put before failed with. :raises Cancelled: the flag was set.
        """
        data, digest = prepared
        if not data:
            return
        while not self._free.acquire(timeout=0.2):
            self._check()
        try:
            self._check()
            self._pool.submit(self._put, index, data, digest)
        except BaseException:
            self._free.release()
            raise

    def drain(self) -> None:
        """Wait until every block that was handed over is acknowledged.

        :raises WaveliftError: as :meth:`write`.
        """
        held = 0
        try:
            while held < self._in_flight:
                self._check()
                held += self._free.acquire(timeout=0.2)
        finally:
            for _ in range(held):
                self._free.release()
        self._check()

    def finish(self, manifest: Manifest) -> None:
        """Complete the snapshot under the count and checksum of its blocks; AWS works on for a while.

        :raises ProofError: AWS holds other blocks than the journal says.
        """
        self.drain()
        checksum = base64.b64encode(self._journal.linear_checksum()).decode()
        where: dict[str, Any] = {"snapshot": self.snapshot_id, "blocks": len(self._journal)}
        request: dict[str, Any] = {"SnapshotId": self.snapshot_id, "ChangedBlocksCount": len(self._journal)}
        if len(self._journal):
            request |= {
                "Checksum": checksum,
                "ChecksumAlgorithm": "SHA256",
                "ChecksumAggregationMethod": "LINEAR",
            }
        try:
            self._client.complete_snapshot(**request)
        except ClientError as error:
            if error_code(error) == "ValidationException":
                raise ProofError(
                    f"AWS does not hold the blocks that were acknowledged: {error_message(error)}",
                    next_step="Trigger a new run: it begins a new snapshot",
                    **where,
                ) from error
            raise from_client_error(error, "could not complete the snapshot", **where) from error
        except BotoCoreError as error:
            raise from_library_error(error, "could not complete the snapshot", service="ebs", **where) from error

    def interrupt(self) -> None:
        self._stop.set("another part of the transfer failed")

    def close(self) -> None:
        """Wait for what is under way, which ends soon: it is interrupted or acknowledged."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._bulk.close()

    def abort(self) -> None:
        """Delete the unfinished snapshot."""
        give_up(self._access, self.snapshot_id)

    # -- one block ----------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._error is not None:
            raise self._error
        self._stop.check()

    def _put(self, index: int, data: bytes, digest: bytes) -> None:
        try:
            for pace in self._paces:
                pace.take(1, self._stop)
            self._send(index, data, digest)
            self._journal.append(index, digest)
            with self._lock:
                self.blocks_sent += 1
                self.bytes_sent += len(data)
            self._journal.tick()
        except BaseException as error:
            with self._lock:
                self._error = self._error or error
            self._stop.set("another block failed")
        finally:
            self._free.release()

    def _send(self, index: int, data: bytes, digest: bytes) -> None:
        request = BulkRequest(
            method="PUT",
            url=f"{self._endpoint}/snapshots/{self.snapshot_id}/blocks/{index}",
            doing="could not store the block",
            action="ebs:PutSnapshotBlock",
            headers={
                "Content-Type": "application/octet-stream",
                "x-amz-Data-Length": str(BLOCK),
                "x-amz-Checksum": base64.b64encode(digest).decode(),
                "x-amz-Checksum-Algorithm": "SHA256",
            },
            body=data,
            sha256=digest,
            throttle=self._throttle,
            where={"snapshot": self.snapshot_id, "offset": index * BLOCK},
        )
        try:
            self._bulk.send(request, self._stop)
        except PermanentError as error:
            if any(word in error.what for word in ("WRITE_REQUEST_TIMEOUT", "SNAPSHOT_NOT_FOUND")):
                raise SnapshotGoneError(
                    f"The unfinished snapshot is gone: {error.what}",
                    next_step="The retry begins a new one",
                    snapshot=self.snapshot_id,
                ) from error
            raise
