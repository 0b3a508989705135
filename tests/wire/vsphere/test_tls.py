"""The TLS policy over real sockets: a small TLS server with certificates made here."""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.connect_proxy import ConnectProxy

from wavelift.adapters.vsphere.esxi import esxi_context
from wavelift.adapters.vsphere.hosts import HostFacts, probe
from wavelift.adapters.vsphere.session import VsphereConfig, connect
from wavelift.base.errors import TlsError, UnreachableError
from wavelift.base.net import Certificate, fetch_certificate

pytestmark = pytest.mark.wire

NOW = datetime.now(UTC)
DAY = timedelta(days=1)
LOOPBACK = "127.0.0.1"
"""pyvmomi silently skips verification for this very address unless it is given a context: the harshest place."""


@dataclass(frozen=True)
class Authority:
    name: str
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    file: Path


def _build(subject: str, issuer: str, public: Any, *, start: datetime, end: datetime) -> x509.CertificateBuilder:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _authority(folder: Path, name: str) -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = _build(name, name, key.public_key(), start=NOW - DAY, end=NOW + DAY)
    certificate = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    file = folder / f"{name}.pem"
    file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Authority(name, key, certificate, file)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return _authority(tmp_path, "our-authority")


@pytest.fixture
def other_authority(tmp_path: Path) -> Authority:
    return _authority(tmp_path, "other-authority")


class TlsServer:
    """Answers every request with 503; counts the handshakes that succeeded."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._socket = socket.create_server((LOOPBACK, 0))
        self.port: int = self._socket.getsockname()[1]
        self.requests: list[bytes] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._socket.accept()
            except OSError:
                return
            peer.settimeout(60)
            try:
                with self._context.wrap_socket(peer, server_side=True) as secure:
                    data = secure.recv(65536)
                    if data:
                        self.requests.append(data)
                        secure.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            except OSError:
                peer.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


Serve = Callable[..., TlsServer]


@pytest.fixture
def serve(tmp_path: Path, authority: Authority) -> Iterator[Serve]:
    servers: list[TlsServer] = []

    def start(*, host: str = LOOPBACK, start: datetime = NOW - DAY, end: datetime = NOW + DAY) -> TlsServer:
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        builder = _build(host, authority.name, key.public_key(), start=start, end=end)
        certificate = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False).sign(
            authority.key, hashes.SHA256()
        )
        files = tmp_path / f"{len(servers)}.crt", tmp_path / f"{len(servers)}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        servers.append(TlsServer(*files))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def config(server: TlsServer, **options: Any) -> VsphereConfig:
    return VsphereConfig(host=LOOPBACK, port=server.port, username="u", password="geheim", timeout=60, **options)


def refusal(server: TlsServer, **options: Any) -> TlsError:
    with pytest.raises(TlsError) as caught:
        connect(config(server, **options))
    assert not server.requests, "something was sent over a connection that is not trusted"
    assert caught.value.where["host"] == f"{LOOPBACK}:{server.port}"
    return caught.value


def thumbprint(server: TlsServer, kind: str = "sha256") -> str:
    text: str = getattr(Certificate.parse(fetch_certificate(LOOPBACK, server.port, timeout=60)), kind)
    return text


def reaches_http(server: TlsServer, **options: Any) -> None:
    """TLS was accepted: the refusal that follows is HTTP's."""
    with pytest.raises(UnreachableError, match="503"):
        connect(config(server, **options))
    assert server.requests


def test_amp_12_a_trusted_certificate_is_accepted(serve: Serve, authority: Authority) -> None:
    reaches_http(serve(), ca_bundle=str(authority.file))


def test_sms_16_an_unknown_issuer_is_named_also_on_loopback(serve: Serve, other_authority: Authority) -> None:
    server = serve()
    for options in ({}, {"ca_bundle": str(other_authority.file)}):
        told = refusal(server, **options)
        assert told.where["fault"] == "unknown issuer"
        assert "CN=our-authority" in str(told)
        assert thumbprint(server) in str(told)
        assert "CA bundle" in told.next_step


def test_sms_16_a_wrong_host_name_is_named(serve: Serve, authority: Authority) -> None:
    told = refusal(serve(host="vc.example"), ca_bundle=str(authority.file))
    assert told.where["fault"] == "host name"
    assert "for vc.example" in str(told)
    assert "certificate_mode" in told.next_step


def test_sms_16_expiry_is_named_with_its_date(serve: Serve, authority: Authority) -> None:
    server = serve(start=NOW - 9 * DAY, end=NOW - 2 * DAY)
    told = refusal(server, ca_bundle=str(authority.file))
    assert told.where["fault"] == "expired"
    assert f"{NOW - 2 * DAY:%Y-%m-%d}" in str(told)


def test_sms_16_a_certificate_of_tomorrow_speaks_of_the_clock(serve: Serve, authority: Authority) -> None:
    told = refusal(serve(start=NOW + DAY, end=NOW + 2 * DAY), ca_bundle=str(authority.file))
    assert told.where["fault"] == "not yet valid"
    assert "clock" in str(told)


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_amp_12_a_pin_overrides_name_issuer_and_dates(serve: Serve, kind: str) -> None:
    server = serve(host="vc.example", start=NOW - 9 * DAY, end=NOW - 2 * DAY)
    reaches_http(server, certificate_mode="thumbprint", thumbprint=thumbprint(server, kind))


def test_amp_12_another_certificate_than_the_pinned_one_is_refused(serve: Serve) -> None:
    server, other = serve(), serve()
    told = refusal(server, certificate_mode="thumbprint", thumbprint=thumbprint(other))
    assert told.where["fault"] == "pin"
    assert thumbprint(server) in str(told)


def test_amp_12_ignoring_is_logged_loudly(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        reaches_http(serve(host="vc.example"), certificate_mode="ignore")
    assert "NOT checked" in caplog.text
    assert "geheim" not in caplog.text


def test_no_tls_there_is_told_as_such() -> None:
    with socket.create_server((LOOPBACK, 0)) as plain:
        thread = threading.Thread(target=lambda: plain.accept()[0].sendall(b"HTTP/1.1 400 no TLS here\r\n\r\n"))
        thread.start()
        with pytest.raises(TlsError) as caught:
            connect(VsphereConfig(host=LOOPBACK, port=plain.getsockname()[1], username="u", password="p", timeout=60))
        thread.join()
    assert caught.value.where["fault"] == "protocol"


def test_a_silent_server_ends_in_a_timeout() -> None:
    with socket.create_server((LOOPBACK, 0)) as silent:
        with pytest.raises(UnreachableError, match="in time"):
            connect(VsphereConfig(host=LOOPBACK, port=silent.getsockname()[1], username="u", password="p", timeout=0.3))


# --- ESXi ---------------------------------------------------------------------------------------------------------


def host(port: int, thumbprint: str = "") -> HostFacts:
    return HostFacts("host-1", LOOPBACK, "8.0.3", "1", "connected", False, thumbprint, port)


def test_amp_12_vcenter_vouches_for_its_hosts(serve: Serve) -> None:
    server = serve(host="esx1.example")  # nobody trusts its issuer, and the name is another
    reach = probe(config(server), host(server.port, thumbprint(server, "sha1")), timeout=60)
    assert (reach.reachable, reach.certificate_valid, reach.error) == (True, True, None)


def test_amp_11_a_host_with_another_certificate_than_vcenter_says_is_refused(serve: Serve) -> None:
    server, other = serve(), serve()
    reach = probe(config(server), host(server.port, thumbprint(other, "sha1")), timeout=60)
    assert (reach.reachable, reach.certificate_valid) == (True, False)
    assert isinstance(reach.error, TlsError)
    assert "esxi_mode" in reach.error.next_step


def test_amp_12_without_a_reported_thumbprint_the_authorities_decide(serve: Serve, authority: Authority) -> None:
    server = serve()
    assert not probe(config(server), host(server.port), timeout=60).certificate_valid
    assert probe(config(server, ca_bundle=str(authority.file)), host(server.port), timeout=60).certificate_valid


def test_amp_12_modes_ca_pin_and_ignore(serve: Serve, authority: Authority, caplog: pytest.LogCaptureFixture) -> None:
    server, other = serve(), serve()
    wrong, right = thumbprint(other), thumbprint(server)

    def valid(reported: str, **options: Any) -> bool:
        return probe(config(server, **options), host(server.port, reported), timeout=60).certificate_valid

    assert valid(wrong, esxi_mode="ca", ca_bundle=str(authority.file))
    assert not valid(right, esxi_mode="ca")
    assert valid(wrong, esxi_mode="pin", esxi_thumbprints=(wrong, right))
    assert not valid(right, esxi_mode="pin", esxi_thumbprints=(wrong,))
    assert "NOT checked" not in caplog.text
    assert valid(wrong, esxi_mode="ignore")
    assert "NOT checked" in caplog.text


def test_amp_11_an_unreachable_host_is_a_fact_not_an_exception() -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
    reach = probe(VsphereConfig(host=LOOPBACK, username="u", password="p"), host(port), timeout=60)
    assert (reach.reachable, reach.certificate_valid) == (False, False)
    assert "refuses" in str(reach.error)


def test_amp_11_a_short_name_that_does_not_resolve_hints_at_the_suffix() -> None:
    facts = HostFacts("host-1", "esx1-nowhere", "8.0.3", "1", "connected", False, "", 443)
    settings = VsphereConfig(host="vc", username="u", password="p", dns_suffixes=("invalid",))
    reach = probe(settings, facts, timeout=60)
    assert not reach.reachable
    assert not reach.fully_qualified
    assert "DNS search suffix" in str(reach.error)


def test_one_context_per_host_trusts_only_it(serve: Serve) -> None:
    server, other = serve(), serve()
    context = esxi_context(config(server), LOOPBACK, server.port, (thumbprint(server),), timeout=60)
    with socket.create_connection((LOOPBACK, other.port), timeout=60) as plain:
        with pytest.raises(ssl.SSLCertVerificationError):
            context.wrap_socket(plain, server_hostname=LOOPBACK)


# --- proxy --------------------------------------------------------------------------------------------------------


def test_sms_15_the_proxy_is_used_with_its_login_and_tls_stays_ours(
    serve: Serve, authority: Authority, proxy: ConnectProxy
) -> None:
    server = serve()
    url = f"http://me:geheim@{LOOPBACK}:{proxy.port}"
    reaches_http(server, ca_bundle=str(authority.file), proxy=url)
    assert proxy.heads[0].startswith(f"CONNECT {LOOPBACK}:{server.port}".encode())
    assert b"Proxy-Authorization: Basic bWU6Z2VoZWlt" in proxy.heads[0]
    assert b"Proxy-Authorization" not in server.requests[0]
    refused = serve(host="vc.example")
    assert refusal(refused, ca_bundle=str(authority.file), proxy=url).where["fault"] == "host name"


def test_sms_15_the_environment_s_proxy_is_not_vcenter_s(
    serve: Serve, authority: Authority, proxy: ConnectProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{LOOPBACK}:{proxy.port}")
    monkeypatch.setenv("https_proxy", f"http://{LOOPBACK}:{proxy.port}")
    reaches_http(serve(), ca_bundle=str(authority.file))
    assert proxy.heads == []
