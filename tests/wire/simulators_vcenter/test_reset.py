"""A reset makes a vCenter that cannot be told from that of a process just started: compared with one, and tried."""

from __future__ import annotations

import difflib
import http.client
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import urllib.request
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from pyVmomi import vim, vmodl
from tests.eventually import eventually

from wavelift.simulators.vcenter import (
    ADMIN,
    SimDatastore,
    SimDisk,
    SimHost,
    SimulatorError,
    SimUser,
    SimVm,
    VCenterSimulator,
    start,
    to_json,
)

pytestmark = pytest.mark.wire

MIB = 1 << 20
FLAT = "/folder/off01/off01-flat.vmdk?dcPath=dc1&dsName=datastore1"


@pytest.fixture
def machines(raws: dict[str, Path]) -> list[SimVm]:
    return [
        SimVm("web01", [SimDisk(raws["a"])], folder="prod", change_tracking=True, snapshots=["theirs"]),
        SimVm("off01", [SimDisk(raws["b"], controller="lsi")], power="poweredOff"),
        SimVm("busy01", [SimDisk(capacity=MIB)]),
    ]


DRAWN = re.compile(
    r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"  # ids that are random
    r"|datetime\.datetime\([^()]*|\d{4}-\d\d-\d\dT[0-9:.]+Z|(?<=changeVersion = ')\d+"
    r"|127\.0\.0\.1:\d+|(?<=port = )\d+|([0-9A-F]{2}:){19}[0-9A-F]{2}"  # two processes have their own
    r"|govcsim-[^/\" ]+"  # the embedded simulator's temporary folders
)
"""What every vCenter draws anew."""


def told(vc: VCenterSimulator, connect: Any) -> dict[str, Any]:
    """All that can be asked: the control endpoint, every managed entity, events, settings, the ids that come next."""
    found = {"state": vc.state(), "counters": vc.counters(), "rules": vc.rules(), "evidence": vc.evidence()}
    client = connect(vc)
    content = client.si.content
    view = content.viewManager.CreateContainerView(content.rootFolder, [vim.ManagedEntity], True)
    found["entities"] = {str(each): dump(each) for each in view.view}
    collector = content.eventManager.CreateCollectorForEvents(vim.event.EventFilterSpec())
    found["events"] = [type(event).__name__ for event in collector.ReadNextEvents(1000)]
    found["tasks"] = [str(task) for task in content.taskManager.recentTask]
    found["settings"] = {option.key: str(option.value) for option in content.setting.QueryOptions()}
    found["next"] = [str(view), str(collector), str(client.snapshot(client.vm("busy01")))]
    found["files"] = sorted(str(path) for path in vc.ca_file.parent.rglob("*"))
    # a file of the log's own: what is open besides sockets and pipes
    found["open"] = sorted(link for link in open_files(vc.pid) if link.startswith("/"))
    return found


def dump(entity: Any) -> list[str]:
    parts = [entity.name, str(getattr(entity, "summary", "")), str(entity.recentTask)]
    if isinstance(entity, vim.VirtualMachine):
        parts += [
            str(entity.config),
            str(entity.layoutEx),
            str(entity.guest),
            str(entity.snapshot),
            str(entity.runtime),
        ]
    return parts


def comparable(found: dict[str, Any], vc: VCenterSimulator) -> list[str]:
    text = json.dumps(found, sort_keys=True, indent=0).replace(str(vc.ca_file.parent), "FOLDER")
    return DRAWN.sub("DRAWN", text).replace("\\n", "\n").splitlines()


def differences(one: list[str], other: list[str]) -> list[str]:
    return [line for line in difflib.unified_diff(one, other, lineterm="", n=0) if not line.startswith("")]


def open_files(pid: int) -> list[str]:
    links = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        try:
            links.append(str(each.readlink()))
        except FileNotFoundError:
            pass  # gone meanwhile: a connection of ours
    return links


class Rest:
    """A login at the REST API, which the embedded simulator keeps apart from the other's."""

    def __init__(self, vc: VCenterSimulator) -> None:
        self._base = f"https://{vc.host}:{vc.port}/rest/com/vmware/cis"
        self._context = ssl.create_default_context(cafile=str(vc.ca_file))
        login = b64encode(f"{vc.username}:{vc.password}".encode()).decode()
        self.session = self.ask("POST", "/session", {"Authorization": f"Basic {login}"})

    def ask(self, method: str, path: str, headers: dict[str, str], body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(self._base + path, data, headers, method=method)
        with urllib.request.urlopen(request, context=self._context, timeout=60) as answer:
            return json.loads(answer.read())["value"]

    def categories(self) -> Any:
        return self.ask("GET", "/tagging/category", {"vmware-api-session-id": self.session})

    def make_category(self) -> None:
        spec = {"name": "env", "cardinality": "MULTIPLE", "associable_types": [], "description": ""}
        self.ask("POST", "/tagging/category", {"vmware-api-session-id": self.session}, {"create_spec": spec})


def test_nothing_of_before_shines_through(
    start_vc: Any, connect: Any, tmp_path: Path, machines: list[SimVm], content: dict[str, bytes]
) -> None:
    """Compared with a process that was never anything else, which therefore is a process of this test's own."""
    options: dict[str, Any] = {"evidence": True, "task_seconds": 0.01, "users": (ADMIN, SimUser("other", "pw"))}
    with start(tmp_path / "never-reset", machines, lease_ready_after=0.03, **options) as fresh:
        pristine = comparable(told(fresh, connect), fresh)
    vc = start_vc(machines, **options, session_timeout=500, changed_area_window=MIB, clock_skew=1000.0)
    before = vc.ready

    # A world in full swing ...
    client, other, waiter = connect(vc), connect(vc, "other", "pw"), connect(vc)
    web, off = client.vm("web01"), client.vm("off01")
    rest = Rest(vc)
    rest.make_category()
    snapshot = client.snapshot(web, "ours")
    lineage = client.devices(snapshot.config)[2000].backing.changeId
    vc.guest_write("web01", 0, 0, b"written by the guest")
    vc.start_writer(rate=64 * MIB, size=65536)
    vc.set_datastore("datastore1", free=1 << 30)
    web.datastore[0].RefreshDatastore()
    vc.set_vm("busy01", tools="not_running", consolidation_needed=True, hardware="vmx-21")
    vc.set_vm("busy01", grow={"disk": 0, "capacity": 2 * MIB})
    vc.migrate("busy01", "127.0.0.12")
    client.done(off.ReconfigVM_Task(vim.vm.ConfigSpec(annotation="of before")))
    lease = client.settled(snapshot.ExportSnapshot())
    url = lease.info.deviceUrl[0].url
    assert vc.evidence()
    of_a_host = f"https://127.0.0.12:{vc.esxi_port}{FLAT}"
    spec = vim.SessionManager.HttpServiceRequestSpec(method="httpGet", url=of_a_host)
    ticket = client.si.content.sessionManager.AcquireGenericServiceTicket(spec)
    vc.rule(kind="task", method="CreateSnapshot_Task", delay=3600)
    endless = client.vm("busy01").CreateSnapshot_Task("endless", "", False, False)
    assert eventually(lambda: endless.info.state == "running")
    vc.rule(kind="fault", method="RetrieveServiceContent", fault="SystemError", times=0)
    vc.rule(kind="latency", method="CurrentTime", delay=3600)
    vc.rule(kind="nfc", action="slow", rate=1000)
    cut: list[str] = []
    calls = {
        "call": other.si.CurrentTime,
        "transfer": lambda: client.get(url),
        "wait": lambda: for_updates(waiter, web),
    }
    threads = [threading.Thread(target=swallow, args=(cut, name, call)) for name, call in calls.items()]
    for thread in threads:
        thread.start()
    assert eventually(lambda: vc.state()["transfers"] == 1)
    assert eventually(lambda: any(rule["kind"] == "latency" and rule["hits"] for rule in vc.rules()))
    assert eventually(lambda: vc.counters()["methods"].get("WaitForUpdatesEx", 0) == 2)
    assert any("/layers/" in name for name in open_files(vc.pid))

    # ... ends.
    vc.reset(machines, lease_ready_after=0.03, **options)
    for thread in threads:
        thread.join(60)
    assert sorted(cut) == ["call", "transfer", "wait"]
    kept = ("url", "control", "token", "pid", "ca_file", "thumbprint", "hosts", "esxi_port")
    assert {key: vc.ready[key] for key in kept} == {key: before[key] for key in kept}
    assert vc.ready["generation"] == before["generation"] + 1

    # What is there is what a process has that was never anything else,
    found = differences(pristine, comparable(told(vc, connect), vc))
    assert not found, "\n".join(found)

    # and what was known of before is worth nothing.
    client.si._stub.DropConnections()  # they are cut
    with pytest.raises(vim.fault.NotAuthenticated):
        client.si.CurrentTime()
    assert client.get(f"https://{vc.host}:{vc.port}{FLAT}")[0] == 401
    assert client.get(url, cookie=False)[0] == 404
    assert client.get(of_a_host, headers={"Cookie": f"vmware_cgi_ticket={ticket.id}"}, cookie=False)[0] == 401
    with pytest.raises(OSError, match="401"):
        rest.categories()
    assert not Rest(vc).categories()
    after = connect(vc)
    vm = after.vm("web01")
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vim.Task(endless._moId, after.si._stub).info
    with pytest.raises(vmodl.fault.ManagedObjectNotFound):
        _ = vim.HttpNfcLease(lease._moId, after.si._stub).state
    with pytest.raises(vim.fault.FileFault):
        vm.QueryChangedDiskAreas(after.snapshot(vm), 2000, 0, lineage)
    assert vc.guest_read("web01", 0, 0, 4 * MIB) == content["a"], "no guest writes on"


def swallow(cut: list[str], name: str, call: Any) -> None:
    try:
        call()
    except (OSError, http.client.HTTPException):
        cut.append(name)


def for_updates(client: Any, vm: Any) -> None:
    """Waits for a change that nobody makes, for as long as it takes."""
    collector = client.si.content.propertyCollector
    spec = vmodl.query.PropertyCollector.FilterSpec(
        objectSet=[vmodl.query.PropertyCollector.ObjectSpec(obj=vm)],
        propSet=[vmodl.query.PropertyCollector.PropertySpec(type=vim.VirtualMachine, pathSet=["name"])],
    )
    collector.CreateFilter(spec, True)
    version = collector.WaitForUpdatesEx("", None).version
    collector.WaitForUpdatesEx(version, None)


def test_a_reset_takes_every_option_of_a_start(start_vc: Any, connect: Any, raws: dict[str, Path]) -> None:
    vc = start_vc([])
    first, thumbprints = vc.ready, {name: host["thumbprint"] for name, host in vc.hosts.items()}
    vm = SimVm("six", [SimDisk(raws["b"])], datastore="filer", host="127.0.0.12")
    vc.reset(
        [vm],
        hosts=(SimHost("127.0.0.12", "127.0.0.12", certificate="self_signed", thumbprint="00:11"),),
        datastores=(SimDatastore("filer", type="NFS", free=5 << 30),),
        users=(SimUser("only", "pw", privileges=["VirtualMachine.State.CreateSnapshot"]),),
        certificate="expired",
        vmfs_lock=False,
        extra_vms=3,
    )
    assert (vc.username, vc.password, list(vc.hosts)) == ("only", "pw", ["127.0.0.12"])
    assert (vc.url, vc.hosts["127.0.0.12"]["port"]) == (first["url"], first["hosts"]["127.0.0.12"]["port"])
    assert vc.thumbprint != first["thumbprint"]
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(vc)
    assert vc.state()["vms"][0]["name"] == "six"
    gone = "127.0.0.11", first["hosts"]["127.0.0.11"]["port"]
    with pytest.raises(ConnectionRefusedError), socket.create_connection(gone, timeout=60):
        pass
    vc.reset([])
    assert vc.thumbprint == first["thumbprint"]
    assert {name: host["port"] for name, host in vc.hosts.items()} == dict.fromkeys(thumbprints, first["esxi_port"])
    assert {name: host["thumbprint"] for name, host in vc.hosts.items()} == thumbprints
    assert connect(vc).vms() == []


def test_who_knocks_during_a_reset_is_let_in_after_it(start_vc: Any) -> None:
    vc = start_vc([])
    context = ssl.create_default_context(cafile=str(vc.ca_file))
    stop = threading.Event()
    refused: list[str] = []
    served: list[int] = []

    def knock() -> None:
        while not stop.is_set():
            try:
                with socket.create_connection((vc.host, vc.port), timeout=60) as plain:
                    with context.wrap_socket(plain, server_hostname=vc.host) as secure:
                        secure.sendall(b"GET /about HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                        served.append(len(secure.recv(1000)))
            except ConnectionRefusedError as error:
                refused.append(str(error))
            except OSError:
                pass  # was served by the one that ended: cut off

    threads = [threading.Thread(target=knock) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        already = len(served)
        vc.reset([])
        assert eventually(lambda before=already: len(served) > before)  # type: ignore[misc]
    stop.set()
    for thread in threads:
        thread.join(60)
    assert refused == []


def test_a_wrong_inventory_changes_nothing_and_one_that_cannot_be_built_ends_the_process(start_vc: Any) -> None:
    vc = start_vc([SimVm("x")])
    before = vc.state()
    for text, words in (("{", "unexpected EOF"), ('{"nonsense": 1}', "nonsense"), (to_json([], users=()), "no user")):
        with pytest.raises(SimulatorError, match=words):
            vc.start_anew(text)
    assert vc.state() == before
    with pytest.raises(SimulatorError, match="unknown controller"):
        vc.reset([SimVm("y", [SimDisk(capacity=MIB, controller="floppy")])])  # type: ignore[arg-type]
    assert eventually(lambda: not vc.alive())


_CHILD = """
import pathlib, sys, time
from wavelift.simulators.vcenter import SimVm, start
vc = start(pathlib.Path(sys.argv[1]), [])
for _ in range(3):
    vc.reset([SimVm("x")])
print(vc.pid, flush=True)
time.sleep(3600)
"""


def test_after_resets_it_still_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _CHILD, str(tmp_path / "s")]
    parent = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait(60)
    parent.stdout.close()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists())
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["inventory.json", "vcenter.log"]


def test_resets_leave_no_descriptors(start_vc: Any) -> None:
    vc = start_vc([])
    vc.reset([])
    before = len(open_files(vc.pid))
    for _ in range(5):
        vc.reset([])
    assert eventually(lambda: len(open_files(vc.pid)) <= before)
