"""The engine under copy and verify: one reader thread, N workers, and one thread that takes the results in order.

The caller's thread supervises: it passes on a cancel, reports progress, and raises the first error after all threads
have ended. No thread outlives :meth:`Conveyor.run`.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Generic, TypeVar

from wavelift.base.errors import Cancelled
from wavelift.base.run import CancelFlag
from wavelift.base.units import BLOCK
from wavelift.transfer.protocols import Piece

DEFAULT_WORKERS: Final = 2
POLL_SECONDS: Final = 0.2
"""How soon the wish to stop is noticed."""
PROGRESS_SECONDS: Final = 0.5

_Result = TypeVar("_Result")


class Scratch(threading.local):
    """One reused block buffer per worker thread: a fresh 512 KiB each time would cost page faults, not malloc."""

    def __init__(self) -> None:
        self.block = bytearray(BLOCK)
        self.view = memoryview(self.block)

    def load(self, piece: Piece, length: int) -> memoryview:
        """The piece's ``length`` bytes, at the front of :attr:`block`."""
        exchange = getattr(piece, "exchange", None)
        if exchange is not None and length == BLOCK:
            self.block = exchange(self.block)
            self.view = memoryview(self.block)
            return self.view
        data = self.view[:length]
        piece.load(data)
        return data


class _Lane(Generic[_Result]):
    """A bounded first-in-first-out between two threads that both leave when it is stopped."""

    def __init__(self, depth: int) -> None:
        self._items: deque[_Result] = deque()
        self._depth = depth
        self._changed = threading.Condition()
        self._stopped = False

    def put(self, item: _Result) -> bool:
        """False when the lane was stopped."""
        with self._changed:
            while len(self._items) >= self._depth and not self._stopped:
                self._changed.wait()
            self._items.append(item)
            self._changed.notify()
            return not self._stopped

    def get(self) -> _Result | None:
        """None when the lane was stopped."""
        with self._changed:
            while not self._items and not self._stopped:
                self._changed.wait()
            if self._stopped:
                return None
            self._changed.notify()
            return self._items.popleft()

    def stop(self) -> None:
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


class Conveyor(Generic[_Result]):
    """Runs ``work`` on pieces in parallel and ``drain`` on the results in order.

    At most ``2 * workers + 2`` pieces are under way, so memory does not depend on the disk. The first exception of
    any part stops all others and is the one raised.

    :param name: for the threads' names.
    :param cancel: the caller's wish to stop, noticed within 0.2 s. A source that blocks is woken by ``interrupt``;
        where it has none, its own time-out ends the wait.
    """

    def __init__(self, *, name: str, workers: int, cancel: CancelFlag) -> None:
        self.stop: Final = CancelFlag()
        """Set by the first error or by ``cancel``; everything that waits inside should wait on it."""
        self._name = name
        self._workers = max(1, workers)
        self._cancel = cancel
        self._lane: _Lane[tuple[Piece, Future[_Result]] | None] = _Lane(2 * self._workers + 2)
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._done = threading.Event()

    def run(
        self,
        pieces: Iterable[Piece],
        *,
        work: Callable[[Piece], _Result],
        drain: Callable[[Piece, _Result], None],
        finish: Callable[[], None],
        tick: Callable[[], None],
        interrupt: Callable[[], None],
    ) -> None:
        """Until all is drained and finished, or the first error.

        :param work: called by any worker thread, in any order.
        :param drain: called by one thread, in the order of the pieces.
        :param finish: called by that thread after the last piece.
        :param tick: called by the caller's thread about twice a second.
        :param interrupt: wakes whatever source or writer may block; called once, when the work stops early.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix=f"{self._name}-work")
        threads = [
            threading.Thread(target=self._guard, args=(self._read, pieces, pool, work), name=f"{self._name}-read"),
            threading.Thread(target=self._guard, args=(self._drain, drain, finish), name=f"{self._name}-drain"),
        ]
        try:
            for thread in threads:
                thread.start()
            self._supervise(tick)
        except BaseException as error:  # an interrupt of the task lands here as well
            self._fail(error)
        try:
            if self._error is not None:
                interrupt()
        finally:
            for thread in threads:
                if thread.ident is not None:  # the machine may be out of threads
                    thread.join()
            pool.shutdown(wait=True, cancel_futures=True)
        if self._error is not None:
            raise self._error

    def _supervise(self, tick: Callable[[], None]) -> None:
        next_tick = time.monotonic() + PROGRESS_SECONDS
        while not self._done.wait(POLL_SECONDS):
            self._cancel.check()
            if time.monotonic() >= next_tick:
                tick()
                next_tick = time.monotonic() + PROGRESS_SECONDS

    def _read(self, pieces: Iterable[Piece], pool: ThreadPoolExecutor, work: Callable[[Piece], _Result]) -> None:
        for piece in pieces:
            if not self._lane.put((piece, pool.submit(self._work, work, piece))):
                return
        self._lane.put(None)

    def _work(self, work: Callable[[Piece], _Result], piece: Piece) -> _Result:
        self.stop.check()
        try:
            return work(piece)
        except BaseException as error:
            self._fail(error)
            raise

    def _drain(self, drain: Callable[[Piece, _Result], None], finish: Callable[[], None]) -> None:
        while (item := self._lane.get()) is not None:
            piece, future = item
            drain(piece, future.result())
        if not self.stop.is_set():
            finish()
            self._done.set()

    def _guard(self, target: Callable[..., None], *args: object) -> None:
        try:
            target(*args)
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            # What others say after the first error is its echo.
            if self._error is None:
                self._error = error
        self.stop.set("another part of the transfer failed" if not isinstance(error, Cancelled) else str(error))
        self._lane.stop()
        self._done.set()
