"""One thread keeps many requests with a body in flight, over connections that stay open.

A thread per request would spend more CPU time on switching threads than on encryption. This module only does the plain
case. If an answer is not 2xx, or there is none, the request goes back to the caller, which retries it.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from wavelift.base.run import CancelFlag
from wavelift.base.units import KIB
from wavelift.base.wire import Answer, WireError, parse_answer

DIALERS: Final = 16
"""Connections opened at the same time: names, proxies and TLS handshakes block."""
TICK_S: Final = 0.2
"""How soon the wish to stop and a silent connection are noticed."""
LINGER_S: Final = 5.0
"""For so long after the wish to stop an answer is waited for: what AWS took need not be sent by the next try."""
LONGEST_ANSWER: Final = 256 * KIB
"""Bytes; an answer to a put is a few hundred."""
_RECEIVE: Final = 64 * KIB
_NOT_YET: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)

_Item = TypeVar("_Item")


@dataclass(slots=True, eq=False)
class _Request(Generic[_Item]):
    item: _Item
    body: memoryview


@dataclass(slots=True, eq=False)
class _Line(Generic[_Item]):
    """A connection; idle without a request."""

    sock: socket.socket
    request: _Request[_Item] | None = None
    unsent: list[memoryview] = field(default_factory=list)
    received: bytes = b""
    silent_at: float = 0.0
    """Monotonic time at which the other side has kept silent for too long."""
    writing: bool = False
    """Whether the selector waits for room in the socket's buffer as well."""


@dataclass(frozen=True, slots=True)
class PutCalls(Generic[_Item]):
    """What :class:`PutLines` calls. Every item ends in exactly one of ``done``, ``trouble`` and ``dropped``.

    :param dial: opens a connection; blocking, called by threads of its own.
    :param head: request line and headers of an item, to the empty line; what it raises becomes its trouble.
    :param done: an item and its 2xx answer.
    :param trouble: an item and another answer, or why there is none.
    :param dropped: an item that was not sent, or not answered, before the end.
    :param pace: books one request; in how many seconds it may begin.
    :param failed: an error of this thread itself; nothing is sent after it.
    """

    dial: Callable[[], socket.socket]
    head: Callable[[_Item], bytes]
    done: Callable[[_Item, Answer], None]
    trouble: Callable[[_Item, Answer | Exception], None]
    dropped: Callable[[_Item], None]
    pace: Callable[[], float]
    failed: Callable[[BaseException], None]


class PutLines(Generic[_Item]):
    """Sends items over many connections from one thread, which makes all ``calls`` but ``dial``.

    :param stop: the wish to stop: no request begins or goes on; answers are waited for :data:`LINGER_S`.
    :param lines: connections at most.
    :param silence_s: seconds without a byte in either direction after which a request is given up.
    """

    def __init__(self, calls: PutCalls[_Item], *, stop: CancelFlag, lines: int, silence_s: float) -> None:
        self._calls = calls
        self._stop = stop
        self._most = lines
        self._silence_s = silence_s
        self._queue: deque[_Request[_Item]] = deque()
        self._due: float | None = None
        """When the first of the queue may begin; None: not booked yet."""
        self._lines: set[_Line[_Item]] = set()
        self._idle: list[_Line[_Item]] = []
        self._dialled: deque[socket.socket | Exception] = deque()
        self._dialling = 0
        self._dialers = ThreadPoolExecutor(DIALERS, thread_name_prefix="put-dial")
        self._selector = selectors.DefaultSelector()
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._selector.register(self._ear, selectors.EVENT_READ)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ended = False
        """Nothing is taken any more."""
        self._closed = False

    def add(self, item: _Item, body: memoryview) -> bool:
        """Send it soon; False: it ended already, and the item is the caller's still."""
        with self._lock:
            if self._ended:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="put-lines")
                thread.start()
                self._thread = thread
            self._queue.append(_Request(item, body))
            self._ring()
        return True

    def close(self) -> None:
        """Wait for the end; ``stop`` must be set. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            self._ended = True
        self._ring()
        if self._thread is not None:
            self._thread.join()
        self._dialers.shutdown(wait=True, cancel_futures=True)
        for sock in self._dialled:
            if isinstance(sock, socket.socket):
                sock.close()
        self._selector.close()
        self._bell.close()
        self._ear.close()

    def _ring(self) -> None:
        try:
            self._bell.send(b"\0")
        except BlockingIOError:
            pass  # the ear is full: it will wake

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._serve()
            self._linger()
        except BaseException as error:
            self._calls.failed(error)
        finally:
            with self._lock:
                self._ended = True
            for line in list(self._lines):
                self._drop(line)
            while self._queue:
                self._calls.dropped(self._queue.popleft().item)

    def _serve(self) -> None:
        check = 0.0
        while not self._stop.is_set():
            self._begin()
            self._select(self._pause())
            now = time.monotonic()
            if now >= check:
                check = now + TICK_S
                for line in [line for line in self._lines if line.request and now >= line.silent_at]:
                    self._lose(line, TimeoutError(f"no byte for {self._silence_s:.0f} s"))

    def _linger(self) -> None:
        self._idle.clear()
        for line in [line for line in self._lines if line.unsent or line.request is None]:
            self._drop(line)
        until = time.monotonic() + LINGER_S
        while self._lines and time.monotonic() < until:
            self._select(TICK_S)
            for line in self._idle:
                self._drop(line)
            self._idle.clear()

    def _pause(self) -> float:
        if self._queue and self._idle and self._due is not None:
            return min(TICK_S, max(0.0, self._due - time.monotonic()))
        return TICK_S

    def _select(self, seconds: float) -> None:
        for key, events in self._selector.select(seconds):
            line: _Line[_Item] | None = key.data
            if line is None:
                self._hear()
            elif line in self._lines:
                self._turn(line, events)

    def _hear(self) -> None:
        try:
            self._ear.recv(_RECEIVE)
        except BlockingIOError:
            return
        while self._dialled:
            self._dialling -= 1
            sock = self._dialled.popleft()
            if isinstance(sock, socket.socket):
                line: _Line[_Item] = _Line(sock)
                self._selector.register(sock, selectors.EVENT_READ, line)
                self._lines.add(line)
                self._idle.append(line)
            elif self._queue:
                self._calls.trouble(self._queue.popleft().item, sock)

    def _begin(self) -> None:
        """Start what may start: there is a connection, and it is time."""
        while self._queue:
            if not self._idle:
                self._dial_more()
                return
            if self._due is None:
                self._due = time.monotonic() + self._calls.pace()
            if self._due > time.monotonic():
                return
            self._due = None
            request = self._queue.popleft()
            try:
                head = self._calls.head(request.item)
            except Exception as error:
                self._calls.trouble(request.item, error)
                continue
            line = self._idle.pop()
            line.request = request
            line.unsent = [memoryview(head), request.body]
            line.received = b""
            self._turn(line, selectors.EVENT_WRITE)

    def _dial_more(self) -> None:
        room = self._most - len(self._lines)
        while self._dialling < min(len(self._queue), DIALERS, room):
            self._dialling += 1
            self._dialers.submit(self._connect)

    def _connect(self) -> None:
        try:
            sock: socket.socket | Exception = self._calls.dial()
        except Exception as error:
            sock = error
        if isinstance(sock, socket.socket):
            sock.setblocking(False)
        self._dialled.append(sock)
        self._ring()

    def _turn(self, line: _Line[_Item], events: int) -> None:
        try:
            answer = self._receive(line) if events & selectors.EVENT_READ else None
            if answer is None and events & selectors.EVENT_WRITE:
                self._send(line)
        except OSError as error:
            self._lose(line, error)
            return
        if answer is not None:
            self._answered(line, answer)

    def _send(self, line: _Line[_Item]) -> None:
        """As much as the socket takes."""
        line.silent_at = time.monotonic() + self._silence_s
        unsent = line.unsent
        try:
            while unsent:
                rest = unsent[0][line.sock.send(unsent[0]) :]
                if rest:
                    unsent[0] = rest
                else:
                    del unsent[0]
        except _NOT_YET:
            pass
        if line.writing != bool(unsent):
            line.writing = bool(unsent)
            events = selectors.EVENT_READ | (selectors.EVENT_WRITE if unsent else 0)
            self._selector.modify(line.sock, events, line)

    def _receive(self, line: _Line[_Item]) -> Answer | None:
        """The answer, once it is whole.

        :raises OSError: cut, or no HTTP.
        """
        while True:
            try:
                data = line.sock.recv(_RECEIVE)
            except _NOT_YET:
                return None
            if not data:
                raise WireError("the connection ended where an answer should come")
            if line.request is None:
                raise WireError("an answer that nobody asked for")
            line.silent_at = time.monotonic() + self._silence_s
            line.received += data
            if len(line.received) > LONGEST_ANSWER:
                raise WireError(f"an answer of more than {LONGEST_ANSWER} bytes")
            if answer := parse_answer(line.received):
                return answer

    def _answered(self, line: _Line[_Item], answer: Answer) -> None:
        request, line.request = line.request, None
        assert request is not None
        if answer.head.lasting and not line.unsent:
            self._idle.append(line)
        else:
            self._drop(line)
        if answer.status // 100 != 2:
            self._calls.trouble(request.item, answer)
        elif line.unsent:
            self._calls.trouble(request.item, WireError(f"'{answer.status}' before the request's end"))
        else:
            self._calls.done(request.item, answer)

    def _lose(self, line: _Line[_Item], error: Exception) -> None:
        """The connection is of no more use; its request may have arrived or not."""
        request, line.request = line.request, None
        if request is None and line in self._idle:
            self._idle.remove(line)
        self._drop(line)
        if request is not None:
            self._calls.trouble(request.item, error)

    def _drop(self, line: _Line[_Item]) -> None:
        self._lines.discard(line)
        self._selector.unregister(line.sock)
        line.sock.close()
        if line.request is not None:
            self._calls.dropped(line.request.item)
