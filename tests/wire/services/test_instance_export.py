"""An instance's snapshots become one OVA in S3, bit for bit; a retry keeps what S3 has (AMP-10, invariants 1 and 6)."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import boto3
import pytest
from botocore.credentials import DeferredRefreshableCredentials, create_assume_role_refresher
from botocore.session import get_session
from tests.eventually import eventually

from wavelift.adapters.aws.access import Outages
from wavelift.base.errors import (
    Cancelled,
    FencedError,
    MissingPrivilegeError,
    NotFoundError,
    ProofError,
    TamperedError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.run import CancelFlag, MemoryCheckpoints, Progress
from wavelift.base.units import MIB
from wavelift.services.dataplane.export_messages import ExportOrder, ExportWritten
from wavelift.simulators.aws import Bootstrap

from .export_lab import EXPORT, PREFIX, ExportLab

pytestmark = pytest.mark.wire

KEY = f"{PREFIX}{EXPORT}.ova"
MANIFESTS = [f"{PREFIX}{EXPORT}/disk-0.manifest", f"{PREFIX}{EXPORT}/disk-1.manifest"]
ROOT = Path(__file__).parents[3]
HELD_S = 240.0
"""A call that a rule holds back goes on when the rule is dropped."""


def test_amp_10_an_instance_of_two_disks_is_exported_bit_for_bit(lab: ExportLab) -> None:
    """Also when it is terminated once its snapshots are taken."""
    order = lab.snapshot()
    lab.sim.client("ec2").terminate_instances(InstanceIds=[lab.instance])
    told: list[Progress] = []
    written = lab.read(order, lab.context(progress=told.append))
    lab.assert_equals_volumes(order)
    assert lab.keys() == [KEY, *MANIFESTS]
    assert {one.disk for one in told} == {"disk 0 (/dev/sda1)", "disk 1 (/dev/sdf)"}
    assert {(one.server, one.phase) for one in told} == {(lab.instance, "export")}
    assert [disk.member for disk in written.disks] == [f"{EXPORT}-disk1.vmdk", f"{EXPORT}-disk2.vmdk"]
    assert written.parts > 4
    assert written.parts_kept == 0
    verified = lab.verify(order, written)
    assert (verified.level, verified.bytes_verified) == ("full", 2 << 30)
    assert len(verified.opened) == 2
    assert verified.version == written.version
    s3 = lab.sim.client("s3")
    tags = s3.get_object_tagging(Bucket=lab.bucket, Key=MANIFESTS[0])["TagSet"]
    assert {tag["Key"]: tag["Value"] for tag in tags}["wavelift:wave"] == "instance_export.lab"
    assert sorted(lab.discard(order)) == [KEY, *MANIFESTS]
    assert lab.keys() == []
    assert lab.discard(order) == ()


# --- another try ----------------------------------------------------------------------------------------------------


WITHIN: Final = {"service": "ebs", "operation": "GetSnapshotBlock", "skip": 55, "latency": HELD_S}
"""A rule that holds the reads back within the second disk."""


def _stopping(lab: ExportLab, stop: Callable[[], object]) -> Callable[[Progress], None]:
    """Stops within the second disk."""
    lab.sim.rule(**WITHIN)

    def tell(progress: Progress) -> None:
        if progress.disk.startswith("disk 1") and lab.sim.rules()[0]["applied"]:
            stop()

    return tell


def _raise(error: BaseException) -> Any:
    raise error


def _broken_off(lab: ExportLab, order: ExportOrder, checkpoints: MemoryCheckpoints) -> None:
    """A try that ends within the second disk."""
    tell = _stopping(lab, lambda: _raise(UnreachableError("the line is cut")))
    with pytest.raises(UnreachableError, match="the line is cut"):
        lab.read(order, lab.context(checkpoints=checkpoints, progress=tell))
    lab.sim.clear_rules()


def test_inv_6_a_retry_goes_on_with_the_same_upload(lab: ExportLab) -> None:
    order, checkpoints = lab.snapshot(), MemoryCheckpoints()
    _broken_off(lab, order, checkpoints)
    (upload,) = lab.uploads()
    lab.sim.control("DELETE", "counters")
    written = lab.read(order, lab.context(checkpoints=checkpoints))
    assert written.parts_kept >= upload["parts"] > 1
    assert lab.sim.counters()["s3.UploadPart"]["calls"] == written.parts - written.parts_kept
    assert "s3.CreateMultipartUpload" not in lab.sim.counters()
    assert lab.uploads() == []
    lab.verify(order, written)
    lab.sim.control("DELETE", "counters")
    again = lab.read(order, lab.context(checkpoints=checkpoints))  # the try before ended before it was believed
    assert again == written
    assert "ebs.GetSnapshotBlock" not in lab.sim.counters()


def test_inv_6_two_instants_never_meet_in_one_upload(lab: ExportLab) -> None:
    first, checkpoints = lab.snapshot(), MemoryCheckpoints()
    _broken_off(lab, first, checkpoints)
    lab.sim.client("s3").create_multipart_upload(Bucket=lab.bucket, Key=KEY)  # of a try that was killed right then
    other = lab.sim.client("s3").create_multipart_upload(Bucket=lab.bucket, Key=f"{KEY}.other")
    before = {one["id"] for one in lab.uploads()}
    second = lab.snapshot()
    begun: list[set[str]] = []

    def tell(progress: Progress) -> None:
        begun.append({one["id"] for one in lab.uploads()})

    written = lab.read(second, lab.context(checkpoints=checkpoints, progress=tell))
    assert begun[0] & before == {other["UploadId"]}
    assert written.parts_kept == 0
    lab.sim.client("s3").abort_multipart_upload(Bucket=lab.bucket, Key=f"{KEY}.other", UploadId=other["UploadId"])
    assert [disk.snapshot_id for disk in written.disks] == [disk.snapshot_id for disk in second.disks]
    lab.verify(second, written)


def test_a_lost_answer_of_the_completion_is_no_failure(lab: ExportLab) -> None:
    order = lab.snapshot()
    lab.sim.rule(service="s3", operation="CompleteMultipartUpload", count=1, cut_response_after=0)
    written = lab.read(order)
    lab.verify(order, written)


def test_a_cancelled_try_leaves_what_the_end_of_the_run_discards(lab: ExportLab) -> None:
    order, cancel = lab.snapshot(), CancelFlag()
    with pytest.raises(Cancelled):
        lab.read(order, lab.context(cancel=cancel, progress=_stopping(lab, cancel.set)))
    assert len(lab.uploads()) == 1
    assert lab.discard(order) == ("upload", MANIFESTS[0])
    assert (lab.uploads(), lab.keys()) == ([], [])


@pytest.mark.parametrize("how", ["told", "flag"])
def test_a_try_that_another_one_replaced_cleans_up_nothing(lab: ExportLab, how: str) -> None:
    order, cancel = lab.snapshot(), CancelFlag()
    stop: Callable[[], object] = (
        (lambda: _raise(FencedError("another try")))
        if how == "told"
        else (lambda: cancel.set("another try", fenced=True))
    )
    with pytest.raises(FencedError):
        lab.read(order, lab.context(cancel=cancel, progress=_stopping(lab, stop)))
    assert len(lab.uploads()) == 1
    lab.sim.clear_rules()
    lab.discard(order)


# --- trouble --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [
        pytest.param([{"service": "s3", "operation": "UploadPart", "throttle": True, "count": 5}], id="S3 slows down"),
        pytest.param([{"service": "s3", "operation": "*", "status": 503, "count": 6}], id="S3 503s"),
        pytest.param([{"service": "s3", "operation": "UploadPart", "code": "BadDigest", "status": 400, "count": 1}],
                     id="a part is refused once"),
        pytest.param([{"service": "ebs", "operation": "GetSnapshotBlock", "throttle": True, "count": 20}],
                     id="EBS reads throttled"),
        pytest.param([{"service": "ebs", "operation": "ListSnapshotBlocks", "throttle": True, "count": 2},
                      {"service": "ebs", "operation": "GetSnapshotBlock", "skip": 9, "cut_response_after": 1000,
                       "count": 3}], id="EBS cut off"),
    ],
)  # fmt: skip
def test_what_passes_by_itself_is_borne(lab: ExportLab, rules: list[dict[str, Any]]) -> None:
    order = lab.snapshot()
    for rule in rules:
        lab.sim.rule(**rule)
    # As a task has it: calls of boto3 are borne by time, too.
    access = lab.sim_access(outages=Outages(patience_s=30, cancel=CancelFlag(), proven=True))
    written = lab.read(order, access=access)
    assert all(one["applied"] for one in lab.sim.rules())
    lab.sim.clear_rules()
    lab.verify(order, written)


def test_keys_that_expire_in_mid_read_are_renewed(lab: ExportLab, account: Bootstrap) -> None:
    refresh = create_assume_role_refresher(
        lab.sim.client("sts"), {"RoleArn": account.assumable_role_arn, "RoleSessionName": "wavelift"}
    )
    core = get_session()
    core._credentials = DeferredRefreshableCredentials(refresh, "assume-role")

    access = lab.sim_access(boto3.Session(botocore_session=core, region_name=lab.sim.region))
    expired: list[int] = []

    def tell(progress: Progress) -> None:
        if progress.disk.startswith("disk 1") and not expired:
            expired.append(lab.sim.expire_sessions())

    order = lab.snapshot()
    written = lab.read(order, lab.context(progress=tell), access)
    assert expired[0] >= 1
    lab.verify(order, written)


@pytest.mark.parametrize(
    ("rule", "error", "says"),
    [
        pytest.param({"code": "AccessDenied", "status": 403, "skip": 2}, MissingPrivilegeError, "s3:PutObject",
                     id="grants taken away"),
        pytest.param({"code": "BadDigest", "status": 400, "skip": 1}, ProofError, "part", id="a part is refused"),
    ],
)  # fmt: skip
def test_what_no_retry_cures_leaves_no_upload(
    lab: ExportLab, rule: dict[str, Any], error: type[WaveliftError], says: str
) -> None:
    order = lab.snapshot()
    lab.sim.rule(service="s3", operation="UploadPart", **rule)
    with pytest.raises(error, match=says) as caught:
        lab.read(order)
    assert caught.value.where["server"] == lab.instance
    assert caught.value.where["export"] == EXPORT
    assert lab.uploads() == []
    lab.discard(order)


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_snapshot_that_is_deleted_is_told_with_its_volume(lab: ExportLab, when: str) -> None:
    order = lab.snapshot()
    gone = order.disks[1]

    def delete() -> None:
        lab.sim.client("ec2").delete_snapshot(SnapshotId=gone.snapshot_id)

    def tell(progress: Progress) -> None:
        if when == "meanwhile" and gone.snapshot_id in lab.made:
            delete()
            lab.made.remove(gone.snapshot_id)

    if when == "before":
        delete()
    with pytest.raises(NotFoundError, match="snapshot that was to be read is gone") as caught:
        lab.read(order, lab.context(progress=tell))
    where = caught.value.where
    assert (where["volume"], where["snapshot"]) == (gone.volume_id, gone.snapshot_id)
    assert where["disk"] == "disk 1 (/dev/sdf)"
    assert "new snapshots" in caught.value.next_step
    assert lab.uploads() == []
    lab.discard(order)


def test_what_came_by_xcom_is_compared_before_anything_is_made(lab: ExportLab) -> None:
    order = lab.snapshot()
    ec2 = lab.sim.client("ec2")
    foreign = ec2.create_snapshot(VolumeId=lab.volumes[0])["SnapshotId"]
    lab.made.append(foreign)
    lab.sim.advance(lab.sim.settings()["image_seconds"] + 1)
    swapped = order.disks[0].model_copy(update={"snapshot_id": foreign})
    with pytest.raises(TamperedError, match="not of this export"):
        lab.read(order.model_copy(update={"disks": (swapped, order.disks[1])}))
    assert lab.uploads() == []
    grown = order.disks[0].model_copy(update={"capacity": 2 << 30})
    with pytest.raises(TamperedError, match="another size"):
        lab.read(order.model_copy(update={"disks": (grown, order.disks[1])}))
    assert lab.uploads() == []


@pytest.mark.parametrize("what", ["export", "environment", "key"])
def test_an_order_of_another_export_overwrites_nothing(lab: ExportLab, what: str) -> None:
    order = lab.snapshot()
    other: dict[str, dict[str, Any]] = {
        "export": {"plan": order.plan.model_copy(update={"export": "exp-0123456789ab"})},
        "environment": {"plan": lab.plan(place=order.plan.place.model_copy(update={"environment": "prod"}))},
        "key": {"key": f"{PREFIX}nightly.ova"},
    }
    swapped = order.model_copy(update=other[what])
    with pytest.raises(TamperedError, match="not of this run's export") as caught:
        lab.read(swapped)
    assert caught.value.where["field"] == f"order.{what}"
    with pytest.raises(TamperedError, match="not of this run's export"):
        lab.verify(swapped, None)
    assert (lab.uploads(), lab.keys()) == ([], [])


def test_a_try_that_was_replaced_while_it_began_its_upload_leaves_none(lab: ExportLab) -> None:
    """The end of the run may have aborted all uploads before this one was begun."""
    order = lab.snapshot()
    checkpoints = MemoryCheckpoints()
    remember = checkpoints.set

    def outlived(key: str, value: Any) -> None:
        if value.get("upload_id"):
            raise FencedError("another try")
        remember(key, value)

    checkpoints.set = outlived  # type: ignore[method-assign]
    with pytest.raises(FencedError):
        lab.read(order, lab.context(checkpoints=checkpoints))
    assert lab.uploads() == []


def test_the_bucket_s_default_encryption_is_told_again(lab: ExportLab, account: Bootstrap) -> None:
    """For policies that refuse what names none."""
    s3 = lab.sim.client("s3")
    rule = {"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": account.kms_key_arn}}
    s3.put_bucket_encryption(Bucket=lab.bucket, ServerSideEncryptionConfiguration={"Rules": [rule]})
    deny = {
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:PutObject",
        "Resource": f"arn:aws:s3:::{lab.bucket}/*",
        "Condition": {"StringNotEquals": {"s3:x-amz-server-side-encryption": "aws:kms"}},
    }
    s3.put_bucket_policy(Bucket=lab.bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [deny]}))
    order = lab.snapshot()
    lab.verify(order, lab.read(order))
    for key in (KEY, *MANIFESTS):
        assert s3.head_object(Bucket=lab.bucket, Key=key)["SSEKMSKeyId"] == account.kms_key_arn


# --- kill -9 --------------------------------------------------------------------------------------------------------


class Tries:
    """Processes of ``export_worker`` that share their checkpoints."""

    def __init__(self, lab: ExportLab, order: ExportOrder) -> None:
        sim = lab.sim
        self.lab = lab
        self.told = {
            "order": order.dump(),
            "store": str(lab.folder / "store.json"),
            "keys": {
                "aws_access_key_id": sim.access_key,
                "aws_secret_access_key": sim.secret_key,
                "region_name": sim.region,
            },
            "aws": {"endpoint_url": sim.endpoint_url, "verify": sim.verify},
        }

    def start(self) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tests.wire.services.export_worker"]
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdin is not None
        process.stdin.write(json.dumps(self.told))
        process.stdin.close()
        process.stdin = None
        return process

    def killed_at(self, **rule: Any) -> None:
        """A try that is killed while the rule holds one of its calls back, and once no other is on its way."""
        held = self.lab.sim.rule(**{"latency": HELD_S, **rule})
        process = self.start()
        try:
            assert eventually(lambda: any(one["applied"] for one in self.lab.sim.rules() if one["id"] == held))
            self._settle()
        finally:
            process.kill()
            process.communicate()
        self.lab.sim.clear_rules()

    def _settle(self) -> None:
        """Nothing moves any more but what is held back."""
        before, same = self.lab.sim.counters(), 0
        while same < 3:
            time.sleep(0.1)
            now = self.lab.sim.counters()
            before, same = now, same + 1 if now == before else 0

    def finish(self) -> dict[str, Any]:
        process = self.start()
        out, _ = process.communicate(timeout=120)
        answer: dict[str, Any] = json.loads(out)
        assert "error" not in answer, answer
        return answer


def test_inv_6_a_reader_that_was_killed_sends_no_part_again(lab: ExportLab) -> None:
    """Within the second disk: the first part and the one with the second disk's header are held back, unsent."""
    order = lab.snapshot()
    tries = Tries(lab, order)
    tries.killed_at(**WITHIN)
    (upload,) = lab.uploads()
    lab.sim.control("DELETE", "counters")
    answer = tries.finish()
    written = ExportWritten.load(answer["result"])
    assert written.parts_kept >= upload["parts"] >= 2
    assert lab.sim.counters()["s3.UploadPart"]["calls"] == written.parts - written.parts_kept
    assert answer["added"] < 160 * MIB
    lab.verify(order, written)


def test_inv_6_a_reader_that_was_killed_while_the_first_part_was_unsent(lab: ExportLab) -> None:
    order = lab.snapshot()
    tries = Tries(lab, order)
    tries.killed_at(service="s3", operation="UploadPart", part=1, cut_request_after=0)
    (upload,) = lab.uploads()
    lab.sim.control("DELETE", "counters")
    written = ExportWritten.load(tries.finish()["result"])
    assert upload["parts"] == written.parts - 1
    assert written.parts_kept == upload["parts"]
    lab.verify(order, written)


@pytest.mark.parametrize(
    ("rule", "completed"),
    [
        pytest.param({"operation": "CompleteMultipartUpload", "cut_request_after": 0}, False, id="before"),
        pytest.param({"operation": "CompleteMultipartUpload"}, True, id="meanwhile"),
        pytest.param({"operation": "HeadObject"}, True, id="after"),
    ],
)
def test_inv_6_a_reader_that_was_killed_around_the_completion_sends_nothing_again(
    lab: ExportLab, rule: dict[str, Any], completed: bool
) -> None:
    """Once the object stands, it is the result, and nothing is read again either."""
    order = lab.snapshot()
    tries = Tries(lab, order)
    tries.killed_at(service="s3", key=f"*{KEY}", **rule)
    assert eventually(lambda: (KEY in set(lab.keys())) == completed)
    lab.sim.control("DELETE", "counters")
    written = ExportWritten.load(tries.finish()["result"])
    assert "s3.UploadPart" not in lab.sim.counters()
    assert ("ebs.GetSnapshotBlock" in lab.sim.counters()) != completed
    assert lab.uploads() == []
    lab.verify(order, written)
