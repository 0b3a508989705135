"""Any sequence of guest writes, runs, cut runs, reverts, resets and losses: each run's EBS snapshot is what was frozen.

The machine also holds the model of what may be believed: after anything that makes change tracking doubtful the next
run must read the whole disk, and say why.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from pyVmomi import vim
from tests.depth import depth

from wavelift.adapters.aws.ec2 import Ec2
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.errors import PermanentError
from wavelift.base.run import CancelFlag, Progress
from wavelift.base.units import BLOCK
from wavelift.rules.lineage import TRUSTED_DAYS

from .journey import Stage
from .replica import Killed, Replica, Try
from .servers import noise

pytestmark = pytest.mark.wire

SERVER: Final = "walk01"
THEIRS: Final = "before the patch"
LOSABLE: Final = (
    ("ebs", "StartSnapshot"),
    ("ebs", "PutSnapshotBlock"),
    ("ebs", "CompleteSnapshot"),
    ("ec2", "DescribeSnapshots"),
    ("s3", "PutObject"),
    ("s3", "GetObject"),
)
"""Calls of a transfer, whose answers may get lost."""


class Walk(RuleBasedStateMachine):
    """One replica of one server, from its seed on."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.stage = stage
        self.web = Replica(stage, SERVER, defaults={"change_tracking": "enable"})
        self.blocks = self.machine()["disks"][0]["capacity"] // BLOCK
        self.host = self.machine()["host"]
        self.written = 0
        self.theirs = self.grown = self.upgraded = False
        self.doubt = "the first run"
        """Why the next run must not believe change tracking; empty when it may."""
        self.days = 0
        """Since the last run that was recorded."""
        self.keys: list[str] = []
        """Two KMS keys, once the first is wanted."""
        self.lost = False
        """Whether AWS lost what the next run would build on."""

    def machine(self) -> dict[str, Any]:
        return next(vm for vm in self.stage.vc.state()["vms"] if vm["name"] == SERVER)

    # What the guest does

    @rule(at=st.integers(0, 11), length=st.sampled_from([1, 700, BLOCK, 2 * BLOCK + 5]), shift=st.integers(0, 900))
    def write(self, at: int, length: int, shift: int) -> None:
        self._write(at, shift, lambda size: noise(9000 + self.written, size), length)

    @rule(at=st.integers(0, 11), count=st.integers(1, 3))
    def zero(self, at: int, count: int) -> None:
        self._write(at, 0, bytes, count * BLOCK)

    def _write(self, at: int, shift: int, content: Any, length: int) -> None:
        self.written += 1
        offset = (at % self.blocks) * BLOCK + shift
        size = min(length, self.blocks * BLOCK - offset)
        self.stage.vc.guest_write(SERVER, 0, offset, content(size))

    # What runs do

    @initialize()
    def seed(self) -> None:
        self.run(ranged=True)

    @rule(ranged=st.booleans())
    def run(self, ranged: bool) -> None:
        self._lock(ranged)
        disk = self.web.run().disks[0]
        if self.lost or len(self.web.results) == 1:
            assert disk.kind == "seed"
            assert disk.kind_reason
        else:
            assert disk.kind == "delta"
            believed = ranged and not self.theirs and not self.doubt
            assert (disk.kind_reason == "") == believed, (self.doubt, disk.kind_reason)
            if disk.reader == "datastore" and not believed:
                assert disk.bytes_read == disk.lineage.capacity
        if self.keys:
            (held,) = self.stage.aws.client("ec2").describe_snapshots(SnapshotIds=[disk.lineage.snapshot_id])[
                "Snapshots"
            ]
            assert held["KmsKeyId"] == self.keys[0]
        self._believed_from_now_on()

    @rule(ranged=st.booleans(), cut=st.booleans())
    def run_recorded_and_cleared(self, ranged: bool, cut: bool) -> None:
        """Recorded, then something after it failed, and a person cleared the server: the same run reads another instant
        and builds on what it recorded. ``cut``: its transfer fails for good; what was recorded stands."""
        self._lock(ranged)
        one = self.web.begin()
        result = self.web.transfer(one)
        self.web.assert_equal(one, result)
        self.web.record(result)
        self.web.results.append(result)
        self._believed_from_now_on()
        self.write(at=self.written, length=700, shift=self.written % 900)
        again = self.web.again(one)
        later = None
        try:
            if cut:
                self._refuse_all_puts(again)
            else:
                later = self.web.transfer(again)
                self.web.assert_equal(again, later)
                assert later.disks[0].kind == "delta"
                assert later.disks[0].parent_snapshot_id == result.disks[0].lineage.snapshot_id
        finally:
            self.web.end(again, later)
        for lineage in result.disks:
            assert self.web.state_of(lineage.lineage.snapshot_id) == "completed", "the replica that was recorded"

    def _refuse_all_puts(self, one: Try) -> None:
        """A delta without changed blocks has no put: it goes through, and is recorded by nobody."""
        self.stage.aws.rule(service="ebs", operation="PutSnapshotBlock", code="AccessDeniedException", status=403)
        with suppress(PermanentError):
            self.web.transfer(one)
        self.stage.aws.clear_rules()

    @rule(call=st.sampled_from(LOSABLE), count=st.sampled_from([1, 3]), ranged=st.booleans())
    def run_that_loses_answers(self, call: tuple[str, str], count: int, ranged: bool) -> None:
        """AWS does what was asked, and its answer is lost: once, which botocore cures, or until a try ends of it."""
        service, operation = call
        self._lock(ranged)
        self.stage.aws.rule(service=service, operation=operation, cut_response_after=0, count=count)
        before = {one["id"] for one in self.stage.aws.state()["snapshots"]}
        disk = self.web.run().disks[0]
        self.stage.aws.clear_rules()
        made = {one["id"] for one in self.stage.aws.state()["snapshots"]} - before
        assert made == {disk.lineage.snapshot_id}, "a retry finds what the lost answer named"
        assert (disk.kind == "seed") == self.lost
        self._believed_from_now_on()

    @rule()
    def key_changes(self) -> None:
        """Of the environment: the next run is a seed under the other key."""
        if not self.keys:
            kms = self.stage.aws.client("kms")
            self.keys = [str(kms.create_key()["KeyMetadata"]["Arn"]) for _ in range(2)]
        self.keys.reverse()
        self.stage.environment_changes = {"encrypt": True, "kms_key": self.keys[0]}
        self.lost = True

    def _believed_from_now_on(self) -> None:
        # The stun of the first run starts tracking; only after its clean cycle is the next change id believed.
        self.doubt = "tracking began with the last run" if len(self.web.results) == 1 else ""
        self.days = 0
        self.lost = False

    @rule(ranged=st.booleans())
    def cut_run(self, ranged: bool) -> None:
        """Killed in mid-transfer and not tried again: nothing of it is recorded, the next builds on the one before."""
        self._lock(ranged)
        one = self.web.begin()

        def killed(progress: Progress) -> None:
            if progress.done > BLOCK:
                raise Killed

        try:
            result = self.web.transfer(one, killed)
        except Killed:
            result = None
        if result is not None:
            self.web.assert_equal(one, result)
        self.web.end(one, None)

    def _lock(self, ranged: bool) -> None:
        self.stage.clear_rules()
        if ranged:
            self.stage.vc.rule(kind="folder", action="unlocked", times=0)

    # What others do

    @precondition(lambda self: not self.theirs)
    @rule()
    def snapshot_by_somebody(self) -> None:
        with self.stage.connect() as session:
            target = session.managed(vim.VirtualMachine, self.machine()["moref"])
            task = session.change(partial(target.CreateSnapshot_Task, THEIRS, "", False, False))
            wait_for_task(session, task, timeout=60, cancel=CancelFlag(), what="a snapshot of somebody")
        self.theirs = True

    @precondition(lambda self: self.theirs)
    @rule()
    def revert_by_somebody(self) -> None:
        self.stage.vc.set_vm(SERVER, revert_to=THEIRS)
        self.stage.vc.set_vm(SERVER, power="poweredOn")  # a snapshot without memory leaves it off
        self.doubt = self.doubt or "reverted"

    @precondition(lambda self: self.theirs)
    @rule()
    def revert_that_only_an_event_tells_of(self) -> None:
        self.stage.vc.rule(kind="revert_keeps_change_id", vm=SERVER)
        self.revert_by_somebody()

    @rule()
    def vcenter_forgets_its_events(self) -> None:
        self.stage.vc.forget_events()
        self.doubt = self.doubt or "what happened is forgotten"

    @precondition(lambda self: self.theirs)
    @rule()
    def removal_by_somebody(self) -> None:
        self._remove_theirs()

    def _remove_theirs(self) -> None:
        with self.stage.connect() as session:
            (moref,) = (one["moref"] for one in self.machine()["snapshots"] if one["name"] == THEIRS)
            theirs = session.managed(vim.vm.Snapshot, moref)
            task = session.change(partial(theirs.RemoveSnapshot_Task, False))
            wait_for_task(session, task, timeout=60, cancel=CancelFlag(), what="removing it")
        self.theirs = False

    @rule()
    def tracking_reset(self) -> None:
        self.stage.vc.set_vm(SERVER, reset_change_tracking=True)
        self.doubt = self.doubt or "tracking was reset"

    @rule(days=st.sampled_from([1, 13, 14, 31]))
    def time_goes_by(self, days: int) -> None:
        self.stage.vc.forward_clock(days * 86400.0)
        self.days += days
        if self.days >= TRUSTED_DAYS:
            self.doubt = self.doubt or "the last run is too old"

    @rule()
    def host_loses_power(self) -> None:
        self.stage.vc.set_vm(SERVER, power_loss=True)
        self.stage.vc.migrate(SERVER, self.host)
        self.doubt = self.doubt or "the host lost power"

    @precondition(lambda self: not self.upgraded)
    @rule()
    def hardware_is_upgraded(self) -> None:
        self.upgraded = True
        self.stage.vc.set_vm(SERVER, hardware="vmx-21")
        self.doubt = self.doubt or "its hardware changed"

    @precondition(lambda self: not self.theirs and not self.grown)
    @rule()
    def disk_grows(self) -> None:
        self.grown = True  # for good: the next walk begins with the larger disk
        self.blocks += 1
        self.stage.vc.set_vm(SERVER, grow={"disk": 0, "capacity": self.blocks * BLOCK})
        self.lost = True

    @precondition(lambda self: not self.theirs)
    @rule(unit=st.sampled_from([0, 1, 5]))
    def disk_moves(self, unit: int) -> None:
        """To another unit, which changes its key; it is the same disk."""
        if self.machine()["disks"][0]["key"] % 100 != unit:
            self.stage.vc.set_vm(SERVER, place={"disk": 0, "unit": unit})
            self.doubt = self.doubt or "its key changed"

    @rule()
    def base_deleted_in_aws(self) -> None:
        for lineage in self.web.lineages:
            Ec2(self.stage.access()).delete_snapshot(lineage.snapshot_id)
        self.lost = True

    def teardown(self) -> None:
        self.stage.clear_rules()
        if self.theirs:
            self._remove_theirs()
        self.web.discard()
        self.stage.environment_changes = {}
        self.stage.vc.reset_clock()
        self.stage.vc.set_vm(SERVER, hardware="vmx-19", place={"disk": 0, "unit": 0})
        with self.stage.connect() as session:
            target = session.managed(vim.VirtualMachine, self.machine()["moref"])
            off = partial(target.ReconfigVM_Task, vim.vm.ConfigSpec(changeTrackingEnabled=False))
            wait_for_task(session, session.change(off), timeout=60, cancel=CancelFlag(), what="turning tracking off")


@pytest.mark.sampled
@pytest.mark.timeout(1800)  # many walks in `make proof`, beside others on the same cores
def test_inv_2_inv_3_whatever_happens_between_runs_the_target_is_the_source(stage: Stage) -> None:
    run_state_machine_as_test(
        partial(Walk, stage),  # type: ignore[arg-type]  # its annotation knows classes only, its words any callable
        settings=settings(
            max_examples=depth(2, 24),
            stateful_step_count=12,
            deadline=None,
            derandomize=True,
            phases=[Phase.generate],
            print_blob=False,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
