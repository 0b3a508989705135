"""Export leases: states, keys, timeouts, bodies, what they block, and the faults on order."""

from __future__ import annotations

import hashlib
import http.client
import time
from typing import Any

import pytest
from pyVmomi import vim, vmodl
from tests.eventually import eventually

from wavelift.simulators.vcenter import SimDisk, SimHost, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

MIB = 1 << 20
PVSCSI, SATA = "ParaVirtualSCSIController0:0", "VirtualAHCIController0:1"


@pytest.fixture
def snapshot(client: Any) -> Any:
    return client.snapshot(client.vm("web01"))


def test_a_lease_begins_as_one_that_is_not_ready(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    lease = connect(start_vc(inventory, lease_ready_after=3600)).vm("off01").ExportVm()
    assert (lease.state, lease.info) == ("initializing", None)


def test_lease_info_has_the_shape_of_a_real_one(vc: VCenterSimulator, client: Any, snapshot: Any) -> None:
    vm = client.vm("web01")
    lease = client.settled(snapshot.ExportSnapshot())
    info = lease.info
    assert lease.state == "ready"
    assert lease.error is None
    assert info.leaseTimeout == 300
    assert info.totalDiskCapacityInKB == (4 * MIB - 61 * 1024 + 4 * MIB) // 1024
    assert [u.key for u in info.deviceUrl] == [
        f"/{vm._moId}/nvram",  # EFI machines export it; it is no disk
        f"/{vm._moId}/{SATA}",  # and the disks do not come in their true order
        f"/{vm._moId}/{PVSCSI}",
    ]
    assert [u.disk for u in info.deviceUrl] == [None, True, True]  # only disks must say what they are
    assert [u.fileSize for u in info.deviceUrl] == [8684, None, None]  # of disks nobody knows it
    host = vm.runtime.host
    assert {u.sslThumbprint for u in info.deviceUrl} == {host.summary.config.sslThumbprint}
    assert all(f"https://{host.name}:{vc.esxi_port}/nfc/" in u.url for u in info.deviceUrl)


@pytest.mark.parametrize(
    ("controller", "bus", "unit", "label"),
    [
        ("lsi", 1, 3, "VirtualLsiLogicController1:3"),
        ("lsisas", 0, 0, "VirtualLsiLogicSASController0:0"),
        ("ide", 1, 1, "VirtualIDEController1:1"),
        ("nvme", 0, 2, "VirtualNVMEController0:2"),
        ("sata", 2, 29, "VirtualAHCIController2:29"),
    ],
)
def test_device_keys_name_controller_bus_and_unit(
    start_vc: Any, connect: Any, controller: Any, bus: int, unit: int, label: str
) -> None:
    vc = start_vc([SimVm("x", [SimDisk(capacity=MIB, controller=controller, bus=bus, unit=unit)], power="poweredOff")])
    client = connect(vc)
    lease = client.settled(client.vm("x").ExportVm())
    assert list(client.disk_urls(lease)) == [label]


def test_star_host_and_vcenter_host(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    for option, expected in (("*", "https://*:"), ("vcenter", "https://127.0.0.1:")):
        client = connect(start_vc(inventory, lease_host=option))
        lease = client.settled(client.vm("off01").ExportVm())
        assert lease.info.deviceUrl[0].url.startswith(expected)
        assert lease.info.deviceUrl[0].sslThumbprint == client.vc.thumbprint


def test_export_vm_needs_a_vm_that_is_off(client: Any, content: dict[str, bytes], decoded: Any) -> None:
    with pytest.raises(vim.fault.InvalidPowerState):
        client.vm("web01").ExportVm()
    lease = client.settled(client.vm("off01").ExportVm())
    assert decoded(client.disk(lease, "VirtualLsiLogicController0:0")) == content["b"]


def test_the_body_is_chunked_whole_and_in_its_manifest(client: Any, snapshot: Any) -> None:
    lease = client.settled(snapshot.ExportSnapshot())
    url = client.disk_urls(lease)[PVSCSI]
    lease.HttpNfcLeaseSetManifestChecksumType([vim.KeyValue(key=url, value="sha256")])
    assert lease.HttpNfcLeaseGetManifest() == []
    status, headers, body = client.get(url, headers={"Range": "bytes=100-199"})
    assert status == 200
    assert headers["Content-Length"] is None
    assert headers["Transfer-Encoding"] == "chunked"
    assert body[:4] == b"KDMV"
    (entry,) = lease.HttpNfcLeaseGetManifest()
    assert entry.key.endswith(PVSCSI)
    assert entry.size == len(body)
    assert entry.sha1 == hashlib.sha1(body).hexdigest()
    assert (entry.checksumType, entry.checksum) == ("sha256", hashlib.sha256(body).hexdigest())


def test_footer_style_ends_with_footer_and_end_of_stream(client: Any, snapshot: Any) -> None:
    body = client.disk(client.settled(snapshot.ExportSnapshot()), PVSCSI)
    assert body[56:64] == b"\xff" * 8  # the header's directory: at the end
    footer = body[-1024:-512]
    assert footer[:4] == b"KDMV"
    assert footer[56:64] != b"\xff" * 8
    assert body[-512:] == bytes(512)
    assert body[-1536:-1024] == b"\x01" + bytes(11) + b"\x03" + bytes(499)


def kept_alive(client: Any, timeout: float) -> Any:
    """A lease that signs of life kept for twice its time-out. A machine that stalls for that long proves
    nothing, and gets another try."""
    for _ in range(10):
        last = time.monotonic()
        lease = client.settled(client.vm("off01").ExportVm())
        begun, longest = time.monotonic(), 0.0
        try:
            while last - begun < 2 * timeout:
                time.sleep(timeout / 6)
                lease.HttpNfcLeaseProgress(10)
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            assert lease.transferProgress == 10
            if lease.state == "ready":
                return lease
            longest = max(longest, time.monotonic() - last)
        except vim.fault.Timedout:
            longest = max(longest, time.monotonic() - last)
        assert longest > timeout / 2, f"it ended {longest:.2f} s after its last sign of life at the latest"
    pytest.fail("the machine stalled in every try")


def test_a_lease_without_progress_times_out_and_frees_the_vm(
    start_vc: Any, connect: Any, inventory: list[SimVm]
) -> None:
    timeout = 0.4
    vc = start_vc(inventory, lease_timeout=timeout)
    client = connect(vc)
    lease = kept_alive(client, timeout)
    assert eventually(lambda: lease.state != "ready")
    assert lease.state == "error"
    assert isinstance(lease.error, vim.fault.Timedout)
    with pytest.raises(vim.fault.Timedout):
        lease.HttpNfcLeaseProgress(20)
    assert client.get(lease.info.deviceUrl[0].url)[0] == 404
    assert vc.state()["leases"] == []
    client.done(client.vm("off01").PowerOn())


def test_a_held_lease_blocks_what_alters_the_vm(vc: VCenterSimulator, client: Any, snapshot: Any) -> None:
    vm = client.vm("web01")
    lease = client.settled(snapshot.ExportSnapshot())
    hosts = client.si.content.rootFolder.childEntity[0].hostFolder.childEntity[0].host
    for call in (
        vm.PowerOn,
        vm.Destroy_Task,
        snapshot.RevertToSnapshot_Task,
        lambda: vm.MigrateVM_Task(host=hosts[1], priority="defaultPriority"),
    ):
        with pytest.raises(vim.fault.InvalidState):
            call()
    with pytest.raises(vim.fault.TaskInProgress):
        snapshot.RemoveSnapshot_Task(False)
    lease.HttpNfcLeaseAbort()
    assert lease.state == "error"
    with pytest.raises(vim.fault.InvalidState):
        lease.HttpNfcLeaseComplete()
    client.remove(snapshot)
    client.done(vm.MigrateVM_Task(host=hosts[1], priority="defaultPriority"))
    assert vm.runtime.host == hosts[1]


def test_cached_bodies_are_the_same_and_go_with_the_snapshot(
    start_vc: Any, connect: Any, inventory: list[SimVm], content: dict[str, bytes], decoded: Any
) -> None:
    vc = start_vc(inventory, cache_bodies=True)
    client = connect(vc)
    snapshot = client.snapshot(client.vm("web01"))
    bodies = []
    for _ in range(2):
        vc.guest_write("web01", 1, 0, b"newer")
        lease = client.settled(snapshot.ExportSnapshot())
        bodies.append(client.disk(lease, SATA))
        lease.HttpNfcLeaseComplete()
    assert bodies[0] == bodies[1]
    assert decoded(bodies[1]) == content["b"]
    folder = vc.ca_file.parent / "vcenter" / "bodies"
    assert len(list(folder.iterdir())) == 1
    client.remove(snapshot)
    assert list(folder.iterdir()) == []


def test_several_leases_at_once(client: Any, content: dict[str, bytes], decoded: Any, snapshot: Any) -> None:
    one, two = client.settled(snapshot.ExportSnapshot()), client.settled(snapshot.ExportSnapshot())
    one.HttpNfcLeaseComplete()
    with pytest.raises(vim.fault.TaskInProgress):
        snapshot.RemoveSnapshot_Task(False)
    assert client.get(client.disk_urls(one)[SATA])[0] == 404
    assert decoded(client.disk(two, SATA)) == content["b"]
    two.HttpNfcLeaseComplete()
    client.remove(snapshot)


def test_a_lease_ends_with_its_session(vc: VCenterSimulator, client: Any, connect: Any, snapshot: Any) -> None:
    other = connect(vc)
    client.settled(snapshot.ExportSnapshot())
    other.si.content.sessionManager.TerminateSession([client.si.content.sessionManager.currentSession.key])
    assert eventually(lambda: vc.state()["leases"] == [])
    other.remove(vim.vm.Snapshot(snapshot._moId, other.si._stub))


def test_encrypted_vms_export_nothing(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("x", [SimDisk(capacity=MIB)], encrypted=True, power="poweredOff")])
    client = connect(vc)
    assert client.vm("x").config.keyId.keyId
    with pytest.raises(vim.fault.InvalidState):
        client.vm("x").ExportVm()


# --- faults on order ---


def test_lease_rules(vc: VCenterSimulator, client: Any, snapshot: Any) -> None:
    vc.rule(kind="lease", action="error", fault="FileLocked", args={"file": "x.vmdk"})
    lease = client.settled(snapshot.ExportSnapshot())
    assert isinstance(lease.error, vim.fault.FileLocked)
    vc.rule(kind="lease", action="never_ready", vm="web01")
    lease = snapshot.ExportSnapshot()
    other = client.settled(client.vm("off01").ExportVm())
    assert (other.state, lease.state) == ("ready", "initializing")
    other.HttpNfcLeaseComplete()
    lease.HttpNfcLeaseAbort()
    vc.rule(kind="lease", action="dies", delay=0.2, fault="HostConnectFault")
    lease = snapshot.ExportSnapshot()
    assert eventually(lambda: lease.error is not None)
    assert lease.info is not None, "it was ready before"
    assert isinstance(lease.error, vim.fault.HostConnectFault)
    assert vc.state()["leases"] == []


def test_cut_truncate_slow_and_status(vc: VCenterSimulator, client: Any, snapshot: Any) -> None:
    lease = client.settled(snapshot.ExportSnapshot())
    urls = client.disk_urls(lease)
    whole = client.disk(lease, PVSCSI)
    vc.rule(kind="nfc", action="cut", bytes=100_001, disk=0)
    assert client.get(urls[SATA])[0] == 200  # the rule is about the first disk of the inventory
    with pytest.raises(http.client.IncompleteRead) as cut:
        client.get(urls[PVSCSI])
    assert len(cut.value.partial) <= 100_001
    vc.rule(kind="nfc", action="truncate", bytes=100_001)
    assert client.disk(lease, PVSCSI) == whole[:100_001]
    vc.rule(kind="nfc", action="status", status=503)
    assert client.get(urls[PVSCSI])[0] == 503
    vc.rule(kind="nfc", action="slow", rate=2 * len(whole))
    begun = time.monotonic()
    assert client.disk(lease, PVSCSI) == whole
    assert time.monotonic() - begun > 0.4


@pytest.mark.parametrize("style", ["footer", "qemu"])
def test_a_corrupt_grain_differs_in_one_byte(vc: VCenterSimulator, client: Any, snapshot: Any, style: str) -> None:
    lease = client.settled(snapshot.ExportSnapshot())
    vc.rule(kind="nfc", action=style, times=2)
    whole = client.disk(lease, PVSCSI)
    vc.rule(kind="nfc", action="corrupt", grain=3)
    damaged = client.disk(lease, PVSCSI)
    different = [i for i in range(len(whole)) if whole[i] != damaged[i]]
    assert len(different) == 1 or (style == "qemu" and len(whole) == len(damaged))
    (rule,) = [r for r in vc.rules() if r["action"] == "corrupt"]
    offset = int(rule["details"][0])
    assert offset % 65536 == 0
    assert offset > 65536
    # the damaged byte lies behind the marker that names this offset
    marker = (offset // 512).to_bytes(8, "little")
    at = max(i for i in range(0, different[-1], 512) if whole[i : i + 8] == marker)
    assert 12 <= different[-1] - at <= 12 + int.from_bytes(whole[at + 8 : at + 12], "little")


def test_a_move_behind_our_back_breaks_the_lease(vc: VCenterSimulator, client: Any, snapshot: Any) -> None:
    lease = client.settled(snapshot.ExportSnapshot())
    vc.rule(kind="nfc", action="slow", rate=200_000)
    vc.migrate("web01", "127.0.0.12")
    assert client.vm("web01").runtime.host.name == "127.0.0.12"
    assert lease.state == "error"
    with pytest.raises(vmodl.MethodFault):
        lease.HttpNfcLeaseProgress(1)
    assert client.get(lease.info.deviceUrl[1].url)[0] == 404


@pytest.mark.parametrize("action", ["expire", "migrate", "crash"])
def test_something_happens_after_so_many_bytes(vc: VCenterSimulator, client: Any, snapshot: Any, action: str) -> None:
    lease = client.settled(snapshot.ExportSnapshot())
    urls = client.disk_urls(lease)
    vc.rule(kind="nfc", action=action, bytes=120_000)
    vc.rule(kind="nfc", action="slow", rate=400_000)
    with pytest.raises((http.client.HTTPException, OSError)):
        client.get(urls[PVSCSI])
    if action == "crash":
        assert eventually(lambda: not vc.alive())
    elif action == "expire":
        with pytest.raises(vim.fault.NotAuthenticated):
            lease.HttpNfcLeaseProgress(1)
        assert eventually(lambda: vc.state()["leases"] == [])
    else:
        assert vc.state()["vms"][0]["host"] == "127.0.0.12"
        assert lease.state == "error"


def test_hosts_with_wrong_certificates(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    host = SimHost(certificate="self_signed", thumbprint="00:11")
    client = connect(start_vc(inventory, hosts=(host,)))
    lease = client.settled(client.vm("off01").ExportVm())
    assert lease.info.deviceUrl[0].sslThumbprint == "00:11"
    with pytest.raises(OSError, match="self-signed certificate"):
        client.get(lease.info.deviceUrl[0].url)
