"""pyvmomi's stub, made so that it obeys our TLS, proxy and time-out policy.

``pyVim.connect`` is not used: it probes without a time-out, keeps a module-wide session, and skips certificate checks
for loopback addresses.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any, Final
from xml.etree import ElementTree

from pyVmomi import SoapStubAdapter
from pyVmomi.VmomiSupport import GetServiceVersions, versionIdMap

from wavelift.base.net import Proxy, https_connection

IDLE_S: Final = 30
"""Connections idle for longer are not used again: front ends close them, and a cut mutating call is not repeated."""

FALLBACK_VERSION: Final = "vim.version.version9"
"""API 5.5 (SMS-11's oldest), for a server that lists no versions."""

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


def make_stub(place: Endpoint, *, timeout: float, version: str, cookie: str = "") -> Any:
    """A stub for an endpoint; ``timeout`` in seconds per socket operation; ``cookie`` joins a session."""
    proxy = place.proxy
    stub = SoapStubAdapter(
        host=place.host,
        port=place.port,
        version=version,
        sslContext=place.context,
        httpConnectionTimeout=timeout,
        connectionPoolTimeout=IDLE_S,
    )
    if proxy is not None:
        # pyvmomi's own proxy support has no login other than headers that vCenter would see as well.
        stub.scheme = lambda host, port, timeout, context: https_connection(
            host, port, context, timeout=timeout, proxy=proxy
        )
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
