"""A vCenter that is not what it seems: whatever it answers is an error of ours, in bounded memory."""

from __future__ import annotations

import gzip
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from pyVmomi import vim, vmodl
from tests.hostile import CLEVER
from tests.vcenters import Take

from wavelift.adapters.vsphere import properties, soap, tracking
from wavelift.adapters.vsphere.datastore import NotServed
from wavelift.adapters.vsphere.devices import FrozenVm
from wavelift.adapters.vsphere.faults import TrackingLostError
from wavelift.adapters.vsphere.inventory import facts, list_summaries
from wavelift.adapters.vsphere.lease import ExportLease
from wavelift.adapters.vsphere.nbdkit import Nbdkit, VddkRoute, arguments
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession, connect
from wavelift.adapters.vsphere.snapshots import ensure_snapshot, remove_snapshot, snapshot_disks
from wavelift.adapters.vsphere.tagging import vm_tags
from wavelift.adapters.vsphere.vddk import VddkConfig
from wavelift.base.domain import DiskFacts
from wavelift.base.errors import GuardError, UnreachableError, UnsafeTextError, WaveliftError
from wavelift.base.names import snapshot_name
from wavelift.base.net import ignoring_context
from wavelift.base.run import CancelFlag
from wavelift.base.units import MIB
from wavelift.simulators.vcenter import SimDisk, SimVm, VCenterSimulator

pytestmark = pytest.mark.wire

Configure = Callable[..., VsphereConfig]
LIMIT = MIB
"""In place of the real limit, so that a test moves little."""

_ENVELOPE = (
    '<?xml version="1.0"?><soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/" '
    'xmlns:xsd="http://www.w3.org/2001/XMLSchema" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
    "<soapenv:Body>{}</soapenv:Body></soapenv:Envelope>"
)


def soap_body(content: str) -> bytes:
    return _ENVELOPE.format(content).encode()


def named(text: str) -> bytes:
    """The answer when the name of a VM was asked for."""
    value = f'<propSet><name>name</name><val xsi:type="xsd:string">{text}</val></propSet>'
    found = f'<objects><obj type="VirtualMachine">vm-1</obj>{value}</objects>'
    return soap_body(
        f'<RetrievePropertiesExResponse xmlns="urn:vim25"><returnval>{found}</returnval></RetrievePropertiesExResponse>'
    )


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    lines = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(body)}", *headers))
    return f"HTTP/1.1 {status}\r\nContent-Type: text/xml\r\n{lines}\r\n".encode() + body


class Liar:
    """Answers every request with the same bytes, over TLS; ``endless`` is sent after them for as long as it is read."""

    def __init__(self, folder: Path) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "liar")])
        builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        now, day = datetime.now(UTC), timedelta(days=1)
        certificate = builder.not_valid_before(now - day).not_valid_after(now + day).sign(key, hashes.SHA256())
        file = folder / "liar.pem"
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(file)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.answer = b""
        self.endless = b""
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            peer.settimeout(60)
            with suppress(OSError), self._context.wrap_socket(peer, server_side=True) as secure:
                self._serve(secure)

    def _serve(self, secure: ssl.SSLSocket) -> None:
        while request := self._request(secure):
            self.requests.append(request)
            secure.sendall(self.answer)
            while self.endless:
                secure.sendall(self.endless)

    @staticmethod
    def _request(secure: ssl.SSLSocket) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            if not (piece := secure.recv(65536)):
                return b""
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        while len(body) < length:
            body += secure.recv(65536)
        return head + b"\r\n\r\n" + body

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Liar]:
    server = Liar(tmp_path)
    yield server
    server.close()


@pytest.fixture
def session(liar: Liar, monkeypatch: pytest.MonkeyPatch) -> Iterator[VsphereSession]:
    """As after a login; nothing is asked by itself."""
    monkeypatch.setattr(soap, "ANSWER_LIMIT", LIMIT)
    made = VsphereSession(
        VsphereConfig(host="127.0.0.1", port=liar.port, username="me", password="geheim", timeout=20),
        ignoring_context(),
    )
    made._stub = made._make_stub("vim.version.version9", timeout=20)
    made.content = SimpleNamespace(propertyCollector=vmodl.query.PropertyCollector("collector", made._stub))
    yield made
    made._stub.DropConnections()


def name_of(session: VsphereSession) -> str:
    return str(properties.read_one(session, vim.VirtualMachine, "vm-1", ["name"])["name"])


def test_an_ordinary_answer_is_read_packed_or_not_over_one_connection(liar: Liar, session: VsphereSession) -> None:
    liar.answer = answer(named("web01"))
    assert name_of(session) == "web01"
    liar.answer = answer(gzip.compress(named("web02")), "Content-Encoding: gzip")
    assert [name_of(session), name_of(session)] == ["web02", "web02"]
    assert len(session._stub.pool) == 1


def test_names_are_printable_and_short_from_the_start(liar: Liar, session: VsphereSession) -> None:
    liar.answer = answer(named("web01&#10;2026-12-01 ERROR \u202eexe"))
    assert name_of(session) == r"web01\n2026-12-01 ERROR \u202eexe"
    liar.answer = answer(named("x" * 80_000))
    assert len(name_of(session)) == 250


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def test_an_answer_without_an_end_is_given_up(liar: Liar, session: VsphereSession) -> None:
    liar.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(named("web01")[:-200])
    liar.endless = chunk(b"x" * 65536)
    with pytest.raises(UnreachableError, match=f"more than {LIMIT} bytes"):
        name_of(session)


def test_bytes_without_an_end_behind_an_answer_are_given_up(liar: Liar, session: VsphereSession) -> None:
    """pyvmomi reads what is left of an answer after it understood it."""
    liar.answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk(named("web01"))
    liar.endless = chunk(b" " * 65536)
    with pytest.raises(UnreachableError):
        name_of(session)


def test_a_small_answer_that_unpacks_to_a_large_one_is_given_up(liar: Liar, session: VsphereSession) -> None:
    packed = gzip.compress(named("x" * 16 * MIB))
    assert len(packed) < MIB
    liar.answer = answer(packed, "Content-Encoding: gzip")
    with pytest.raises(UnreachableError, match=f"more than {LIMIT} bytes"):
        name_of(session)


@pytest.mark.parametrize(
    "bad",
    [
        answer(b""),
        answer(b"<html>"),
        answer(b"not packed", "Content-Encoding: gzip"),
        answer(gzip.compress(named("a"))[:-20], "Content-Encoding: gzip"),
        answer(gzip.compress(named("a")) + b"more", "Content-Encoding: gzip"),
        answer(soap_body("<a/>")),
        answer(soap_body("<a/>"), status="500 Error"),
        answer(soap_body("<soapenv:Fault><detail/></soapenv:Fault>"), status="500 Error"),
        answer(
            named(
                '</val></propSet><propSet><name>a</name><val xsi:type="xsd:int">x</val></propSet><propSet>'
                "<name>b</name><val>"
            )
        ),
        answer(
            named(
                '</val></propSet><propSet><name>a</name><val xsi:type="xsd:int">'
                + "9" * 5000
                + "</val></propSet><propSet><name>b</name><val>"
            )
        ),
        answer(
            named(
                '</val></propSet><propSet><name>a</name><val xsi:type="NoSuchType">1</val></propSet><propSet>'
                "<name>b</name><val>"
            )
        ),
        answer(b'<!DOCTYPE x [<!ENTITY a "' + b"a" * 1000 + b'"><!ENTITY b "' + b"&a;" * 5000 + b'">]><x>&b;&b;</x>'),
        answer('<!DOCTYPE x [<!ENTITY a "b">]><x>&a;</x>'.encode("utf-16")),
        answer(b'<!DOCTYPE x [<!ENTITY a SYSTEM "file:///etc/passwd">]><x>&a;</x>'),
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n",
        b"\x00\xff\r\n" * 100,
    ],
    ids=lambda bad: str(bad[:60]),
)
def test_an_answer_of_another_form_is_an_error_of_ours(liar: Liar, session: VsphereSession, bad: bytes) -> None:
    liar.answer = bad
    with pytest.raises(WaveliftError) as told:
        name_of(session)
    assert "geheim" not in str(told.value)
    assert "root:" not in str(told.value)


def test_a_deep_answer_is_an_error_of_ours_or_read(liar: Liar, session: VsphereSession) -> None:
    liar.answer = answer(soap_body("<a>" * 50_000 + "</a>" * 50_000))
    with pytest.raises(WaveliftError):
        name_of(session)


@pytest.mark.parametrize(
    "cookie", ["vmware_soap_session=a\r\n b", "vmware_soap_session=a\r\n\tX-Evil: 1", "s=\xe9\x01"]
)
def test_a_cookie_is_sent_back_whole_or_not_at_all(liar: Liar, session: VsphereSession, cookie: str) -> None:
    liar.answer = answer(named("web01"), f"Set-Cookie: {cookie}")
    with suppress(WaveliftError):
        name_of(session)
        name_of(session)
    for request in liar.requests:
        head = request.partition(b"\r\n\r\n")[0]
        assert b"x-evil" not in [line.partition(b":")[0].strip().lower() for line in head.split(b"\r\n")]
    try:
        kept = session.cookie
    except UnsafeTextError:
        return
    assert kept.isprintable()


@pytest.mark.parametrize(
    "said",
    ['{"value": 1}', '{"value": [{}]}', '{"value": ["a"]}', '{"value": {"a": "\\ud800"}}', "[]", '{"value": "a"}'],
)
def test_tags_of_another_form_are_an_error_of_ours(liar: Liar, session: VsphereSession, said: str) -> None:
    liar.answer = answer(said.encode())
    with suppress(WaveliftError):
        assert vm_tags(session) == {}


def test_a_change_map_that_never_covers_the_disk_is_a_doubt(
    session: VsphereSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "MOST_ANSWERS", 20)
    monkeypatch.setattr(
        tracking,
        "_ask",
        lambda _session, _frozen, _disk, at, _id: SimpleNamespace(startOffset=at, length=1, changedArea=()),
    )
    disk = DiskFacts(
        key=2000, label="", capacity=1 << 62, controller="SCSI", controller_class="", bus=0, unit=0, backing=""
    )
    with pytest.raises(TrackingLostError, match="20 answers"):
        tracking.changed_areas(session, FrozenVm("vm-1", "s-1", "web01"), disk, change_id="52/1", cancel=CancelFlag())


# --- the lease ------------------------------------------------------------------------------------------------------


@pytest.fixture
def export(
    start_vc: Take, config_of: Configure, tmp_path: Path
) -> Iterator[tuple[VCenterSimulator, ExportLease, DiskFacts]]:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(MIB))
    sim = start_vc([SimVm("web01", [SimDisk(raw)])])
    name = snapshot_name("demo.migrate/run-1/hostile")
    with connect(config_of(sim)) as session:
        (vm,) = list_summaries(session)
        ref = ensure_snapshot(session, vm.moref, name, "", quiesce="never", cancel=CancelFlag())
        disks = snapshot_disks(session, ref.moref, server="web01")
        lease = ExportLease(session, FrozenVm(ref.vm, ref.moref, ref.server), disks, cancel=CancelFlag())
        lease.__enter__()
        yield sim, lease, disks[0]
        lease.abort()
        remove_snapshot(session, vm.moref, name, cancel=CancelFlag())


def point_to(lease: ExportLease, url: str) -> None:
    for one in lease._urls.values():
        one.url = url


@pytest.mark.parametrize("host", ["localhost", "127.0.0.99", "elsewhere.example"])
def test_a_lease_leads_to_no_machine_but_the_host_of_the_vm(
    export: tuple[VCenterSimulator, ExportLease, DiskFacts], liar: Liar, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """Even if its certificate is the one that vCenter told, and vCenter itself is as near as this one."""
    _, lease, disk = export
    if host == "elsewhere.example":
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda name, *a, **k: real("127.0.0.1" if name == host else name, *a, **k)
        )
    point_to(lease, f"https://{host}:{liar.port}/latest/meta-data/")
    with pytest.raises(GuardError, match="leads to"):
        lease.open(disk)
    assert liar.requests == []


@pytest.mark.parametrize(
    "url", [f"https://*/{text}" for text in CLEVER] + ["http://*/nfc/1", "gopher://*/1", "https://*:99999/1"]
)
def test_a_leases_url_with_more_than_an_address_is_not_asked(
    export: tuple[VCenterSimulator, ExportLease, DiskFacts], url: str
) -> None:
    sim, lease, disk = export
    point_to(lease, url)
    with pytest.raises(WaveliftError):
        lease.open(disk).readinto(bytearray(10))
    assert sim.alive()


def test_facts_of_a_vm_are_printable_whatever_its_owner_named_it(
    start_vc: Take, config_of: Configure, tmp_path: Path
) -> None:
    raw = tmp_path / "disk.raw"
    raw.write_bytes(bytes(MIB))
    evil = "web\x85\u202e01 [red]\u200b"
    sim = start_vc([SimVm(evil, [SimDisk(raw)])])
    with connect(config_of(sim)) as session:
        (vm,) = list_summaries(session)
        (told,) = facts(session, [vm.moref])
    assert vm.name == told.name == r"web\x85\u202e01 [red]\u200b"
    assert told.model_dump_json().isprintable()


@pytest.mark.parametrize("bad", ["[ds] a\n.vmdk", "[ds] a\x00.vmdk", "[ds] \x1b[2J.vmdk"])
@pytest.mark.parametrize("field", ["file", "vm", "snapshot"])
def test_nbdkit_gets_no_argument_with_control_characters(field: str, bad: str) -> None:
    """A NUL would be a ValueError of the subprocess module."""
    config = VsphereConfig(host="vc", username="me", password="geheim", vddk=VddkConfig(folder="/opt/vddk"))
    route = VddkRoute("vm-1", "snapshot-1", "web01", "SCSI 0:0", "[ds] a.vmdk", MIB, "host-1", "AA:BB")
    assert "file=[ds] a.vmdk" in arguments(config, route)
    changes: dict[str, Any] = {field: bad}
    with pytest.raises(UnsafeTextError, match="what vCenter told of the disk"):
        arguments(config, replace(route, **changes))


def test_what_nbdkit_and_vcenter_say_of_a_disk_is_printable(tmp_path: Path) -> None:
    assert NotServed("the disk's file is now [ds] a\n2026 ERROR\x1b[2J").reason.isprintable()
    program = tmp_path / "nbdkit"
    program.write_text("#!/bin/sh\nprintf 'nbdkit: error: \\033[2Jgeheim\\r evil\\n' >&2; exit 1\n")
    program.chmod(0o700)
    nbdkit = Nbdkit([str(program)], "geheim", server="web01")
    try:
        with pytest.raises(UnreachableError, match="evil") as told:
            nbdkit.wait_ready(CancelFlag())
    finally:
        nbdkit.close()
    assert str(told.value).isprintable()
    assert "geheim" not in str(told.value)
