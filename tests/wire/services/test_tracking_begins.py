"""``change_tracking: enable``: tracking is turned on by a run, and believed only after that run's snapshot is gone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from pyVmomi import vim

from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.run import CancelFlag, MemoryCheckpoints, RunContext
from wavelift.base.units import BLOCK
from wavelift.services.dataplane.snapshot import remove_snapshot, take_snapshot

from .journey import Stage
from .replica import Replica
from .servers import noise

pytestmark = pytest.mark.wire


@pytest.fixture
def web(stage: Stage) -> Iterator[Replica]:
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    one = Replica(stage, "copy01", defaults={"change_tracking": "enable"})
    yield one
    one.discard()
    with stage.connect() as session:
        machine = session.managed(vim.VirtualMachine, moref(stage))
        off = partial(machine.ReconfigVM_Task, vim.vm.ConfigSpec(changeTrackingEnabled=False))
        wait_for_task(session, session.change(off), timeout=10, cancel=CancelFlag(), what="turning tracking off")


def machine(stage: Stage) -> dict[str, Any]:
    return next(vm for vm in stage.vc.state()["vms"] if vm["name"] == "copy01")


def moref(stage: Stage) -> str:
    return str(machine(stage)["moref"])


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
    ctx = RunContext(journey.ctx(task, "snapshot").run_key, checkpoints=checkpoints)
    with stage.connect() as session:
        tries = [take_snapshot(session, task, ctx, replicates=True) for _ in range(2)]
        remove_snapshot(session, stage.access(), task, ctx)
        new_store = RunContext(ctx.run_key)
        after = take_snapshot(session, task, new_store, replicates=True)
        remove_snapshot(session, stage.access(), task, new_store)
    assert tracks(stage)
    assert [disk.change_id for taken in tries for disk in taken.disks] == [None, None]
    assert all(disk.change_id for disk in after.disks), "after a clean cycle it is believed"
    assert ("begins" in tries[0].tracking, tries[1].tracking) == (True, "")


def test_inv_3_under_a_standing_snapshot_nothing_is_turned_on(stage: Stage, web: Replica) -> None:
    with stage.connect() as session:
        target = session.managed(vim.VirtualMachine, moref(stage))
        task = session.change(partial(target.CreateSnapshot_Task, "before the patch", "", False, False))
        made = wait_for_task(session, task, timeout=30, cancel=CancelFlag(), what="a snapshot of somebody")
        try:
            one = web.begin()
            assert not tracks(stage)
            assert "while the VM has snapshots (before the patch)" in one.snapshot.tracking
            web.end(one, web.transfer(one))
        finally:
            wait_for_task(
                session,
                session.change(partial(made.RemoveSnapshot_Task, False)),
                timeout=30,
                cancel=CancelFlag(),
                what="removing it",
            )


def test_a_migration_never_turns_it_on(stage: Stage, web: Replica) -> None:
    journey = stage.journey("copy01", defaults={"change_tracking": "enable"})
    (task,) = journey.preflight()
    ctx = journey.ctx(task, "snapshot")
    with stage.connect() as session:
        taken = take_snapshot(session, task, ctx)
        remove_snapshot(session, stage.access(), task, ctx)
    assert (taken.tracking, tracks(stage)) == ("", False)
