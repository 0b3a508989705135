"""A VM on a delta without a snapshot: if vSphere enables change tracking above it, the change map has holes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from pyVmomi import vim
from tests.vddk import VddkStandIn

from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK

from .journey import Stage
from .replica import Replica
from .servers import noise
from .test_tracking_begins import moref

pytestmark = pytest.mark.wire

SERVER = "copy01"


def administrator(stage: Stage, method: str, *arguments: object) -> None:
    with stage.connect() as session:
        target = session.managed(vim.VirtualMachine, moref(stage))
        task = session.change(partial(getattr(target, method), *arguments))
        wait_for_task(session, task, timeout=60, cancel=CancelFlag(), what=method)


def track(stage: Stage, on: bool) -> None:
    administrator(stage, "ReconfigVM_Task", vim.vm.ConfigSpec(changeTrackingEnabled=on))
    for power in ("poweredOff", "poweredOn"):  # it takes effect at a stun
        stage.vc.set_vm(SERVER, power=power)


@pytest.fixture
def web(stage: Stage, tmp_path: Path) -> Iterator[Replica]:
    """Read through VDDK, which reads any place of it, also above a delta."""
    stage.session_options["vddk"] = VddkStandIn(tmp_path / "vddk", stage.vc).config()
    one = Replica(stage, SERVER)
    yield one
    stage.session_options.pop("vddk")
    one.discard()
    administrator(stage, "ConsolidateVMDisks_Task")
    track(stage, on=False)


def test_inv_3_tracking_that_began_above_a_left_delta_is_quarantined(stage: Stage, web: Replica) -> None:
    stage.vc.set_vm(SERVER, leave_delta=True)
    track(stage, on=True)
    seed = web.run().disks[0]
    assert (seed.kind, seed.reader) == ("seed", "nbd")
    why = "its tracking may have been turned on while the disk ran on a delta without a snapshot"
    assert seed.lineage.quarantine == why
    stage.vc.guest_write(SERVER, 0, 5 * BLOCK, noise(801, 300))
    assert web.run().disks[0].kind_reason == why  # compares every byte
    administrator(stage, "ConsolidateVMDisks_Task")
    stage.vc.guest_write(SERVER, 0, 7 * BLOCK, noise(802, 300))
    assert web.run().disks[0].kind_reason == why, "the map has its holes also after it"
    track(stage, on=False)
    track(stage, on=True)
    anew = web.run().disks[0]
    assert (anew.kind_reason, anew.lineage.quarantine) == (why, ""), "tracking that is turned on now is another"
    stage.vc.guest_write(SERVER, 0, 9 * BLOCK, noise(803, 300))
    believed = web.run().disks[0]
    assert (believed.kind_reason, believed.blocks_sent) == ("", 1)


@pytest.mark.proof
def test_inv_3_tracking_of_before_the_delta_is_believed(stage: Stage, web: Replica) -> None:
    track(stage, on=True)
    web.run()
    web.run()
    stage.vc.set_vm(SERVER, leave_delta=True)
    stage.vc.guest_write(SERVER, 0, 5 * BLOCK, noise(804, 300))
    disk = web.run().disks[0]
    assert (disk.kind_reason, disk.lineage.quarantine, disk.blocks_sent) == ("", "", 1)
