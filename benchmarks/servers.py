"""Two TLS servers for benchmarks: one serves a file like an NFC lease, the other accepts S3 uploads and discards them.

They run in separate processes, so that only the contenders are measured. Both ends are the same for all contenders.
``python -m benchmarks.servers FOLDER [FILE]`` prints ``{"source": url, "sink": url, "ca": path}`` and runs until its
standard input closes.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import multiprocessing
import re
import ssl
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from pathlib import Path
from threading import Lock
from typing import Any, ClassVar, Final
from urllib.parse import parse_qs, urlsplit
from xml.sax.saxutils import escape

from wavelift.simulators.kit import tls

CHUNK: Final = 256 * 1024


class PlainHandler(BaseHTTPRequestHandler):
    """Keeps connections, says nothing, counts what it hands out or takes whole. ``GET /_bench`` tells."""

    protocol_version = "HTTP/1.1"
    lock: ClassVar[Lock] = Lock()
    counted: ClassVar[int] = 0
    """Bytes of content, without HTTP's own."""

    @classmethod
    def count(cls, length: int) -> None:
        with cls.lock:
            cls.counted += length

    @classmethod
    def told(cls) -> dict[str, Any]:
        """What ``GET /_bench`` answers."""
        return {"bytes": cls.counted}

    def do_GET(self) -> None:
        if self.path == "/_bench":
            self.answer(json.dumps(self.told()).encode(), headers={"Content-Type": "application/json"})
        else:
            self.get()

    def get(self) -> None:
        self.answer(status=404)

    def log_message(self, format: str, *args: object) -> None:
        """Silent."""

    def answer(self, body: bytes = b"", *, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def drop(self, left: int) -> bytes:
        """Read so many bytes of the body away; the first of them.

        :raises ConnectionError: when fewer come.
        """
        head = b""
        buffer = bytearray(min(CHUNK, max(left, 1)))
        while left:
            count = self.rfile.readinto(memoryview(buffer)[: min(left, len(buffer))])
            if not count:
                raise ConnectionError("the body ended early")
            head = head or bytes(buffer[:count])
            left -= count
        return head


class SourceHandler(PlainHandler):
    """The whole file, chunked: a lease has no length and knows no ranges."""

    path_to_file: ClassVar[Path]

    def get(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-vnd.vmware-streamVmdk")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        buffer = bytearray(CHUNK)
        view = memoryview(buffer)
        with self.path_to_file.open("rb", buffering=0) as file:
            while count := file.readinto(buffer):
                self.wfile.write(b"%x\r\n" % count)
                self.wfile.write(view[:count])
                self.wfile.write(b"\r\n")
                self.count(count)
        self.wfile.write(b"0\r\n\r\n")


class Dechunked(io.RawIOBase):
    """What is inside of HTTP's chunks; it ends behind their trailer."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._left = 0
        self._ended = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left and not self._ended:
            self._left = int(self._raw.readline().split(b";")[0], 16)
            if not self._left:
                self._ended = True
                while self._raw.readline().strip():
                    pass
        if self._ended:
            return 0
        view = memoryview(buffer)
        count = self._raw.readinto(view[: min(self._left, len(view))])
        if not count:
            raise ConnectionError("a chunk ended early")
        self._left -= count
        if not self._left:
            self._raw.readline()
        return int(count)


def count_all(stream: io.BufferedIOBase) -> int:
    """Read to the end; how much it was."""
    buffer, total = bytearray(CHUNK), 0
    while count := stream.readinto(buffer):
        total += count
    return total


class SinkHandler(PlainHandler):
    """Enough of S3's multipart upload to be answered politely; the bytes go nowhere.

    Counted is what a finished object consists of.
    """

    parts: ClassVar[dict[int, tuple[int, bytes]]] = {}
    """Size and SHA-256 by number, of the last upload."""

    def _swallow(self) -> tuple[int, bytes]:
        """Read the body away; the content's size, and its first bytes for the small ones that mean something."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            length = int(self.headers.get("Content-Length") or 0)
            return length, self.drop(length)
        outer = io.BufferedReader(Dechunked(self.rfile), CHUNK)
        # The AWS CLI chunks within the chunks, to put a checksum behind the content.
        inner = "aws-chunked" in self.headers.get("Content-Encoding", "")
        length = count_all(io.BufferedReader(Dechunked(outer), CHUNK) if inner else outer)
        count_all(outer)
        return length, b""

    def do_PUT(self) -> None:
        length, _ = self._swallow()
        query = parse_qs(urlsplit(self.path).query)
        digest = self.headers.get("x-amz-checksum-sha256", "")
        with self.lock:
            self.parts[int(query.get("partNumber", ["0"])[0])] = (length, base64.b64decode(digest))
        if "partNumber" not in query:
            self.count(length)
        self.answer(headers={"ETag": '"0123456789abcdef"', **({"x-amz-checksum-sha256": digest} if digest else {})})

    def do_POST(self) -> None:
        query = parse_qs(urlsplit(self.path).query, keep_blank_values=True)
        _, body = self._swallow()
        if "uploads" in query:
            self.parts.clear()
            self.answer(_xml("InitiateMultipartUploadResult", UploadId="upload-1", Bucket="b", Key="k"))
            return
        numbers = [int(number) for number in re.findall(rb"<PartNumber>(\d+)</PartNumber>", body)] or list(self.parts)
        self.count(sum(self.parts[number][0] for number in numbers))
        joined = b"".join(self.parts[number][1] for number in sorted(self.parts))
        composite = f"{base64.b64encode(hashlib.sha256(joined).digest()).decode()}-{len(self.parts) or len(numbers)}"
        fields = {"Location": "x", "Bucket": "b", "Key": "k", "ETag": '"e"'}
        if joined:
            fields |= {"ChecksumSHA256": composite, "ChecksumType": "COMPOSITE"}
        self.answer(_xml("CompleteMultipartUploadResult", **fields))

    def get(self) -> None:
        self.answer(_xml("ListPartsResult", IsTruncated="false"))


def _xml(root: str, **fields: str) -> bytes:
    inner = "".join(f"<{name}>{escape(value)}</{name}>" for name, value in fields.items())
    return f'<?xml version="1.0"?><{root} xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{inner}</{root}>'.encode()


def serve(handler: type[PlainHandler], pair: Path, ready: Connection, settings: dict[str, Any]) -> None:
    """In a process of its own: ``settings`` become attributes of the handler's class."""
    for name, value in settings.items():
        setattr(handler, name, value)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair)
    # The handshake belongs to the connection's thread, not to the one that accepts.
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    ready.send(server.server_address[1])
    server.serve_forever()


@contextmanager
def running(handler: type[PlainHandler], folder: Path, **settings: Any) -> Iterator[tuple[str, str]]:
    """A server with a certificate of its own: its URL and the file of its authority."""
    authority = tls.make(folder, host="127.0.0.1").ca_file
    spawn = multiprocessing.get_context("spawn")
    mine, theirs = spawn.Pipe()
    process = spawn.Process(
        target=serve, args=(handler, authority.with_name("server.pem"), theirs, settings), daemon=True
    )
    process.start()
    try:
        if not mine.poll(30):
            raise RuntimeError(f"the server of {handler.__name__} did not start")
        yield f"https://127.0.0.1:{mine.recv()}", str(authority)
    finally:
        process.kill()
        process.join()


def told_by(url: str, ca: str) -> dict[str, Any]:
    """What a server says of itself."""
    with urllib.request.urlopen(f"{url}/_bench", context=ssl.create_default_context(cafile=ca), timeout=30) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


@contextmanager
def servers(folder: Path, file: Path) -> Iterator[dict[str, str]]:
    """Both servers; ``{"source": url, "sink": url, "ca": path}``."""
    places = [folder / "source", folder / "sink"]
    for place in places:
        place.mkdir()
    with (
        running(SourceHandler, places[0], path_to_file=file) as (source, source_ca),
        running(SinkHandler, places[1]) as (sink, sink_ca),
    ):
        both = folder / "both.pem"
        both.write_text(Path(source_ca).read_text() + Path(sink_ca).read_text())
        yield {"source": source, "sink": sink, "ca": str(both)}


def main() -> None:
    folder, file = map(Path, sys.argv[1:3])
    with servers(folder, file) as addresses:
        print(json.dumps(addresses), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
