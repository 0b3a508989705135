"""ImportImage: submit, describe, count, cancel. The callers wait (invariant 7)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from botocore.exceptions import BotoCoreError, ClientError

from wavelift.adapters.aws import texts
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import (
    THROTTLE_CODES,
    aws_errors,
    error_code,
    error_message,
    from_library_error,
    is_missing,
)
from wavelift.adapters.aws.import_failures import Explanation, explain_import_failure
from wavelift.adapters.aws.tagging import from_aws, has_tags, specification
from wavelift.base.domain import ObjectVersion
from wavelift.base.errors import (
    LimitReachedError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    RemoteJobError,
    WaveliftError,
)

__all__ = [
    "CancelOutcome",
    "Explanation",
    "ImportDisk",
    "ImportRequest",
    "ImportState",
    "ImportStatus",
    "VmImport",
    "explain_import_failure",
]

MAX_DISKS: Final = 21
"""Volumes of one import; more fail (limitations-image-importing.html)."""
DESCRIBE_BATCH: Final = 200
"""Ids in one describe call. They go in the body of a POST, and no limit was found documented; an account runs far
fewer imports,
so all that a triggerer watches are one call (invariant 7)."""
COMPLETED: Final = frozenset({"completed"})
FAILED: Final = frozenset({"deleted", "deleting"})
"""``deleting`` always ends as ``deleted`` and carries the reason already."""


class ImportState(StrEnum):
    """Only what is certain: everything that AWS may invent in between counts as running."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class ImportDisk:
    """One disk: an object in S3, or an EBS snapshot."""

    bucket: str = ""
    key: str = ""
    snapshot_id: str = ""
    format: str = "VMDK"
    description: str = ""
    version: ObjectVersion | None = None
    """What the object must be; ImportImage itself takes bucket and key only."""

    def container(self) -> dict[str, Any]:
        """The disk as ImportImage wants it."""
        source: dict[str, Any] = (
            {"SnapshotId": self.snapshot_id}
            if self.snapshot_id
            else {"Format": self.format, "UserBucket": {"S3Bucket": self.bucket, "S3Key": self.key}}
        )
        return {**source, "Description": texts.description(self.description)} if self.description else source


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """One import.

    :ivar disks: in true order, boot disk first (invariant 11).
    :ivar client_token: AWS answers a repeated token with the task that it started before.
    :ivar boot_mode: ``legacy-bios``, ``uefi`` or empty for AWS's choice.
    :ivar license_type: ``AWS``, ``BYOL`` or empty for AWS's choice.
    :ivar platform: ``Windows``, ``Linux`` or empty; a UEFI import from snapshots must name it.
    :ivar kms_key: encrypts the image's snapshots; empty with ``encrypted`` means the account's default key.
    """

    disks: Sequence[ImportDisk]
    client_token: str
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    role_name: str = "vmimport"
    boot_mode: Literal["", "legacy-bios", "uefi"] = ""
    license_type: Literal["", "AWS", "BYOL"] = ""
    platform: Literal["", "Windows", "Linux"] = ""
    architecture: str = "x86_64"
    encrypted: bool = False
    kms_key: str = ""

    def check(self) -> None:
        """:raises PermanentError: AWS would refuse it, or take it and fail later."""
        if not 1 <= len(self.disks) <= MAX_DISKS:
            raise PermanentError(
                f"an import takes 1 to {MAX_DISKS} disks, not {len(self.disks)}",
                next_step="Import the other disks as snapshots and attach them as volumes",
            )
        if self.boot_mode == "uefi" and not self.platform and any(disk.snapshot_id for disk in self.disks):
            raise PermanentError(
                "a UEFI import from EBS snapshots must name its platform", next_step="Set platform: Linux or Windows"
            )

    def parameters(self) -> dict[str, Any]:
        """The request as boto3 wants it; empty values are left to AWS."""
        optional = {
            "BootMode": self.boot_mode,
            "LicenseType": self.license_type,
            "Platform": self.platform,
            "KmsKeyId": self.kms_key,
            "Encrypted": self.encrypted or bool(self.kms_key),
            "Description": texts.description(self.description),
        }
        return {
            "DiskContainers": [disk.container() for disk in self.disks],
            "ClientToken": self.client_token,
            "RoleName": self.role_name,
            "Architecture": self.architecture,
            "TagSpecifications": specification("import-image-task", self.tags),
            **{name: value for name, value in optional.items() if value},
        }


@dataclass(frozen=True, slots=True)
class ImportStatus:
    """An import as AWS describes it.

    :ivar status: AWS's word, for showing only.
    :ivar phase: what it is doing, for showing only: the words are AWS's and change.
    :ivar progress: percent, where AWS gives one.
    :ivar snapshot_ids: the image's snapshots by device name, known once it is completed. AWS's own list promises no
        order, and ``snapshot_by_key`` is surer.
    :ivar message: AWS's words; after a failure the reason.
    :ivar snapshot_by_key: S3 key of a disk to the snapshot that it became, whatever the order of AWS's list.
    :ivar keys: S3 keys of its disks.
    """

    task_id: str
    state: ImportState
    status: str = ""
    phase: str = ""
    progress: int | None = None
    image_id: str = ""
    snapshot_ids: tuple[str, ...] = ()
    message: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    snapshot_by_key: Mapping[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()

    @property
    def finished(self) -> bool:
        return self.state is not ImportState.RUNNING

    def failure(self, **where: object) -> WaveliftError:
        """The error of a failed import: AWS's words, our reading, and whether a retry can help."""
        reading = explain_import_failure(self.message)
        kind = WaveliftError if reading.retry else RemoteJobError
        return kind(
            f"the import failed: AWS says {self.message!r}; our reading: {reading.reading}",
            next_step=f"{reading.next_step} (source: {reading.source})",
            task=self.task_id,
            **where,
        )


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """What a cancellation met.

    :ivar cancelled: AWS accepted it now; False: the task had ended before, or does not exist.
    :ivar status: how the task stands; None when AWS does not know it.
    """

    cancelled: bool
    status: ImportStatus | None


class VmImport:
    """The import tasks of one account and region."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    def import_image(self, request: ImportRequest) -> str:
        """Submit an import; its task id. The same client token gives the same task.

        :raises LimitReachedError: the region's active imports are at their limit: wait (invariant 8).
        :raises MissingPrivilegeError: the service role is missing or can't be assumed.
        """
        request.check()
        where: dict[str, Any] = {"token": request.client_token, "role": request.role_name}
        doing = "could not start the import"
        try:
            return str(self._client.import_image(**request.parameters())["ImportTaskId"])
        except ClientError as error:
            raise _refusal(error, doing, where) from error
        except BotoCoreError as error:
            raise from_library_error(error, doing, service="ec2", **where) from error

    def describe(self, task_ids: Iterable[str]) -> dict[str, ImportStatus]:
        """How tasks stand, in one call per two hundred; ids that AWS does not know are left out: long ended ones,
        and for a moment also those just submitted.
        """
        wanted = list(dict.fromkeys(task_ids))
        found: dict[str, ImportStatus] = {}
        for start in range(0, len(wanted), DESCRIBE_BATCH):
            batch = wanted[start : start + DESCRIBE_BATCH]
            found.update((status.task_id, status) for status in self._described(batch))
        return found

    def _described(self, task_ids: Sequence[str]) -> Iterator[ImportStatus]:
        """One unknown id fails the whole call: then the batch is halved until it stands alone."""
        try:
            yield from self._pages(ImportTaskIds=list(task_ids))
        except NotFoundError:
            if len(task_ids) == 1:
                return
            middle = len(task_ids) // 2
            yield from self._described(task_ids[:middle])
            yield from self._described(task_ids[middle:])

    def _pages(self, **selection: Any) -> Iterator[ImportStatus]:
        pages = self._client.get_paginator("describe_import_image_tasks").paginate(**selection)
        tasks: list[dict[str, Any]] = []
        with aws_errors("could not look at the imports", service="ec2"):
            for page in pages:
                tasks.extend(page.get("ImportImageTasks", []))
        return map(read_status, tasks)

    def count_active(self) -> int:
        """Imports of the account in this region that still take a place, whoever started them.

        Not filtered by AWS's ``task-state``: states that it does not list count as active. ``deleting`` does too.
        """
        return sum(1 for status in self._pages() if status.status not in ("completed", "deleted"))

    def find(self, tags: Mapping[str, str]) -> list[ImportStatus]:
        """Tasks that carry all these tags (DescribeImportImageTasks knows no tag filter)."""
        return [status for status in self._pages() if has_tags(status.tags, tags)]

    def cancel(self, task_id: str, reason: str = "") -> CancelOutcome:
        """Cancel a task; one that has ended, or is unknown, is left as it is and told about."""
        try:
            options = {"CancelReason": texts.description(reason)} if reason else {}
            self._client.cancel_import_task(ImportTaskId=task_id, **options)
        except ClientError as error:
            status = None if is_missing(error_code(error)) else self.describe([task_id]).get(task_id)
            if is_missing(error_code(error)) or (status is not None and status.finished):
                return CancelOutcome(False, status)
            raise from_library_error(error, "could not cancel the import", service="ec2", task=task_id) from error
        except BotoCoreError as error:
            raise from_library_error(error, "could not cancel the import", service="ec2", task=task_id) from error
        return CancelOutcome(True, self.describe([task_id]).get(task_id))


def read_status(task: Mapping[str, Any]) -> ImportStatus:
    """A task as AWS describes it: only terminal states are believed, unknown ones are running."""
    status = str(task.get("Status", ""))
    message = str(task.get("StatusMessage", ""))
    state = (
        ImportState.COMPLETED
        if status in COMPLETED
        else ImportState.FAILED
        if status in FAILED
        else ImportState.RUNNING
    )
    progress = str(task.get("Progress", ""))
    return ImportStatus(
        task_id=str(task.get("ImportTaskId", "")),
        state=state,
        status=status,
        phase=(message if status == "active" and message else status),
        progress=int(progress) if progress.isdigit() else None,
        image_id=str(task.get("ImageId", "")),
        snapshot_ids=tuple(
            str(detail["SnapshotId"])
            for detail in sorted(task.get("SnapshotDetails", []), key=lambda one: str(one.get("DeviceName", "")))
            if detail.get("SnapshotId")
        ),
        message=message,
        tags=from_aws(task.get("Tags", [])),
        snapshot_by_key={
            str(detail["UserBucket"]["S3Key"]): str(detail["SnapshotId"])
            for detail in task.get("SnapshotDetails", [])
            if detail.get("SnapshotId") and detail.get("UserBucket")
        },
        keys=frozenset(
            str(detail["UserBucket"]["S3Key"]) for detail in task.get("SnapshotDetails", []) if detail.get("UserBucket")
        ),
    )


def _refusal(error: ClientError, doing: str, where: dict[str, Any]) -> WaveliftError:
    """Why ImportImage was refused; InvalidParameter says less with its code than with its message."""
    code, message = error_code(error), error_message(error)
    reading = explain_import_failure(message)
    vague = code.startswith("InvalidParameter")
    kind: type[WaveliftError] | None = None
    if vague and reading.code in ("role.missing", "role.bucket"):
        kind = MissingPrivilegeError
    elif reading.code == "limit" and not vague and code not in THROTTLE_CODES:
        kind = LimitReachedError
    if kind is not None:
        return kind(f"{doing}: AWS says {code} ({message})", next_step=reading.next_step, **where)
    hint = reading.next_step if vague and reading.code != "unknown" else ""
    return from_library_error(error, doing, service="ec2", next_step=hint, **where)
