from __future__ import annotations

import base64
import hashlib
import socket
import ssl
from dataclasses import replace

import pytest

from wavelift.adapters.vsphere.hosts import HostFacts, _host, probe
from wavelift.adapters.vsphere.session import VsphereConfig
from wavelift.base import net
from wavelift.base.errors import GuardError, NotFoundError, SpecError, TlsError, WaveliftError
from wavelift.base.net import (
    candidates,
    parse_thumbprint,
    pin,
    pinned_context,
    qualify,
    thumbprint_matches,
    tls_error,
    unreachable,
    verifying_context,
)
from wavelift.base.tunnel import Proxy

pytestmark = pytest.mark.unit

DER = b"not parsed, only hashed"


@pytest.mark.parametrize("name", ["sha1", "sha256"])
def test_amp_12_a_pin_is_sha1_or_sha256_with_or_without_colons(name: str) -> None:
    digits = hashlib.new(name, DER).hexdigest()
    colons = ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()
    assert thumbprint_matches(DER, digits)
    assert thumbprint_matches(DER, colons)
    assert not thumbprint_matches(DER + b"!", colons)


@pytest.mark.parametrize("text", ["", "abc", "zz" * 20, "aa" * 16, "aa" * 64])
def test_a_pin_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(SpecError, match="not a certificate thumbprint"):
        parse_thumbprint(text)


def test_sms_15_proxy_login_is_decoded_and_never_shown() -> None:
    proxy = Proxy.parse("http://me:p%40ss@proxy.example:8080")
    assert (proxy.host, proxy.port, proxy.password) == ("proxy.example", 8080, "p@ss")
    assert "p@ss" not in repr(proxy)
    assert proxy.url == "http://proxy.example:8080"
    assert base64.b64decode(proxy.headers["Proxy-Authorization"].split()[1]) == b"me:p@ss"
    assert Proxy.parse("proxy").port == 3128
    assert Proxy.parse("proxy").headers == {}


@pytest.mark.parametrize("url", ["socks5://u:geheim@p:1", "http://:geheim@:9", "http://u:geheim@p:notaport"])
def test_a_wrong_proxy_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(SpecError) as refusal:
        Proxy.parse(url)
    assert "geheim" not in str(refusal.value)


def test_sms_15_suffixes_serve_short_names_only() -> None:
    suffixes = ("a.example", ".b.example")
    assert list(candidates("esx1", suffixes)) == ["esx1.a.example", "esx1.b.example", "esx1"]
    assert list(candidates("esx1.c.example", suffixes)) == ["esx1.c.example"]
    assert list(candidates("10.0.0.1", suffixes)) == ["10.0.0.1"]
    assert list(candidates("::1", suffixes)) == ["::1"]


def test_amp_11_an_unknown_short_name_suggests_the_suffix() -> None:
    assert qualify("esx1", ("a", "b.example"), {"esx1.b.example"}.__contains__) == "esx1.b.example"
    assert qualify("10.0.0.1", (), lambda name: False) == "10.0.0.1"
    with pytest.raises(NotFoundError, match="DNS search suffix") as short:
        qualify("esx1", ("a",), lambda name: False)
    assert short.value.where["tried"] == "esx1.a, esx1"
    with pytest.raises(NotFoundError) as long:
        qualify("esx1.example", (), lambda name: False)
    assert "suffix" not in str(long.value)


def test_a_missing_bundle_is_a_mistake_in_the_connection() -> None:
    with pytest.raises(SpecError, match="cannot be read"):
        verifying_context("/nowhere/ca.pem")


def test_verification_is_on_and_not_stricter_than_vmwares_own_authority() -> None:
    context = verifying_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert not context.verify_flags & ssl.VERIFY_X509_STRICT


def test_inv_13_a_presented_certificate_that_cannot_be_read_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(net, "fetch_certificate", lambda host, port, **_: DER)
    with pytest.raises(TlsError, match="not the pinned one: unreadable") as told:
        pin("esxi01", 443, ["AA" * 20], timeout=1, override="esxi_mode")
    assert hashlib.sha256(DER).hexdigest()[:2].upper() in told.value.what


def test_a_pin_does_not_fall_back_to_trusting_anybody() -> None:
    with pytest.raises(ssl.SSLError):
        pinned_context(DER)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (10, "has expired"),
        (9, "not valid yet"),
        (62, "another host name"),
        (64, "another host name"),
        (18, "authority"),
    ],
)
def test_sms_16_each_refusal_is_named(code: int, words: str) -> None:
    error = ssl.SSLCertVerificationError("refused")
    error.verify_code = code
    told = tls_error(error, "vc.example", 443, None, override="certificate_mode")
    assert words in str(told)
    assert "certificate_mode" in told.next_step
    assert told.where["host"] == "vc.example:443"
    assert not told.retryable


def test_sockets_errors_are_told_in_words() -> None:
    assert "cannot be resolved" in str(unreachable(socket.gaierror(-2, "x"), "vc", 443))
    assert "does not answer in time" in str(unreachable(TimeoutError(), "vc", 443))
    assert "refuses" in str(unreachable(ConnectionRefusedError(), "vc", 443))
    assert unreachable(ConnectionResetError("reset"), "vc", 443).retryable


@pytest.mark.parametrize(
    ("resolved", "why"),
    [
        ("127.0.0.1", "this machine"),
        ("::1", "this machine"),
        ("0.0.0.0", "this machine"),
        ("169.254.169.254", "link-local"),
        ("::ffff:169.254.169.254", "link-local"),
        ("fe80::1%2", "link-local"),
        ("fd00:ec2::254", "metadata"),
        ("224.0.0.1", "multicast"),
    ],
)
def test_a_vcenter_makes_the_connector_reach_neither_itself_nor_a_metadata_service(
    monkeypatch: pytest.MonkeyPatch, resolved: str, why: str
) -> None:
    names = {"esx1.corp": resolved, "vc.corp": "10.0.0.2"}
    monkeypatch.setattr(socket, "getaddrinfo", lambda name, *_, **__: [(0, 0, 0, "", (names.get(name, name), 0))])
    config = VsphereConfig(host="vc.corp", username="me", password="p")
    with pytest.raises(GuardError, match=why) as told:
        config.esxi_name("esx1.corp")
    assert "esxi_addresses" in told.value.next_step
    reach = probe(config, HostFacts("host-1", "esx1.corp", "8", "1", "connected", False, "", 443))
    assert (reach.reachable, reach.error) == (False, reach.error)
    assert isinstance(reach.error, GuardError)
    # Whoever may edit the connection may say so, and a vCenter on this machine is one of a test.
    assert replace(config, esxi_addresses={"esx1.corp": resolved}).esxi_name("esx1.corp") == "esx1.corp"
    names["vc.corp"] = "127.0.0.1"
    assert config.esxi_name("esx1.corp") == "esx1.corp"
    names["esx1.corp"] = "10.0.0.3"
    names["vc.corp"] = "10.0.0.2"
    assert config.esxi_name("esx1.corp") == "esx1.corp"


@pytest.mark.parametrize("name", ["a..b", "x" * 300, "esx1\r\nHost: evil", "a b", "", "esx1/path", "user@esx1"])
def test_a_host_name_that_is_none_is_an_error_of_ours(name: str) -> None:
    with pytest.raises(WaveliftError):
        VsphereConfig(host="vc.corp", username="me", password="p").esxi_name(name)


@pytest.mark.parametrize(
    ("reported", "port"), [(8443, 8443), (902, 443), (0, 443), (None, 443), (-1, 443), (70_000, 443)]
)
def test_a_host_has_a_port_that_a_socket_takes(reported: int | None, port: int) -> None:
    assert _host("host-1", {"summary.config.port": reported}).port == port
