"""pyvmomi's stub, made so that it obeys our TLS, proxy and time-out policy.

``pyVim.connect`` is not used: it probes without a time-out, keeps a module-wide session, and skips certificate checks
for loopback addresses.
"""

from __future__ import annotations

import ssl
import zlib
from dataclasses import dataclass
from functools import partial
from http.client import HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from xml.etree import ElementTree

from pyVmomi import SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from wavelift.adapters.vsphere.faults import VENDOR_ERRORS
from wavelift.base.net import https_connection
from wavelift.base.remote_text import header_value
from wavelift.base.tunnel import Proxy
from wavelift.base.units import KIB, MIB

IDLE_S: Final = 30
"""Connections idle for longer are not used again: front ends close them, and a cut mutating call is not repeated."""

FALLBACK_VERSION: Final = "vim.version.version9"
"""API 5.5 (SMS-11's oldest), for a server that lists no versions."""

ANSWER_LIMIT: Final = 256 * MIB
"""Of one call. A page of 500 VMs with all their devices has some 20 MB, the change map of a large disk some 50."""

_PIECE: Final = 64 * KIB
_GZIP_OR_ZLIB: Final = 47
"""zlib's window bits for: either, as the content says."""

_VERSIONS_PATH: Final = "/sdk/vimServiceVersions.xml"
_VERSIONS_LIMIT: Final = 1 << 20
"""Bytes; the real list has a few KB."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where ``https://host:port/sdk`` is, and how it is reached."""

    host: str
    port: int
    context: ssl.SSLContext
    proxy: Proxy | None


class UnreadableAnswer(HTTPException):
    """An answer that pyvmomi cannot make sense of, or that is too large."""


class _Answer(HTTPResponse):
    """Gives an answer's content, decompressed, up to :data:`ANSWER_LIMIT`. pyvmomi would read any length, and unpack a
    small answer to any length."""

    _unpacking: Any = None
    _given = 0
    _tail = b""

    def begin(self) -> None:
        super().begin()
        if self.headers.get("Content-Encoding", "identity").lower() in ("gzip", "deflate"):
            del self.headers["Content-Encoding"]
            self._unpacking = zlib.decompressobj(_GZIP_OR_ZLIB)

    def read(self, amt: int | None = None) -> bytes:
        if amt is None or amt < 0:
            return b"".join(iter(partial(self.read, _PIECE), b""))
        data = super().read(amt) if self._unpacking is None else self._unpacked(amt)
        self._refuse_entities(data)
        self._given += len(data)
        if self._given > ANSWER_LIMIT:
            raise UnreadableAnswer(f"an answer of more than {ANSWER_LIMIT} bytes")
        return data

    def _refuse_entities(self, data: bytes) -> None:
        """A document type could define entities, which make a short text long. SOAP knows none, and is UTF-8."""
        seen = self._tail + data
        if b"<!DOCTYPE" in seen or (not self._given and b"\0" in data[:4]) or data[:2] in (b"\xfe\xff", b"\xff\xfe"):
            raise UnreadableAnswer("an answer that is no SOAP")
        self._tail = seen[-len(b"<!DOCTYPE") :]

    def _unpacked(self, amt: int) -> bytes:
        while not self._unpacking.eof:
            packed = self._unpacking.unconsumed_tail or super().read(_PIECE)
            if not packed:
                raise UnreadableAnswer("a packed answer that is cut off")
            if data := self._unpacking.decompress(packed, max(amt, 1)):
                return bytes(data)
        # To the end of the answer, so that the connection can be used again.
        if self._unpacking.unused_data or super().read(_PIECE):
            raise UnreadableAnswer("bytes after the end of a packed answer")
        return b""


class _Stub(SoapStubAdapter):  # type: ignore[misc]  # pyvmomi has no types
    def InvokeMethod(self, mo: Any, info: Any, args: Any, outerStub: Any = None) -> Any:
        """pyvmomi's, but what it raises of an answer of another form is an error of the network's kind.

        :raises UnreadableAnswer: it is no answer of vSphere.
        :raises UnsafeTextError: vCenter set a cookie that cannot be sent back.
        """
        header_value(self.cookie, "the cookie that vCenter set")
        try:
            return super().InvokeMethod(mo, info, args, outerStub)
        except VENDOR_ERRORS:
            raise
        except Exception as error:
            raise UnreadableAnswer(f"the answer is not vSphere's ({type(error).__name__}: {error})") from error


def _connection(place: Endpoint, timeout: float) -> HTTPSConnection:
    connection = https_connection(place.host, place.port, place.context, timeout=timeout, proxy=place.proxy)
    connection.response_class = _Answer
    return connection


def make_stub(place: Endpoint, *, timeout: float, version: str, cookie: str = "") -> Any:
    """A stub for an endpoint; ``timeout`` in seconds per socket operation; ``cookie`` joins a session."""
    stub = _Stub(
        host=place.host,
        port=place.port,
        version=version,
        sslContext=place.context,
        httpConnectionTimeout=timeout,
        connectionPoolTimeout=IDLE_S,
    )
    # pyvmomi's own connections have no limit of an answer, and no login at a proxy but headers that vCenter would see.
    stub.scheme = lambda host, port, timeout, context: _connection(place, timeout)
    stub.cookie = cookie
    return stub


def negotiate(place: Endpoint, *, timeout: float) -> str:
    """The newest API version that both the server and pyvmomi know, such as ``vim.version.v8_0_3_0``.

    :raises OSError, HTTPException: as the socket says it.
    """
    connection = https_connection(place.host, place.port, place.context, timeout=timeout, proxy=place.proxy)
    try:
        connection.request("GET", _VERSIONS_PATH)
        response = connection.getresponse()
        body = response.read(_VERSIONS_LIMIT)
    finally:
        connection.close()
    if response.status >= 500:
        raise HTTPException(f"{response.status} {response.reason}")
    return _newest(body) if response.status == 200 else FALLBACK_VERSION


def _newest(document: bytes) -> str:
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError:
        return FALLBACK_VERSION
    offered = {
        text.strip()
        for namespace in root.iter("namespace")
        if (namespace.findtext("name") or "").strip() == "urn:vim25"
        for element in namespace.iter("version")
        if (text := element.text)
    }
    known: list[str] = GetServiceVersions("vim25")
    return next((version for version in known if versionIdMap[version] in offered), FALLBACK_VERSION)
