"""What an export left in S3 opens, and is what was read: else it is no result (invariant 1)."""

from __future__ import annotations

import io
import os
import random
import subprocess
import tarfile
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from tests.eventually import eventually
from tests.wire.aws.exporting import launched, run_tags
from tests.wire.aws.proving import bare_image

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.instance_exports import InstanceExportRequest, InstanceExports
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.base.errors import ProofError, TamperedError
from wavelift.base.run import MemoryCheckpoints, Progress
from wavelift.base.units import GIB, KIB, MIB
from wavelift.rules.export_facts import VolumeFacts
from wavelift.services.dataplane import suspects
from wavelift.services.dataplane.export_messages import ExportOrder, ExportWritten
from wavelift.services.dataplane.export_staging import is_named
from wavelift.services.dataplane.manifests import StoredManifest

from .export_lab import EXPORT, PREFIX, ExportLab

pytestmark = pytest.mark.wire

KEY = f"{PREFIX}{EXPORT}.ova"
SMALL: Final = 32 * MIB
"""Of the volumes whose objects AWS is said to have made."""


def _damage(lab: ExportLab, written: ExportWritten, offset: int) -> None:
    """Change a byte of the object behind S3's back: its checksum and version stay."""
    found = [Path(folder, name) for folder, _, names in os.walk(lab.sim.state_folder) for name in names]
    (file,) = [
        one
        for one in found
        if one.parent.parts[-2:] == ("s3", "objects") and one.stat().st_size == written.object_bytes
    ]
    with file.open("r+b") as stored:
        stored.seek(offset)
        before = stored.read(1)[0]
        stored.seek(offset)
        stored.write(bytes([before ^ 0x40]))


@pytest.mark.parametrize("level", ["full", "sample:100"])
def test_inv_1_a_damaged_byte_names_the_disk_and_the_place(lab: ExportLab, level: str) -> None:
    order = lab.snapshot(verify=level)
    written = lab.read(order)
    verified = lab.verify(order, written)
    assert (verified.level, verified.bytes_verified) == (level, 2 * GIB)
    disk = written.disks[1]
    _damage(lab, written, disk.member_offset + disk.member_bytes // 2)
    with pytest.raises(ProofError) as caught:
        lab.verify(order, written)
    where = caught.value.where
    assert (where["server"], where["disk"], where["object"]) == (lab.instance, "disk 1 (/dev/sdf)", KEY)
    offset = where["offset"]
    assert isinstance(offset, int)
    assert 0 < offset < GIB
    assert "exported again" in caught.value.next_step


def test_inv_1_the_file_s_digest_tells_what_no_block_does(lab: ExportLab) -> None:
    """A byte of a VMDK's own descriptor: the disk is the same."""
    order = lab.snapshot(verify="full")
    written = lab.read(order)
    _damage(lab, written, written.disks[0].member_offset + 512 + 40)
    with pytest.raises(ProofError, match="another digest"):
        lab.verify(order, written)
    sampled = order.model_copy(update={"plan": order.plan.model_copy(update={"verify": "sample:1"})})
    assert lab.verify(sampled, written).level == "sample:1"


def test_inv_1_what_a_sample_found_wrong_is_looked_at_again(lab: ExportLab, monkeypatch: pytest.MonkeyPatch) -> None:
    order, checkpoints = lab.snapshot(verify="sample:1"), MemoryCheckpoints()
    written = lab.read(order)
    disk = written.disks[0]
    _damage(lab, written, disk.member_offset + disk.member_bytes // 2)
    monkeypatch.setattr(suspects, "sample_indices", lambda manifest, percent: list(manifest.data_blocks()))
    with pytest.raises(ProofError, match="differs"):
        lab.verify(order, written, lab.context(checkpoints=checkpoints))
    monkeypatch.setattr(suspects, "sample_indices", lambda manifest, percent: [1])
    with pytest.raises(ProofError, match="differs"):
        lab.verify(order, written, lab.context(checkpoints=checkpoints))
    assert lab.verify(order, written).bytes_read_back == 0  # which nobody remembers in another task


def test_inv_1_an_object_that_was_replaced_is_not_believed(lab: ExportLab) -> None:
    order = lab.snapshot()
    written = lab.read(order)
    s3 = lab.sim.client("s3")
    body = lab.fetch(KEY).read_bytes()
    replaced: list[Any] = []

    def replace(progress: Progress) -> None:
        if not replaced:
            lab.sim.advance(5)
            replaced.append(s3.put_object(Bucket=lab.bucket, Key=KEY, Body=body))

    with pytest.raises(ProofError, match=r"does not open|can't be read|changed while"):
        lab.verify(order, written, lab.context(progress=replace))
    with pytest.raises(ProofError, match="changed before it was opened"):
        lab.verify(order, written)
    s3.delete_object(Bucket=lab.bucket, Key=KEY)
    with pytest.raises(ProofError, match="it is gone"):
        lab.verify(order, written)


def _edited(written: ExportWritten, **changes: Any) -> ExportWritten:
    disk = written.disks[0].model_copy(update=changes)
    return written.model_copy(update={"disks": (disk, *written.disks[1:])})


def test_inv_1_what_came_by_xcom_is_not_believed_either(lab: ExportLab) -> None:
    order = lab.snapshot()
    written = lab.read(order)
    s3 = lab.sim.client("s3")
    wrong: list[ExportWritten | None] = [
        None,
        written.model_copy(update={"key": f"{PREFIX}other.ova"}),
        written.model_copy(update={"disks": written.disks[:1]}),
        _edited(written, snapshot_id=written.disks[1].snapshot_id),
    ]
    for each in wrong:
        with pytest.raises(TamperedError):
            lab.verify(order, each)
    for change in ({"sha256": "0" * 64}, {"member_offset": 512}, {"member_bytes": 1 * MIB}):
        with pytest.raises(ProofError, match="other files than the one that was written"):
            lab.verify(order, _edited(written, **change))
    stored = StoredManifest(lab.bucket, written.disks[1].manifest_key, written.disks[1].manifest_digest, GIB)
    with pytest.raises(TamperedError, match="manifest"):  # whole, and of the other disk
        lab.verify(order, _edited(written, manifest_key=stored.key, manifest_digest=stored.digest))
    s3.put_object(Bucket=lab.bucket, Key=written.disks[0].manifest_key, Body=b"another")
    with pytest.raises(ProofError, match="not the one that was stored"):
        lab.verify(order, written)


# --- AWS's own objects ----------------------------------------------------------------------------------------------


def _raw(folder: Path, size: int = SMALL) -> Path:
    file = folder / "disk.raw"
    content = bytearray(size)
    content[: 64 * KIB] = random.Random(1).randbytes(64 * KIB)
    content[size // 2 : size // 2 + 700_000] = random.Random(2).randbytes(700_000)
    file.write_bytes(content)
    return file


def _converted(folder: Path, form: str, *options: str, size: int = SMALL) -> bytes:
    raw, made = _raw(folder, size), folder / f"disk.{form}"
    subprocess.run(
        ("qemu-img", "convert", "-f", "raw", "-O", form, *options, str(raw), str(made)), check=True, timeout=60
    )
    return made.read_bytes()


def _ova(folder: Path, name: str, href: str = "") -> bytes:
    disk = _converted(folder, "vmdk", "-o", "subformat=streamOptimized")
    names = {"ovf": f"{name}.ovf", "vmdk": f"{name}-disk1.vmdk"}
    ovf = f"""<?xml version="1.0"?><ovf:Envelope xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"><ovf:References>
        <ovf:File ovf:href="{href or names["vmdk"]}" ovf:id="f1" ovf:size="{len(disk)}"/></ovf:References>
        <ovf:DiskSection><ovf:Disk ovf:capacity="{SMALL}" ovf:diskId="d1" ovf:fileRef="f1"/></ovf:DiskSection>
        </ovf:Envelope>""".encode()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for file, content in ((names["ovf"], ovf), (names["vmdk"], disk)):
            info = tarfile.TarInfo(file)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return out.getvalue()


MADE: Final[dict[str, tuple[str, str, Callable[[Path], bytes]]]] = {
    "ova": ("instance", "export-i-0123456789abcdef0", lambda folder: _ova(folder, "export-i-0123456789abcdef0")),
    "vmdk": (
        "image",
        "export-ami-0123456789abcdef0",
        lambda folder: _converted(folder, "vmdk", "-o", "subformat=streamOptimized"),
    ),
    "sparse vmdk": (
        "image",
        "export-ami-0123456789abcdef0",
        lambda folder: _converted(folder, "vmdk", "-o", "subformat=monolithicSparse"),
    ),
    "vhd": ("instance", "export-i-0123456789abcdef0", lambda folder: _converted(folder, "vpc")),
    "fixed vhd": (
        "image",
        "export-ami-0123456789abcdef0",
        lambda folder: _converted(folder, "vpc", "-o", "subformat=fixed"),
    ),
    "raw": ("image", "export-ami-0123456789abcdef0", lambda folder: _raw(folder).read_bytes()),
}


def _made_by_aws(lab: ExportLab, kind: str, body: bytes | None = None) -> ExportOrder:
    method, task, make = MADE[kind]
    form = kind.rpartition(" ")[2]
    instance = lab.plan().instance
    volumes = (VolumeFacts(volume_id=lab.volumes[0], device="/dev/sda1", size=SMALL, boot=True),)
    plan = lab.plan(method=method, format=form, instance=instance.model_copy(update={"volumes": volumes}))
    key = f"{PREFIX}{task}.{form}"
    lab.sim.client("s3").put_object(
        Bucket=lab.bucket, Key=key, Body=make(lab.folder) if body is None else body, ChecksumAlgorithm="CRC32"
    )
    return ExportOrder(plan=plan, key=key, task_id=task, instant=datetime.now(UTC))


@pytest.mark.parametrize("kind", list(MADE))
def test_what_aws_made_is_opened(lab: ExportLab, kind: str) -> None:
    order = _made_by_aws(lab, kind)
    verified = lab.verify(order, None)
    assert verified.level == "opened"
    assert verified.bytes_verified == 0
    assert verified.object_bytes > 0
    (line,) = verified.opened
    assert "32.0 MiB" in line or kind == "vhd" or kind == "fixed vhd"
    assert lab.discard(order, order.task_id) == (order.key,)


@pytest.mark.parametrize("kind", list(MADE))
def test_what_aws_did_not_write_to_its_end_is_no_result(lab: ExportLab, kind: str) -> None:
    whole = MADE[kind][2](lab.folder)
    order = _made_by_aws(lab, kind, whole[: len(whole) // 2 // 512 * 512])
    with pytest.raises(ProofError, match=r"does not open|holds disks of") as caught:
        lab.verify(order, None)
    assert order.key in str(caught.value.where["object"])


def test_the_object_of_a_task_is_no_other_one(lab: ExportLab) -> None:
    order = _made_by_aws(lab, "raw")
    moved = order.model_copy(update={"key": f"{PREFIX}other.raw"})
    with pytest.raises(TamperedError, match="not of this export"):
        lab.verify(moved, None)
    with pytest.raises(TamperedError, match="not of this export"):
        lab.verify(order.model_copy(update={"task_id": ""}), None)
    later = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(ProofError, match="the task was begun later"):
        lab.verify(order.model_copy(update={"instant": later}), None)
    grown = _made_by_aws(lab, "raw", bytes(SMALL + 512))
    with pytest.raises(ProofError, match="holds disks of"):
        lab.verify(grown, None)
    lab.sim.client("s3").delete_object(Bucket=lab.bucket, Key=order.key)
    with pytest.raises(ProofError, match="its object is not there"):
        lab.verify(order, None)


def test_an_ova_of_aws_whose_disk_is_missing(lab: ExportLab) -> None:
    order = _made_by_aws(lab, "ova", _ova(lab.folder, "export-i-0123456789abcdef0", href="other.vmdk"))
    with pytest.raises(ProofError, match="does not open"):
        lab.verify(order, None)


@pytest.mark.parametrize(("target", "form"), [("vmware", "ova"), ("vmware", "vmdk"), ("microsoft", "vhd")])
def test_vie_01_what_an_export_task_wrote_is_opened(lab: ExportLab, target: Any, form: Any) -> None:
    """The simulator's files are made by qemu-img and by a tar writer of its own."""
    sim, access = lab.sim, lab.access
    image = bare_image(access)
    machine = launched(access, image, lab.subnet)
    bucket = sim.export_bucket("exports-of-tasks")
    try:
        api = InstanceExports(access)
        task = api.start(InstanceExportRequest(machine, target, form, bucket, PREFIX, run_tags(), "exp-1"))
        assert eventually(lambda: api.describe([task.task_id])[task.task_id].finished)
        plan = lab.plan(method="instance", format=form)
        volumes = (VolumeFacts(volume_id="vol-1", device="/dev/sda1", size=GIB, boot=True),)
        instance = plan.instance.model_copy(update={"instance_id": machine, "volumes": volumes})
        place = plan.place.model_copy(update={"bucket": bucket})
        plan = plan.model_copy(update={"instance": instance, "place": place})
        order = ExportOrder(plan=plan, key=task.object_key(form), task_id=task.task_id, instant=datetime.now(UTC))
        verified = lab.verify(order, None)
        assert len(verified.opened) == 1
        assert lab.discard(order, task.task_id) == (order.key,)
        assert lab.discard(order, task.task_id) == ()
    finally:
        sim.client("s3").delete_bucket(Bucket=bucket)
        Ec2(access).terminate([machine])
        Ec2(access).deregister(image, delete_snapshots=True)


# --- removal --------------------------------------------------------------------------------------------------------


def test_a_prefix_need_not_end_with_a_slash() -> None:
    assert is_named(f"web-{EXPORT}.ova", EXPORT)
    assert is_named(f"a.b/{EXPORT}.ova", EXPORT)
    for key in (f"{EXPORT}/disk-0.manifest", f"{EXPORT}.ova/x", f"{EXPORT}2.ova", EXPORT, f"x.{EXPORT}/a"):
        assert not is_named(key, EXPORT)
    assert not is_named(f"{EXPORT}.ova", "")


def test_an_export_discards_its_own_only(lab: ExportLab) -> None:
    order, s3 = lab.snapshot(), lab.sim.client("s3")
    stays = {f"{PREFIX}{EXPORT}/disk-0.manifest", f"{PREFIX}{EXPORT}/notes.txt", f"{KEY}.old", KEY}
    for key in stays:
        s3.put_object(Bucket=lab.bucket, Key=key, Body=b"of somebody else")
    assert lab.discard(order) == ()
    assert set(lab.keys()) == stays
    with closing(S3Staging(lab.access, lab.bucket)) as staging:
        staging.put_object(KEY, b"ours", metadata={"wavelift-run": EXPORT.removeprefix("exp-")})
    assert lab.discard(order) == (KEY,)
    assert set(lab.keys()) == stays - {KEY}
    for key, task in ((f"{PREFIX}other.ova", ""), (KEY, "export-i-0123456789abcdef0")):
        with pytest.raises(Exception, match="has not the name of this export"):
            lab.discard(order.model_copy(update={"key": key}), task)


def test_of_a_bucket_that_is_gone_nothing_is_left(lab: ExportLab) -> None:
    order = lab.snapshot()
    place = order.plan.place.model_copy(update={"bucket": "export-to-s3-gone-eu-central-1"})
    gone = order.model_copy(update={"plan": order.plan.model_copy(update={"place": place})})
    assert lab.discard(gone) == ()
