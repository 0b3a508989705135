"""Instances of the AWS simulator that are exported to S3, and what an export may leave: in both kinds of Airflow."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import subprocess
import tarfile
import time
import zlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.airflow.outside import Outside
from tests.airflow.waves import BLOCK, environment_text
from tests.go_oracles import ovf_importer
from tests.ledgers import within

from wavelift.cli.simulators import Stage
from wavelift.ledger import exports
from wavelift.ledger.export_records import InstanceExport
from wavelift.rules.policies import Staging, role_policy
from wavelift.simulators.vcenter import VCenterSimulator

__test__ = False

OUT: Final = "out"
"""The environment from which both kinds of Airflow export."""
NEAR: Final = "out-near"
"""Another one of the same account and region: they share the bucket."""
DAG: Final = f"instance_export.{OUT}"
FILE: Final = "exports.py"
NAME: Final = "tests"
GIB: Final = 1 << 30
DEVICES: Final = ("/dev/sda1", "/dev/sdf", "/dev/sdg")
NOISE: Final = 12
"""Blocks of a disk that do not compress, 6 MiB: of two disks, more than one part."""
WROTE: Final = b"the guest wrote this"
PLACES: Final = (100, 700 * BLOCK - 5, GIB - len(WROTE))
"""Within a block, across two, and at the end."""
GONE_SECONDS: Final = 120.0


def lay_out_exports(dags: Path, stage: Stage, *names: str, **more: Any) -> None:
    """Environments from which instances are exported, each below a prefix of its own."""
    for name in names:
        text = environment_text(stage, name, ["default"], exports={"name": NAME, "prefix": f"{name}/"}, **more)
        (dags / "environments" / f"{name}.yaml").write_text(text)


@dataclass
class Machine:
    """A running instance and what its volumes hold."""

    outside: Outside
    id: str
    image: str
    volumes: tuple[str, ...]
    contents: list[dict[int, bytes]]
    wrote: bool = False

    def guest_writes(self) -> None:
        for volume in self.volumes:
            for place in PLACES:
                self.outside.aws.write_at(volume, place, WROTE)
        self.wrote = True

    def raw(self, disk: int, folder: Path) -> Path:
        """What a volume holds, as a sparse file. Nothing of the simulator is asked."""
        file = folder / f"{self.id}-{disk}.raw"
        with file.open("wb") as out:
            out.truncate(GIB)
            for index, data in self.contents[disk].items():
                out.seek(index * BLOCK)
                out.write(data)
            for place in PLACES if self.wrote else ():
                out.seek(place)
                out.write(WROTE)
        return file

    def state(self) -> dict[str, Any]:
        return dict(self.outside.aws.state()["instance_states"][self.id])


@contextmanager
def machine(outside: Outside, name: str, *, disks: int = 1, wrote: bool = True) -> Iterator[Machine]:
    """An instance, running; terminated at the end, and its image goes with it."""
    ec2 = outside.aws.client("ec2")
    contents = [_content(f"{name}-{disk}") for disk in range(disks)]
    image = _image(outside.aws, name, contents)
    request = {"ImageId": image, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small"}
    launched = ec2.run_instances(**request, SubnetId=outside.stage.network.subnet_ids[0])["Instances"][0]["InstanceId"]
    try:
        ec2.get_waiter("instance_running").wait(InstanceIds=[launched], WaiterConfig={"Delay": 1})
        found = ec2.describe_instances(InstanceIds=[launched])["Reservations"][0]["Instances"][0]
        mapped = {one["DeviceName"]: one["Ebs"]["VolumeId"] for one in found["BlockDeviceMappings"]}
        made = Machine(outside, launched, image, tuple(mapped[one] for one in DEVICES[:disks]), contents)
        if wrote:
            made.guest_writes()
        yield made
    finally:
        ec2.terminate_instances(InstanceIds=[launched])
        _remove_image(ec2, image)


def _content(name: str) -> dict[int, bytes]:
    chance = random.Random(zlib.crc32(name.encode()))
    return {3 * number: chance.randbytes(BLOCK) for number in range(NOISE)}


def _image(aws: Any, name: str, contents: list[dict[int, bytes]]) -> str:
    ebs, mappings = aws.client("ebs"), []
    for device, content in zip(DEVICES, contents, strict=False):
        made = ebs.start_snapshot(VolumeSize=1)["SnapshotId"]
        for index, data in content.items():
            checksum = base64.b64encode(hashlib.sha256(data).digest()).decode()
            block = {"SnapshotId": made, "BlockIndex": index, "BlockData": data, "DataLength": BLOCK}
            ebs.put_snapshot_block(**block, Checksum=checksum, ChecksumAlgorithm="SHA256")
        ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=len(content))
        mappings.append({"DeviceName": device, "Ebs": {"SnapshotId": made, "DeleteOnTermination": True}})
    aws.client("ec2").get_waiter("snapshot_completed").wait(
        SnapshotIds=[one["Ebs"]["SnapshotId"] for one in mappings], WaiterConfig={"Delay": 1}
    )
    described = {"Architecture": "x86_64", "VirtualizationType": "hvm", "RootDeviceName": DEVICES[0]}
    made = aws.client("ec2").register_image(Name=f"golden {name}", **described, BlockDeviceMappings=mappings)
    return str(made["ImageId"])


def _remove_image(ec2: Any, image: str) -> None:
    (known,) = ec2.describe_images(ImageIds=[image])["Images"]
    ec2.deregister_image(ImageId=image)
    for one in known["BlockDeviceMappings"]:
        ec2.delete_snapshot(SnapshotId=one["Ebs"]["SnapshotId"])


def bucket_of(outside: Outside) -> str:
    return f"export-to-s3-{NAME}-{outside.aws.region}"


def let_role_write(outside: Outside) -> None:
    """What an administrator does with the policy that wavelift prints: the service role may write to the bucket."""
    document = json.dumps(role_policy(Staging(outside.stage.network.bucket), exports=bucket_of(outside)))
    outside.aws.client("iam").put_role_policy(RoleName="vmimport", PolicyName="exports", PolicyDocument=document)


# what the ledger and AWS say


def known(outside: Outside, run_id: str, dag_id: str = DAG) -> InstanceExport | None:
    """The export of a run."""
    return next((one for one in rows(outside) if (one.dag_id, one.dag_run_id) == (dag_id, run_id)), None)


def rows(outside: Outside) -> list[InstanceExport]:
    return list(within(outside.ledger.read(), exports.list_exports, limit=500).items)


def keys(outside: Outside) -> list[str]:
    """Of the objects in the bucket of the exports."""
    buckets = outside.aws.state()["buckets"]
    return list(buckets[bucket_of(outside)]["objects"]) if bucket_of(outside) in buckets else []


def left_of(outside: Outside, runs: Collection[str]) -> list[str]:
    """What stands outside of these exports, by the tag of their runs: snapshots, images, running tasks; uploads, and
    objects that are no completed export's."""
    ec2, found = outside.aws.client("ec2"), []
    tags = {id.removeprefix("exp-") for id in runs}

    def ours(one: dict[str, Any]) -> bool:
        return {tag["Key"]: tag["Value"] for tag in one.get("Tags", [])}.get("wavelift:run") in tags

    found += [one["SnapshotId"] for one in ec2.describe_snapshots(OwnerIds=["self"])["Snapshots"] if ours(one)]
    found += [one["ImageId"] for one in ec2.describe_images(Owners=["self"])["Images"] if ours(one)]
    tasks = [(one, one["State"]) for one in ec2.describe_export_tasks()["ExportTasks"]]
    tasks += [(one, one["Status"]) for one in image_tasks(outside)]
    found += [str(one) for one, state in tasks if ours(one) and state not in ("completed", "cancelled", "deleted")]
    bucket = outside.aws.state()["buckets"].get(bucket_of(outside), {"uploads": [], "objects": []})
    named = {one.object_key: one for one in rows(outside) if one.state == "completed"}
    own = {one.object_key for one in rows(outside) if one.id in runs and one.object_key} | set(runs)
    for key in (*bucket["objects"], *(upload["key"] for upload in bucket["uploads"])):
        of_completed = any(key in (object_key, _manifest(object_key, key)) for object_key in named)
        if any(text in key for text in own) and not of_completed:
            found.append(f"s3: {key}")
    return found


def _manifest(object_key: str, key: str) -> str:
    """The key, if it is that of a manifest beside the object."""
    return key if key.startswith(f"{object_key.removesuffix('.ova')}/") else ""


def image_tasks(outside: Outside) -> list[dict[str, Any]]:
    ec2, found, more = outside.aws.client("ec2"), [], {}
    while True:
        page = ec2.describe_export_image_tasks(MaxResults=500, **more)
        found += page["ExportImageTasks"]
        if not page.get("NextToken"):
            return found
        more = {"NextToken": page["NextToken"]}


def assert_nothing_left(outside: Outside, *runs: str) -> None:
    """AWS cancels a task in its own time."""
    deadline = time.monotonic() + GONE_SECONDS
    while left := left_of(outside, runs):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def assert_only_result(outside: Outside, export: InstanceExport) -> None:
    """The object and its manifests stand, and nothing beside them."""
    assert_nothing_left(outside, export.id)
    assert export.object_key in keys(outside)


def forget(outside: Outside, *runs: str) -> None:
    """Delete the objects of exports, as a person would."""
    s3 = outside.aws.client("s3")
    for one in rows(outside):
        if one.id not in runs or not one.object_key:
            continue
        for key in keys(outside):
            if key in (one.object_key, _manifest(one.object_key, key)):
                s3.delete_object(Bucket=bucket_of(outside), Key=key)


# the proof, which asks nothing of wavelift


@dataclass
class Ova:
    """An OVA that was fetched from the bucket."""

    file: Path
    folder: Path
    disks: list[Path] = field(default_factory=list)

    @classmethod
    def fetch(cls, outside: Outside, key: str, folder: Path) -> Ova:
        folder.mkdir(parents=True, exist_ok=True)
        made = cls(folder / key.rpartition("/")[2], folder)
        outside.aws.client("s3").download_file(bucket_of(outside), key, str(made.file))
        made._unpack()
        return made

    def _unpack(self) -> None:
        listed = _run("tar", "-tf", self.file).split()
        assert [name.rpartition(".")[2] for name in listed[:2]] == ["ovf", "mf"]
        _run("tar", "-xf", self.file, "-C", self.folder)
        with tarfile.open(self.file) as archive:
            assert archive.getnames() == listed
        self.disks = [self.folder / name for name in listed[2:]]

    def assert_accepted(self, vcenter: VCenterSimulator) -> None:
        """By qemu-img, and by govmomi's importer with CreateImportSpec of a vCenter."""
        for disk in self.disks:
            _run("qemu-img", "check", "-f", "vmdk", disk)
        ovf_importer("check", self.file)
        ovf_importer("import", self.file, vcenter)

    def assert_holds(self, raws: list[Path]) -> None:
        """Bit for bit."""
        assert len(self.disks) == len(raws)
        for disk, raw in zip(self.disks, raws, strict=True):
            converted = disk.with_suffix(".converted")
            _run("qemu-img", "convert", "-f", "vmdk", "-O", "raw", disk, converted)
            assert converted.stat().st_size == raw.stat().st_size
            _run("cmp", raw, converted)
            converted.unlink()


def _run(*words: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
