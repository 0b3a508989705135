"""Replication runs against both simulators: what AWS holds is what was frozen, whatever happened in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wavelift.adapters.vsphere.tracking import enable_tracking
from wavelift.base.errors import GuardError, NotFoundError, UnreachableError, WaveliftError
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK, MIB
from wavelift.services.dataplane.bases import FIRST_RUN
from wavelift.services.dataplane.replication import ReplicationOptions

from .journey import Stage
from .replica import Replica
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

    def make(server: str = "web01", **changes: Any) -> Replica:
        moref = next(vm["moref"] for vm in stage.vc.state()["vms"] if vm["name"] == server)
        with stage.connect() as session:
            if enable_tracking(session, moref, cancel=CancelFlag(), server=server):
                turned.append(server)
        stage.vc.rule(kind="folder", action="unlocked")
        one = replica(server, **changes)
        one.run()  # the stun that starts tracking, and its clean cycle
        one.run()
        one.results.clear()
        return one

    yield make
    for server in turned:
        stage.vc.set_vm(server, change_tracking=False)


def test_sms_05_a_seed_then_only_what_changed(stage: Stage, replica: Callable[..., Replica]) -> None:
    """By the lease's stream: VMFS6 locks a running VM's disk, as it does by default."""
    web = replica("web01")
    seed = web.run().disks[0]
    assert (seed.kind, seed.kind_reason, seed.reader) == ("seed", FIRST_RUN, "nfc")
    assert "locked" in seed.reader_reason or "served" in seed.reader_reason
    assert not seed.parent_snapshot_id
    stage.vc.guest_write("web01", 0, 5 * BLOCK + 100, noise(1, 300))
    stage.vc.guest_write("web01", 0, 9 * BLOCK - 10, noise(2, 20))
    delta = web.run().disks[0]
    assert (delta.kind, delta.parent_snapshot_id) == ("delta", seed.lineage.snapshot_id)
    assert delta.blocks_sent == 3
    assert delta.bytes_read >= seed.data_bytes
    assert web.run().disks[0].blocks_sent == 0, "nothing was written"


def test_inv_2_a_block_that_became_zero_is_written(stage: Stage, replica: Callable[..., Replica]) -> None:
    web = replica("web01")
    web.run()
    stage.vc.guest_write("web01", 0, BLOCK, bytes(2 * BLOCK))
    disk = web.run().disks[0]
    assert disk.blocks_sent == 2


def test_sms_05_ranges_read_only_what_tracking_names(stage: Stage, tracked: Callable[..., Replica]) -> None:
    web = tracked("web01")
    stage.vc.guest_write("web01", 0, 3 * BLOCK + 5, noise(3, 1000))
    stage.vc.guest_write("web01", 0, 20 * BLOCK, bytes(BLOCK))
    disk = web.run().disks[0]
    assert (disk.kind, disk.reader, disk.kind_reason) == ("delta", "datastore", "")
    assert disk.blocks_sent <= 2
    assert disk.bytes_read == (2 + disk.blocks_audited) * BLOCK
    assert disk.blocks_audited >= 8
    assert not disk.lineage.quarantine


def test_inv_3_a_map_that_loses_changes_is_caught_and_not_believed_again(
    stage: Stage, tracked: Callable[..., Replica]
) -> None:
    web = tracked("web01")
    web.options = ReplicationOptions(web.options.state_folder, guard_seconds=0.2, audit_pct=100)
    stage.vc.guest_write("web01", 0, 3 * BLOCK, noise(4, 1000))
    stage.vc.guest_write("web01", 0, 25 * BLOCK, noise(5, 1000))
    stage.vc.rule(kind="cbt", action="few_areas", times=1)
    disk = web.run().disks[0]
    assert "called 1 of" in disk.kind_reason
    assert f"offset {3 * BLOCK}" in disk.kind_reason
    assert disk.lineage.quarantine
    assert disk.blocks_sent == 2
    stage.vc.guest_write("web01", 0, 7 * BLOCK, noise(6, 1000))
    again = web.run().disks[0]
    assert again.kind == "delta"
    assert again.kind_reason == again.lineage.quarantine == disk.lineage.quarantine
    assert again.bytes_read == 16 * MIB


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
    web = replica("web01")
    first = web.run().disks[0].lineage
    stage.aws.client("ec2").delete_snapshot(SnapshotId=first.snapshot_id)
    second = web.run().disks[0]
    assert second.kind == "seed"
    assert first.snapshot_id in second.kind_reason
    stage.aws.client("s3").delete_object(Bucket=first.bucket, Key=second.lineage.manifest_key)
    third = web.run().disks[0]
    assert (third.kind, third.parent_snapshot_id) == ("seed", "")
    assert "manifest is gone" in third.kind_reason


class Killed(Exception):
    """What a killed task is to the code under test."""


@pytest.mark.parametrize("ranged", [False, True], ids=["nfc", "ranges"])
def test_inv_6_a_retry_sends_no_acknowledged_block_again(
    stage: Stage, replica: Callable[..., Replica], ranged: bool
) -> None:
    if ranged:
        stage.vc.rule(kind="folder", action="unlocked")
    big = replica("big01")
    one = big.begin()
    result = None
    try:
        stage.aws.control("DELETE", "counters")

        def killed(progress: Progress) -> None:
            if progress.done > 20 * MIB:
                raise Killed

        with pytest.raises(Killed):
            big.transfer(one, killed)
        before = stage.aws.counters()["ebs.PutSnapshotBlock"]["calls"]
        result = big.transfer(one)
        calls = stage.aws.counters()["ebs.PutSnapshotBlock"]["calls"]
        big.assert_equal(one, result)
        assert before >= 30
        assert calls <= 56 * 2 + big.options.workers + 2, "at most what was under way is sent twice"
        if ranged:
            assert result.disks[0].bytes_read <= 60 * MIB - (before - 4) * BLOCK
    finally:
        big.end(one, result)


def test_inv_6_a_new_snapshot_begins_anew(stage: Stage, replica: Callable[..., Replica]) -> None:
    """Two instants never mix: what the first one's try had sent is given up."""
    big = replica("big01")
    first = big.begin()

    def killed(progress: Progress) -> None:
        if progress.done > 10 * MIB:
            raise Killed

    with pytest.raises(Killed):
        big.transfer(first, killed)
    big.end(first, None)
    assert not stage.aws.state()["snapshots"]
    stage.vc.guest_write("big01", 0, 0, noise(8, MIB))
    big.run()


def test_our_snapshot_removed_by_somebody_ends_the_run_and_leaves_nothing(
    stage: Stage, replica: Callable[..., Replica]
) -> None:
    stage.vc.rule(kind="folder", action="unlocked")
    web = replica("web01")
    one = web.begin()
    removed: list[bool] = []

    def somebody(progress: Progress) -> None:
        if not removed:
            removed.append(True)
            web.end(one, None)

    with pytest.raises(WaveliftError) as caught:
        web.transfer(one, somebody)
    assert isinstance(caught.value, GuardError | NotFoundError | UnreachableError)
    web.end(one, None)


def test_inv_3_a_reverted_machine_is_compared_whole(stage: Stage, tracked: Callable[..., Replica]) -> None:
    web = tracked("web01")
    stage.vc.set_vm("web01", hardware_version="vmx-20")
    try:
        stage.vc.guest_write("web01", 0, 3 * BLOCK, noise(9, 10))
        disk = web.run().disks[0]
    finally:
        stage.vc.set_vm("web01", hardware_version="vmx-19")
    assert disk.kind == "delta"
    assert "hardware version" in disk.kind_reason
    assert disk.blocks_sent == 1
