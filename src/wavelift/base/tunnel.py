"""The tunnel that an HTTP proxy makes (CONNECT), and what it says when it makes none (SMS-15, SMS-17).

``http.client`` throws the proxy's answer away. Its head is needed: it names the ways to log in that the proxy offers.
"""

from __future__ import annotations

import base64
import re
import socket
import ssl
import time
from dataclasses import dataclass, field, replace
from http.client import HTTPSConnection
from typing import Final
from urllib.parse import quote, unquote, urlsplit

from wavelift.base.errors import ProxyLoginError, SpecError, UnknownNameError, UnreachableError, WaveliftError
from wavelift.base.printable import printable

LOGIN_WANTED: Final = 407
"""HTTP's status for "this proxy wants a login, or refuses this one"."""
HEAD_LONGEST: Final = 64 << 10
"""Bytes of the head of a proxy's answer."""
REASON_LONGEST: Final = 100
"""Characters of its reason that are shown."""
_END: Final = b"\r\n\r\n"
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] (\d{3})(?: ([^\r\n]*))?")
_SCHEME: Final = re.compile(r"^proxy-authenticate:[ \t]*([A-Za-z]+)", re.IGNORECASE | re.MULTILINE)
_PLAIN_NAMES: Final = {"negotiate": "Negotiate (Kerberos)", "ntlm": "NTLM"}


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

        :raises SpecError: if the text is invalid. The message does not contain the text, which may hold a password.
        """
        try:
            parts = urlsplit(url if "://" in url else f"http://{url}")
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port, parts = None, None, urlsplit("")
        # A password with a bare '/', '?' or '#' would end the address there: its beginning would be host or port.
        if parts.scheme != "http" or not host or parts.path.strip("/") or parts.query or parts.fragment:
            raise SpecError(
                "the proxy does not have the form http://[user:password@]host:port",
                next_step="Write other characters than letters, digits, '.', '_' and '-' of user and password as %XX, "
                "or enter both in fields of their own",
            )
        return cls(host, port or default_port, unquote(parts.username or ""), unquote(parts.password or ""))

    @property
    def login_url(self) -> str:
        """The URL with user name and password: a secret, for libraries that take nothing else."""
        if not self.username:
            return self.url
        login = f"{quote(self.username, safe='')}:{quote(self.password, safe='')}"
        return f"http://{login}@{bracketed(self.host)}:{self.port}"

    def logged_in(self, username: str, password: str) -> Proxy:
        """This proxy with a login of separate fields. It wins over one in the URL."""
        return replace(self, username=username, password=password) if username else self

    @property
    def url(self) -> str:
        """The URL without user name and password."""
        return f"http://{bracketed(self.host)}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        if not self.username:
            return {}
        login = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Proxy-Authorization": f"Basic {login}"}


def bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class ProxyRefused(OSError):
    """The proxy answers CONNECT with something else than 2xx."""

    def __init__(self, proxy: Proxy, place: str, status: int, reason: str, schemes: tuple[str, ...] = ()) -> None:
        self.proxy = proxy
        self.place = place
        self.status = status
        self.reason = printable(reason, REASON_LONGEST)
        self.schemes = schemes
        """Ways to log in that it offers, in its words; empty: it did not say."""
        super().__init__(f"the proxy {proxy.url} answers {status} {self.reason}".rstrip())


class ProxyAway(OSError):
    """There is no connection to the proxy itself; the cause says why."""

    def __init__(self, proxy: Proxy, cause: OSError) -> None:
        self.proxy = proxy
        super().__init__(f"no connection to the proxy {proxy.url}: {cause}")
        self.__cause__ = cause


class TunnelledConnection(HTTPSConnection):
    """An HTTPS connection through a proxy.

    :param target: what the proxy connects to: the host's name, or its address.
    """

    def __init__(self, host: str, port: int, context: ssl.SSLContext, *, timeout: float, proxy: Proxy) -> None:
        super().__init__(host, port, timeout=timeout, context=context)
        self._tls = context
        self._proxy = proxy
        self._wait_s = timeout

    def connect(self) -> None:
        """:raises ProxyRefused, ProxyAway: by the proxy. :raises OSError: as the socket says it."""
        sock = open_tunnel(self._proxy, self.host, int(self.port or 443), timeout=self._wait_s)
        try:
            self.sock = self._tls.wrap_socket(sock, server_hostname=self.host)
        except BaseException:
            sock.close()
            raise


def open_tunnel(proxy: Proxy, host: str, port: int, *, timeout: float) -> socket.socket:
    """A socket whose bytes reach ``host:port``.

    :param timeout: in seconds: for the connection, for the whole answer of the proxy, and it stays on the socket.

    :raises ProxyRefused: the proxy makes no tunnel. :raises ProxyAway: there is no connection to the proxy.
    :raises TimeoutError: the proxy does not finish its answer.
    """
    try:
        sock = socket.create_connection((proxy.host, proxy.port), timeout)
    except OSError as error:
        raise ProxyAway(proxy, error) from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _ask(sock, proxy, f"{bracketed(host)}:{port}", time.monotonic() + timeout)
        sock.settimeout(timeout)
    except BaseException:
        sock.close()
        raise
    return sock


def _ask(sock: socket.socket, proxy: Proxy, place: str, give_up: float) -> None:
    lines = [f"CONNECT {place} HTTP/1.1", f"Host: {place}", *(f"{key}: {text}" for key, text in proxy.headers.items())]
    sock.sendall(("\r\n".join(lines) + "\r\n\r\n").encode("ascii"))
    head = _head(sock, give_up)
    said = _STATUS_LINE.match(head)
    if said is None:
        raise ProxyRefused(proxy, place, 0, "with something that is not HTTP")
    status = int(said[1])
    if not 200 <= status < 300:
        schemes = tuple(dict.fromkeys(_SCHEME.findall(head.decode("latin-1"))))
        raise ProxyRefused(proxy, place, status, (said[2] or b"").decode("latin-1"), schemes)
    if not head.endswith(_END):
        raise ProxyRefused(proxy, place, status, f"with a head of more than {HEAD_LONGEST >> 10} KiB")


def _head(sock: socket.socket, give_up: float) -> bytes:
    """One byte at a time: what follows the head is the tunnel's. The other side speaks second, so this costs nothing
    that counts: a head has a hundred bytes."""
    head = bytearray()
    while not head.endswith(_END) and len(head) < HEAD_LONGEST:
        left = give_up - time.monotonic()
        if left <= 0:
            raise TimeoutError("the proxy did not finish its answer in time")
        sock.settimeout(left)
        piece = sock.recv(1)
        if not piece:
            raise ConnectionResetError("the proxy closed the connection before it answered")
        head += piece
    return bytes(head)


def offered_logins(proxy: Proxy, host: str, port: int, *, timeout: float) -> tuple[str, ...]:
    """Ways to log in that the proxy offers to somebody without a login; empty if it does not say. For messages about a
    refusal that another library met and did not keep. No password is sent: a further wrong one could lock the account.
    """
    try:
        open_tunnel(Proxy(proxy.host, proxy.port), host, port, timeout=timeout).close()
    except ProxyRefused as error:
        return error.schemes
    except OSError:
        return ()
    return ()


def proxy_error(error: ProxyRefused | ProxyAway, *, where: str, **coordinates: object) -> WaveliftError:
    """``error`` in our words.

    :param where: the place of the proxy's settings, as it follows "in", such as ``the vSphere connection``.
    """
    proxy = error.proxy
    if isinstance(error, ProxyAway):
        unknown = isinstance(error.__cause__, socket.gaierror) and error.__cause__.errno == socket.EAI_NONAME
        what = "its name cannot be resolved" if unknown else str(error.__cause__) or type(error.__cause__).__name__
        return (UnknownNameError if unknown else UnreachableError)(
            f"no connection to the proxy {proxy.url}: {what}",
            next_step=f"Check host and port of the proxy in {where}, and the network to it",
            **coordinates,
        )
    if error.status != LOGIN_WANTED:
        return UnreachableError(
            f"the proxy {proxy.url} makes no tunnel to {error.place}: {error.status} {error.reason}".rstrip(),
            next_step=f"Let the proxy allow CONNECT to {error.place}, or correct the proxy in {where}",
            **coordinates,
        )
    said = f"the proxy {proxy.url} (407 Proxy Authentication Required)"
    if error.schemes and "basic" not in map(str.lower, error.schemes):
        ways = ", ".join(_PLAIN_NAMES.get(scheme.lower(), scheme) for scheme in error.schemes)
        return ProxyLoginError(
            f"{said} offers only {ways} as login, which wavelift does not support",
            next_step="Only password login (Basic) is supported, neither NTLM nor Kerberos: enable it on the proxy for "
            f"this machine and enter user and password of the proxy in {where}, or exempt this machine from the login",
            **coordinates,
        )
    what = "refuses this user and password" if proxy.username else "wants a user and a password"
    return ProxyLoginError(
        f"{said} {what}",
        next_step=f"Enter user and password of the proxy in {where}. Only password login (Basic) is supported",
        **coordinates,
    )
