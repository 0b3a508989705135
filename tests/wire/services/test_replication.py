"""Replication runs against both simulators: what AWS holds is what was frozen, whatever happened in between."""

from __future__ import annotations

import hashlib
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from pyVmomi import vim

from wavelift.adapters.aws import ebs_snapshot
from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.aws.s3 import S3Staging
from wavelift.adapters.vsphere.snapshots import remove_snapshot
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.adapters.vsphere.tracking import enable_tracking
from wavelift.base.errors import GuardError, MissingPrivilegeError, NotFoundError, UnreachableError, WaveliftError
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK, MIB
from wavelift.services.dataplane.bases import FIRST_RUN
from wavelift.services.dataplane.outage import SourcePatience
from wavelift.services.dataplane.replication import ReplicationOptions
from wavelift.services.dataplane.staging import SEED_SUFFIX
from wavelift.services.dataplane.unfinished import FreshSeed

from .journey import Stage
from .replica import Killed, Replica
from .servers import noise

pytestmark = pytest.mark.wire


@pytest.fixture
def replica(stage: Stage) -> Iterator[Callable[..., Replica]]:
    made: list[Replica] = []

    def make(server: str = "web01", **changes: Any) -> Replica:
        made.append(Replica(stage, server, **changes))
        return made[-1]

    yield make
    for one in made:
        one.discard()


@pytest.fixture
def tracked(stage: Stage, replica: Callable[..., Replica]) -> Iterator[Callable[..., Replica]]:
    """A server whose changes are tracked and whose datastore serves ranges: VMFS5, or a host that owns the lock."""
    turned: list[str] = []

    def make(server: str = "copy01", **changes: Any) -> Replica:
        moref = next(vm["moref"] for vm in stage.vc.state()["vms"] if vm["name"] == server)
        with stage.connect() as session:
            if enable_tracking(session, moref, cancel=CancelFlag(), server=server):
                turned.append(moref)
        stage.vc.rule(kind="folder", action="unlocked", times=0)
        one = replica(server, **changes)
        one.run()  # the stun that starts tracking, and its clean cycle
        one.run()
        one.results.clear()
        return one

    yield make
    for moref in turned:
        with stage.connect() as session:
            machine = session.managed(vim.VirtualMachine, moref)
            off = vim.vm.ConfigSpec(changeTrackingEnabled=False)
            task = session.change(partial(machine.ReconfigVM_Task, off))
            wait_for_task(session, task, timeout=60, cancel=CancelFlag(), what="turning tracking off")


def test_sms_05_a_seed_then_only_what_changed(stage: Stage, replica: Callable[..., Replica]) -> None:
    """By the lease's stream: VMFS6 locks a running VM's disk, as it does by default."""
    web = replica("copy01")
    seed = web.run().disks[0]
    assert (seed.kind, seed.kind_reason, seed.reader) == ("seed", FIRST_RUN, "nfc")
    assert "locked" in seed.reader_reason or "served" in seed.reader_reason
    assert not seed.parent_snapshot_id
    stage.vc.guest_write("copy01", 0, 5 * BLOCK + 100, noise(1, 300))
    stage.vc.guest_write("copy01", 0, 9 * BLOCK - 10, noise(2, 20))
    delta = web.run().disks[0]
    assert (delta.kind, delta.parent_snapshot_id) == ("delta", seed.lineage.snapshot_id)
    assert delta.blocks_sent == 3
    assert delta.bytes_read >= seed.data_bytes
    assert web.run().disks[0].blocks_sent == 0, "nothing was written"


def test_inv_2_a_block_that_became_zero_is_written(stage: Stage, replica: Callable[..., Replica]) -> None:
    web = replica("copy01")
    web.run()
    stage.vc.guest_write("copy01", 0, BLOCK, bytes(2 * BLOCK))
    disk = web.run().disks[0]
    assert disk.blocks_sent == 2


def test_sms_05_ranges_read_only_what_tracking_names(stage: Stage, tracked: Callable[..., Replica]) -> None:
    web = tracked()
    stage.vc.guest_write("copy01", 0, 3 * BLOCK + 5, noise(3, 1000))
    stage.vc.guest_write("copy01", 0, 20 * BLOCK, bytes(BLOCK))
    disk = web.run().disks[0]
    assert (disk.kind, disk.reader, disk.kind_reason) == ("delta", "datastore", "")
    assert disk.blocks_sent <= 2
    assert disk.bytes_read == (2 + disk.blocks_audited) * BLOCK
    assert disk.blocks_audited >= 8
    assert not disk.lineage.quarantine


def test_inv_3_a_map_that_loses_changes_is_caught_and_not_believed_again(
    stage: Stage, tracked: Callable[..., Replica]
) -> None:
    web = tracked()
    web.options = ReplicationOptions(state_folder=web.options.state_folder, guard_seconds=0.2, audit_pct=100)
    stage.vc.guest_write("copy01", 0, 3 * BLOCK, noise(4, 1000))
    stage.vc.guest_write("copy01", 0, 25 * BLOCK, noise(5, 1000))
    stage.vc.rule(kind="cbt", action="few_areas", times=1)
    disk = web.run().disks[0]
    assert "called 1 of" in disk.kind_reason
    assert f"offset {3 * BLOCK}" in disk.kind_reason
    assert disk.lineage.quarantine
    assert disk.blocks_sent == 2
    stage.vc.guest_write("copy01", 0, 7 * BLOCK, noise(6, 1000))
    again = web.run().disks[0]
    assert again.kind == "delta"
    assert again.kind_reason == again.lineage.quarantine == disk.lineage.quarantine
    assert again.bytes_read == 16 * MIB


@pytest.mark.proof
def test_inv_3_a_map_that_lied_is_not_believed_after_a_run_that_came_to_nothing(
    stage: Stage, tracked: Callable[..., Replica]
) -> None:
    """The lie was told once; the sample of the next run might miss the next one."""
    web = tracked()
    web.options = ReplicationOptions(state_folder=web.options.state_folder, guard_seconds=0.2, audit_pct=100)
    web.retries = 0
    stage.vc.guest_write("copy01", 0, 3 * BLOCK, noise(41, 1000))
    stage.vc.rule(kind="cbt", action="few_areas", times=1)
    stage.aws.rule(service="ebs", operation="StartSnapshot", code="AccessDeniedException", status=403, count=1)
    with pytest.raises(WaveliftError):
        web.run()
    ((key, why),) = web.distrusted.items()
    assert key == web.lineages[0].key
    assert f"offset {3 * BLOCK}" in why
    web.lineages = tuple(one.model_copy(update={"quarantine": why}) for one in web.lineages)  # as `release` does
    disk = web.run().disks[0]
    assert (disk.kind, disk.kind_reason, disk.lineage.quarantine) == ("delta", why, why)
    assert disk.bytes_read == 16 * MIB


@pytest.mark.proof
def test_inv_3_a_retry_knows_the_lie_that_the_try_before_it_saw(stage: Stage, tracked: Callable[..., Replica]) -> None:
    web = tracked()
    web.options = ReplicationOptions(state_folder=web.options.state_folder, guard_seconds=0.2, audit_pct=100)
    stage.vc.guest_write("copy01", 0, 3 * BLOCK, noise(42, 1000))
    stage.vc.rule(kind="cbt", action="few_areas", times=1)
    stage.aws.rule(service="ebs", operation="StartSnapshot", code="AccessDeniedException", status=403, count=1)
    one = web.begin()
    result = None
    try:
        with pytest.raises(WaveliftError):
            web.transfer(one)
        stage.aws.clear_rules()
        web.distrusted.clear()
        result = web.transfer(one)
        (disk,) = result.disks
        assert disk.lineage.quarantine
        assert disk.kind_reason == disk.lineage.quarantine
        assert list(web.distrusted) == [web.lineages[0].key], "an XCom of the try before is gone"
        web.assert_equal(one, result)
    finally:
        web.end(one, result)


def test_several_disks_come_from_one_instant_and_keep_their_order(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    db = replica("db01")
    db.run()
    stage.vc.guest_write("db01", 0, 0, noise(7, 5000))
    result = db.run()
    assert [disk.boot for disk in result.disks] == [True, False, False]
    assert [disk.kind for disk in result.disks] == ["delta"] * 3
    assert sum(disk.blocks_sent for disk in result.disks) == 1


def test_inv_3_what_is_gone_from_aws_makes_a_seed_that_says_so(stage: Stage, replica: Callable[..., Replica]) -> None:
    web = replica("copy01")
    first = web.run().disks[0].lineage
    stage.aws.client("ec2").delete_snapshot(SnapshotId=first.snapshot_id)
    second = web.run().disks[0]
    assert second.kind == "seed"
    assert first.snapshot_id in second.kind_reason
    stage.aws.client("s3").delete_object(Bucket=first.bucket, Key=second.lineage.manifest_key)
    third = web.run().disks[0]
    assert (third.kind, third.parent_snapshot_id) == ("seed", "")
    assert "manifest is gone" in third.kind_reason


@pytest.mark.parametrize("ranged", [False, True], ids=["nfc", "ranges"])
def test_inv_6_a_retry_sends_no_acknowledged_block_again(
    stage: Stage, replica: Callable[..., Replica], ranged: bool
) -> None:
    if ranged:
        stage.vc.rule(kind="folder", action="unlocked", times=0)
    # Those behind the thirtieth are held back: whenever the progress is told, it is in the middle.
    stage.aws.rule(service="ebs", operation="PutSnapshotBlock", skip=30, latency=120)
    big = replica("big01")
    big.options = replace(big.options, puts_in_flight=4)
    one = big.begin()
    result = None
    try:
        stage.aws.control("DELETE", "counters")

        def killed(progress: Progress) -> None:
            if progress.sent > 14 * MIB:
                stage.clear_rules()  # answers that are on their way are waited for
                raise Killed

        with pytest.raises(Killed):
            big.transfer(one, killed)
        if ranged:
            stage.vc.rule(kind="folder", action="unlocked", times=0)
        first = stage.aws.counters()["ebs.PutSnapshotBlock"]["calls"]
        assert 16 <= first < 60
        result = big.transfer(one)
        assert stage.aws.counters()["ebs.blocks"].get("repeated", 0) <= big.options.puts_in_flight
        big.assert_equal(one, result)
        assert result.disks[0].blocks_sent <= 74 - (first - big.options.puts_in_flight)
        if ranged:
            assert result.disks[0].bytes_read <= 40 * MIB - (first - big.options.puts_in_flight) * BLOCK
    finally:
        big.end(one, result)


def test_inv_6_a_task_killed_while_aws_completes_sends_nothing_again(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    big = replica("big01")
    one = big.begin()
    result = None
    try:
        rule = stage.aws.rule(service="ebs", operation="CompleteSnapshot", latency=120)

        def killed(progress: Progress) -> None:
            if any(each["id"] == rule and each["applied"] for each in stage.aws.rules()):
                stage.clear_rules()
                raise Killed

        with pytest.raises(Killed):
            big.transfer(one, killed)
        stage.aws.control("DELETE", "counters")
        result = big.transfer(one)
        assert "ebs.PutSnapshotBlock" not in stage.aws.counters()
        big.assert_equal(one, result)
    finally:
        big.end(one, result)


@pytest.mark.proof
def test_inv_6_a_lost_answer_of_complete_snapshot_has_nothing_read_or_sent_again(
    stage: Stage, replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The retry comes while AWS still works on it."""
    monkeypatch.setattr(ebs_snapshot, "COMPLETION_POLL_S", 0.1)
    monkeypatch.setattr(SourcePatience, "again", _no_patience)
    big = replica("big01")
    one = big.begin()
    result = None
    stage.aws.settings(snapshot_seconds=4.0)
    try:
        stage.aws.rule(service="ebs", operation="CompleteSnapshot", cut_response_after=0, count=3)
        with pytest.raises(UnreachableError):
            big.transfer(one)
        stage.aws.control("DELETE", "counters")
        stage.vc.rule(kind="nfc", action="status", status=500, times=0)
        result = big.transfer(one)
        assert not {"ebs.PutSnapshotBlock", "ebs.StartSnapshot", "ec2.DeleteSnapshot"} & stage.aws.counters().keys()
        big.assert_equal(one, result)
    finally:
        stage.aws.settings(snapshot_seconds=0.0)
        big.end(one, result)


def _no_patience(self: SourcePatience, error: WaveliftError, cancel: CancelFlag) -> None:
    raise error


def test_inv_6_a_lost_answer_of_complete_snapshot_is_cured_in_the_same_try(
    stage: Stage, replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ebs_snapshot, "COMPLETION_POLL_S", 0.1)
    stage.aws.rule(service="ebs", operation="CompleteSnapshot", cut_response_after=0, count=3)
    before = stage.aws.counters().get("ebs.StartSnapshot", {}).get("calls", 0)
    replica("big01").run()
    assert stage.aws.counters()["ebs.StartSnapshot"]["calls"] == before + 1


def test_a_seed_that_fails_leaves_no_stream_open_at_the_host(stage: Stage, replica: Callable[..., Replica]) -> None:
    """The host's write hung for tcp_fin_timeout, a minute: the socket was closed without a reset."""
    big = replica("big01")
    one = big.begin()
    try:
        stage.aws.rule(service="ebs", operation="PutSnapshotBlock", code="AccessDeniedException", status=403, skip=20)
        with pytest.raises(MissingPrivilegeError):
            big.transfer(one)
        stage.clear_rules()
        deadline = time.monotonic() + 20
        while stage.vc.state()["transfers"]:
            assert time.monotonic() < deadline, "the host still sends"
            time.sleep(0.1)
    finally:
        big.end(one, None)


def _standing(stage: Stage) -> dict[str, str]:
    """EBS snapshots and their states."""
    return {row["id"]: row["state"] for row in stage.aws.state()["snapshots"]}


def _as_made(stage: Stage) -> None:
    """Other tests' guests wrote to ``big01``: it has 74 blocks of data again, and zeros behind them."""
    stage.vc.guest_write("big01", 0, 0, noise(20, 37 * MIB))
    stage.vc.guest_write("big01", 0, 37 * MIB, bytes(3 * MIB))


def _failed(stage: Stage, big: Replica, blocks: int = 45) -> str:
    """A run whose seed fails after so many of its 74 blocks, for a reason that no retry cures; what it left in EBS."""
    _as_made(stage)
    stage.aws.rule(service="ebs", operation="PutSnapshotBlock", code="AccessDeniedException", status=403, skip=blocks)
    with pytest.raises(MissingPrivilegeError):
        big.run()
    stage.aws.clear_rules()
    ((left, state),) = _standing(stage).items()
    assert state == "pending"
    stage.aws.control("DELETE", "counters")
    return left


@pytest.mark.parametrize(
    ("ranged", "elsewhere"),
    [
        pytest.param(False, False, marks=pytest.mark.proof),
        pytest.param(False, True, marks=pytest.mark.proof),
        pytest.param(True, False, marks=pytest.mark.proof),
        (True, True),
    ],
    ids=["nfc, here", "nfc, elsewhere", "datastore, here", "datastore, elsewhere"],
)
def test_inv_6_a_seed_that_failed_at_60_per_cent_is_taken_up_by_the_next_run(
    stage: Stage, replica: Callable[..., Replica], ranged: bool, elsewhere: bool
) -> None:
    """Two instants never mix: what lies there is compared block by block, also where it became zero."""
    if ranged:
        stage.vc.rule(kind="folder", action="unlocked", times=0)
    big = replica("big01")
    left = _failed(stage, big)
    stage.vc.guest_write("big01", 0, 0, noise(8, MIB))
    stage.vc.guest_write("big01", 0, 4 * BLOCK, bytes(2 * BLOCK))
    if elsewhere:
        big.options = replace(big.options, state_folder=stage.folder / "another machine")
    if ranged:
        stage.vc.rule(kind="folder", action="unlocked", times=0)
    disk = big.run().disks[0]
    assert disk.lineage.snapshot_id == left
    assert (disk.kind, disk.kind_reason) == ("seed", f"{FIRST_RUN}; what an earlier try or run had sent was compared")
    assert disk.blocks_sent <= 74 - 45 + 4
    assert stage.aws.counters()["ebs.blocks"].get("repeated", 0) <= 4, "those that had changed"
    assert list(_standing(stage)) == [left]
    assert not [key for key in big.objects() if ".journal/" in key or key.endswith(".unfinished")]
    stage.vc.guest_write("big01", 0, BLOCK, noise(9, 100))
    assert big.run().disks[0].blocks_sent == 1
    stage.vc.guest_write("big01", 0, 4 * BLOCK, noise(20, 2 * BLOCK))


@pytest.mark.proof
def test_inv_6_a_seed_taken_up_twice_and_interrupted_in_between(stage: Stage, replica: Callable[..., Replica]) -> None:
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    big = replica("big01")
    left = _failed(stage, big, 20)
    stage.vc.guest_write("big01", 0, 0, noise(10, MIB))
    assert _failed(stage, big, 15) == left
    stage.vc.guest_write("big01", 0, BLOCK, noise(11, MIB))
    one = big.begin()
    result = None
    try:
        stage.aws.rule(
            service="ebs", operation="PutSnapshotBlock", code="OperationAborted", status=409, skip=15, count=1
        )
        with pytest.raises(WaveliftError, match="OperationAborted"):
            big.transfer(one)
        stage.vc.rule(kind="folder", action="unlocked", times=0)
        result = big.transfer(one)
        assert result.disks[0].lineage.snapshot_id == left
        big.assert_equal(one, result)
    finally:
        big.end(one, result)


@pytest.mark.proof
def test_inv_6_a_block_that_nobody_knows_of_ends_in_a_fresh_seed(stage: Stage, replica: Callable[..., Replica]) -> None:
    big = replica("big01")
    left = _failed(stage, big)
    data = noise(12, BLOCK)
    checksum = b64encode(hashlib.sha256(data).digest()).decode()
    stage.aws.client("ebs").put_snapshot_block(
        SnapshotId=left,
        BlockIndex=76,  # zeros, on the disk
        BlockData=data,
        DataLength=BLOCK,
        Checksum=checksum,
        ChecksumAlgorithm="SHA256",
    )
    disk = big.run().disks[0]
    assert disk.lineage.snapshot_id != left
    assert left not in _standing(stage)
    assert disk.blocks_sent >= 74


def test_inv_6_a_refused_completion_of_this_instant_begins_a_fresh_snapshot(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    """What lies there was never taken up. A try that was cleared asked for its completion again, 15 minutes each."""
    _as_made(stage)
    big = replica("big01")
    one = big.begin()
    result = None
    try:
        stage.aws.rule(service="ebs", operation="PutSnapshotBlock", code="AccessDeniedException", status=403, skip=20)
        with pytest.raises(MissingPrivilegeError):
            big.transfer(one)
        stage.clear_rules()
        (left,) = _standing(stage)
        _put_alien(stage, left, noise(13, BLOCK))
        with pytest.raises(WaveliftError, match="given up") as told:
            big.transfer(one)
        assert told.value.retryable
        result = big.transfer(one)
        assert result.disks[0].lineage.snapshot_id != left
        big.assert_equal(one, result)
    finally:
        big.end(one, result)


def _put_alien(stage: Stage, snapshot_id: str, data: bytes) -> None:
    stage.aws.client("ebs").put_snapshot_block(
        SnapshotId=snapshot_id,
        BlockIndex=76,  # zeros, on the disk
        BlockData=data,
        DataLength=BLOCK,
        Checksum=b64encode(hashlib.sha256(data).digest()).decode(),
        ChecksumAlgorithm="SHA256",
    )


@pytest.mark.parametrize(
    "why",
    [
        pytest.param("cancelled by AWS", marks=pytest.mark.proof),
        "its journal is gone",
        pytest.param("encryption", marks=pytest.mark.proof),
    ],
)
def test_inv_6_what_time_does_not_cure_begins_a_fresh_seed(
    stage: Stage, replica: Callable[..., Replica], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    big = replica("big01")
    left = _failed(stage, big)
    ec2 = stage.aws.client("ec2")
    if why == "cancelled by AWS":
        stage.aws.advance(49 * 3600)
        reason = FreshSeed.GONE
    elif why == "encryption":
        ec2.enable_ebs_encryption_by_default()
        reason = FreshSeed.OTHER_KEY
    else:
        big.options = replace(big.options, state_folder=stage.folder / "another machine")
        stage.aws.client("s3").delete_objects(
            Bucket=stage.account.bucket,
            Delete={"Objects": [{"Key": key} for key in big.objects() if ".journal/" in key]},
        )
        reason = FreshSeed.UNKNOWN
    try:
        disk = big.run().disks[0]
    finally:
        ec2.disable_ebs_encryption_by_default()
    assert disk.lineage.snapshot_id != left
    assert disk.kind_reason == FIRST_RUN
    assert reason in caplog.text
    assert list(_standing(stage)) == [disk.lineage.snapshot_id], "nobody needs the other any more"


def test_inv_4_a_seed_that_another_run_took_up_is_left_alone(stage: Stage, replica: Callable[..., Replica]) -> None:
    """A failed run whose tasks somebody clears later still remembers it."""
    big = replica("big01")
    one = big.begin()
    result = None
    stage.aws.rule(service="ebs", operation="PutSnapshotBlock", code="OperationAborted", status=409, skip=45)
    with pytest.raises(WaveliftError, match="OperationAborted"):
        big.transfer(one)
    stage.aws.clear_rules()
    (left,) = _standing(stage)
    Ec2(stage.access()).tag([left], {"wavelift:run": "0123456789ab"})
    try:
        result = big.transfer(one)
        assert result.disks[0].lineage.snapshot_id != left
        assert _standing(stage)[left] == "pending"
    finally:
        big.end(one, result)
        Ec2(stage.access()).delete_snapshot(left)


def test_inv_6_what_another_run_completed_is_not_taken_for_this_runs(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    """It took the seed up and completed it, of another instant; then somebody clears this run's transfer."""
    web = replica()
    one = web.begin()
    theirs, again = web.transfer(one).disks[0].lineage.snapshot_id, None
    Ec2(stage.access()).tag([theirs], {"wavelift:run": "0123456789ab"})
    try:
        again = web.transfer(one)
        assert again.disks[0].lineage.snapshot_id != theirs
        assert _standing(stage)[theirs] == "completed"
        web.assert_equal(one, again)
    finally:
        web.end(one, again)
        Ec2(stage.access()).delete_snapshot(theirs)


def test_our_snapshot_removed_by_somebody_ends_the_run_and_costs_no_seed(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    stage.vc.rule(kind="folder", action="slow", rate=5 * MIB, times=0)
    big = replica("big01")
    one = big.begin()
    removed: list[bool] = []

    def somebody(progress: Progress) -> None:
        if not removed:
            removed.append(True)
            with stage.connect() as session:
                remove_snapshot(session, one.task.facts.moref, one.snapshot.ref.name, cancel=CancelFlag())

    with pytest.raises(WaveliftError) as caught:
        big.transfer(one, somebody)
    assert removed
    assert isinstance(caught.value, GuardError | NotFoundError | UnreachableError), caught.value
    big.end(one, None)
    left = _standing(stage)
    stage.vc.clear_rules()
    disk = big.run().disks[0]
    assert list(_standing(stage)) == [disk.lineage.snapshot_id]
    assert set(left) <= {disk.lineage.snapshot_id}


@pytest.mark.parametrize(
    ("change", "back", "words"),
    [
        pytest.param({"hardware": "vmx-21"}, {"hardware": "vmx-19"}, "hardware version", marks=pytest.mark.proof),
        pytest.param({"reset_change_tracking": True}, {}, "was restarted", marks=pytest.mark.proof),
        ({"power_loss": True}, {}, "was restarted"),
    ],
    ids=["hardware upgraded", "tracking reset", "host lost power"],
)
def test_inv_3_a_doubt_costs_a_comparison_never_data(
    stage: Stage, tracked: Callable[..., Replica], change: dict[str, Any], back: dict[str, Any], words: str
) -> None:
    web = tracked()
    host = next(vm["host"] for vm in stage.vc.state()["vms"] if vm["name"] == "copy01")
    stage.vc.guest_write("copy01", 0, 3 * BLOCK, noise(len(str(change)), 10))
    stage.vc.set_vm("copy01", **change)
    try:
        disk = web.run().disks[0]
    finally:
        if back:
            stage.vc.set_vm("copy01", **back)
        if "power_loss" in change:
            stage.vc.migrate("copy01", host)
    assert disk.kind == "delta"
    assert words in disk.kind_reason
    assert disk.blocks_sent == 1
    assert disk.bytes_read == disk.lineage.capacity


def test_inv_3_a_disk_that_grew_is_a_new_seed(stage: Stage, replica: Callable[..., Replica]) -> None:
    web = replica("copy01")
    size = web.run().disks[0].lineage.capacity
    stage.vc.set_vm("copy01", grow={"disk": 0, "capacity": size + MIB})
    stage.vc.guest_write("copy01", 0, size, noise(10, 100))
    disk = web.run().disks[0]
    assert disk.kind == "seed"
    assert "grew" in disk.kind_reason


@pytest.mark.proof
def test_a_note_that_goes_while_notes_are_listed_is_no_error(
    stage: Stage, replica: Callable[..., Replica], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another disk of the server was completed just then."""
    big = replica("big01")
    _failed(stage, big)
    get = S3Staging.get_object

    def gone(self: S3Staging, key: str, *, at_most: int) -> bytes:
        if key.endswith(SEED_SUFFIX):
            self.delete(key)
        return get(self, key, at_most=at_most)

    monkeypatch.setattr(S3Staging, "get_object", gone)
    one = big.run().disks[0]
    assert one.kind_reason == FIRST_RUN
