"""The HTTP or HTTPS server: one thread per connection, keep-alive, answers that a fault rule can cut."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct
import sys
import traceback
import uuid
from collections.abc import Iterator
from email.message import Message
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from wavelift.simulators.kit.control import CONTROL, Control
from wavelift.simulators.kit.faults import Rule
from wavelift.simulators.kit.message import Body, BodyBroken, ConnectionCut, Request, Response
from wavelift.simulators.kit.site import Site
from wavelift.simulators.kit.world import Refusal, World

IDLE: Final = 120.0
"""Seconds that a connection may stay silent."""
DRAIN_LIMIT: Final = 256 << 20
"""An unread body of up to this many bytes is read, so that the connection stays usable."""
BACKLOG: Final = 256
BUFFER: Final = 256 << 10
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: close with RST."""


class SimulatorServer(ThreadingHTTPServer):
    """The listening socket. A TLS handshake runs in the connection's thread, never in the accepting one."""

    daemon_threads = True
    request_queue_size = BACKLOG
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], site: Site, context: ssl.SSLContext | None) -> None:
        super().__init__(address, Handler)
        self.site, self.control, self.context = site, Control(site), context

    def finish_request(self, request: Any, client_address: Any) -> None:
        request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        request.settimeout(IDLE)
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)
            except (OSError, ssl.SSLError):
                return
        Handler(request, client_address, self)
        if self.context is not None:
            with contextlib.suppress(OSError):
                request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report an error, but not a client that closed its connection."""
        kind = sys.exc_info()[0]
        if kind is None or not issubclass(kind, OSError):
            traceback.print_exc(file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    rbufsize = BUFFER
    server: SimulatorServer
    headers: Message

    def setup(self) -> None:
        super().setup()
        self._awaited = False

    def log_message(self, format: str, *args: Any) -> None:
        """Write no access log: the counters say more."""

    def handle_expect_100(self) -> bool:
        """Answer ``Expect: 100-continue`` only when the body is first read, so that a refusal comes before the body."""
        self._awaited = True
        return True

    def _continue(self) -> None:
        if self._awaited:
            self._awaited = False
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = Body(self.rfile, headers, on_start=self._continue)
        request = Request(self.command, path, query, headers, body, str(uuid.uuid4()))
        try:
            if path.startswith(CONTROL):
                answer = self.server.control.handle(request)
                self._finish_body(body)
                self._send(request, answer, {})
            else:
                with self.server.site.gate.call(self._cut):
                    self._call(request, self.server.site.world)
            self.wfile.flush()
        except ConnectionCut:
            self._reset()
        except BodyBroken:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def _call(self, request: Request, world: World[Any]) -> None:
        """Answer a call. It is counted before its answer leaves, so whoever has the answer finds the call counted."""
        status, limit = 0, None
        try:
            try:
                world.identify(request)
                limit = world.faults.before(request)
                response = world.handle(request)
            except Refusal as error:
                response = world.render(error, request)
            except (OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConnectionError | ssl.SSLError | TimeoutError):
                    raise
                traceback.print_exc(file=sys.stderr)
                response = world.render(world.failure(Rule(), request.service), request)
            status = response.status
            if limit != 0:
                self._finish_body(request.body)
        finally:
            name = f"{request.service}.{request.operation or 'unknown'}"
            world.counters.call(name, status=status, bytes_in=request.body.bytes_read)
        self._send(request, response, world.headers(request), limit)

    def _send(self, request: Request, response: Response, more: dict[str, str], limit: int | None = None) -> None:
        """``limit`` is how many bytes of the body a fault rule lets pass."""
        if limit == 0:
            raise ConnectionCut
        self.send_response_only(response.status, _reason(response.status))
        headers = {"Date": self.date_time_string(), **more, **response.headers}
        bodiless = response.status in {204, 304}
        if not bodiless:
            headers.setdefault("Content-Length", str(response.size))
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if request.method != "HEAD" and not bodiless:
            self._send_body(response.pieces(), limit)

    def _send_body(self, pieces: Iterator[bytes | memoryview], limit: int | None) -> None:
        sent = 0
        for piece in pieces:
            if limit is not None and sent + len(piece) > limit:
                self.wfile.write(piece[: limit - sent])
                self.wfile.flush()
                raise ConnectionCut
            self.wfile.write(piece)
            sent += len(piece)

    def _finish_body(self, body: Body) -> None:
        """Before an answer: read the rest of the body, or else close the connection after this answer."""
        if self._awaited or int(self.headers.get("content-length") or 0) > DRAIN_LIMIT:
            self.close_connection = True
            return
        try:
            body.drain()
        except BodyBroken:
            self.close_connection = True

    def _cut(self) -> None:
        """End the connection from another thread. The SSL layer is passed by: it is not safe for two threads."""
        with contextlib.suppress(OSError):
            socket.socket.shutdown(self.connection, socket.SHUT_RDWR)

    def _reset(self) -> None:
        """Close with RST, as a broken line does."""
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.wfile.flush()
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            self.connection.close()


def _reason(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
