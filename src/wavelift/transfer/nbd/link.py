"""A socket that gives every byte asked for or raises, with or without TLS.

Without TLS the kernel waits (``MSG_WAITALL`` under ``SO_RCVTIMEO``): one system call for most replies, no poll before
each.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from wavelift.base.errors import UnreachableError
from wavelift.base.net import break_off, tls_error, unreachable
from wavelift.base.run import CancelFlag

PORT: Final = 10809
"""NBD's, registered with IANA."""

CLOSED: Final = "the server closed the connection"
TICK_S: Final = 0.5
"""How soon a wait notices that it is to end."""


@dataclass(frozen=True, kw_only=True)
class NbdAddress:
    """Where an export is served.

    :param unix: path of a socket; else ``host`` and ``port``.
    :param tls: asks for TLS by STARTTLS, and takes nothing less; ``server_name`` is what the certificate must be for
        (the host when empty).
    """

    unix: str = ""
    host: str = ""
    port: int = PORT
    export: str = ""
    tls: ssl.SSLContext | None = field(default=None, repr=False, compare=False)
    server_name: str = ""

    def __str__(self) -> str:
        return f"nbd+unix:{self.unix}" if self.unix else f"nbd:{self.host}:{self.port}"


class Link:
    """One connection's socket. ``receive`` is for one thread at a time, ``send`` for another one.

    :param timeout: seconds without a single byte. :param cancel: ends every wait within :data:`TICK_S`.
    """

    def __init__(self, sock: socket.socket, timeout: float, cancel: CancelFlag) -> None:
        self._sock = sock
        self._timeout = timeout
        self._cancel = cancel
        self._tls: ssl.SSLSocket | None = None
        # OpenSSL's objects are not for two threads at once.
        self._turn = threading.Lock()
        sock.settimeout(None)
        tick = min(timeout, TICK_S)
        limit = struct.pack("ll", int(tick), int(tick % 1 * 1_000_000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)

    @classmethod
    def open(cls, address: NbdAddress, timeout: float, cancel: CancelFlag) -> Link:
        """:raises UnreachableError: nobody answers there."""
        sock: socket.socket | None = None
        try:
            if address.unix:
                sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                sock.settimeout(timeout)
                sock.connect(address.unix)
            else:
                sock = socket.create_connection((address.host, address.port), timeout)
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return cls(sock, timeout, cancel)
        except OSError as error:
            if sock is not None:
                sock.close()
            if address.unix:
                raise UnreachableError(
                    f"nobody serves {address}: {error.strerror or error}", next_step="Look whether the NBD server runs"
                ) from error
            raise unreachable(error, address.host, address.port) from error

    def start_tls(self, address: NbdAddress) -> None:
        """:raises TlsError: the certificate is refused, ours or theirs. :raises OSError: the connection was cut."""
        assert address.tls is not None
        name = address.server_name or address.host or "localhost"
        self._sock.settimeout(self._timeout)
        try:
            self._tls = address.tls.wrap_socket(self._sock, server_hostname=name)
        except ssl.SSLError as error:
            if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
                raise ConnectionResetError(f"{CLOSED} in the TLS handshake") from error
            raise tls_error(error, name, address.port, None, override="the CA of the NBD server") from error
        self._sock = self._tls
        self._sock.setblocking(False)

    def send(self, data: bytes) -> None:
        """:raises OSError: cut, or no byte went out in time."""
        left = memoryview(data)
        while left:
            left = left[self._act(partial(self._sock.send, left)) :]

    def receive(self, view: memoryview) -> None:
        """Fill ``view``. :raises OSError: cut, or no byte came in time."""
        got = 0
        while got < len(view):
            got += self._some(view[got:] if got else view)

    def receive_all(self, views: Sequence[memoryview]) -> None:
        """Fill them in order, mostly by one call. :raises OSError: as :meth:`receive`."""
        got = 0
        if self._tls is None:
            try:
                got = self._sock.recvmsg_into(views, 0, socket.MSG_WAITALL)[0]
            except BlockingIOError:
                got = self._act(lambda: self._sock.recvmsg_into(views, 0, socket.MSG_WAITALL)[0])
            if not got:
                raise ConnectionResetError(CLOSED)
        for view in views:
            if got < len(view):
                self.receive(view[got:])
            got = max(0, got - len(view))

    def break_off(self) -> None:
        """Wake whoever sends or receives; from any thread."""
        break_off(self._sock)

    def close(self) -> None:
        self.break_off()
        with self._turn:
            self._sock.close()

    def _some(self, view: memoryview) -> int:
        if self._tls is not None:
            count = self._act(lambda: self._sock.recv_into(view))
        else:
            try:
                count = self._sock.recv_into(view, 0, socket.MSG_WAITALL)
            except BlockingIOError:
                count = self._act(lambda: self._sock.recv_into(view, 0, socket.MSG_WAITALL))
        if not count:
            raise ConnectionResetError(CLOSED)
        return count

    def _act(self, act: Callable[[], int]) -> int:
        """``act`` once the socket is ready for it: without TLS it waits by itself, a tick at a time."""
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                if self._tls is None:
                    return act()
                with self._turn:
                    return act()
            except BlockingIOError:
                pass
            except ssl.SSLWantReadError:
                self._poll(select.POLLIN)
            except ssl.SSLWantWriteError:
                self._poll(select.POLLOUT)
            except (ssl.SSLEOFError, ssl.SSLZeroReturnError) as error:
                raise ConnectionResetError(CLOSED) from error
            if self._cancel.is_set():
                raise ConnectionAbortedError("the reading was interrupted")
            if time.monotonic() >= deadline:
                raise TimeoutError(f"the server sent nothing for {self._timeout:g} s")

    def _poll(self, event: int) -> None:
        poll = select.poll()
        poll.register(self._sock.fileno(), event)
        poll.poll(min(self._timeout, TICK_S) * 1000)
