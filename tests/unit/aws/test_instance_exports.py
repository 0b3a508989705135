"""Export tasks: how what AWS reports is read, what is asked in how many calls, and which errors refusals become."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from botocore.parsers import ResponseParserError

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.export_failures import KNOWN_EXPORT_FAILURES
from wavelift.adapters.aws.instance_exports import (
    CancelResult,
    ImageExportRequest,
    InstanceExportRequest,
    InstanceExports,
    TaskState,
    read_image_task,
    read_instance_task,
)
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    RemoteJobError,
    ThrottledError,
    UnreachableError,
    WaveliftError,
)

pytestmark = pytest.mark.unit
INSTANCE: Final = "i-0123456789abcdef0"
TAGS: Final = {"wavelift:run": "abc123def456", "wavelift:attempt": "0"}
AWS_TAGS: Final = [{"Key": key, "Value": value} for key, value in TAGS.items()]
REQUEST: Final = InstanceExportRequest(INSTANCE, "vmware", "ova", "exports", "vms/", TAGS, "web01")
IMAGE: Final = ImageExportRequest("ami-1", "vmdk", "exports", "vms/", "token", TAGS)


@pytest.mark.parametrize(
    ("word", "state"),
    [
        ("active", TaskState.RUNNING),
        ("converting", TaskState.RUNNING),
        ("", TaskState.RUNNING),
        ("cancelling", TaskState.CANCELLING),
        ("cancelled", TaskState.CANCELLED),
        ("completed", TaskState.COMPLETED),
    ],
)
def test_vie_05_only_terminal_words_of_an_instance_s_task_are_believed(word: str, state: TaskState) -> None:
    read = read_instance_task({"ExportTaskId": "export-i-1", "State": word, "StatusMessage": "Running"})
    assert read.state is state
    assert read.phase == ("Running" if word == "active" else word)
    assert read.finished is (word in ("cancelled", "completed"))


@pytest.mark.parametrize(
    ("word", "message", "state"),
    [
        ("active", "validating", TaskState.RUNNING),
        ("exporting", "", TaskState.RUNNING),
        ("completed", "", TaskState.COMPLETED),
        ("deleting", "ClientError: x", TaskState.CANCELLING),
        ("deleted", "ClientError: Unsupported", TaskState.FAILED),
        ("deleted", "", TaskState.FAILED),
        ("deleted", "User initiated task cancelation", TaskState.CANCELLED),
    ],
)
def test_vie_05_only_terminal_words_of_an_image_s_task_are_believed(word: str, message: str, state: TaskState) -> None:
    read = read_image_task({"ExportImageTaskId": "export-ami-1", "Status": word, "StatusMessage": message})
    assert read.state is state
    assert read.finished is (word in ("completed", "deleted"))


def test_vie_01_the_key_is_aws_s_or_as_it_documents() -> None:
    task = {
        "ExportTaskId": "export-i-0a",
        "ExportToS3Task": {"S3Bucket": "exports", "S3Key": "vms/export-i-0a.ova", "DiskImageFormat": "vmdk"},
        "InstanceExportDetails": {"InstanceId": INSTANCE, "TargetEnvironment": "vmware"},
        "State": "active",
        "Tags": AWS_TAGS,
    }
    read = read_instance_task(task)
    assert (read.bucket, read.object_key("ova"), read.instance_id, read.tags) == (
        "exports",
        "vms/export-i-0a.ova",
        INSTANCE,
        TAGS,
    )
    place = {"S3Bucket": "exports", "S3Prefix": "vms/"}
    image = read_image_task({"ExportImageTaskId": "export-ami-0b", "S3ExportLocation": place, "Progress": "42"})
    assert (image.object_key("vmdk"), image.progress) == ("vms/export-ami-0b.vmdk", 42)


@pytest.mark.parametrize(
    ("format", "place"),
    [
        ("ova", {"ContainerFormat": "ova", "DiskImageFormat": "VMDK"}),
        ("vmdk", {"DiskImageFormat": "VMDK"}),
        ("vhd", {"DiskImageFormat": "VHD"}),
    ],
)
def test_vie_01_formats_as_the_api_names_them(format: Any, place: dict[str, str]) -> None:
    request = InstanceExportRequest(INSTANCE, "vmware", format, "exports", "vms/", TAGS, "wéb01")
    assert request.parameters() == {
        "InstanceId": INSTANCE,
        "TargetEnvironment": "vmware",
        "ExportToS3Task": {"S3Bucket": "exports", "S3Prefix": "vms/", **place},
        "TagSpecifications": [{"ResourceType": "export-instance-task", "Tags": AWS_TAGS}],
        "Description": "web01",
    }


def test_export_image_makes_no_ova() -> None:
    with pytest.raises(PermanentError, match="makes no OVA"):
        ImageExportRequest("ami-1", "ova", "exports", "", "token", TAGS).parameters()


class Ec2:
    """boto3's client: answers from ``instance`` and ``image`` tasks, and says what it was asked."""

    def __init__(self, *instance: dict[str, Any], image: Sequence[dict[str, Any]] = ()) -> None:
        self.tasks, self.images = list(instance), list(image)
        self.asked: list[tuple[str, ...]] = []
        self.raises: Exception | None = None
        self.made: list[dict[str, Any]] = []

    def describe_export_tasks(self, ExportTaskIds: Sequence[str] = ()) -> dict[str, Any]:
        self.asked.append(("instance", *ExportTaskIds))
        known = {one["ExportTaskId"]: one for one in self.tasks}
        if any(id not in known for id in ExportTaskIds):
            raise refused("InvalidExportTaskID.NotFound", "DescribeExportTasks")
        return {"ExportTasks": [known[id] for id in ExportTaskIds or known]}

    def get_paginator(self, operation: str) -> Any:
        assert operation == "describe_export_image_tasks"
        return self

    def paginate(self, ExportImageTaskIds: Sequence[str] = ()) -> Any:
        self.asked.append(("image", *ExportImageTaskIds))
        known = {one["ExportImageTaskId"]: one for one in self.images}
        if any(id not in known for id in ExportImageTaskIds):
            raise refused("InvalidExportTaskID.Malformed", "DescribeExportImageTasks")
        chosen = [known[id] for id in ExportImageTaskIds or known]
        yield from ({"ExportImageTasks": chosen[:1]}, {"ExportImageTasks": chosen[1:]})

    def create_instance_export_task(self, **values: Any) -> dict[str, Any]:
        if self.raises:
            raise self.raises
        self.made.append(values)
        return {"ExportTask": instance_task("export-i-0e", tags=TAGS)}

    def export_image(self, **values: Any) -> dict[str, Any]:
        if self.raises:
            raise self.raises
        self.made.append(values)
        return {"ExportImageTaskId": "export-ami-0e", "Status": "active"}

    def cancel_export_task(self, ExportTaskId: str) -> None:
        if self.raises:
            raise self.raises


def refused(
    code: str, operation: str = "CreateInstanceExportTask", message: str = "", status: int = 400
) -> ClientError:
    said = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(cast(Any, said), operation)


def instance_task(id: str, state: str = "active", *, of: str = INSTANCE, tags: dict[str, str] | None = None) -> Any:
    details = {"InstanceId": of} if of else {}
    listed = [{"Key": key, "Value": value} for key, value in (tags or {}).items()]
    return {"ExportTaskId": id, "State": state, "InstanceExportDetails": details, "Tags": listed}


def image_task(id: str, status: str = "active", *, of: str = "ami-1", tags: dict[str, str] | None = None) -> Any:
    listed = [{"Key": key, "Value": value} for key, value in (tags or {}).items()]
    return {"ExportImageTaskId": id, "Status": status, "ImageId": of, "Tags": listed}


def exports(client: Ec2) -> InstanceExports:
    class Access:
        def client(self, service: str) -> Ec2:
            assert service == "ec2"
            return client

    return InstanceExports(cast(AwsAccess, Access()))


def test_inv_7_two_hundred_tasks_of_both_kinds_are_two_calls() -> None:
    tasks = [instance_task(f"export-i-{number:x}") for number in range(120)]
    client = Ec2(*tasks, image=[image_task(f"export-ami-{number:x}") for number in range(80)])
    ids = [one["ExportTaskId"] for one in tasks] + [one["ExportImageTaskId"] for one in client.images]
    assert sorted(exports(client).describe(ids)) == sorted(ids)
    assert [each[0] for each in client.asked] == ["instance", "image"]
    client.asked.clear()
    exports(client).describe(ids[:3])
    assert [each[0] for each in client.asked] == ["instance"], "no call of an API that nobody asks about"
    assert exports(client).describe([]) == {}


def test_an_unknown_task_does_not_hide_the_others() -> None:
    client = Ec2(instance_task("export-i-1"), instance_task("export-i-2"), image=[image_task("export-ami-3")])
    ids = ["export-i-1", "export-i-9", "export-i-2", "export-ami-3", "export-ami-9", "nonsense"]
    assert sorted(exports(client).describe(ids)) == ["export-ami-3", "export-i-1", "export-i-2"]


def test_vie_04_what_has_not_ended_takes_a_place_in_both_apis() -> None:
    states = ("active", "cancelling", "cancelled", "completed", "a new word")
    statuses = ("active", "deleting", "deleted", "completed")
    client = Ec2(
        *(instance_task(f"export-i-{number}", state) for number, state in enumerate(states)),
        image=[image_task(f"export-ami-{number}", status) for number, status in enumerate(statuses)],
    )
    assert exports(client).count_active() == 5


def test_an_instance_s_tasks_are_those_that_name_it_or_have_our_tags() -> None:
    client = Ec2(
        instance_task("export-i-1"),
        instance_task("export-i-2", "completed", of="", tags=TAGS),
        instance_task("export-i-3", "completed", of=""),
        instance_task("export-i-4", of="i-other"),
        image=[image_task("export-ami-1", tags=TAGS), image_task("export-ami-2", of="ami-2")],
    )
    found = exports(client).find(instance_id=INSTANCE, tags=TAGS)
    assert {one.task_id: one.carries(TAGS) for one in found} == {"export-i-1": False, "export-i-2": True}
    assert [one.task_id for one in exports(client).find(image_id="ami-2")] == ["export-ami-2"]
    assert [one.task_id for one in exports(client).find(tags=TAGS)] == ["export-i-2", "export-ami-1"]
    assert exports(client).find() == []


def test_inv_5_a_task_of_ours_is_found_and_no_second_one_is_made() -> None:
    client = Ec2(instance_task("export-i-1", "cancelled", tags=TAGS), instance_task("export-i-2", tags=TAGS))
    assert exports(client).start(REQUEST).task_id == "export-i-2", "the one that runs"
    client = Ec2(instance_task("export-i-3", "cancelled", tags=TAGS), instance_task("export-i-4", "completed"))
    assert exports(client).start(REQUEST).task_id == "export-i-3", "how it ended is the caller's to judge"
    assert not client.made
    client = Ec2(instance_task("export-i-5", tags={**TAGS, "wavelift:attempt": "1"}))
    assert exports(client).start(REQUEST).task_id == "export-i-0e", "that is another attempt's"
    assert client.made == [REQUEST.parameters()]


def test_inv_5_a_young_task_that_only_the_refusal_tells_of_is_ours() -> None:
    class Late(Ec2):
        def create_instance_export_task(self, **values: Any) -> dict[str, Any]:
            self.tasks.append(instance_task("export-i-0f", tags=TAGS))
            raise refused("IncorrectState", message="The instance is already being exported")

    assert exports(Late()).start(REQUEST).task_id == "export-i-0f"


def test_somebody_else_s_export_is_named() -> None:
    client = Ec2(instance_task("export-i-0d"), instance_task("export-i-0c", "completed"))
    client.raises = refused("InvalidParameter", message="Instance i-1 is being exported.")
    with pytest.raises(BusyError, match=r"is being exported\) .*task=export-i-0d.*Wait until the other export"):
        exports(client).start(REQUEST)
    client.raises = refused("InvalidParameter", message="There is already an export task export-i-0b in progress")
    with pytest.raises(BusyError, match="task=export-i-0b"):
        exports(client).start(REQUEST)


@pytest.mark.parametrize(
    ("code", "message", "kind", "next_step"),
    [
        ("ResourceLimitExceeded", "", LimitReachedError, "Wait for a free place"),
        ("InvalidParameter", "Maximum number of conversion tasks in progress", LimitReachedError, "up to|raised"),
        ("RequestLimitExceeded", "Request limit exceeded.", ThrottledError, "Lower"),
        (
            "AuthFailure",
            "vm-import-export@amazon.com must have WRITE and READ_ACL permission on the S3 bucket.",
            MissingPrivilegeError,
            "export setup --grant",
        ),
        ("AuthFailure", "AWS was not able to validate the provided access credentials", LoginError, "credentials"),
        ("NotExportable", "Only imported instances can be exported.", PermanentError, "method image or direct"),
        ("InvalidInstanceID.NotFound", "The instance ID 'i-1' does not exist", NotFoundError, "region"),
        (
            "UnauthorizedOperation",
            "You are not authorized to perform this operation.",
            MissingPrivilegeError,
            "iam show",
        ),
        ("InvalidParameter", "The service role vmimport does not exist", MissingPrivilegeError, "iam show vmimport"),
        ("InvalidParameter", "The image ID has encrypted EBS block devices", PermanentError, "method direct"),
        ("Unsupported", "diskImageFormat 'raw' not supported", PermanentError, "read AWS's words"),
    ],
)
def test_each_refusal_has_its_kind_and_its_way_out(
    code: str, message: str, kind: type[WaveliftError], next_step: str
) -> None:
    client = Ec2()
    client.raises = refused(code, message=message)
    for image in (False, True):
        with pytest.raises(kind, match=rf"could not start.*AWS says {code}") as told:
            _ = exports(client).export_image(IMAGE) if image else exports(client).start(REQUEST)
        assert type(told.value) is kind
        assert any(word in told.value.next_step for word in next_step.split("|")), told.value.next_step


@pytest.mark.parametrize(
    "lost", [ReadTimeoutError(endpoint_url="https://ec2.invalid"), ResponseParserError("a proxy's page")], ids=type
)
def test_an_answer_that_got_lost_is_told_as_such(lost: Exception) -> None:
    client = Ec2(instance_task("export-i-1"))
    client.raises = lost
    with pytest.raises(UnreachableError, match="could not start the export"):
        exports(client).start(REQUEST)
    with pytest.raises(UnreachableError, match="could not cancel the export"):
        exports(client).cancel("export-i-1")


@pytest.mark.parametrize(
    ("tasks", "result"),
    [
        ([instance_task("export-i-1")], CancelResult.TOO_LATE),
        ([instance_task("export-i-1", "completed")], CancelResult.ENDED),
        ([instance_task("export-i-1", "cancelled")], CancelResult.ENDED),
        ([instance_task("export-i-1", "cancelling")], CancelResult.CANCELLED),
        ([], CancelResult.UNKNOWN),
    ],
)
def test_vie_06_a_refusal_to_cancel_is_read_from_the_task(tasks: list[Any], result: CancelResult) -> None:
    client = Ec2(*tasks)
    assert exports(client).cancel("export-i-1").result is CancelResult.CANCELLED, "AWS accepted it"
    for code in ("IncorrectState", "TaskNotCancellable", "InvalidExportTaskID.NotFound"):
        client.raises = refused(code, "CancelExportTask", "final stage")
        outcome = exports(client).cancel("export-i-1")
        assert outcome.result is result
        assert "final stage" in outcome.words
        assert (outcome.task is None) is (not tasks)


@pytest.mark.parametrize("code", ["UnauthorizedOperation", "AuthFailure", "RequestLimitExceeded", "InternalError"])
def test_a_cancellation_that_could_not_be_asked_for_is_an_error(code: str) -> None:
    client = Ec2(instance_task("export-i-1"))
    client.raises = refused(code, "CancelExportTask")
    with pytest.raises(WaveliftError, match="could not cancel the export"):
        exports(client).cancel("export-i-1")


def test_vie_05_a_task_that_nobody_of_us_cancelled_failed_in_aws_s_words() -> None:
    task = read_instance_task(
        {"ExportTaskId": "export-i-1", "State": "cancelled", "StatusMessage": "Task expired and automatically canceled"}
    )
    failure = task.failure(instance=INSTANCE)
    assert type(failure) is RemoteJobError
    text = str(failure)
    for part in (
        "Task expired and automatically canceled",
        "AWS gave up",
        "method direct",
        "task=export-i-1",
        INSTANCE,
    ):
        assert part in text
    internal = read_image_task({"Status": "deleted", "StatusMessage": "ServerError: an internal error"})
    assert internal.failure().retryable


@pytest.mark.parametrize("known", KNOWN_EXPORT_FAILURES, ids=lambda known: str(known[1].code))
def test_every_reading_has_a_way_out_and_a_source(known: Any) -> None:
    _, reading = known
    assert reading.next_step
    assert reading.source.startswith(("docs.aws.amazon.com/", "github.com/"))
