"""Two running simulators, one with TLS, and disk images made here without any code of the product."""

from __future__ import annotations

import base64
import hashlib
import random
import struct
import subprocess
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from tests.wire.simulators_aws.lab import Lab

from wavelift.simulators.aws import AwsSimulator, Bootstrap, start

SECTOR = 512
GRAIN = 64 << 10
BLOCK = 512 << 10
OVERHEAD = 128
DESCRIPTOR_SECTORS = 20
DESCRIPTOR = """# Disk DescriptorFile
version=1
CID=12345678
parentCID=ffffffff
createType="streamOptimized"
RW {sectors} SPARSE "disk.vmdk"
ddb.adapterType = "lsilogic"
"""
ONE_TRY = Config(retries={"total_max_attempts": 1}, connect_timeout=60, read_timeout=60)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSimulator]:
    with start(tmp_path_factory.mktemp("aws"), phase_seconds=0.05, instance_pending_seconds=0.2) as simulator:
        yield simulator


@pytest.fixture(scope="session")
def tls_running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSimulator]:
    with start(tmp_path_factory.mktemp("aws-tls"), tls=True) as simulator:
        simulator.bootstrap("tls-bucket")
        yield simulator


@pytest.fixture
def sim(running: AwsSimulator) -> Iterator[AwsSimulator]:
    before = running.settings()
    yield running
    running.clear_rules()
    running.settings(**before)


@pytest.fixture(scope="session")
def base(running: AwsSimulator) -> Bootstrap:
    return running.bootstrap("staging")


@pytest.fixture(scope="session")
def s3(running: AwsSimulator, base: Bootstrap) -> Any:
    return running.client("s3", config=ONE_TRY)


@pytest.fixture(scope="session")
def ec2(running: AwsSimulator, base: Bootstrap) -> Any:
    return running.client("ec2", config=ONE_TRY)


@pytest.fixture(scope="session")
def ebs(running: AwsSimulator) -> Any:
    return running.client("ebs", config=ONE_TRY)


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"wave/{uuid.uuid4().hex[:8]}/disk-0.vmdk"


@pytest.fixture(scope="session")
def refused() -> Callable[..., ClientError]:
    """Call and expect an AWS error of a code; the error."""

    def check(code: str, call: Callable[..., Any], *values: Any, **arguments: Any) -> ClientError:
        with pytest.raises(ClientError) as caught:
            call(*values, **arguments)
        assert caught.value.response["Error"]["Code"] == code, caught.value
        return caught.value

    return check


@pytest.fixture(scope="session")
def sha() -> Callable[[bytes], str]:
    return lambda data: base64.b64encode(hashlib.sha256(data).digest()).decode()


@pytest.fixture(scope="session")
def disk() -> Callable[..., bytes]:
    """A disk of so many MiB with data here and there, the same for the same seed."""

    def make(mib: int = 16, seed: int = 1) -> bytes:
        chooser = random.Random(seed)
        image = bytearray(mib << 20)
        for start_block in range(0, mib * 2, 5):
            data = chooser.randbytes(200 << 10)
            image[start_block * BLOCK : start_block * BLOCK + len(data)] = data
        return bytes(image)

    return make


@pytest.fixture(scope="session")
def stream_vmdk() -> Callable[[bytes], bytes]:
    """A stream-optimised VMDK as ESXi writes it: markers, tables behind the grains, footer, end of stream."""

    def encode(image: bytes) -> bytes:
        head = _header(len(image), None) + DESCRIPTOR.format(sectors=len(image) // SECTOR).encode()
        out = bytearray(head.ljust(SECTOR * OVERHEAD, b"\0"))
        tables, table = [], [0] * 512
        grains = len(image) // GRAIN
        for number in range(grains):
            data = image[number * GRAIN : (number + 1) * GRAIN]
            if data.strip(b"\0"):
                table[number % 512] = len(out) // SECTOR
                packed = zlib.compress(data, 1)
                out += struct.pack("<QI", number * GRAIN // SECTOR, len(packed)) + packed
                out += bytes(-len(out) % SECTOR)
            if number % 512 == 511 or number == grains - 1:
                out += _marker(4, 1)
                tables.append(len(out) // SECTOR)
                out += struct.pack("<512I", *table)
                table = [0] * 512
        directory = struct.pack(f"<{len(tables)}I", *tables).ljust(SECTOR, b"\0")
        out += _marker(1, 2)
        at = len(out) // SECTOR
        out += directory + _marker(1, 3) + _header(len(image), at) + _marker(0, 0)
        return bytes(out)

    return encode


def _header(size: int, directory: int | None) -> bytes:
    at = 2**64 - 1 if directory is None else directory
    numbers = (3, 0x30001, size // SECTOR, GRAIN // SECTOR, 1, DESCRIPTOR_SECTORS, 512, 0, at, OVERHEAD)
    fields = struct.pack("<4sIIQQQQIQQQ", b"KDMV", *numbers)
    return (fields + b"\0\n \r\n" + struct.pack("<H", 1)).ljust(SECTOR, b"\0")


def _marker(sectors: int, kind: int) -> bytes:
    return struct.pack("<QII", sectors, 0, kind).ljust(SECTOR, b"\0")


@pytest.fixture(scope="session")
def qemu_vmdk(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes], bytes]:
    """The same by qemu-img, whose tables come first and which has no footer."""

    def encode(image: bytes) -> bytes:
        folder = tmp_path_factory.mktemp("vmdk")
        raw, vmdk = folder / "disk.raw", folder / "disk.vmdk"
        raw.write_bytes(image)
        command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
        subprocess.run([*command, str(raw), str(vmdk)], check=True)
        return vmdk.read_bytes()

    return encode


@pytest.fixture(scope="session")
def import_image(ec2: Any) -> Callable[..., dict[str, Any]]:
    """ImportImage of objects in the staging bucket."""

    def call(*keys: str, **arguments: Any) -> dict[str, Any]:
        containers = [{"Format": "VMDK", "UserBucket": {"S3Bucket": "staging", "S3Key": key}} for key in keys]
        answer: dict[str, Any] = ec2.import_image(**{"DiskContainers": containers, **arguments})
        return answer

    return call


@pytest.fixture(scope="session")
def finished(ec2: Any) -> Callable[[str], dict[str, Any]]:
    """Wait for an import task to end; its description."""

    def wait(task_id: str) -> dict[str, Any]:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            task: dict[str, Any] = ec2.describe_import_image_tasks(ImportTaskIds=[task_id])["ImportImageTasks"][0]
            if task["Status"] in {"completed", "deleted"}:
                return task
            time.sleep(0.02)
        raise AssertionError(f"still {task}")

    return wait


@pytest.fixture
def tidy(ec2: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Call it with a completed import task: its image and snapshots are removed at the end of the test."""
    tasks: list[dict[str, Any]] = []
    yield tasks.append
    for task in tasks:
        ec2.deregister_image(ImageId=task["ImageId"])
        for detail in task["SnapshotDetails"]:
            ec2.delete_snapshot(SnapshotId=detail["SnapshotId"])


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Lab:
    return Lab(**{field.name: request.getfixturevalue(field.name) for field in fields(Lab)})


@pytest.fixture(scope="session")
def list_blocks(ebs: Any) -> Callable[..., Iterator[dict[str, Any]]]:
    """ListSnapshotBlocks to its last page (botocore has no paginator for it)."""

    def walk(snapshot_id: str, **options: Any) -> Iterator[dict[str, Any]]:
        while True:
            page = ebs.list_snapshot_blocks(SnapshotId=snapshot_id, **options)
            yield from page["Blocks"]
            if "NextToken" not in page:
                return
            options["NextToken"] = page["NextToken"]

    return walk


@pytest.fixture(scope="session")
def read_snapshot(ebs: Any, list_blocks: Any) -> Callable[[str], dict[int, bytes]]:
    """All blocks of a snapshot, by index."""

    def read(snapshot_id: str) -> dict[int, bytes]:
        found = {}
        for block in list_blocks(snapshot_id):
            index = block["BlockIndex"]
            answer = ebs.get_snapshot_block(SnapshotId=snapshot_id, BlockIndex=index, BlockToken=block["BlockToken"])
            found[index] = answer["BlockData"].read()
        return found

    return read


@pytest.fixture
def state_folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def boot_snapshot(ec2: Any, ebs: Any, sha: Any) -> Iterator[str]:
    """A completed snapshot of 2 GiB, whose first block is all ``b``."""
    data = b"b" * BLOCK
    made: str = ebs.start_snapshot(VolumeSize=2)["SnapshotId"]
    block = {"SnapshotId": made, "BlockIndex": 0, "BlockData": data, "DataLength": BLOCK}
    ebs.put_snapshot_block(**block, Checksum=sha(data), ChecksumAlgorithm="SHA256")
    ebs.complete_snapshot(SnapshotId=made, ChangedBlocksCount=1)
    yield made
    ec2.delete_snapshot(SnapshotId=made)


@pytest.fixture
def ami(ec2: Any, boot_snapshot: str) -> Iterator[str]:
    made: str = ec2.register_image(
        Name=f"ami-{uuid.uuid4().hex[:8]}",
        Architecture="x86_64",
        VirtualizationType="hvm",
        RootDeviceName="/dev/sda1",
        BootMode="uefi",
        EnaSupport=True,
        BlockDeviceMappings=[{"DeviceName": "/dev/sda1", "Ebs": {"SnapshotId": boot_snapshot}}],
    )["ImageId"]
    yield made
    ec2.deregister_image(ImageId=made)


@pytest.fixture
def launch(sim: AwsSimulator, ec2: Any, ami: str) -> Iterator[Callable[..., str]]:
    """RunInstances, and wait until it runs; the instance's id. All are terminated at the end."""
    made: list[str] = []

    def run(**more: Any) -> str:
        request = {"ImageId": ami, "MinCount": 1, "MaxCount": 1, "InstanceType": "t3.small", **more}
        given = {name: value for name, value in request.items() if value is not None}
        made.append(ec2.run_instances(**given)["Instances"][0]["InstanceId"])
        sim.advance(sim.settings()["instance_pending_seconds"])
        return made[-1]

    yield run
    if made:
        ec2.terminate_instances(InstanceIds=made)
