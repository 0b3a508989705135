"""VM Export: tasks of instances and of images. Submit, find, describe, count, cancel. The callers wait (invariant 7).

CreateInstanceExportTask has no client token, so a task is found by its tag before another one is submitted, and a call
whose answer got lost is not sent again (:data:`~wavelift.adapters.aws.access.ONCE`). VIE-01, VIE-04 to VIE-06.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Literal

from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from wavelift.adapters.aws import texts
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import (
    THROTTLE_CODES,
    aws_errors,
    error_code,
    error_message,
    from_library_error,
    is_limit,
    is_missing,
)
from wavelift.adapters.aws.export_failures import explain_export_failure
from wavelift.adapters.aws.tagging import from_aws, has_tags, specification
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    RemoteJobError,
    WaveliftError,
)
from wavelift.rules.export_facts import ExportFormat, ExportTarget

DESCRIBE_BATCH: Final = 200
"""Ids in one describe call, as of imports: all that a triggerer watches are one call of each API (invariant 7)."""
INSTANCE_TASK: Final = "export-i-"
IMAGE_TASK: Final = "export-ami-"
"""What the ids of the two kinds of tasks begin with."""
_TASK_ID: Final = re.compile(r"export-(?:i|ami)-[0-9a-f]+")

ExportKind = Literal["instance", "image"]


class TaskState(StrEnum):
    """Only what is certain: a word that AWS has not documented counts as running (VIE-05)."""

    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLING = "cancelling"
    """It still takes a place among the region's tasks."""
    CANCELLED = "cancelled"
    """Also when AWS gave up by itself: the message says so."""
    FAILED = "failed"


_STATES: Final[Mapping[str, TaskState]] = {
    "completed": TaskState.COMPLETED,
    "cancelling": TaskState.CANCELLING,
    "cancelled": TaskState.CANCELLED,
    "deleting": TaskState.CANCELLING,
    "deleted": TaskState.FAILED,
}
"""AWS's terminal words, and those that lead there: of instances' tasks the first three, of images' the others too."""
_ENDED: Final = frozenset({TaskState.COMPLETED, TaskState.CANCELLED, TaskState.FAILED})
_CANCELLED_CODE: Final = "cancelled"


@dataclass(frozen=True, slots=True)
class InstanceExportRequest:
    """One task of CreateInstanceExportTask.

    :ivar tags: tell our task from others: they must name the run and its attempt.
    :ivar prefix: of the object's key, as it stands: AWS puts nothing between it and the task's id.
    """

    instance_id: str
    target: ExportTarget
    format: ExportFormat
    bucket: str
    prefix: str
    tags: Mapping[str, str]
    description: str = ""

    def parameters(self) -> dict[str, Any]:
        """The request as boto3 wants it. An OVA is a container of stream-optimised VMDK."""
        place: dict[str, str] = {"S3Bucket": self.bucket, "S3Prefix": self.prefix}
        if self.format == "ova":
            place |= {"ContainerFormat": "ova", "DiskImageFormat": "VMDK"}
        else:
            place["DiskImageFormat"] = self.format.upper()
        values: dict[str, Any] = {
            "InstanceId": self.instance_id,
            "TargetEnvironment": self.target,
            "ExportToS3Task": place,
            "TagSpecifications": specification("export-instance-task", self.tags),
        }
        return {**values, "Description": texts.description(self.description)} if self.description else values


@dataclass(frozen=True, slots=True)
class ImageExportRequest:
    """One task of ExportImage.

    :ivar client_token: AWS answers a repeated token with the task that it started before.
    """

    image_id: str
    format: ExportFormat
    bucket: str
    prefix: str
    client_token: str
    tags: Mapping[str, str]
    description: str = ""
    role_name: str = "vmimport"

    def parameters(self) -> dict[str, Any]:
        """The request as boto3 wants it.

        :raises PermanentError: ExportImage makes no OVA.
        """
        if self.format == "ova":
            raise PermanentError(
                "ExportImage makes no OVA", next_step="Ask for vmdk, vhd or raw; or take method instance or direct"
            )
        values: dict[str, Any] = {
            "ImageId": self.image_id,
            "DiskImageFormat": self.format.upper(),
            "S3ExportLocation": {"S3Bucket": self.bucket, "S3Prefix": self.prefix},
            "ClientToken": self.client_token,
            "RoleName": self.role_name,
            "TagSpecifications": specification("export-image-task", self.tags),
        }
        return {**values, "Description": texts.description(self.description)} if self.description else values


@dataclass(frozen=True, slots=True)
class ExportTask:
    """An export task as AWS describes it.

    :ivar status: AWS's word, for showing only.
    :ivar phase: what it is doing, for showing only: the words are AWS's and change.
    :ivar progress: percent, where AWS gives one: of images' tasks.
    :ivar message: AWS's words; after a failure the reason.
    :ivar key: of the object; empty of an image's task, where :meth:`object_key` tells it.
    :ivar instance_id: empty also of an old task: AWS forgets what it was about before it forgets the task.
    """

    task_id: str
    kind: ExportKind
    state: TaskState
    status: str = ""
    phase: str = ""
    progress: int | None = None
    message: str = ""
    bucket: str = ""
    prefix: str = ""
    key: str = ""
    instance_id: str = ""
    image_id: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def finished(self) -> bool:
        return self.state in _ENDED

    def carries(self, tags: Mapping[str, str]) -> bool:
        """Is it the task of whoever gives these tags?"""
        return bool(tags) and has_tags(self.tags, tags)

    def object_key(self, format: ExportFormat) -> str:
        """Of the object that it writes: AWS tells it of instances' tasks, and has documented it for images'."""
        return self.key or f"{self.prefix}{self.task_id}.{format}"

    def failure(self, **where: object) -> WaveliftError:
        """The error of a task that ended without an object: AWS's words, our reading, whether a retry can help."""
        reading = explain_export_failure(self.message)
        kind = WaveliftError if reading.retry else RemoteJobError
        return kind(
            f"the export ended as {self.status}: AWS says {self.message!r}; our reading: {reading.reading}",
            next_step=f"{reading.next_step} (source: {reading.source})",
            task=self.task_id,
            **where,
        )


class CancelResult(StrEnum):
    """What a cancellation met."""

    CANCELLED = "cancelled"
    """AWS accepted it, now or before; it removes the partial object."""
    ENDED = "ended"
    """It had ended before."""
    TOO_LATE = "too late"
    """AWS refuses: the final image is being written (VIE-06). The task goes on."""
    UNKNOWN = "unknown"
    """AWS does not know the task (any more)."""


@dataclass(frozen=True, slots=True)
class CancelOutcome:
    """:ivar task: how it stands afterwards; None when AWS does not know it. :ivar words: AWS's, of a refusal."""

    result: CancelResult
    task: ExportTask | None
    words: str = ""


class InstanceExports:
    """The export tasks of one account and region, of instances and of images."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("ec2")

    # -- submitting -----------------------------------------------------------------------------------------------

    def start(self, request: InstanceExportRequest) -> ExportTask:
        """Our task of the instance: the one with these tags, in whatever state, or a new one (invariant 5).

        The caller has written down that it begins: when this call's answer is lost, the next try finds the task.

        :raises LimitReachedError: the region's conversion tasks are at their limit: wait (VIE-04).
        :raises BusyError: somebody else exports the instance; ``task`` names the task where it is known.
        :raises MissingPrivilegeError: VM Export lacks its grants on the bucket, or we lack a right.
        """
        known = self._ours(request.tags, instance_id=request.instance_id)
        if known is not None:
            return known
        where: dict[str, Any] = {"instance": request.instance_id, "bucket": request.bucket}

        def call() -> ExportTask:
            return read_instance_task(self._client.create_instance_export_task(**request.parameters())["ExportTask"])

        return self._submitted(call, "could not start the export", where, request.tags, instance_id=request.instance_id)

    def export_image(self, request: ImageExportRequest) -> ExportTask:
        """Submit the export of an image; the same client token gives the same task.

        :raises LimitReachedError: the region's conversion tasks are at their limit: wait (VIE-04).
        :raises BusyError: another task exports this image.
        :raises MissingPrivilegeError: the service role is missing, or may not write to the bucket.
        """
        where: dict[str, Any] = {"image": request.image_id, "bucket": request.bucket, "role": request.role_name}
        parameters = request.parameters()

        def call() -> ExportTask:
            return read_image_task(self._client.export_image(**parameters))

        return self._submitted(
            call, "could not start the export of the image", where, request.tags, image_id=request.image_id
        )

    def _submitted(
        self, call: Callable[[], ExportTask], doing: str, where: dict[str, Any], tags: Mapping[str, str], **subject: str
    ) -> ExportTask:
        """What ``call`` started; of a subject that is being exported already, our task if it is ours."""
        try:
            return call()
        except ClientError as error:
            refusal = _refusal(error, doing, where)
            if not isinstance(refusal, BusyError):
                raise refusal from error
            others = [one for one in self.find(tags=tags, **subject) if not one.finished or one.carries(tags)]
            ours = next((one for one in others if one.carries(tags)), None)
            if ours is not None:
                return ours
            if others and "task" not in refusal.where:
                refusal.where["task"] = others[0].task_id
            raise refusal from error
        except (BotoCoreError, ResponseParserError) as error:
            raise from_library_error(error, doing, service="ec2", **where) from error

    def _ours(self, tags: Mapping[str, str], **subject: str) -> ExportTask | None:
        found = [one for one in self.find(tags=tags, **subject) if one.carries(tags)]
        return next((one for one in found if not one.finished), found[0] if found else None)

    # -- looking --------------------------------------------------------------------------------------------------

    def describe(self, task_ids: Iterable[str]) -> dict[str, ExportTask]:
        """How tasks of both kinds stand, in one call of each API per two hundred. Ids that AWS does not know are left
        out: long ended ones, and for a moment also those just submitted.
        """
        wanted = list(dict.fromkeys(task_ids))
        found: dict[str, ExportTask] = {}
        for start, look in ((INSTANCE_TASK, self._instance_tasks), (IMAGE_TASK, self._image_tasks)):
            of_kind = [id for id in wanted if id.startswith(start)]
            for begin in range(0, len(of_kind), DESCRIBE_BATCH):
                tasks = _those_known(look, of_kind[begin : begin + DESCRIBE_BATCH])
                found.update((task.task_id, task) for task in tasks)
        return found

    def _instance_tasks(self, task_ids: Sequence[str] = ()) -> list[ExportTask]:
        """All of the account without ids: this API has no pages."""
        chosen = {"ExportTaskIds": list(task_ids)} if task_ids else {}
        with aws_errors("could not look at the exports of instances", service="ec2"):
            answer = self._client.describe_export_tasks(**chosen)
        return [read_instance_task(one) for one in answer.get("ExportTasks", [])]

    def _image_tasks(self, task_ids: Sequence[str] = ()) -> list[ExportTask]:
        chosen = {"ExportImageTaskIds": list(task_ids)} if task_ids else {}
        pages = self._client.get_paginator("describe_export_image_tasks").paginate(**chosen)
        with aws_errors("could not look at the exports of images", service="ec2"):
            return [read_image_task(one) for page in pages for one in page.get("ExportImageTasks", [])]

    def find(
        self, *, instance_id: str = "", image_id: str = "", tags: Mapping[str, str] | None = None
    ) -> list[ExportTask]:
        """Tasks of this instance or image, whoever started them, and those that carry all these tags.

        Neither API promises a tag filter, so we choose among all that it lists. An old task of an instance does not
        tell which one it was: then its tags do. With an instance only the tasks of instances are looked at, with an
        image only those of images.
        """
        tasks = [] if image_id else self._instance_tasks()
        tasks += [] if instance_id else self._image_tasks()
        return [one for one in tasks if _is_about(one, instance_id, image_id) or one.carries(tags or {})]

    def count_active(self) -> int:
        """Tasks of both APIs that still take a place, whoever started them: all that have not ended (VIE-04)."""
        return sum(1 for task in (*self._instance_tasks(), *self._image_tasks()) if not task.finished)

    # -- cancelling -----------------------------------------------------------------------------------------------

    def cancel(self, task_id: str) -> CancelOutcome:
        """Cancel a task of either kind; one that has ended, can't be cancelled any more or is unknown stays as it is.

        AWS removes what the task has written, the partial object included (VIE-06). The caller looks nevertheless.

        :raises MissingPrivilegeError: we may not, or the task has no tag of ours.
        """
        doing = "could not cancel the export"
        try:
            self._client.cancel_export_task(ExportTaskId=task_id)
        except ClientError as error:
            refusal = from_library_error(error, doing, service="ec2", task=task_id)
            if not (isinstance(refusal, BusyError | NotFoundError) or type(refusal) is PermanentError):
                raise refusal from error
            return _not_cancelled(self.describe([task_id]).get(task_id), f"{error_code(error)}: {error_message(error)}")
        except (BotoCoreError, ResponseParserError) as error:
            raise from_library_error(error, doing, service="ec2", task=task_id) from error
        return CancelOutcome(CancelResult.CANCELLED, self.describe([task_id]).get(task_id))


def _not_cancelled(task: ExportTask | None, words: str) -> CancelOutcome:
    """What a refusal to cancel means: AWS documents neither codes nor words of it, so the task's state decides."""
    if task is None:
        return CancelOutcome(CancelResult.UNKNOWN, None, words)
    if task.finished:
        return CancelOutcome(CancelResult.ENDED, task, words)
    if task.state is TaskState.CANCELLING:
        return CancelOutcome(CancelResult.CANCELLED, task, words)
    return CancelOutcome(CancelResult.TOO_LATE, task, words)


def _is_about(task: ExportTask, instance_id: str, image_id: str) -> bool:
    return bool((instance_id and task.instance_id == instance_id) or (image_id and task.image_id == image_id))


def _those_known(look: Callable[[Sequence[str]], list[ExportTask]], task_ids: Sequence[str]) -> Iterator[ExportTask]:
    """One unknown id fails the whole call: then the batch is halved until it stands alone."""
    try:
        yield from look(task_ids)
    except NotFoundError:
        if len(task_ids) > 1:
            middle = len(task_ids) // 2
            yield from _those_known(look, task_ids[:middle])
            yield from _those_known(look, task_ids[middle:])


def read_instance_task(task: Mapping[str, Any]) -> ExportTask:
    """A task as DescribeExportTasks and CreateInstanceExportTask show it."""
    status, message = str(task.get("State", "")), str(task.get("StatusMessage", ""))
    place = task.get("ExportToS3Task") or {}
    details = task.get("InstanceExportDetails") or {}
    return ExportTask(
        task_id=str(task.get("ExportTaskId", "")),
        kind="instance",
        state=_STATES.get(status, TaskState.RUNNING),
        status=status,
        phase=_phase(status, message),
        message=message,
        bucket=str(place.get("S3Bucket", "")),
        key=str(place.get("S3Key", "")),
        instance_id=str(details.get("InstanceId", "")),
        tags=from_aws(task.get("Tags", [])),
    )


def read_image_task(task: Mapping[str, Any]) -> ExportTask:
    """A task as DescribeExportImageTasks and ExportImage show it."""
    status, message = str(task.get("Status", "")), str(task.get("StatusMessage", ""))
    state = _STATES.get(status, TaskState.RUNNING)
    if state is TaskState.FAILED and explain_export_failure(message).code == _CANCELLED_CODE:
        state = TaskState.CANCELLED
    place = task.get("S3ExportLocation") or {}
    progress = str(task.get("Progress", ""))
    return ExportTask(
        task_id=str(task.get("ExportImageTaskId", "")),
        kind="image",
        state=state,
        status=status,
        phase=_phase(status, message),
        progress=int(progress) if progress.isdigit() else None,
        message=message,
        bucket=str(place.get("S3Bucket", "")),
        prefix=str(place.get("S3Prefix", "")),
        image_id=str(task.get("ImageId", "")),
        tags=from_aws(task.get("Tags", [])),
    )


def _phase(status: str, message: str) -> str:
    return message if status == "active" and message else status


_KINDS: Final[Mapping[str, type[WaveliftError]]] = {
    "busy": BusyError,
    "bucket.grants": MissingPrivilegeError,
    "limit": LimitReachedError,
    "role": MissingPrivilegeError,
}
"""What the words of a refusal make of it, where its code says less. AWS documents neither codes nor words; seen were
``AuthFailure`` for grants that the bucket lacks, ``NotExportable`` and ``InvalidParameter``."""


def _refusal(error: ClientError, doing: str, where: dict[str, Any]) -> WaveliftError:
    code, message = error_code(error), error_message(error)
    if code in THROTTLE_CODES or is_missing(code):
        return from_library_error(error, doing, service="ec2", **where)
    reading = explain_export_failure(message)
    kind = LimitReachedError if is_limit(code) else _KINDS.get(reading.code)
    if kind is None:
        hint = "" if reading.code in ("unknown", "denied") else reading.next_step
        return from_library_error(error, doing, service="ec2", next_step=hint, **where)
    if kind is BusyError and (named := _TASK_ID.search(message)):
        where = {**where, "task": named.group()}
    hint = "Wait for a free place, or have the quota raised" if kind is LimitReachedError else reading.next_step
    return kind(f"{doing}: AWS says {code} ({message.rstrip('.')})", next_step=hint, **where)
