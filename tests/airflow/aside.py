"""Tests that mostly wait for the running Airflow, played side by side, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final, TypeVar

import pytest

AT_ONCE: Final = 4
"""Tests that are played at the same time: more would only wait for each other's tasks."""
Test = TypeVar("Test", bound=Callable[..., None])


def aside(*waves: str) -> Callable[[Test], Test]:
    """Decorator: this test takes ``world`` alone, and nobody else touches its waves."""

    def mark(test: Test) -> Test:
        test.aside = waves  # type: ignore[attr-defined]
        return test

    return mark


def _waves_of(item: pytest.Item) -> tuple[str, ...]:
    return getattr(getattr(item, "obj", None), "aside", ())


def is_aside(item: pytest.Item) -> bool:
    return bool(_waves_of(item))


class Players:
    """Plays the tests of a session that are marked :func:`aside`, in their order."""

    def __init__(self, items: list[pytest.Item], world: Any) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self._world = world
        self.waiting: dict[str, tuple[str, ...]] = {item.nodeid: _waves_of(item) for item in items if is_aside(item)}
        """Tests that have not ended, and their waves."""
        self._played: dict[str, Future[None]] = {
            item.nodeid: self._pool.submit(self._play, item) for item in items if is_aside(item)
        }

    def _play(self, item: Any) -> None:
        threading.current_thread().name = item.nodeid
        try:
            item.obj(self._world)
        finally:
            del self.waiting[item.nodeid]

    def waves(self) -> set[str]:
        """In which something may be going on."""
        return {wave for waves in list(self.waiting.values()) for wave in waves}

    def end_of(self, item: pytest.Item) -> None:
        """Wait for a test's end; raises what it raised."""
        self._played[item.nodeid].result()

    def close(self) -> None:
        """No other test begins; those that run are waited for."""
        self._pool.shutdown(cancel_futures=True)
