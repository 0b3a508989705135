"""The connector's line: one rate limit for all transfers of a machine, in all its processes.

A file says when the line is free again; each process locks it for a moment. The lock ends with its process, and the
time that a killed process had booked is over within :data:`SPAN_S`, so there is nothing to clean up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from wavelift.base.errors import WaveliftError
from wavelift.base.private import private_folder
from wavelift.base.run import CancelFlag
from wavelift.base.units import MBIT

log = logging.getLogger(__name__)

FILE: Final = "line"
SPAN_S: Final = 0.05
"""A process books so much of the line at a time, and the next only when that begins: hungry processes take turns,
however many threads each has and however large their pieces are."""
LOOK_S: Final = 10.0
"""How often the limit is read again."""
STALE_S: Final = 30.0
"""Nobody books so far ahead: left from before the machine was started, when its clock began anew."""
TICK_S: Final = 0.2
_TIME: Final = struct.Struct("<d")


class SharedLine:
    """Lets the machine's rate pass, all its transfers together; see :class:`~wavelift.transfer.throttle.Pace`.

    :param folder: the connector's state folder.
    :param limit: megabits per second, None for no limit; asked again every :data:`LOOK_S`.
    :param clock: seconds; the same for all processes of the machine.
    """

    def __init__(
        self,
        folder: Path,
        limit: Callable[[], float | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[CancelFlag, float], object] = CancelFlag.wait,
    ) -> None:
        self._path = folder / FILE
        self._limit = limit
        self._clock = clock
        self._wait = wait
        self._turn = threading.Lock()
        self._credit = 0.0
        """Bytes that may pass at once."""
        self._rate: float | None = None
        self._look_at = float("-inf")

    @property
    def limited(self) -> bool:
        return self._rate_now() is not None

    def take(self, count: int, cancel: CancelFlag) -> None:
        """Wait until ``count`` bytes may pass.

        :raises Cancelled: when ``cancel`` is set. :raises WaveliftError: the state folder can't be written.
        """
        cancel.check()
        while not self._turn.acquire(timeout=TICK_S):
            cancel.check()
        try:
            while self._credit < count:
                rate = self._rate_now()
                if rate is None:
                    self._credit = 0.0
                    return
                due = self._book(SPAN_S)
                while (ahead := due - self._clock()) > 0:
                    self._wait(cancel, ahead)
                    cancel.check()
                self._credit += rate * SPAN_S
            self._credit -= count
        finally:
            self._turn.release()

    def _rate_now(self) -> float | None:
        """Bytes per second."""
        now = self._clock()
        if now >= self._look_at:
            try:
                limit = self._limit()
                self._rate = None if limit is None else limit * MBIT
            except WaveliftError as error:
                if self._look_at < 0:  # the first look: nothing has begun yet
                    raise
                log.warning("the line's limit stays what it was: %s", error)
            self._look_at = now + LOOK_S
        return self._rate

    def _book(self, seconds: float) -> float:
        """The next free span of the line is ours; when it begins."""
        try:
            private_folder(self._path.parent)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                now = self._clock()
                stored = os.pread(fd, _TIME.size, 0)
                free_at = _TIME.unpack(stored)[0] if len(stored) == _TIME.size else now
                if not now - seconds < free_at < now + STALE_S:
                    free_at = now
                os.pwrite(fd, _TIME.pack(free_at + seconds), 0)
            finally:
                os.close(fd)  # unlocks
        except OSError as error:
            raise WaveliftError(
                f"the line's file can't be written: {error.strerror}",
                next_step="Make room in the connector's state folder and let the worker write there, then try again",
                file=str(self._path),
            ) from error
        return float(free_at)
