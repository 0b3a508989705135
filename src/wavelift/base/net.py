"""Helpers for TLS policy, proxies and DNS suffixes, independent of any vendor's client (AMP-12, SMS-15, SMS-16).

Each connection has one :class:`ssl.SSLContext` for all its sockets, so that control calls and downloads follow the same
policy. Clients never choose a context themselves: pyvmomi silently skips verification for loopback addresses.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from http.client import HTTPException, HTTPSConnection
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

from wavelift.base.errors import NotFoundError, SpecError, TlsError, UnknownNameError, UnreachableError, WaveliftError
from wavelift.base.remote_text import host_name
from wavelift.base.tunnel import Proxy, ProxyAway, ProxyRefused, TunnelledConnection, proxy_error

TlsFault = Literal["host name", "expired", "not yet valid", "unknown issuer", "pin", "protocol"]

NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not define. A pinned certificate may be expired."""

CUTS: Final = (ConnectionError, HTTPException, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""Errors of an interrupted connection. A call without side effects may be repeated once."""

_VERIFY_CODES: Final[dict[int, TlsFault]] = {9: "not yet valid", 10: "expired", 62: "host name", 64: "host name"}
"""OpenSSL's X509_V_ERR_* codes (x509_vfy.h). Every other code means that no trusted chain was found."""

_DIGESTS: Final = {40: "sha1", 64: "sha256"}
"""Number of hex digits of a thumbprint → hash algorithm. vCenter reports SHA-1 for its hosts."""


_METADATA: Final = frozenset(map(ip_address, ("fd00:ec2::254", "100.100.100.200", "168.63.129.16")))
"""Metadata services of clouds that are not at a link-local address: of AWS (IPv6), Alibaba and Azure."""

RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""Value for SO_LINGER: on, 0 seconds. Closing the socket then sends a reset."""


def parse_thumbprint(text: str) -> str:
    """``AA:BB:…`` or ``aabb…`` → lower-case hex digits of a SHA-1 or SHA-256 hash.

    :raises SpecError: if it is neither.
    """
    digits = re.sub(r"[\s:]", "", text).lower()
    if len(digits) not in _DIGESTS or not re.fullmatch("[0-9a-f]+", digits):
        raise SpecError(
            f"'{text}' is not a certificate thumbprint",
            next_step="Use the SHA-256 (64 hex digits) or SHA-1 (40) of the certificate, with or without colons",
        )
    return digits


def thumbprint_matches(der: bytes, thumbprint: str) -> bool:
    """Whether the certificate ``der`` has this SHA-1 or SHA-256 thumbprint."""
    digits = parse_thumbprint(thumbprint)
    return hashlib.new(_DIGESTS[len(digits)], der, usedforsecurity=False).hexdigest() == digits


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


@dataclass(frozen=True, slots=True)
class Certificate:
    """The readable content of a certificate."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """DNS names and IP addresses for which it is valid."""
    not_before: datetime
    not_after: datetime
    sha256: str
    sha1: str

    @classmethod
    def parse(cls, der: bytes) -> Certificate:
        """:raises ValueError: if the library can't read it. Certificates of some appliances violate the standard."""
        from cryptography import x509  # slow to import, and needed only for messages

        try:
            certificate = x509.load_der_x509_certificate(der)
            return cls(
                subject=certificate.subject.rfc4514_string(),
                issuer=certificate.issuer.rfc4514_string(),
                names=tuple(
                    str(name.value)
                    for extension in certificate.extensions
                    if isinstance(extension.value, x509.SubjectAlternativeName)
                    for name in extension.value
                ),
                not_before=certificate.not_valid_before_utc,
                not_after=certificate.not_valid_after_utc,
                sha256=_colons(hashlib.sha256(der).hexdigest()),
                sha1=_colons(hashlib.sha1(der, usedforsecurity=False).hexdigest()),
            )
        except (x509.DuplicateExtension, x509.InvalidVersion, x509.UnsupportedGeneralNameType) as error:
            raise ValueError(str(error)) from error

    def __str__(self) -> str:
        names = f", for {', '.join(self.names)}" if self.names else ""
        return (
            f"subject {self.subject or '(empty)'}{names}, issuer {self.issuer or '(empty)'}, "
            f"valid {self.not_before:%Y-%m-%d} to {self.not_after:%Y-%m-%d %H:%M} UTC, SHA-256 {self.sha256}"
        )


def is_private(url: str) -> bool:
    """Whether nobody else can read what is sent to ``url``: it uses TLS, or stays on this machine."""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if parts.scheme == "https":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def https_connection(
    host: str, port: int, context: ssl.SSLContext, *, timeout: float, proxy: Proxy | None = None, address: str = ""
) -> HTTPSConnection:
    """Create a connection, through ``proxy`` if there is one. It is not opened yet. ``timeout`` is in seconds.

    :param address: the address to connect to instead of the name ``host``, for hosts behind NAT or without DNS. The
        certificate must still be for ``host``. With a proxy, the proxy connects to the address and the certificate must
        be for the address.
    :raises UnsafeTextError: ``host`` is no name of a machine. It may come from vCenter.
    """
    host_name(host, "the host")
    if proxy is not None:
        return TunnelledConnection(address or host, port, context, timeout=timeout, proxy=proxy)
    connection = HTTPSConnection(host, port, timeout=timeout, context=context)
    if address:
        # HTTPConnection calls this to open its socket. TLS and the Host header still use the name.
        connection._create_connection = lambda place, *rest: socket.create_connection((address, place[1]), *rest)  # type: ignore[attr-defined]
    return connection


# --- contexts -------------------------------------------------------------------------------------------------------


def verifying_context(ca_bundle: str | None = None) -> ssl.SSLContext:
    """Trusts the system's authorities and those of ``ca_bundle`` (a file or a folder), and checks host names.

    :raises SpecError: if the bundle cannot be read.
    """
    context = ssl.create_default_context()
    # Python 3.13 enables this flag, but certificates of VMware's authority lack extensions that it requires.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # A bundle may contain the server's own certificate instead of that of an authority.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca_bundle:
        path = ca_path(ca_bundle)
        try:
            context.load_verify_locations(**({"capath": str(path)} if path.is_dir() else {"cafile": str(path)}))
        except (OSError, ssl.SSLError) as error:
            raise SpecError(
                f"the CA bundle {ca_bundle} cannot be read: {error}", next_step="Use a file of PEM certificates"
            ) from error
    return context


def ca_path(text: str) -> Path:
    """``text`` as the place of certificates. It comes from a connection: a device or a pipe would be read for ever.

    :raises SpecError: something is there that is neither a file nor a folder.
    """
    path = Path(text)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise SpecError(
            f"the CA bundle {text} is neither a file nor a folder", next_step="Use a file of PEM certificates"
        )
    return path


def pinned_context(der: bytes) -> ssl.SSLContext:
    """Trusts only the certificate ``der``. Its names and dates are not checked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=der)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    return context


def ignoring_context() -> ssl.SSLContext:
    """Trusts every certificate. The caller must log a warning."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def sha1_thumbprint(der: bytes) -> str:
    """SHA-1 thumbprint in the form ``AA:BB:…``, which VMware's tools require."""
    return _colons(hashlib.sha1(der, usedforsecurity=False).hexdigest())


def fetch_certificate(
    host: str,
    port: int,
    *,
    timeout: float,
    proxy: Proxy | None = None,
    context: ssl.SSLContext | None = None,
    address: str = "",
) -> bytes:
    """The certificate (DER) that ``host:port`` presents. No request is sent.

    :param timeout: in seconds.
    :param context: must trust the certificate. None accepts any certificate.
    :raises UnreachableError: no connection.
    :raises TlsError: the port does not use TLS, or ``context`` does not trust the certificate.
    """
    connection = https_connection(
        host, port, context or ignoring_context(), timeout=timeout, proxy=proxy, address=address
    )
    try:
        connection.connect()
        der = connection.sock.getpeercert(binary_form=True)
    except (OSError, HTTPException) as error:
        if isinstance(error, ssl.SSLError) and not isinstance(error, CUTS):
            raise tls_error(error, host, port, None, override="the port") from error
        raise unreachable(error, host, port) from error
    finally:
        connection.close()
    if not der:
        raise TlsError("the server presents no certificate", host=f"{host}:{port}")
    return bytes(der)


def pin(  # noqa: PLR0913 - where and how to connect takes five arguments, as in https_connection
    host: str,
    port: int,
    thumbprints: Sequence[str],
    *,
    timeout: float,
    proxy: Proxy | None = None,
    override: str,
    address: str = "",
) -> ssl.SSLContext:
    """A context that trusts only the certificate that ``host:port`` presents, if its thumbprint is known.

    :param override: the option that accepts another certificate; part of the error text.
    :raises TlsError: it has another thumbprint. :raises UnreachableError: no connection.
    """
    der = fetch_certificate(host, port, timeout=timeout, proxy=proxy, address=address)
    if any(thumbprint_matches(der, known) for known in thumbprints):
        return pinned_context(der)
    raise TlsError(
        f"the certificate of {host}:{port} is not the pinned one: {_told(der)}, SHA-1 {sha1_thumbprint(der)}",
        next_step=f"The connection may be intercepted. If the certificate was renewed, change {override}",
        host=f"{host}:{port}",
        fault="pin",
        pinned=", ".join(thumbprints),
    )


def _told(der: bytes) -> str:
    """A description of a certificate, even if it can't be read."""
    try:
        return str(Certificate.parse(der))
    except ValueError as error:
        return f"unreadable ({error}), SHA-256 {_colons(hashlib.sha256(der).hexdigest())}"


# --- errors ---------------------------------------------------------------------------------------------------------


def causes(error: BaseException) -> Iterator[BaseException]:
    """``error`` and whatever it was made of: botocore keeps that in ``kwargs``, urllib3 in attributes and arguments."""
    waiting, seen = [error], set()
    while waiting:
        each = waiting.pop(0)
        if id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        kwargs = getattr(each, "kwargs", None)
        inner = [each.__cause__, each.__context__, getattr(each, "reason", None), getattr(each, "original_error", None)]
        inner += [kwargs.get("error") if isinstance(kwargs, dict) else None, *each.args]
        waiting += [one for one in inner if isinstance(one, BaseException)]


def tls_fault(error: ssl.SSLError) -> TlsFault:
    """The kind of TLS fault of ``error``."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(getattr(error, "verify_code", 0), "unknown issuer")
    return "protocol"


PKIX: Final = "PKIX path building failed"
"""Java's words for a chain that ends at no trusted authority. Users of the old connectors search for them (SMS-15)."""
PROXY_FIELDS: Final = "the vSphere connection (HTTP proxy, proxy user, proxy password)"

_TLS_WORDS: Final[dict[TlsFault, str]] = {
    "host name": "the certificate of {place} is for another host name",
    "expired": "the certificate of {place} has expired",
    "not yet valid": "the certificate of {place} is not valid yet (compare the clocks)",
    "unknown issuer": f"the certificate of {{place}} was issued by an authority that is not trusted ({PKIX})",
    "protocol": "no TLS connection to {place}",
}
_TLS_CURES: Final[dict[TlsFault, str]] = {
    "host name": "Connect with a name for which the certificate is valid, or set {override}",
    "expired": "Renew the certificate, or set {override}",
    "not yet valid": "Correct the clock (NTP), or set {override}",
    "unknown issuer": "Set the authority's certificate as CA bundle in the connection (ca_bundle: that of vCenter's "
    "authority, or of a proxy that signs TLS anew), or set {override}",
    "protocol": "Check that the port supports TLS 1.2 or newer; otherwise check {override}",
}


def tls_error(error: ssl.SSLError, host: str, port: int, certificate: Certificate | None, *, override: str) -> TlsError:
    """A readable error: the kind of fault, the certificate, and the option that overrides the check (SMS-16)."""
    fault = tls_fault(error)
    place = f"{host}:{port}"
    what = _TLS_WORDS[fault].format(place=place)
    detail = str(certificate) if certificate else (getattr(error, "reason", "") or str(error))
    cure = _TLS_CURES[fault].format(override=override)
    return TlsError(f"{what}: {detail}", next_step=cure, host=place, fault=fault)


def explained_tls_error(  # noqa: PLR0913 - the same
    error: ssl.SSLError,
    host: str,
    port: int,
    *,
    timeout: float,
    proxy: Proxy | None = None,
    override: str,
    address: str = "",
) -> TlsError:
    """:func:`tls_error` with the certificate, which is fetched again for the message."""
    certificate = None
    if isinstance(error, ssl.SSLCertVerificationError):
        try:
            der = fetch_certificate(host, port, timeout=timeout, proxy=proxy, address=address)
            certificate = Certificate.parse(der)
        except (WaveliftError, ValueError):
            certificate = None  # the fault itself is still reported
    return tls_error(error, host, port, certificate, override=override)


def unreachable(error: BaseException, host: str, port: int) -> WaveliftError:
    """A readable error for a socket error: unknown name, refused, timed out or interrupted, or no way through the
    proxy. All but a refused login at the proxy may pass by itself."""
    place = f"{host}:{port}"
    if isinstance(error, ProxyRefused | ProxyAway):
        return proxy_error(error, where=PROXY_FIELDS, host=place)
    if isinstance(error, socket.gaierror):
        kind = UnknownNameError if error.errno == socket.EAI_NONAME else UnreachableError
        return kind(
            f"the name {host} cannot be resolved",
            next_step="Check the name, the DNS server (port 53) and, for short names, the DNS suffixes",
            host=place,
        )
    if isinstance(error, TimeoutError):
        return UnreachableError(f"{place} does not answer in time", next_step="Check routes and firewalls", host=place)
    if isinstance(error, ConnectionRefusedError):
        return UnreachableError(f"{place} refuses the connection", next_step="Check the port and firewalls", host=place)
    words = str(error) or type(error).__name__
    return UnreachableError(f"the connection to {place} failed: {words}", next_step="Check the network", host=place)


def break_off(connection: socket.socket) -> None:
    """Make reads and writes in other threads fail immediately and permanently. The following close sends a reset.

    A normal close only signals that this side sends no more. A sender that is blocked by a full window would then wait
    until the kernel detects the close. For a lease's stream, this took more than a minute, and the host counts the NFC
    session during that time.
    """
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        # Not SSLSocket.shutdown: after it, a read in progress would return undecrypted bytes.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        pass  # the socket was already disconnected


# --- names ----------------------------------------------------------------------------------------------------------


def is_address(host: str) -> bool:
    """Whether ``host`` is an IPv4 or IPv6 address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.strip("[]"))
        except OSError:
            continue
        return True
    return False


def candidates(host: str, suffixes: Sequence[str]) -> Iterator[str]:
    """The names to try for ``host``. A short name is first tried with each DNS suffix, then unchanged (SMS-15)."""
    if "." not in host and not is_address(host):
        for suffix in suffixes:
            yield f"{host}.{suffix.strip('.')}"
    yield host


def _resolves(host: str) -> bool:
    return bool(addresses_of(host))


def addresses_of(host: str) -> frozenset[IPv4Address | IPv6Address]:
    """What the name resolves to on this machine; empty if it does not resolve."""
    try:
        found = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # UnicodeError: a label that is empty or too long
        return frozenset()
    return frozenset(_plain_address(str(entry[4][0])) for entry in found)


def _plain_address(text: str) -> IPv4Address | IPv6Address:
    address = ip_address(text.partition("%")[0])
    return getattr(address, "ipv4_mapped", None) or address


def leads_inside(host: str) -> str:
    """Why no ESXi host is at ``host``: it is this machine itself, or answers only machines beside it. Otherwise empty.

    A vCenter that is not what it seems could use the connector to reach these.
    """
    for address in addresses_of(host):
        if address.is_loopback or address.is_unspecified:
            return f"{address} is this machine itself"
        if address.is_link_local or address in _METADATA:
            return f"{address} is a link-local address or a cloud's metadata service"
        if address.is_multicast:
            return f"{address} is a multicast address"
    return ""


def qualify(host: str, suffixes: Sequence[str], resolves: Callable[[str], bool] = _resolves) -> str:
    """The first of :func:`candidates` that resolves.

    :raises NotFoundError: if none does. For a short name, the message suggests the DNS suffix (AMP-11).
    """
    names = list(candidates(host, suffixes))
    for name in names:
        if is_address(name) or resolves(name):
            return name
    short = "." not in host
    raise NotFoundError(
        f"the name {host} cannot be resolved",
        next_step="Add the DNS search suffix of your hosts to the connection (dns_suffixes), or this host's address "
        "(esxi_addresses)"
        if short
        else "Check the DNS server (port 53) that the connector uses, or set an ESXi host's address in the connection "
        "(esxi_addresses)",
        tried=", ".join(names),
    )
