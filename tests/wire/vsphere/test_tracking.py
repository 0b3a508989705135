"""Change tracking of the adapter against what the guest really wrote."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Take

from wavelift.adapters.vsphere import tracking
from wavelift.adapters.vsphere.datastore import DatastoreRoute, probe
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.faults import TrackingLostError
from wavelift.adapters.vsphere.inventory import facts, list_summaries
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.snapshots import ensure_snapshot, remove_snapshot, snapshot_disks
from wavelift.adapters.vsphere.tracking import IN_USE, ChangedAreas, changed_areas, enable_tracking, tracking_events
from wavelift.base.domain import DiskFacts, DiskLineage, SnapshotRef
from wavelift.base.errors import BusyError, Cancelled, MissingPrivilegeError, NotFoundError
from wavelift.base.names import snapshot_name
from wavelift.base.run import CancelFlag
from wavelift.base.units import KIB, MIB
from wavelift.rules.lineage import lineage_doubts, match_disks
from wavelift.simulators import vcenter
from wavelift.simulators.vcenter import SimDisk, SimUser, SimVm, VCenterSimulator
from wavelift.transfer.extents import coalesce
from wavelift.transfer.protocols import Extent

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]

GRANULE = 64 * KIB
CAPACITY = 24 * MIB + 512
NAME = snapshot_name("demo.replicate/run/app01")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("tracked") / "disk.raw"
    file.write_bytes(random.Random(1).randbytes(MIB) + bytes(MIB))
    return file


@pytest.fixture
def tracked(start_vc: Take, raw: Path) -> VCenterSimulator:
    """``app01`` is tracked, ``plain01`` is not; answers come in windows of 5 MiB."""
    vms = [
        SimVm("app01", [SimDisk(raw, CAPACITY), SimDisk(capacity=8 * MIB, unit=1)], change_tracking=True),
        SimVm("plain01", [SimDisk(raw, CAPACITY)]),
    ]
    limited = SimUser("limited", "limited-pw", without=("VirtualMachine.Provisioning.DiskRandomRead",))
    return start_vc(vms, users=(vcenter.ADMIN, limited), changed_area_window=5 * MIB, task_seconds=0.01)


@pytest.fixture
def vc(tracked: VCenterSimulator, config_of: Configure) -> Iterator[VsphereSession]:
    with connect(config_of(tracked)) as session:
        yield session


def vm_of(session: VsphereSession, name: str = "app01") -> str:
    return next(vm.moref for vm in list_summaries(session) if vm.name == name)


def freeze(session: VsphereSession, server: str = "app01") -> tuple[SnapshotRef, tuple[DiskFacts, ...]]:
    ref = ensure_snapshot(session, vm_of(session, server), NAME, "test", quiesce="never", cancel=CancelFlag())
    return ref, snapshot_disks(session, ref.moref)


def thaw(session: VsphereSession, server: str = "app01") -> None:
    remove_snapshot(session, vm_of(session, server), NAME, cancel=CancelFlag())


def ask(session: VsphereSession, ref: SnapshotRef, disk: DiskFacts, since: str | None) -> ChangedAreas:
    return changed_areas(
        session, FrozenVm(ref.vm, ref.moref, "app01"), disk, change_id=since or "", cancel=CancelFlag()
    )


def one_run(session: VsphereSession) -> DiskFacts:
    """The first disk as a run froze and then left it."""
    _, disks = freeze(session)
    thaw(session)
    return disks[0]


def left_by(disk: DiskFacts) -> DiskLineage:
    return DiskLineage(
        key=disk.key,
        address=disk.address,
        uuid=disk.uuid,
        file=disk.file,
        capacity=disk.capacity,
        change_id=disk.change_id,
        snapshot_id="snap-1",
        bucket="b",
        manifest_key="m",
        manifest_digest="d",
        hardware_version="vmx-19",
    )


# --- what changed -----------------------------------------------------------------------------------------------


def test_inv_3_areas_are_what_the_guest_wrote_between_two_runs(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    before = one_run(vc)
    noise = random.Random(2)
    writes = [(noise.randrange(0, CAPACITY - 200_000), noise.randrange(1, 200_000)) for _ in range(15)]
    writes.append((CAPACITY - 100, 100))
    for offset, length in writes:
        tracked.guest_write("app01", 0, offset, noise.randbytes(length))
    ref, disks = freeze(vc)
    tracked.guest_write("app01", 0, 12 * MIB, b"after the snapshot")
    found = ask(vc, ref, disks[0], before.change_id)
    wanted = [
        Extent(at // GRANULE * GRANULE, min(-(-(at + length) // GRANULE) * GRANULE, CAPACITY) - at // GRANULE * GRANULE)
        for at, length in writes
    ]
    assert found.areas == coalesce(wanted)
    assert found.answers == 5, "windows of 5 MiB over 24"
    assert ask(vc, ref, disks[0], disks[0].change_id).areas == ()
    assert ask(vc, ref, disks[1], disks[1].change_id).answers == 2
    thaw(vc)


def test_windows_do_not_cut_an_area_in_two(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    before = one_run(vc)
    tracked.guest_write("app01", 0, 4 * MIB, random.Random(3).randbytes(2 * MIB))
    ref, disks = freeze(vc)
    assert ask(vc, ref, disks[0], before.change_id).areas == (Extent(4 * MIB, 2 * MIB),)
    tracked.rule(kind="cbt", action="full_window")
    found = ask(vc, ref, disks[0], before.change_id)
    assert (found.areas, found.answers) == ((Extent(4 * MIB, 2 * MIB),), 1)
    thaw(vc)


def test_the_areas_in_use_are_marked_so(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    ref, disks = freeze(vc)
    found = ask(vc, ref, disks[0], IN_USE)
    assert found.since == IN_USE
    assert found.areas == (Extent(0, 2 * MIB),)
    tracked.rule(kind="cbt", action="whole_disk", times=0)
    everything = ask(vc, ref, disks[0], IN_USE)
    assert everything.areas == (Extent(0, CAPACITY),)
    thaw(vc)


@pytest.mark.parametrize(("fault", "fields"), [("FileFault", {"file": "x"}), ("NotFound", {}), ("InvalidArgument", {})])
def test_inv_3_a_fault_is_lost_tracking_in_words(
    tracked: VCenterSimulator, vc: VsphereSession, fault: str, fields: dict[str, str]
) -> None:
    ref, disks = freeze(vc)
    tracked.rule(kind="cbt", action="fault", fault=fault, args=fields)
    with pytest.raises(TrackingLostError, match=fault) as told:
        ask(vc, ref, disks[0], disks[0].change_id)
    assert told.value.where == {"server": "app01", "disk": "SCSI 0:0"}
    assert "compares digests" in told.value.next_step
    thaw(vc)


def test_ids_of_another_lineage_and_untracked_disks(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    ref, disks = freeze(vc)
    for wrong in ("00000000-0000-0000-0000-000000000000/1", "nonsense"):
        with pytest.raises(TrackingLostError):
            ask(vc, ref, disks[0], wrong)
    thaw(vc)
    plain, disks = freeze(vc, "plain01")
    with pytest.raises(TrackingLostError, match="FileFault"):
        ask(vc, plain, disks[0], IN_USE)
    thaw(vc, "plain01")


def test_other_troubles_stay_what_they_are(tracked: VCenterSimulator, vc: VsphereSession, config_of: Configure) -> None:
    ref, disks = freeze(vc)
    larger = disks[0].model_copy(update={"capacity": 1 << 40})
    with pytest.raises(Exception, match="InvalidArgument") as told:
        ask(vc, ref, larger, disks[0].change_id)
    assert not isinstance(told.value, TrackingLostError), "the offset was ours"
    with connect(config_of(tracked, username="limited", password="limited-pw")) as limited:
        with pytest.raises(MissingPrivilegeError, match="DiskRandomRead"):
            ask(limited, ref, disks[0], disks[0].change_id)
    stop = CancelFlag()
    stop.set()
    with pytest.raises(Cancelled):
        changed_areas(vc, FrozenVm(ref.vm, ref.moref, "app01"), disks[0], change_id=IN_USE, cancel=stop)
    tracked.expire_sessions()
    assert ask(vc, ref, disks[0], disks[0].change_id).areas == (), "a new login goes unnoticed"
    thaw(vc)
    with pytest.raises(NotFoundError):
        ask(vc, ref, disks[0], disks[0].change_id)


class _Answer:
    def __init__(self, start: int, length: int, *areas: tuple[int, int]) -> None:
        self.startOffset, self.length = start, length
        self.changedArea = [type("Area", (), {"start": at, "length": size})() for at, size in areas]


class _Scripted:
    """A session whose vCenter gives these answers."""

    def __init__(self, *answers: _Answer) -> None:
        self.answers = list(answers)

    def own_connection(self, **_: float) -> Any:
        return nullcontext()

    def managed(self, kind: Any, ref: str, stub: Any = None) -> Any:
        return type("Target", (), {"_moId": ref, "QueryChangedDiskAreas": lambda *a: self.answers.pop(0)})()

    def read(self, call: Callable[[], Any], **where: object) -> Any:
        return call()


def scripted(*answers: _Answer) -> ChangedAreas:
    disk = DiskFacts(
        key=1, label="d", capacity=100, controller="SCSI", controller_class="c", bus=0, unit=0, backing="b"
    )
    session: Any = _Scripted(*answers)
    return changed_areas(session, FrozenVm("vm-1", "s", "s"), disk, change_id="x/1", cancel=CancelFlag())


@pytest.mark.parametrize(
    "answers",
    [
        [_Answer(0, 0)],
        [_Answer(0, 50), _Answer(50, -10)],
        [_Answer(10, 90)],
        [_Answer(0, 50), _Answer(0, 50)],
        [_Answer(0, 50, (60, 10)), _Answer(50, 50)],
        [_Answer(0, 100, (-5, 10))],
        [_Answer(0, 100, (5, -1))],
        [_Answer(0, 50), _Answer(50, 50, (10, 5))],
    ],
    ids=["empty", "back", "gap", "standstill", "ahead", "before", "negative", "behind"],
)
def test_inv_3_answers_that_contradict_themselves_are_not_believed(answers: list[_Answer]) -> None:
    with pytest.raises(TrackingLostError):
        scripted(*answers)


def test_overlaps_are_joined_and_what_lies_behind_the_disk_is_clipped() -> None:
    found = scripted(_Answer(0, 60, (50, 20), (0, 10), (5, 10)), _Answer(40, 80, (65, 10), (90, 30)))
    assert found.areas == (Extent(0, 15), Extent(50, 25), Extent(90, 10))
    assert found.bytes == 50


def test_a_slow_answer_is_waited_for_longer_than_any_other(
    tracked: VCenterSimulator, config_of: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked.rule(kind="latency", method="QueryChangedDiskAreas", delay=3)
    with connect(config_of(tracked, timeout=1)) as session:
        before = one_run(session)
        ref, disks = freeze(session)
        assert ask(session, ref, disks[0], before.change_id).areas == ()
        monkeypatch.setattr(tracking, "QUERY_TIMEOUT_S", 0.6)
        tracked.rule(kind="latency", method="QueryChangedDiskAreas", delay=60, times=0)
        with pytest.raises(TrackingLostError, match=r"no answer within 0.01 minutes"):
            ask(session, ref, disks[0], before.change_id)
        tracked.clear_rules()
        thaw(session)


def test_a_cancelled_task_does_not_wait_for_a_slow_answer(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    before = one_run(vc)
    ref, disks = freeze(vc)
    tracked.rule(kind="latency", method="QueryChangedDiskAreas", delay=60, times=0)
    cancel = CancelFlag()
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    with pytest.raises(Cancelled):
        changed_areas(
            vc,
            FrozenVm(ref.vm, ref.moref, "app01"),
            disks[0],
            change_id=before.change_id or "",
            cancel=cancel,
        )
    timer.join()
    tracked.clear_rules()
    assert eventually(lambda: not [one for one in threading.enumerate() if one.name == "wavelift-changed-areas"])
    thaw(vc)


# --- turning it on ----------------------------------------------------------------------------------------------


def enable(session: VsphereSession, server: str = "plain01") -> bool:
    return enable_tracking(session, vm_of(session, server), cancel=CancelFlag(), server=server)


def test_inv_3_tracking_is_turned_on_once_and_works_after_a_cycle(
    tracked: VCenterSimulator, vc: VsphereSession
) -> None:
    assert enable(vc)
    assert not enable(vc), "it is on"
    assert not enable(vc, "app01")
    assert tracked.counters()["methods"]["ReconfigVM_Task"] == 1
    _, first = freeze(vc, "plain01")
    thaw(vc, "plain01")
    tracked.guest_write("plain01", 0, 3 * MIB, b"x")
    ref, second = freeze(vc, "plain01")
    assert ask(vc, ref, second[0], first[0].change_id).areas == (Extent(3 * MIB, GRANULE),)
    thaw(vc, "plain01")


def test_inv_3_never_under_a_snapshot(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    freeze(vc, "plain01")
    with pytest.raises(BusyError, match="has snapshots"):
        enable(vc)
    assert "ReconfigVM_Task" not in tracked.counters()["methods"]
    thaw(vc, "plain01")


def test_a_lost_answer_is_looked_up(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    tracked.rule(kind="drop", method="ReconfigVM_Task", action="after")
    assert enable(vc)
    assert next(vm for vm in tracked.state()["vms"] if vm["name"] == "plain01")["change_tracking"]


# --- what happened since ----------------------------------------------------------------------------------------


def kinds(session: VsphereSession, since: datetime) -> list[str]:
    return [str(event.kind) for event in tracking_events(session, vm_of(session), since)]


def test_inv_3_reverts_failures_and_moves_are_told(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    ref, disks = freeze(vc)
    since = datetime.fromisoformat(ref.created)
    assert kinds(vc, since) == [], "snapshots of ours are nothing unusual"
    tracked.migrate("app01", "127.0.0.12")
    assert kinds(vc, since) == ["move"]
    tracked.set_vm("app01", revert_to=NAME)
    assert kinds(vc, since) == ["move", "revert"]
    thaw(vc)
    previous, now = left_by(disks[0]), one_run(vc)
    assert "was restarted" in lineage_doubts(previous, now, hardware_version="vmx-19")
    assert kinds(vc, datetime.now(UTC) + timedelta(minutes=5)) == []


@pytest.mark.parametrize("stale", [False, True])
def test_inv_3_a_host_that_fails_is_a_doubt(tracked: VCenterSimulator, vc: VsphereSession, stale: bool) -> None:
    previous = left_by(one_run(vc))
    since = datetime.now(UTC) - timedelta(minutes=1)
    if stale:
        tracked.rule(kind="power_loss_keeps_change_id")
    tracked.set_vm("app01", power_loss=True)
    now = one_run(vc)
    events = tracking_events(vc, vm_of(vc), since)
    assert "host failure" in [event.kind for event in events]
    assert bool(lineage_doubts(previous, now, hardware_version="vmx-19")) is not stale
    assert lineage_doubts(previous, now, hardware_version="vmx-19", events=events)


def test_inv_3_a_revert_that_keeps_the_id_is_caught_by_its_event(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    ref, disks = freeze(vc)
    tracked.rule(kind="revert_keeps_change_id")
    tracked.set_vm("app01", revert_to=ref.moref)
    thaw(vc)
    now = one_run(vc)
    assert lineage_doubts(left_by(disks[0]), now, hardware_version="vmx-19") == ""
    events = tracking_events(vc, ref.vm, datetime.fromisoformat(ref.created))
    assert "revert" in lineage_doubts(left_by(disks[0]), now, hardware_version="vmx-19", events=events)


def test_many_events_come_in_pages(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    for turn in range(120):
        tracked.migrate("app01", ("127.0.0.12", "127.0.0.11")[turn % 2])
    events = tracking_events(vc, vm_of(vc), since)
    assert len(events) == 120
    assert list(events) == sorted(events, key=lambda event: event.at)
    assert tracking_events(vc, vm_of(vc, "plain01"), since) == ()


def test_inv_3_disks_that_grow_come_and_go(tracked: VCenterSimulator, vc: VsphereSession) -> None:
    _, disks = freeze(vc)
    thaw(vc)
    previous = [left_by(disk) for disk in disks]
    tracked.set_vm("app01", grow={"disk": 0, "capacity": 32 * MIB})
    tracked.set_vm("app01", remove_disk=1)
    tracked.set_vm("app01", add_disk={"capacity": 4 * MIB, "unit": 1})
    tracked.set_vm("app01", hardware="vmx-21")
    tracked.guest_write("app01", 0, 30 * MIB, b"in the new part")
    ref, disks = freeze(vc)
    found = match_disks(previous, disks)
    assert [one.fate for one in found.disks] == ["grown", "new"]
    assert [old.address for old in found.gone] == ["SCSI 0:1"]
    assert "size" in lineage_doubts(previous[0], disks[0], hardware_version="vmx-19")
    assert ask(vc, ref, disks[0], previous[0].change_id).areas == (Extent(30 * MIB, GRANULE),)
    thaw(vc)


# --- chains, not names --------------------------------------------------------------------------------------------


def test_a_disk_whose_name_looks_like_a_deltas_is_read_by_ranges(
    start_vc: Take, raw: Path, config_of: Configure
) -> None:
    """``srv-100234.vmdk`` is a base file (issue 11, 21)."""
    sim = start_vc([SimVm("srv-100234", [SimDisk(raw, CAPACITY)], change_tracking=True)], task_seconds=0.01)
    sim.rule(kind="folder", action="unlocked", times=0)
    with connect(config_of(sim)) as session:
        ref, (disk,) = freeze(session, "srv-100234")
        assert disk.base_file == disk.file == "[datastore1] srv-100234/srv-100234.vmdk"
        found = probe(session, FrozenVm(ref.vm, ref.moref, "srv-100234"), disk)
        assert isinstance(found, DatastoreRoute), found
        (live,) = facts(session, [ref.vm])[0].disks
        assert (live.on_delta, live.base_file) == (True, disk.file)
        thaw(session, "srv-100234")


def test_tracking_is_not_turned_on_over_a_delta_that_no_snapshot_accounts_for(
    tracked: VCenterSimulator, vc: VsphereSession
) -> None:
    tracked.set_vm("plain01", leave_delta=True)
    (server,) = facts(vc, [vm_of(vc, "plain01")])
    assert (server.snapshots, server.consolidation_needed) == ((), False), "nothing but the chain says so"
    assert [disk.file for disk in server.left_behind] == ["[datastore1] plain01/plain01-000001.vmdk"]
    with pytest.raises(BusyError, match="runs on deltas") as refused:
        enable(vc)
    assert "Consolidate" in str(refused.value)
    assert "ReconfigVM_Task" not in tracked.counters()["methods"]
    vc.managed(vim.VirtualMachine, server.moref).ConsolidateVMDisks_Task()
    assert eventually(lambda: not facts(vc, [server.moref])[0].left_behind)
    assert enable(vc)
