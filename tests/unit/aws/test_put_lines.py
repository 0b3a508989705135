"""Many requests from one thread, against a server at the other end of socket pairs: each item ends in one way."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from wavelift.adapters.aws import put_lines
from wavelift.adapters.aws.put_lines import PutCalls, PutLines
from wavelift.base.run import CancelFlag

pytestmark = pytest.mark.unit

BODY = bytes(range(256)) * 2048  # 512 KiB
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"


class Server:
    """Plays a script for each connection: a list of what to do with one request after the other."""

    def __init__(self, *scripts: Callable[[socket.socket], None], refusals: int = 0) -> None:
        self.scripts = list(scripts)
        self.dialled = 0
        self.refusals = refusals
        self.heads: list[bytes] = []
        self.threads: list[threading.Thread] = []
        self.ends: list[socket.socket] = []

    def dial(self) -> socket.socket:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError("nobody there")
        script = self.scripts[min(self.dialled, len(self.scripts) - 1)]
        self.dialled += 1
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._play, args=(script, theirs))
        self.threads.append(thread)
        self.ends.append(theirs)
        thread.start()
        return ours

    def _play(self, script: Callable[[socket.socket], None], sock: socket.socket) -> None:
        try:
            script(sock)
        except OSError:
            pass
        finally:
            sock.close()

    def request(self, sock: socket.socket) -> bytes:
        """One request's body; b"" at the end."""
        data = b""
        while b"\r\n\r\n" not in data:
            got = sock.recv(65536)
            if not got:
                return b""
            data += got
        head, _, body = data.partition(b"\r\n\r\n")
        self.heads.append(head)
        while len(body) < len(BODY):
            got = sock.recv(65536)
            if not got:
                raise ConnectionError
            body += got
        return body

    def serve(self, sock: socket.socket, answer: bytes = CREATED) -> None:
        while self.request(sock):
            sock.sendall(answer)

    def end(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


class Desk:
    """The caller: notes how every item ended."""

    def __init__(
        self, server: Server, *, lines: int = 4, silence_s: float = 30.0, pace: Callable[[], float] = lambda: 0
    ) -> None:
        self.server = server
        self.ended: queue.Queue[tuple[str, int, Any]] = queue.Queue()
        self.failed: list[BaseException] = []
        self.stop = CancelFlag()
        calls: PutCalls[int] = PutCalls(
            dial=server.dial,
            head=self.head,
            done=lambda item, answer: self.ended.put(("done", item, answer)),
            trouble=lambda item, what: self.ended.put(("trouble", item, what)),
            dropped=lambda item: self.ended.put(("dropped", item, None)),
            pace=pace,
            failed=self.failed.append,
        )
        self.puts: PutLines[int] = PutLines(calls, stop=self.stop, lines=lines, silence_s=silence_s)

    @staticmethod
    def head(item: int) -> bytes:
        return f"PUT /{item} HTTP/1.1\r\nContent-Length: {len(BODY)}\r\n\r\n".encode()

    def add(self, item: int) -> None:
        assert self.puts.add(item, memoryview(BODY))

    def next(self) -> tuple[str, int, Any]:
        return self.ended.get(timeout=60)

    def close(self) -> None:
        self.stop.set("the test ends")
        self.puts.close()


Open = Callable[..., Desk]


@pytest.fixture
def desk() -> Iterator[Open]:
    made: list[Desk] = []

    def opened(server: Server, **options: Any) -> Desk:
        made.append(Desk(server, **options))
        return made[-1]

    yield opened
    for one in made:
        one.close()
        one.close()  # idempotent
        one.server.end()
        assert not one.puts.add(99, memoryview(BODY)), "it has ended"
        assert not one.failed


def test_every_item_is_done_once_over_few_connections(desk: Open) -> None:
    server = Server(lambda sock: server.serve(sock))
    one = desk(server, lines=3)
    for item in range(40):
        one.add(item)
    ends = [one.next() for _ in range(40)]
    assert sorted(item for _, item, _ in ends) == list(range(40))
    assert {kind for kind, _, _ in ends} == {"done"}
    assert 1 <= server.dialled <= 3
    assert sorted(server.heads)[0].startswith(b"PUT /0 ")


def test_another_answer_is_the_callers_trouble_and_the_line_lives_on(desk: Open) -> None:
    server = Server(lambda sock: server.serve(sock, b"HTTP/1.1 503 Slow\r\nContent-Length: 4\r\n\r\nslow"))
    one = desk(server, lines=1)
    for item in range(3):
        one.add(item)
        kind, _, answer = one.next()
        assert (kind, answer.status, answer.data) == ("trouble", 503, b"slow")
    assert server.dialled == 1


def test_a_line_that_the_server_closed_meanwhile_is_replaced_unseen(desk: Open) -> None:
    closed = threading.Event()

    def once(sock: socket.socket) -> None:
        server.request(sock)
        sock.sendall(CREATED)
        sock.close()
        closed.set()

    server = Server(once, lambda sock: server.serve(sock))
    one = desk(server, lines=1)
    one.add(1)
    assert one.next()[0] == "done"
    assert closed.wait(60)
    while one.puts._lines:  # its thread hears of it within a tick
        threading.Event().wait(0.01)
    one.add(2)
    assert one.next()[:2] == ("done", 2)
    assert server.dialled == 2


def test_connection_close_in_an_answer_is_obeyed(desk: Open) -> None:
    server = Server(lambda sock: server.serve(sock, CREATED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")))
    one = desk(server, lines=1)
    for item in range(3):
        one.add(item)
        assert one.next()[:2] == ("done", item)
    assert server.dialled == 3


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 201 Cre", b"SSH-2.0\r\n\r\n"])
def test_a_cut_or_what_is_no_answer_is_trouble(desk: Open, answer: bytes) -> None:
    def cut(sock: socket.socket) -> None:
        server.request(sock)
        sock.sendall(answer)

    server = Server(cut, lambda sock: server.serve(sock))
    one = desk(server, lines=1)
    one.add(1)
    kind, item, error = one.next()
    assert (kind, item) == ("trouble", 1)
    assert isinstance(error, ConnectionError)
    one.add(2)
    assert one.next()[:2] == ("done", 2)


@pytest.mark.parametrize("status", [400, 201])
def test_an_answer_before_the_bodys_end_is_trouble_and_ends_the_line(desk: Open, status: int) -> None:
    freed = threading.Event()

    def hasty(sock: socket.socket) -> None:
        sock.recv(100)
        sock.sendall(f"HTTP/1.1 {status} Hasty\r\nContent-Length: 0\r\n\r\n".encode())
        freed.wait(60)

    server = Server(hasty, lambda sock: server.serve(sock))
    one = desk(server, lines=1)
    one.add(1)
    kind, _, what = one.next()
    freed.set()
    assert kind == "trouble"
    assert getattr(what, "status", 201) == status
    one.add(2)
    assert one.next()[:2] == ("done", 2)


def test_silence_is_given_up(desk: Open) -> None:
    freed = threading.Event()

    def mute(sock: socket.socket) -> None:
        server.request(sock)
        freed.wait(60)

    server = Server(mute, lambda sock: server.serve(sock))
    one = desk(server, lines=1, silence_s=0.05)
    one.add(1)
    kind, _, error = one.next()
    freed.set()
    assert (kind, str(error)) == ("trouble", "no byte for 0 s")


def test_a_failed_dial_is_the_trouble_of_one_item(desk: Open) -> None:
    server = Server(lambda sock: server.serve(sock), refusals=1)
    one = desk(server, lines=1)
    one.add(1)
    kind, item, error = one.next()
    assert (kind, item, str(error)) == ("trouble", 1, "nobody there")
    one.add(2)
    assert one.next()[:2] == ("done", 2)


def test_an_error_about_the_head_is_the_items_trouble(desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(item: int) -> bytes:
        raise PermissionError("no credentials")

    monkeypatch.setattr(Desk, "head", staticmethod(refused))
    server = Server(lambda sock: server.serve(sock))
    one = desk(server)
    one.add(1)
    kind, _, error = one.next()
    assert (kind, str(error)) == ("trouble", "no credentials")


def test_the_pace_is_kept_one_booking_for_each_request(desk: Open) -> None:
    booked: list[float] = []

    def pace() -> float:
        booked.append(0.01 * len(booked))
        return 0.01

    server = Server(lambda sock: server.serve(sock))
    one = desk(server, pace=pace)
    for item in range(5):
        one.add(item)
    assert {one.next()[0] for _ in range(5)} == {"done"}
    assert len(booked) == 5


def test_after_the_wish_to_stop_answers_are_waited_for_and_nothing_begins(desk: Open) -> None:
    asked, may_answer = threading.Event(), threading.Event()

    def slow(sock: socket.socket) -> None:
        server.request(sock)
        asked.set()
        may_answer.wait(60)
        sock.sendall(CREATED)

    server = Server(slow)
    one = desk(server, lines=1)
    one.add(1)
    assert asked.wait(60)
    one.add(2)
    one.stop.set("enough")
    closing = threading.Thread(target=one.puts.close)
    closing.start()
    may_answer.set()
    closing.join(60)
    assert {one.next()[:2] for _ in range(2)} == {("done", 1), ("dropped", 2)}


def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(desk: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(put_lines, "LINGER_S", 0.05)
    asked, freed = threading.Event(), threading.Event()

    def mute(sock: socket.socket) -> None:
        server.request(sock)
        asked.set()
        freed.wait(60)

    server = Server(mute)
    one = desk(server, lines=1)
    one.add(1)
    assert asked.wait(60)
    one.close()
    freed.set()
    assert one.next()[:2] == ("dropped", 1)


def test_an_error_of_the_thread_itself_is_told_and_leaves_no_item_behind() -> None:
    server = Server(lambda sock: server.serve(sock))
    one = Desk(server, lines=1)

    def broken() -> float:
        raise ZeroDivisionError

    one.puts._calls = replace(one.puts._calls, pace=broken)
    one.add(1)
    assert one.next()[:2] == ("dropped", 1)
    one.close()
    server.end()
    assert [type(error) for error in one.failed] == [ZeroDivisionError]
