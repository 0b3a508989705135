"""A disk file that lies on the worker goes up with the same proof as an export."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from tests.contexts import context_of

from wavelift.base.errors import NotFoundError, ProofError
from wavelift.base.run import Progress
from wavelift.base.units import MIB
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


def test_a_file_that_is_not_there_is_said_so(stage: Stage, tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        upload_disk(stage.access(), Upload(str(tmp_path / "none"), stage.account.bucket, KEY), context_of("d/r/upload"))
