"""A webhook that drives a router, as a customer has one: HTTPS, by an authority of its own; it can be asked to fail."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from wavelift.simulators.kit.tls import make

HTML = b"<html><body>Sign in</body></html>"


@dataclass
class Webhook:
    """:ivar state: what the router does. :ivar failing: how the next calls end, one each: ``500``, ``html``,
    ``silent`` (it does as told, and its answer never comes), ``refuses`` (it says 403).
    :ivar lies: it says what was asked for, and does nothing. :ivar routes: is told when the router changes.
    :ivar asked: method, path, login, body.
    """

    host: str = "127.0.0.1"
    port: int = 0
    ca_file: Path = Path()
    state: str = "connected"
    failing: list[str] = field(default_factory=list)
    lies: bool = False
    routes: Callable[[bool], None] = lambda on: None
    asked: list[tuple[str, str, str, Any]] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)

    def answer(self, method: str, body: Any) -> tuple[int, bytes]:
        fault = self.failing.pop(0) if self.failing else ""
        if fault in ("500", "refuses"):
            return {"500": 500, "refuses": 403}[fault], b'{"error": "the router does not answer"}'
        if fault == "html":
            return 200, HTML
        said = self.state
        if method == "POST":
            said = body["state"]
            if not self.lies:
                self.state = said
                self.routes(said == "connected")
        if fault == "silent":
            self.over.wait(20)
            return 200, b""
        return 200, json.dumps({"state": said}).encode()


@contextmanager
def serve(folder: Path) -> Iterator[Webhook]:
    hook = Webhook()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            return

        def _do(self) -> None:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.loads(data) if data else None
            hook.asked.append((self.command, self.path, self.headers.get("Authorization", ""), body))
            status, told = hook.answer(self.command, body)
            if not told:
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if told == HTML else "application/json")
            self.send_header("Content-Length", str(len(told)))
            self.end_headers()
            self.wfile.write(told)

        do_GET = do_POST = _do  # http.server's names

    tls = make(folder, host="127.0.0.1", name="router")
    server = ThreadingHTTPServer((hook.host, 0), Handler)
    server.socket = tls.context.wrap_socket(server.socket, server_side=True)
    hook.port, hook.ca_file = server.server_address[1], tls.ca_file
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hook
    finally:
        hook.over.set()
        server.shutdown()
        server.server_close()
        thread.join()
