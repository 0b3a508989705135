"""Answers parsed from bytes, and one line that is asked several times."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from wavelift.base.wire import HEAD_LIMIT, Head, Line, WireError, parse_answer, parse_head

pytestmark = pytest.mark.unit

SHORT = b"HTTP/1.1 201 Created\r\nx-amz-Checksum: abc=\r\nContent-Length: 2\r\n\r\n{}"
CHUNKED = (
    b"HTTP/1.1 206 Partial Content\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nTail: x\r\n\r\n"
)
GET = b"GET / HTTP/1.1\r\n\r\n"


@given(cut=st.integers(0, len(SHORT) - 1))
def test_an_answer_is_whole_or_not_there_yet(cut: int) -> None:
    assert parse_answer(SHORT[:cut]) is None
    answer = parse_answer(SHORT)
    assert answer is not None
    assert (answer.status, answer.headers["x-amz-checksum"], answer.data) == (201, "abc=", b"{}")
    assert answer.head.lasting


@given(cut=st.integers(0, len(CHUNKED) - 1))
def test_a_chunked_answer_is_whole_or_not_there_yet(cut: int) -> None:
    assert parse_answer(CHUNKED[:cut]) is None
    answer = parse_answer(CHUNKED)
    assert answer is not None
    assert answer.data == b"hello world"


@pytest.mark.parametrize(
    ("head", "lasting"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 200\r\nConnection: Close\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\n\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n\r\n", True),
        (b"HTTP/1.1 100 Continue\r\nConnection: close\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", True),
        (b"HTTP/1.1 102 Processing\r\n\r\n" * 2000 + b"HTTP/1.1 200 OK\r\n\r\n", True),
    ],
)
def test_a_head_tells_whether_the_connection_lasts(head: bytes, lasting: bool) -> None:
    parsed = parse_head(head + b"rest")
    assert parsed is not None
    assert (parsed[0].status, parsed[0].lasting, parsed[1]) == (200, lasting, b"rest")


@pytest.mark.parametrize(
    "bad",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/2 200\r\n\r\n",
        b"HTTP/1.1 +20 OK\r\n\r\n",
        b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1_0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n",
        CHUNKED.replace(b"hello", b"hello!"),
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * HEAD_LIMIT,
    ],
)
def test_what_is_no_answer_is_an_error(bad: bytes) -> None:
    with pytest.raises(WireError):
        parse_answer(bad)


def test_204_and_304_have_no_body() -> None:
    answer = parse_answer(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert answer is not None
    assert answer.data == b""


def got(line: Line) -> Head:
    line.ask(GET)
    return line.answer()


def read(line: Line, limit: int) -> bytes:
    """The rest of the body, or its first ``limit`` bytes."""
    buffer = bytearray(limit)
    return bytes(buffer[: line.read_into(memoryview(buffer))])


@pytest.fixture
def pair() -> Iterator[tuple[Line, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(5)
    line = Line(ours)
    yield line, theirs
    line.close()
    theirs.close()


def test_one_line_takes_request_after_request(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    server.sendall(CHUNKED)
    assert got(line).status == 206
    assert not line.finished()
    buffer = bytearray(11)
    assert line.read_into(memoryview(buffer)) == 11
    assert buffer == b"hello world"
    assert line.finished()
    assert not line.dropped()
    server.sendall(SHORT)
    assert got(line).status == 201
    assert read(line, 100) == b"{}"
    assert line.finished()
    assert server.recv(1000) == GET * 2


def test_a_body_longer_than_the_buffer_leaves_the_line_unfit(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    server.sendall(SHORT)
    got(line)
    assert read(line, 1) == b"{"
    assert not line.finished()
    with pytest.raises(WireError, match="not read to its end"):
        line.ask(GET)


@pytest.mark.parametrize(
    "answer",
    [
        SHORT.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"),
        SHORT + b"HTTP/1.1 200 OK\r\n",  # unasked
    ],
)
def test_a_line_that_does_not_last_is_not_asked_again(pair: tuple[Line, socket.socket], answer: bytes) -> None:
    line, server = pair
    server.sendall(answer)
    got(line)
    assert read(line, 10) == b"{}"
    assert not line.finished()


@pytest.mark.parametrize("cut", [0, 10, len(SHORT) - 1, len(CHUNKED) - 4])
def test_an_early_end_is_an_error(pair: tuple[Line, socket.socket], cut: int) -> None:
    line, server = pair
    server.sendall((SHORT if cut < len(SHORT) else CHUNKED)[:cut])
    server.shutdown(socket.SHUT_WR)
    with pytest.raises(WireError, match="ended"):
        got(line)
        read(line, 100)
        line.finished()


def test_an_answer_up_to_the_connections_end_is_refused(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    server.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")
    got(line)
    with pytest.raises(WireError, match="has no length"):
        read(line, 3)


def test_a_body_up_to_the_connections_end_is_read_where_it_is_expected(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    server.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")
    line.ask(GET)
    line.answer(to_end=True)
    assert read(line, 2) == b"ab"
    server.sendall(b"defg")
    server.shutdown(socket.SHUT_WR)
    assert read(line, 100) == b"cdefg"
    assert read(line, 100) == b""
    with pytest.raises(WireError):
        line.ask(GET)


def test_a_chunk_that_is_longer_than_it_said_is_an_error(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    server.sendall(CHUNKED.replace(b"hello", b"hello!"))
    got(line)
    with pytest.raises(WireError, match="longer than its announced size"):
        read(line, 100)


def test_a_closed_or_talking_server_is_noticed(pair: tuple[Line, socket.socket]) -> None:
    line, server = pair
    assert not line.dropped()
    server.shutdown(socket.SHUT_WR)
    assert line.dropped()


def test_silence_ends_with_the_time_out() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(0.01)
        with pytest.raises(TimeoutError):
            got(Line(ours))


@given(data=st.binary(max_size=200))
@example(data=b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: 1\r\n" * 1000)
@example(data=b"HTTP/1.1 200 OK\r\nContent-Length: \xb2\r\n\r\n")
def test_whatever_a_server_sends_ends_as_an_answer_or_as_a_cut_connection(data: bytes) -> None:
    for sent in (data, b"HTTP/1.1 200 OK\r\n" + data, b"HTTP/1.1 206 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + data):
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(sent)
            theirs.close()
            line = Line(ours)
            try:
                line.answer(to_end=True)
                read(line, 4096)
                line.finished()
            except OSError:
                continue
