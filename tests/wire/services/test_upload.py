"""A disk file that lies on the worker goes up with the same proof as an export."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.contexts import context_of
from tests.eventually import eventually

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.vmimport import ImportDisk, ImportRequest, ImportStatus
from wavelift.base.domain import StoredDisk
from wavelift.base.errors import NotFoundError, ProofError
from wavelift.base.run import Progress, RunContext
from wavelift.base.units import MIB
from wavelift.services.dataplane.importing import import_disks
from wavelift.services.dataplane.upload import Upload, upload_disk

from .journey import Stage

pytestmark = pytest.mark.wire
KEY = "uploads/disk.vmdk"


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    file = tmp_path / "disk.raw"
    file.write_bytes(random.Random(9).randbytes(6 * MIB))
    return file


def test_a_file_that_changes_while_it_is_read_is_not_stored(stage: Stage, raw: Path) -> None:
    def touch(progress: Progress) -> None:
        os.utime(raw, ns=(1, 1))

    ctx = context_of("d/r/upload", progress=touch)
    with pytest.raises(ProofError, match="changed while it was uploaded"):
        upload_disk(stage.access(), Upload(str(raw), stage.account.bucket, KEY), ctx)
    assert stage.aws.client("s3").list_objects_v2(Bucket=stage.account.bucket, Prefix="uploads/").get("KeyCount") == 0


@pytest.fixture
def uploaded(stage: Stage, raw: Path) -> Iterator[StoredDisk]:
    yield upload_disk(stage.access(), Upload(str(raw), stage.account.bucket, KEY), context_of("d/r/upload"))
    for key in (KEY, f"{KEY}.manifest"):
        stage.aws.client("s3").delete_object(Bucket=stage.account.bucket, Key=key)


def _imported(stage: Stage, disk: ImportDisk, ctx: RunContext, *, watch: Callable[[], object] = bool) -> ImportStatus:
    """What the operator does between its deferrals."""

    def request(token: str) -> ImportRequest:
        return ImportRequest([disk], token, role_name=stage.account.role)

    found: list[ImportStatus] = []

    def look() -> bool:
        status = import_disks(stage.access(), [disk], request, ctx, limit=5)
        if isinstance(status, ImportStatus):
            found.append(status)
        else:
            watch()
        return bool(found)

    assert eventually(look)
    return found[0]


def test_inv_1_a_disk_that_names_its_version_is_imported_as_that_or_not_at_all(
    stage: Stage, uploaded: StoredDisk
) -> None:
    assert uploaded.version.checksum.endswith(f"-{uploaded.parts}")
    disk = ImportDisk(bucket=uploaded.bucket, key=uploaded.object_key, version=uploaded.version)
    images, ctx, s3 = set(stage.aws.state()["images"]), context_of("d/r/import"), stage.aws.client("s3")
    body = s3.get_object(Bucket=uploaded.bucket, Key=KEY)["Body"].read()
    stage.aws.rule(kind="import", phase="booting", outcome="held", count=1)

    def swap() -> None:
        if not stage.aws.rules():
            return
        assert eventually(lambda: stage.aws.rules()[0]["applied"] == 1)
        stage.aws.advance(5)
        s3.put_object(Bucket=uploaded.bucket, Key=KEY, Body=body)
        stage.aws.clear_rules()

    with pytest.raises(ProofError, match="changed while it was imported"):
        _imported(stage, disk, ctx, watch=swap)
    assert set(stage.aws.state()["images"]) == images
    with pytest.raises(ProofError, match="changed while it was imported"):
        _imported(stage, disk, ctx)
    with pytest.raises(ProofError, match="changed before it was imported"):
        _imported(stage, disk, context_of("d/r/import again"))


def test_an_accepted_import_outlives_its_disk(stage: Stage, uploaded: StoredDisk) -> None:
    disk = ImportDisk(bucket=uploaded.bucket, key=uploaded.object_key, version=uploaded.version)
    ctx = context_of("d/r/import")
    done = _imported(stage, disk, ctx)
    stage.aws.client("s3").delete_object(Bucket=uploaded.bucket, Key=KEY)
    assert _imported(stage, disk, ctx).image_id == done.image_id
    Ec2(stage.access()).deregister(done.image_id, delete_snapshots=True)


def test_a_file_that_is_not_there_is_said_so(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        upload_disk(stage.access(), Upload(str(tmp_path / "none"), stage.account.bucket, KEY), context_of("d/r/upload"))
