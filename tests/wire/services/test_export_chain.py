"""Instance exports, task by task, over the AWS simulator: three methods, and what goes wrong. Nothing is left."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from tests.contexts import HandClock
from tests.eventually import eventually
from tests.export_world import ExportChain, environment
from tests.ledgers import fresh_ledger
from tests.wire.aws.exporting import launched
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws import bulk
from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.instance_exports import InstanceExports
from wavelift.base.errors import (
    BusyError,
    NotFoundError,
    PermanentError,
    ProofError,
    RemoteJobError,
    TamperedError,
    WaveliftError,
)
from wavelift.base.names import TAG_RUN, run_hash
from wavelift.rules.export_accounts import export_account
from wavelift.rules.instance_export import ExportState
from wavelift.services.dataplane.export_messages import ExportOrder
from wavelift.services.instance_export import ending
from wavelift.services.instance_export.messages import ExportReport
from wavelift.services.instance_export.requests import TooLateError
from wavelift.services.instance_export.waits import ForAWhile, ForImage, ForPlace, ForTask
from wavelift.services.instance_export.work import Work
from wavelift.simulators.aws import AwsSimulator, Bootstrap

from .conftest import QUICK

pytestmark = pytest.mark.wire

NAME: Final = "acme"


@dataclass
class Lab:
    """An exports bucket, and instances of one and of two disks."""

    sim: AwsSimulator
    access: AwsAccess
    bucket: str
    subnet: str
    images: dict[int, str]
    chain: ExportChain
    instances: list[str] = field(default_factory=list)

    def instance(self, disks: int = 1) -> str:
        made = launched(self.access, self.images[disks], self.subnet)
        self.instances.append(made)
        return made

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.sim.state()
        return found

    def objects(self) -> list[str]:
        return sorted(self.state()["buckets"][self.bucket]["objects"])

    def tasks(self, run: str = "r1") -> list[dict[str, Any]]:
        """Those of instances that EC2 still shows and that carry the tag of the run."""
        found: list[dict[str, Any]] = self.sim.client("ec2").describe_export_tasks()["ExportTasks"]
        tag = {"Key": TAG_RUN, "Value": run_hash(self.chain.known(run).run_key)}
        return [one for one in found if tag in one.get("Tags", ())]

    def hold(self, phase: str, source: str) -> int:
        """The source's tasks of AWS stand still where this phase begins."""
        return self.sim.rule(kind="export", phase=phase, key=source, outcome="held")

    def made(self) -> dict[str, Any]:
        """What exports leave: running tasks, own images and snapshots, objects and uploads."""
        state = self.state()
        bucket = state["buckets"][self.bucket]
        return {
            "tasks": state["export_tasks"],
            "images": [one for one in state["images"] if one not in self.kept],
            "snapshots": [one["id"] for one in state["snapshots"] if one["id"] not in self.kept],
            "objects": bucket["objects"],
            "uploads": bucket["uploads"],
        }

    def __post_init__(self) -> None:
        state = self.state()
        self.kept = {*(one["id"] for one in state["snapshots"]), *state["images"]}

    def nothing_left(self) -> bool:
        return not any(self.made().values())


@pytest.fixture(scope="module")
def images(aws_simulator: AwsSimulator, account: Bootstrap, shared_access: AwsAccess) -> Iterator[dict[int, str]]:
    ec2 = Ec2(shared_access)
    found = {disks: bare_image(shared_access, disks) for disks in (1, 2)}
    snapshots = [id for image in found.values() for id in ec2.images([image])[image].snapshot_ids]
    yield found
    for image in found.values():
        ec2.deregister(image, delete_snapshots=False)
    for id in snapshots:
        ec2.delete_snapshot(id)


@pytest.fixture
def lab(
    aws_simulator: AwsSimulator,
    account: Bootstrap,
    shared_access: AwsAccess,
    images: dict[int, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Lab]:
    """The test fails when it leaves a task, an image, a snapshot, an upload, an object or a thread."""
    monkeypatch.setattr(bulk, "RetryPolicy", lambda **_: QUICK)
    sim, threads = aws_simulator, set(threading.enumerate())
    before = sim.state()
    bucket = sim.export_bucket(f"export-to-s3-{NAME}-{sim.region}")
    clock = HandClock()
    clock.time = datetime.now(UTC)
    with fresh_ledger(tmp_path / "ledger.db") as ledger:
        where = environment(region=sim.region, exports={"name": NAME, "prefix": "out/"})
        chain = ExportChain(ledger, clock, where, access=shared_access)
        made = Lab(sim, shared_access, bucket, account.subnet_ids[0], images, chain)
        yield made
        sim.clear_rules()
        assert eventually(lambda: sim.state()["export_tasks"] == [])
        left = made.made()
        s3 = sim.client("s3")
        for key in made.objects():
            s3.delete_object(Bucket=bucket, Key=key)
        Ec2(shared_access).terminate(made.instances)
        s3.delete_bucket(Bucket=bucket)
    del left["objects"]  # the results of exports that completed
    assert not any(left.values()), left
    assert not {thread for thread in threading.enumerate() if thread not in threads}
    assert json.dumps(sim.state(), sort_keys=True) == json.dumps(before, sort_keys=True)


# The three methods


def test_vie_01_aws_exports_an_instance_of_one_disk(lab: Lab) -> None:
    one = lab.instance()
    made = lab.chain.whole(instance=one, may_reboot=True)
    known = lab.chain.known()
    assert (made.state, made.method, made.format, made.why) == (
        "completed",
        "instance",
        "ova",
        "AWS can export the instance itself",
    )
    assert known.object_key == f"out/{known.task_id}.ova"
    assert lab.objects() == [known.object_key]
    head = lab.sim.client("s3").head_object(Bucket=lab.bucket, Key=known.object_key)
    assert made.object_bytes == head["ContentLength"]
    assert [line for line in made.opened if "disk" in line]
    assert [isinstance(each, ForTask) for each in lab.chain.waited] == [True] * len(lab.chain.waited)
    assert made.removed == ()
    assert {"admitted", "checked", "begun", "submitted", "exported", "completed", "removed"} <= set(known.times or {})


def test_vie_03_who_names_the_method_leaves_out_what_was_attached_later(lab: Lab) -> None:
    """AWS leaves it out; that it is missing in the object is then no fault of the object."""
    one, ec2 = lab.instance(), lab.sim.client("ec2")
    zone = ec2.describe_instances(InstanceIds=[one])["Reservations"][0]["Instances"][0]["Placement"]["AvailabilityZone"]
    later = ec2.create_volume(AvailabilityZone=zone, Size=1)["VolumeId"]
    ec2.attach_volume(VolumeId=later, InstanceId=one, Device="/dev/sdh")
    try:
        made = lab.chain.whole(instance=one, method="instance", may_reboot=True)
        assert made.state == "completed", made.error
        assert "export.later" in [finding.code for finding in made.findings]
        plan = lab.chain.known().plan or {}
        assert [volume["volume_id"] == later for volume in plan["instance"]["volumes"]] == [False]
    finally:
        ec2.detach_volume(VolumeId=later)
        ec2.delete_volume(VolumeId=later)


def test_amp_10_an_image_is_made_exported_and_removed(lab: Lab) -> None:
    one = lab.instance()
    made = lab.chain.whole(instance=one, method="image", format="vmdk")
    known = lab.chain.known()
    assert (made.state, made.method, known.object_key) == ("completed", "image", f"out/{known.task_id}.vmdk")
    assert known.task_id.startswith("export-ami-")
    assert any(isinstance(each, ForImage) for each in lab.chain.waited)
    assert [line.split()[0] for line in made.removed] == ["image", "snapshot"]
    assert lab.objects() == [known.object_key]


def test_amp_10_an_instance_of_two_disks_is_read_from_snapshots_of_one_instant(lab: Lab) -> None:
    two = lab.instance(2)
    made = lab.chain.whole(instance=two, verify="full")
    known = lab.chain.known()
    assert (made.state, made.method, made.level) == ("completed", "direct", "full")
    assert known.object_key == f"out/{known.id}.ova"
    assert lab.objects() == [f"out/{known.id}.ova", *(f"out/{known.id}/disk-{disk}.manifest" for disk in (0, 1))]
    assert [line.split()[0] for line in made.removed] == ["snapshot", "snapshot"]
    assert "2" in made.why


@contextmanager
def attached_later(lab: Lab, instance: str) -> Iterator[str]:
    ec2 = lab.sim.client("ec2")
    (row,) = ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"]
    zone = row["Placement"]["AvailabilityZone"]
    volume: str = ec2.create_volume(Size=3, AvailabilityZone=zone)["VolumeId"]
    ec2.attach_volume(VolumeId=volume, InstanceId=instance, Device="/dev/xvdf")
    yield volume
    ec2.detach_volume(VolumeId=volume)
    ec2.delete_volume(VolumeId=volume)


def test_vie_03_by_name_aws_exports_an_instance_without_what_was_attached_later(lab: Lab) -> None:
    one = lab.instance()
    with attached_later(lab, one) as volume:
        made = lab.chain.whole(instance=one, method="instance", may_reboot=True)
    assert (made.state, made.method) == ("completed", "instance")
    (later,) = [each for each in made.findings if each.code == "export.later"]
    assert volume in later.what
    assert len([line for line in made.opened if "disk" in line]) == 1


def test_vie_03_unasked_no_machine_loses_a_disk(lab: Lab) -> None:
    one = lab.instance()
    with attached_later(lab, one) as volume:
        lab.chain.admit(instance=one, may_reboot=True, mode="check")
        found = lab.chain.check()
    assert found.plan is not None
    assert found.plan.method == "direct"
    assert f"not instance: attached after launch: {volume}" in found.plan.why
    assert [each.volume_id for each in found.plan.instance.volumes][1] == volume


def test_vie_02_aws_writes_to_a_bucket_that_its_policy_opens(lab: Lab) -> None:
    s3, who = lab.sim.client("s3"), {"CanonicalUser": export_account(lab.sim.region)}
    allow = {"Effect": "Allow", "Principal": who, "Action": ["s3:GetBucketAcl", "s3:PutObject"]}
    allow["Resource"] = [f"arn:aws:s3:::{lab.bucket}", f"arn:aws:s3:::{lab.bucket}/*"]
    s3.put_bucket_acl(Bucket=lab.bucket, ACL="private")
    s3.put_bucket_policy(Bucket=lab.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    made = lab.chain.whole(instance=lab.instance(), may_reboot=True)
    assert (made.state, made.method) == ("completed", "instance")
    assert "bucket.policy" in {each.code for each in made.findings}


@pytest.fixture
def without_rights(lab: Lab) -> Iterator[None]:
    """The service role may not write to the exports bucket."""
    iam, name = lab.sim.client("iam"), f"vmimport-{lab.bucket}"
    document = iam.get_role_policy(RoleName="vmimport", PolicyName=name)["PolicyDocument"]
    iam.delete_role_policy(RoleName="vmimport", PolicyName=name)
    yield
    iam.put_role_policy(RoleName="vmimport", PolicyName=name, PolicyDocument=json.dumps(document))


@pytest.mark.usefixtures("without_rights")
def test_a_service_role_that_may_not_write_refuses_method_image_before_an_image_is_made(lab: Lab) -> None:
    one = lab.instance()
    lab.chain.admit(instance=one, method="image", format="vmdk")
    found = lab.chain.check()
    assert [each.code for each in found.blocking] == ["export.role"]
    assert "vmimport lacks " in found.blocking[0].what
    assert {"s3:PutObject", "s3:GetBucketAcl"} <= set(found.blocking[0].what.replace(",", "").split())
    assert lab.chain.end(words="check: refused").state == "failed"
    assert lab.nothing_left()
    lab.chain.admit("r2", instance=one, mode="check", may_reboot=True)
    told = lab.chain.check("r2")
    assert told.plan is not None
    assert (told.plan.method, [each for each in told.findings if each.code == "export.role"]) == ("instance", [])


def test_a_service_role_that_may_not_be_looked_at_is_a_warning(lab: Lab) -> None:
    one = lab.instance()
    lab.sim.rule(service="iam", operation="GetRole", code="AccessDenied", status=403)
    lab.chain.admit(instance=one, method="image", format="vmdk", mode="check")
    found = lab.chain.check()
    assert found.plan is not None
    assert [(each.code, str(each.severity)) for each in found.findings if each.code == "export.role"] == [
        ("export.role", "warning")
    ]


def test_mode_check_makes_nothing_and_tells_the_method(lab: Lab) -> None:
    two = lab.instance(2)
    lab.chain.admit(instance=two, mode="check")
    found = lab.chain.check()
    assert found.plan is not None
    assert (found.plan.method, found.refused) == ("direct", False)
    assert lab.nothing_left()
    made = lab.chain.report(checked=found)
    assert (made.mode, made.method, made.succeeded, made.export) == ("check", "direct", True, "")


def test_a_check_that_refuses_says_every_reason_and_makes_nothing(lab: Lab) -> None:
    two = lab.instance(2)
    lab.chain.admit(instance=two, method="image", format="vmdk")
    found = lab.chain.check()
    assert found.refused
    assert lab.chain.known().findings
    made = lab.chain.end(words="check: refused")
    assert (made.state, made.findings) == ("failed", found.findings)
    lab.chain.admit("r2", instance=two, method="image", format="vmdk", mode="check")
    told = lab.chain.report("r2", checked=lab.chain.check("r2"))
    assert not told.succeeded
    assert "disk" in told.error


# One task, whatever happens


def begun(lab: Lab, **conf: Any) -> str:
    """Up to the slot; the instance."""
    one = lab.instance(conf.pop("disks", 1))
    lab.chain.admit(instance=one, **{"may_reboot": True, **conf})
    assert not lab.chain.check().refused
    assert lab.chain.reserve() is None
    return one


def finished(lab: Lab, run: str = "r1") -> ExportReport:
    order = lab.chain.begun(run)
    written = lab.chain.read_disks(order, run)
    lab.chain.record(written, lab.chain.verify(order, written, run), run)
    return lab.chain.end(run)


def test_vie_04_an_answer_that_was_lost_makes_no_second_task(lab: Lab) -> None:
    begun(lab)
    lab.sim.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0, count=1)
    with pytest.raises(WaveliftError):
        lab.chain.begun()
    assert lab.chain.known().task_id == ""
    assert finished(lab).state == "completed"
    assert len(lab.tasks()) == 1


def test_a_lost_answer_of_export_image_makes_no_second_task(lab: Lab) -> None:
    begun(lab, method="image", format="vmdk")
    lab.sim.rule(service="ec2", operation="ExportImage", cut_response_after=0, count=1)
    assert finished(lab).state == "completed"  # its client token makes it safe to ask at once again
    shown = lab.sim.client("ec2").describe_export_image_tasks()["ExportImageTasks"]
    tag = {"Key": TAG_RUN, "Value": run_hash(lab.chain.known().run_key)}
    assert len([one for one in shown if tag in one.get("Tags", ())]) == 1


def test_a_lost_answer_of_create_snapshots_makes_no_second_set(lab: Lab) -> None:
    begun(lab, disks=2)
    lab.sim.rule(service="ec2", operation="CreateSnapshots", cut_response_after=0, count=1)
    with pytest.raises(WaveliftError):
        lab.chain.begun()
    order = lab.chain.begun()
    assert len(lab.made()["snapshots"]) == len(order.disks) == 2
    assert finished(lab).state == "completed"


def test_an_image_that_ec2_does_not_show_at_once_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(lab, method="image", format="vmdk")
    shown, looks = Ec2.images, iter([False, False])
    monkeypatch.setattr(Ec2, "images", lambda self, ids: shown(self, ids) if next(looks, True) else {})
    assert [type(lab.chain.begin()) for _ in range(2)] == [ForAWhile, ForAWhile]
    assert finished(lab).state == "completed"


def test_an_image_that_somebody_deregistered_fails_the_export(lab: Lab) -> None:
    begun(lab, method="image", format="vmdk")
    waits = lab.chain.begin()
    assert isinstance(waits, ForImage)
    Ec2(lab.access).deregister(waits.image_id, delete_snapshots=False)
    with pytest.raises(NotFoundError, match="is gone"):
        lab.chain.begun(until=lambda found: not isinstance(found, ForAWhile))
    assert lab.chain.end(words="begin: the image is gone").state == "failed"
    assert lab.nothing_left()


def test_a_volume_that_is_attached_before_the_image_is_made_is_not_exported_with_it(lab: Lab) -> None:
    """What ExportImage does with several disks, no page says."""
    one = begun(lab, method="image", format="vmdk")
    lab.sim.rule(service="ec2", operation="CreateImage", code="RequestLimitExceeded", status=503, count=9)
    with pytest.raises(WaveliftError):  # bucket and instance were looked at for the last time
        lab.chain.begin()
    lab.sim.clear_rules()
    with attached_later(lab, one), pytest.raises(PermanentError, match="was attached"):
        lab.chain.begun()
    assert lab.chain.known().task_id == ""
    assert lab.chain.end(words="begin: refused").state == "failed"
    assert lab.nothing_left()


def test_vie_04_a_refusal_after_a_lost_answer_is_no_proof_that_nothing_was_begun(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS shows the task of the first call late, and refuses the second one because of it."""
    lab.hold("converting", begun(lab))
    lab.sim.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0, count=1)
    with pytest.raises(WaveliftError):
        lab.chain.begin()
    late = lab.chain.clock.now() + timedelta(seconds=30)
    find = InstanceExports.find
    monkeypatch.setattr(
        InstanceExports, "find", lambda self, **asked: find(self, **asked) if lab.chain.clock.now() >= late else []
    )
    with pytest.raises(BusyError):
        lab.chain.begin()
    made = lab.chain.end(words="begin: it is being exported")
    assert made.state == "failed"
    assert any(line.startswith("task export-i-") for line in made.removed)
    assert lab.nothing_left()


def test_somebody_else_s_task_of_the_instance_is_not_taken_for_ours(lab: Lab) -> None:
    one = begun(lab)
    rule = lab.hold("converting", one)
    place = {"S3Bucket": lab.bucket, "S3Prefix": "out/", "ContainerFormat": "ova", "DiskImageFormat": "VMDK"}
    other = lab.sim.client("ec2").create_instance_export_task(
        InstanceId=one, TargetEnvironment="vmware", ExportToS3Task=place
    )["ExportTask"]["ExportTaskId"]
    with pytest.raises(BusyError, match=other):
        lab.chain.begun()
    made = lab.chain.end(words="begin: it is being exported")
    assert made.state == "failed"
    lab.sim.clear_rules(rule)
    assert eventually(lambda: lab.objects() == [f"out/{other}.ova"])  # it was left alone


def test_vie_04_six_at_once_and_five_run(lab: Lab) -> None:
    runs = [f"r{number}" for number in range(6)]
    instances = {run: lab.instance() for run in runs}
    rules = [lab.hold("converting", one) for one in instances.values()]
    for run, one in instances.items():
        lab.chain.admit(run, instance=one, may_reboot=True)
        lab.chain.check(run)
    won = [run for run in runs if lab.chain.reserve(run) is None]
    assert won == runs[:5]
    for run in won:
        lab.chain.begun(run, until=lambda found: isinstance(found, ForTask))
    assert len(lab.state()["export_tasks"]) == 5
    assert lab.chain.reserve("r5") is not None
    for rule in rules:
        lab.sim.clear_rules(rule)
    assert finished(lab, "r0").state == "completed"
    assert lab.chain.reserve("r5") is None
    for run in runs[1:]:
        assert finished(lab, run).state == "completed"


def test_vie_04_a_region_that_others_fill_is_waited_for(lab: Lab) -> None:
    others = [lab.instance() for _ in range(5)]
    rules = [lab.hold("converting", one) for one in others]
    ec2 = lab.sim.client("ec2")
    for one in others:
        place = {"S3Bucket": lab.bucket, "S3Prefix": "theirs/", "DiskImageFormat": "VMDK"}
        ec2.create_instance_export_task(InstanceId=one, TargetEnvironment="vmware", ExportToS3Task=place)
    begun(lab)
    waits = lab.chain.begin()
    assert isinstance(waits, ForPlace)
    assert "5 export tasks are active" in waits.words
    assert lab.chain.known().phase == f"waits: {waits.words}"
    assert lab.chain.known().state is ExportState.QUEUED, "nothing was begun"
    for rule in rules:
        lab.sim.clear_rules(rule)
    assert eventually(lambda: not isinstance(lab.chain.begin(), ForPlace))
    assert finished(lab).state == "completed"


def test_vie_04_aws_s_own_limit_means_wait(lab: Lab) -> None:
    begun(lab)
    lab.sim.rule(service="ec2", operation="CreateInstanceExportTask", status=400, code="ResourceLimitExceeded", count=1)
    waits = lab.chain.begin()
    assert isinstance(waits, ForPlace)
    assert waits.below == 0, "no export is active: nothing tells when there is a place, so it is not asked all the time"
    assert lab.chain.known().state is ExportState.ACTIVE
    assert lab.chain.known().phase == f"waits: {waits.words}"
    assert finished(lab).state == "completed"


# What changes between the check and the first write


def test_vie_02_grants_that_were_taken_away_after_the_check_are_seen_before_anything_is_made(lab: Lab) -> None:
    begun(lab, method="instance")
    lab.sim.client("s3").put_bucket_acl(Bucket=lab.bucket, ACL="private")
    with pytest.raises(PermanentError, match="does not grant"):
        lab.chain.begin()
    assert lab.nothing_left()
    assert lab.chain.end(words="begin: refused").state == "failed"


def test_what_is_found_at_the_beginning_is_what_the_export_tells(lab: Lab) -> None:
    """It was checked with the grants of the ACL, and begins with those of the policy."""
    begun(lab, method="instance")
    s3, who = lab.sim.client("s3"), {"CanonicalUser": export_account(lab.sim.region)}
    allow = {"Effect": "Allow", "Principal": who, "Action": "s3:*"}
    allow["Resource"] = [f"arn:aws:s3:::{lab.bucket}", f"arn:aws:s3:::{lab.bucket}/*"]
    s3.put_bucket_policy(Bucket=lab.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [allow]}))
    s3.put_bucket_acl(Bucket=lab.bucket, ACL="private")
    made = finished(lab)
    assert made.state == "completed"
    assert "bucket.policy" in {each.code for each in made.findings}


def test_an_instance_that_was_terminated_after_the_check_is_seen(lab: Lab) -> None:
    one = begun(lab)
    Ec2(lab.access).terminate([one])
    with pytest.raises(PermanentError):
        lab.chain.begin()
    assert lab.nothing_left()
    lab.chain.end(words="begin: gone")


# Failures of AWS


def test_vie_05_a_task_that_fails_says_aws_s_words_and_nothing_is_left(lab: Lab) -> None:
    one = begun(lab)
    lab.sim.rule(kind="export", phase="converting", key=one, message="ClientError: Unsupported kernel", count=1)
    with pytest.raises(RemoteJobError, match="Unsupported kernel"):
        lab.chain.begun()
    made = lab.chain.end(words="begin: Unsupported kernel")
    assert (made.state, made.error) == ("failed", "begin: Unsupported kernel")
    assert lab.nothing_left()


def test_vie_05_a_task_that_somebody_cancelled_in_the_console_is_a_failure(lab: Lab) -> None:
    one = begun(lab)
    rule = lab.hold("converting", one)
    lab.chain.begun(until=lambda found: isinstance(found, ForTask))
    lab.sim.client("ec2").cancel_export_task(ExportTaskId=lab.chain.known().task_id)
    lab.sim.clear_rules(rule)
    with pytest.raises(RemoteJobError, match="cancel"):
        lab.chain.begun()
    assert lab.chain.end(words="begin: cancelled by somebody").state == "failed"
    assert lab.nothing_left()


def test_aws_s_internal_error_is_tried_again_with_another_task(lab: Lab) -> None:
    one = begun(lab)
    lab.sim.rule(kind="export", phase="converting", key=one, message="ServerError: internal failure", count=1)
    with pytest.raises(WaveliftError) as failed:
        lab.chain.begun()
    assert failed.value.retryable
    assert finished(lab).state == "completed"
    assert len(lab.tasks()) == 2


def test_a_snapshot_that_somebody_deleted_fails_the_export(lab: Lab) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    Ec2(lab.access).delete_snapshot(order.disks[1].snapshot_id)
    with pytest.raises(NotFoundError, match="gone"):
        lab.chain.begin()
    assert lab.chain.end(words="read: a snapshot is gone").state == "failed"
    assert lab.nothing_left()


def test_an_instance_that_is_terminated_after_its_snapshots_is_exported(lab: Lab) -> None:
    two = begun(lab, disks=2)
    order = lab.chain.begun()
    Ec2(lab.access).terminate([two])
    assert isinstance(lab.chain.begin(), ExportOrder), "the task was cleared"
    written = lab.chain.read_disks(order)
    lab.chain.record(written, lab.chain.verify(order, written))
    assert lab.chain.end().state == "completed"


# Cancelled, in every phase


def test_vie_06_cancelled_while_it_waits_for_its_slot(lab: Lab) -> None:
    begun(lab)
    lab.chain.cancel()
    with pytest.raises(PermanentError, match="cancelled on request"):
        lab.chain.begin()
    made = lab.chain.end()
    assert (made.state, made.error) == ("cancelled", "cancelled on request")
    assert lab.nothing_left()


@pytest.mark.parametrize("phase", ["pending", "converting", "uploading"])
def test_vie_06_cancelled_while_aws_exports_the_instance(lab: Lab, phase: str) -> None:
    one = begun(lab)
    lab.hold(phase, one)
    lab.chain.begun(until=lambda found: isinstance(found, ForTask) and _stands(lab))
    lab.chain.cancel()
    made = lab.chain.end(words="begin: it was stopped")
    assert (made.state, made.error) == ("cancelled", "cancelled on request")
    assert any(line.startswith("task export-i-") for line in made.removed)
    assert lab.nothing_left()


def _stands(lab: Lab) -> bool:
    return bool(lab.state()["export_tasks"])


def test_vie_06_cancelled_while_aws_writes_the_final_image_its_object_goes_when_it_has_ended(lab: Lab) -> None:
    one = begun(lab)
    rule = lab.hold("finishing", one)
    lab.chain.begun(until=lambda found: isinstance(found, ForTask) and "finish" in lab.chain.known().phase)
    lab.chain.cancel()
    found = ending.remove(
        lab.chain.ledger, lab.access, lab.chain.known(), lab.chain.ctx(), words="", fence=lambda: None
    )
    assert isinstance(found, ForTask)
    assert "final image" in found.words
    lab.sim.clear_rules(rule)
    assert lab.chain.end().state == "cancelled"
    assert lab.nothing_left()


def test_vie_06_cancelled_while_aws_makes_the_image(lab: Lab) -> None:
    begun(lab, method="image", format="vmdk")
    assert isinstance(lab.chain.begin(), ForImage)
    lab.chain.cancel()
    made = lab.chain.end()
    assert made.state == "cancelled"
    assert any(line.startswith("image ami-") for line in made.removed)
    assert lab.nothing_left()


def test_vie_06_cancelled_while_aws_exports_the_image(lab: Lab) -> None:
    begun(lab, method="image", format="vmdk")
    waits = lab.chain.begin()
    assert isinstance(waits, ForImage)
    rule = lab.hold("converting", waits.image_id)
    lab.chain.begun(until=lambda found: isinstance(found, ForTask))
    lab.chain.cancel()
    lab.sim.clear_rules(rule)
    made = lab.chain.end()
    assert made.state == "cancelled"
    assert lab.nothing_left()


def test_vie_06_cancelled_after_the_snapshots_and_while_they_are_read(lab: Lab) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    lab.sim.client("s3").create_multipart_upload(Bucket=lab.bucket, Key=order.key)  # the reader has begun
    lab.chain.cancel()
    made = lab.chain.end(words="read: it was stopped")
    assert made.state == "cancelled"
    assert "upload" in made.removed
    assert lab.nothing_left()


def test_vie_06_cancelled_after_the_ova_was_written_and_before_it_is_recorded(lab: Lab) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    written = lab.chain.read_disks(order)
    verified = lab.chain.verify(order, written)
    lab.chain.cancel()
    with pytest.raises(PermanentError, match="cancelled on request"):
        lab.chain.record(written, verified)
    assert lab.chain.end().state == "cancelled"
    assert lab.nothing_left()


@pytest.mark.parametrize("looked", [True, False])
def test_vie_06_the_object_of_a_task_that_aws_forgot_goes_too(lab: Lab, looked: bool) -> None:
    """Its run failed, or was dead for days."""
    begun(lab)
    lab.chain.begun(until=lambda found: isinstance(found, ForTask))
    assert eventually(lambda: lab.objects() != [])
    assert eventually(lambda: lab.state()["export_tasks"] == [])
    if looked:
        assert isinstance(lab.chain.begin(), ExportOrder)
    lab.sim.advance(lab.sim.settings()["export_memory_seconds"] + 1)
    assert lab.tasks() == []
    assert lab.chain.end(words="verify: it does not open").state == "failed"
    assert lab.nothing_left()


def test_vie_06_once_aws_has_written_the_object_it_is_too_late(lab: Lab) -> None:
    begun(lab)
    order = lab.chain.begun()
    with pytest.raises(TooLateError, match="too late: the final image is being written"):
        lab.chain.cancel()
    lab.chain.record(None, lab.chain.verify(order, None))
    with pytest.raises(TooLateError):
        lab.chain.cancel()
    assert lab.chain.end().state == "completed"


# Killed


def killed_after_intent(lab: Lab) -> None:
    lab.sim.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0, count=1)
    with pytest.raises(WaveliftError):
        lab.chain.begun()


def killed_while_aws_works(lab: Lab) -> None:
    lab.chain.begun(until=lambda found: isinstance(found, ForTask))


def killed_before_record(lab: Lab) -> None:
    order = lab.chain.begun()
    lab.chain.verify(order, None)


@pytest.mark.parametrize("kill", [killed_after_intent, killed_while_aws_works, killed_before_record])
def test_vie_06_of_a_run_that_was_killed_without_a_teardown_the_upkeep_leaves_nothing(
    lab: Lab, kill: Callable[[Lab], None]
) -> None:
    begun(lab)
    kill(lab)
    assert lab.chain.upkeep() == (), "it lives"
    lab.chain.alive.discard("r1")

    assert eventually(lambda: _upkept(lab, "r1"))
    assert (lab.chain.known().state, lab.chain.known().error) == (
        ExportState.FAILED,
        "Its DAG run ended without its last tasks",
    )
    assert lab.nothing_left()


class Killed(Exception):
    pass


@pytest.mark.parametrize("method", ["instance", "image", "direct"])
def test_vie_06_killed_before_any_of_its_writes_nothing_is_left(
    lab: Lab, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worst moment: AWS has done it, and the ledger does not know it yet."""
    one, real, left = lab.instance(2 if method == "direct" else 1), Work.write, 0

    def write(self: Work, moment: str, **columns: Any) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed(moment)
        real(self, moment, **columns)

    monkeypatch.setattr(Work, "write", write)
    more = {"format": "vmdk"} if method == "image" else {}
    for nth in range(20):
        left, run, killed = nth, f"r{nth}", ""
        lab.chain.admit(run, instance=one, method=method, may_reboot=True, **more)
        lab.chain.check(run)
        assert lab.chain.reserve(run) is None
        try:
            lab.chain.begun(run)
        except Killed as at:
            killed = str(at)
        lab.chain.alive.discard(run)
        assert eventually(partial(_upkept, lab, run)), killed
        assert lab.nothing_left(), killed
        if not killed:
            break
    assert nth >= 2
    assert not killed


def _upkept(lab: Lab, run: str) -> bool:
    lab.chain.clock.sleep(10)
    lab.chain.upkeep()
    return lab.chain.known(run).state.terminal


@pytest.mark.parametrize("read", [False, True])
def test_vie_06_of_a_killed_direct_export_the_upkeep_leaves_nothing(lab: Lab, read: bool) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    if read:
        lab.chain.read_disks(order)
    lab.chain.alive.discard("r1")
    [line] = lab.chain.upkeep()
    assert "snapshot" in line
    assert lab.chain.known().state is ExportState.FAILED
    assert lab.nothing_left()
    assert lab.chain.upkeep() == ()


def test_what_a_killed_teardown_of_a_completed_export_left_is_removed_and_its_object_stays(lab: Lab) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    written = lab.chain.read_disks(order)
    lab.chain.record(written, lab.chain.verify(order, written))
    lab.chain.alive.discard("r1")
    assert len(lab.chain.upkeep()) == 1
    assert lab.chain.known().state is ExportState.COMPLETED
    assert lab.made()["snapshots"] == []
    assert order.key in lab.objects()
    assert lab.chain.upkeep() == ()


# Cleared


def test_a_run_that_failed_and_is_cleared_begins_anew_with_a_task_of_its_own(lab: Lab) -> None:
    one = begun(lab)
    lab.sim.rule(kind="export", phase="converting", key=one, message="ClientError: Unsupported kernel", count=1)
    with pytest.raises(RemoteJobError):
        lab.chain.begun()
    lab.chain.end(words="begin: Unsupported kernel")
    first = lab.tasks()
    made = lab.chain.whole(instance=one, may_reboot=True)
    assert made.state == "completed"
    assert len(lab.tasks()) == len(first) + 1
    assert lab.chain.known().made["attempt"] == 2  # type: ignore[index]


def test_a_cleared_direct_run_takes_new_snapshots(lab: Lab) -> None:
    two = begun(lab, disks=2)
    first = {disk.snapshot_id for disk in lab.chain.begun().disks}
    lab.chain.end(words="read: it failed")
    lab.chain.admit(instance=two, may_reboot=True)
    lab.chain.check()
    assert lab.chain.reserve() is None
    again = {disk.snapshot_id for disk in lab.chain.begun().disks}
    assert not first & again
    assert finished(lab).state == "completed"


def test_tasks_that_are_cleared_one_by_one_make_nothing_twice(lab: Lab) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    checked = lab.chain.check()
    assert checked.plan == order.plan
    assert lab.chain.begun() == order
    first_written = lab.chain.read_disks(order)
    written = lab.chain.read_disks(order)  # without the checkpoints of the one before: S3 may have another version
    assert written is not None
    assert first_written is not None
    assert written.object_bytes == first_written.object_bytes
    verified = lab.chain.verify(order, written)
    first = lab.chain.record(written, verified)
    assert lab.chain.record(written, verified).version == first.version
    removed = lab.chain.remove()
    assert lab.chain.remove() == removed
    with pytest.raises(PermanentError, match="is completed"):
        lab.chain.begin()


# Edited XComs


def test_an_object_that_is_not_the_export_s_is_not_recorded(lab: Lab) -> None:
    begun(lab)
    order = lab.chain.begun()
    verified = lab.chain.verify(order, None)
    for change in ({"key": "out/other.ova"}, {"bucket": "theirs"}, {"export": "exp-000000000000"}, {"level": "full"}):
        with pytest.raises(TamperedError):
            lab.chain.record(None, verified.model_copy(update=change))
    with pytest.raises(ProofError, match="changed after it was verified"):
        lab.chain.record(None, verified.model_copy(update={"object_bytes": 7}))
    assert lab.chain.known().state is ExportState.VERIFYING
    lab.chain.record(None, verified)
    assert lab.chain.end().state == "completed"


def test_a_direct_result_needs_what_read_wrote(lab: Lab) -> None:
    begun(lab, disks=2)
    order = lab.chain.begun()
    written = lab.chain.read_disks(order)
    assert written is not None
    verified = lab.chain.verify(order, written)
    foreign = written.disks[0].model_copy(update={"snapshot_id": "snap-00000000000000000"})
    for wrong in (None, written.model_copy(update={"disks": (foreign, *written.disks[1:])})):
        with pytest.raises(TamperedError):
            lab.chain.record(wrong, verified)
    lab.chain.record(written, verified)
    assert lab.chain.end().state == "completed"
