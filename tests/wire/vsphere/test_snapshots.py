from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Take

from wavelift.adapters.vsphere import snapshots
from wavelift.adapters.vsphere import snapshots as snapshots_module
from wavelift.adapters.vsphere.faults import QuiesceError
from wavelift.adapters.vsphere.inventory import list_summaries
from wavelift.adapters.vsphere.properties import Values, Wait, WaitTimeout, watch
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.snapshots import (
    ensure_snapshot,
    find_ours,
    find_snapshot,
    remove_snapshot,
    snapshot_disks,
)
from wavelift.base.domain import SnapshotRef
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    MissingPrivilegeError,
    NotFoundError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.names import snapshot_name
from wavelift.base.run import CancelFlag
from wavelift.rules.wave import Quiesce
from wavelift.simulators.vcenter import SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]

NAME = snapshot_name("demo.migrate/run-1/web01")
OTHER = snapshot_name("demo.migrate/run-2/web01")


def vm_of(session: VsphereSession, name: str) -> str:
    return next(vm.moref for vm in list_summaries(session) if vm.name == name)


def ensure(
    session: VsphereSession, server: str = "web01", *, quiesce: Quiesce = "prefer", name: str = NAME
) -> SnapshotRef:
    return ensure_snapshot(session, vm_of(session, server), name, "by a test", quiesce=quiesce, cancel=CancelFlag())


def remove(session: VsphereSession, server: str = "web01", *, name: str = NAME) -> int:
    return remove_snapshot(session, vm_of(session, server), name, cancel=CancelFlag())


def busy(sim: VCenterSimulator, server: str = "web01") -> str:
    """The task under way on the server."""
    return next(str(vm["busy"]) for vm in sim.state()["vms"] if vm["name"] == server)


def calls(sim: VCenterSimulator, method: str) -> int:
    return int(sim.counters()["methods"].get(method, 0))


def test_inv_5_a_retry_finds_the_snapshot_and_makes_no_second(sim: VCenterSimulator, session: VsphereSession) -> None:
    before = calls(sim, "CreateSnapshot_Task")
    first = ensure(session)
    assert (first.name, first.server, first.quiesced, first.quiesce_note) == (NAME, "web01", True, "")
    again = ensure(session)
    assert again.moref == first.moref
    assert calls(sim, "CreateSnapshot_Task") == before + 1
    assert find_snapshot(session, first.vm, NAME) == first
    assert [ref.moref for ref in find_ours(session)] == [first.moref]
    assert remove(session) == 1
    assert remove(session) == 0
    assert find_snapshot(session, first.vm, NAME) is None
    assert find_ours(session) == []


def test_the_snapshot_freezes_the_list_of_disks(session: VsphereSession) -> None:
    ref = ensure(session)
    frozen = snapshot_disks(session, ref.moref, server="web01")
    assert [disk.address for disk in frozen] == ["SCSI 0:0", "SCSI 0:1"]
    assert frozen[0].boot
    assert "-00000" not in frozen[0].file
    remove(session)
    with pytest.raises(NotFoundError):
        snapshot_disks(session, ref.moref)


def test_inv_4_one_of_ours_at_a_time(session: VsphereSession) -> None:
    ensure(session)
    with pytest.raises(BusyError, match=NAME):
        ensure(session, name=OTHER)
    remove(session)


def test_the_customer_s_own_snapshots_are_none_of_our_business(session: VsphereSession) -> None:
    ref = ensure(session, "hard01")
    assert [found.name for found in find_ours(session)] == [NAME]
    assert remove(session, "hard01") == 1
    assert find_snapshot(session, ref.vm, "before the update") is not None


def test_inv_4_never_while_the_vm_needs_consolidation(sim: VCenterSimulator, session: VsphereSession) -> None:
    before = calls(sim, "CreateSnapshot_Task")
    with pytest.raises(BusyError, match="consolidation"):
        ensure(session, "consolidate01")
    assert calls(sim, "CreateSnapshot_Task") == before


# --- quiescing ----------------------------------------------------------------------------------------------------


def test_quiesce_never_and_off_do_not_ask(session: VsphereSession) -> None:
    plain = ensure(session, quiesce="never")
    assert (plain.quiesced, plain.quiesce_note) == (False, "")
    remove(session)
    off = ensure(session, "off01", quiesce="require")
    assert not off.quiesced
    assert "at rest" in off.quiesce_note
    remove(session, "off01")


def test_trouble_no_tools(session: VsphereSession) -> None:
    fallback = ensure(session, "mute01", quiesce="prefer")
    assert "Tools" in fallback.quiesce_note
    remove(session, "mute01")
    with pytest.raises(QuiesceError, match="Tools"):
        ensure(session, "mute01", quiesce="require")


def test_trouble_quiescing_fails_prefer_falls_back_and_says_so(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(kind="quiesce", vm="web01")
    ref = ensure(session, quiesce="prefer")
    assert not ref.quiesced
    assert ref.quiesce_note.startswith("crash-consistent")
    assert "ApplicationQuiesceFault" in ref.quiesce_note
    assert remove(session) == 1


def test_trouble_quiescing_fails_require_is_an_error_with_the_reason(
    sim: VCenterSimulator, session: VsphereSession
) -> None:
    sim.rule(kind="quiesce", vm="web01")
    with pytest.raises(QuiesceError, match="ApplicationQuiesceFault"):
        ensure(session, quiesce="require")
    assert find_ours(session) == []


# --- lost answers and overlaps ------------------------------------------------------------------------------------


@pytest.mark.parametrize("action", ["before", "after"])
def test_inv_5_a_lost_answer_makes_no_second_snapshot(
    sim: VCenterSimulator, session: VsphereSession, action: str
) -> None:
    sim.rule(kind="drop", method="CreateSnapshot_Task", action=action, times=1)
    if action == "before":
        with pytest.raises(UnreachableError):
            ensure(session)
    ref = ensure(session)
    assert [found.moref for found in find_ours(session)] == [ref.moref]
    remove(session)


@pytest.mark.parametrize("action", ["before", "after"])
def test_a_lost_answer_of_a_removal_is_looked_after(
    sim: VCenterSimulator, session: VsphereSession, action: str
) -> None:
    ensure(session)
    sim.rule(kind="drop", method="RemoveSnapshot_Task", action=action, times=1)
    remove(session)
    assert find_ours(session) == []


def test_trouble_a_cancelled_creation_is_awaited_and_removed(sim: VCenterSimulator, session: VsphereSession) -> None:
    """on_kill in mid-snapshot: the task in vCenter goes on, and only the removal can know."""
    sim.rule(kind="task", method="CreateSnapshot_Task", delay=3600, times=1)
    cancel = CancelFlag()

    def stop() -> None:
        eventually(lambda: busy(sim))
        cancel.set()

    stopping = threading.Thread(target=stop)
    stopping.start()
    vm = vm_of(session, "web01")
    with pytest.raises(Cancelled):
        ensure_snapshot(session, vm, NAME, "", quiesce="never", cancel=cancel)
    stopping.join()
    assert find_ours(session) == []
    timer = threading.Timer(0.3, sim.clear_rules)
    timer.start()
    assert remove(session) == 1
    timer.join()
    assert find_ours(session) == []


def test_a_second_try_waits_for_the_first_one_s_snapshot(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(kind="task", method="CreateSnapshot_Task", delay=3600, times=1)
    refs: list[SnapshotRef] = []
    first = threading.Thread(target=lambda: refs.append(ensure(session, quiesce="never")))
    first.start()
    assert eventually(lambda: busy(sim))
    timer = threading.Timer(0.3, sim.clear_rules)
    timer.start()
    refs.append(ensure(session, quiesce="never"))
    timer.join()
    first.join()
    assert len({ref.moref for ref in refs}) == 1
    assert remove(session) == 1


def test_removal_takes_every_snapshot_of_the_name(session: VsphereSession) -> None:
    vm = vm_of(session, "web01")
    target = session.managed(vim.VirtualMachine, vm)
    for _ in range(2):
        task = target.CreateSnapshot_Task(name=NAME, description="", memory=False, quiesce=False)
        assert eventually(lambda task=task: task.info.state in ("success", "error"))  # type: ignore[misc]
    assert len(find_ours(session)) == 2
    assert remove(session) == 2
    assert find_ours(session) == []


def test_removal_waits_for_the_lease_of_a_killed_process(
    start_vc: Take, fleet_vms: list[SimVm], config_of: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This simulator's leases die after a second without a sign of life."""
    monkeypatch.setattr(snapshots, "BUSY_POLL_S", 0.1)
    sim = start_vc(fleet_vms, lease_timeout=1.0)
    for _ in range(5):  # on a machine that stalls, a lease may be dead before it is in the way
        with connect(config_of(sim)) as session, connect(config_of(sim)) as dead:
            ref = ensure(session, quiesce="never")
            dead.managed(vim.vm.Snapshot, ref.moref).ExportSnapshot()
            before = calls(sim, "RemoveSnapshot_Task")
            assert remove(session) == 1
            if calls(sim, "RemoveSnapshot_Task") > before + 1:
                return
    pytest.fail("no removal found a lease in its way")


def test_a_vm_that_is_gone_has_nothing_to_remove(session: VsphereSession) -> None:
    assert remove_snapshot(session, "vm-4711", NAME, cancel=CancelFlag()) == 0
    with pytest.raises(NotFoundError):
        ensure_snapshot(session, "vm-4711", NAME, "", quiesce="never", cancel=CancelFlag())


def test_removal_consolidates_what_vcenter_left(sim: VCenterSimulator, session: VsphereSession) -> None:
    ensure(session)
    sim.rule(kind="consolidation", vm="web01", times=1)
    before = calls(sim, "ConsolidateVMDisks_Task")
    assert remove(session) == 1
    assert calls(sim, "ConsolidateVMDisks_Task") == before + 1
    ensure(session)  # not refused: nothing needs consolidation
    remove(session)


@pytest.mark.parametrize("fault", ["GenericVmConfigFault", "FileLocked"])
def test_a_removal_whose_merge_fails_still_takes_the_snapshot_and_is_consolidated(
    sim: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """The task fails, the snapshot is off the tree, and its redo log would grow until the datastore is full."""
    monkeypatch.setattr(snapshots, "BUSY_POLL_S", 0.1)
    ensure(session)
    sim.rule(kind="consolidation", vm="web01", times=1)
    args = {"File": "x.vmdk"} if fault == "FileLocked" else {}
    sim.rule(kind="task", method="RemoveSnapshot_Task", fault=fault, args=args, applied=True, times=1)
    before = calls(sim, "ConsolidateVMDisks_Task")
    assert remove(session) == 1
    assert calls(sim, "ConsolidateVMDisks_Task") == before + 1
    ensure(session)
    remove(session)


def test_a_removal_that_vcenter_refuses_says_why(sim: VCenterSimulator, session: VsphereSession) -> None:
    ensure(session)
    sim.rule(kind="task", method="RemoveSnapshot_Task", fault="GenericVmConfigFault", times=1)
    before = calls(sim, "RemoveSnapshot_Task")
    with pytest.raises(WaveliftError, match="GenericVmConfigFault"):
        remove(session)
    assert calls(sim, "RemoveSnapshot_Task") == before + 1
    assert remove(session) == 1


def test_inv_4_a_removal_whose_answer_was_lost_is_consolidated_too(
    sim: VCenterSimulator, session: VsphereSession
) -> None:
    ensure(session)
    sim.rule(kind="consolidation", vm="web01", times=1)
    sim.rule(kind="drop", method="RemoveSnapshot_Task", action="after", times=1)
    before = calls(sim, "ConsolidateVMDisks_Task")
    remove(session)
    assert calls(sim, "ConsolidateVMDisks_Task") == before + 1
    ensure(session)  # not refused: nothing needs consolidation
    remove(session)


def test_a_removal_that_finds_nothing_of_ours_consolidates_nothing(
    sim: VCenterSimulator, session: VsphereSession
) -> None:
    """The customer's VM waited for it before we came, and we never touched it."""
    before = calls(sim, "ConsolidateVMDisks_Task")
    assert remove_snapshot(session, vm_of(session, "consolidate01"), NAME, cancel=CancelFlag()) == 0
    assert calls(sim, "ConsolidateVMDisks_Task") == before


def test_a_required_quiescing_is_not_forgotten_by_a_second_try(session: VsphereSession) -> None:
    """The first one was killed between making a snapshot that vCenter did not quiesce and looking at it."""
    left = ensure(session, quiesce="never")
    assert ensure(session, quiesce="prefer").moref == left.moref
    made = ensure(session, quiesce="require")
    assert made.quiesced
    assert [found.moref for found in find_ours(session)] == [made.moref]
    assert remove(session) == 1


def test_a_required_quiescing_leaves_a_machine_that_is_off_alone(session: VsphereSession) -> None:
    vm = vm_of(session, "off01")
    both = [ensure_snapshot(session, vm, NAME, "", quiesce="require", cancel=CancelFlag()) for _ in range(2)]
    assert both[0].moref == both[1].moref
    assert remove_snapshot(session, vm, NAME, cancel=CancelFlag()) == 1


def test_a_consolidation_that_stays_locked_is_told(sim: VCenterSimulator, session: VsphereSession) -> None:
    ensure(session)
    sim.rule(kind="consolidation", vm="web01", times=1)
    sim.rule(kind="task", method="ConsolidateVMDisks_Task", fault="FileLocked", args={"File": "x.vmdk"}, times=1)
    with pytest.raises(BusyError, match="still need consolidation"):
        remove(session)
    target = session.managed(vim.VirtualMachine, vm_of(session, "web01"))
    task = target.ConsolidateVMDisks_Task()
    assert eventually(lambda: task.info.state in ("success", "error"))


def test_a_task_s_fault_is_ours_and_leaves_nothing(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(kind="task", method="CreateSnapshot_Task", fault="FileFault", args={"File": "x.vmdk"}, times=1)
    with pytest.raises(WaveliftError, match="FileFault") as told:
        ensure(session, quiesce="never")
    assert told.value.where["server"] == "web01"
    assert find_ours(session) == []


def test_waiting_has_an_end(sim: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots_module, "CREATE_TIMEOUT_S", 0.5)
    sim.rule(kind="task", method="CreateSnapshot_Task", delay=3600, times=1)
    vm = vm_of(session, "web01")
    with pytest.raises(WaitTimeout, match="making the snapshot"):
        ensure_snapshot(session, vm, NAME, "", quiesce="never", cancel=CancelFlag())
    sim.clear_rules()
    assert remove(session) == 1


def test_a_missing_privilege_is_told_by_name(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(
        kind="fault",
        method="CreateSnapshot_Task",
        fault="NoPermission",
        args={"PrivilegeId": "VirtualMachine.State.CreateSnapshot"},
        times=1,
    )
    with pytest.raises(MissingPrivilegeError, match=r"VirtualMachine\.State\.CreateSnapshot"):
        ensure(session, quiesce="never")


def test_the_session_may_end_while_a_task_is_awaited(
    sim: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    sim.rule(kind="task", method="CreateSnapshot_Task", delay=3600, times=1)

    with connect(config_of(sim)) as admin:
        key = session.session_key

        def end_it() -> None:
            eventually(lambda: busy(sim))
            admin.content.sessionManager.TerminateSession([key])
            eventually(lambda: session.generation == 2)
            sim.clear_rules()

        ending = threading.Thread(target=end_it)
        ending.start()
        ref = ensure(session, quiesce="never")
        ending.join()
    assert session.generation == 2
    assert ref.name == NAME
    assert remove(session) == 1


def test_another_thread_may_sign_in_again_while_a_task_is_awaited(
    sim: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    """The waiter's collector goes with the old login: the task is not gone, and nothing permanent happened."""
    sim.rule(kind="task", method="CreateSnapshot_Task", delay=3600, times=1)
    target = session.managed(vim.VirtualMachine, vm_of(session, "web01"))
    task = target.CreateSnapshot_Task(name=NAME, description="", memory=False, quiesce=False)
    looked: list[str] = []

    def until(values: Values) -> str | None:
        looked.append(str(values["info.state"]))
        if len(looked) == 1:
            with connect(config_of(sim)) as admin:
                admin.content.sessionManager.TerminateSession([session.session_key])
            session.read(session.managed(vim.ServiceInstance, "ServiceInstance").CurrentTime)
            assert session.generation == 2
        elif looked[-1] == "running":  # by another collector
            sim.clear_rules()
        return looked[-1] if looked[-1] in ("success", "error") else None

    assert watch(session, task, ["info.state"], until, Wait("the task", 120, CancelFlag())) == "success"
    assert remove(session) == 1
