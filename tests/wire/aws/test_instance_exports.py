"""Export tasks of AWS: started once, found, followed, counted and cancelled (VIE-01, VIE-04 to VIE-06)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Final
from uuid import uuid4

import pytest
from tests.wire.aws.exporting import eventually, launched, run_tags
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.export_sources import ExportSources, image_name
from wavelift.adapters.aws.instance_exports import (
    CancelResult,
    ExportTask,
    ImageExportRequest,
    InstanceExportRequest,
    InstanceExports,
    TaskState,
)
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    RemoteJobError,
    UnreachableError,
)
from wavelift.rules.policies import Staging, identity_policy
from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire
PREFIX: Final = "vms/"
LIMIT: Final = 5
BUCKET: Final = "exports-of-adapters"


@pytest.fixture
def bucket(aws: AwsSimulator, account: Bootstrap) -> Iterator[str]:
    yield aws.export_bucket(BUCKET)
    aws.clear_rules()
    s3 = aws.client("s3")
    for row in s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
        s3.delete_object(Bucket=BUCKET, Key=row["Key"])
    s3.delete_bucket(Bucket=BUCKET)


@pytest.fixture
def exports(access: AwsAccess) -> InstanceExports:
    return InstanceExports(access)


Make = Callable[[], str]


@pytest.fixture
def instances(aws: AwsSimulator, access: AwsAccess, account: Bootstrap, bucket: str) -> Iterator[Make]:
    """Makes running instances of one disk; no task and nothing of them is left."""
    image = bare_image(access)
    made: list[str] = []

    def make() -> str:
        made.append(launched(access, image, account.subnet_ids[0]))
        return made[-1]

    yield make
    aws.clear_rules()
    exports = InstanceExports(access)
    eventually(lambda: exports.count_active() == 0)
    Ec2(access).terminate(made)
    Ec2(access).deregister(image, delete_snapshots=True)


@pytest.fixture
def instance(instances: Make) -> str:
    return instances()


def of(instance: str, tags: dict[str, str], **changes: Any) -> InstanceExportRequest:
    return replace(InstanceExportRequest(instance, "vmware", "ova", BUCKET, PREFIX, tags, "exp-1"), **changes)


def followed(exports: InstanceExports, task: ExportTask) -> ExportTask:
    found: ExportTask = eventually(lambda: (one := exports.describe([task.task_id])[task.task_id]).finished and one)
    return found


def calls(aws: AwsSimulator, operation: str) -> int:
    return sum(one["calls"] for name, one in aws.counters().items() if name.endswith(f".{operation}"))


def test_vie_01_an_instance_is_exported_and_its_object_is_where_aws_says(
    aws: AwsSimulator, exports: InstanceExports, instance: str
) -> None:
    tags = run_tags()
    task = exports.start(of(instance, tags))
    assert (task.kind, task.state, task.instance_id, task.bucket) == ("instance", TaskState.RUNNING, instance, BUCKET)
    assert task.object_key("ova") == f"{PREFIX}{task.task_id}.ova"
    assert exports.start(of(instance, tags)).task_id == task.task_id, "asked for again"
    done = followed(exports, task)
    assert (done.state, done.carries(tags)) == (TaskState.COMPLETED, True)
    assert aws.client("s3").head_object(Bucket=BUCKET, Key=done.object_key("ova"))["ContentLength"] > 0
    assert exports.start(of(instance, tags)).state is TaskState.COMPLETED, "and after it has ended"
    assert [one.task_id for one in exports.find(tags=tags)] == [task.task_id]


def test_inv_5_a_lost_answer_makes_no_second_task(aws: AwsSimulator, exports: InstanceExports, instance: str) -> None:
    tags, before = run_tags(), calls(aws, "CreateInstanceExportTask")
    aws.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0)
    with pytest.raises(UnreachableError, match=f"could not start the export.*instance={instance}"):
        exports.start(of(instance, tags))
    found = exports.start(of(instance, tags))
    assert found.carries(tags)
    assert calls(aws, "CreateInstanceExportTask") - before == 1
    assert len(exports.find(instance_id=instance)) == 1
    followed(exports, found)


def test_inv_5_a_task_that_is_not_shown_yet_is_no_second_task(
    aws: AwsSimulator, exports: InstanceExports, instance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS refuses the second one, and then ours is shown."""
    tags = run_tags()
    aws.rule(kind="export", phase="converting", key=instance, outcome="held")
    task = exports.start(of(instance, tags))
    find, blind = InstanceExports.find, [True]

    def late(self: InstanceExports, **wanted: Any) -> list[ExportTask]:
        return [] if blind.pop() else find(self, **wanted)

    blind[:] = [False, True]
    monkeypatch.setattr(InstanceExports, "find", late)
    assert exports.start(of(instance, tags)).task_id == task.task_id
    monkeypatch.undo()
    with pytest.raises(BusyError, match=f"already being exported.*task={task.task_id}"):
        exports.start(of(instance, run_tags()))
    assert exports.cancel(task.task_id).result is CancelResult.CANCELLED
    assert followed(exports, task).state is TaskState.CANCELLED


def test_vie_04_six_at_once_are_one_too_many_and_both_apis_count(
    aws: AwsSimulator, access: AwsAccess, exports: InstanceExports, instances: Make
) -> None:
    aws.rule(kind="export", phase="preparing", outcome="held")
    machines, tags = [instances() for _ in range(LIMIT)], run_tags()
    sources = ExportSources(access)
    image = sources.make_image(machines[0], image_name(tags["wavelift:run"], 0), reboot=False, tags=tags).image_id
    eventually(lambda: sources.image(image).state == "available")
    tasks = [exports.start(of(one, run_tags())) for one in machines[1:]]
    tasks.append(exports.export_image(ImageExportRequest(image, "vmdk", BUCKET, PREFIX, uuid4().hex, tags)))
    assert exports.count_active() == LIMIT
    with pytest.raises(LimitReachedError, match="Wait for a free place"):
        exports.start(of(machines[0], run_tags()))
    aws.clear_rules()
    assert {followed(exports, one).state for one in tasks} == {TaskState.COMPLETED}
    assert exports.count_active() == 0
    sources.remove(tags)


def test_vie_01_an_image_is_exported_once_for_its_token(
    aws: AwsSimulator, access: AwsAccess, exports: InstanceExports, instance: str
) -> None:
    tags, token = run_tags(), uuid4().hex
    sources = ExportSources(access)
    image = sources.make_image(instance, image_name(tags["wavelift:run"], 0), reboot=False, tags=tags).image_id
    eventually(lambda: sources.image(image).state == "available")
    request = ImageExportRequest(image, "raw", BUCKET, PREFIX, token, tags)
    aws.rule(kind="export", phase="converting", key=image, outcome="held")
    aws.rule(service="ec2", operation="ExportImage", cut_response_after=0, count=1)
    task = exports.export_image(request)
    assert exports.export_image(request).task_id == task.task_id
    assert [one.task_id for one in exports.find(image_id=image)] == [task.task_id]
    with pytest.raises(BusyError, match=f"already being exported.*task={task.task_id}"):
        exports.export_image(replace(request, client_token=uuid4().hex, tags=run_tags()))
    aws.clear_rules()
    done = followed(exports, task)
    assert (done.kind, done.state, done.image_id) == ("image", TaskState.COMPLETED, image)
    key = done.object_key("raw")
    assert key == f"{PREFIX}{task.task_id}.raw"
    assert aws.client("s3").head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 1 << 30
    sources.remove(tags)


@pytest.mark.parametrize("phase", ["pending", "preparing", "converting", "uploading"])
def test_vie_06_a_cancelled_export_leaves_nothing(
    aws: AwsSimulator, exports: InstanceExports, instance: str, phase: str
) -> None:
    tags = run_tags()
    aws.rule(kind="export", phase=phase, key=instance, outcome="held")
    task = exports.start(of(instance, tags))
    eventually(lambda: exports.describe([task.task_id])[task.task_id].phase == phase)
    outcome = exports.cancel(task.task_id)
    assert outcome.result is CancelResult.CANCELLED
    assert followed(exports, task).state is TaskState.CANCELLED
    assert [one.task_id for one in exports.find(tags=tags)] == [task.task_id], "AWS forgot of which instance it was"
    assert exports.cancel(task.task_id).result is CancelResult.ENDED
    assert aws.state()["buckets"][BUCKET] | {"access": {}} == {
        "objects": [],
        "noncurrent": [],
        "uploads": [],
        "access": {},
    }


def test_vie_06_the_final_image_is_not_cancelled(aws: AwsSimulator, exports: InstanceExports, instance: str) -> None:
    aws.rule(kind="export", phase="finishing", key=instance, outcome="held")
    task = exports.start(of(instance, run_tags()))
    eventually(lambda: exports.describe([task.task_id])[task.task_id].phase == "finishing")
    outcome = exports.cancel(task.task_id)
    assert outcome.result is CancelResult.TOO_LATE
    assert outcome.task is not None
    assert not outcome.task.finished
    assert "final stage" in outcome.words
    aws.clear_rules()
    assert followed(exports, task).state is TaskState.COMPLETED
    assert exports.cancel(task.task_id).result is CancelResult.ENDED
    assert exports.cancel("export-i-0123456789abcdef0").result is CancelResult.UNKNOWN


def test_vie_05_a_failed_export_is_told_in_aws_s_words(
    aws: AwsSimulator, exports: InstanceExports, instance: str
) -> None:
    aws.rule(kind="export", phase="converting", key=instance, message="ClientError: unsupported volume")
    done = followed(exports, exports.start(of(instance, run_tags())))
    assert done.finished
    assert done.state is not TaskState.COMPLETED
    failure = done.failure(instance=instance)
    assert isinstance(failure, RemoteJobError)
    assert "ClientError: unsupported volume" in str(failure)


def test_vie_05_words_that_aws_has_not_documented_are_running(
    aws: AwsSimulator, exports: InstanceExports, instance: str
) -> None:
    aws.settings(other_words=True)
    try:
        aws.rule(kind="export", phase="converting", key=instance, outcome="held")
        task = exports.start(of(instance, run_tags()))
        eventually(lambda: exports.describe([task.task_id])[task.task_id].status == "converting")
        shown = exports.describe([task.task_id])[task.task_id]
        assert (shown.state, shown.phase) == (TaskState.RUNNING, "converting")
        assert exports.count_active() == 1
        with pytest.raises(BusyError, match=task.task_id):
            exports.start(of(instance, run_tags()))
        aws.clear_rules()
        assert followed(exports, task).state is TaskState.COMPLETED
    finally:
        aws.settings(other_words=False)


def test_vie_02_grants_that_were_taken_away_are_named(
    aws: AwsSimulator, exports: InstanceExports, instance: str
) -> None:
    aws.client("s3").put_bucket_acl(Bucket=BUCKET, ACL="private")
    with pytest.raises(MissingPrivilegeError, match=r"WRITE and READ_ACL.*export setup --grant"):
        exports.start(of(instance, run_tags()))


def test_refusals_before_anything_is_made(aws: AwsSimulator, exports: InstanceExports, instance: str) -> None:
    with pytest.raises(NotFoundError, match=r"InvalidInstanceID\.NotFound"):
        exports.start(of("i-0123456789abcdef0", run_tags()))
    with pytest.raises(PermanentError):
        exports.start(of(instance, run_tags(), target="citrix", format="vmdk"))
    aws.amend(instance, platform="windows", platform_details="Windows", usage_operation="RunInstances:0002")
    with pytest.raises(PermanentError, match="NotExportable"):
        exports.start(of(instance, run_tags()))
    assert exports.count_active() == 0


def test_an_image_s_export_needs_the_role(
    aws: AwsSimulator, access: AwsAccess, exports: InstanceExports, instance: str
) -> None:
    tags = run_tags()
    sources = ExportSources(access)
    image = sources.make_image(instance, image_name(tags["wavelift:run"], 0), reboot=False, tags=tags).image_id
    eventually(lambda: sources.image(image).state == "available")
    request = ImageExportRequest(image, "vmdk", BUCKET, PREFIX, uuid4().hex, tags, role_name="nobody")
    with pytest.raises(MissingPrivilegeError, match="iam show vmimport"):
        exports.export_image(request)
    sources.remove(tags)


def test_inv_7_unknown_ids_do_not_hide_others_and_each_api_is_asked_once(
    aws: AwsSimulator, exports: InstanceExports, instance: str
) -> None:
    task = exports.start(of(instance, run_tags()))
    before = {name: calls(aws, name) for name in ("DescribeExportTasks", "DescribeExportImageTasks")}
    assert list(exports.describe([task.task_id])) == [task.task_id]
    after = {name: calls(aws, name) - count for name, count in before.items()}
    assert after == {"DescribeExportTasks": 1, "DescribeExportImageTasks": 0}
    ids = ["export-i-0000000000000dead", task.task_id, "export-ami-0000000000000dead", "export-i-000000000000beef"]
    assert list(exports.describe(ids)) == [task.task_id]
    followed(exports, task)


def test_sms_13_the_printed_rights_are_enough_to_export_and_end_only_ours(
    aws: AwsSimulator, access: AwsAccess, connect: Any, instance: str, account: Bootstrap
) -> None:
    role = f"arn:aws:iam::123456789012:role/{account.role}"
    policy = identity_policy("caller", Staging("staging", exports=BUCKET), role_arn=role, features=["export"])
    session = aws.hold("exporter", [policy])
    mine = connect(session)
    exports, sources, tags = InstanceExports(mine), ExportSources(mine), run_tags()
    aws.rule(kind="export", phase="converting", outcome="held")
    task = exports.start(of(instance, tags))
    assert exports.count_active() == 1
    assert exports.cancel(task.task_id).result is CancelResult.CANCELLED
    followed(exports, task)
    image = sources.make_image(instance, image_name(tags["wavelift:run"], 0), reboot=False, tags=tags).image_id
    eventually(lambda: sources.image(image).state == "available")
    exported = exports.export_image(ImageExportRequest(image, "vmdk", BUCKET, PREFIX, uuid4().hex, tags))
    assert exports.cancel(exported.task_id).result is CancelResult.CANCELLED
    followed(exports, exported)
    assert sources.remove(tags).images == (image,)
    assert not aws.held()["exporter"]["denied"]
    foreign = InstanceExports(access).start(of(instance, {"Name": "somebody's"}))
    with pytest.raises(MissingPrivilegeError, match="could not cancel the export"):
        exports.cancel(foreign.task_id)
    aws.let_go()
    InstanceExports(access).cancel(foreign.task_id)
