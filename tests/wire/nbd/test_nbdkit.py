"""The NBD client against real servers, nbdkit and qemu-nbd, with nbdcopy and qemu-img as the oracles."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from tests.eventually import eventually

from wavelift.base.errors import NotFoundError, PermanentError, TlsError, UnreachableError, WaveliftError
from wavelift.base.net import verifying_context
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK, KIB, MIB
from wavelift.transfer.file import FileWriter
from wavelift.transfer.manifest import Manifest
from wavelift.transfer.nbd.client import NbdClient
from wavelift.transfer.nbd.link import NbdAddress
from wavelift.transfer.nbd.reader import NbdReader
from wavelift.transfer.pipeline import CopyOptions, copy
from wavelift.transfer.protocols import Extent

from .certificates import Authority
from .conftest import noise, read_all, unused_tcp_port

pytestmark = pytest.mark.wire

SIZE = 6 * MIB
Serve = Callable[..., str]
Make = Callable[..., NbdClient]


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sparse: data, holes and zeros that were written."""
    path = tmp_path_factory.mktemp("disk") / "disk.raw"
    chance = random.Random(4)
    with path.open("wb") as out:
        out.truncate(SIZE)
        for number in range(6):
            out.seek(chance.randrange(SIZE // 4096 - 256) * 4096)
            out.write(noise(chance.randrange(1, 100) * 4096, number + 1))
        out.seek(2 * MIB)
        out.write(bytes(MIB // 2))
    return path


def listening(path: Path) -> bool:
    """Whether somebody accepts connections there; a socket's file is made before that. Asked of the kernel, since
    qemu-nbd serves one client and ends."""
    sockets = (line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:])
    accepting = 1 << 16  # __SO_ACCEPTCON
    return any(each[-1] == str(path) and int(each[3], 16) & accepting for each in sockets)


@pytest.fixture
def serve(socket_folder: Path) -> Iterator[Serve]:
    """Starts a server; gives its socket, or for nbdkit with ``-p`` nothing."""
    running: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> str:
        path = socket_folder / f"{len(running)}.sock"
        program = command[0]
        at = ["-k", str(path)] if program == "qemu-nbd" else ["-f", "-U", str(path)]
        if "-p" in command:
            at = ["-f"]
        running.append(subprocess.Popen([program, *at, *command[1:]], stderr=subprocess.DEVNULL))
        if "-p" not in command:
            assert eventually(lambda: listening(path) or running[-1].poll() is not None)
            assert running[-1].poll() is None
        return str(path)

    yield start
    for process in running:
        process.kill()  # asked to end it would wait for its clients, which are closed later
        process.wait(60)


def _copied(nbd: NbdClient, out: Path) -> Manifest:
    manifest = Manifest.empty(nbd.size)
    writer = FileWriter(out, nbd.size)
    copy(NbdReader(nbd, skip_zeros=True).stream(), writer, manifest, cancel=CancelFlag(), options=CopyOptions(3))
    return manifest


@pytest.mark.parametrize("flags", [(), ("--no-sr",), ("--filter=noextents",), ("--filter=multi-conn", "-t", "1")])
def test_nbdkit_serves_a_file(client: Make, serve: Serve, disk: Path, tmp_path: Path, flags: tuple[str, ...]) -> None:
    path = serve("nbdkit", *flags, "file", str(disk))
    nbd = client(path, connections=4)
    _copied(nbd, tmp_path / "ours")
    subprocess.run(["nbdcopy", f"nbd+unix:///?socket={path}", tmp_path / "theirs"], check=True)
    assert (tmp_path / "ours").read_bytes() == disk.read_bytes() == (tmp_path / "theirs").read_bytes()


def test_qemu_nbd_serves_a_qcow2_with_a_hole_in_its_map(client: Make, serve: Serve, disk: Path, tmp_path: Path) -> None:
    image = tmp_path / "disk.qcow2"
    subprocess.run(["qemu-img", "convert", "-f", "raw", "-O", "qcow2", disk, image], check=True)
    nbd = client(serve("qemu-nbd", "-t", "-e", "4", "-r", "-f", "qcow2", str(image)), connections=4)
    _copied(nbd, tmp_path / "ours")
    assert (tmp_path / "ours").read_bytes() == disk.read_bytes()
    told = json.loads(
        subprocess.run(
            ["qemu-img", "map", "--output=json", "-f", "qcow2", image], check=True, capture_output=True
        ).stdout
    )
    zeros = [(each["start"], each["length"]) for each in _merged(told) if each["zero"]]
    assert [(each.offset, each.length) for each in nbd.allocation() if each.zero] == zeros


def _merged(told: list[dict[str, int]]) -> list[dict[str, int]]:
    joined: list[dict[str, int]] = []
    for each in told:
        if joined and joined[-1]["zero"] == each["zero"]:
            joined[-1]["length"] += each["length"]
        else:
            joined.append(dict(each))
    return joined


def test_a_memory_disk_of_many_gib_is_mapped_without_reading_it(client: Make, serve: Serve) -> None:
    nbd = client(serve("nbdkit", "memory", "9G"))
    assert list(nbd.allocation()) == [Extent(0, 9 << 30, zero=True)]


def test_random_areas_with_latency(client: Make, serve: Serve, disk: Path) -> None:
    nbd = client(serve("nbdkit", "--filter=delay", "file", str(disk), "rdelay=2ms"), connections=2)
    chance = random.Random(9)
    areas = [Extent(chance.randrange(SIZE - 64 * KIB), 64 * KIB) for _ in range(60)]
    content = disk.read_bytes()
    block = bytearray(BLOCK)
    seen = 0
    for piece in NbdReader(nbd, areas=areas).stream().pieces():
        piece.load(memoryview(block))
        seen += 1
        base = piece.index * BLOCK
        for area in areas:
            start, end = max(area.offset, base), min(area.offset + area.length, base + BLOCK)
            assert block[max(0, start - base) : max(0, end - base)] == content[start : max(start, end)]
    assert seen


def test_errors_now_and_then_are_read_over(client: Make, serve: Serve, disk: Path) -> None:
    """One read of twenty fails with EIO; that all five attempts of one of the 96 do happens once in 30,000 runs."""
    nbd = client(serve("nbdkit", "--filter=error", "file", str(disk), "error-pread-rate=5%"))
    buffer = memoryview(bytearray(64 * KIB))
    digest = hashlib.sha256()
    for at in range(0, SIZE, len(buffer)):
        nbd.read_into(at, buffer)
        digest.update(buffer)
    assert digest.digest() == hashlib.sha256(disk.read_bytes()).digest()


def test_errors_that_stay_are_told(client: Make, serve: Serve, disk: Path) -> None:
    nbd = client(serve("nbdkit", "--filter=error", "file", str(disk), "error-pread-rate=100%", "error-pread=EIO"))
    with pytest.raises(WaveliftError, match="EIO"):
        read_all(nbd)


def test_a_slow_server_is_waited_for(client: Make, serve: Serve) -> None:
    nbd = client(serve("nbdkit", "--filter=rate", "pattern", "4M", "rate=64M"), timeout=60.0)
    assert read_all(nbd)[8:16] == (8).to_bytes(8, "big")


def test_a_server_that_is_started_anew_is_met_again(
    client: Make, disk: Path, socket_folder: Path, tmp_path: Path
) -> None:
    path = socket_folder / "again.sock"
    command = ["nbdkit", "-f", "--filter=delay", "-U", str(path), "file", str(disk), "rdelay=5ms"]

    def start() -> subprocess.Popen[bytes]:
        path.unlink(missing_ok=True)
        process = subprocess.Popen(command)
        assert eventually(lambda: listening(path))
        return process

    first = start()
    nbd = client(str(path))
    half = SIZE // 2
    content = bytearray(SIZE)
    nbd.read_into(0, memoryview(content)[:half])
    first.kill()
    first.wait(60)
    second = start()
    try:
        nbd.read_into(half, memoryview(content)[half:])
    finally:
        second.kill()
        second.wait(60)
    assert content == disk.read_bytes()


# --- TLS ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("pki"))


def _tls(authority: Authority, *, certificate: bool = True, name: str = "localhost") -> dict[str, object]:
    context = verifying_context(str(authority.ca))
    if certificate:
        context.load_cert_chain(authority.client, authority.client_key)
    return {"tls": context, "server_name": name}


def test_tls_with_both_certificates(client: Make, serve: Serve, disk: Path, authority: Authority) -> None:
    flags = ["--tls=require", f"--tls-certificates={authority.server_folder}", "--tls-verify-peer"]
    path = serve("nbdkit", *flags, "file", str(disk))
    nbd = client(NbdAddress(unix=path, **_tls(authority)), connections=3)  # type: ignore[arg-type]
    assert read_all(nbd) == disk.read_bytes()
    with pytest.raises((TlsError, UnreachableError)):
        read_all(client(NbdAddress(unix=path, **_tls(authority, certificate=False))))  # type: ignore[arg-type]
    with pytest.raises(TlsError, match="another host name"):
        client(NbdAddress(unix=path, **_tls(authority, name="other.example")))  # type: ignore[arg-type]
    with pytest.raises(PermanentError, match="demands TLS"):
        client(path)


def test_a_server_without_tls_is_refused_when_tls_is_wanted(
    client: Make, serve: Serve, disk: Path, authority: Authority
) -> None:
    path = serve("nbdkit", "file", str(disk))
    with pytest.raises(PermanentError, match=r"does not know the option|refuses|without"):
        client(NbdAddress(unix=path, **_tls(authority)))  # type: ignore[arg-type]


def test_the_authority_is_one(authority: Authority) -> None:
    """What the tests of TLS stand on."""
    found = x509.load_pem_x509_certificate(authority.ca.read_bytes())
    assert found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


# --- exports --------------------------------------------------------------------------------------------------------


def test_exports_over_tcp(client: Make, disk: Path) -> None:
    with serving_tcp(disk.parent) as port:
        assert read_all(client(NbdAddress(host="127.0.0.1", port=port, export="disk.raw"))) == disk.read_bytes()
        with pytest.raises(NotFoundError, match="no such export"):
            client(NbdAddress(host="127.0.0.1", port=port, export="none.raw"))


@contextmanager
def serving_tcp(folder: Path) -> Iterator[int]:
    """nbdkit on a port that was free, which is tried again when another process took it."""
    for _ in range(5):
        port = unused_tcp_port()
        command = ["nbdkit", "-f", "-p", str(port), "-i", "127.0.0.1", "file", f"dir={folder}"]
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            assert eventually(lambda port=port, process=process: process.poll() is not None or _accepts(port))  # type: ignore[misc]
            if process.poll() is None:
                yield port
                return
        finally:
            process.kill()
            process.wait(60)
    pytest.fail("every port was taken")


def _accepts(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=60):
            return True
    except ConnectionRefusedError:
        return False
