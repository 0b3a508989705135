"""One loop and one call per connection, region and interval, whatever the number of waiting tasks (invariant 7).

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
"""Blocking; asked for all watched ids at once, returns those that are finished."""
Make = Callable[[], Awaitable[Fetch]]
"""Makes what asks, with its clients: called once for all who wait, and again after a failure."""

MAX_FAILURES: Final = 5
"""Polls that may fail in a row before the waiters are told: at 15 s a blip of over a minute."""

PERMANENT_FAILURES: Final = 2
"""Of those that no retry cures: once more with the connection as it is now, then the waiting tasks must say it."""


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
        """The poller of ``key``; ``key`` must hold everything that separates callers."""

        async def make() -> Fetch:
            return fetch

        return cls.made_by(key, make, interval)

    @classmethod
    def made_by(cls, key: Hashable, make: Make, interval: float) -> SharedPoller:
        """As :meth:`of`; ``make`` is called only where nobody waits under ``key`` yet."""
        poller = cls._pollers.get(key)
        if poller is None:
            poller = cls._pollers[key] = cls(key, make, interval)
        return poller

    async def watch(self, watched: str) -> Any:
        """What ``fetch`` says of ``watched`` once it says anything.

        :raises Exception: what asking raised, after it failed :data:`MAX_FAILURES` times in a row.
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
                fetch = None  # made anew: the connection's keys may be others by now
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
