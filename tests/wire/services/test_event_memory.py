"""How far back vCenter's events reach: if the event of a revert may be lost, change tracking is not used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from pyVmomi import vim

from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.adapters.vsphere.tracking import tracking_events
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.services.dataplane import readers

from .journey import Stage
from .replica import Replica
from .servers import noise
from .test_tracking_begins import moref, replica

pytestmark = pytest.mark.wire

SERVER = "copy01"
THEIRS = "before the patch"


@pytest.fixture
def web(stage: Stage) -> Iterator[Replica]:
    """Tracked, and its tracking is believed."""
    stage.vc.rule(kind="folder", action="unlocked", times=0)
    with replica(stage, SERVER) as one:
        one.run()
        one.run()
        yield one
    stage.vc.reset_clock()


def reverted_across_a_run(stage: Stage, web: Replica) -> None:
    """To a snapshot of before the last run, with change ids that say nothing of it."""
    with stage.connect() as session:
        target = session.managed(vim.VirtualMachine, moref(stage))
        make = session.change(partial(target.CreateSnapshot_Task, THEIRS, "", False, False))
        theirs = wait_for_task(session, make, timeout=60, cancel=CancelFlag(), what="a snapshot of somebody")
        for block in range(4, 20):
            stage.vc.guest_write(SERVER, 0, block * BLOCK, noise(700 + block, 300))
        web.run()
        stage.vc.rule(kind="revert_keeps_change_id", vm=SERVER)
        stage.vc.set_vm(SERVER, revert_to=THEIRS)
        stage.vc.set_vm(SERVER, power="poweredOn")
        gone = session.change(partial(theirs.RemoveSnapshot_Task, False))
        wait_for_task(session, gone, timeout=60, cancel=CancelFlag(), what="removing it")


def test_inv_3_a_revert_that_vcenter_remembers_is_a_doubt(stage: Stage, web: Replica) -> None:
    reverted_across_a_run(stage, web)
    disk = web.run().disks[0]  # compares every byte
    assert disk.reader == "datastore"
    assert "since the last run: revert" in disk.kind_reason


def forgotten(stage: Stage) -> None:
    stage.vc.forget_events()


def aged(stage: Stage) -> None:
    stage.vc.forward_clock(31 * 86400.0)


def shortened(stage: Stage) -> None:
    """A vCenter that keeps its events for two days, as a full database makes administrators set it."""
    keep(stage, 2)
    stage.vc.forward_clock(3 * 86400.0)


def keep(stage: Stage, days: int) -> None:
    with stage.connect() as session:
        session.content.setting.UpdateValues([vim.option.OptionValue(key="event.maxAge", value=days)])


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        pytest.param(forgotten, "vCenter has no event of the VM from before the last run", marks=pytest.mark.proof),
        (aged, "the last run is 31 days old"),
        pytest.param(
            shortened, "vCenter keeps events for 2 days, but the last run is 3 days old", marks=pytest.mark.proof
        ),
    ],
)
def test_inv_3_a_revert_that_nobody_can_see_any_more_is_doubted(
    stage: Stage, web: Replica, loss: Callable[[Stage], None], words: str
) -> None:
    reverted_across_a_run(stage, web)
    loss(stage)
    try:
        disk = web.run().disks[0]  # compares every byte
    finally:
        keep(stage, 30)
    assert disk.reader == "datastore"
    assert words in disk.kind_reason
    assert disk.bytes_read == disk.lineage.capacity
    again = web.run().disks[0]
    assert again.kind_reason == "", "what vCenter remembers again is believed again"


def test_inv_3_a_lineage_that_does_not_say_when_is_doubted(stage: Stage, web: Replica) -> None:
    web.lineages = tuple(one.model_copy(update={"taken_at": ""}) for one in web.lineages)
    disk = web.run().disks[0]
    assert disk.kind_reason == "the record of the last run does not say when its snapshot was taken"


@pytest.mark.proof
def test_inv_3_events_kept_for_ever_do_not_lift_our_own_bound(
    stage: Stage, web: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stage.connect() as session:
        option = vim.option.OptionValue(key="event.maxAgeEnabled", value=False)
        session.content.setting.UpdateValues([option])
    try:
        stage.vc.forward_clock(13 * 86400.0)
        assert web.run().disks[0].kind_reason == ""
        stage.vc.forward_clock(15 * 86400.0)
        assert "15 days old" in web.run().disks[0].kind_reason
    finally:
        with stage.connect() as session:
            option = vim.option.OptionValue(key="event.maxAgeEnabled", value=True)
            session.content.setting.UpdateValues([option])


def test_inv_3_whether_events_are_left_is_looked_at_after_they_were_read(
    stage: Stage, web: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes between the two looks may have been among what the first should have seen."""
    reverted_across_a_run(stage, web)
    read = tracking_events

    def lost_before(*args: object, **values: object) -> object:
        stage.vc.forget_events()
        return read(*args, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(readers, "tracking_events", lost_before)
    assert "no event of the VM" in web.run().disks[0].kind_reason
