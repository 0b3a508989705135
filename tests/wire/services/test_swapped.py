"""A staged disk that somebody who may write to the bucket changes before AWS has imported it: nothing of it is ever a
result (invariant 1)."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from tests.eventually import eventually
from tests.ledgers import within

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.base.domain import StoredDisk
from wavelift.base.errors import PermanentError, ProofError, TamperedError, UnreachableError
from wavelift.base.names import TAG_RUN
from wavelift.base.units import MIB
from wavelift.ledger import migrations
from wavelift.ledger.events import list_events
from wavelift.services.common.slots import InQueue
from wavelift.services.dataplane.importing import VERDICT_KEY, ImportRunning, ImportWaiting
from wavelift.services.dataplane.messages import ServerTask
from wavelift.services.migration.image import record_image
from wavelift.services.migration.launch import launch

from .journey import Journey, Outcome, Stage
from .servers import noise

pytestmark = pytest.mark.wire

BOTH = pytest.mark.parametrize("bucket", ["versions", "no versions"], indirect=True)
VERSIONS = pytest.mark.parametrize(
    "bucket", ["versions", pytest.param("no versions", marks=pytest.mark.proof)], indirect=True
)
"""Without versions only in ``make proof``: what :data:`BOTH` shows in every run is the same there."""


@pytest.fixture
def bucket(request: pytest.FixtureRequest, stage: Stage) -> Iterator[str]:
    """A staging bucket of its own, with versioning unless the test says otherwise."""
    s3, name = stage.aws.client("s3"), "swapped-bucket"
    stage.aws.bootstrap(bucket=name)
    if getattr(request, "param", "versions") == "versions":
        s3.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    stage.environment_changes["staging"] = {"bucket": name, "prefix": "stage"}
    yield name
    for journey in stage.journeys:
        journey.discard()
    rows = s3.list_object_versions(Bucket=name)
    for row in (*rows.get("Versions", ()), *rows.get("DeleteMarkers", ())):
        s3.delete_object(Bucket=name, Key=row["Key"], VersionId=row["VersionId"])
    s3.delete_bucket(Bucket=name)


def _disk(journey: Journey) -> StoredDisk:
    assert journey.outcome.export is not None
    return journey.outcome.export.disks[0]


def _body(journey: Journey) -> bytes:
    disk = _disk(journey)
    found = journey.stage.aws.client("s3").get_object(Bucket=disk.bucket, Key=disk.object_key)
    body: bytes = found["Body"].read()
    return body


def _other_disk(folder: Path, size: int) -> bytes:
    """A good image of the same size that holds something else."""
    raw, vmdk = folder / "other.raw", folder / "other.vmdk"
    raw.write_bytes(noise(77, size // 2).ljust(size, b"\0"))
    command = ["qemu-img", "convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized", raw, vmdk]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    return vmdk.read_bytes()


def _put(journey: Journey, body: bytes) -> None:
    """As somebody with the right to write would: with the checksum that the export's object has."""
    disk, s3 = _disk(journey), journey.stage.aws.client("s3")
    at = {"Bucket": disk.bucket, "Key": disk.object_key}
    upload = s3.create_multipart_upload(**at, ChecksumAlgorithm="SHA256", ChecksumType="COMPOSITE")["UploadId"]
    checksum = base64.b64encode(hashlib.sha256(body).digest()).decode()
    part = s3.upload_part(**at, UploadId=upload, PartNumber=1, Body=body, ChecksumSHA256=checksum)
    parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumSHA256": checksum}]
    s3.complete_multipart_upload(**at, UploadId=upload, MultipartUpload={"Parts": parts})


def _events(journey: Journey, action: str) -> list[Any]:
    return [one for one in within(journey.ledger.read(), list_events) if one.action == f"migration.{action}"]


def _assert_refused(journey: Journey, done: Outcome, images: set[str], words: str) -> None:
    assert isinstance(done.error, ProofError), done.error
    assert words in str(done.error)
    assert done.error.where["server"] == "web01"
    assert done.error.where["disk"] == "disk 0 (SCSI 0:0)"
    assert done.image is None
    state = journey.stage.aws.state()
    assert set(state["images"]) == images
    assert not [one for one in state["snapshots"] if one["origin"].startswith("import-ami-")]
    assert done.migration is not None
    assert (done.migration.state, done.migration.image_id) == ("failed", "")
    (event,) = _events(journey, "source_changed")
    assert words in event.details["why"]
    assert event.details["object"].endswith("/disk-0.vmdk")


def _images(stage: Stage) -> set[str]:
    return set(stage.aws.state()["images"])


@pytest.fixture
def journey(stage: Stage, bucket: str) -> Journey:
    return stage.journey("web01", defaults={"launch": "none", "verify": "off"})


@VERSIONS
def test_inv_1_a_disk_names_the_checksum_and_version_of_its_object(stage: Stage, bucket: str, journey: Journey) -> None:
    heads: list[Any] = []

    def look() -> None:
        at = {"Bucket": bucket, "Key": _disk(journey).object_key}
        heads.append(stage.aws.client("s3").head_object(**at, ChecksumMode="ENABLED"))

    journey.until = "verify"
    journey.before["verify"] = look
    done = journey.run()
    assert done.error is None
    disk, head = _disk(journey), heads[0]
    assert disk.version.etag == head["ETag"]
    assert disk.version.checksum.endswith(f"-{disk.parts}")
    assert disk.version.version_id == head.get("VersionId", "")
    assert disk.version.checksum == head["ChecksumSHA256"]
    assert disk.version.modified == head["LastModified"].isoformat()


@BOTH
def test_inv_1_a_disk_swapped_before_the_import_is_not_imported(stage: Stage, journey: Journey, tmp_path: Path) -> None:
    stage.aws.control("DELETE", "counters")
    images = _images(stage)
    journey.before["import"] = lambda: _put(journey, _other_disk(tmp_path, 16 * MIB))
    done = journey.run()
    _assert_refused(journey, done, images, "changed between its export and its import: ")
    assert "ec2.ImportImage" not in stage.aws.counters()


def test_inv_1_a_bucket_that_begins_to_keep_versions_meanwhile_changes_no_disk(stage: Stage) -> None:
    """As pre-flight recommends. S3 then says ``null`` of the objects that were there before."""
    bucket = "later-versions"
    s3 = stage.aws.client("s3")
    stage.aws.bootstrap(bucket=bucket)
    stage.environment_changes["staging"] = {"bucket": bucket, "prefix": "stage"}
    journey = stage.journey("web01", defaults={"launch": "none"})
    enable = {"Bucket": bucket, "VersioningConfiguration": {"Status": "Enabled"}}
    journey.before["import"] = lambda: s3.put_bucket_versioning(**enable)
    done = journey.run()
    assert done.error is None
    journey.discard()
    rows = s3.list_object_versions(Bucket=bucket)
    for row in (*rows.get("Versions", ()), *rows.get("DeleteMarkers", ())):
        s3.delete_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])
    s3.delete_bucket(Bucket=bucket)


def _swap_in_the_queue(journey: Journey, swap: Callable[[], object], *, after: Callable[[], object] = bool) -> None:
    """AWS has the import in its queue for hours: swap then, and do ``after`` once AWS has read the object."""
    aws = journey.stage.aws
    done: list[ImportRunning] = []
    aws.rule(kind="import", phase="converting", outcome="held", count=1)

    def watch(found: ImportRunning | ImportWaiting | InQueue) -> None:
        if not isinstance(found, ImportRunning) or done:
            return
        done.append(found)
        assert eventually(lambda: aws.rules()[0]["applied"] == 1)
        swap()
        aws.rule(kind="import", phase="booting", outcome="held", count=1)
        first = aws.rules()[0]["id"]
        aws.control("DELETE", "rules", {"id": first})
        assert eventually(lambda: aws.rules()[0]["applied"] == 1)
        after()
        aws.clear_rules()

    journey.watch_import = watch


@BOTH
def test_inv_1_a_disk_swapped_while_its_import_waits_in_aws_leaves_no_image(
    stage: Stage, journey: Journey, tmp_path: Path
) -> None:
    images = _images(stage)
    _swap_in_the_queue(journey, lambda: _put(journey, _other_disk(tmp_path, 16 * MIB)))
    done = journey.run()
    _assert_refused(journey, done, images, "changed while it was imported: ")


@VERSIONS
def test_inv_1_a_disk_swapped_and_put_back_leaves_no_image(stage: Stage, journey: Journey, tmp_path: Path) -> None:
    """The bytes are right before and after: only its version, or the time, tells that AWS may have read others."""
    images = _images(stage)
    kept: list[bytes] = []

    def swap() -> None:
        kept.append(_body(journey))
        _put(journey, _other_disk(tmp_path, 16 * MIB))

    def put_back() -> None:
        stage.aws.advance(5)  # S3 tells times in whole seconds, and a queue of hours passes by in this test
        _put(journey, kept[0])

    _swap_in_the_queue(journey, swap, after=put_back)
    done = journey.run()
    _assert_refused(journey, done, images, "its bytes are the same, but it was written again")


def test_inv_1_no_upload_that_was_begun_before_can_put_a_disk_back(
    stage: Stage, journey: Journey, tmp_path: Path
) -> None:
    """S3 dates an object by when its upload was initiated: one that was begun beside ours would have our date."""
    s3 = stage.aws.client("s3")
    begun: dict[str, Any] = {}

    def begin() -> None:
        begun.update({"Bucket": _disk(journey).bucket, "Key": _disk(journey).object_key})
        begun["UploadId"] = s3.create_multipart_upload(**begun)["UploadId"]
        etag = s3.upload_part(**begun, PartNumber=1, Body=b"theirs")["ETag"]
        begun["MultipartUpload"] = {"Parts": [{"PartNumber": 1, "ETag": etag}]}

    def complete() -> None:
        with pytest.raises(ClientError, match="NoSuchUpload"):
            s3.complete_multipart_upload(**begun)

    journey.before["import"] = begin
    _swap_in_the_queue(journey, complete)
    done = journey.run()
    assert done.error is None
    assert begun


def test_inv_1_a_disk_deleted_while_it_is_imported_leaves_no_image(stage: Stage, journey: Journey) -> None:
    images, s3 = _images(stage), stage.aws.client("s3")

    def delete() -> None:
        s3.delete_object(Bucket=_disk(journey).bucket, Key=_disk(journey).object_key)

    _swap_in_the_queue(journey, lambda: None, after=delete)
    _assert_refused(journey, journey.run(), images, "it is gone")


def test_inv_1_the_verdict_outlives_a_clear(stage: Stage, bucket: str, journey: Journey, tmp_path: Path) -> None:
    """The very version is back when the task is cleared: it is refused again, and nothing is imported."""
    s3 = stage.aws.client("s3")
    originals: list[str] = []

    def swap() -> None:
        originals.append(_disk(journey).version.version_id)
        _put(journey, _other_disk(tmp_path, 16 * MIB))

    _swap_in_the_queue(journey, swap)
    images = _images(stage)
    assert isinstance(journey.run().error, ProofError)
    disk = _disk(journey)
    rows = s3.list_object_versions(Bucket=bucket, Prefix=disk.object_key)
    for row in (*rows["Versions"], *rows["DeleteMarkers"]):
        if row["VersionId"] not in originals:
            s3.delete_object(Bucket=bucket, Key=row["Key"], VersionId=row["VersionId"])
    assert s3.head_object(Bucket=bucket, Key=disk.object_key)["VersionId"] == disk.version.version_id
    stage.aws.control("DELETE", "counters")
    with pytest.raises(ProofError, match="changed while it was imported"):
        journey.import_image(journey.preflight()[0])
    assert "ec2.ImportImage" not in stage.aws.counters()
    assert _images(stage) == images


def test_inv_1_an_import_whose_submission_had_no_answer_is_ended_with_its_image(
    stage: Stage, journey: Journey, tmp_path: Path
) -> None:
    """The disk is swapped between the lost answer and the retry."""
    images = _images(stage)
    stage.aws.rule(service="ec2", operation="ImportImage", cut_response_after=0)
    swapped: list[bool] = []
    original = journey.import_image

    def import_image(task: Any) -> Any:
        try:
            return original(task)
        except UnreachableError:
            if not swapped:
                swapped.append(True)
                stage.aws.clear_rules()
                _put(journey, _other_disk(tmp_path, 16 * MIB))
            raise

    journey.import_image = import_image  # type: ignore[method-assign]
    done = journey.run()
    assert swapped
    _assert_refused(journey, done, images, "changed between its export and its import: ")
    assert not stage.aws.state()["import_tasks"]


def test_inv_5_only_what_was_imported_of_the_changed_disk_goes(
    stage: Stage, bucket: str, journey: Journey, tmp_path: Path
) -> None:
    """An image of another run stays, whatever it is of."""
    other = stage.journey("mute01", defaults={"launch": "none", "verify": "off"})
    kept = other.run()
    assert kept.image is not None
    _swap_in_the_queue(journey, lambda: _put(journey, _other_disk(tmp_path, 16 * MIB)))
    done = journey.run()
    assert isinstance(done.error, ProofError)
    found = Ec2(journey.access).images([kept.image.image_id])
    assert kept.image.image_id in found
    assert found[kept.image.image_id].tags[TAG_RUN]


def test_inv_6_an_accepted_import_is_found_again_after_its_disks_were_deleted(stage: Stage, journey: Journey) -> None:
    done = journey.run()
    assert done.error is None
    assert done.image is not None
    task = journey.preflight()[0]
    image = journey.import_image(task)
    assert image.image_id == done.image.image_id
    launch(journey.ledger, journey.access, task, image, journey.ctx(task, "launch"))
    assert _events(journey, "source_changed") == []


@pytest.mark.parametrize(
    "forgotten",
    [
        "all",
        *(
            pytest.param(each, marks=pytest.mark.proof)
            for each in ("verdict", "all, and the ledger is of an older version")
        ),
    ],
)
def test_inv_6_an_image_that_is_recorded_stays_when_its_checkpoints_are_gone(
    stage: Stage, journey: Journey, forgotten: str
) -> None:
    """Airflow deletes checkpoints after 30 days, or at the task's success ([state_store] clear_on_success)."""
    done = journey.run()
    assert done.image is not None
    task = journey.preflight()[0]
    record_image(journey.ledger, journey.access, task, done.image, journey.ctx(task, "launch"))
    if "older" in forgotten:
        assert journey.outcome.export is not None
        export = journey.outcome.export.model_dump(mode="json", exclude_defaults=True)
        assert export != journey.outcome.export.dump()
        ctx = journey.ctx(task, "launch")
        with journey.ledger.write() as tx:
            id = migrations.migration_id(ctx.run_key)
            migrations.ROWS.note(tx, id, "exported", clock=ctx.clock, export_result=export)
    if forgotten != "verdict":
        journey.stores.pop((task.name, "import"))
        with pytest.raises(PermanentError, match="its image ami-"):
            journey.import_image(task)
    else:
        forget_verdict(journey, task)
        assert journey.import_image(task).image_id == done.image.image_id
    assert done.image.image_id in Ec2(journey.access).images([done.image.image_id])
    assert _events(journey, "source_changed") == []


def forget_verdict(journey: Journey, task: ServerTask) -> None:
    ctx = journey.ctx(task, "launch")
    with journey.ledger.write() as tx:
        migrations.ROWS.note(tx, migrations.migration_id(ctx.run_key), "forgot", clock=ctx.clock, import_verdict=None)


def test_inv_1_an_image_is_recorded_only_if_what_its_import_read_was_compared(stage: Stage) -> None:
    """``import_image`` was marked as a success, and its XCom written by hand. A verdict in the task's state is none."""
    journey = stage.journey("web01", defaults={"launch": "none"})
    (task,) = journey.preflight()
    journey.reserve(task)
    journey.outcome.snapshot = journey.take_snapshot(task)
    journey.outcome.export = journey.export(task)
    journey.remove(task)
    journey.outcome.verified = journey.verify(task)
    image = journey.import_image(task)
    forget_verdict(journey, task)
    ctx = journey.ctx(task, "import")
    ctx.checkpoints.set(VERDICT_KEY, {"task_id": image.task_id, "accepted": True})
    with pytest.raises(TamperedError, match="Nobody compared") as caught:
        record_image(journey.ledger, journey.access, task, image, ctx)
    assert caught.value.field == "import_verdict"
    record_image(journey.ledger, journey.access, task, journey.import_image(task), ctx)


@pytest.mark.parametrize(
    "verify", ["full", *(pytest.param(each, marks=pytest.mark.proof) for each in ("sample:5", "off"))]
)
def test_inv_1_a_disk_put_again_before_it_is_read_back_is_refused(stage: Stage, bucket: str, verify: str) -> None:
    """The same bytes are harmless then, and refused all the same: one rule for every step."""
    journey = stage.journey("web01", defaults={"verify": verify})

    def again() -> None:
        stage.aws.advance(5)
        _put(journey, _body(journey))

    journey.before["verify"] = again
    done = journey.run()
    assert isinstance(done.error, ProofError)
    assert "before it was read back" in str(done.error)
    assert done.phase == "verify"


@VERSIONS
@pytest.mark.parametrize("verify", ["full", "sample:100"])
def test_inv_1_a_disk_swapped_while_it_is_read_back_is_refused(
    stage: Stage, bucket: str, verify: str, tmp_path: Path
) -> None:
    """Every read is of the version that was compared, never of another one."""
    journey = stage.journey("web01", defaults={"verify": verify})
    kept: list[bytes] = []
    aws = stage.aws
    body = _other_disk(tmp_path, 16 * MIB)

    def swap_after_the_check() -> None:
        rule = aws.rule(service="s3", operation="GetObject", key="*disk-0.vmdk", latency=60, count=1)

        def swap() -> None:
            eventually(lambda: any(one["id"] == rule and one["applied"] for one in aws.rules()))
            kept.append(_body(journey))
            _put(journey, body)
            aws.clear_rules()

        thread = threading.Thread(target=swap)
        thread.start()
        journey.before["import"] = thread.join

    journey.before["verify"] = swap_after_the_check
    journey.until = "verify"
    done = journey.run()
    journey.before.get("import", lambda: None)()
    assert kept
    versions = stage.aws.client("s3").get_bucket_versioning(Bucket=bucket).get("Status") == "Enabled"
    # With versions, the one that was exported is read to its end and proven; the swap is met before the import.
    assert (done.error is None) == versions
    if not versions:
        assert isinstance(done.error, ProofError)
        assert "disk 0 (SCSI 0:0)" in str(done.error)
