"""A token bucket that threads share: for a server's ``max_mbit_s`` and for quotas. The connector's: :mod:`.line`."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from wavelift.base.run import CancelFlag

DEFAULT_BURST_SECONDS: Final = 0.25
"""How much unused rate may be saved up: short enough that a shaper behind us sees an even flow."""


class Pace(Protocol):
    """What bytes on the wire wait for."""

    @property
    def limited(self) -> bool:
        """Whether anything has to wait just now."""

    def take(self, count: int, cancel: CancelFlag) -> None:
        """Wait until ``count`` bytes may pass.

        :raises Cancelled: at once when ``cancel`` is set.
        """


class Paces:
    """Several at once: the slowest rules."""

    def __init__(self, *paces: Pace | None) -> None:
        self._paces = [pace for pace in paces if pace is not None]

    @property
    def limited(self) -> bool:
        return any(pace.limited for pace in self._paces)

    def take(self, count: int, cancel: CancelFlag) -> None:
        for pace in self._paces:
            pace.take(count, cancel)


def _wait(cancel: CancelFlag, seconds: float) -> None:
    cancel.wait(seconds)


class Throttle:
    """Lets ``rate`` bytes a second pass, all threads together.

    Takers are served first come, first served: each books the next free span of time under the lock and sleeps until
    its own span begins, so a small taker never starves behind large ones. After a pause up to ``burst`` bytes pass at
    once. A cancelled taker's span stays booked.

    :param rate: bytes per second; None for no limit.
    :param burst: bytes; 250 ms of the rate when not given.
    """

    def __init__(
        self,
        rate: float | None,
        *,
        burst: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wait: Callable[[CancelFlag, float], None] = _wait,
    ) -> None:
        if rate is not None and rate <= 0:
            raise ValueError(f"a rate of {rate} bytes/s would never let anything pass")
        self.rate = rate
        self._credit = 0.0 if rate is None else (DEFAULT_BURST_SECONDS if burst is None else burst / rate)
        self._clock = clock
        self._wait = wait
        self._lock = threading.Lock()
        self._free_at = clock() - self._credit

    @property
    def limited(self) -> bool:
        return self.rate is not None

    def take(self, count: int, cancel: CancelFlag) -> None:
        """Wait until ``count`` bytes may pass.

        :raises Cancelled: at once when ``cancel`` is set.
        """
        cancel.check()
        due = self._clock() + self.book(count)
        while (ahead := due - self._clock()) > 0:
            self._wait(cancel, ahead)
            cancel.check()

    def book(self, count: int) -> float:
        """Book the next free span for ``count`` bytes; in how many seconds it begins: 0 for at once."""
        if self.rate is None or count <= 0:
            return 0.0
        with self._lock:
            now = self._clock()
            # The bucket is full when the booked spans ended more than the burst ago; it never holds more.
            self._free_at = max(self._free_at, now - self._credit) + count / self.rate
            return max(0.0, self._free_at - now)
