"""The proof: one changed byte, manifest or block anywhere between source and image stops the server (invariant 1)."""

from __future__ import annotations

import random
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from wavelift.base.errors import ProofError
from wavelift.base.units import BLOCK, MIB
from wavelift.services.dataplane.conversion import compare_image
from wavelift.services.dataplane.suspects import Suspects

from .journey import Journey, Outcome, Stage

pytestmark = pytest.mark.wire


def _assert_not_imported(stage: Stage, done: Outcome) -> None:
    assert done.image is None
    assert done.migration is not None
    assert done.migration.import_task_id == ""
    assert "ec2.ImportImage" not in stage.aws.counters()


@pytest.mark.parametrize("verify", ["full", pytest.param("sample:100", marks=pytest.mark.proof)])
def test_inv_1_a_flipped_byte_names_server_disk_and_grain(stage: Stage, verify: str) -> None:
    stage.aws.control("DELETE", "counters")
    stage.aws.rule(kind="flip", key="*disk-1.vmdk", count=1)
    done = stage.journey("db01", defaults={"verify": verify}).run()
    flip = stage.aws.evidence()["flips"][-1]
    assert isinstance(done.error, ProofError)
    assert done.tries["verify"] == 1
    assert done.export is not None
    disk = done.export.disks[1]
    assert done.error.where["server"] == "db01"
    assert done.error.where["disk"] == f"disk 1 ({disk.address})"
    assert done.error.where["offset"] == flip["disk_offset"]
    assert f"offset={flip['disk_offset']}" in str(done.error)
    assert "reserve" in done.error.next_step
    _assert_not_imported(stage, done)


def _manifest(journey: Journey) -> tuple[Any, str, str]:
    assert journey.outcome.export is not None
    disk = journey.outcome.export.disks[0]
    return journey.stage.aws.client("s3"), disk.bucket, disk.manifest_key


def test_inv_1_a_manifest_that_was_changed_is_not_believed(stage: Stage) -> None:
    journey = stage.journey("web01")

    def spoil() -> None:
        client, bucket, key = _manifest(journey)
        body = bytearray(client.get_object(Bucket=bucket, Key=key)["Body"].read())
        body[-40] ^= 1
        client.put_object(Bucket=bucket, Key=key, Body=bytes(body))

    stage.aws.control("DELETE", "counters")
    journey.before["verify"] = spoil
    done = journey.run()
    assert isinstance(done.error, ProofError)
    assert re.search(r"manifest in S3 is not the one.*server=web01, disk=.*disk-0\.manifest", str(done.error))
    _assert_not_imported(stage, done)


def _small_vmdk(folder: Path) -> bytes:
    """A good stream-optimised VMDK of a disk that is smaller than any of ours."""
    raw, vmdk = folder / "small.raw", folder / "small.vmdk"
    raw.write_bytes(random.Random(5).randbytes(MIB))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return vmdk.read_bytes()


@pytest.mark.parametrize("verify", [pytest.param("full", marks=pytest.mark.proof), "sample:5"])
@pytest.mark.parametrize("body", [b"not a disk at all" * 100, b"", "smaller disk"], ids=["other", "empty", "smaller"])
def test_inv_1_an_object_that_was_replaced_is_not_imported(
    stage: Stage, verify: str, body: bytes | str, tmp_path: Path
) -> None:
    journey = stage.journey("web01", defaults={"verify": verify})
    if isinstance(body, str):
        body = _small_vmdk(tmp_path)

    def replace() -> None:
        assert journey.outcome.export is not None
        disk = journey.outcome.export.disks[0]
        stage.aws.client("s3").put_object(Bucket=disk.bucket, Key=disk.object_key, Body=body)

    stage.aws.control("DELETE", "counters")
    journey.before["verify"] = replace
    done = journey.run()
    assert isinstance(done.error, ProofError), done.error
    assert done.error.where["server"] == "web01"
    assert "disk 0 (SCSI 0:0)" in str(done.error)
    _assert_not_imported(stage, done)


def test_inv_1_a_data_disk_that_the_conversion_changed_stops_the_launch(stage: Stage) -> None:
    stage.aws.settings(change_data_disks=True)
    journey = stage.journey("db01")
    try:
        done = journey.run()
    finally:
        stage.aws.settings(change_data_disks=False)
    assert isinstance(done.error, ProofError)
    assert done.phase == "compare"
    assert done.tries["compare"] == 1
    assert done.image is None
    imports = stage.aws.evidence()["imports"]
    offsets = [change["offset"] for change in imports[-2]["changed"]]
    assert done.error.where["server"] == "db01"
    assert done.error.where["disk"] == "disk 1 (SCSI 0:3)"
    assert done.error.where["offset"] in [offset // BLOCK * BLOCK for offset in offsets]
    # The image is evidence, and it is tagged and told about; nobody can launch it from the list.
    assert done.report is not None
    (words,) = done.report.unclean
    (image,) = stage.aws.state()["images"]
    assert "db01" in words
    assert image in words
    assert done.migration is not None
    assert done.migration.image_id == ""
    journey.discard_image(image)


def test_inv_1_changes_of_the_boot_disk_are_listed(stage: Stage) -> None:
    done = stage.journey("db01").run()
    assert done.error is None
    assert done.image is not None
    boot, *data = done.image.report
    imports = [one for one in stage.aws.evidence()["imports"] if one["task"] == done.image.task_id]
    listed = {at // BLOCK for part in boot.changed for at in range(part.offset, part.offset + part.length, 512)}
    assert boot.boot
    assert listed == {change["offset"] // BLOCK for change in imports[0]["changed"]}
    assert [disk.changed for disk in data] == [(), ()]


@pytest.mark.parametrize("verify", [pytest.param("full", marks=pytest.mark.proof), "sample:30"])
def test_inv_1_a_boot_disk_that_is_another_one_is_refused(stage: Stage, verify: str) -> None:
    """A conversion rewrites some of the disk, not most of it."""
    done, other = (stage.journey(name, defaults={"launch": "none"}).run() for name in ("web01", "mute01"))
    assert done.export is not None
    assert done.image is not None
    assert other.image is not None
    journey = stage.journey("web01", defaults={"launch": "none", "verify": verify})
    task = journey.preflight()[0]
    ctx = journey.ctx(task, "compare")
    assert compare_image(stage.access(), task, done.export, done.image, ctx).report
    swapped = done.image.model_copy(update={"snapshot_ids": other.image.snapshot_ids})
    with pytest.raises(ProofError, match="blocks of the boot disk hold something else") as told:
        compare_image(stage.access(), task, done.export, swapped, ctx)
    assert told.value.where["disk"] == "disk 0 (SCSI 0:0)"
    assert told.value.where["snapshot"] == other.image.snapshot_ids[0]
    assert "boot_disk_changed_pct" in told.value.next_step


@pytest.mark.proof
def test_a_sample_that_met_only_changed_blocks_is_judged_by_the_whole_disk(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of three blocks with data, two were changed by chance: a sound image of a small guest was refused."""
    done = stage.journey("web01", defaults={"launch": "none"}).run()
    assert done.export is not None
    assert done.image is not None
    (boot,) = done.image.report
    changed = [part.offset // BLOCK for part in boot.changed]
    assert changed, "the conversion changed something"
    monkeypatch.setattr(Suspects, "sample", lambda *_: changed)
    journey = stage.journey("web01", defaults={"launch": "none", "verify": "sample:1"})
    task = journey.preflight()[0]
    image = compare_image(stage.access(), task, done.export, done.image, journey.ctx(task, "compare"))
    assert image.report == done.image.report, "all blocks were compared, and all changes are listed"


def test_inv_1_an_environment_says_how_much_a_conversion_may_change(stage: Stage) -> None:
    stage.environment_changes["limits"] = {"boot_disk_changed_pct": 1}
    journey = stage.journey("web01", defaults={"launch": "none"})
    done = journey.run()
    assert isinstance(done.error, ProofError)
    assert done.phase == "compare"
    assert "no more than 1 per cent" in str(done.error)
    (image,) = stage.aws.state()["images"]
    journey.discard_image(image)


def test_inv_1_off_leaves_it_attested(stage: Stage) -> None:
    stage.aws.control("DELETE", "counters")
    journey = stage.journey("web01", defaults={"verify": "off"})
    journey.until = "verify"
    done = journey.run()
    assert done.verified is not None
    assert (done.verified.level, done.verified.bytes_verified, done.verified.bytes_read_back) == ("off", 0, 0)
    assert stage.aws.counters()["s3.GetObject"]["calls"] == 1, "the manifest, and nothing of the disk"
