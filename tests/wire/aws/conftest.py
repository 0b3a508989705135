"""One TLS simulator for the folder; every test leaves it as it found it."""

from __future__ import annotations

import random
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.credentials import DeferredRefreshableCredentials, create_assume_role_refresher
from botocore.session import get_session
from tests.authorities import no_authorities_of_the_machine
from tests.wire.aws.disk_replica import QUICK, Replica

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.units import KIB, MIB
from wavelift.simulators.aws import AwsSimulator, Bootstrap, start

__all__ = ["no_authorities_of_the_machine"]

PART = 5 * MIB


@pytest.fixture(scope="session")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AwsSimulator]:
    with start(tmp_path_factory.mktemp("aws"), tls=True, phase_seconds=0.05) as running:
        yield running


@pytest.fixture(scope="session")
def account(simulator: AwsSimulator) -> Bootstrap:
    return simulator.bootstrap(bucket="staging")


@pytest.fixture
def aws(simulator: AwsSimulator, account: Bootstrap) -> Iterator[AwsSimulator]:
    """The simulator, without rules; fails the test when something is left in it."""
    before = simulator.state()
    yield simulator
    simulator.clear_rules()
    assert simulator.state() == before


Connect = Callable[..., AwsAccess]


@pytest.fixture(scope="session")
def connect(simulator: AwsSimulator) -> Connect:
    """Another access to the simulator: ``connect(session, **options of AwsAccess)``."""

    def make(session: Any = None, **options: Any) -> AwsAccess:
        config = Config(retries={"mode": "standard", "total_max_attempts": 3})
        options = {"verify": simulator.verify, "config": config, **options}
        return AwsAccess(session or simulator.session(), endpoint_url=simulator.endpoint_url, **options)

    return make


@pytest.fixture(scope="session")
def shared_access(connect: Connect) -> AwsAccess:
    """boto3's clients are dear to make: those with the permanent keys are every test's."""
    return connect()


@pytest.fixture
def access(aws: AwsSimulator, shared_access: AwsAccess) -> AwsAccess:
    return shared_access


@pytest.fixture
def staging(access: AwsAccess, account: Bootstrap) -> Iterator[S3Staging]:
    staging = S3Staging(access, account.bucket, policy=QUICK)
    yield staging
    staging.close()


@pytest.fixture(scope="session")
def parts() -> list[bytes]:
    """Four random parts, the last is short."""
    source = random.Random(1)
    return [source.randbytes(PART), source.randbytes(PART + 1), source.randbytes(PART), source.randbytes(700 * KIB)]


MakeDisk = Callable[..., tuple[Path, Path]]


@pytest.fixture(scope="session")
def make_disk(tmp_path_factory: pytest.TempPathFactory) -> MakeDisk:
    """Raw image and stream-optimised VMDK (qemu-img's) of a sparse disk with random data."""

    def make(seed: int, size: int = 8 * MIB) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp("disk")
        raw, vmdk = folder / "disk.raw", folder / "disk.vmdk"
        content = bytearray(size)
        source = random.Random(seed)
        for offset in (0, size // 2, size - 64 * KIB):
            content[offset : offset + 64 * KIB] = source.randbytes(64 * KIB)
        content[510:512] = b"\x55\xaa"
        raw.write_bytes(content)
        command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"]
        subprocess.run([*command, str(raw), str(vmdk)], check=True, timeout=120)
        return raw, vmdk

    return make


@pytest.fixture
def assumed(aws: AwsSimulator, account: Bootstrap) -> boto3.Session:
    """A session whose credentials botocore refreshes by AssumeRole, as Airflow's AWS connection does with a role."""
    refresh = create_assume_role_refresher(
        aws.client("sts"), {"RoleArn": account.assumable_role_arn, "RoleSessionName": "wavelift"}
    )
    core = get_session()
    core._credentials = DeferredRefreshableCredentials(refresh, "assume-role")
    return boto3.Session(botocore_session=core, region_name=aws.region)


@pytest.fixture
def replica(aws: AwsSimulator, access: AwsAccess, tmp_path: Path) -> Iterator[Replica]:
    before, settings, threads = aws.state(), aws.settings(), set(threading.enumerate())
    made = Replica(access, aws, tmp_path)
    yield made
    aws.clear_rules()
    aws.settings(**settings)
    for snapshot_id in reversed(made.made):
        Ec2(access).delete_snapshot(snapshot_id)
    assert set(threading.enumerate()) <= threads, "a writer left threads"
    assert aws.state() == before
