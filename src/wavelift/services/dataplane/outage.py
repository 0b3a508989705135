"""If a source breaks off, the same try opens it again: a new lease or a new reader. Stored blocks are not sent again.

Without this, a cut connection would use up one of the task's few retries each time, however far the transfer had come.
"""

from __future__ import annotations

import logging
from typing import Final

from wavelift.base.errors import WaveliftError
from wavelift.base.patience import RetryPolicy
from wavelift.base.run import CancelFlag, Clock, Progress

log = logging.getLogger(__name__)

BASE_S: Final = 1.0
CAP_S: Final = 30.0
"""Pauses between two openings: a host that was restarted needs minutes, a lease costs vCenter a task."""
ROUNDS_IN_VAIN: Final = 3
"""Openings in a row that brought bytes and got no further than the ones before: the break is the source's, not the
line's, and a lease stream is read from its start each time."""


class SourcePatience:
    """What is left of the patience with one server's source. What moves the transfer on renews it.

    :param patience_s: seconds without a byte from the source or to the target.
    """

    def __init__(self, patience_s: float, clock: Clock) -> None:
        self._policy = RetryPolicy(patience_s, base_s=BASE_S, cap_s=CAP_S)
        self._clock = clock
        self._alive_at = clock.monotonic()
        self._seen: dict[str, tuple[int, int]] = {}
        self._furthest: dict[str, int] = {}
        """Bytes of each disk, in any round."""
        self._in_vain = 0
        self._failures = 0

    def moved(self, progress: Progress) -> None:
        """News of a disk."""
        now = (progress.done, progress.sent)
        if self._seen.get(progress.disk, (0, 0)) != now:
            self._seen[progress.disk] = now
            self._alive_at = self._clock.monotonic()

    def again(self, error: WaveliftError, cancel: CancelFlag) -> None:
        """Wait before the source is opened anew.

        :param error: why it broke off, or was not opened.
        :raises WaveliftError: ``error``, when another opening is not worth it. :raises Cancelled: asked to stop.
        """
        cancel.check()
        silent = self._clock.monotonic() - self._alive_at
        if silent >= self._policy.patience_s:
            raise error
        reached, self._seen = {disk: done for disk, (done, _) in self._seen.items() if done}, {}
        if reached:
            self._failures = 0
            further = {disk: done for disk, done in reached.items() if done > self._furthest.get(disk, 0)}
            self._in_vain = 0 if further else self._in_vain + 1
            self._furthest.update(further)
        if self._in_vain >= ROUNDS_IN_VAIN:
            raise error
        self._failures += 1
        pause = self._policy.pause(self._failures)
        log.warning("%s; the source is opened again in %.0f s", error, pause)
        cancel.wait(pause)
        cancel.check()
