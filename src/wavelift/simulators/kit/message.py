"""Requests and responses as a world sees them. Bodies are streams, so that a large one never has to fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol
from urllib.parse import parse_qsl, unquote

CHUNK: Final = 1 << 20
"""Bytes per read: hashing and writing a piece of this size releases the interpreter lock for most of the time."""
MAX_LINE: Final = 16 << 10
"""Bytes of one line of chunk framing."""


class BodyBroken(Exception):
    """The request's body ended early, or its framing does not match its headers."""


class ConnectionCut(Exception):
    """Close the connection now, with no answer: a fault rule or a reset asks for it."""


class Readable(Protocol):
    def readinto(self, buffer: memoryview, /) -> int: ...

    def readline(self, limit: int = -1, /) -> bytes: ...


class Body:
    """The request's payload, without its framing (content-length or HTTP chunks).

    ``bytes_read`` counts payload bytes. ``on_start`` is called before the first read.
    """

    def __init__(self, source: Readable, headers: Mapping[str, str], *, on_start: Callable[[], None]) -> None:
        self.bytes_read = 0
        self.cut_after: int | None = None
        self.trailers: dict[str, str] = {}
        self._content: bytes | None = None
        self._on_start: Callable[[], None] | None = on_start
        layer: _Limited | _Chunked
        if "chunked" in headers.get("transfer-encoding", "").lower():
            layer = _Chunked(source, self.trailers)
        else:
            layer = _Limited(source, int(headers.get("content-length") or 0))
        self._layer = layer

    def unframe(self) -> None:
        """Remove chunk framing from the payload too: some protocols chunk twice. Call before the first read."""
        self._layer = _Chunked(self._layer, self.trailers)

    def readinto(self, buffer: memoryview) -> int:
        """Number of bytes put into ``buffer``; 0 at the end, when ``trailers`` is complete. May raise ConnectionCut."""
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
        """The payload in pieces. They share one buffer: use each piece before you ask for the next."""
        buffer = memoryview(bytearray(CHUNK))
        while count := self.readinto(buffer):
            yield buffer[:count]

    @property
    def content(self) -> bytes:
        """The whole payload in memory: for small documents only."""
        # No cached_property: before Python 3.12 all instances share its lock, so a slow body would block every call.
        if self._content is None:
            self._content = b"".join(bytes(piece) for piece in self.chunks())
        return self._content

    def drain(self) -> None:
        """Read the rest, so that the connection can carry the next request."""
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
    """Chunk framing with trailers (RFC 9112, section 7.1)."""

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
                self._source.readinto(memoryview(bytearray(1)))  # reads the end of the outer framing

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
            raise BodyBroken("a chunk is longer than its header says")
        return count

    def readline(self, limit: int = -1, /) -> bytes:
        """A line, which may span chunks: for an inner framing."""
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
    """If ``stream`` is given, it is sent instead of ``body``, and ``length`` is its size in bytes."""

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
    """One call. Header names are lower-case; ``raw_path`` and ``raw_query`` are as received (percent-encoded).

    The world's ``identify`` sets ``service`` to ``part``, which fault rules match and counters count by.
    """

    method: str
    raw_path: str
    raw_query: str
    headers: Mapping[str, str]
    body: Body
    request_id: str
    service: str = ""
    operation: str = ""
    target: str = ""
    """The resource that the call is about: an id or a path."""
    part: int = 0
    """The number of the piece, if the call sends one numbered piece of a larger upload."""
    caller: str = ""
    """Who calls, in the words of the policies."""

    @property
    def path(self) -> str:
        return unquote(self.raw_path)

    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.raw_query, keep_blank_values=True))
