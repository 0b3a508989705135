"""Ranges of the frozen base file: the probe's conditions, the reader, and the look afterwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Processes, Take

from wavelift.adapters.vsphere import range_stream, ranges
from wavelift.adapters.vsphere.datastore import DatastoreReader, DatastoreRoute, NotServed, probe, still_frozen
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.inventory import list_summaries
from wavelift.adapters.vsphere.range_stream import SPAN, SPANS_AHEAD
from wavelift.adapters.vsphere.ranges import RangeRefusedError
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.snapshots import ensure_snapshot, remove_snapshot, snapshot_disks
from wavelift.adapters.vsphere.tasks import wait_for_task
from wavelift.base.domain import DiskFacts, SnapshotRef
from wavelift.base.errors import Cancelled, LoginError, NotFoundError, UnreachableError
from wavelift.base.names import snapshot_name
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, KIB, MIB
from wavelift.simulators.vcenter import SimDatastore, SimDisk, SimHost, SimVm, VCenterSimulator
from wavelift.transfer.extents import round_to_blocks
from wavelift.transfer.protocols import BlockStream, Extent

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]

CAPACITY = 9 * MIB + 512
NAME = snapshot_name("demo.replicate/run/five")
STORES = ("VMFS5", "VMFS6", "NFS", "vsan")


@pytest.fixture(scope="module")
def content() -> bytes:
    """What each ``running`` disk holds."""
    return random.Random(9).randbytes(3 * MIB) + bytes(2 * MIB) + random.Random(8).randbytes(CAPACITY - 5 * MIB)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    file = tmp_path_factory.mktemp("stores") / "disk.raw"
    file.write_bytes(content)
    return file


@pytest.fixture
def sim(start_vc: Take, processes: Processes, raw: Path) -> Iterator[VCenterSimulator]:
    """A running VM on each kind of datastore, and what a probe must refuse."""
    disk = SimDisk(raw)
    vms = [SimVm(kind.lower(), [disk], datastore=kind, folder="prod/deep") for kind in STORES]
    vms += [
        SimVm("off", [disk], datastore="VMFS6", power="poweredOff"),
        SimVm("older", [disk], datastore="NFS", snapshots=["before the update"]),
        SimVm("older", [disk], datastore="NFS", snapshots=["before the update"]),
        SimVm("secret", [SimDisk(raw, encrypted=True)], datastore="NFS"),
        SimVm("rdm", [SimDisk(raw, rdm="virtual")], datastore="NFS"),
    ]
    datastores = [SimDatastore(kind, kind) for kind in STORES]  # type: ignore[arg-type]
    stores = start_vc(vms, world="stores", datastores=datastores, task_seconds=0.01)
    yield stores
    stores.clear_rules()
    stores.stop_writer()
    try:
        assert [vm["snapshots"] for vm in stores.state()["vms"] if vm["name"] != "older"] == [[]] * 7
        assert "/vcenter-cookie-sent-to-a-host" not in stores.counters()["paths"]
    except BaseException:
        processes.spoil(stores)
        raise


@pytest.fixture
def session(sim: VCenterSimulator, config_of: Configure) -> Iterator[VsphereSession]:
    with connect(config_of(sim, patience_s=1.0)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranges, "PAUSES", RetryPolicy(base_s=0.01, cap_s=0.02))
    monkeypatch.setattr(ranges, "DOUBTFUL_S", 0.2)


def vm_of(session: VsphereSession, name: str) -> str:
    return next(vm.moref for vm in list_summaries(session) if vm.name == name)


@contextmanager
def frozen(session: VsphereSession, server: str) -> Iterator[tuple[SnapshotRef, DiskFacts]]:
    vm = vm_of(session, server)
    ref = ensure_snapshot(session, vm, NAME, "test", quiesce="never", cancel=CancelFlag())
    try:
        yield ref, snapshot_disks(session, ref.moref)[0]
    finally:
        remove_snapshot(session, vm, NAME, cancel=CancelFlag())


def look(session: VsphereSession, ref: SnapshotRef, disk: DiskFacts) -> DatastoreRoute | NotServed:
    return probe(session, FrozenVm(ref.vm, ref.moref, ref.server), disk)


def route_to(session: VsphereSession, ref: SnapshotRef, disk: DiskFacts) -> DatastoreRoute:
    found = look(session, ref, disk)
    assert isinstance(found, DatastoreRoute), found
    return found


def refusal(session: VsphereSession, server: str, **changes: Any) -> str:
    with frozen(session, server) as (ref, disk):
        found = look(session, ref, disk.model_copy(update=changes))
    assert isinstance(found, NotServed)
    return found.reason


def whole(reader: DatastoreReader) -> bytes:
    """All of the disk, as the pipeline reads it."""
    image = bytearray(reader.size)
    stream = reader.stream()
    for piece in stream.pieces():
        at = piece.index * BLOCK
        piece.load(memoryview(image)[at : at + BLOCK])
    stream.close()
    return bytes(image)


@contextmanager
def opened(
    session: VsphereSession, server: str, *, areas: list[Extent] | None = None, cancel: CancelFlag | None = None
) -> Iterator[DatastoreReader]:
    with ExitStack() as stack:
        ref, disk = stack.enter_context(frozen(session, server))
        reader = DatastoreReader(session, route_to(session, ref, disk), cancel=cancel or CancelFlag(), areas=areas)
        stack.callback(reader.close)
        yield reader


# --- the probe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server", ["vmfs5", "nfs", "off"])
def test_served_by_vmfs5_nfs_and_a_vm_that_is_off(session: VsphereSession, content: bytes, server: str) -> None:
    with opened(session, server) as reader:
        assert reader.route.via == "vcenter"
        assert "served by ranges through vCenter" in reader.route.reason
        assert "?dcPath=dc1&dsName=" in reader.route.file.path
        assert whole(reader) == content
        assert still_frozen(session, reader.route) == ""


def test_vmfs6_is_locked_while_the_vm_runs(session: VsphereSession) -> None:
    reason = refusal(session, "vmfs6")
    assert "no range of [VMFS6] vmfs6/vmfs6-flat.vmdk is served while the VM runs" in reason
    assert reason.count("answers 500") == 2, "both ways were tried"


def test_vsan_has_no_flat_file(sim: VCenterSimulator, session: VsphereSession) -> None:
    before = sim.counters()["paths"].get("/folder", {"requests": 0})["requests"]
    assert "type vsan" in refusal(session, "vsan")
    assert sim.counters()["paths"].get("/folder", {"requests": 0})["requests"] == before, "it was not even asked"


def test_what_is_no_whole_flat_file(session: VsphereSession) -> None:
    assert "older snapshots stand under ours: [NFS] older/older-000001.vmdk" in refusal(session, "older")
    assert "encrypted" in refusal(session, "secret")
    assert "VirtualDiskRawDiskMappingVer1BackingInfo" in refusal(session, "rdm")
    assert "does not hold this disk" in refusal(session, "nfs", key=2009)
    assert "file is now [NFS] nfs/nfs.vmdk" in refusal(session, "nfs", file="[NFS] nfs/other.vmdk")
    assert "does not show the datastore NFS9" in refusal(session, "nfs", datastore="NFS9")


def test_a_file_of_another_size_is_not_the_disk(session: VsphereSession) -> None:
    reason = refusal(session, "nfs", capacity=CAPACITY + 512)
    assert f"'bytes 0-511/{CAPACITY}' where 'bytes 0-511/{CAPACITY + 512}'" in reason


@pytest.mark.parametrize("status", [403, 404, 409, 423, 500, 503])
def test_each_refusal_is_a_reason(sim: VCenterSimulator, session: VsphereSession, status: int) -> None:
    sim.rule(kind="folder", action="status", status=status, times=0)
    assert refusal(session, "nfs").count(f"answers {status}") == 2


def test_a_server_that_ignores_ranges(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(kind="folder", action="no_range", times=0)
    assert "ignores the range" in refusal(session, "nfs")


def test_one_503_is_no_refusal(sim: VCenterSimulator, session: VsphereSession) -> None:
    sim.rule(kind="folder", action="status", status=503)
    with frozen(session, "nfs") as (ref, disk):
        assert route_to(session, ref, disk).via == "vcenter"


def test_the_vm_s_own_host_under_tickets(sim: VCenterSimulator, session: VsphereSession, content: bytes) -> None:
    sim.rule(kind="folder", action="host_only", times=0)
    sim.reset_counters()
    with opened(session, "vmfs6") as reader:
        assert reader.route.via == "host"
        assert reader.route.file.host in reader.route.reason
        assert whole(reader) == content
        assert still_frozen(session, reader.route) == ""
    spans = -(-CAPACITY // SPAN)
    assert sim.counters()["methods"]["AcquireGenericServiceTicket"] == spans + 1, "one each, and the probe's"


def test_hosts_are_trusted_by_the_thumbprint_that_vcenter_reports(
    start_vc: Take, config_of: Configure, raw: Path
) -> None:
    vms = [SimVm("app", [SimDisk(raw)])]
    running = start_vc([])
    wrong = ":".join(["AB"] * 20)
    for host, words in ((SimHost(certificate="self_signed"), ""), (SimHost(thumbprint=wrong), "is not the pinned one")):
        running.reset(vms, hosts=[host], task_seconds=0.01)
        with connect(config_of(running)) as session:
            running.rule(kind="folder", action="host_only", times=0)
            with frozen(session, "app") as (ref, disk):
                found = look(session, ref, disk)
            assert (words in found.reason) if words else isinstance(found, DatastoreRoute)


@pytest.mark.parametrize("mode", ["vcenter", "ca"])
def test_a_host_behind_nat_is_read_at_its_mapped_address(
    start_vc: Take, config_of: Configure, raw: Path, content: bytes, mode: str
) -> None:
    """vCenter names it as nobody here can; its ticket, certificate and Host header stay those of the name."""
    nat = SimHost(name="esx9.corp.invalid", address="127.0.0.13")
    sim = start_vc([SimVm("app", [SimDisk(raw)])], hosts=[nat], task_seconds=0.01)
    sim.rule(kind="folder", action="host_only", times=0)
    with connect(config_of(sim, esxi_mode=mode)) as session, frozen(session, "app") as (ref, disk):
        unknown = look(session, ref, disk)
    assert "esx9.corp.invalid cannot be resolved" in unknown.reason
    mapped = config_of(sim, esxi_mode=mode, esxi_addresses={"ESX9.corp.invalid": "127.0.0.13"})
    with connect(mapped) as session, opened(session, "app") as reader:
        assert reader.route.file.host == "esx9.corp.invalid"
        assert whole(reader) == content


def test_gone_things_are_errors_not_reasons(session: VsphereSession) -> None:
    with frozen(session, "nfs") as (ref, disk):
        pass
    with pytest.raises(NotFoundError):
        look(session, ref, disk)


# --- the reader ---------------------------------------------------------------------------------------------------


def test_ranges_equal_the_frozen_bytes_while_the_guest_writes_on(
    sim: VCenterSimulator, processes: Processes, session: VsphereSession, content: bytes
) -> None:
    with opened(session, "nfs") as reader:
        sim.start_writer(rate=8 * MIB, blocks=64)  # not before: what it writes until the snapshot would be in it
        equal = [whole(reader) == content]  # a difference in MiB of bytes is not to be printed
        while not sim.state()["writer"]["writes"]:
            equal.append(whole(reader) == content)
        equal.append(whole(reader) == content)
        sim.stop_writer()
        sim.guest_write("nfs", 0, 0, b"after the snapshot")
        equal.append(whole(reader) == content)
        assert all(equal)
        assert sim.guest_read("nfs", 0, 0, 18) == b"after the snapshot"
    processes.spoil(sim)  # what the guest wrote is merged into the base now


def test_only_areas_are_read_neighbours_by_one_range(
    sim: VCenterSimulator, session: VsphereSession, content: bytes
) -> None:
    areas = [Extent(5 * MIB, 4 * KIB), Extent(0, 4 * KIB), Extent(30 * KIB, 4 * KIB), Extent(CAPACITY - 512, 512)]
    with opened(session, "nfs", areas=areas) as reader:
        assert list(reader.extents()) == [
            Extent(0, 34 * KIB),
            Extent(5 * MIB, 4 * KIB),
            Extent(CAPACITY - 512, 512),
        ]
    blocks = list(round_to_blocks(areas, CAPACITY))
    with opened(session, "nfs", areas=blocks) as reader:
        sim.reset_counters()
        image = whole(reader)
        counted = sim.counters()["paths"]["/folder"]
        assert counted == {"requests": 3, "bytes": sum(one.length for one in blocks)}
        ends = [(one.offset, one.offset + one.length) for one in blocks]
        assert [at for at, end in ends if image[at:end] != content[at:end]] == []


def test_workers_share_connections(sim: VCenterSimulator, session: VsphereSession, content: bytes) -> None:
    with opened(session, "nfs") as reader:
        got: dict[int, bytes] = {}

        def work(first: int) -> None:
            mine = reader.clone()
            for at in range(first * MIB, CAPACITY, 4 * MIB):
                buffer = bytearray(min(MIB, CAPACITY - at))
                mine.read_into(at, memoryview(buffer))
                got[at] = bytes(buffer)
            mine.close()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert b"".join(got[at] for at in sorted(got)) == content
        reader.read_into(0, memoryview(bytearray()))


def test_a_session_that_ends_in_the_middle_goes_on_under_a_new_login(
    sim: VCenterSimulator, session: VsphereSession, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(range_stream, "SPAN", 2 * BLOCK)  # what is asked for ahead was asked for under the old one
    with opened(session, "nfs") as reader:
        sim.rule(kind="folder", action="expire", bytes=100_000, skip=2)
        logins = session.generation
        assert whole(reader) == content
        assert session.generation == logins + 1
        sim.rule(kind="folder", action="status", status=401, times=0)
        with pytest.raises(RangeRefusedError, match="answers 401"):
            whole(reader)
        assert session.generation == logins + 2, "not again and again"


@pytest.mark.parametrize("fault", [{"action": "cut", "bytes": 70_000}, {"action": "status", "status": 503}])
def test_cuts_and_503_are_read_again(
    sim: VCenterSimulator, session: VsphereSession, content: bytes, fault: dict[str, Any]
) -> None:
    with opened(session, "nfs") as reader:
        sim.rule(kind="folder", skip=1, times=10, **fault)
        assert whole(reader) == content
        assert sim.rules()[-1]["hits"] == 10
        sim.rule(kind="folder", times=0, **fault)
        with pytest.raises((UnreachableError, RangeRefusedError)) as told:
            reader.read_into(MIB, memoryview(bytearray(BLOCK)))
        assert told.value.where["offset"] == MIB
        assert told.value.where["server"] == "nfs"
        assert sim.rules()[-1]["hits"] > 10, "for as long as there is patience"


def test_inv_9_a_500_may_mean_a_lock_and_is_not_borne_for_long(
    sim: VCenterSimulator, config_of: Configure, content: bytes
) -> None:
    with connect(config_of(sim, patience_s=3600.0)) as session, opened(session, "nfs") as reader:
        sim.rule(kind="folder", action="status", status=500, skip=1, times=3)
        assert whole(reader) == content
        sim.rule(kind="folder", action="status", status=500, times=0)
        with pytest.raises(RangeRefusedError, match="answers 500"):
            reader.read_into(MIB, memoryview(bytearray(BLOCK)))


def test_a_refusal_that_stands_is_not_asked_again(sim: VCenterSimulator, session: VsphereSession) -> None:
    with opened(session, "nfs") as reader:
        sim.rule(kind="folder", action="status", status=403, times=0)
        with pytest.raises(RangeRefusedError, match="answers 403") as told:
            reader.read_into(0, memoryview(bytearray(BLOCK)))
        assert "export lease" in told.value.next_step
        assert sim.rules()[-1]["hits"] == 1
        with pytest.raises(RangeRefusedError, match="answers 403"):
            whole(reader)
        assert sim.rules()[-1]["hits"] <= 1 + SPANS_AHEAD, "what was asked for ahead, and nothing twice"


def test_a_cancel_ends_the_attempts(sim: VCenterSimulator, session: VsphereSession) -> None:
    stop = CancelFlag()
    with opened(session, "nfs", cancel=stop) as reader:
        stop.set()
        with pytest.raises(Cancelled):
            whole(reader)


def read_until_interrupted(sim: VCenterSimulator, stream: BlockStream, *, hits: int) -> None:
    """Read, and interrupt it from another thread once the last rule was applied so often."""

    def interrupt() -> None:
        eventually(lambda: sim.rules()[-1]["hits"] >= hits)
        stream.interrupt()

    other = threading.Thread(target=interrupt)
    other.start()
    with pytest.raises(Cancelled, match="interrupted"):
        next(iter(stream.pieces()))
    other.join()


def test_a_read_that_hangs_is_interrupted(sim: VCenterSimulator, session: VsphereSession) -> None:
    with opened(session, "nfs") as reader, closing(reader.stream()) as stream:
        sim.rule(kind="folder", action="slow", rate=KIB, times=0)

        read_until_interrupted(sim, stream, hits=1)
        with pytest.raises(Cancelled, match="interrupted"):
            reader.read_into(0, memoryview(bytearray(BLOCK)))


def test_an_attempt_that_waits_for_its_turn_is_interrupted(
    sim: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PAUSES", RetryPolicy(base_s=3600.0, cap_s=3600.0))
    with opened(session, "nfs") as reader, closing(reader.stream()) as stream:
        sim.rule(kind="folder", action="status", status=503, times=0)

        read_until_interrupted(sim, stream, hits=-(-CAPACITY // SPAN) + 1)  # every span, and the block alone


@pytest.mark.parametrize("way", ["whole", "abandoned", "cut", "503", "interrupted"])
def test_inv_12_no_line_is_left_open(sim: VCenterSimulator, session: VsphereSession, way: str) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with frozen(session, "nfs") as (ref, disk):
        route = route_to(session, ref, disk)
        before = files()
        if way in ("cut", "503"):
            fault = {"action": "cut", "bytes": 700_000} if way == "cut" else {"action": "status", "status": 503}
            sim.rule(kind="folder", skip=1, times=2, **fault)
        reader = DatastoreReader(session, route, cancel=CancelFlag())
        stream = reader.stream()
        pieces = iter(stream.pieces())
        next(pieces)
        assert files() > before
        if way == "interrupted":
            stream.interrupt()
            with pytest.raises(Cancelled):
                list(pieces)
        elif way != "abandoned":
            list(pieces)
        stream.close()
        reader.close()
        assert files() == before


def test_a_login_that_is_refused_is_not_a_reason(
    sim: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(generation: int) -> None:
        raise LoginError("no")

    with frozen(session, "nfs") as (ref, disk):
        monkeypatch.setattr(session, "renew", refuse)
        sim.rule(kind="folder", action="status", status=401, times=0)
        with pytest.raises(LoginError):
            look(session, ref, disk)


# --- afterwards ---------------------------------------------------------------------------------------------------


def test_inv_3_what_is_no_longer_frozen_is_told(sim: VCenterSimulator, session: VsphereSession) -> None:
    host = next(vm["host"] for vm in sim.state()["vms"] if vm["name"] == "nfs")
    other = next(name for name in sim.hosts if name != host)
    with frozen(session, "nfs") as (ref, disk):
        route = route_to(session, ref, disk)
        assert still_frozen(session, route) == ""
        sim.migrate("nfs", other)
        assert still_frozen(session, route) == "the VM was moved to another host"
        sim.migrate("nfs", host)
        sim.set_vm("nfs", consolidation_needed=True)
        assert still_frozen(session, route) == "the VM's disks need consolidation"
        sim.set_vm("nfs", consolidation_needed=False)
        assert "no longer stands on" in still_frozen(session, replace(route, base="[NFS] nfs/other.vmdk"))
        sim.set_vm("nfs", revert_to=ref.moref)
        assert still_frozen(session, route) == "", "a revert to our snapshot leaves the base alone"
        sim.set_vm("nfs", power="poweredOn")
    assert still_frozen(session, route) == "our snapshot is gone"
    assert still_frozen(session, replace(route, vm="vm-9999")) == "the VM is gone"


def test_snapshots_of_others_above_ours_do_no_harm(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "nfs") as (ref, disk):
        route = route_to(session, ref, disk)
        target = session.managed(vim.VirtualMachine, ref.vm)
        flags: dict[str, Any] = {"timeout": 20.0, "cancel": CancelFlag(), "what": "the backup's snapshot"}
        wait_for_task(session, target.CreateSnapshot_Task("a backup", "", False, False), **flags)
        assert still_frozen(session, route) == ""
        backup = next(vm for vm in sim.state()["vms"] if vm["name"] == "nfs")["snapshots"][1]["moref"]
        theirs = session.managed(vim.vm.Snapshot, backup)
        wait_for_task(session, theirs.RemoveSnapshot_Task(False), **flags)
        assert still_frozen(session, route) == ""
