"""One disk's body from an NFC lease: a GET that is read once, forward, and that another thread can cut off.

As for ranges, a :class:`~wavelift.base.wire.Line` reads straight into the caller's buffer. It can be cut before the
answer comes, so a cancel also ends a request that waits for its first byte. There is one request per disk: no pool, no
retry.
"""

from __future__ import annotations

import hashlib
import re
import socket
import ssl
import threading
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from wavelift.base.domain import DiskFacts
from wavelift.base.errors import UnreachableError, UnsafeTextError, WaveliftError
from wavelift.base.net import https_connection
from wavelift.base.remote_text import host_name, request_head, request_target
from wavelift.base.tunnel import Proxy
from wavelift.base.wire import Head, Line

HTTPS_PORT: Final = 443
URL_SHOWN: Final = 60
"""Characters of a refused URL in the error. What follows in a good one is a secret: the ticket."""
READ_TIMEOUT_S: Final = 600.0
"""Between two pieces of body. A host passes over a thick disk's zeros in silence; TCP finds a dead peer sooner."""

_TCP_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
"""Seconds, seconds, probes: a vanished host is noticed after about a minute."""

_DEVICE_KEY: Final = re.compile(r"(?P<controller>[A-Za-z]+)(?P<bus>\d{1,9}):(?P<unit>\d{1,9})")

Address = tuple[str, int, int]
"""Kind of controller, bus and unit: how a lease names a disk, and unique in a VM."""

_KINDS: Final = (
    ("IDE", "IDE"),
    ("SATA", "SATA"),
    ("AHCI", "SATA"),
    ("NVME", "NVMe"),
    ("SCSI", "SCSI"),
    ("LSI", "SCSI"),
    ("BUSLOGIC", "SCSI"),
)
"""Part of a controller's class name, upper case → its kind; the first that fits. Names were seen of SCSI classes only
(``ParaVirtualSCSIController0:0``), so the others are not taken by the letter."""


def lease_address(key: str) -> Address | None:
    """``/vm-226/ParaVirtualSCSIController0:0`` → its address; None for keys of another form."""
    match = _DEVICE_KEY.fullmatch(key.rsplit("/", 1)[-1])
    if match is None:
        return None
    name = match["controller"].upper()
    kind = next((kind for part, kind in _KINDS if part in name), "")
    return (kind, int(match["bus"]), int(match["unit"])) if kind else None


def disk_address(disk: DiskFacts) -> Address:
    return (disk.controller, disk.bus, disk.unit)


@dataclass(frozen=True, slots=True)
class Target:
    """Where a body is fetched from."""

    host: str
    port: int
    path: str
    local: bool
    """The URL means vCenter itself: its own TLS policy holds."""


def target_of(url: str, host: str, port: int) -> Target:
    """A lease's URL; ``*`` in place of the host means the one that we talk to, ``host:port``.

    :raises UnsafeTextError: it is no https URL of a machine, or no request can have its path.
    """
    try:
        parts = urlsplit(url)
        name, given = parts.hostname or "*", parts.port
    except ValueError:
        parts, name, given = urlsplit(""), "*", None
    if parts.scheme != "https":
        raise UnsafeTextError(
            f"the lease's URL '{url[:URL_SHOWN]}' is no https URL",
            next_step="Nothing was sent. Look at the vCenter: it may not be what it seems",
        )
    path = request_target(f"{parts.path}?{parts.query}" if parts.query else parts.path, "the path of the lease's URL")
    if name == "*":
        return Target(host, given or port, path, local=True)
    name = host_name(name, "the host of the lease's URL")
    return Target(name, given or HTTPS_PORT, path, local=name.casefold() == host.casefold())


class Body:
    """A disk's body as raw bytes (``readinto``, ``close``). Read by one thread; :meth:`cut` may come from any."""

    def __init__(
        self,
        target: Target,
        context: ssl.SSLContext,
        *,
        connect_timeout: float,
        proxy: Proxy | None,
        hashed: bool,
        address: str = "",
    ) -> None:
        """:param address: see :func:`~wavelift.base.net.https_connection`."""
        self.target = target
        self.received = 0
        """Bytes so far."""
        self.finished = False
        """The whole body was read."""
        self._sha1 = hashlib.sha1(usedforsecurity=False) if hashed else None
        self._connection = https_connection(
            target.host, target.port, context, timeout=connect_timeout, proxy=proxy, address=address
        )
        self._lock = threading.Lock()
        self._line: Line | None = None
        self._cut = False

    @property
    def sha1(self) -> str:
        return self._sha1.hexdigest() if self._sha1 else ""

    def request(self, cookie: str, *, read_timeout: float = READ_TIMEOUT_S) -> None:
        """Ask for the body and read the answer's head; an empty ``cookie`` is not sent.

        :raises OSError, HTTPException: as the socket says it. :raises WaveliftError: another status than 200.
        """
        self._connection.connect()
        line = Line(self._connection.sock)
        with self._lock:
            self._line = line
            if self._cut:
                raise ConnectionAbortedError("cut off")
        _keep_alive(self._connection.sock)
        self._connection.sock.settimeout(read_timeout)
        line.ask(self._head(cookie))
        head = line.answer(to_end=True)
        if head.status != 200:
            raise _refusal(head, self.target)

    def _head(self, cookie: str) -> bytes:
        target = self.target
        host = f"[{target.host}]" if ":" in target.host else target.host
        place = host if target.port == HTTPS_PORT else f"{host}:{target.port}"
        headers = {"Host": place, "Accept-Encoding": "identity"} | ({"Cookie": cookie} if cookie else {})
        return request_head("GET", target.path, headers)

    def readinto(self, buffer: Any) -> int:
        """Bytes read; 0 only at the true end.

        :raises OSError: the body ended early.
        """
        view, line = memoryview(buffer), self._line
        if line is None:
            raise ConnectionAbortedError("the body is closed")
        count = 0 if self.finished else line.read_into(view)
        self.finished = count < len(view)
        self.received += count
        if self._sha1 is not None:
            self._sha1.update(view[:count])
        return count

    def cut(self) -> None:
        """Make a blocked read return at once. What it returns may be rubbish: the caller checks why it was cut."""
        with self._lock:
            self._cut = True
            if self._line is not None:
                self._line.cut()

    def close(self) -> None:
        self.cut()
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()
        self._connection.close()


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _TCP_KEEPALIVE:
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _refusal(head: Head, target: Target) -> WaveliftError:
    return UnreachableError(
        f"{target.host}:{target.port} answers {head.status} {head.reason} for the disk's body",
        next_step="A retry takes a new lease. 401 and 403 mean that the session or the lease has ended",
        status=head.status,
    )
