"""EBS direct, start and end of writing: starts a snapshot with or without a parent, and completes it."""

from __future__ import annotations

import base64
import time
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
from wavelift.base.errors import BusyError, LimitReachedError, NotFoundError, WaveliftError
from wavelift.base.run import CancelFlag
from wavelift.base.units import GIB

PENDING: Final = "pending"
COMPLETED: Final = "completed"
ERROR: Final = "error"

IDLE_MINUTES: Final = 48 * 60
"""AWS cancels a pending snapshot that gets no block for so long. The next run of the job, a day later at most, still
finds the seed that this one left unfinished, and has another day. More would let forgotten ones count against the
account's 100 pending snapshots. The service allows 10 to 4320."""
COMPLETION_WAIT_S: Final = 900.0
"""AWS needs a moment from CompleteSnapshot to ``completed``: seconds to some minutes."""
COMPLETION_POLL_S: Final = 2.0
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
    holds_others: bool = False
    """Though it has no parent, it holds blocks of another instant."""


def volume_gib(capacity: int) -> int:
    """The volume, GiB, that holds a disk of ``capacity`` bytes."""
    return -(-capacity // GIB)


@dataclass(frozen=True, slots=True)
class NewSnapshot:
    """A snapshot that is to be started.

    :param capacity: of the disk, bytes; the volume is the next whole GiB and never smaller than the parent's.
    :param token: client token (:func:`wavelift.base.names.client_token`).
    :param parent: completed snapshot that the blocks go on top of; empty for a seed.
    :param encrypted: of a seed; a child has its parent's key, and AWS refuses to be told.
    :param kms_key: ARN for an encrypted seed; empty: the account's default key.
    """

    capacity: int
    token: str
    tags: Mapping[str, str]
    parent: str = ""
    description: str = ""
    encrypted: bool = False
    kms_key: str = ""


def start_snapshot(access: AwsAccess, wanted: NewSnapshot, *, repeated: bool = False) -> StartedSnapshot:
    """Start a snapshot, or find the one that the same token started before.

    AWS answers a repeated token with "the result of the original request" (EBS user guide, "Ensure idempotency"), so
    with ``pending`` whatever became of that snapshot since: it is looked at before it is believed.

    :param repeated: the token may have been used before: a snapshot that EC2 doesn't show is gone, not young.
    :raises ParentRefusedError: there can be no child of this parent; a seed can.
    :raises LimitReachedError: too many pending snapshots; wait.
    :raises TokenSpentError: the token started another snapshot before, or one that is deleted, cancelled or complete.
    """
    parent = wanted.parent
    base = _parent(access, parent) if parent else None
    size = max(volume_gib(wanted.capacity), base.volume_gib if base else 0)
    request: dict[str, Any] = {
        "VolumeSize": size,
        "ClientToken": wanted.token,
        "Tags": to_aws(wanted.tags),
        "Timeout": IDLE_MINUTES,
    }
    if wanted.description:
        request["Description"] = texts.description(wanted.description)
    if base:
        request["ParentSnapshotId"] = parent
    elif wanted.encrypted or wanted.kms_key:
        request |= {"Encrypted": True, **({"KmsKeyArn": wanted.kms_key} if wanted.kms_key else {})}
    try:
        answer = access.client("ebs").start_snapshot(**request)
    except ClientError as error:
        raise _start_error(access, error, base, size) from error
    except BotoCoreError as error:
        raise from_library_error(error, "could not start the snapshot", parent=parent or None) from error
    _check_is_new(access, answer["SnapshotId"], repeated=repeated)
    return StartedSnapshot(
        snapshot_id=answer["SnapshotId"],
        volume_gib=answer.get("VolumeSize", size),
        parent=parent,
        encrypted=answer.get("SseType", "none") != "none" or bool(answer.get("KmsKeyArn")),
    )


def _check_is_new(access: AwsAccess, snapshot_id: str, *, repeated: bool) -> None:
    found = Ec2(access).snapshots([snapshot_id]).get(snapshot_id)
    state = found.state if found is not None else "gone" if repeated else PENDING
    if state != PENDING:
        raise TokenSpentError(
            f"the snapshot that this client token started before is {state}",
            next_step="Start the snapshot under the next token",
            snapshot=snapshot_id,
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


def complete_snapshot(
    access: AwsAccess,
    snapshot_id: str,
    *,
    blocks: int,
    linear: bytes,
    asked: bool = False,
    cancel: CancelFlag | None = None,
) -> None:
    """Tell AWS that all is there; it compares count and checksum. Repeating it after a lost answer is safe.

    What AWS says of a snapshot that it works on since it was asked before is documented nowhere; so its refusal is not
    believed before its state is looked at.

    :param blocks: distinct blocks that were put into this snapshot, not into its parents.
    :param linear: SHA-256 over their digests in index order.
    :param asked: AWS may have been asked before, and the answer was lost.
    :raises SnapshotGoneError: the snapshot is not pending any more, and not complete either.
    :raises BusyError: it was asked for before, and AWS works on it longer than :data:`COMPLETION_WAIT_S`.
    :raises PermanentError: AWS counts other blocks than we do.
    """
    checksum = {
        "Checksum": base64.b64encode(linear).decode(),
        "ChecksumAlgorithm": "SHA256",
        "ChecksumAggregationMethod": "LINEAR",
    }
    try:
        with access.obeying(cancel or access.cancel):
            access.client("ebs").complete_snapshot(
                SnapshotId=snapshot_id, ChangedBlocksCount=blocks, **(checksum if blocks else {})
            )
    except ClientError as error:
        refused = error_code(error) in ("ValidationException", "ResourceNotFoundException")
        repeated = asked or error.response.get("ResponseMetadata", {}).get("RetryAttempts", 0) > 0
        if refused and _is_complete(
            access, snapshot_id, COMPLETION_WAIT_S if repeated else 0.0, cancel or CancelFlag()
        ):
            return
        raise _complete_error(error, snapshot_id, blocks) from error
    except BotoCoreError as error:
        raise from_library_error(error, "could not complete the snapshot", snapshot=snapshot_id) from error


def _is_complete(access: AwsAccess, snapshot_id: str, patience: float, cancel: CancelFlag) -> bool:
    """Whether it is, or becomes so; a snapshot that is pending all the time is never called incomplete."""
    give_up = time.monotonic() + patience
    while True:
        try:
            state = snapshot_status(access, snapshot_id)
        except NotFoundError:
            return False
        if state != PENDING or not patience:
            return state == COMPLETED
        if time.monotonic() >= give_up:
            raise BusyError(
                "AWS was asked to complete the snapshot, and neither does so nor says why not",
                next_step="The retry asks again; nothing is sent again",
                snapshot=snapshot_id,
            )
        cancel.wait(COMPLETION_POLL_S)
        cancel.check()


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
