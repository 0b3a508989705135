"""Reading frozen disks through nbdkit with a stand-in for VDDK. VDDK itself is not available to the tests."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.eventually import eventually
from tests.vcenters import Processes, Take
from tests.vddk import VddkStandIn
from typer.testing import CliRunner

from wavelift.adapters.vsphere import nbdkit, nfc_plugin
from wavelift.adapters.vsphere.datastore import NotServed
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.inventory import list_summaries
from wavelift.adapters.vsphere.nbdkit import MovedError, VddkReader, VddkRoute, probe, snapshot_gone
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.snapshots import ensure_snapshot, remove_snapshot, snapshot_disks
from wavelift.adapters.vsphere.vddk import VddkConfig, check_vddk, explain
from wavelift.base.domain import DiskFacts, SnapshotRef
from wavelift.base.errors import (
    BusyError,
    LimitReachedError,
    LoginError,
    MissingPrivilegeError,
    NotFoundError,
    PermanentError,
    SpecError,
    ThrottledError,
    TlsError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.names import snapshot_name
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, MIB
from wavelift.cli.main import app
from wavelift.simulators import vcenter
from wavelift.simulators.vcenter import SimDisk, SimVm, VCenterSimulator
from wavelift.transfer.nbd.client import NbdClient
from wavelift.transfer.nbd.connection import Patience
from wavelift.transfer.protocols import Extent

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]

CAPACITY = 4 * MIB + 512
NAME = snapshot_name("demo.replicate/run/vddk")
SECRET = "not on any command line"


@pytest.fixture(scope="module")
def content() -> bytes:
    return random.Random(9).randbytes(MIB) + bytes(MIB) + random.Random(8).randbytes(CAPACITY - 2 * MIB)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> Path:
    file = tmp_path_factory.mktemp("hall") / "disk.raw"
    with file.open("wb") as out:  # a real hole, so that there is one to tell of
        out.write(content[:MIB])
        out.seek(2 * MIB)
        out.write(content[2 * MIB :])
    return file


@pytest.fixture
def hall(start_vc: Take, raw: Path) -> VCenterSimulator:
    admin = replace(vcenter.ADMIN, password=SECRET)
    vms = [SimVm("web01", [SimDisk(raw)], folder="prod")]
    return start_vc(vms, world="hall", users=(admin,), task_seconds=0.01, evidence=True)


@pytest.fixture
def sim(hall: VCenterSimulator, processes: Processes, monkeypatch: pytest.MonkeyPatch) -> Iterator[VCenterSimulator]:
    """Nothing may be left: no snapshot, no folder, no nbdkit."""
    with tempfile.TemporaryDirectory(prefix="wl-", dir=tempfile.gettempdir()) as folder:
        monkeypatch.setattr(tempfile, "tempdir", folder)
        yield hall
        assert not list(Path(folder).iterdir())
    try:
        assert [vm["snapshots"] for vm in hall.state()["vms"]] == [[]]
    except BaseException:
        processes.spoil(hall)
        raise


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between a reader's attempts that add up to a twentieth of a second."""
    quick = Patience(pause=0.0016)
    monkeypatch.setattr(nbdkit, "NbdClient", lambda *args, **options: NbdClient(*args, patience=quick, **options))


@pytest.fixture
def vddk(hall: VCenterSimulator, tmp_path: Path) -> VddkStandIn:
    return VddkStandIn(tmp_path / "vddk", hall)


@pytest.fixture
def session(sim: VCenterSimulator, vddk: VddkStandIn, config_of: Configure) -> Iterator[VsphereSession]:
    with connect(config_of(sim, vddk=vddk.config())) as opened:
        yield opened


@contextmanager
def frozen(session: VsphereSession) -> Iterator[tuple[SnapshotRef, DiskFacts]]:
    vm = next(each.moref for each in list_summaries(session) if each.name == "web01")
    ref = ensure_snapshot(session, vm, NAME, "test", quiesce="never", cancel=CancelFlag())
    try:
        yield ref, snapshot_disks(session, ref.moref)[0]
    finally:
        remove_snapshot(session, vm, NAME, cancel=CancelFlag())


def look(session: VsphereSession, ref: SnapshotRef, disk: DiskFacts, **options: Any) -> VddkRoute | NotServed:
    return probe(session, FrozenVm(ref.vm, ref.moref, ref.server), disk, cancel=CancelFlag(), **options)


def whole(reader: VddkReader) -> bytes:
    image = bytearray(b"\xff" * reader.size)
    covered = {each.offset // BLOCK for each in reader.extents()}
    for piece in reader.stream().pieces():
        at = piece.index * BLOCK
        piece.load(memoryview(image)[at : at + BLOCK])
        covered.add(piece.index)
    for index in range(-(-reader.size // BLOCK)):
        if index not in covered:
            image[index * BLOCK : (index + 1) * BLOCK] = bytes(min(BLOCK, reader.size - index * BLOCK))
    return bytes(image)


def test_a_running_disk_is_read_as_it_was_frozen(
    session: VsphereSession, sim: VCenterSimulator, vddk: VddkStandIn, content: bytes
) -> None:
    sim.set_vm("web01", power="poweredOn")
    with frozen(session) as (ref, disk):
        sim.guest_write("web01", 0, 4096, b"later")
        route = look(session, ref, disk)
        assert isinstance(route, VddkRoute), route
        assert route.reason == f"{disk.file} is served by VDDK"
        with VddkReader(session.config, route, cancel=CancelFlag()) as reader:
            assert whole(reader) == content
        with VddkReader(session.config, route, cancel=CancelFlag(), skip_zeros=True) as reader:
            assert Extent(0, MIB) in list(reader.extents())
            assert whole(reader) == content
        areas = [Extent(2 * BLOCK, BLOCK)]
        with VddkReader(session.config, route, cancel=CancelFlag(), areas=areas) as reader:
            assert list(reader.extents()) == areas
        assert not snapshot_gone(session, route)
    assert "our snapshot is gone" in snapshot_gone(session, route)
    sim.guest_write("web01", 0, 4096, content[4096:4101])


def test_the_password_is_nowhere_to_be_seen(
    session: VsphereSession, vddk: VddkStandIn, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SECRET", "another secret")
    caplog.set_level("DEBUG")
    vddk.refuse(f"VixDiskLib: login failed for {SECRET}")
    with frozen(session) as (ref, disk), pytest.raises(LoginError) as refused:
        look(session, ref, disk)
    assert SECRET not in str(refused.value)
    assert SECRET not in caplog.text
    assert SECRET not in "\n".join(vddk.argv)
    assert "another secret" not in vddk.environment
    assert any(each.startswith("password=-") for each in vddk.argv)
    assert {"--readonly", "--exit-with-parent", f"snapshot={ref.moref}", f"vm=moref={ref.vm}"} <= set(vddk.argv)


@pytest.mark.parametrize("certificate_mode", ["verify", "ignore"])
def test_the_nfc_plugin_reads_the_same_with_its_own_parameters(
    hall: VCenterSimulator, sim: VCenterSimulator, config_of: Configure, tmp_path: Path, certificate_mode: str
) -> None:
    nfc = VddkStandIn(tmp_path / "nfc", hall, plugin="nfc")
    settings = nfc.config(compression="zlib", config_file="/etc/vddk.conf")
    with (
        connect(config_of(sim, vddk=settings, certificate_mode=certificate_mode)) as session,
        frozen(session) as (ref, disk),
    ):
        route = look(session, ref, disk)
        assert isinstance(route, VddkRoute), route
        assert route.reason.endswith("is served by the nfc plugin")
        with VddkReader(session.config, route, cancel=CancelFlag()) as reader:
            image = whole(reader)
        assert len(image) == CAPACITY
        nfc.refuse("dial tcp 10.0.0.7:902: connect: connection refused")
        refused = look(session, ref, disk)
    assert isinstance(refused, NotServed)
    assert refused.reason.startswith("the nfc plugin: the nfc plugin does not reach vCenter or the ESXi host 10.0.0.7")
    assert str(nfc.folder / "distrib" / "nbdkit-nfc-plugin.so") in nfc.argv
    assert ("insecure=true" in nfc.argv) is (certificate_mode == "ignore"), "verified unless somebody says otherwise"
    assert SECRET not in "\n".join(nfc.argv)
    assert not [word for word in nfc.argv if word.startswith(("libdir", "transports", "compression", "config"))]


def test_a_vm_that_moved_is_not_opened(session: VsphereSession, vddk: VddkStandIn) -> None:
    with frozen(session) as (ref, disk):
        with pytest.raises(MovedError, match="another host") as moved:
            look(session, ref, disk, expected_host="host-of-yesterday")
    assert moved.value.retryable
    assert not (vddk.folder / "argv").exists()


def test_without_vddk_or_through_a_proxy_the_reason_says_so(session: VsphereSession) -> None:
    with frozen(session) as (ref, disk):
        ways = {"no nbdkit_plugin": {"vddk": None}, "proxy": {"proxy": "http://proxy:3128"}}
        for words, changes in ways.items():
            kept = session.config
            session.config = replace(kept, **changes)  # type: ignore[arg-type]
            try:
                found = look(session, ref, disk)
            finally:
                session.config = kept
            assert isinstance(found, NotServed)
            assert words in found.reason


def test_a_failing_probe_is_a_reason(session: VsphereSession, vddk: VddkStandIn) -> None:
    with frozen(session) as (ref, disk):
        vddk.refuse("[NFC ERROR] NfcNewAuthdConnectionEx: Failed to connect to server esxi-3.example.com:902")
        found = look(session, ref, disk)
        assert isinstance(found, NotServed)
        assert "does not reach the ESXi host esxi-3.example.com:902" in found.reason
        (vddk.folder / "distrib" / "lib64").rename(vddk.folder / "elsewhere")
        (vddk.folder / "distrib").rmdir()
        (vddk.folder / "open_error").unlink()
        found = look(session, ref, disk)
        assert isinstance(found, NotServed)
        assert "cannot load VDDK" in found.reason


def test_reads_that_fail_are_explained_by_the_log(session: VsphereSession, vddk: VddkStandIn) -> None:
    with frozen(session) as (ref, disk):
        route = look(session, ref, disk)
        assert isinstance(route, VddkRoute)
        with VddkReader(session.config, route, cancel=CancelFlag()) as reader:
            vddk.fail_reads(
                "EIO [NFC ERROR] received NFC error 5 from server: Failed to allocate the requested 2097176 bytes"
            )
            with pytest.raises(ThrottledError, match="NFC buffers") as failed:
                reader.read_into(0, memoryview(bytearray(512)))
    assert failed.value.where["server"] == "web01"
    assert failed.value.where["disk"] == disk.address


def test_an_nbdkit_that_dies_is_told(session: VsphereSession, vddk: VddkStandIn) -> None:
    with frozen(session) as (ref, disk):
        route = look(session, ref, disk)
        assert isinstance(route, VddkRoute)
        with VddkReader(session.config, route, cancel=CancelFlag()) as reader:
            os.kill(reader._nbdkit._process.pid, signal.SIGKILL)
            with pytest.raises(UnreachableError, match="nbdkit ended with -9"):
                reader.read_into(0, memoryview(bytearray(512)))


def test_a_disk_of_another_size_is_refused(session: VsphereSession) -> None:
    with frozen(session) as (ref, disk):
        found = look(session, ref, disk.model_copy(update={"capacity": CAPACITY + 512}))
    assert isinstance(found, NotServed)
    assert f"({CAPACITY} bytes)" in found.reason


_KILLED = """
import sys, time
from wavelift.adapters.vsphere.nbdkit import Nbdkit
from wavelift.base.run import CancelFlag

running = Nbdkit([sys.argv[1], "--foreground", "--exit-with-parent", "--readonly", "vddk", "file=x"], "secret")
running.wait_ready(CancelFlag())
print(running._process.pid, flush=True)
time.sleep(3600)
"""


def test_nbdkit_ends_when_we_are_killed(sim: VCenterSimulator, vddk: VddkStandIn, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _KILLED, str(vddk.folder / "nbdkit")]
    short = tempfile.mkdtemp(prefix="wl-", dir="/tmp")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": short})
    assert process.stdout is not None
    with process.stdout as out:
        pid = int(out.readline())
    process.kill()
    process.wait(60)
    assert eventually(lambda: not _runs(pid))
    subprocess.run(["rm", "-r", short], check=True)


def test_what_a_killed_process_left_is_removed(session: VsphereSession, vddk: VddkStandIn) -> None:
    old, new = (Path(tempfile.mkdtemp(prefix="wavelift-nbd-")) for _ in range(2))
    os.utime(old, (1, 1))
    with frozen(session) as (ref, disk):
        route = look(session, ref, disk)
        assert isinstance(route, VddkRoute)
        with VddkReader(session.config, route, cancel=CancelFlag()) as reader:
            served = Path(reader._nbdkit.socket).parent
            os.utime(served, (1, 1))
            look(session, ref, disk)
            assert served.exists()
            reader.read_into(0, memoryview(bytearray(512)))
    assert not old.exists()
    assert new.exists()
    new.rmdir()


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("nbdkit: debug: VixDiskLibVim: Failed to verify SSL certificate: actual thumbprint=AA", TlsError, "AA"),
        ("nbdkit: vddk[3]: error: [NFC ERROR] received NFC error 5 from server", ThrottledError, "NFC buffers"),
        ("Failed to allocate the requested 2097176 bytes", ThrottledError, "maxMemory"),
        ("nbdkit: vddk[1]: error: VixDiskLib_Open: too many sessions", LimitReachedError, "vcenter_sessions"),
        (
            "[NFC ERROR]NfcNewAuthdConnectionEx: Failed to connect: Error reading from vmware-authd socket. "
            "Reason: Resource temporarily unavailable",
            LimitReachedError,
            "too many NFC sessions",
        ),
        ("Current license or ESXi version prohibits execution", PermanentError, "licence"),
        (
            "CnxOpenTCPSocket: Cannot connect to server esx7.lab:902: Connection refused",
            UnreachableError,
            "esx7.lab:902",
        ),
        ("CnxAuthdConnect: Returning false because CnxAuthdConnectTCP failed", UnreachableError, "TCP 902"),
        ("VixDiskLib: Host address lookup for server esx7 failed", UnreachableError, "resolve"),
        ("VixDiskLib_ConnectEx: Cannot complete login due to an incorrect user name or password", LoginError, "login"),
        ("VixDiskLib_ConnectEx: insufficient permissions in the host", MissingPrivilegeError, "lacks a right"),
        ("VixDiskLib_Open: The file is already locked", BusyError, "locked"),
        ("VixDiskLib_Open: The specified file was not found: file was not found", NotFoundError, "snapshot"),
        ("nbdkit: error: cannot open plugin 'vddk': no such file", PermanentError, "cannot load VDDK"),
    ],
)
def test_what_vddk_says_is_told_in_our_words(line: str, kind: type[WaveliftError], words: str) -> None:
    found = explain(["nbdkit: debug: hello", line, "nbdkit: debug: closing"], server="web01")
    assert type(found) is kind
    assert words in str(found)
    assert found.next_step
    assert found.where == {"server": "web01"}


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ("nbdkit: error: cannot open plugin 'nfc': no such file", PermanentError, "--plugin nfc"),
        ("nbdkit: error: nfc: unknown parameter 'thumbprint'", PermanentError, "cannot load its nfc plugin"),
        ("nbdkit: nfc[1]: error: x509: certificate signed by unknown authority", TlsError, ": x509: certificate"),
        ("nbdkit: nfc[1]: error: dial tcp: lookup esx7 on 10.0.0.2:53: no such host", UnreachableError, "resolve"),
        ("nbdkit: nfc[1]: error: dial tcp 10.0.0.7:902: connect: connection refused", UnreachableError, "10.0.0.7:902"),
        ("nbdkit: nfc[1]: error: read tcp 10.0.0.1:4->10.0.0.7:902: i/o timeout", UnreachableError, "902 to every"),
        ("Error reading from vmware-authd socket. Resource temporarily unavailable", LimitReachedError, "sessions"),
        ("received NFC error 5 from server: Failed to allocate the requested 66 bytes", ThrottledError, "NFC buffers"),
        ("ServerFaultCode: Cannot complete login due to an incorrect user name or password.", LoginError, "login"),
        ("ServerFaultCode: Permission to perform this operation was denied.", MissingPrivilegeError, "a right"),
        ("ServerFaultCode: The file is FileLocked", BusyError, "locked"),
        (
            "ServerFaultCode: The object 'vim.VirtualMachineSnapshot:snapshot-7' has already been deleted or has not "
            "been completely created",
            NotFoundError,
            "snapshot",
        ),
    ],
)
def test_what_the_nfc_plugin_passes_on_is_told_in_our_words(line: str, kind: type[WaveliftError], words: str) -> None:
    found = explain(["nbdkit: debug: hello", line], nfc_plugin.MEANINGS, server="web01")
    assert type(found) is kind
    assert words in str(found)
    assert "VDDK" not in str(found)
    assert found.next_step


def test_a_log_without_trouble_explains_nothing() -> None:
    assert explain(["nbdkit: debug: accepted connection"], nfc_plugin.MEANINGS) is None
    assert explain(["nbdkit: debug: accepted connection", "the clock blocked nothing"]) is None


# --- what is set and what is missing --------------------------------------------------------------------------------


def test_the_check_says_what_is_missing(vddk: VddkStandIn, tmp_path: Path) -> None:
    assert [each.ok for each in check_vddk(vddk.config())] == [True, True, True]
    (missing,) = check_vddk(vddk.config(nbdkit=str(tmp_path / "none")))
    assert "Install nbdkit" in missing.next_step
    _, empty = check_vddk(vddk.config(folder=str(tmp_path)))
    assert "libvixDiskLib" in empty.what
    *_, config = check_vddk(vddk.config(config_file=str(tmp_path / "none.conf")))
    assert not config.ok
    nfc = vddk.config(plugin="nfc", folder=str(tmp_path))
    assert [each.ok for each in nbdkit.check(nfc)] == [True, False]
    (tmp_path / "nbdkit-nfc-plugin.so").touch()
    assert [each.ok for each in nbdkit.check(nfc)] == [True, True]
    no_plugin = list(nbdkit.check(VddkConfig(plugin="nfc")))
    assert [each.ok for each in no_plugin] == [True, False]
    assert "nbdkit_folder" in no_plugin[-1].next_step
    debian = list(check_vddk(vddk.config(nbdkit="nbdkit")))
    assert [each.ok for each in debian] == [True, True, False]
    assert "Debian" in debian[-1].next_step


def test_the_command_prints_the_check(vddk: VddkStandIn, tmp_path: Path) -> None:
    runner = CliRunner()
    good = runner.invoke(
        app, ["vsphere", "vddk", str(vddk.folder / "distrib"), "--nbdkit", str(vddk.folder / "nbdkit")]
    )
    assert good.exit_code == 0, good.output
    assert "missing" not in good.output
    bad = runner.invoke(app, ["vsphere", "vddk", str(tmp_path)])
    assert bad.exit_code == 1
    assert "missing" in bad.output
    assert "libvixDiskLib" in bad.output
    assert runner.invoke(app, ["vsphere", "vddk", "here"]).exit_code == 1
    nfc = runner.invoke(app, ["vsphere", "vddk", str(tmp_path), "--plugin", "nfc"])
    assert (nfc.exit_code, "nbdkit-nfc-plugin.so" in nfc.output) == (1, True)
    assert runner.invoke(app, ["vsphere", "vddk", str(tmp_path), "--plugin", "sh"]).exit_code == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"folder": "here"},
        {"folder": ""},
        {"folder": "here", "plugin": "nfc"},
        {"plugin": "sh"},
        {"plugin": "VDDK"},
        {"compression": "best"},
        {"transports": ("usb",)},
        {"transports": ()},
        {"connections": 0},
        {"host_sessions": 0, "plugin": "nfc"},
    ],
)
def test_settings_that_cannot_be(changes: dict[str, Any]) -> None:
    with pytest.raises(SpecError) as refused:
        VddkConfig(**{"folder": "/opt/vddk", **changes})
    assert refused.value.next_step


def test_vddk_s_own_settings_are_not_looked_at_with_the_nfc_plugin() -> None:
    assert VddkConfig(plugin="nfc", compression="best", transports=("usb",)).folder == "", "nbdkit's own folder"
