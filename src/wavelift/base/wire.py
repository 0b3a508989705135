"""HTTP/1.1 over one socket, for calls that transfer disk data. Bodies use the caller's buffers directly.

The caller opens the connection (names, proxies, TLS). urllib3 and http.client use as much CPU for each request as the
decryption of 512 KiB. In this module, the head of a request is one write and the head of an answer is parsed once.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from urllib3 import HTTPHeaderDict
from urllib3.util import wait_for_read

from wavelift.base.net import break_off
from wavelift.base.units import KIB

HEAD_LIMIT: Final = 64 * KIB
"""Maximum bytes of an answer's head, and of one line of a chunked body."""
_END: Final = b"\r\n\r\n"
_LONGER: Final = "a chunk is longer than its announced size"
_ENDLESS: Final = 1 << 62
_LINE: Final = 64
"""Bytes that are searched at a time for the end of a line. The line with a chunk's size is shorter."""
_TRAILERS: Final = 100
_BETWEEN: Final = re.compile(rb"\r\n([0-9A-Fa-f]{1,15})\r\n")
"""The end of a chunk and the size of the next one."""
_STATUS: Final = re.compile("[0-9]{3}")
_CHUNK: Final = re.compile(rb"([0-9A-Fa-f]{1,15})\s*(;|$)")


class WireError(ConnectionError):
    """The received data is not HTTP/1.1, or ended too early. The connection can't be used again."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer."""

    status: int
    reason: str
    headers: HTTPHeaderDict
    lasting: bool
    """Whether the connection accepts another request after the body has been read."""

    @property
    def length(self) -> int | None:
        """Bytes of the body. None: the body is chunked, or ends with the connection.

        :raises WireError: the header is not a valid length.
        """
        if self.status in (204, 304):
            return 0
        if self.chunked or (told := self.headers.get("Content-Length")) is None:
            return None
        if not (told.isascii() and told.isdigit() and len(told) < 19):
            raise WireError(f"invalid Content-Length '{told[:20]}'")
        return int(told)

    @property
    def chunked(self) -> bool:
        return "chunked" in self.headers.get("Transfer-Encoding", "").lower()


@dataclass(frozen=True, slots=True)
class Answer:
    """A short answer that was read completely."""

    head: Head
    data: bytes

    @property
    def status(self) -> int:
        return self.head.status

    @property
    def headers(self) -> HTTPHeaderDict:
        return self.head.headers


def parse_head(data: bytes) -> tuple[Head, bytes] | None:
    """The head of the final answer in ``data``, and the bytes after it. None: the head is not complete yet.

    :raises WireError: not HTTP/1.x, or the head is too long.
    """
    rest, code = data, "1"
    while code.startswith("1"):  # interim answers (1xx) precede the final answer
        text, found, rest = rest.partition(_END)
        if not found:
            if len(data) > HEAD_LIMIT:
                raise WireError(f"the head of the answer does not end within {HEAD_LIMIT} bytes")
            return None
        start, *lines = text.decode("latin-1").split("\r\n")
        version, _, status = start.partition(" ")
        code, _, reason = status.partition(" ")
        if not version.startswith("HTTP/1.") or not _STATUS.fullmatch(code):
            raise WireError(f"expected an HTTP answer, received '{start[:40]}'")
    headers = HTTPHeaderDict()
    for line in lines:
        name, _, value = line.partition(":")
        headers.add(name, value.strip())
    wish = headers.get("Connection", "").lower()
    lasting = "close" not in wish and (version != "HTTP/1.0" or "keep-alive" in wish)
    return Head(int(code), reason, headers, lasting), rest


def parse_answer(data: bytes) -> Answer | None:
    """The complete answer in ``data``. None: it is not complete yet, or its body ends with the connection.

    :raises WireError: as :func:`parse_head`, or if there are more bytes than announced.
    """
    parsed = parse_head(data)
    if parsed is None:
        return None
    head, rest = parsed
    if head.chunked:
        body = _unchunked(rest)
        return None if body is None else Answer(head, body)
    length = head.length
    if length is None or len(rest) < length:
        return None
    if len(rest) > length:
        raise WireError(f"received {len(rest)} bytes, but {length} were announced")
    return Answer(head, rest)


def _unchunked(data: bytes) -> bytes | None:
    body = b""
    while True:
        line, found, data = data.partition(b"\r\n")
        if not found:
            return None
        size = _chunk_size(line)
        if not size:
            return body if data == b"\r\n" or data.endswith(_END) else None
        if len(data) < size + 2:
            return None
        if data[size : size + 2] != b"\r\n":
            raise WireError(_LONGER)
        body, data = body + data[:size], data[size + 2 :]


def _chunk_size(line: bytes) -> int:
    match = _CHUNK.match(line)
    if match is None:
        raise WireError(f"expected the size of a chunk, received {line[:20]!r}")
    return int(match[1], 16)


class Line:
    """A connected socket that sends one request after another.

    The socket's time-out applies to each wait. After an error, or after an answer that was not read to its end, the
    line can't be used for another request.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._rest = memoryview(b"")
        """Bytes that were received but not yet returned to the caller."""
        self._body: Iterator[int] = iter(())
        """Lengths of the pieces of the answer's body."""
        self._left = 0
        """Bytes of the current piece that are not read yet."""
        self._fit = True
        self._open_ended = False
        """Whether the body ends with the connection."""

    def close(self) -> None:
        self._fit = False
        self._sock.close()

    def dropped(self) -> bool:
        """Whether the other side has closed the connection, or has sent data without a request."""
        return wait_for_read(self._sock, timeout=0.0)

    def cut(self) -> None:
        """Make a blocked read in another thread fail immediately. The line can't be used again."""
        break_off(self._sock)

    def ask(self, head: bytes) -> None:
        """Send a request without a body. :meth:`answer` waits for the answer.

        :raises OSError: the connection was interrupted or timed out.
        :raises WireError: the last answer was not read to its end.
        """
        if not self.finished():
            raise WireError("the last answer was not read to its end")
        self._fit = False
        self._sock.sendall(head)

    def answer(self, *, to_end: bool = False) -> Head:
        """Wait for the head of the answer.

        :param to_end: accept a body without a length, which ends with the connection. It can't be checked whether such
            a body is complete.
        :raises OSError: the connection was interrupted or timed out.
        :raises WireError: no valid answer.
        """
        data = b""
        while (parsed := parse_head(data)) is None:
            data += self._received(HEAD_LIMIT)
        answer, rest = parsed
        self._rest = memoryview(rest)
        self._body, self._left, self._open_ended = self._pieces(answer, to_end), 0, False
        return answer

    def read_into(self, view: memoryview) -> int:
        """Fill ``view`` from the body. Fewer bytes are returned only at the body's end.

        :raises WireError: the connection ended within the body.
        """
        done = 0
        while done < len(view):
            if not self._left:
                self._left = next(self._body, 0)
                if not self._left:
                    break
            want = view[done : done + self._left]
            count = self._take(want) or self._sock.recv_into(want)
            if not count and self._open_ended:
                self._left = 0
                break
            if not count:
                raise WireError(f"the connection ended {self._left} bytes before the end of the body")
            done += count
            self._left -= count
        return done

    def finished(self) -> bool:
        """Whether the body has been read to its end, so that another request may be sent."""
        self._left = self._left or next(self._body, 0)
        return self._fit and not self._left

    def _pieces(self, head: Head, to_end: bool) -> Iterator[int]:
        if head.chunked:
            size = _chunk_size(self._text_line())
            while size:
                yield size
                if between := _BETWEEN.match(self._rest):  # nearly always: all of it has been received
                    self._rest = self._rest[between.end() :]
                    size = int(between[1], 16)
                    continue
                if self._text_line():
                    raise WireError(_LONGER)
                size = _chunk_size(self._text_line())
            for _ in range(_TRAILERS):
                if not self._text_line():
                    break
            else:
                raise WireError("a chunked body has too many trailers")
        elif (length := head.length) is None:
            if not to_end:
                raise WireError("the answer has no length")
            self._open_ended = True
            yield _ENDLESS
            return  # the line can't be used again
        elif length:
            yield length
        self._fit = head.lasting and not len(self._rest)

    def _text_line(self) -> bytes:
        line = b""
        while not line.endswith(b"\r\n"):
            if len(line) > HEAD_LIMIT:
                raise WireError("a line in a chunked body is too long")
            if not len(self._rest):
                self._rest = memoryview(self._received(HEAD_LIMIT))
            ahead = bytes(self._rest[:_LINE])
            end = ahead.find(b"\n") + 1 or len(ahead)
            line += ahead[:end]
            self._rest = self._rest[end:]
        return line[:-2]

    def _take(self, view: memoryview) -> int:
        """Copy bytes that were already received."""
        count = min(len(self._rest), len(view))
        view[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    def _received(self, most: int) -> bytes:
        data = self._sock.recv(most)
        if not data:
            raise WireError("the connection ended before the answer")
        return data
