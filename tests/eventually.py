"""Waiting for what must come: no test looks after a fixed sleep, and none minds a busy machine."""

from __future__ import annotations

import time
from collections.abc import Callable

__test__ = False

PATIENCE_S = 60.0
"""So long that only a fault runs into it."""


def eventually(true: Callable[[], object], *, pause: float = 0.01) -> bool:
    """Whether ``true()`` came true within a minute; asked once more than the time allows."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        if time.monotonic() > deadline:
            return bool(true())
        time.sleep(pause)
    return True
