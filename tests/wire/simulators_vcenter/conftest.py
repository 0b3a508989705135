"""A real pyvmomi client against the simulator, over verified TLS. Nothing of the product is imported here."""

from __future__ import annotations

import http.client
import random
import ssl
import subprocess
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim
from tests.eventually import eventually
from tests.vcenters import Processes, Take

from wavelift.simulators.vcenter import SimDisk, SimVm, VCenterSimulator

KIB, MIB = 1 << 10, 1 << 20


class Client:
    """One logged-in session and what tests do with it."""

    def __init__(self, vc: VCenterSimulator, user: str = "", password: str = "") -> None:
        self.vc = vc
        self.generation: int = vc.ready["generation"]
        self.context = ssl.create_default_context(cafile=str(vc.ca_file))
        self.si = SmartConnect(
            host=vc.host, port=vc.port, user=user or vc.username, pwd=password or vc.password, sslContext=self.context
        )
        self.cookie: str = self.si._stub.cookie.split(";")[0]

    def close(self) -> None:
        Disconnect(self.si)

    def vms(self) -> list[Any]:
        content = self.si.content
        view = content.viewManager.CreateContainerView(content.rootFolder, [vim.VirtualMachine], True)
        found = list(view.view)
        view.DestroyView()
        return found

    def vm(self, name: str) -> Any:
        moref = next(v["moref"] for v in self.vc.state()["vms"] if v["name"] == name)
        return vim.VirtualMachine(moref, self.si._stub)

    def done(self, task: Any) -> Any:
        """The task's result; raises its fault."""
        assert eventually(lambda: task.info.state in ("success", "error")), f"the task is still {task.info.state}"
        if task.info.error:
            raise task.info.error
        return task.info.result

    def snapshot(self, vm: Any, name: str = "wavelift-1", *, quiesce: bool = False) -> Any:
        return self.done(vm.CreateSnapshot_Task(name, "a test", False, quiesce))

    def remove(self, snapshot: Any) -> None:
        self.done(snapshot.RemoveSnapshot_Task(False))

    def settled(self, lease: Any) -> Any:
        assert eventually(lambda: lease.state != "initializing"), "the lease is still initializing"
        return lease

    def get(self, url: str, *, headers: dict[str, str] | None = None, cookie: bool = True) -> tuple[int, Any, bytes]:
        """Status, headers and body of one GET; a cut body raises http.client.IncompleteRead."""
        parts = urllib.parse.urlsplit(url)
        connection = http.client.HTTPSConnection(parts.hostname or "", parts.port, context=self.context, timeout=60)
        sent = dict(headers or {})
        if cookie:
            sent["Cookie"] = self.cookie
        try:
            connection.request("GET", parts._replace(scheme="", netloc="").geturl(), headers=sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def disk_urls(self, lease: Any) -> dict[str, str]:
        """Device key without the VM -> URL, disks only."""
        return {u.key.split("/")[-1]: u.url for u in lease.info.deviceUrl if u.disk}

    def disk(self, lease: Any, label: str) -> bytes:
        status, _, body = self.get(self.disk_urls(lease)[label])
        assert status == 200
        return body

    def devices(self, config: Any) -> dict[int, Any]:
        return {d.key: d for d in config.hardware.device if isinstance(d, vim.vm.device.VirtualDisk)}


def make_raw(path: Path, size: int, seed: int) -> bytes:
    """A sparse file with random data, text and holes, not of a size that is a multiple of a grain."""
    noise = random.Random(seed)
    content = bytearray(size)
    for start_at, length in ((0, 100_000), (size // 3, 300_000), (size // 2, 70_000), (size - 40_000, 40_000)):
        length = min(length, size - start_at)
        content[start_at : start_at + length] = noise.randbytes(length)
    content[size // 4 : size // 4 + 15] = b"text, not noise"
    with path.open("wb") as f:
        for at in range(0, size, 65536):
            block = content[at : at + 65536]
            if block != bytes(len(block)):
                f.seek(at)
                f.write(block)
        f.truncate(size)
    return bytes(content)


def decode(body: bytes, folder: Path) -> bytes:
    """The raw bytes that qemu-img reads from a stream-optimised body: a decoder that none of us wrote."""
    packed, raw = folder / "body.vmdk", folder / "body.raw"
    packed.write_bytes(body)
    subprocess.run(["qemu-img", "convert", "-f", "vmdk", "-O", "raw", packed, raw], check=True, capture_output=True)
    return raw.read_bytes()


@pytest.fixture
def decoded(tmp_path: Path) -> Callable[[bytes], bytes]:
    return lambda body: decode(body, tmp_path)


MIXED, PLAIN, LARGE = 4 * MIB - 61 * KIB, 4 * MIB, 70 * MIB + 3 * KIB
"""Bytes of the raw files `a`, `b` and `large`: the first and the last end within a grain, and the last needs three
grain tables, for the few tests that are about size."""


@pytest.fixture(scope="session")
def raws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """Made once: simulators only read them, and that is looked at when all is over."""
    folder = tmp_path_factory.mktemp("raws")
    sizes = {"a": MIXED, "b": PLAIN, "large": LARGE}
    made = {name: make_raw(folder / f"{name}.raw", size, seed) for seed, (name, size) in enumerate(sizes.items(), 1)}
    yield {name: folder / f"{name}.raw" for name in made}
    for name, content in made.items():
        assert (folder / f"{name}.raw").read_bytes() == content


@pytest.fixture(scope="session")
def content(raws: dict[str, Path]) -> dict[str, bytes]:
    return {name: path.read_bytes() for name, path in raws.items()}


@pytest.fixture
def inventory(raws: dict[str, Path]) -> list[SimVm]:
    a, b = raws["a"], raws["b"]
    return [
        SimVm(
            "web01",
            [SimDisk(a), SimDisk(b, controller="sata", unit=1)],
            folder="prod/web",
            firmware="efi",
            ip="10.0.0.5",
        ),
        SimVm("off01", [SimDisk(b, controller="lsi")], power="poweredOff"),
    ]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    owned = Processes(tmp_path_factory.mktemp("vcenters"))
    yield owned
    owned.close()


@pytest.fixture
def start_vc(processes: Processes) -> Iterator[Take]:
    """A vCenter as a start would make it, in a process of the module's. It takes no longer for anything than a test
    needs to see that it takes some time."""
    with processes.lend() as take:
        yield lambda vms, **options: take(vms, **{"task_seconds": 0.01, "lease_ready_after": 0.03, **options})


@pytest.fixture
def vc(start_vc: Take, inventory: list[SimVm]) -> VCenterSimulator:
    return start_vc(inventory, evidence=True)


Connect = Callable[..., Client]


@pytest.fixture
def connect() -> Iterator[Connect]:
    """`connect(vc)`: a session that is logged out after the test, if its vCenter still is the one."""
    opened: list[Client] = []

    def begin(vc: VCenterSimulator, user: str = "", password: str = "") -> Client:
        opened.append(Client(vc, user, password))
        return opened[-1]

    yield begin
    for one in opened:
        if one.vc.alive() and one.vc.ready["generation"] == one.generation:
            with ignore_logged_out():
                one.close()


@contextmanager
def ignore_logged_out() -> Iterator[None]:
    try:
        yield
    except vim.fault.NotAuthenticated:
        pass  # the test ended the session itself


@pytest.fixture
def client(vc: VCenterSimulator, connect: Connect) -> Client:
    return connect(vc)
