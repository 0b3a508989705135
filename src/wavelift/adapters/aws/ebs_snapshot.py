"""EBS direct, beginning and ending: a snapshot is started on a parent or without, looked at, and completed."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from botocore.exceptions import BotoCoreError, ClientError

from wavelift.adapters.aws import texts
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2, Snapshot
from wavelift.adapters.aws.errors import (
    ParentRefusedError,
    SnapshotGoneError,
    TokenSpentError,
    error_code,
    error_message,
    from_answer,
    from_library_error,
)
from wavelift.adapters.aws.tagging import to_aws
from wavelift.base.errors import LimitReachedError, NotFoundError, WaveliftError
from wavelift.base.units import GIB

PENDING: Final = "pending"
COMPLETED: Final = "completed"
ERROR: Final = "error"

IDLE_MINUTES: Final = 24 * 60
"""AWS cancels a pending snapshot that gets no block for so long; a day outlasts a vCenter's or a line's bad night.
More would let forgotten ones count against the account's 100 pending snapshots. The service allows 10 to 4320."""
LIMIT_CODES: Final = frozenset(
    {"ConcurrentLimitExceededException", "ServiceQuotaExceededException", "PendingSnapshotLimitExceeded"}
)


@dataclass(frozen=True, slots=True)
class StartedSnapshot:
    """A pending snapshot that takes blocks; ``volume_gib`` is the size of its volume."""

    snapshot_id: str
    volume_gib: int
    parent: str = ""
    encrypted: bool = False


def volume_gib(capacity: int) -> int:
    """The volume, GiB, that holds a disk of ``capacity`` bytes."""
    return -(-capacity // GIB)


def start_snapshot(
    access: AwsAccess,
    *,
    capacity: int,
    parent: str = "",
    token: str,
    tags: Mapping[str, str],
    description: str = "",
    encrypted: bool = False,
    kms_key: str = "",
) -> StartedSnapshot:
    """Start a snapshot, or find the one that the same token started before.

    :param capacity: of the disk, bytes; the volume is the next whole GiB and never smaller than the parent's.
    :param parent: completed snapshot that the blocks go on top of; empty for a seed.
    :param token: client token (:func:`wavelift.base.names.client_token`).
    :param encrypted: of a seed; a child has its parent's key, and AWS refuses to be told.
    :param kms_key: ARN for an encrypted seed; empty: the account's default key.
    :raises ParentRefusedError: there can be no child of this parent; a seed can.
    :raises LimitReachedError: too many pending snapshots; wait.
    :raises TokenSpentError: the token can't be used again.
    :raises SnapshotGoneError: the token's snapshot is finished or was cancelled by AWS.
    """
    base = _parent(access, parent) if parent else None
    size = max(volume_gib(capacity), base.volume_gib if base else 0)
    request: dict[str, Any] = {
        "VolumeSize": size,
        "ClientToken": token,
        "Tags": to_aws(tags),
        "Timeout": IDLE_MINUTES,
    }
    if description:
        request["Description"] = texts.description(description)
    if base:
        request["ParentSnapshotId"] = parent
    elif encrypted or kms_key:
        request |= {"Encrypted": True, **({"KmsKeyArn": kms_key} if kms_key else {})}
    try:
        answer = access.client("ebs").start_snapshot(**request)
    except ClientError as error:
        raise _start_error(access, error, base, size) from error
    except BotoCoreError as error:
        raise from_library_error(error, "could not start the snapshot", parent=parent or None) from error
    if answer.get("Status", PENDING) != PENDING:
        raise SnapshotGoneError(
            f"the snapshot that this token started is {answer['Status']}",
            next_step="Start a new one under the next token",
            snapshot=answer["SnapshotId"],
        )
    return StartedSnapshot(
        snapshot_id=answer["SnapshotId"],
        volume_gib=answer.get("VolumeSize", size),
        parent=parent,
        encrypted=answer.get("SseType", "none") != "none" or bool(answer.get("KmsKeyArn")),
    )


def _parent(access: AwsAccess, snapshot_id: str) -> Snapshot:
    found = Ec2(access).snapshots([snapshot_id]).get(snapshot_id)
    if found is None:
        raise _refused("gone", "it does not exist any more", snapshot_id)
    if found.state != COMPLETED:
        raise _refused("unfinished", f"it is {found.state}", snapshot_id)
    return found


def _start_error(access: AwsAccess, error: ClientError, base: Snapshot | None, size: int) -> WaveliftError:
    """What AWS means. Which reason it gives for a refused parent is not documented: we look at the facts instead."""
    code = error_code(error)
    if code in LIMIT_CODES:
        return LimitReachedError(
            f"could not start the snapshot: AWS says {code} ({error_message(error)})".rstrip("."),
            next_step="Wait until pending snapshots of the account are complete, or have the quota raised",
        )
    if code == "ConflictException":
        return TokenSpentError(
            "the client token of this snapshot was used for another one",
            next_step="Start the snapshot under the next token",
        )
    if base is not None and code == "ResourceNotFoundException":
        return _refused("gone", error_message(error), base.snapshot_id)
    if base is not None and code == "ValidationException":
        return _refused(_why_refused(access, base, size), error_message(error), base.snapshot_id)
    return from_library_error(error, "could not start the snapshot", service="ebs")


def _why_refused(access: AwsAccess, base: Snapshot, size: int) -> str:
    if size > base.volume_gib:
        return "grown"
    if not base.encrypted and Ec2(access).encryption_by_default():
        return "encryption"
    return "refused"


_WHY: Final = {
    "gone": "The disk needs a seed: its last snapshot was deleted",
    "unfinished": "The disk needs a seed: its last snapshot was never completed",
    "grown": "The disk needs a seed: it grew, and AWS takes no larger child of this snapshot",
    "encryption": "The disk needs a seed: the account encrypts by default, and its last snapshot is not encrypted",
    "refused": "The disk needs a seed: AWS refuses its last snapshot as parent",
}


def _refused(reason: str, said: str, parent: str) -> ParentRefusedError:
    return ParentRefusedError(
        f"AWS makes no child of the parent snapshot: {said}".rstrip("."),
        next_step=_WHY[reason],
        parent=parent,
        reason=reason,
    )


def snapshot_status(access: AwsAccess, snapshot_id: str) -> str:
    """``pending``, ``completed`` or ``error`` (AWS cancelled it; it is not readable and never will be).

    :raises NotFoundError: there is no such snapshot of ours.
    """
    found = Ec2(access).snapshots([snapshot_id]).get(snapshot_id)
    if found is None:
        raise NotFoundError(
            "there is no such snapshot", next_step="Check region, account and who deleted it", snapshot=snapshot_id
        )
    return found.state


def complete_snapshot(access: AwsAccess, snapshot_id: str, *, blocks: int, linear: bytes) -> None:
    """Tell AWS that all is there; it compares count and checksum. Repeating it after a lost answer is safe.

    :param blocks: distinct blocks that were put into this snapshot, not into its parents.
    :param linear: SHA-256 over their digests in index order.
    :raises SnapshotGoneError: the snapshot is not pending any more, and not complete either.
    :raises PermanentError: AWS counts other blocks than we do.
    """
    try:
        access.client("ebs").complete_snapshot(
            SnapshotId=snapshot_id,
            ChangedBlocksCount=blocks,
            Checksum=base64.b64encode(linear).decode(),
            ChecksumAlgorithm="SHA256",
            ChecksumAggregationMethod="LINEAR",
        )
    except ClientError as error:
        if error_code(error) == "ValidationException" and _is_complete(access, snapshot_id):
            return
        raise _complete_error(error, snapshot_id, blocks) from error
    except BotoCoreError as error:
        raise from_library_error(error, "could not complete the snapshot", snapshot=snapshot_id) from error


def _is_complete(access: AwsAccess, snapshot_id: str) -> bool:
    try:
        return snapshot_status(access, snapshot_id) == COMPLETED
    except NotFoundError:
        return False


def _complete_error(error: ClientError, snapshot_id: str, blocks: int) -> WaveliftError:
    doing = f"could not complete the snapshot with {blocks} blocks"
    where = {"snapshot": snapshot_id}
    if error_code(error) == "ResourceNotFoundException":
        return SnapshotGoneError(
            f"{doing}: it was deleted", next_step="Start a new snapshot for this disk", snapshot=snapshot_id
        )
    reason = str(error.response.get("Reason", ""))
    if reason in ("WRITE_REQUEST_TIMEOUT", "INVALID_SNAPSHOT_ID"):
        return from_answer(reason, error_message(error), 400, doing, **where)
    return from_library_error(
        error,
        doing,
        service="ebs",
        next_step="AWS holds other blocks than the journal says: give this snapshot up and transfer the disk again",
        **where,
    )
