"""The console's application on a loopback socket, as the api-server serves it, and clients that speak it by hand."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any, Final

import uvicorn

__test__ = False

ANSWERED_S: Final = 30
"""A request that nobody delays is answered in milliseconds, also on a busy machine."""


class Server:
    """The application on a loopback socket, as the api-server serves it."""

    def __init__(self, app: Any) -> None:
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listening.getsockname()[1]
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._listening]})
        self._thread.start()
        self._open: list[socket.socket] = []

    def close(self) -> None:
        for one in self._open:
            one.close()
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(ANSWERED_S)
        self._listening.close()

    def send(self, data: bytes, *, window: int = 0) -> socket.socket:
        one = socket.socket()
        if window:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        one.settimeout(ANSWERED_S)
        one.connect(("127.0.0.1", self.port))
        one.sendall(data)
        self._open.append(one)
        return one

    def ask(self, *lines: str, method: str = "GET", path: str = "/jobs", body: bytes = b"") -> tuple[int, Any, str]:
        return answer_of(self.send(head(*lines, method=method, path=path, length=len(body)) + body))


def head(*lines: str, method: str = "GET", path: str = "/jobs", length: int | None = None) -> bytes:
    told = [f"{method} {path} HTTP/1.1", "Host: airflow", *lines]
    if length is not None:
        told.append(f"Content-Length: {length}")
    return ("\r\n".join(told) + "\r\n\r\n").encode()


def answer_of(one: socket.socket) -> tuple[int, Any, str]:
    """Status, body and head of the answer."""
    seen = b""
    while b"\r\n\r\n" not in seen:
        if not (more := one.recv(65536)):
            raise ConnectionError(f"closed after {seen!r}")
        seen += more
    first, _, body = seen.partition(b"\r\n\r\n")
    words = first.decode().lower()
    length = int(next(line for line in words.split("\r\n") if line.startswith("content-length")).split(":")[1])
    while len(body) < length:
        body += one.recv(65536)
    return int(words.split()[1]), json.loads(body), words


def bearer(user: str) -> str:
    return f"Authorization: Bearer {user}"
