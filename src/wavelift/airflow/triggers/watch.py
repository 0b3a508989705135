"""Shared polling: one loop and one call per connection, region and interval for all waiting tasks (invariant 7).

All triggers of a triggerer run in one process and one event loop, so a module-level table of pollers is shared.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from typing import Any, Final

from wavelift.base.errors import PermanentError

log = logging.getLogger(__name__)

Fetch = Callable[[Sequence[str]], Mapping[str, Any]]
"""A blocking function. It gets all watched ids at once and returns those that are finished."""
Make = Callable[[], Awaitable[Fetch]]
"""Makes the :data:`Fetch` function with its clients. Called once for all waiting tasks, and again after a failure."""

MAX_FAILURES: Final = 5
"""Consecutive polls that may fail before the waiting tasks get the error. With a poll every 15 s, this tolerates a
problem of more than a minute."""

PERMANENT_FAILURES: Final = 2
"""The same for errors that a retry can't solve: one more try, with the current settings of the connection. Then the
waiting tasks get the error."""


class SharedPoller:
    """Watches many ids with one blocking call per ``interval`` seconds."""

    _pollers: dict[Hashable, SharedPoller] = {}

    def __init__(self, key: Hashable, make: Make, interval: float) -> None:
        self._key = key
        self._make = make
        self._interval = interval
        self._waiting: dict[str, list[asyncio.Future[Any]]] = {}
        self._task: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, key: Hashable, fetch: Fetch, interval: float) -> SharedPoller:
        """The poller of ``key``. The key must contain everything in which callers can differ."""

        async def make() -> Fetch:
            return fetch

        return cls.made_by(key, make, interval)

    @classmethod
    def made_by(cls, key: Hashable, make: Make, interval: float) -> SharedPoller:
        """Like :meth:`of`, but ``make`` is called only if no task waits under ``key`` yet."""
        poller = cls._pollers.get(key)
        if poller is None:
            poller = cls._pollers[key] = cls(key, make, interval)
        return poller

    async def watch(self, watched: str) -> Any:
        """Wait until ``fetch`` returns a value for ``watched``, and return that value.

        :raises Exception: the error of ``fetch``, after :data:`MAX_FAILURES` consecutive failures.
        """
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(watched, []).append(future)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._loop())
        try:
            return await future
        finally:
            futures = self._waiting.get(watched, [])
            if future in futures:
                futures.remove(future)
            if not futures:
                self._waiting.pop(watched, None)

    async def _loop(self) -> None:
        try:
            await self._ask()
        except Exception as error:
            self._tell_all(error)
        if self._pollers.get(self._key) is self and not self._waiting:
            del self._pollers[self._key]

    async def _ask(self) -> None:
        failures = 0
        fetch: Fetch | None = None
        while self._waiting:
            try:
                if fetch is None:
                    fetch = await self._make()
                found = await asyncio.to_thread(fetch, tuple(self._waiting))
                failures = 0
            except Exception as error:
                failures += 1
                fetch = None  # create it again: the connection's keys may have changed
                log.warning("poll %d of at most %d failed: %s", failures, MAX_FAILURES, error)
                lasts = isinstance(error, PermanentError)
                if failures >= (PERMANENT_FAILURES if lasts else MAX_FAILURES):
                    raise
                found = {}
            for watched, value in found.items():
                self._tell(watched, value)
            await asyncio.sleep(self._interval)

    def _tell(self, watched: str, value: Any) -> None:
        for future in self._waiting.pop(watched, []):
            if not future.done():
                future.set_result(value)

    def _tell_all(self, error: Exception) -> None:
        waiting, self._waiting = self._waiting, {}
        for futures in waiting.values():
            for future in futures:
                if not future.done():
                    future.set_exception(error)
