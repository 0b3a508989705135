"""What goes wrong around replication runs: datastores of any kind, refusals in mid-read, moves, AWS that loses data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from pyVmomi import vim

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.errors import GuardError, WaveliftError
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK, MIB

from .journey import Stage
from .replica import Replica
from .servers import noise

pytestmark = pytest.mark.wire

Make = Callable[..., Replica]


@pytest.fixture
def replica(stage: Stage) -> Iterator[Make]:
    made: list[Replica] = []

    def make(server: str, **changes: Any) -> Replica:
        made.append(Replica(stage, server, **changes))
        return made[-1]

    yield make
    for one in made:
        one.discard()
    for one in made:
        _track(stage, one.server, on=False)


def _vm(stage: Stage, server: str) -> dict[str, Any]:
    return next(vm for vm in stage.vc.state()["vms"] if vm["name"] == server)


def _reconfigure(stage: Stage, server: str, method: str, *arguments: Any, what: str = "a change") -> Any:
    with stage.connect() as session:
        target = session.managed(vim.VirtualMachine, _vm(stage, server)["moref"])
        task = session.change(partial(getattr(target, method), *arguments))
        return wait_for_task(session, task, timeout=60, cancel=CancelFlag(), what=what)


def _track(stage: Stage, server: str, *, on: bool) -> None:
    if _vm(stage, server)["change_tracking"] is not on:
        _reconfigure(stage, server, "ReconfigVM_Task", vim.vm.ConfigSpec(changeTrackingEnabled=on))


# --- kinds of datastores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "reader", "reason"),
    [
        ("datastore1-01", "nfc", "is served while the VM runs"),
        ("vmfs5-01", "datastore", "is served"),
        pytest.param("nfs-01", "datastore", "is served", marks=pytest.mark.proof),
        pytest.param("vsan-01", "nfc", "no flat files", marks=pytest.mark.proof),
    ],
)
def test_sms_05_each_kind_of_datastore_is_read_as_it_can_be(
    stage: Stage, replica: Make, server: str, reader: str, reason: str
) -> None:
    """Tracking is on for all: only where running disks are served by ranges does it save reading."""
    _track(stage, server, on=True)
    one = replica(server)
    for _ in range(2):
        seed = one.run().disks[0]
    assert seed.reader == reader
    assert reason in seed.reader_reason
    stage.vc.guest_write(server, 0, 2 * BLOCK + 7, noise(501, 300))
    delta = one.run().disks[0]
    assert (delta.kind, delta.blocks_sent) == ("delta", 1)
    if reader == "datastore":
        assert delta.kind_reason == ""
        assert delta.bytes_read == (1 + delta.blocks_audited) * BLOCK
    else:
        assert delta.kind_reason, "it reads the whole disk, and says why"
        assert delta.blocks_audited == 0


@pytest.mark.parametrize("status", [pytest.param(403, marks=pytest.mark.proof), 503])
def test_ranges_refused_in_the_middle_end_in_another_try_or_another_way(
    stage: Stage, replica: Make, status: int
) -> None:
    """Behind the probe's 206 the datastore refuses twelve times: the retry of the run finds what then works."""
    one = replica("vmfs5-01")
    one.retries = 6
    one.run()
    stage.vc.guest_write("vmfs5-01", 0, 0, noise(500 + status, MIB))
    stage.vc.rule(kind="folder", action="status", status=status, skip=1, times=12)
    disk = one.run().disks[0]
    assert disk.blocks_sent == 2
    assert [rule["hits"] > 0 for rule in stage.vc.rules() if rule.get("action") == "status"] == [True]
    stage.vc.clear_rules()
    assert one.run().disks[0].blocks_sent == 0


# --- moves --------------------------------------------------------------------------------------------------------


def test_sms_14_a_move_between_two_runs_costs_nothing(stage: Stage, replica: Make) -> None:
    one = replica("nfs-01")
    one.run()
    home = _vm(stage, "nfs-01")["host"]
    away = next(name for name in ("127.0.0.11", "127.0.0.12") if name != home)
    stage.vc.migrate("nfs-01", away)
    stage.vc.guest_write("nfs-01", 0, 3 * BLOCK, noise(503, 10))
    try:
        disk = one.run().disks[0]
    finally:
        stage.vc.migrate("nfs-01", home)
    assert (disk.kind, disk.blocks_sent) == ("delta", 1)


def test_sms_14_a_move_during_the_transfer_ends_that_try_and_says_so(stage: Stage, replica: Make) -> None:
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    stage.vc.rule(kind="folder", action="slow", rate=5 * MIB, times=0)
    one = replica("big01")
    home = _vm(stage, "big01")["host"]
    away = next(name for name in ("127.0.0.11", "127.0.0.12") if name != home)
    begun = one.begin()
    moved: list[bool] = []

    def drs(progress: Progress) -> None:
        if not moved and progress.done > MIB:
            moved.append(True)
            stage.vc.migrate("big01", away)

    result = None
    try:
        with pytest.raises(GuardError, match=r"moved to host .* during the upload") as caught:
            one.transfer(begun, drs)
        assert caught.value.retryable
        stage.clear_rules()
        result = one.transfer(begun)
        one.assert_equal(begun, result)
    finally:
        one.end(begun, result)
        stage.vc.migrate("big01", home)


# --- the machine --------------------------------------------------------------------------------------------------


@pytest.mark.proof
def test_a_machine_switched_off_and_on_while_it_is_read(stage: Stage, replica: Make) -> None:
    """The frozen disk stays what it was; the run ends well, or says why not and its next try does."""
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    stage.vc.rule(kind="folder", action="slow", rate=5 * MIB, times=0)
    one = replica("big01")
    cycled: list[int] = []

    def cycle(progress: Progress) -> None:
        if not cycled and progress.done > MIB:
            cycled.append(progress.done)
            stage.vc.set_vm("big01", power="poweredOff")
            stage.vc.set_vm("big01", power="poweredOn")
            stage.vc.guest_write("big01", 0, 0, noise(504, 1000))

    one.run(progress=cycle)
    assert cycled
    assert cycled[0] < 20 * MIB, "in the middle"
    stage.vc.clear_rules()
    assert one.run().disks[0].blocks_sent == 1


# --- AWS ----------------------------------------------------------------------------------------------------------


def test_encryption_switched_on_in_the_account_makes_a_new_seed_that_says_so(stage: Stage, replica: Make) -> None:
    one = replica("nfs-01")
    one.run()
    ec2 = stage.aws.client("ec2")
    ec2.enable_ebs_encryption_by_default()
    try:
        disk = one.run().disks[0]
        assert (disk.kind, disk.lineage.encrypted) == ("seed", True)
        assert "encryption of EBS snapshots was switched on or off" in disk.kind_reason
        assert one.run().disks[0].kind == "delta"
    finally:
        ec2.disable_ebs_encryption_by_default()


@pytest.mark.proof
def test_a_parent_deleted_while_its_child_is_written(stage: Stage, replica: Make) -> None:
    """AWS refuses, or completes a child whose base is gone: either way the target is whole or nothing is recorded."""
    one = replica("nfs-01")
    one.run()
    stage.vc.guest_write("nfs-01", 0, 0, noise(505, 2 * MIB))
    (base,) = one.lineages
    gone: list[bool] = []

    def somebody(progress: Progress) -> None:
        if not gone:
            gone.append(True)
            Ec2(stage.access()).delete_snapshot(base.snapshot_id)

    begun = one.begin()
    result = None
    try:
        with suppress(WaveliftError):
            result = one.transfer(begun, somebody)
            one.assert_equal(begun, result)
        assert gone
    finally:
        one.end(begun, result)
    again = one.run().disks[0]
    assert again.kind == ("seed" if result is None else "delta")


def test_puts_throttled_for_long_slow_a_run_down_and_do_not_fail_it(stage: Stage, replica: Make) -> None:
    stage.aws.rule(service="ebs", operation="PutSnapshotBlock", code="ThrottlingException", status=400, count=40)
    stage.aws.control("DELETE", "counters")
    one = replica("nfs-01")
    one.retries = 0
    disk = one.run().disks[0]
    assert disk.kind == "seed"
    assert stage.aws.counters()["ebs.PutSnapshotBlock"]["calls"] == disk.blocks_sent + 40
    assert stage.aws.counters()["ebs.blocks"].get("repeated", 0) == 0


@pytest.mark.parametrize(
    ("operation", "reason"),
    [("PutSnapshotBlock", "INVALID_BLOCK"), ("CompleteSnapshot", "INVALID_PARAMETER_VALUE")],
)
def test_inv_1_a_checksum_that_aws_refuses_is_never_recorded(
    stage: Stage, replica: Make, operation: str, reason: str
) -> None:
    one = replica("nfs-01")
    one.run()
    stage.vc.guest_write("nfs-01", 0, 0, noise(600 + len(reason), BLOCK))
    refused = {"code": "ValidationException", "reason": reason, "status": 400}
    stage.aws.rule(service="ebs", operation=operation, count=1, **refused)
    begun = one.begin()
    try:
        with pytest.raises(WaveliftError) as caught:
            one.transfer(begun)
        assert caught.value.next_step
        assert "nfs-01" in str(caught.value)
    finally:
        one.end(begun, None)
    assert {each["id"] for each in stage.aws.state()["snapshots"]} == {one.lineages[0].snapshot_id}
    assert one.run().disks[0].blocks_sent == 1
