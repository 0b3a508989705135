"""TLS, logins, sessions, privileges, datastore downloads."""

from __future__ import annotations

import http.client
import ssl
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import SmartConnect
from pyVmomi import vim, vmodl
from tests.eventually import eventually

from wavelift.simulators.vcenter import ADMIN, SimDatastore, SimDisk, SimulatorError, SimUser, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

MIB = 1 << 20
PLAIN = 4 * MIB
"""Bytes of `b`."""


def flat(vm: str, datastore: str = "datastore1") -> str:
    return f"/folder/{vm}/{vm}-flat.vmdk?dcPath=dc1&dsName={datastore}"


def test_login_needs_the_right_password(vc: VCenterSimulator, connect: Any) -> None:
    for user, password in ((vc.username, "wrong"), ("nobody", vc.password)):
        with pytest.raises(vim.fault.InvalidLogin):
            connect(vc, user, password)
    assert vc.state()["sessions"] == []


def test_reads_before_login_are_refused_but_the_session_reads_as_none(vc: VCenterSimulator, client: Any) -> None:
    stub = type(client.si._stub)(host=vc.host, port=vc.port, version="vim.version.v8_0_3_0", sslContext=client.context)
    anonymous: Any = vim.ServiceInstance("ServiceInstance", stub)
    assert anonymous.content.about.apiVersion == "8.0.3.0"
    assert anonymous.content.sessionManager.currentSession is None
    with pytest.raises(vim.fault.NotAuthenticated):
        _ = vim.VirtualMachine(client.vm("web01")._moId, stub).name
    with pytest.raises(vim.fault.NotAuthenticated):
        anonymous.CurrentTime()


def test_unset_properties_read_as_none(client: Any) -> None:
    vm = client.vm("web01")
    assert vm.snapshot is None
    assert vm.parentVApp is None
    for name in ("config", "runtime", "summary", "guest", "capability", "layoutEx", "storage", "environmentBrowser"):
        assert getattr(vm, name) is not None


@pytest.mark.parametrize(
    ("kind", "words"),
    [("self_signed", "self-signed"), ("expired", "expired"), ("wrong_name", "IP address mismatch")],
)
def test_wrong_certificates_fail_a_verifying_client(start_vc: Any, kind: Any, words: str) -> None:
    vc = start_vc([], certificate=kind)
    context = ssl.create_default_context(cafile=str(vc.ca_file))
    with pytest.raises(ssl.SSLCertVerificationError, match=words):
        SmartConnect(host=vc.host, port=vc.port, user=vc.username, pwd=vc.password, sslContext=context)


def test_downloads_need_a_session(vc: VCenterSimulator, client: Any) -> None:
    lease = client.settled(client.vm("off01").ExportVm())
    assert client.get(f"https://{vc.host}:{vc.port}{flat('off01')}", cookie=False)[0] == 401
    on_host = lease.info.deviceUrl[0].url
    by_vcenter = f"https://{vc.host}:{vc.port}/nfc/{on_host.partition('/nfc/')[2]}"
    assert client.get(by_vcenter, cookie=False)[0] == 401
    assert client.get(by_vcenter, headers={"Cookie": "vmware_soap_session=guess"}, cookie=False)[0] == 401
    assert client.get(by_vcenter)[0] == 200
    # A host knows no session of vCenter's: the lease in the path is what counts, and a cookie is one given away.
    vc.reset_counters()
    assert client.get(on_host, cookie=False)[0] == 200
    assert "/vcenter-cookie-sent-to-a-host" not in vc.counters()["paths"]
    assert client.get(on_host)[0] == 200
    assert vc.counters()["paths"]["/vcenter-cookie-sent-to-a-host"]["requests"] == 1


def test_ranges_of_a_flat_file_while_the_vm_is_off(
    vc: VCenterSimulator, client: Any, content: dict[str, bytes]
) -> None:
    url = f"https://{vc.host}:{vc.port}{flat('off01')}"
    status, headers, body = client.get(url, headers={"Range": "bytes=100-70000"})
    assert (status, headers["Content-Range"]) == (206, f"bytes 100-70000/{PLAIN}")
    assert body == content["b"][100:70001]
    assert client.get(url, headers={"Range": f"bytes={PLAIN}-"})[0] == 416
    assert client.get(f"https://{vc.host}:{vc.port}/folder/off01/none.vmdk?dcPath=dc1&dsName=datastore1")[0] == 404


def test_vmfs6_locks_the_chain_of_a_running_vm(
    start_vc: Any, connect: Any, content: dict[str, bytes], raws: dict[str, Path]
) -> None:
    disk = SimDisk(raws["b"])
    vc = start_vc(
        [SimVm("six", [disk]), SimVm("nfs", [disk], datastore="filer")],
        datastores=(SimDatastore(), SimDatastore("filer", type="NFS")),
    )
    client = connect(vc)
    client.snapshot(client.vm("six"))
    client.snapshot(client.vm("nfs"))
    vc.guest_write("nfs", 0, 0, b"newer")
    base = f"https://{vc.host}:{vc.port}"
    assert client.get(base + flat("six"))[0] == 500
    assert client.get(base + flat("nfs", "filer"))[2] == content["b"]
    vc.rule(kind="folder", action="unlocked", vm="six")
    assert client.get(base + flat("six"))[2] == content["b"]
    assert client.get(base + flat("six"))[0] == 500


def test_a_service_ticket_opens_one_url_once(vc: VCenterSimulator, client: Any) -> None:
    path = flat("off01")
    url = f"https://127.0.0.12:{vc.esxi_port}{path}"
    spec = vim.SessionManager.HttpServiceRequestSpec(method="httpGet", url=url)
    ticket = client.si.content.sessionManager.AcquireGenericServiceTicket(spec)
    cookie = {"Cookie": f"vmware_cgi_ticket={ticket.id}"}
    assert client.get(url, headers=cookie, cookie=False)[0] == 200
    assert client.get(url, headers=cookie, cookie=False)[0] == 401


def test_vsan_has_no_extents_and_hosts_want_tickets(
    start_vc: Any, connect: Any, raws: dict[str, Path], content: dict[str, bytes]
) -> None:
    disk = SimDisk(raws["b"])
    vc = start_vc(
        [SimVm("six", [disk]), SimVm("objects", [disk], datastore="vsan1", power="poweredOff")],
        datastores=(SimDatastore(), SimDatastore("vsan1", type="vsan")),
    )
    client = connect(vc)
    base, host = f"https://{vc.host}:{vc.port}", f"https://127.0.0.11:{vc.esxi_port}"
    assert {file.type for file in client.vm("six").layoutEx.file} >= {"diskDescriptor", "diskExtent"}
    assert "diskExtent" not in {file.type for file in client.vm("objects").layoutEx.file}
    assert client.get(base + flat("objects", "vsan1"))[0] == 404
    vc.rule(kind="folder", action="host_only", times=0)
    assert client.get(base + flat("six"))[0] == 500
    assert client.get(host + flat("six"))[0] == 401, "it has never heard of vCenter's session"
    assert vc.counters()["paths"]["/vcenter-cookie-sent-to-a-host"]["requests"] == 1
    spec = vim.SessionManager.HttpServiceRequestSpec(method="httpGet", url=host + flat("six"))
    ticket = client.si.content.sessionManager.AcquireGenericServiceTicket(spec)
    cookie = {"Cookie": f"vmware_cgi_ticket={ticket.id}"}
    assert client.get(host + flat("six"), headers=cookie, cookie=False)[2] == content["b"]
    vc.clear_rules()
    vc.rule(kind="folder", action="unlocked")
    vc.rule(kind="folder", action="no_range")
    assert client.get(base + flat("six"), headers={"Range": "bytes=0-511"})[0] == 200


def test_privileges_of_a_limited_user(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    reader = SimUser("reader", "pw", privileges=["VirtualMachine.State.CreateSnapshot"])
    nearly = SimUser("nearly", "pw", without=["VApp.Export"])
    vc = start_vc(inventory, users=(ADMIN, reader, nearly))
    client = connect(vc, "reader", "pw")
    vm = client.vm("web01")
    snapshot = client.snapshot(vm)
    for call, privilege in (
        (lambda: snapshot.RemoveSnapshot_Task(False), "VirtualMachine.State.RemoveSnapshot"),
        (snapshot.ExportSnapshot, "VApp.Export"),
        (vm.PowerOff, "VirtualMachine.Interact.PowerOff"),
        (
            lambda: vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeTrackingEnabled=True)),
            "VirtualMachine.Config.ChangeTracking",
        ),
    ):
        with pytest.raises(vim.fault.NoPermission) as refused:
            call()
        assert refused.value.privilegeId == privilege
    manager = client.si.content.authorizationManager
    names = ["System.Read", "VApp.Export", "VirtualMachine.State.CreateSnapshot", "Invented.Privilege"]
    session = client.si.content.sessionManager.currentSession.key
    (answer,) = manager.HasPrivilegeOnEntities([vm], session, names)
    assert [p.isGranted for p in answer.privAvailability] == [True, False, True, False]
    (fetched,) = manager.FetchUserPrivilegeOnEntities([vm], "nearly")
    assert "VApp.Export" not in fetched.privileges
    assert "VirtualMachine.State.RemoveSnapshot" in fetched.privileges
    (same,) = manager.FetchUserPrivilegeOnEntities([vm], "VSPHERE.LOCAL\\Administrator")
    assert "VApp.Export" in same.privileges
    with pytest.raises(vim.fault.UserNotFound) as unknown:
        manager.FetchUserPrivilegeOnEntities([vm], "nobody")
    assert unknown.value.principal == "nobody"
    other = connect(vc, "nearly", "pw")
    other.remove(vim.vm.Snapshot(snapshot._moId, other.si._stub))


def test_sessions_expire_on_demand_and_when_idle(start_vc: Any, connect: Any, inventory: list[SimVm]) -> None:
    vc = start_vc(inventory)
    client = connect(vc)
    assert vc.expire_sessions() == 1
    with pytest.raises(vim.fault.NotAuthenticated):
        client.si.CurrentTime()
    vc.reset(inventory, session_timeout=0.3)
    with pytest.raises(vim.fault.NotAuthenticated):  # on a busy machine even while connecting
        idle = connect(vc)
        assert eventually(lambda: not vc.state()["sessions"])
        idle.si.CurrentTime()
    assert eventually(lambda: not vc.state()["sessions"])


def test_guest_shutdown_needs_tools(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("with", []), SimVm("without", [], tools="not_installed")])
    client = connect(vc)
    with pytest.raises(vim.fault.ToolsUnavailable):
        client.vm("without").ShutdownGuest()
    vm = client.vm("with")
    vm.ShutdownGuest()
    assert eventually(lambda: vm.runtime.powerState == "poweredOff")
    assert vm.guest.toolsRunningStatus == "guestToolsNotRunning"


# --- faults on order, and the control endpoint ---


def test_rules_on_calls(vc: VCenterSimulator, client: Any) -> None:
    vc.rule(kind="fault", method="CurrentTime", fault="NoPermission", args={"privilegeId": "a.b"}, times=2, skip=1)
    client.si.CurrentTime()
    for _ in range(2):
        with pytest.raises(vim.fault.NoPermission) as refused:
            client.si.CurrentTime()
        assert refused.value.privilegeId == "a.b"
    client.si.CurrentTime()
    vc.rule(kind="latency", method="CurrentTime", delay=0.2)
    begun = time.monotonic()
    client.si.CurrentTime()
    assert time.monotonic() - begun >= 0.2
    assert [r["hits"] for r in vc.rules()] == [2, 1]
    vc.clear_rules()
    assert vc.rules() == []


def test_taking_the_rules_away_ends_what_waits_for_them(vc: VCenterSimulator, client: Any, connect: Any) -> None:
    vc.rule(kind="task", method="CreateSnapshot_Task", delay=3600, fault="GenericVmConfigFault", args={"reason": "x"})
    vc.rule(kind="latency", method="CurrentTime", delay=3600)
    task = client.vm("web01").CreateSnapshot_Task("slow", "", False, False)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(connect(vc).si.CurrentTime)
        assert eventually(lambda: all(rule["hits"] for rule in vc.rules()))
        assert (answer.done(), task.info.state in ("queued", "running")) == (False, True)
        vc.clear_rules()
        assert answer.result(60)
    with pytest.raises(vim.fault.GenericVmConfigFault):  # the rest of what was ordered comes all the same
        client.done(task)


def test_an_answer_that_is_lost(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    vc.rule(kind="drop", method="CreateSnapshot_Task", action="after")
    with pytest.raises((http.client.HTTPException, OSError)):
        vm.CreateSnapshot_Task("lost", "", False, False)
    assert eventually(lambda: vm.snapshot is not None)
    assert [t.name for t in vm.snapshot.rootSnapshotList] == ["lost"]


def test_tasks_that_fail_before_and_after_their_work(vc: VCenterSimulator, client: Any) -> None:
    vm = client.vm("web01")
    vc.rule(kind="task", method="CreateSnapshot_Task", fault="InsufficientStorageSpace")
    with pytest.raises(vim.fault.InsufficientStorageSpace):
        client.snapshot(vm)
    assert vm.snapshot is None
    vc.rule(kind="task", method="CreateSnapshot_Task", fault="GenericVmConfigFault", args={"reason": "x"}, applied=True)
    with pytest.raises(vim.fault.GenericVmConfigFault):
        client.snapshot(vm)
    assert vm.snapshot is not None


def test_a_full_datastore_takes_no_snapshot(vc: VCenterSimulator, client: Any) -> None:
    vc.set_datastore("datastore1", free=1 << 20)
    with pytest.raises(vim.fault.NoDiskSpace):
        client.snapshot(client.vm("web01"))
    assert client.vm("web01").snapshot is None


def test_what_is_not_simulated_is_refused(client: Any) -> None:
    vm = client.vm("web01")
    with pytest.raises(vmodl.fault.NotSupported):
        client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(memoryMB=1)))
    with pytest.raises(vim.fault.ConcurrentAccess):
        client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion="old", annotation="x")))
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(changeVersion=vm.config.changeVersion, annotation="x")))
    assert vm.config.annotation == "x"


def test_cdrom_and_network_card_can_be_disconnected(start_vc: Any, connect: Any) -> None:
    client = connect(start_vc([SimVm("x", [], cdrom="[datastore1] tools.iso")]))
    vm = client.vm("x")
    edits = []
    for device in vm.config.hardware.device:
        if isinstance(device, (vim.vm.device.VirtualCdrom, vim.vm.device.VirtualVmxnet3)):
            assert device.connectable is not None
            assert device.connectable.connected is True
            device.connectable.connected = device.connectable.startConnected = False
            edits.append(vim.vm.device.VirtualDeviceSpec(operation="edit", device=device))
    client.done(vm.ReconfigVM_Task(vim.vm.ConfigSpec(deviceChange=edits)))
    states = [d.connectable.connected for d in vm.config.hardware.device if d.connectable]
    assert states == [False, False]


def test_quiescing(start_vc: Any, connect: Any) -> None:
    vc = start_vc([SimVm("with", []), SimVm("without", [], tools="not_running")])
    client = connect(vc)
    client.snapshot(client.vm("with"), quiesce=True)
    assert client.vm("with").snapshot.rootSnapshotList[0].quiesced is True
    with pytest.raises(vim.fault.FilesystemQuiesceFault):
        client.snapshot(client.vm("without"), quiesce=True)
    vc.rule(kind="quiesce")
    with pytest.raises(vim.fault.ApplicationQuiesceFault):
        client.snapshot(client.vm("with"), quiesce=True)


def test_counters_and_datastore_space(vc: VCenterSimulator, client: Any) -> None:
    vc.reset_counters()
    client.si.CurrentTime()
    client.si.CurrentTime()
    assert vc.counters()["methods"] == {"CurrentTime": 2}
    assert vc.counters()["paths"]["/sdk"]["requests"] == 2
    vc.set_datastore("datastore1", free=12345)
    store = client.vm("web01").datastore[0]
    assert store.summary.freeSpace != 12345  # what vCenter saw last
    store.RefreshDatastore()
    assert store.summary.freeSpace == 12345


def test_the_control_endpoint_needs_its_token_and_explains_itself(vc: VCenterSimulator) -> None:
    with pytest.raises(urllib.error.HTTPError, match="403"):
        urllib.request.urlopen(f"{vc.control_url}/state", timeout=60)
    with pytest.raises(SimulatorError, match="no kind of rule"):
        vc.rule(kind="nonsense")
    with pytest.raises(SimulatorError, match="NoSuchFault"):
        vc.rule(kind="fault", fault="NoSuchFault")
    with pytest.raises(SimulatorError, match="no virtual machine"):
        vc.rule(kind="quiesce", vm="nobody")
    with pytest.raises(SimulatorError, match="beyond the disk"):
        vc.guest_write("web01", 0, 1 << 40, b"x")


def test_wrong_inventories_are_explained(start_vc: Any) -> None:
    with pytest.raises(SimulatorError, match="unknown controller"):
        start_vc([SimVm("x", [SimDisk(capacity=MIB, controller="floppy")])])  # type: ignore[arg-type]
    with pytest.raises(SimulatorError, match="two disks at"):
        start_vc([SimVm("x", [SimDisk(capacity=MIB), SimDisk(capacity=MIB)])])


def test_passwords_are_not_on_the_command_line(vc: VCenterSimulator) -> None:
    assert vc.password.encode() not in Path(f"/proc/{vc.pid}/cmdline").read_bytes()
    assert vc.password not in repr(ADMIN)
