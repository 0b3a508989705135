"""Requests and responses as the handlers see them; bodies are streams, so a part of any size stays out of memory."""

from __future__ import annotations

import base64
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol
from urllib.parse import parse_qsl, unquote

CHUNK: Final = 1 << 20
"""Bytes moved at once: large enough that hashing and writing leave the interpreter lock alone for long."""
MAX_LINE: Final = 16 << 10
STREAMING_TRAILER: Final = "STREAMING-UNSIGNED-PAYLOAD-TRAILER"


class BodyBroken(Exception):
    """The request's body ended early or is not framed as its headers say."""


class ConnectionCut(Exception):
    """A fault rule wants the connection gone, here and without a word."""


class Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int: ...

    def readline(self, limit: int = -1, /) -> bytes: ...


class Body:
    """The request's payload: content-length or HTTP chunks on the outside, aws-chunked perhaps on the inside."""

    def __init__(self, source: Readable, headers: Mapping[str, str], *, on_start: Callable[[], None]) -> None:
        self.bytes_read = 0
        self.cut_after: int | None = None
        self.trailers: dict[str, str] = {}
        self._on_start: Callable[[], None] | None = on_start
        layer: _Limited | _Chunked
        if "chunked" in headers.get("transfer-encoding", "").lower():
            layer = _Chunked(source, self.trailers)
        else:
            layer = _Limited(source, int(headers.get("content-length") or 0))
        if headers.get("x-amz-content-sha256", "") == STREAMING_TRAILER:
            layer = _Chunked(layer, self.trailers)
        self._layer = layer

    def readinto(self, buffer: memoryview) -> int:
        """Bytes put into ``buffer``; 0 at the end, by when the trailers are known. May raise :class:`ConnectionCut`."""
        if self._on_start is not None:
            self._on_start()
            self._on_start = None
        if self.cut_after is not None:
            left = self.cut_after - self.bytes_read
            if left <= 0:
                raise ConnectionCut
            buffer = buffer[:left]
        count = self._layer.readinto(buffer)
        self.bytes_read += count
        return count

    def chunks(self) -> Iterator[memoryview]:
        """The payload in pieces that share one buffer: use each before asking for the next."""
        buffer = memoryview(bytearray(CHUNK))
        while count := self.readinto(buffer):
            yield buffer[:count]

    @cached_property
    def content(self) -> bytes:
        """All of it in memory: for the small documents of control calls."""
        return b"".join(bytes(piece) for piece in self.chunks())

    @property
    def awaited(self) -> bool:
        """Whether the caller still waits for our leave to send it (``Expect: 100-continue``)."""
        return self._on_start is not None

    def drain(self) -> None:
        """Read what is left, so that the connection can carry the next request."""
        for _ in self.chunks():
            pass


class _Limited:
    def __init__(self, source: Readable, length: int) -> None:
        self._source, self._left = source, length

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._left:
            return 0
        count = self._source.readinto(buffer[: self._left])
        if not count:
            raise BodyBroken(f"{self._left} bytes of the body never came")
        self._left -= count
        return count

    def readline(self, limit: int = -1, /) -> bytes:
        line = self._source.readline(min(self._left, limit if limit >= 0 else MAX_LINE))
        self._left -= len(line)
        return line


class _Chunked:
    """Chunk framing: HTTP's own and aws-chunked's are alike, trailers included."""

    def __init__(self, source: Readable, trailers: dict[str, str]) -> None:
        self._source, self._trailers, self._left, self._done = source, trailers, 0, False
        self._buffered = b""

    def _next_chunk(self) -> None:
        size = self._source.readline(MAX_LINE)
        try:
            self._left = int(size.split(b";")[0].strip(), 16)
        except ValueError as error:
            raise BodyBroken(f"not a chunk header: {size[:40]!r}") from error
        if not self._left:
            self._done = True
            while line := self._source.readline(MAX_LINE).strip():
                name, _, value = line.decode("latin-1").partition(":")
                self._trailers[name.strip().lower()] = value.strip()
            if isinstance(self._source, _Chunked):
                self._source.readinto(memoryview(bytearray(1)))  # lets the framing outside come to its own end

    def readinto(self, buffer: memoryview, /) -> int:
        if self._buffered:
            count = min(len(buffer), len(self._buffered))
            buffer[:count] = self._buffered[:count]
            self._buffered = self._buffered[count:]
            return count
        if not self._left and not self._done:
            self._next_chunk()
        if self._done:
            return 0
        count = self._source.readinto(buffer[: self._left])
        if not count:
            raise BodyBroken("the body ended inside a chunk")
        self._left -= count
        if not self._left and self._source.readline(MAX_LINE) not in {b"\r\n", b"\n"}:
            raise BodyBroken("a chunk is longer than it says")
        return count

    def readline(self, limit: int = -1, /) -> bytes:
        """A line across chunks, for an inner framing."""
        line = bytearray()
        while not line.endswith(b"\n") and len(line) < MAX_LINE:
            piece = memoryview(bytearray(64))
            count = self.readinto(piece)
            if not count:
                break
            data = bytes(piece[:count])
            cut = data.find(b"\n") + 1
            if cut:
                self._buffered = data[cut:] + self._buffered
                data = data[:cut]
            line += data
        return bytes(line)


@dataclass(slots=True)
class Response:
    """``stream`` wins over ``body`` and comes with its ``length``."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    stream: Iterator[bytes | memoryview] | None = None
    length: int = 0

    def pieces(self) -> Iterator[bytes | memoryview]:
        return self.stream if self.stream is not None else iter((self.body,))

    @property
    def size(self) -> int:
        return self.length if self.stream is not None else len(self.body)


@dataclass(slots=True)
class Request:
    """One call. Header names are lower-case; ``raw_path`` and ``raw_query`` are as they came."""

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: Body
    request_id: str
    service: str = ""
    operation: str = ""
    target: str = ""
    """What the call is about, for rules and counters: ``bucket/key`` or a snapshot's id."""
    part: int = 0
    environ: dict[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.raw_query, keep_blank_values=True))


class Digests:
    """The checksums of one body, computed in one pass: SHA-256 always, others when the caller states one."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        trailer = headers.get("x-amz-trailer", "").lower()
        stated = {name for name in headers if name.startswith("x-amz-checksum-")} | {trailer}
        self._sha256 = hashlib.sha256()
        self._sha1 = hashlib.sha1(usedforsecurity=False) if "x-amz-checksum-sha1" in stated else None
        self._crc32: int | None = 0 if "x-amz-checksum-crc32" in stated else None
        self._md5 = hashlib.md5(usedforsecurity=False) if "content-md5" in headers else None
        self.size = 0

    def update(self, piece: bytes | memoryview) -> None:
        self.size += len(piece)
        self._sha256.update(piece)
        if self._sha1 is not None:
            self._sha1.update(piece)
        if self._crc32 is not None:
            self._crc32 = zlib.crc32(piece, self._crc32)
        if self._md5 is not None:
            self._md5.update(piece)

    @property
    def sha256(self) -> bytes:
        return self._sha256.digest()

    @property
    def md5(self) -> bytes | None:
        return self._md5.digest() if self._md5 is not None else None

    def checksum(self, algorithm: str) -> bytes | None:
        """By S3's name of the algorithm (``SHA256``); None when it was not computed."""
        if algorithm == "SHA256":
            return self.sha256
        if algorithm == "SHA1" and self._sha1 is not None:
            return self._sha1.digest()
        if algorithm == "CRC32" and self._crc32 is not None:
            return self._crc32.to_bytes(4, "big")
        return None


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
