"""Lets calls run at the same time, and a reset run alone."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

FINISH_SECONDS: Final = 0.2
"""How long running calls may take to finish before their connections are cut."""
CUT_SECONDS: Final = 10.0
"""How long they may take afterwards."""


class Gate:
    """Every call goes through :meth:`call`. A reset shuts the gate and empties it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running: dict[object, Callable[[], None]] = {}
        self._shut = False

    @contextmanager
    def call(self, cut: Callable[[], None]) -> Iterator[None]:
        """Wait while the gate is shut, then run. ``cut`` closes the call's connection, from another thread."""
        me = object()
        with self._changed:
            self._changed.wait_for(lambda: not self._shut)
            self._running[me] = cut
        try:
            yield
        finally:
            with self._changed:
                del self._running[me]
                self._changed.notify_all()

    @contextmanager
    def shut(self) -> Iterator[None]:
        """No call starts inside this block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._shut)
            self._shut = True
        try:
            yield
        finally:
            with self._changed:
                self._shut = False
                self._changed.notify_all()

    def empty(self) -> None:
        """Wait until no call runs; cut the connections of those that take long. Raises TimeoutError."""
        with self._changed:
            if self._changed.wait_for(lambda: not self._running, FINISH_SECONDS):
                return
            for cut in self._running.values():
                cut()
            if not self._changed.wait_for(lambda: not self._running, CUT_SECONDS):
                raise TimeoutError(f"{len(self._running)} calls did not end within {CUT_SECONDS:.0f} s")
