"""An HTTP proxy that makes tunnels, for what must go through one: open, with a login, or signing TLS anew."""

from __future__ import annotations

import base64
import datetime
import ipaddress
import select
import socket
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_HOUR: Final = datetime.timedelta(hours=1)


class Inspector:
    """What a proxy signs TLS anew with: an authority, and a certificate of it for every host that is asked for.

    :param upstream: PEM file of the authorities that the proxy itself trusts.
    """

    def __init__(self, folder: Path, upstream: list[Path], *, name: str = "inspecting proxy") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        own = _builder(name, name, self._key.public_key())
        constraints = x509.BasicConstraints(ca=True, path_length=0)
        certificate = own.add_extension(constraints, critical=True).sign(self._key, hashes.SHA256())
        self.ca_file = folder / "proxy-ca.pem"
        self.ca_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        self.client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        for file in upstream:
            self.client.load_verify_locations(file)
        self._lock = threading.Lock()
        self._contexts: dict[str, ssl.SSLContext] = {}

    def server(self, host: str) -> ssl.SSLContext:
        """A context that shows a certificate for ``host``."""
        with self._lock:
            if host not in self._contexts:
                self._contexts[host] = self._sign(host)
            return self._contexts[host]

    def _sign(self, host: str) -> ssl.SSLContext:
        key = ec.generate_private_key(ec.SECP256R1())
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        builder = _builder(host, self._name, key.public_key())
        made = builder.add_extension(x509.SubjectAlternativeName([name]), critical=False).sign(
            self._key, hashes.SHA256()
        )
        pair = self._folder / f"{len(self._contexts)}.pem"
        form = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        pair.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, *form) + made.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pair)
        return context


def _builder(subject: str, issuer: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(public)
    return builder.serial_number(x509.random_serial_number()).not_valid_before(now - _HOUR).not_valid_after(now + _HOUR)


@dataclass
class Rules:
    """What the proxy asks of a client.

    :param login: ``user:password``; without it 407 is the answer.
    :param schemes: what 407 offers; ``NTLM`` and ``Negotiate`` accept no login here.
    :param inspector: signs TLS anew.
    :param names: name → address of hosts that only the proxy's DNS knows.
    :param forbidden: hosts that get 403.
    """

    login: str = ""
    schemes: tuple[str, ...] = ('Basic realm="proxy"',)
    inspector: Inspector | None = None
    names: dict[str, str] = field(default_factory=dict)
    forbidden: frozenset[str] = frozenset()


def login_of(head: bytes) -> bytes:
    """The token of a request's ``Proxy-Authorization: Basic``; empty without one."""
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"proxy-authorization" and value.strip().startswith(b"Basic "):
            return value.strip().removeprefix(b"Basic ")
    return b""


class ConnectProxy:
    """A CONNECT proxy on loopback; ``heads`` are the requests as they came, ``answers`` how often each status."""

    THREADS: Final = "connect-proxy"
    """Name of its threads."""

    def __init__(self, rules: Rules | None = None) -> None:
        self.rules = rules or Rules()
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._socket.getsockname()[1]
        self.heads: list[bytes] = []
        self.answers: Counter[int] = Counter()
        self.requests: list[bytes] = []
        """First lines that went through TLS, where the proxy reads along."""
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._serve, name=self.THREADS)]
        self._threads[0].start()

    def url(self, login: str = "") -> str:
        return f"http://{login + '@' if login else ''}127.0.0.1:{self.port}"

    @property
    def tunnels(self) -> set[str]:
        """Places that were asked for with the right login."""
        return {head.split()[1].decode() for head in self.heads if self._refusal(head) is None}

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self._ends.append(client)
            thread = threading.Thread(target=self._tunnel, args=(client,), name=self.THREADS)
            thread.start()
            self._threads.append(thread)

    def _refusal(self, head: bytes) -> int | None:
        if self.rules.login:
            token = base64.b64encode(self.rules.login.encode())
            accepts = any(scheme.lower().startswith("basic") for scheme in self.rules.schemes)
            if not accepts or login_of(head) != token:
                return 407
        host = head.split()[1].decode().rsplit(":", 1)[0]
        return 403 if host in self.rules.forbidden else None

    def _refuse(self, client: socket.socket, status: int) -> None:
        self.answers[status] += 1
        offers = "".join(f"Proxy-Authenticate: {scheme}\r\n" for scheme in self.rules.schemes) if status == 407 else ""
        reason = {407: "Proxy Authentication Required", 403: "Forbidden"}[status]
        body = b"<html>the proxy's page</html>"
        head = f"HTTP/1.1 {status} {reason}\r\n{offers}Content-Length: {len(body)}\r\n\r\n"
        client.sendall(head.encode() + body)
        _cut(client)

    def _tunnel(self, client: socket.socket) -> None:
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                if not (data := client.recv(65536)):
                    return
                head += data
            self.heads.append(head)
            if (status := self._refusal(head)) is not None:
                self._refuse(client, status)
                return
            host, port = head.split()[1].decode().rsplit(":", 1)
            address = self.rules.names.get(host, host)
            upstream = socket.create_connection((address, int(port)), timeout=5)
            self._ends.append(upstream)
            self.answers[200] += 1
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            if self.rules.inspector is not None:
                inner, outer = self._inspected(client, upstream, host, self.rules.inspector)
                self._read_along(inner, outer)
                return
        except OSError:
            _cut(client)
            return
        back = threading.Thread(target=self._pump, args=(upstream, client), name=self.THREADS)
        back.start()
        self._pump(client, upstream)
        back.join()

    def _inspected(
        self, client: socket.socket, upstream: socket.socket, host: str, by: Inspector
    ) -> tuple[ssl.SSLSocket, ssl.SSLSocket]:
        """TLS ends here, and begins anew."""
        inner = by.server(host).wrap_socket(client, server_side=True)
        self._ends.append(inner)
        by.client.check_hostname = host not in self.rules.names
        outer = by.client.wrap_socket(upstream, server_hostname=host)
        self._ends.append(outer)
        return inner, outer

    def _read_along(self, inner: ssl.SSLSocket, outer: ssl.SSLSocket) -> None:
        """Both directions in one thread: OpenSSL's objects are not for two at once."""
        inner.setblocking(False)
        outer.setblocking(False)
        try:
            while True:
                if not any(end.pending() for end in (inner, outer)):
                    select.select([inner, outer], [], [])
                for source, sink in ((inner, outer), (outer, inner)):
                    try:
                        data = source.recv(65536)
                    except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                        continue  # a record that is not whole, or a session ticket
                    if not data:
                        return
                    if source is inner and b" HTTP/1.1\r\n" in data[:8192]:
                        self.requests.append(data.partition(b"\r\n")[0])
                    _send(sink, data)
        except (OSError, ValueError):  # ValueError: closed meanwhile
            pass
        finally:
            _cut(inner)
            _cut(outer)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        finally:
            _cut(source)
            _cut(sink)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        for end in self._ends:
            _cut(end)
        for thread in self._threads:
            thread.join()
        for end in (self._socket, *self._ends):
            end.close()


def _send(sink: ssl.SSLSocket, data: bytes) -> None:
    while data:
        try:
            data = data[sink.send(data) :]
        except ssl.SSLWantWriteError:
            select.select([], [sink], [])
        except ssl.SSLWantReadError:
            select.select([sink], [], [])


def _cut(end: socket.socket) -> None:
    try:
        socket.socket.shutdown(end, socket.SHUT_RDWR)  # not SSLSocket's, which forgets TLS under a reader
    except OSError:
        pass  # cut already
