"""The simulator's clock."""

from __future__ import annotations

import time


class Clock:
    """The machine's time plus an offset, so that a test can let hours pass in no time."""

    def __init__(self) -> None:
        self.offset = 0.0

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time() + self.offset

    def advance(self, seconds: float) -> None:
        self.offset += seconds
