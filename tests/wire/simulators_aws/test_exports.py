"""Exports of instances and images: real files in S3, refusals, ends and cancels."""

from __future__ import annotations

import hashlib
import io
import json
import random
import subprocess
import tarfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError
from tests.eventually import eventually

from wavelift.simulators.aws import AwsSimulator, Bootstrap

pytestmark = pytest.mark.wire

EXPORTER = "c4d8eabf8db69dbe46bfe0e517100c554f01200b104d59cd408e777ba442a322"
MILAN = "04636d9a349e458b0c1cbf1421858b9788b4ec28b066148d4907bb15c52b5b9c"
BLOCK = 512 << 10
GIB = 1 << 30
BUCKET = "exports"
Refused = Callable[..., ClientError]


@dataclass
class Desk:
    """An account with an export bucket, and its calls."""

    sim: AwsSimulator
    ec2: Any
    s3: Any
    base: Bootstrap
    launch: Callable[..., str]
    refused: Refused
    images: list[str] = field(default_factory=list)

    def instance(self, **more: Any) -> str:
        return self.launch(**{"SubnetId": self.base.subnet_ids[0], **more})

    def volume(self, instance: str, device: str = "/dev/sda1") -> str:
        found = self.ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]
        rows = {row["DeviceName"]: row["Ebs"]["VolumeId"] for row in found["BlockDeviceMappings"]}
        return str(rows[device])

    def request(self, instance: str, *, target: str = "vmware", **place: str) -> dict[str, Any]:
        where = {"S3Bucket": BUCKET, "S3Prefix": "vms/", **(place or {"DiskImageFormat": "VMDK"})}
        return {"InstanceId": instance, "TargetEnvironment": target, "ExportToS3Task": where}

    def export(self, instance: str, **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.create_instance_export_task(**self.request(instance, **more))["ExportTask"]
        return found

    def task(self, task_id: str) -> dict[str, Any]:
        """Of both kinds, with ``State``."""
        if task_id.startswith("export-ami"):
            found = self.ec2.describe_export_image_tasks(ExportImageTaskIds=[task_id])["ExportImageTasks"][0]
            return {**found, "State": found["Status"]}
        shown: dict[str, Any] = self.ec2.describe_export_tasks(ExportTaskIds=[task_id])["ExportTasks"][0]
        return shown

    def finished(self, task_id: str) -> dict[str, Any]:
        assert eventually(lambda: self.task(task_id)["State"] in {"completed", "cancelled", "deleted"})
        return self.task(task_id)

    def image(self, instance: str) -> str:
        name = f"export-{uuid.uuid4().hex[:8]}"
        made: str = self.ec2.create_image(InstanceId=instance, Name=name, NoReboot=True)["ImageId"]
        self.images.append(made)
        self.sim.advance(1)
        return made

    def export_image(self, image: str, image_format: str = "VMDK", **more: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.ec2.export_image(**self.image_request(image, image_format, **more))
        return found

    def image_request(self, image: str, image_format: str = "VMDK", **more: Any) -> dict[str, Any]:
        place = {"S3Bucket": BUCKET, "S3Prefix": "images/"}
        return {"ImageId": image, "DiskImageFormat": image_format, "S3ExportLocation": place, **more}

    def hold_at(self, phase: str, source: str) -> int:
        """A rule that stops the source's tasks where the phase begins."""
        return self.sim.rule(kind="export", phase=phase, key=source, outcome="held")

    def reached(self, phase: str, task_id: str) -> bool:
        return eventually(lambda: self.task(task_id).get("StatusMessage") == phase)

    def read(self, key: str) -> bytes:
        data: bytes = self.s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return data

    def clear(self) -> None:
        for image in self.images:
            rows = self.ec2.describe_images(ImageIds=[image])["Images"]
            for row in rows:
                self.ec2.deregister_image(ImageId=image)
                for mapping in row["BlockDeviceMappings"]:
                    self.ec2.delete_snapshot(SnapshotId=mapping["Ebs"]["SnapshotId"])
        for row in self.s3.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            self.s3.delete_object(Bucket=BUCKET, Key=row["Key"])


@pytest.fixture
def desk(
    sim: AwsSimulator, ec2: Any, s3: Any, base: Bootstrap, launch: Callable[..., str], refused: Refused
) -> Iterator[Desk]:
    sim.export_bucket(BUCKET)
    made = Desk(sim, ec2, s3, base, launch, refused)
    yield made
    sim.clear_rules()
    assert eventually(lambda: sim.state()["export_tasks"] == [])
    made.clear()
    assert sim.state()["buckets"][BUCKET]["uploads"] == []
    s3.delete_bucket(Bucket=BUCKET)


def _content(tmp_path: Path, data: bytes, image_format: str) -> bytes:
    """The first bytes of the disk inside of an image file."""
    source, raw = tmp_path / "disk", tmp_path / "raw"
    source.write_bytes(data)
    info = json.loads(
        subprocess.run(
            ["qemu-img", "info", "--output=json", "-f", image_format, str(source)], capture_output=True, check=True
        ).stdout
    )
    assert info["virtual-size"] == 2 * GIB
    if image_format == "vmdk":  # qemu-img checks no VHD
        subprocess.run(["qemu-img", "check", "-q", "-f", image_format, str(source)], check=True)
    subprocess.run(["qemu-img", "convert", "-f", image_format, "-O", "raw", str(source), str(raw)], check=True)
    with raw.open("rb") as file:
        return file.read(4 * BLOCK)


EXPECTED = b"b" * BLOCK + bytes(2 * BLOCK) + b"written by the guest".ljust(BLOCK, b"\0")


@pytest.mark.parametrize(
    ("target", "place", "suffix", "kind"),
    [
        ("vmware", {"DiskImageFormat": "VMDK"}, "vmdk", "vmdk"),
        ("microsoft", {"DiskImageFormat": "VHD"}, "vhd", "vpc"),
        ("citrix", {}, "vhd", "vpc"),
    ],
)
def test_an_instance_is_exported_with_what_its_volume_holds(
    desk: Desk, tmp_path: Path, target: str, place: dict[str, str], suffix: str, kind: str
) -> None:
    one = desk.instance()
    desk.sim.write_at(desk.volume(one), 3 * BLOCK, b"written by the guest")
    tags = [{"Key": "wavelift:run", "Value": "r"}]
    place = place or {"S3Prefix": "vms/"}
    made = desk.ec2.create_instance_export_task(
        **desk.request(one, target=target, **place),
        Description="web",
        TagSpecifications=[{"ResourceType": "export-instance-task", "Tags": tags}],
    )["ExportTask"]
    key = f"vms/{made['ExportTaskId']}.{suffix}"
    assert (made["State"], made["Tags"], made["Description"]) == ("active", tags, "web")
    assert made["ExportToS3Task"] == {"DiskImageFormat": suffix, "S3Bucket": BUCKET, "S3Key": key}
    assert made["InstanceExportDetails"] == {"InstanceId": one, "TargetEnvironment": target}
    done = desk.finished(made["ExportTaskId"])
    assert (done["State"], done["Tags"]) == ("completed", tags)
    assert "StatusMessage" not in done
    data = desk.read(key)
    if kind == "vpc":
        assert data[-512:][:8] == b"conectix"
    assert _content(tmp_path, data, kind) == EXPECTED
    kept = next(row for row in desk.sim.evidence()["exports"] if row["task"] == made["ExportTaskId"])
    assert (kept["source"], kept["key"], kept["rebooted"]) == (one, key, True)
    assert desk.sim.state()["instance_states"][one]["reboots"] == 1


def test_an_ova_is_a_tar_file_of_descriptor_manifest_and_disk(desk: Desk, tmp_path: Path) -> None:
    desk.sim.settings(export_reboots=False)
    one = desk.instance()
    desk.sim.write_at(desk.volume(one), 3 * BLOCK, b"written by the guest")
    made = desk.export(one, ContainerFormat="ova", DiskImageFormat="VMDK")
    key = made["ExportToS3Task"]["S3Key"]
    assert key == f"vms/{made['ExportTaskId']}.ova"
    assert made["ExportToS3Task"]["ContainerFormat"] == "ova"
    assert desk.finished(made["ExportTaskId"])["State"] == "completed"
    data = desk.read(key)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        members = {item.name: archive.extractfile(item).read() for item in archive}  # type: ignore[union-attr]
    name = made["ExportTaskId"]
    assert list(members) == [f"{name}.ovf", f"{name}.mf", f"{name}-disk1.vmdk"]
    for each in (f"{name}.ovf", f"{name}-disk1.vmdk"):
        line = f"SHA256({each})= {hashlib.sha256(members[each]).hexdigest()}"
        assert line in members[f"{name}.mf"].decode()
    assert f'ovf:href="{name}-disk1.vmdk"' in members[f"{name}.ovf"].decode()
    assert _content(tmp_path, members[f"{name}-disk1.vmdk"], "vmdk") == EXPECTED
    path = tmp_path / "whole.ova"
    path.write_bytes(data)
    listed = subprocess.run(["tar", "-tf", str(path)], capture_output=True, check=True, text=True).stdout.split()
    assert listed == list(members)
    assert desk.sim.state()["instance_states"][one]["reboots"] == 0


def test_a_flip_hits_the_disk_inside_of_an_ova(desk: Desk, tmp_path: Path) -> None:
    one = desk.instance()
    desk.sim.write_at(desk.volume(one), 0, random.Random(1).randbytes(BLOCK))
    desk.sim.rule(kind="flip", key=f"{BUCKET}/vms/*", count=1)
    made = desk.export(one, ContainerFormat="ova", DiskImageFormat="VMDK")
    assert desk.finished(made["ExportTaskId"])["State"] == "completed"
    data = desk.read(made["ExportToS3Task"]["S3Key"])
    flip = next(row for row in desk.sim.evidence()["flips"] if row["key"] == made["ExportToS3Task"]["S3Key"])
    assert data[flip["object_offset"]] == flip["after"]
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        disk = archive.getmember(f"{made['ExportTaskId']}-disk1.vmdk")
        assert disk.offset_data < flip["object_offset"] < disk.offset_data + disk.size
        path = tmp_path / "disk.vmdk"
        path.write_bytes(archive.extractfile(disk).read())  # type: ignore[union-attr]
    assert flip["disk_offset"] < BLOCK  # the only block with data
    command = ["qemu-img", "convert", "-f", "vmdk", "-O", "raw", str(path), str(tmp_path / "raw")]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode or (tmp_path / "raw").read_bytes()[:BLOCK] != random.Random(1).randbytes(BLOCK)


def test_botocore_s_own_waiters_end(desk: Desk) -> None:
    one = desk.instance()
    rule = desk.hold_at("converting", one)
    made = desk.export(one)["ExportTaskId"]
    short = {"WaiterConfig": {"Delay": 1, "MaxAttempts": 60}, "ExportTaskIds": [made]}
    desk.ec2.cancel_export_task(ExportTaskId=made)
    desk.ec2.get_waiter("export_task_cancelled").wait(**short)
    desk.sim.clear_rules(rule)
    short["ExportTaskIds"] = [desk.export(one)["ExportTaskId"]]
    desk.ec2.get_waiter("export_task_completed").wait(**short)


def test_the_target_and_the_format_must_fit(desk: Desk) -> None:
    one, call = desk.instance(), desk.ec2.create_instance_export_task
    for target, place in (
        ("vmware", {"DiskImageFormat": "VHD"}),
        ("vmware", {"DiskImageFormat": "RAW"}),
        ("microsoft", {"DiskImageFormat": "VMDK"}),
        ("citrix", {"DiskImageFormat": "VHD", "ContainerFormat": "ova"}),
        ("kvm", {"DiskImageFormat": "RAW"}),
    ):
        desk.refused("InvalidParameterValue", call, **desk.request(one, target=target, **place))
    desk.refused("InvalidInstanceID.NotFound", call, **desk.request("i-0123456789abcdef0"))
    tagged = [{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "b"}]}]
    desk.refused("InvalidParameterValue", call, **desk.request(one), TagSpecifications=tagged)
    desk.refused("InvalidParameterValue", call, **desk.request(one), Description="ü" * 3)
    long = {"DiskImageFormat": "VMDK", "S3Prefix": "p" * 1024}
    desk.refused("InvalidParameter", call, **desk.request(one, **long))
    desk.ec2.stop_instances(InstanceIds=[one])
    desk.refused("IncorrectInstanceState", call, **desk.request(one))
    desk.sim.advance(1)
    made = desk.export(one)["ExportTaskId"]  # stopped
    assert desk.finished(made)["State"] == "completed"
    assert desk.sim.state()["instance_states"][one]["reboots"] == 0


def test_what_the_user_guide_excludes_is_not_exportable(desk: Desk, ami: str) -> None:
    """All causes of the considerations, but a hybrid GRUB2: nobody outside of the guest can see it."""
    subnet = desk.base.subnet_ids[0]
    second = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    secret = {"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": True}}
    large = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1025}}
    store = {"DeviceName": "/dev/sdb", "VirtualName": "ephemeral0"}
    cards = [{"DeviceIndex": index, "SubnetId": subnet} for index in (0, 1)]
    call = desk.ec2.create_instance_export_task

    def refused(instance: str, why: str) -> None:
        error = desk.refused("NotExportable", call, **desk.request(instance))
        assert why in error.response["Error"]["Message"]

    refused(desk.instance(BlockDeviceMappings=[second]), "2 virtual disks")
    refused(desk.instance(BlockDeviceMappings=[secret]), "encrypted")
    refused(desk.instance(BlockDeviceMappings=[large]), "1 TiB")
    refused(desk.instance(BlockDeviceMappings=[store]), "instance store")
    refused(desk.instance(SubnetId=None, NetworkInterfaces=cards), "2 network interfaces")
    one = desk.instance()
    for operation, details in (
        ("RunInstances:0002", "Windows"),
        ("RunInstances:0006", "Windows with SQL Server Standard"),
        ("RunInstances:0004", "SQL Server Standard"),
        ("RunInstances:0010", "Red Hat Enterprise Linux"),
    ):
        desk.sim.amend(one, usage_operation=operation, platform_details=details)
        refused(one, "third-party software")
    desk.sim.amend(one, usage_operation="RunInstances:0800", platform_details="Windows BYOL", product_codes=["abc"])
    refused(one, "Marketplace")
    desk.sim.amend(one, product_codes=[], owner="210987654321")
    refused(one, "another account")
    desk.sim.amend(one, owner="123456789012")
    assert desk.finished(desk.export(one)["ExportTaskId"])["State"] == "completed"


def test_a_volume_that_was_attached_after_the_launch_is_left_out(desk: Desk, tmp_path: Path) -> None:
    one = desk.instance()
    desk.sim.write_at(desk.volume(one), 0, b"mapped")
    volume = desk.ec2.create_volume(AvailabilityZone=f"{desk.sim.region}a", Size=3)["VolumeId"]
    desk.ec2.attach_volume(VolumeId=volume, InstanceId=one, Device="/dev/xvdf")
    done = desk.finished(desk.export(one)["ExportTaskId"])
    assert done["State"] == "completed"
    assert _content(tmp_path, desk.read(done["ExportToS3Task"]["S3Key"]), "vmdk").startswith(b"mapped")
    desk.ec2.detach_volume(VolumeId=volume)
    desk.ec2.delete_volume(VolumeId=volume)


def test_an_instance_whose_image_is_gone_is_not_exportable(desk: Desk) -> None:
    image = desk.image(desk.instance())
    one = desk.instance(ImageId=image)
    row = desk.ec2.describe_images(ImageIds=[image])["Images"][0]
    desk.images.remove(image)
    desk.ec2.deregister_image(ImageId=image)
    desk.ec2.delete_snapshot(SnapshotId=row["BlockDeviceMappings"][0]["Ebs"]["SnapshotId"])
    desk.refused("NotExportable", desk.ec2.create_instance_export_task, **desk.request(one))
    made = desk.export_image(desk.image(one))  # the way out that the guide names
    assert desk.finished(made["ExportImageTaskId"])["State"] == "completed"


def test_the_bucket_must_let_vm_export_write(desk: Desk) -> None:
    one = desk.instance()

    def refused(code: str, bucket: str = BUCKET) -> None:
        place = {"DiskImageFormat": "VMDK", "S3Bucket": bucket}
        desk.refused(code, desk.ec2.create_instance_export_task, **desk.request(one, **place))

    refused("InvalidParameter", "no-such-bucket")
    refused("AuthFailure", "staging")  # it enforces its owner
    desk.sim.bucket_elsewhere("far-away", region="eu-west-1")
    refused("InvalidParameter", "far-away")
    desk.sim.drop_bucket("far-away")
    desk.sim.bucket_elsewhere("somebody-s", account="210987654321")
    refused("AuthFailure", "somebody-s")
    desk.sim.drop_bucket("somebody-s")
    acl = desk.s3.put_bucket_acl
    for grants in (
        {"GrantWrite": f"id={EXPORTER}"},
        {"GrantReadACP": f"id={EXPORTER}"},
        {"GrantWrite": f"id={MILAN}", "GrantReadACP": f"id={MILAN}"},  # of another region
    ):
        acl(Bucket=BUCKET, **grants)
        refused("AuthFailure")
    acl(Bucket=BUCKET, GrantFullControl=f"id={EXPORTER}")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms"}}
    encryption = {"Bucket": BUCKET, "ServerSideEncryptionConfiguration": {"Rules": [rule]}}
    desk.s3.put_bucket_encryption(**encryption)
    refused("InvalidParameter")
    rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] = "AES256"
    desk.s3.put_bucket_encryption(**encryption)
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/vms/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    desk.s3.put_bucket_policy(Bucket=BUCKET, Policy=policy)
    refused("AccessDenied")
    desk.s3.delete_bucket_policy(Bucket=BUCKET)
    assert desk.finished(desk.export(one)["ExportTaskId"])["State"] == "completed"


def _policy(*statements: dict[str, Any], **changes: Any) -> str:
    """As the user guide prepares a bucket."""
    allow = {"Effect": "Allow", "Principal": {"CanonicalUser": EXPORTER}, **changes}
    whole = [
        {**allow, "Action": "s3:GetBucketAcl", "Resource": f"arn:aws:s3:::{BUCKET}"},
        {**allow, "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/*"},
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": [*statements, *whole]})


def test_a_bucket_policy_may_grant_in_place_of_the_acl(desk: Desk) -> None:
    one, call = desk.instance(), desk.ec2.create_instance_export_task
    desk.s3.put_bucket_acl(Bucket=BUCKET, ACL="private")
    for policy in (
        _policy(Principal={"CanonicalUser": MILAN}),
        _policy(Condition={"StringEquals": {"aws:SourceAccount": "210987654321"}}),
        _policy().replace("s3:PutObject", "s3:GetObject"),
        _policy().replace("s3:GetBucketAcl", "s3:GetBucketLocation"),
        _policy().replace(f"{BUCKET}/*", f"{BUCKET}/other/*"),
    ):
        desk.s3.put_bucket_policy(Bucket=BUCKET, Policy=policy)
        desk.refused("AuthFailure", call, **desk.request(one))
    unknown = _policy(Principal={"CanonicalUser": "0" * 64})
    desk.refused("MalformedPolicy", desk.s3.put_bucket_policy, Bucket=BUCKET, Policy=unknown)
    deny = {"Effect": "Deny", "Principal": {"CanonicalUser": EXPORTER}, "Action": "s3:*"}
    deny["Resource"] = f"arn:aws:s3:::{BUCKET}/*"
    desk.s3.put_bucket_policy(Bucket=BUCKET, Policy=_policy(deny))
    desk.refused("AccessDenied", call, **desk.request(one))
    desk.s3.put_bucket_policy(Bucket=BUCKET, Policy=_policy())
    assert desk.finished(desk.export(one)["ExportTaskId"])["State"] == "completed"
    rule = desk.hold_at("uploading", one)
    made = desk.export(one)["ExportTaskId"]
    assert desk.reached("uploading", made)
    desk.s3.delete_bucket_policy(Bucket=BUCKET)
    desk.sim.clear_rules(rule)
    assert "must have WRITE" in desk.finished(made)["StatusMessage"]
    desk.s3.put_bucket_policy(Bucket=BUCKET, Policy=_policy())
    enforced = {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    desk.s3.put_bucket_ownership_controls(Bucket=BUCKET, OwnershipControls=enforced)
    desk.refused("AuthFailure", call, **desk.request(one))


@pytest.mark.parametrize("phase", ["converting", "uploading", "finishing"])
def test_grants_that_are_taken_away_after_the_check_fail_the_task(desk: Desk, phase: str) -> None:
    one = desk.instance()
    rule = desk.hold_at(phase, one)
    made = desk.export(one)["ExportTaskId"]
    assert desk.reached(phase, made)
    desk.s3.put_bucket_acl(Bucket=BUCKET, ACL="private")
    desk.sim.clear_rules(rule)
    failed = desk.finished(made)
    assert failed["State"] == "cancelled"
    assert "must have WRITE" in failed["StatusMessage"]
    assert desk.sim.state()["buckets"][BUCKET]["objects"] == []


def test_a_failed_task_says_why_and_leaves_nothing(desk: Desk) -> None:
    one = desk.instance()
    words = "ClientError: Unsupported boot configuration detected: hybrid GRUB2"
    desk.sim.rule(kind="export", phase="converting", key=one, message=words, count=1)
    failed = desk.finished(desk.export(one)["ExportTaskId"])
    assert (failed["State"], failed["StatusMessage"]) == ("cancelled", words)
    image = desk.image(one)
    desk.sim.rule(kind="export", phase="uploading", key=image, message=words, count=1)
    failed = desk.finished(desk.export_image(image)["ExportImageTaskId"])
    assert (failed["Status"], failed["StatusMessage"]) == ("deleted", words)
    assert desk.sim.state()["buckets"][BUCKET]["objects"] == []


@pytest.mark.parametrize("phase", ["pending", "preparing", "converting", "uploading"])
def test_a_cancel_removes_what_there_is(desk: Desk, phase: str) -> None:
    one = desk.instance()
    desk.hold_at(phase, one)
    made = desk.export(one)["ExportTaskId"]
    assert desk.reached(phase, made)
    desk.ec2.cancel_export_task(ExportTaskId=made)
    assert desk.finished(made)["State"] == "cancelled"
    bucket = desk.sim.state()["buckets"][BUCKET]
    assert (bucket["objects"], bucket["uploads"]) == ([], [])
    desk.refused("IncorrectState", desk.ec2.cancel_export_task, ExportTaskId=made)


def test_in_its_final_stage_a_task_cannot_be_cancelled(desk: Desk) -> None:
    one = desk.instance()
    rule = desk.hold_at("finishing", one)
    made = desk.export(one)["ExportTaskId"]
    assert desk.reached("finishing", made)
    assert [row["parts"] for row in desk.sim.state()["buckets"][BUCKET]["uploads"]] == [1]
    error = desk.refused("IncorrectState", desk.ec2.cancel_export_task, ExportTaskId=made)
    assert "final stage" in str(error)
    desk.sim.clear_rules(rule)
    assert desk.finished(made)["State"] == "completed"
    desk.refused("IncorrectState", desk.ec2.cancel_export_task, ExportTaskId=made)
    unknown = "export-i-0123456789abcdef0"
    desk.refused("InvalidExportTaskID.NotFound", desk.ec2.cancel_export_task, ExportTaskId=unknown)
    desk.refused("InvalidExportTaskID.NotFound", desk.ec2.describe_export_tasks, ExportTaskIds=[unknown])


def test_an_answer_may_be_lost_and_the_instance_is_exported_once(desk: Desk) -> None:
    one = desk.instance()
    rule = desk.hold_at("converting", one)
    lost = desk.sim.rule(service="ec2", operation="CreateInstanceExportTask", cut_response_after=0, count=1)
    tags = [{"ResourceType": "export-instance-task", "Tags": [{"Key": "wavelift:run", "Value": "r-1"}]}]
    with pytest.raises(ConnectionClosedError):
        desk.ec2.create_instance_export_task(**desk.request(one), TagSpecifications=tags)
    rows = desk.ec2.describe_export_tasks()["ExportTasks"]
    mine = [row for row in rows if row["InstanceExportDetails"].get("InstanceId") == one]
    assert [row["Tags"] for row in mine] == [tags[0]["Tags"]]
    call = desk.ec2.create_instance_export_task
    assert "already being exported" in str(desk.refused("IncorrectState", call, **desk.request(one)))
    desk.sim.settings(other_words=True)
    desk.refused("ExportTaskInProgress", call, **desk.request(one))
    desk.sim.settings(other_words=False)
    for each in (lost, rule):
        desk.sim.clear_rules(each)
    assert desk.finished(mine[0]["ExportTaskId"])["State"] == "completed"


def test_there_is_one_limit_for_both_kinds(desk: Desk) -> None:
    desk.sim.settings(export_limit=2)
    first, second, third = (desk.instance() for _ in range(3))
    image = desk.image(third)
    for source in (first, second, image):
        desk.hold_at("pending", source)
    one = desk.export(first)["ExportTaskId"]
    two = desk.export_image(image)["ExportImageTaskId"]
    desk.refused("ResourceCountLimitExceeded", desk.ec2.create_instance_export_task, **desk.request(second))
    desk.ec2.cancel_export_task(ExportTaskId=one)
    assert desk.finished(one)["State"] == "cancelled"
    three = desk.export(second)["ExportTaskId"]
    desk.refused("ResourceCountLimitExceeded", desk.ec2.create_instance_export_task, **desk.request(first))
    for task in (two, three):
        desk.ec2.cancel_export_task(ExportTaskId=task)
        assert desk.finished(task)["State"] in {"cancelled", "deleted"}


def test_tasks_are_described_without_paging_and_forgotten(desk: Desk) -> None:
    one, other = desk.instance(), desk.instance()
    tags = [{"ResourceType": "export-instance-task", "Tags": [{"Key": "a", "Value": "b"}]}]
    first = desk.ec2.create_instance_export_task(**desk.request(one), TagSpecifications=tags)["ExportTask"]
    second = desk.export(other)
    names = {first["ExportTaskId"], second["ExportTaskId"]}
    for task in names:
        desk.finished(task)
    wanted = [{"Name": "tag:a", "Values": ["b"]}]
    found = desk.ec2.describe_export_tasks(Filters=wanted)["ExportTasks"]
    assert names <= {row["ExportTaskId"] for row in found}  # no filter is promised
    desk.sim.settings(export_filters="refused")
    desk.refused("InvalidParameterValue", desk.ec2.describe_export_tasks, Filters=wanted)
    desk.sim.settings(unseen_seconds=60)
    third = desk.export(one)["ExportTaskId"]
    assert third not in {row["ExportTaskId"] for row in desk.ec2.describe_export_tasks()["ExportTasks"]}
    desk.refused("InvalidExportTaskID.NotFound", desk.ec2.describe_export_tasks, ExportTaskIds=[third])
    desk.sim.advance(61)
    assert desk.finished(third)["State"] == "completed"
    desk.sim.advance(7 * 24 * 3600)
    assert desk.ec2.describe_export_tasks()["ExportTasks"] == []


@pytest.mark.parametrize(("image_format", "kind"), [("VMDK", "vmdk"), ("VHD", "vpc"), ("RAW", "raw")])
def test_an_image_is_exported_with_what_its_snapshot_holds(
    desk: Desk, tmp_path: Path, image_format: str, kind: str
) -> None:
    one = desk.instance()
    desk.sim.write_at(desk.volume(one), 3 * BLOCK, b"written by the guest")
    image = desk.image(one)
    desk.sim.write_at(desk.volume(one), 0, b"later")
    tags = [{"Key": "wavelift:run", "Value": "r"}]
    token = uuid.uuid4().hex
    told = {"ClientToken": token, "TagSpecifications": [{"ResourceType": "export-image-task", "Tags": tags}]}
    made = desk.export_image(image, image_format, Description="web", **told)
    assert (
        desk.export_image(image, image_format, Description="web", **told)["ExportImageTaskId"]
        == (made["ExportImageTaskId"])
    )
    other = {"RAW": "VHD"}.get(image_format, "RAW")
    desk.refused("IdempotentParameterMismatch", desk.ec2.export_image, **desk.image_request(image, other, **told))
    assert (made["Status"], made["ImageId"], made["RoleName"], made["Tags"]) == ("active", image, "vmimport", tags)
    assert made["S3ExportLocation"] == {"S3Bucket": BUCKET, "S3Prefix": "images/"}
    done = desk.finished(made["ExportImageTaskId"])
    assert (done["Status"], done["Tags"]) == ("completed", tags)
    assert "Progress" not in done
    key = f"images/{made['ExportImageTaskId']}.{image_format.lower()}"
    if image_format == "RAW":
        assert desk.s3.head_object(Bucket=BUCKET, Key=key)["ContentLength"] == 2 * GIB
        first = desk.s3.get_object(Bucket=BUCKET, Key=key, Range=f"bytes=0-{4 * BLOCK - 1}")["Body"].read()
        assert first == EXPECTED
    else:
        assert _content(tmp_path, desk.read(key), kind) == EXPECTED
    assert desk.sim.state()["instance_states"][one]["reboots"] == 0


def test_what_images_are_not_exportable(desk: Desk, ami: str) -> None:
    call = desk.ec2.export_image
    second = {"DeviceName": "/dev/xvdb", "Ebs": {"VolumeSize": 1, "DeleteOnTermination": True}}
    large = {"DeviceName": "/dev/sda1", "Ebs": {"VolumeSize": 1025}}
    secret = {"DeviceName": "/dev/sda1", "Ebs": {"Encrypted": True}}
    for mapping, why in ((second, "2 virtual disks"), (large, "1 TiB"), (secret, "encrypted")):
        image = desk.image(desk.instance(BlockDeviceMappings=[mapping]))
        error = desk.refused("NotExportable", call, **desk.image_request(image))
        assert why in str(error)
    one = desk.image(desk.instance())
    for fields, back in (
        ({"usage_operation": "RunInstances:0002"}, {"usage_operation": "RunInstances"}),
        ({"product_codes": ["abc"]}, {"product_codes": []}),
        ({"owner": "210987654321"}, {"owner": "123456789012"}),
    ):
        desk.sim.amend(one, **fields)
        desk.refused("NotExportable", call, **desk.image_request(one))
        desk.sim.amend(one, **back)
    desk.refused("InvalidAMIID.NotFound", call, **desk.image_request("ami-0123456789abcdef0"))
    desk.refused("InvalidParameterValue", call, **desk.image_request(one, "QCOW2"))
    desk.hold_at("pending", one)
    made = desk.export_image(one)["ExportImageTaskId"]
    desk.refused("IncorrectState", call, **desk.image_request(one, ClientToken="another"))
    desk.ec2.cancel_export_task(ExportTaskId=made)
    assert desk.finished(made)["Status"] == "deleted"


def test_an_image_is_exported_by_the_service_role_and_needs_no_acl(desk: Desk) -> None:
    one, iam = desk.image(desk.instance()), desk.sim.client("iam")
    desk.s3.put_bucket_acl(Bucket=BUCKET, ACL="private")
    request = desk.image_request(one)
    desk.refused("InvalidParameter", desk.ec2.export_image, **request, RoleName="no-such-role")
    desk.refused("DryRunOperation", desk.ec2.export_image, **request, DryRun=True)
    role = {"RoleName": "vmimport", "PolicyName": f"vmimport-{BUCKET}"}
    document = iam.get_role_policy(**role)["PolicyDocument"]
    rule = desk.hold_at("uploading", one)
    made = desk.export_image(one)["ExportImageTaskId"]
    assert desk.reached("uploading", made)
    iam.delete_role_policy(**role)
    desk.sim.clear_rules(rule)
    failed = desk.finished(made)
    assert (failed["Status"], "sufficient permissions" in failed["StatusMessage"]) == ("deleted", True)
    desk.refused("InvalidParameter", desk.ec2.export_image, **request)
    iam.put_role_policy(**role, PolicyDocument=json.dumps(document))
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{BUCKET}/*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [deny]})
    desk.s3.put_bucket_policy(Bucket=BUCKET, Policy=policy)
    desk.refused("AccessDenied", desk.ec2.export_image, **request)
    desk.s3.delete_bucket_policy(Bucket=BUCKET)
    assert desk.finished(desk.export_image(one)["ExportImageTaskId"])["Status"] == "completed"


def test_image_tasks_come_in_pages(desk: Desk) -> None:
    one = desk.image(desk.instance())
    made = []
    for _ in range(3):
        made.append(desk.export_image(one)["ExportImageTaskId"])
        desk.finished(made[-1])
    pages = list(
        desk.ec2.get_paginator("describe_export_image_tasks").paginate(
            Filters=[{"Name": "task-state", "Values": ["completed"]}], PaginationConfig={"PageSize": 2}
        )
    )
    found = [row["ExportImageTaskId"] for page in pages for row in page["ExportImageTasks"]]
    assert set(made) <= set(found)
    assert len(found) == len(set(found))
    assert len(pages) > 1
    other = [{"Name": "tag:a", "Values": ["b"]}]
    desk.refused("InvalidParameterValue", desk.ec2.describe_export_image_tasks, Filters=other)
    assert made[0] not in {row["ExportTaskId"] for row in desk.ec2.describe_export_tasks()["ExportTasks"]}


def test_an_instance_that_goes_meanwhile_fails_its_task(desk: Desk) -> None:
    one = desk.instance()
    rule = desk.hold_at("preparing", one)
    made = desk.export(one)["ExportTaskId"]
    assert desk.reached("preparing", made)
    desk.ec2.terminate_instances(InstanceIds=[one])
    desk.sim.clear_rules(rule)
    assert "does not exist" in desk.finished(made)["StatusMessage"]


def test_other_words_are_said_of_what_is_not_documented(desk: Desk) -> None:
    desk.sim.settings(other_words=True)
    one = desk.instance()
    rule = desk.hold_at("preparing", one)
    made = desk.export(one)["ExportTaskId"]
    assert eventually(lambda: desk.task(made)["State"] == "snapshotting")
    assert "StatusMessage" not in desk.task(made)
    desk.sim.clear_rules(rule)
    assert desk.finished(made)["State"] == "completed"


def test_rights_on_exports(desk: Desk) -> None:
    one = desk.instance()
    where = f"arn:aws:ec2:{desk.sim.region}:123456789012"
    tagged = {"StringEquals": {"aws:RequestTag/wavelift:run": "r"}}
    ours = {"StringEquals": {"aws:ResourceTag/wavelift:run": "r"}}

    def allow(*actions: str, on: str | list[str] = "*", **more: Any) -> dict[str, Any]:
        return {"Effect": "Allow", "Action": list(actions), "Resource": on, **more}

    def client(*statements: dict[str, Any]) -> Any:
        session = desk.sim.hold(uuid.uuid4().hex, [{"Version": "2012-10-17", "Statement": list(statements)}])
        return session.client("ec2", endpoint_url=desk.sim.endpoint_url)

    tags = [{"ResourceType": "export-instance-task", "Tags": [{"Key": "wavelift:run", "Value": "r"}]}]
    request = {**desk.request(one), "TagSpecifications": tags}
    all_of = [
        allow("ec2:CreateInstanceExportTask", on=f"{where}:instance/*"),
        allow("ec2:CreateInstanceExportTask", on=f"{where}:export-instance-task/*", Condition=tagged),
        allow("ec2:CreateTags", on=f"{where}:export-instance-task/*"),
        allow("s3:GetBucketLocation", on=f"arn:aws:s3:::{BUCKET}"),
        allow("s3:PutObject", on=f"arn:aws:s3:::{BUCKET}/vms/*"),
    ]
    for number in range(len(all_of)):
        without = client(*(one for at, one in enumerate(all_of) if at != number))
        desk.refused("UnauthorizedOperation", without.create_instance_export_task, **request)
    desk.hold_at("converting", one)
    made = client(*all_of).create_instance_export_task(**request)["ExportTask"]["ExportTaskId"]
    desk.refused("UnauthorizedOperation", client(*all_of).describe_export_tasks)
    desk.refused("UnauthorizedOperation", client(*all_of).cancel_export_task, ExportTaskId=made)
    foreign = {"StringEquals": {"aws:ResourceTag/wavelift:run": "other"}}
    for condition, allowed in ((foreign, False), (ours, True)):
        canceller = client(allow("ec2:CancelExportTask", on=f"{where}:export-instance-task/*", Condition=condition))
        if allowed:
            canceller.cancel_export_task(ExportTaskId=made)
        else:
            desk.refused("UnauthorizedOperation", canceller.cancel_export_task, ExportTaskId=made)
    assert desk.finished(made)["State"] == "cancelled"
    desk.sim.let_go()
