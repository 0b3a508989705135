"""urllib3's connections to AWS, under one TLS policy. If a call's cancel flag is set, its blocked read ends."""

from __future__ import annotations

import socket
import ssl
import threading
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import urllib3
from botocore.httpsession import get_cert_path
from urllib3.connection import HTTPConnection, HTTPSConnection

from wavelift.adapters.aws.access import READ_TIMEOUT_S
from wavelift.base.errors import SpecError
from wavelift.base.net import break_off, ca_path
from wavelift.base.run import CancelFlag


class Call:
    """A request of this thread: what it waits for is cut off when its cancel flag is set. A read of a socket can't be
    told otherwise before its time-out of a minute, and a fenced try must stop at once."""

    def __init__(self, cancel: CancelFlag) -> None:
        self.cancel = cancel
        self._lock = threading.Lock()
        self._socket: Any = None
        self._over = False

    def __enter__(self) -> None:
        _calling.now = self
        self.cancel.tell(self._cut)

    def __exit__(self, *_: object) -> None:
        _calling.now = None
        self.cancel.tell_no_more(self._cut)
        with self._lock:
            self._over, self._socket = True, None

    def holds(self, sock: Any) -> None:
        """The request goes over this connection.

        :raises Cancelled, FencedError: as the flag says.
        """
        with self._lock:
            self._socket = sock
        self.cancel.check()  # it may have been set before there was a socket to cut

    def _cut(self) -> None:
        with self._lock:
            if self._over or not isinstance(self._socket, socket.socket):
                return  # a tunnel of TLS within TLS is none: its read ends by its time-out
            break_off(self._socket)


_calling: Final = threading.local()


class _PlainConnection(HTTPConnection):
    def connect(self) -> None:
        super().connect()
        _connected(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _reused(self)
        super().request(*args, **kwargs)


class _TlsConnection(HTTPSConnection):
    def connect(self) -> None:
        super().connect()
        _connected(self)

    def request(self, *args: Any, **kwargs: Any) -> None:
        _reused(self)
        super().request(*args, **kwargs)


class _PlainPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _PlainConnection


class _TlsPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


POOLS: Final = {"http": _PlainPool, "https": _TlsPool}
"""For :attr:`urllib3.PoolManager.pool_classes_by_scheme`."""


def _connected(connection: HTTPConnection) -> None:
    """urllib3 leaves the connect time-out on the socket while the body is sent; a slow line needs longer."""
    if connection.sock is not None:
        connection.sock.settimeout(READ_TIMEOUT_S)
    _reused(connection)


def _reused(connection: HTTPConnection) -> None:
    call: Call | None = getattr(_calling, "now", None)
    if call is not None and connection.sock is not None:
        call.holds(connection.sock)


def pool_through(proxy: str | None, **settings: Any) -> urllib3.PoolManager:
    """Connections that go directly, or through ``proxy`` with the login in its URL, which urllib3 does not read."""
    if proxy is None:
        return urllib3.PoolManager(**settings)
    login = urlsplit(proxy)
    headers = None
    if login.username:
        words = f"{unquote(login.username)}:{unquote(login.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=words)
    return urllib3.ProxyManager(proxy, proxy_headers=headers, **settings)


def tls_context(verify: bool | str) -> ssl.SSLContext:
    """One context for all connections of a client (invariant 10).

    :raises SpecError: the CA bundle can't be read.
    """
    if verify is False:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        return context
    path = ca_path(get_cert_path(True) if verify is True else verify)
    try:
        return ssl.create_default_context(
            cafile=None if path.is_dir() else str(path), capath=str(path) if path.is_dir() else None
        )
    except OSError as error:  # ssl.SSLError is one
        raise SpecError(
            f"the CA bundle {path} can't be read: {error}",
            next_step="Give verify of the AWS connection a file of PEM certificates, or leave it empty",
        ) from error
