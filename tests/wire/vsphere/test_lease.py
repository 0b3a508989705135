from __future__ import annotations

import io
import itertools
import logging
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Take

from wavelift.adapters.vsphere import lease as lease_module
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.hosts import host_facts, host_refs, probe_all
from wavelift.adapters.vsphere.inventory import list_summaries
from wavelift.adapters.vsphere.lease import ExportLease, LeaseBody
from wavelift.adapters.vsphere.nfc import Target
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.snapshots import ensure_snapshot, remove_snapshot, snapshot_disks
from wavelift.base.domain import DiskFacts, SnapshotRef
from wavelift.base.errors import (
    BusyError,
    Cancelled,
    CorruptStreamError,
    FencedError,
    GuardError,
    NotFoundError,
    TlsError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.names import snapshot_name
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, KIB, MIB
from wavelift.simulators.vcenter import SimDisk, SimHost, SimVm, VCenterSimulator
from wavelift.transfer.vmdk import StreamVmdkSource

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]
Content = Callable[..., bytes]
NAME = snapshot_name("demo.migrate/run-1/lease")


@contextmanager
def frozen(session: VsphereSession, server: str) -> Iterator[tuple[SnapshotRef, tuple[DiskFacts, ...]]]:
    vm = next(vm.moref for vm in list_summaries(session) if vm.name == server)
    ref = ensure_snapshot(session, vm, NAME, "", quiesce="never", cancel=CancelFlag())
    try:
        yield ref, snapshot_disks(session, ref.moref, server=server)
    finally:
        remove_snapshot(session, vm, NAME, cancel=CancelFlag())


def lease_of(session: VsphereSession, ref: SnapshotRef, disks: tuple[DiskFacts, ...], **options: Any) -> ExportLease:
    options.setdefault("cancel", CancelFlag())
    return ExportLease(session, FrozenVm(ref.vm, ref.moref, ref.server), disks, **options)


def read_all(body: LeaseBody, size: int = 64 * KIB) -> bytes:
    buffer = bytearray(size)
    parts = []
    while count := body.readinto(buffer):
        parts.append(bytes(buffer[:count]))
    return b"".join(parts)


def decoded(stream: bytes, folder: Path) -> bytes:
    """By an independent reader."""
    source, target = folder / "stream.vmdk", folder / "stream.raw"
    source.write_bytes(stream)
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", source, target], check=True)
    return target.read_bytes()


def test_every_disk_arrives_as_it_was_frozen(
    sim: VCenterSimulator, session: VsphereSession, content: Content, tmp_path: Path
) -> None:
    with frozen(session, "web01") as (ref, disks):
        # The guest goes on writing; a reader that ignored the snapshot would see it.
        sim.guest_write("web01", 0, 0, b"written after the snapshot")
        seen = []
        with lease_of(session, ref, disks, percent=lambda: 42) as lease:
            for disk in disks:
                body = lease.open(disk)
                seen.append(decoded(read_all(body), tmp_path))
                assert body.finished
        assert seen == [content(1), content(2, 3 * MIB)]
    sim.guest_write("web01", 0, 0, content(1)[:26])


def test_inv_11_ten_disks_are_told_apart_by_their_keys(
    session: VsphereSession, content: Content, controllers: tuple[tuple[str, int], ...], tmp_path: Path
) -> None:
    kinds = {"ide": "IDE", "sata": "SATA", "pvscsi": "SCSI", "lsisas": "SCSI", "lsilogic": "SCSI", "nvme": "NVMe"}
    seeds = {f"{kinds[kind]} {bus}:0": 100 + at for at, (kind, bus) in enumerate(controllers)}
    with frozen(session, "many01") as (ref, disks):
        assert len(disks) == 10
        with lease_of(session, ref, disks) as lease:
            for disk in disks:
                assert decoded(read_all(lease.open(disk)), tmp_path) == content(seeds[disk.address]), disk.address


def test_vcenter_s_cookie_goes_to_no_host(sim: VCenterSimulator, session: VsphereSession) -> None:
    """The session's cookie is as good as the password for whoever stands on an ESXi host."""
    sim.reset_counters()
    with frozen(session, "off01") as (ref, disks), lease_of(session, ref, disks) as lease:
        assert read_all(lease.open(disks[0]))
        assert not lease.open(disks[0]).target.local
    assert "/vcenter-cookie-sent-to-a-host" not in sim.counters()["paths"]


def test_zeros_that_were_written_and_the_iso_of_a_cd_rom(start_vc: Take, tmp_path: Path, config_of: Configure) -> None:
    """A thick disk's stream holds grains of zeros; a connected CD-ROM's file stands in the lease with a disk's key."""
    size = 4 * MIB
    raw = tmp_path / "thick.raw"
    content = bytearray(size)
    content[3 * MIB : 3 * MIB + 9] = b"wavelift!"
    raw.write_bytes(content)
    vm = SimVm("thick01", [SimDisk(raw, thick=True)], power="poweredOff", firmware="efi", cdrom="[datastore1] x.iso")
    with connect(config_of(start_vc([vm]))) as session:
        with frozen(session, "thick01") as (ref, disks), lease_of(session, ref, disks) as lease:
            stream = read_all(lease.open(disks[0]))
    source = StreamVmdkSource(io.BytesIO(stream))
    assert sum(1 for _ in source.pieces()) == size // BLOCK  # every block came, all but one of zeros
    assert decoded(stream, tmp_path) == content


def test_the_lease_of_a_killed_process_is_waited_for(
    start_vc: Take, raw: Path, tmp_path: Path, content: Content, config_of: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing says whether a vCenter gives two leases on one VM: here it does not, and the first has to time out."""
    monkeypatch.setattr(lease_module, "BUSY_POLL_S", 0.2)
    vc = start_vc([SimVm("web01", [SimDisk(raw)])], lease_exclusive=True, lease_timeout=1.5)
    monkeypatch.setattr(lease_module, "POLL_S", 0.05)
    for _ in range(5):  # on a machine that stalls, the first may be dead before it is in the way, or ours dies too
        vc.reset_counters()
        with connect(config_of(vc)) as session, frozen(session, "web01") as (ref, disks):
            session.managed(vim.vm.Snapshot, ref.moref).ExportSnapshot()
            flag = CancelFlag()
            flag.set("enough")
            with pytest.raises(Cancelled), lease_of(session, ref, disks, cancel=flag):
                pytest.fail("a cancelled lease was given")
            try:
                with lease_of(session, ref, disks) as lease:
                    stream = read_all(lease.open(disks[0]))
            except UnreachableError:
                continue
        assert decoded(stream, tmp_path) == content(42)
        if vc.counters()["methods"]["ExportSnapshot"] > 2:
            return
    pytest.fail("no lease found another in its way")


def test_several_bodies_at_once(session: VsphereSession, content: Content, tmp_path: Path) -> None:
    with frozen(session, "web01") as (ref, disks), lease_of(session, ref, disks) as lease:
        streams: dict[str, bytes] = {}

        def fetch(disk: DiskFacts) -> None:
            streams[disk.address] = read_all(lease.open(disk), 4 * KIB)

        threads = [threading.Thread(target=fetch, args=(disk,)) for disk in disks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert decoded(streams["SCSI 0:0"], tmp_path) == content(1)
        assert decoded(streams["SCSI 0:1"], tmp_path) == content(2, 3 * MIB)


def calls(sim: VCenterSimulator, method: str) -> int:
    return int(sim.counters()["methods"].get(method, 0))


def test_success_completes_and_error_aborts(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "off01") as (ref, disks):
        completed, aborted = calls(sim, "HttpNfcLeaseComplete"), calls(sim, "HttpNfcLeaseAbort")
        with lease_of(session, ref, disks) as lease:
            read_all(lease.open(disks[0]))
            assert [item["vm"] for item in sim.state()["leases"]] == ["off01"]
        assert sim.state()["leases"] == []
        assert calls(sim, "HttpNfcLeaseComplete") == completed + 1
        with pytest.raises(RuntimeError):
            with lease_of(session, ref, disks) as lease:
                lease.open(disks[0]).readinto(bytearray(10))
                raise RuntimeError("anything")
        assert sim.state()["leases"] == []
        assert calls(sim, "HttpNfcLeaseAbort") == aborted + 1


def test_a_slow_reader_keeps_its_lease_by_signs_of_life(
    start_vc: Take, fleet_vms: list[SimVm], config_of: Configure, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This simulator's leases die after a second without progress. On a machine that stalls for that long ours does
    too, and another try shows it."""
    monkeypatch.setattr(lease_module, "POLL_S", 0.05)
    sim = start_vc(fleet_vms, lease_timeout=1.0)
    with connect(config_of(sim)) as session, frozen(session, "off01") as (ref, disks):
        for attempt in range(5):
            percent = itertools.chain([10, 5, 500], itertools.repeat(60))
            sim.reset_counters()
            try:
                with lease_of(session, ref, disks, percent=percent.__next__) as lease:
                    body = lease.open(disks[0])
                    body.readinto(bytearray(10))
                    pause(sim, 1.8)
                    read_all(body)
            except UnreachableError:
                assert attempt < 4, "no lease lives on"
                continue
            assert calls(sim, "HttpNfcLeaseProgress") >= 6
            return


def pause(sim: VCenterSimulator, at_least: float) -> None:
    """For so many seconds, and six signs of life."""
    begun = time.monotonic()
    time.sleep(at_least)
    while calls(sim, "HttpNfcLeaseProgress") < 6 and sim.state()["leases"] and time.monotonic() < begun + 60:
        time.sleep(0.02)


@contextmanager
def once_it_sends(sim: VCenterSimulator, then: Callable[[], object]) -> Iterator[None]:
    """Does ``then`` in another thread as soon as the simulator sends a disk."""

    def look() -> None:
        eventually(lambda: sim.state()["transfers"])
        then()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@pytest.fixture
def lively(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sign of life every 0.3 s, whatever the lease's time-out."""
    monkeypatch.setattr(lease_module, "BEAT_S", 0.3)
    monkeypatch.setattr(lease_module, "POLL_S", 0.05)


@pytest.mark.usefixtures("lively")
def test_trouble_a_lease_that_times_out_cuts_its_readers_off(sim: VCenterSimulator, session: VsphereSession) -> None:
    """The read would take half an hour."""
    with frozen(session, "web01") as (ref, disks):
        sim.rule(kind="fault", method="HttpNfcLeaseProgress", fault="Timedout", skip=1, times=0)
        sim.rule(kind="nfc", action="slow", rate=1000, times=0)
        with pytest.raises(UnreachableError, match=r"lease has ended: Timedout") as told:
            with lease_of(session, ref, disks) as lease:
                read_all(lease.open(disks[1]))
        assert told.value.where["server"] == "web01"
        assert told.value.retryable


@pytest.mark.usefixtures("lively")
def test_trouble_a_lease_that_dies_says_why(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "web01") as (ref, disks):
        sim.rule(kind="lease", action="dies", delay=0.2, fault="GenericVmConfigFault")
        sim.rule(kind="nfc", action="slow", rate=1000, times=0)
        with pytest.raises(UnreachableError, match="lease has ended"):
            with lease_of(session, ref, disks) as lease:
                read_all(lease.open(disks[1]))


@pytest.mark.usefixtures("lively")
def test_signs_of_life_never_stop_in_silence(sim: VCenterSimulator, session: VsphereSession) -> None:
    """The simulator's lease would live for ten minutes more, and the read would take half an hour."""

    def broken() -> int:
        raise ZeroDivisionError

    with frozen(session, "web01") as (ref, disks):
        sim.rule(kind="nfc", action="slow", rate=1000, times=0)
        with pytest.raises(UnreachableError, match="signs of life stopped: ZeroDivisionError"):
            with lease_of(session, ref, disks, percent=broken) as lease:
                read_all(lease.open(disks[1]))


def test_trouble_a_lease_that_never_gets_ready(
    sim: VCenterSimulator, session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "READY_TIMEOUT_S", 0.5)
    with frozen(session, "off01") as (ref, disks):
        sim.rule(kind="lease", action="never_ready", times=1)
        with pytest.raises(WaveliftError):
            with lease_of(session, ref, disks):
                pytest.fail("the lease was never ready")


def test_trouble_a_lease_that_fails_instead_of_getting_ready(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "off01") as (ref, disks):
        sim.rule(kind="lease", action="error", fault="FileLocked", args={"File": "x.vmdk"}, times=1)
        with pytest.raises(BusyError, match="FileLocked"):
            with lease_of(session, ref, disks):
                pytest.fail("the lease was never ready")


@pytest.mark.parametrize("after", [0, 100_001])
def test_trouble_a_cut_names_disk_and_bytes(sim: VCenterSimulator, session: VsphereSession, after: int) -> None:
    with frozen(session, "web01") as (ref, disks):
        sim.rule(kind="nfc", action="cut", bytes=after, times=1)
        parts: list[LeaseBody] = []
        with pytest.raises(UnreachableError, match="broke off after") as told:
            with lease_of(session, ref, disks) as lease:
                parts.append(lease.open(disks[0]))
                read_all(parts[0])
        assert told.value.where["disk"] == "SCSI 0:0"
        assert told.value.where["server"] == "web01"
        assert not any(body.finished or body.received > after for body in parts)


@pytest.mark.parametrize("status", [401, 404, 500, 503])
def test_trouble_a_refused_body_says_the_status(sim: VCenterSimulator, session: VsphereSession, status: int) -> None:
    with frozen(session, "off01") as (ref, disks):
        sim.rule(kind="nfc", action="status", status=status, times=1)
        with pytest.raises(UnreachableError, match=str(status)):
            with lease_of(session, ref, disks) as lease:
                lease.open(disks[0])


def test_a_cancel_closes_the_sockets_at_once(sim: VCenterSimulator, session: VsphereSession) -> None:
    """Nothing else would end the read before the lease's time-out of ten minutes."""
    with frozen(session, "off01") as (ref, disks):
        sim.rule(kind="nfc", action="slow", rate=1000, times=0)
        cancel = CancelFlag()
        with pytest.raises(Cancelled):
            with lease_of(session, ref, disks, cancel=cancel) as lease, once_it_sends(sim, cancel.set):
                read_all(lease.open(disks[0]), MIB)


def test_trouble_the_session_ends_in_mid_transfer(
    sim: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    with frozen(session, "web01") as (ref, disks):
        sim.rule(kind="nfc", action="slow", rate=1000, times=0)
        with connect(config_of(sim)) as admin:
            key = session.session_key
            with pytest.raises(UnreachableError, match=r"ended|broke off"):
                ending = once_it_sends(sim, lambda: admin.content.sessionManager.TerminateSession([key]))
                with lease_of(session, ref, disks) as lease, ending:
                    read_all(lease.open(disks[1]))
        sim.clear_rules()
        with lease_of(session, ref, disks) as lease:  # a retry signs in again
            assert read_all(lease.open(disks[0]))


@pytest.mark.parametrize("leases", ["break", "keep"])
def test_sms_14_a_move_during_the_export_fails_it_and_says_so(
    sim: VCenterSimulator, session: VsphereSession, leases: Literal["break", "keep"]
) -> None:
    with frozen(session, "off01") as (ref, disks):
        here = next(vm["host"] for vm in sim.state()["vms"] if vm["name"] == "off01")
        there = next(name for name in sim.hosts if name != here)
        sim.rule(kind="nfc", action="slow", rate=1_000_000 if leases == "break" else 4_000_000)
        with pytest.raises(GuardError, match="moved to another host") as told:
            with lease_of(session, ref, disks) as lease:
                body = lease.open(disks[0])
                body.readinto(bytearray(100))
                sim.migrate("off01", there, leases=leases)
                read_all(body)
        assert told.value.retryable
        sim.clear_rules()
        with lease_of(session, ref, disks) as lease:  # from there it can be read
            assert read_all(lease.open(disks[0]))


def test_inv_11_another_set_of_disks_stops(session: VsphereSession) -> None:
    with frozen(session, "web01") as (ref, disks):
        with pytest.raises(GuardError, match="unexpected ParaVirtualSCSIController0:1"):
            with lease_of(session, ref, disks[:1]):
                pytest.fail("a lease of other disks was accepted")


def test_the_manifest_s_checksums_are_compared(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "off01") as (ref, disks):
        with lease_of(session, ref, disks, check_manifest=True) as lease:
            body = lease.open(disks[0])
            read_all(body)
            assert len(body.sha1) == 40
        with pytest.raises(CorruptStreamError, match="not what the host sent"):
            with lease_of(session, ref, disks, check_manifest=True) as lease:
                body = lease.open(disks[0])
                read_all(body)
                body._body._sha1.update(b"a flipped bit")  # type: ignore[union-attr]


def test_trouble_a_truncated_body_does_not_pass_the_manifest(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "off01") as (ref, disks):
        sim.rule(kind="nfc", action="truncate", bytes=70_000, times=1)
        with pytest.raises(WaveliftError, match="manifest"):
            with lease_of(session, ref, disks, check_manifest=True) as lease:
                read_all(lease.open(disks[0]))


def test_a_privilege_that_is_missing_is_named(
    sim: VCenterSimulator, session: VsphereSession, config_of: Configure
) -> None:
    with frozen(session, "off01") as (ref, disks):
        with connect(config_of(sim, username="limited", password="limited-pw")) as limited:
            with pytest.raises(WaveliftError, match=r"lacks VApp\.Export"):
                with lease_of(limited, ref, disks):
                    pytest.fail("exported without the right")


# --- ESXi's certificate -------------------------------------------------------------------------------------------


def test_amp_12_vcenter_vouches_for_the_host_that_serves(
    sim: VCenterSimulator, config_of: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(config_of(sim)) as session, frozen(session, "off01") as (ref, disks):
        with lease_of(session, ref, disks) as lease:
            body = lease.open(disks[0])
            assert body.target.host != sim.host, "the simulator must serve from a host of its own"
            read_all(body)
    assert "NOT checked" not in caplog.text


WRONG = ":".join(["AA"] * 20)


Other = Callable[..., VCenterSimulator]


@pytest.fixture
def other_vcenter(start_vc: Take, raw: Path) -> Other:
    def start(*hosts: SimHost, **options: Any) -> VCenterSimulator:
        vm = SimVm(name="off01", power="poweredOff", disks=[SimDisk(raw=raw)])
        return start_vc([vm], hosts=hosts or (SimHost(),), task_seconds=0.01, lease_ready_after=0.03, **options)

    return start


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: Content) -> Path:
    file = tmp_path_factory.mktemp("other") / "other.raw"
    file.write_bytes(content(42))
    return file


def export_one(config: VsphereConfig, folder: Path) -> bytes:
    with connect(config) as session, frozen(session, "off01") as (ref, disks):
        with lease_of(session, ref, disks) as lease:
            return decoded(read_all(lease.open(disks[0])), folder)


def test_amp_12_a_host_whose_certificate_is_not_the_reported_one_is_refused(
    other_vcenter: Other, config_of: Configure, tmp_path: Path
) -> None:
    sim = other_vcenter(SimHost(thumbprint=WRONG))
    with pytest.raises(TlsError, match="not the pinned one") as told:
        export_one(config_of(sim), tmp_path)
    assert (told.value.where["server"], told.value.where["disk"]) == ("off01", "SCSI 0:0")
    assert "esxi_mode" in told.value.next_step
    assert sim.counters()["paths"].get("/nfc", {"requests": 0})["requests"] == 0
    with pytest.raises(TlsError):
        export_one(config_of(sim, esxi_mode="pin", esxi_thumbprints=(WRONG,)), tmp_path)
    assert sim.state()["leases"] == []


@pytest.mark.parametrize(
    ("certificate", "fault"), [("expired", "expired"), ("wrong_name", "host name"), ("self_signed", "unknown issuer")]
)
def test_sms_16_a_bad_host_certificate_is_named_and_vcenter_s_word_overrides_it(
    other_vcenter: Other, config_of: Configure, tmp_path: Path, content: Content, certificate: Any, fault: str
) -> None:
    sim = other_vcenter(SimHost(certificate=certificate))
    with pytest.raises(TlsError) as told:
        export_one(config_of(sim, esxi_mode="ca"), tmp_path)
    assert told.value.where["fault"] == fault
    assert told.value.where["disk"] == "SCSI 0:0"
    assert "esxi_mode" in told.value.next_step
    assert export_one(config_of(sim), tmp_path) == content(42)


@pytest.mark.parametrize("lease_host", ["*", "vcenter"])
def test_a_lease_served_by_vcenter_itself_uses_its_policy(
    other_vcenter: Other, config_of: Configure, tmp_path: Path, content: Content, lease_host: Any
) -> None:
    sim = other_vcenter(lease_host=lease_host)
    assert export_one(config_of(sim, esxi_mode="pin", esxi_thumbprints=(WRONG,)), tmp_path) == content(42)


@pytest.mark.parametrize(
    ("certificate", "fault"), [("expired", "expired"), ("wrong_name", "host name"), ("self_signed", "unknown issuer")]
)
def test_sms_16_a_bad_vcenter_certificate_is_named_and_a_pin_overrides_it(
    other_vcenter: Other, config_of: Configure, tmp_path: Path, content: Content, certificate: Any, fault: str
) -> None:
    sim = other_vcenter(certificate=certificate)
    with pytest.raises(TlsError) as told:
        export_one(config_of(sim), tmp_path)
    assert told.value.where["fault"] == fault
    assert sim.counters()["methods"] == {}, "something was sent over a connection that is not trusted"
    pinned = config_of(sim, ca_bundle=None, certificate_mode="thumbprint", thumbprint=sim.thumbprint)
    assert export_one(pinned, tmp_path) == content(42)


def test_amp_12_ignoring_is_logged_loudly(
    sim: VCenterSimulator, config_of: Configure, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(config_of(sim, esxi_mode="ignore")) as session, frozen(session, "off01") as (ref, disks):
        with caplog.at_level(logging.WARNING), lease_of(session, ref, disks) as lease:
            read_all(lease.open(disks[0]))
    assert "NOT checked" in caplog.text


def test_while_a_lease_is_held_the_vm_is_not_powered_on(sim: VCenterSimulator, session: VsphereSession) -> None:
    """What pre-flight says; and the proof that leases are let go."""
    with frozen(session, "off01") as (ref, disks):
        target = session.managed(vim.VirtualMachine, ref.vm)
        with lease_of(session, ref, disks) as lease:
            read_all(lease.open(disks[0]))
            with pytest.raises(BusyError):
                session.change(target.PowerOnVM_Task)


def test_a_fenced_try_stops_as_such(sim: VCenterSimulator, session: VsphereSession) -> None:
    with frozen(session, "web01") as (ref, disks):
        sim.rule(kind="nfc", action="slow", rate=1000, times=0)
        cancel = CancelFlag()
        fencing = once_it_sends(sim, lambda: cancel.set("another try", fenced=True))
        with pytest.raises(FencedError):
            with lease_of(session, ref, disks, cancel=cancel) as lease, fencing:
                read_all(lease.open(disks[0]), MIB)
        assert sim.state()["leases"] == [], "a lease is a try's own: it is given back also then"


def test_amp_11_a_host_whose_name_does_not_resolve_suggests_the_suffix(
    other_vcenter: Other, config_of: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sim = other_vcenter()
    monkeypatch.setattr(lease_module, "target_of", lambda *_: Target("esx1-nowhere", 443, "/nfc", local=False))
    with pytest.raises(NotFoundError, match="DNS search suffix") as told:
        export_one(config_of(sim, dns_suffixes=("invalid",)), tmp_path)
    assert told.value.where["tried"] == "esx1-nowhere.invalid, esx1-nowhere"
    assert sim.state()["leases"] == []


@pytest.mark.parametrize("mode", ["vcenter", "ca"])
def test_a_host_behind_nat_gives_its_lease_at_the_mapped_address(
    other_vcenter: Other, config_of: Configure, content: Content, tmp_path: Path, mode: str
) -> None:
    sim = other_vcenter(SimHost(name="esx9.corp.invalid", address="127.0.0.13"))
    with pytest.raises(NotFoundError, match=r"esx9\.corp\.invalid cannot be resolved") as told:
        export_one(config_of(sim, esxi_mode=mode), tmp_path)
    assert "esxi_addresses" in told.value.next_step
    mapped = config_of(sim, esxi_mode=mode, esxi_addresses={"esx9.corp.invalid": "127.0.0.13"})
    assert export_one(mapped, tmp_path)
    with connect(mapped) as session:
        hosts = host_facts(session, host_refs(session))
    (reach,) = probe_all(mapped, hosts).values()
    assert (reach.reachable, reach.certificate_valid, reach.tried) == (True, True, "esx9.corp.invalid")
