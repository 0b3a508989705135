"""Reads of ranges that come in order: the next ones are asked for before they are due.

A range of a distant object takes a tenth of a second before its first byte. One after the other, a member of an OVA
would come at a tenth of what the line can do.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from wavelift.transfer.tar import ReadRange

AHEAD: Final = 4
"""Ranges under way beside the one that is used; with 4 MiB each, 20 MiB of memory."""


class ReadAhead:
    """The range from ``start`` to ``end`` in steps, for one thread that reads them front to back.

    :param read: called from several threads. :param step: bytes of each read but the last; the caller's own.
    """

    def __init__(self, read: ReadRange, start: int, end: int, *, step: int, ahead: int = AHEAD) -> None:
        self._read = read
        self._next = start
        self._end = end
        self._step = step
        self._ahead = ahead
        self._asked: dict[int, Future[bytes]] = {}
        self._pool = ThreadPoolExecutor(ahead + 1, thread_name_prefix="read-ahead")

    def read(self, offset: int, length: int) -> bytes:
        """:raises ValueError: this is not the next step. :raises: what ``read`` raises for it."""
        while len(self._asked) <= self._ahead and self._next < self._end:
            size = min(self._step, self._end - self._next)
            self._asked[self._next] = self._pool.submit(self._read, self._next, size)
            self._next += size
        asked = self._asked.pop(offset, None)
        if asked is None:
            raise ValueError(f"{length} bytes from {offset} are not what comes next")
        return asked.result()

    def close(self) -> None:
        """Waits for what is under way."""
        self._pool.shutdown(wait=True, cancel_futures=True)
