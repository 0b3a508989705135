"""TLS policy, proxy and DNS-suffix helpers, free of any vendor's client (AMP-12, SMS-15, SMS-16).

One :class:`ssl.SSLContext` is made per connection and used for every socket of it, so that control calls and downloads
obey one policy. Clients that choose a context themselves are never left to it: pyvmomi silently skips verification
for loopback addresses.
"""

from __future__ import annotations

import base64
import hashlib
import re
import socket
import ssl
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from wavelift.base.errors import NotFoundError, SpecError, TlsError, UnreachableError

TlsFault = Literal["host name", "expired", "not yet valid", "unknown issuer", "pin", "protocol"]

NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which the ssl module does not name: a pin outlives the certificate's dates."""

CUTS: Final = (ConnectionError, HTTPException, ssl.SSLEOFError, ssl.SSLZeroReturnError)
"""The other side went away in the middle; a call without effect may be repeated once."""

_VERIFY_CODES: Final[dict[int, TlsFault]] = {9: "not yet valid", 10: "expired", 62: "host name", 64: "host name"}
"""OpenSSL's X509_V_ERR_* (x509_vfy.h); every other code means that no trusted chain was found."""

_DIGESTS: Final = {40: "sha1", 64: "sha256"}
"""Hex digits of a thumbprint → its hash. vCenter reports SHA-1 for its hosts."""


RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""SO_LINGER: on, for 0 seconds."""


def parse_thumbprint(text: str) -> str:
    """``AA:BB:…`` or ``aabb…`` → lower-case hex digits of a SHA-1 or SHA-256 hash.

    :raises SpecError: when it is neither.
    """
    digits = re.sub(r"[\s:]", "", text).lower()
    if len(digits) not in _DIGESTS or not re.fullmatch("[0-9a-f]+", digits):
        raise SpecError(
            f"'{text}' is not a certificate thumbprint",
            next_step="Give the SHA-256 (64 hex digits) or SHA-1 (40) of the certificate, with or without colons",
        )
    return digits


def thumbprint_matches(der: bytes, thumbprint: str) -> bool:
    """True when the certificate ``der`` has this SHA-1 or SHA-256 thumbprint."""
    digits = parse_thumbprint(thumbprint)
    return hashlib.new(_DIGESTS[len(digits)], der, usedforsecurity=False).hexdigest() == digits


def _colons(digits: str) -> str:
    return ":".join(digits[at : at + 2] for at in range(0, len(digits), 2)).upper()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A presented certificate in words."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """DNS names and IP addresses that it speaks for."""
    not_before: datetime
    not_after: datetime
    sha256: str
    sha1: str

    @classmethod
    def parse(cls, der: bytes) -> Certificate:
        """:raises ValueError: the library can't read it; appliances present certificates that break the rules."""
        from cryptography import x509  # dear to import, and needed only to explain

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


@dataclass(frozen=True, slots=True)
class Proxy:
    """An HTTP proxy with optional password login (the only kind, SMS-17)."""

    host: str
    port: int
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str, *, default_port: int = 3128) -> Proxy:
        """``http://user:password@proxy:3128`` → proxy.

        :raises SpecError: without repeating the text, which may hold a password.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        if parts.scheme != "http" or not host:
            raise SpecError("the proxy is not of the form http://[user:password@]host:port")
        return cls(host, port or default_port, unquote(parts.username or ""), unquote(parts.password or ""))

    @property
    def url(self) -> str:
        """Without the login."""
        return f"http://{_bracketed(self.host)}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        if not self.username:
            return {}
        login = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {login}"}


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def https_connection(
    host: str, port: int, context: ssl.SSLContext, *, timeout: float, proxy: Proxy | None = None, address: str = ""
) -> HTTPSConnection:
    """A connection, not yet opened, that goes through ``proxy`` if there is one; ``timeout`` in seconds.

    :param address: where ``host`` is reached from here, if not by its name: behind NAT, or without DNS. The certificate
        must still be for ``host``, but through a proxy, which is asked for the address.
    """
    if proxy is not None:
        connection = HTTPSConnection(proxy.host, proxy.port, timeout=timeout, context=context)
        connection.set_tunnel(address or host, port, proxy.headers)
        return connection
    connection = HTTPSConnection(host, port, timeout=timeout, context=context)
    if address:
        # What HTTPConnection calls to open its socket; the name goes on to TLS and into the Host header.
        connection._create_connection = lambda place, *rest: socket.create_connection((address, place[1]), *rest)  # type: ignore[attr-defined]
    return connection


# --- contexts -------------------------------------------------------------------------------------------------------


def verifying_context(ca_bundle: str | None = None) -> ssl.SSLContext:
    """The system's authorities plus those of ``ca_bundle`` (a file or a folder), host names checked.

    :raises SpecError: when the bundle cannot be read.
    """
    context = ssl.create_default_context()
    # Python 3.13 turns this on; VMware's own authority leaves out extensions that it demands.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    # A bundle may hold the server's own certificate instead of an authority's.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    if ca_bundle:
        path = Path(ca_bundle)
        try:
            context.load_verify_locations(**({"capath": str(path)} if path.is_dir() else {"cafile": str(path)}))
        except (OSError, ssl.SSLError) as error:
            raise SpecError(
                f"the CA bundle {ca_bundle} cannot be read: {error}", next_step="Give a file of PEM certificates"
            ) from error
    return context


def pinned_context(der: bytes) -> ssl.SSLContext:
    """Trusts exactly the certificate ``der``, whatever its names and dates."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=der)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | NO_CHECK_TIME
    return context


def ignoring_context() -> ssl.SSLContext:
    """Trusts anybody. Who uses it logs so, loudly."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def sha1_thumbprint(der: bytes) -> str:
    """``AA:BB:…``, as VMware's tools want it."""
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
    """The certificate (DER) that ``host:port`` presents; nothing is sent to it.

    :param timeout: seconds. :param context: what it must satisfy; None takes any.
    :raises UnreachableError: no connection. :raises TlsError: no TLS there, or not one that ``context`` trusts.
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


def pin(
    host: str,
    port: int,
    thumbprints: Sequence[str],
    *,
    timeout: float,
    proxy: Proxy | None = None,
    override: str,
    address: str = "",
) -> ssl.SSLContext:
    """A context that trusts exactly the certificate that ``host:port`` presents, if its thumbprint is a known one.

    :param override: what to set to accept another certificate; part of the error.
    :raises TlsError: it has another thumbprint. :raises UnreachableError: no connection.
    """
    der = fetch_certificate(host, port, timeout=timeout, proxy=proxy, address=address)
    if any(thumbprint_matches(der, known) for known in thumbprints):
        return pinned_context(der)
    raise TlsError(
        f"the certificate of {host}:{port} is not the pinned one: {_told(der)}, SHA-1 {sha1_thumbprint(der)}",
        next_step=f"Someone may be in between. If the certificate was renewed, change {override}",
        host=f"{host}:{port}",
        fault="pin",
        pinned=", ".join(thumbprints),
    )


def _told(der: bytes) -> str:
    """A certificate in words, also one that can't be read."""
    try:
        return str(Certificate.parse(der))
    except ValueError as error:
        return f"unreadable ({error}), SHA-256 {_colons(hashlib.sha256(der).hexdigest())}"


# --- errors ---------------------------------------------------------------------------------------------------------


def tls_fault(error: ssl.SSLError) -> TlsFault:
    """Which kind of refusal ``error`` is."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _VERIFY_CODES.get(error.verify_code, "unknown issuer")
    return "protocol"


_TLS_WORDS: Final[dict[TlsFault, str]] = {
    "host name": "the certificate of {place} is for another host name",
    "expired": "the certificate of {place} has expired",
    "not yet valid": "the certificate of {place} is not valid yet (compare the clocks)",
    "unknown issuer": "the certificate of {place} was issued by an authority that is not trusted",
    "protocol": "no TLS connection to {place}",
}
_TLS_CURES: Final[dict[TlsFault, str]] = {
    "host name": "Connect by a name that it is for, or set {override}",
    "expired": "Renew the certificate, or set {override}",
    "not yet valid": "Set the clock right (NTP), or set {override}",
    "unknown issuer": "Give the authority's certificate as CA bundle, or set {override}",
    "protocol": "Check that the port speaks TLS 1.2 or newer; else look at {override}",
}


def tls_error(error: ssl.SSLError, host: str, port: int, certificate: Certificate | None, *, override: str) -> TlsError:
    """``error`` in words: the kind, the certificate, and the option that overrides it (SMS-16)."""
    fault = tls_fault(error)
    place = f"{host}:{port}"
    what = _TLS_WORDS[fault].format(place=place)
    detail = str(certificate) if certificate else (getattr(error, "reason", "") or str(error))
    cure = _TLS_CURES[fault].format(override=override)
    return TlsError(f"{what}: {detail}", next_step=cure, host=place, fault=fault)


def explained_tls_error(
    error: ssl.SSLError,
    host: str,
    port: int,
    *,
    timeout: float,
    proxy: Proxy | None = None,
    override: str,
    address: str = "",
) -> TlsError:
    """:func:`tls_error` with the certificate, fetched once more for the words."""
    certificate = None
    if isinstance(error, ssl.SSLCertVerificationError):
        try:
            der = fetch_certificate(host, port, timeout=timeout, proxy=proxy, address=address)
            certificate = Certificate.parse(der)
        except (UnreachableError, TlsError, ValueError):
            certificate = None  # the refusal itself is still told
    return tls_error(error, host, port, certificate, override=override)


def unreachable(error: BaseException, host: str, port: int) -> UnreachableError:
    """A socket's error in words: unknown name, refused, timed out or cut."""
    place = f"{host}:{port}"
    if isinstance(error, socket.gaierror):
        return UnreachableError(
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
    """Make whoever reads or writes in another thread fail at once, for good; the close that follows is a reset.

    By a plain close, which says only that nothing more comes from here, a sender that had met a full window waits for
    the kernels to find out: more than a minute (seen of a lease's stream), during which a host counts its NFC session.
    """
    try:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
        # Not SSLSocket's own shutdown: that turns a read under way into one of undecrypted bytes.
        socket.socket.shutdown(connection, socket.SHUT_RDWR)
    except OSError:
        pass  # it was not connected any more


# --- names ----------------------------------------------------------------------------------------------------------


def is_address(host: str) -> bool:
    """True for an IPv4 or IPv6 address."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.strip("[]"))
        except OSError:
            continue
        return True
    return False


def candidates(host: str, suffixes: Sequence[str]) -> Iterator[str]:
    """The names to try for ``host``: a short one with each DNS suffix first, then as it is (SMS-15)."""
    if "." not in host and not is_address(host):
        for suffix in suffixes:
            yield f"{host}.{suffix.strip('.')}"
    yield host


def _resolves(host: str) -> bool:
    try:
        socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return True


def qualify(host: str, suffixes: Sequence[str], resolves: Callable[[str], bool] = _resolves) -> str:
    """The first of :func:`candidates` that resolves.

    :raises NotFoundError: none does; the message suggests the DNS suffix when the name is short (AMP-11).
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
        else "Check the DNS server (port 53) that the connector uses, or give an ESXi host's address in the connection "
        "(esxi_addresses)",
        tried=", ".join(names),
    )
