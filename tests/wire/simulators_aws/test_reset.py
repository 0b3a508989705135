"""A reset leaves an account that cannot be told from that of a process just started: compared with one, and tried."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError
from tests.eventually import eventually

from wavelift.simulators.aws import AwsSimulator, Bootstrap, start

pytestmark = pytest.mark.wire

BLOCK = 512 << 10
ONE_TRY = Config(retries={"total_max_attempts": 1}, connect_timeout=60, read_timeout=60)
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "*"}]}
EMPTY_STATE: dict[str, Any] = {
    "buckets": {},
    "snapshots": [],
    "import_tasks": [],
    "export_tasks": [],
    "images": [],
    "instances": [],
    "instance_states": {},
    "launch_templates": {},
    "routes": {},
    "transit_gateway_routes": {},
    "volumes": [],
    "network_interfaces": [],
    "addresses": {},
    "elastic_ips": {},
    "dns_records": {},
    "targets": {},
}
Refused = Callable[..., ClientError]


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSimulator]:
    with start(tmp_path_factory.mktemp("used"), phase_seconds=0.01, instance_pending_seconds=0.0) as simulator:
        yield simulator


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSimulator]:
    """Nothing is ever made in it."""
    with start(tmp_path_factory.mktemp("fresh"), phase_seconds=0.01, instance_pending_seconds=0.0) as simulator:
        yield simulator


class Made:
    """One resource of every kind that this simulator makes, and what names them."""

    def __init__(self, sim: AwsSimulator, image: bytes) -> None:
        self.sim, self.base = sim, sim.bootstrap("staging")
        self.s3, self.ec2, self.ebs = (sim.client(name) for name in ("s3", "ec2", "ebs"))
        self.sts, self.iam, self.kms = (sim.client(name) for name in ("sts", "iam", "kms"))
        self._objects(image)
        self.pending = self.ebs.start_snapshot(VolumeSize=1, ClientToken="reset", Tags=[{"Key": "k", "Value": "v"}])[
            "SnapshotId"
        ]
        self.block_token, self.snapshot = self._snapshot()
        self.image = self.ec2.register_image(
            Name="reset",
            RootDeviceName="/dev/sda1",
            BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": self.snapshot}}],
        )["ImageId"]
        self.instance = self.ec2.run_instances(
            ImageId=self.image,
            InstanceType="t3.micro",
            MinCount=1,
            MaxCount=1,
            SubnetId=self.base.subnet_ids[0],
            ClientToken="reset",
        )["Instances"][0]["InstanceId"]
        self.exported = self._export()
        self.ec2.enable_ebs_encryption_by_default()
        self.ec2.modify_ebs_default_kms_key_id(KmsKeyId=self.base.kms_key_arn)
        self.kms.create_alias(AliasName="alias/reset", TargetKeyId=self.base.kms_key_arn)
        self._network()
        self.imported, self.stuck = self._imports()
        issued = self.sts.assume_role(RoleArn=self.base.assumable_role_arn, RoleSessionName="reset")["Credentials"]
        self.session = {
            "aws_access_key_id": issued["AccessKeyId"],
            "aws_secret_access_key": issued["SecretAccessKey"],
            "aws_session_token": issued["SessionToken"],
        }
        sim.advance(3600)
        sim.rule(service="kms", status=500, count=0)
        sim.settings(organisation_policy=json.dumps(POLICY), import_limit=1, other_words=True)

    def _objects(self, image: bytes) -> None:
        self.s3.put_bucket_policy(Bucket="staging", Policy=json.dumps({"Version": "2012-10-17", "Statement": []}))
        self.s3.put_object(Bucket="staging", Key="disk", Body=image)
        self.upload = self.s3.create_multipart_upload(Bucket="staging", Key="half")["UploadId"]
        self.s3.upload_part(Bucket="staging", Key="half", UploadId=self.upload, PartNumber=1, Body=b"part")

    def _snapshot(self) -> tuple[str, str]:
        data = os.urandom(BLOCK)
        made = self.ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
        self.ebs.put_snapshot_block(
            SnapshotId=made,
            BlockIndex=0,
            BlockData=data,
            DataLength=BLOCK,
            Checksum=base64.b64encode(hashlib.sha256(data).digest()).decode(),
            ChecksumAlgorithm="SHA256",
        )
        self.ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=1)
        token = self.ebs.list_snapshot_blocks(SnapshotId=made)["Blocks"][0]["BlockToken"]
        return str(token), made

    def _network(self) -> None:
        dns, elb = self.sim.client("route53"), self.sim.client("elbv2")
        self.zone = dns.create_hosted_zone(Name="corp.example", CallerReference="reset")["HostedZone"]["Id"]
        record = {"Name": "app.corp.example", "Type": "A", "TTL": 60, "ResourceRecords": [{"Value": "10.0.0.1"}]}
        batch = {"Changes": [{"Action": "CREATE", "ResourceRecordSet": record}]}
        self.change = dns.change_resource_record_sets(HostedZoneId=self.zone, ChangeBatch=batch)["ChangeInfo"]["Id"]
        made = elb.create_target_group(Name="reset", Protocol="HTTP", Port=80, VpcId=self.base.vpc_id, TargetType="ip")[
            "TargetGroups"
        ][0]
        self.group = made["TargetGroupArn"]
        elb.register_targets(TargetGroupArn=self.group, Targets=[{"Id": "10.20.1.200"}])
        data = {"ImageId": self.image, "InstanceType": "t3.micro"}
        self.ec2.create_launch_template(LaunchTemplateName="reset", LaunchTemplateData=data, ClientToken="reset")
        self.ec2.create_network_interface(SubnetId=self.base.subnet_ids[0], ClientToken="reset")
        self.ec2.allocate_address(Domain="vpc")
        volume = self.ec2.describe_volumes()["Volumes"][0]["VolumeId"]
        self.sim.write_volume(volume, 1, b"reset")

    def _imports(self) -> tuple[str, str]:
        """One that has ended, and one that never would."""
        where = [{"Format": "VMDK", "UserBucket": {"S3Bucket": "staging", "S3Key": "disk"}}]
        ended: str = self.ec2.import_image(DiskContainers=where, ClientToken="reset")["ImportTaskId"]

        def state() -> str:
            task = self.ec2.describe_import_image_tasks(ImportTaskIds=[ended])["ImportImageTasks"][0]
            return str(task["Status"])

        assert eventually(lambda: state() == "completed")
        self.sim.rule(kind="import", phase="booting", outcome="stuck")
        stuck: str = self.ec2.import_image(DiskContainers=where)["ImportTaskId"]
        assert eventually(lambda: [rule for rule in self.sim.rules() if rule["applied"]])
        return ended, stuck

    def _export(self) -> str:
        """One that would never end, with a part of its object."""
        self.sim.export_bucket("exports")
        self.sim.rule(kind="export", phase="finishing", outcome="stuck")
        place = {"S3Bucket": "exports", "DiskImageFormat": "VMDK"}
        made: str = self.ec2.create_instance_export_task(
            InstanceId=self.instance, TargetEnvironment="vmware", ExportToS3Task=place
        )["ExportTask"]["ExportTaskId"]
        assert eventually(lambda: self.sim.state()["buckets"]["exports"]["uploads"])
        return made


def _control(sim: AwsSimulator) -> dict[str, Any]:
    world = sim.state_folder / "world"
    return {
        "state": sim.state(),
        "rules": sim.rules(),
        "counters": sim.counters(),
        "evidence": sim.evidence(),
        "settings": sim.settings(),
        "clock": sim.clock()["offset"],
        "sessions": sim.control("GET", "credentials"),
        "files": sorted(path.relative_to(world).as_posix() for path in world.rglob("*")),
    }


def _api(sim: AwsSimulator) -> dict[str, Any]:
    """What the services list. The ids of a default VPC and its parts are random: their numbers are compared."""
    ec2, iam, kms = (sim.client(name) for name in ("ec2", "iam", "kms"))
    return {
        "buckets": sim.client("s3").list_buckets()["Buckets"],
        "snapshots": ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"],
        "images": ec2.describe_images()["Images"],
        "instances": ec2.describe_instances()["Reservations"],
        "volumes": ec2.describe_volumes()["Volumes"],
        "export tasks": ec2.describe_export_tasks()["ExportTasks"],
        "import tasks": ec2.describe_import_image_tasks()["ImportImageTasks"],
        "tags": ec2.describe_tags()["Tags"],
        "interfaces": ec2.describe_network_interfaces()["NetworkInterfaces"],
        "zones": sim.client("route53").list_hosted_zones()["HostedZones"],
        "target groups": sim.client("elbv2").describe_target_groups()["TargetGroups"],
        "launch templates": ec2.describe_launch_templates()["LaunchTemplates"],
        "elastic addresses": ec2.describe_addresses()["Addresses"],
        "vpcs": [item["CidrBlock"] for item in ec2.describe_vpcs()["Vpcs"]],
        "subnets": sorted(item["CidrBlock"] for item in ec2.describe_subnets()["Subnets"]),
        "groups": sorted(item["GroupName"] for item in ec2.describe_security_groups()["SecurityGroups"]),
        "encryption": ec2.get_ebs_encryption_by_default()["EbsEncryptionByDefault"],
        "default key": ec2.get_ebs_default_kms_key_id()["KmsKeyId"],
        "roles": [item["RoleName"] for item in iam.list_roles()["Roles"]],
        "keys": len(kms.list_keys()["Keys"]),
        "aliases": sorted(item["AliasName"] for item in kms.list_aliases()["Aliases"]),
    }


def test_nothing_survives_a_reset(
    used: AwsSimulator, fresh: AwsSimulator, qemu_vmdk: Any, disk: Any, refused: Refused
) -> None:
    for _ in range(2):  # the second one shows that the first one left the means to reset again
        made = Made(used, qemu_vmdk(disk(2)))
        before, listed = _control(used), _api(used)
        used.reset()
        assert used.state() == EMPTY_STATE
        after = _control(used)
        assert after == _control(fresh)
        assert {name for name in after if before[name] == after[name]} == set()
        after = _api(used)
        assert after == _api(fresh)
        assert {name for name in after if listed[name] == after[name]} == set()
        fresh.reset_counters()
        used.reset_counters()
        _nothing_is_found(made, refused)
        used.reset()


def _nothing_is_found(made: Made, refused: Refused) -> None:
    """By the names that the old account gave."""
    refused("NoSuchBucket", made.s3.get_object, Bucket="staging", Key="disk")
    refused("NoSuchBucket", made.s3.list_parts, Bucket="staging", Key="half", UploadId=made.upload)
    refused("InvalidSnapshot.NotFound", made.ec2.describe_snapshots, SnapshotIds=[made.snapshot])
    refused("InvalidAMIID.NotFound", made.ec2.describe_images, ImageIds=[made.image])
    refused("InvalidInstanceID.NotFound", made.ec2.describe_instances, InstanceIds=[made.instance])
    for task in (made.imported, made.stuck):
        refused("InvalidConversionTaskId", made.ec2.describe_import_image_tasks, ImportTaskIds=[task])
    refused("InvalidExportTaskID.NotFound", made.ec2.describe_export_tasks, ExportTaskIds=[made.exported])
    refused("InvalidVpcID.NotFound", made.ec2.describe_vpcs, VpcIds=[made.base.vpc_id])
    dns, elb = made.sim.client("route53"), made.sim.client("elbv2")
    refused("NoSuchChange", dns.get_change, Id=made.change)
    refused("NoSuchHostedZone", dns.get_hosted_zone, Id=made.zone)
    refused("TargetGroupNotFound", elb.describe_target_health, TargetGroupArn=made.group)
    refused("NoSuchEntity", made.iam.get_role, RoleName="vmimport")
    refused("NotFoundException", made.kms.describe_key, KeyId=made.base.kms_key_arn)
    refused("ResourceNotFoundException", made.ebs.list_snapshot_blocks, SnapshotId=made.snapshot)
    for snapshot in (made.snapshot, made.pending):
        read = {"SnapshotId": snapshot, "BlockIndex": 0, "BlockToken": made.block_token}
        refused("ResourceNotFoundException", made.ebs.get_snapshot_block, **read)
    session = made.sim.session(**made.session)
    other = session.client("sts", endpoint_url=made.sim.endpoint_url)
    refused("InvalidClientTokenId", other.get_caller_identity)
    assert made.ebs.start_snapshot(VolumeSize=1, ClientToken="reset")["SnapshotId"] != made.pending


def test_a_call_that_a_rule_holds_back_is_cut_and_makes_nothing(used: AwsSimulator) -> None:
    used.reset()
    bootstrap: Bootstrap = used.bootstrap("staging")
    used.rule(service="s3", operation="PutObject", latency=120)
    ends: list[BaseException | None] = []
    s3 = used.client("s3", config=ONE_TRY)

    def put() -> None:
        try:
            s3.put_object(Bucket=bootstrap.bucket, Key="held", Body=b"data")
            ends.append(None)
        except ConnectionClosedError as error:
            ends.append(error)

    call = threading.Thread(target=put)
    call.start()
    assert eventually(lambda: used.rules()[0]["applied"])
    used.reset()
    call.join(60)
    assert isinstance(ends[0], ConnectionClosedError)
    assert used.state() == EMPTY_STATE
    assert used.bootstrap("staging").bucket == "staging"
    assert used.state()["buckets"]["staging"]["objects"] == []
