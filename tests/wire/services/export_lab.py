"""An instance with two disks in the AWS simulator, its snapshots, and the order that exports them (``direct``)."""

from __future__ import annotations

import base64
import hashlib
import random
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from botocore.config import Config
from tests.contexts import context_of

from wavelift.adapters.aws.access import AwsAccess
from wavelift.base.run import RunContext
from wavelift.base.units import BLOCK, GIB, KIB
from wavelift.ledger.exports import export_id
from wavelift.rules.export_facts import ImageFacts, InstanceFacts, NicFacts, VolumeFacts
from wavelift.services.dataplane.export_messages import (
    ExportOrder,
    ExportPlace,
    ExportPlan,
    ExportVerified,
    ExportWritten,
    SourceDisk,
)
from wavelift.services.dataplane.export_staging import discard_export, made_with
from wavelift.services.dataplane.export_verify import verify_export
from wavelift.services.dataplane.instance_export import read_instance
from wavelift.simulators.aws import AwsSimulator

__test__ = False

RUN: Final = "instance_export.lab/manual__1/"
EXPORT: Final = export_id(RUN)
PREFIX: Final = "out/"
DEVICES: Final = ("/dev/sda1", "/dev/sdf")
NOISE: Final = (40, 24)
"""Blocks with noise of each disk: parts of 8 MiB are cut within both."""


def make_image(sim: AwsSimulator) -> tuple[str, list[str], list[dict[int, bytes]]]:
    """An AMI of two disks of 1 GiB; its id, its snapshots and what they hold."""
    ec2, ebs = sim.client("ec2"), sim.client("ebs")
    chance = random.Random(18)
    snapshots, contents = [], []
    for count in NOISE:
        made: str = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
        content = {3 * number: chance.randbytes(BLOCK) for number in range(count)}
        for index, data in content.items():
            ebs.put_snapshot_block(
                SnapshotId=made,
                BlockIndex=index,
                BlockData=data,
                DataLength=BLOCK,
                Checksum=base64.b64encode(hashlib.sha256(data).digest()).decode(),
                ChecksumAlgorithm="SHA256",
            )
        ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=count)
        snapshots.append(made)
        contents.append(content)
    image: str = ec2.register_image(
        Name="of two disks",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName=DEVICES[0],
        BlockDeviceMappings=[
            {"DeviceName": device, "Ebs": {"SnapshotId": snapshot, "DeleteOnTermination": True}}
            for device, snapshot in zip(DEVICES, snapshots, strict=True)
        ],
    )["ImageId"]
    return image, snapshots, contents


@dataclass
class ExportLab:
    """One instance, and what becomes of it."""

    sim: AwsSimulator
    access: AwsAccess
    bucket: str
    image: str
    contents: list[dict[int, bytes]]
    subnet: str
    folder: Path
    instance: str = ""
    volumes: tuple[str, ...] = ()
    made: list[str] = field(default_factory=list)
    """Snapshots."""

    def launch(self) -> None:
        """The guest has written into both disks, within a block and across two."""
        ec2 = self.sim.client("ec2")
        request = {"ImageId": self.image, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}
        self.instance = ec2.run_instances(**request, SubnetId=self.subnet)["Instances"][0]["InstanceId"]
        self.sim.advance(self.sim.settings()["instance_pending_seconds"])
        found = ec2.describe_instances(InstanceIds=[self.instance])["Reservations"][0]["Instances"][0]
        mapped = {one["DeviceName"]: one["Ebs"]["VolumeId"] for one in found["BlockDeviceMappings"]}
        self.volumes = tuple(mapped[device] for device in DEVICES)
        for number, volume in enumerate(self.volumes):
            for offset, data in self.guest_wrote(number):
                self.sim.write_at(volume, offset, data)

    @staticmethod
    def guest_wrote(disk: int) -> list[tuple[int, bytes]]:
        word = f"guest wrote to disk {disk}".encode()
        return [(100, word), (700 * BLOCK - 5, word), (GIB - len(word), word), (3 * BLOCK, bytes(BLOCK))]

    def raw(self, disk: int) -> Path:
        """What the volume holds, as a sparse file."""
        file = self.folder / f"volume-{disk}.raw"
        with file.open("wb") as out:
            out.truncate(GIB)
            for index, data in self.contents[disk].items():
                out.seek(index * BLOCK)
                out.write(data)
            for offset, data in self.guest_wrote(disk):
                out.seek(offset)
                out.write(data)
        return file

    def sim_access(self, session: Any = None, **options: Any) -> AwsAccess:
        """Another access than the one that all tests share."""
        return AwsAccess(
            session or self.sim.session(),
            endpoint_url=self.sim.endpoint_url,
            verify=self.sim.verify,
            config=Config(retries={"mode": "standard", "total_max_attempts": 3}),
            **options,
        )

    # --- the order ---

    def plan(self, **changes: Any) -> ExportPlan:
        place = ExportPlace(
            environment="lab",
            aws_conn_id="aws_lab",
            region=self.sim.region,
            account="123456789012",
            bucket=self.bucket,
            role="vmimport",
            queue="near",
            limit=5,
        )
        facts = InstanceFacts(
            instance_id=self.instance,
            region=self.sim.region,
            account="123456789012",
            caller="123456789012",
            state="running",
            name="web & <shop>",
            platform_details="Linux/UNIX",
            instance_type="t3.small",
            vcpus=2,
            memory=2 * GIB,
            boot_mode="uefi",
            root_device=DEVICES[0],
            volumes=tuple(
                VolumeFacts(volume_id=volume, device=device, size=GIB, boot=not number)
                for number, (volume, device) in enumerate(zip(self.volumes, DEVICES, strict=True))
            ),
            nics=(
                NicFacts(interface_id="eni-1", index=1, subnet_id="subnet-2"),
                NicFacts(interface_id="eni-0", index=0),
            ),
            image=ImageFacts(image_id=self.image),
            seen_at=self.sim.client("ec2").describe_instances(InstanceIds=[self.instance])["Reservations"][0][
                "Instances"
            ][0]["LaunchTime"],
        )
        values: dict[str, Any] = {
            "export": EXPORT,
            "place": place,
            "instance": facts,
            "method": "direct",
            "why": "it has two disks",
            "target": "vmware",
            "format": "ova",
            "controller": "lsilogic",
            "prefix": PREFIX,
            "may_reboot": False,
            "verify": "full",
        }
        return ExportPlan.model_validate(values | changes)

    def snapshot(self, **changes: Any) -> ExportOrder:
        """What `begin` does: snapshots of all volumes at one instant, and the order to read them.

        :param changes: of the plan.
        """
        plan = self.plan(**changes)
        tags = [{"Key": key, "Value": value} for key, value in made_with(plan).items()]
        rows = self.sim.client("ec2").create_snapshots(
            InstanceSpecification={"InstanceId": self.instance},
            Description="wavelift: export",
            TagSpecifications=[{"ResourceType": "snapshot", "Tags": tags}],
        )["Snapshots"]
        self.made += [row["SnapshotId"] for row in rows]
        self.sim.advance(self.sim.settings()["image_seconds"] + 1)
        of_volume = {row["VolumeId"]: row["SnapshotId"] for row in rows}
        return ExportOrder(
            plan=plan,
            key=f"{PREFIX}{EXPORT}.ova",
            disks=tuple(
                SourceDisk(index=index, volume_id=volume, device=device, snapshot_id=of_volume[volume], capacity=GIB)
                for index, (volume, device) in enumerate(zip(self.volumes, DEVICES, strict=True))
            ),
            instant=rows[0]["StartTime"],
        )

    def context(self, **more: Any) -> RunContext:
        return context_of(RUN, **more)

    def read(self, order: ExportOrder, ctx: RunContext | None = None, access: AwsAccess | None = None) -> ExportWritten:
        return read_instance(access or self.access, order, ctx or self.context())

    def verify(
        self, order: ExportOrder, written: ExportWritten | None, ctx: RunContext | None = None
    ) -> ExportVerified:
        return verify_export(self.access, order, written, ctx or self.context(), workers=2)

    def discard(self, order: ExportOrder, task_id: str = "") -> tuple[str, ...]:
        return discard_export(self.access, order.plan.place, order.key, export=order.plan.export, task_id=task_id)

    # --- what S3 has ---

    def keys(self) -> list[str]:
        found: list[str] = self.sim.state()["buckets"][self.bucket]["objects"]
        return sorted(found)

    def uploads(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.sim.state()["buckets"][self.bucket]["uploads"]
        return found

    def fetch(self, key: str) -> Path:
        file = self.folder / key.replace("/", "_")
        self.sim.client("s3").download_file(self.bucket, key, str(file))
        return file

    # --- the proof, which asks nothing of wavelift ---

    def assert_equals_volumes(self, order: ExportOrder) -> None:
        """Python's ``tarfile`` unpacks it, ``qemu-img`` checks and converts each disk to what the volume holds."""
        with tarfile.open(self.fetch(order.key)) as archive:
            names = archive.getnames()
            archive.extractall(self.folder, filter="data")
        disks = [self.folder / name for name in names if name.endswith(".vmdk")]
        assert [name.rpartition(".")[2] for name in names] == ["ovf", "mf", *["vmdk"] * len(disks)]
        assert len(disks) == len(order.disks)
        self._assert_digests(names)
        for number, disk in enumerate(disks):
            converted = self.folder / "converted.raw"
            run = (
                ("qemu-img", "check", "-f", "vmdk", str(disk)),
                (
                    *("qemu-img", "convert", "-f", "vmdk", "-O", "raw"),
                    *(str(disk), str(converted)),
                ),
            )
            for command in run:
                subprocess.run(command, check=True, timeout=120, capture_output=True)
            assert converted.stat().st_size == GIB
            assert subprocess.run(("cmp", str(self.raw(number)), str(converted)), timeout=120).returncode == 0
            converted.unlink()

    def _assert_digests(self, names: list[str]) -> None:
        lines = (self.folder / next(name for name in names if name.endswith(".mf"))).read_text().splitlines()
        told = {line[len("SHA256(") : line.index(")")]: line.rpartition("= ")[2] for line in lines}
        due = {name: _sha256(self.folder / name) for name in names if not name.endswith(".mf")}
        assert told == due

    def tidy(self) -> None:
        ec2, s3 = self.sim.client("ec2"), self.sim.client("s3")
        for snapshot in self.made:
            if ec2.describe_snapshots(Filters=[{"Name": "snapshot-id", "Values": [snapshot]}])["Snapshots"]:
                ec2.delete_snapshot(SnapshotId=snapshot)
        ec2.terminate_instances(InstanceIds=[self.instance])
        for key in self.keys():
            s3.delete_object(Bucket=self.bucket, Key=key)


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as source:
        while chunk := source.read(64 * KIB):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def exports_bucket(sim: AwsSimulator) -> Iterator[str]:
    name, s3 = f"export-to-s3-lab-{sim.region}", sim.client("s3")
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": sim.region})
    try:
        yield name
    finally:
        s3.delete_bucket(Bucket=name)


__all__ = ["EXPORT", "PREFIX", "RUN", "ExportLab", "exports_bucket", "make_image"]
