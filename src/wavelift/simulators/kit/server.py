"""HTTP on loopback: a thread per connection, keep-alive, TLS by our own authority."""

from __future__ import annotations

import contextlib
import json
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
from wavelift.simulators.aws.errors import AwsError, render
from wavelift.simulators.kit.message import Body, BodyBroken, ConnectionCut, Request, Response
from wavelift.simulators.aws.world import World

IDLE: Final = 120.0
"""Seconds that a connection may stay silent."""
DRAIN_LIMIT: Final = 256 << 20
"""Bytes of an unread body that are read rather than losing the connection."""
BACKLOG: Final = 256
BUFFER: Final = 256 << 10
RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)


class SimulatorServer(ThreadingHTTPServer):
    """The listening socket. TLS handshakes happen in the connection's thread, never in the accepting one."""

    daemon_threads = True
    request_queue_size = BACKLOG
    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], world: World, context: ssl.SSLContext | None) -> None:
        super().__init__(address, Handler)
        self.world, self.control, self.context = world, Control(world), context

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
        """A client that went away is nothing to report."""
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
        """Silence: the counters say more."""

    def handle_expect_100(self) -> bool:
        """Leave to send is given when somebody starts to read, so that a refusal costs no body."""
        self._awaited = True
        return True

    def _give_leave(self) -> None:
        if self._awaited:
            self._awaited = False
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = Body(self.rfile, headers, on_start=self._give_leave)
        request = Request(self.command, path, query, headers, body, str(uuid.uuid4()))
        try:
            if path.startswith(CONTROL):
                answer = self.server.control.handle(request)
                self._finish_body(body)
                self._send(request, answer, None)
            else:
                self._call(request)
            self.wfile.flush()
        except ConnectionCut:
            self._reset()
        except BodyBroken:
            self.close_connection = True

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_PATCH = _serve

    def _call(self, request: Request) -> None:
        """The call is counted before its answer leaves: whoever has the answer finds it counted."""
        world = self.server.world
        status, limit = 0, None
        try:
            try:
                world.identify(request)
                limit = world.faults.before(request)
                response = world.handle(request)
            except AwsError as error:
                response = render(
                    error, service=request.service, request_id=request.request_id, head=request.method == "HEAD"
                )
            except (OSError, ValueError, KeyError, TypeError) as error:
                if isinstance(error, ConnectionError | ssl.SSLError | TimeoutError):
                    raise
                traceback.print_exc(file=sys.stderr)
                failed = AwsError("InternalError", "We encountered an internal error. Please try again.", 500)
                response = render(failed, service=request.service, request_id=request.request_id)
            status = response.status
            if limit != 0:
                self._finish_body(request.body)
        finally:
            name = f"{request.service}.{request.operation or 'unknown'}"
            world.counters.call(name, status=status, bytes_in=request.body.bytes_read)
        self._send(request, response, limit)

    def _send(self, request: Request, response: Response, limit: int | None) -> None:
        """``limit`` is how many bytes of the body a fault rule lets out."""
        if limit == 0:
            raise ConnectionCut
        self.send_response_only(response.status, _reason(response.status))
        headers = {"Server": "AmazonS3" if request.service == "s3" else "simulator", "Date": self.date_time_string()}
        headers |= {"x-amz-request-id": request.request_id, **response.headers}
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
        """Before an answer: a body nobody read is read now, or the connection ends with this answer."""
        if self._awaited or int(self.headers.get("content-length") or 0) > DRAIN_LIMIT:
            self.close_connection = True
            return
        try:
            body.drain()
        except BodyBroken:
            self.close_connection = True

    def _reset(self) -> None:
        """Close with RST, as a cut line looks like."""
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


def announce(values: dict[str, Any]) -> None:
    """The first line on standard output: where we are, for whoever started us."""
    print(json.dumps(values), flush=True)
