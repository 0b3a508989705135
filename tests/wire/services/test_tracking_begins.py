"""``change_tracking: enable``: a run enables tracking, which is used only after that run's snapshot is removed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import pytest
from pyVmomi import vim
from tests.contexts import context_of

from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.adapters.vsphere.tracking import enable_tracking
from wavelift.base.run import CancelFlag, MemoryCheckpoints
from wavelift.base.units import BLOCK, MIB
from wavelift.services.dataplane.snapshot import TRACKING_KEY, take_snapshot
from wavelift.services.dataplane.snapshot_removal import remove_snapshot

from .journey import Stage
from .replica import Replica
from .servers import noise

pytestmark = pytest.mark.wire


@contextmanager
def replica(stage: Stage, server: str) -> Iterator[Replica]:
    """Not tracked before, and not tracked after."""
    one = Replica(stage, server, defaults={"change_tracking": "enable"})
    try:
        yield one
    finally:
        one.discard()
        with stage.connect() as session:
            machine = session.managed(vim.VirtualMachine, moref(stage, server))
            off = partial(machine.ReconfigVM_Task, vim.vm.ConfigSpec(changeTrackingEnabled=False))
            wait_for_task(session, session.change(off), timeout=60, cancel=CancelFlag(), what="turning tracking off")
        for power in ("poweredOff", "poweredOn"):  # as its beginning, its end is at a stun
            stage.vc.set_vm(server, power=power)


@pytest.fixture
def web(stage: Stage) -> Iterator[Replica]:
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    with replica(stage, "copy01") as one:
        yield one


def moref(stage: Stage, server: str = "copy01") -> str:
    return str(next(vm["moref"] for vm in stage.vc.state()["vms"] if vm["name"] == server))


def tracks(stage: Stage) -> bool:
    with stage.connect() as session:
        return bool(session.managed(vim.VirtualMachine, moref(stage)).config.changeTrackingEnabled)


def test_inv_3_the_run_that_begins_tracking_and_the_next_still_compare(stage: Stage, web: Replica) -> None:
    seed = web.run().disks[0]
    assert tracks(stage)
    assert seed.lineage.change_id is None, "the id of the snapshot with which tracking begins is not built on"
    stage.vc.guest_write("copy01", 0, 5 * BLOCK, noise(401, 300))
    compared = web.run().disks[0]
    assert (compared.kind, compared.blocks_sent) == ("delta", 1)
    assert compared.kind_reason == "the last run had no change id"
    assert compared.bytes_read >= compared.lineage.capacity - BLOCK
    stage.vc.guest_write("copy01", 0, 7 * BLOCK, noise(402, 300))
    asked = web.run().disks[0]
    assert (asked.kind, asked.kind_reason, asked.reader, asked.blocks_sent) == ("delta", "", "datastore", 1)
    assert asked.bytes_read == (1 + asked.blocks_audited) * BLOCK


def test_a_try_cut_short_after_tracking_began_is_followed_by_one_that_knows(stage: Stage, web: Replica) -> None:
    journey = stage.journey("copy01", defaults={"change_tracking": "enable"})
    (task,) = journey.preflight()
    checkpoints = MemoryCheckpoints()  # Airflow's task state store: it outlives a try
    ctx = context_of(journey.ctx(task, "snapshot").run_key, checkpoints=checkpoints)
    with stage.connect() as session:
        tries = [take_snapshot(session, task, ctx, replicates=True) for _ in range(2)]
        remove_snapshot(session, stage.access, task, ctx)
        new_store = context_of(ctx.run_key)
        after = take_snapshot(session, task, new_store, replicates=True)
        remove_snapshot(session, stage.access, task, new_store)
    assert tracks(stage)
    assert [disk.change_id for taken in tries for disk in taken.disks] == [None, None]
    assert all(disk.change_id for disk in after.disks), "after a clean cycle it is believed"
    assert ["begins" in taken.tracking for taken in (*tries, after)] == [True, True, False]
    assert [taken.tracked_from_here for taken in (*tries, after)] == [True, True, False]


@pytest.mark.proof
def test_inv_3_tracking_that_is_on_and_has_not_begun_is_not_believed(stage: Stage, web: Replica) -> None:
    """Turned on by an administrator, or by a run that ended before its snapshot: it takes effect with ours."""
    with stage.connect() as session:
        assert enable_tracking(session, moref(stage), cancel=CancelFlag(), server="copy01")
    seed = web.run().disks[0]
    assert seed.lineage.change_id is None
    compared = web.run().disks[0]
    assert (compared.kind_reason, compared.blocks_sent) == ("the last run had no change id", 0)
    assert compared.lineage.change_id


def test_inv_3_a_snapshot_of_which_nothing_was_noted_is_not_built_on(stage: Stage, web: Replica) -> None:
    """As of a try of an older release, or of one whose notes are lost; and tracking that was started anew meanwhile."""
    web.run()
    journey = stage.journey("copy01", defaults={"change_tracking": "enable"})
    (task,) = journey.preflight()
    ctx = context_of(journey.ctx(task, "snapshot").run_key, checkpoints=MemoryCheckpoints())
    with stage.connect() as session:
        ids = []
        for note in (None, "as-an-older-release-wrote-it", {"2000": "another lineage"}):
            taken = take_snapshot(session, task, ctx, replicates=True)
            ids.append(taken.disks[0].change_id)
            if note is None:
                ctx.checkpoints.delete(TRACKING_KEY)
            else:
                ctx.checkpoints.set(TRACKING_KEY, note)
        again = take_snapshot(session, task, ctx, replicates=True)
        remove_snapshot(session, stage.access, task, ctx)
    assert ids[0], "tracking runs"
    assert [*ids[1:], again.disks[0].change_id] == [None, None, None]
    assert "begins" in again.tracking


def test_inv_3_what_happened_after_the_snapshot_was_removed_nobody_knows(stage: Stage, web: Replica) -> None:
    """The same run, cleared: its state store outlives the snapshot."""
    journey = stage.journey("copy01", defaults={"change_tracking": "enable"})
    (task,) = journey.preflight()
    ctx = context_of(journey.ctx(task, "snapshot").run_key, checkpoints=MemoryCheckpoints())
    taken = []
    with stage.connect() as session:
        for _ in range(2):
            taken.append(take_snapshot(session, task, ctx, replicates=True).tracked_from_here)
            remove_snapshot(session, stage.access, task, ctx)
    assert taken == [True, False]


def test_inv_3_under_a_standing_snapshot_nothing_is_turned_on(stage: Stage, web: Replica) -> None:
    with stage.connect() as session:
        target = session.managed(vim.VirtualMachine, moref(stage))
        task = session.change(partial(target.CreateSnapshot_Task, "before the patch", "", False, False))
        made = wait_for_task(session, task, timeout=60, cancel=CancelFlag(), what="a snapshot of somebody")
        try:
            one = web.begin()
            assert not tracks(stage)
            assert "while the VM has snapshots (before the patch)" in one.snapshot.tracking
            web.end(one, web.transfer(one))
        finally:
            wait_for_task(
                session,
                session.change(partial(made.RemoveSnapshot_Task, False)),
                timeout=60,
                cancel=CancelFlag(),
                what="removing it",
            )


def test_a_migration_never_turns_it_on(stage: Stage, web: Replica) -> None:
    journey = stage.journey("copy01", defaults={"change_tracking": "enable"})
    (task,) = journey.preflight()
    ctx = journey.ctx(task, "snapshot")
    with stage.connect() as session:
        taken = take_snapshot(session, task, ctx)
        remove_snapshot(session, stage.access, task, ctx)
    assert (taken.tracking, tracks(stage)) == ("", False)


# --- the areas in use ---------------------------------------------------------------------------------------------


def test_inv_3_a_seed_that_begins_tracking_reads_only_what_is_in_use(stage: Stage) -> None:
    with replica(stage, "thin01") as one:
        seed = one.run().disks[0]  # compares every byte
        assert (seed.kind, seed.reader) == ("seed", "datastore")
        assert 8 <= seed.blocks_audited <= 9, "the sample of eight, and the disk's last block if it is not among them"
        # 3 MiB at first; the guests of other tests' servers write here as well.
        used = seed.bytes_read - seed.blocks_audited * BLOCK
        assert f"only the {used / MIB:.1f} MiB in use are read" in seed.reader_reason
        assert 5 * BLOCK <= seed.data_bytes <= used <= 40 * MIB < seed.lineage.capacity
        again = one.run().disks[0]
        assert (again.kind, again.blocks_sent, again.bytes_read) == ("delta", 0, again.lineage.capacity)
        one.lineages = ()
        later = one.run().disks[0]
        assert (later.kind, later.bytes_read) == ("seed", later.lineage.capacity), "who turned it on is not known"


def test_inv_3_a_map_that_calls_data_unused_is_not_believed(stage: Stage, web: Replica) -> None:
    stage.vc.guest_write("copy01", 0, 0, noise(501, 16 * MIB))  # so that no sample can miss it
    stage.vc.rule(kind="cbt", vm="copy01", action="few_areas", times=0)
    seed = web.run().disks[0]  # compares every byte
    assert "calls data unused at " in seed.reader_reason
    assert seed.bytes_read == seed.lineage.capacity + seed.blocks_audited * BLOCK


@pytest.mark.proof
def test_inv_3_where_the_map_cannot_be_told_or_means_nothing_all_is_read(stage: Stage) -> None:
    with replica(stage, "thin02") as one:
        on_nfs = one.run().disks[0]
    assert (on_nfs.reader, on_nfs.bytes_read, on_nfs.blocks_audited) == ("datastore", on_nfs.lineage.capacity, 0)
    with replica(stage, "thin01") as one:
        stage.vc.rule(kind="cbt", vm="thin01", action="fault", fault="FileFault", args={"file": "x"})
        refused = one.run().disks[0]
    assert "vCenter refused: FileFault" in refused.reader_reason
    assert refused.bytes_read == refused.lineage.capacity
