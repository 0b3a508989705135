"""Trigger that follows HCX migrations: one query per connection and interval for all of them (HCX-03)."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from wavelift.airflow.triggers.listeners import tell
from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import Fetch, SharedPoller
from wavelift.base.errors import PermanentError

if TYPE_CHECKING:
    from wavelift.adapters.hcx.phases import Progress
    from wavelift.base.rest import RestClient

log = logging.getLogger(__name__)

MIGRATIONS: Final = "hcx migrations"
"""Kind for listeners. They get the ids of the watched migrations → ``Progress``, after each query."""
LOOK_AGAIN_SECONDS: Final = 300.0
"""The task runs again after this time at the latest: it bounds how long the run may take, and records how far it is."""
LOGGED_PERCENT: Final = 10
"""A migration's percentage is logged when it has moved this far. The event has it as it is."""
_BETWEEN: Final = "|"


class HcxFollowTrigger(WaitTrigger):
    """Resumes its task when all migrations are over, or after a while.

    The event: ``progress``: migration id → :meth:`~wavelift.adapters.hcx.phases.Progress.told`, without those that HCX
    does not list; ``over``: the ids of those that have ended, however. Outages of HCX are borne for
    ``patience_minutes``.

    :param hcx_conn_id: Airflow connection of type ``hcx``.
    :param poll_seconds: between two queries. :param within_seconds: resume then at the latest.
    """

    def __init__(
        self,
        *,
        hcx_conn_id: str,
        migration_ids: Sequence[str],
        poll_seconds: float,
        within_seconds: float = LOOK_AGAIN_SECONDS,
    ) -> None:
        super().__init__()
        self.hcx_conn_id = hcx_conn_id
        self.migration_ids = list(migration_ids)
        self.poll_seconds = poll_seconds
        self.within_seconds = within_seconds

    def fields(self) -> dict[str, Any]:
        return {
            "hcx_conn_id": self.hcx_conn_id,
            "migration_ids": self.migration_ids,
            "poll_seconds": self.poll_seconds,
            "within_seconds": self.within_seconds,
        }

    async def wait(self) -> dict[str, Any]:
        seen: dict[str, Progress] = {}
        follows = [asyncio.ensure_future(self._follow(id, seen)) for id in dict.fromkeys(self.migration_ids)]
        if follows:
            try:
                done, _ = await asyncio.wait(follows, timeout=self.within_seconds, return_when=asyncio.FIRST_EXCEPTION)
                for one in done:
                    one.result()
            finally:
                for one in follows:
                    one.cancel()
                await asyncio.gather(*follows, return_exceptions=True)
        over = sorted(id for id, progress in seen.items() if progress.phase.over)
        return {"over": over, "progress": {id: progress.told() for id, progress in sorted(seen.items())}}

    async def _follow(self, migration_id: str, seen: dict[str, Progress]) -> None:
        """Until it is over. Each change goes into ``seen``, and into the task's log if it says something."""
        mark, logged = "", None
        while True:
            found: Progress | None = await self._change(f"{migration_id}{_BETWEEN}{mark}")
            mark = mark_of(found)
            if found is None:
                log.warning("HCX does not list the migration %s; waiting", migration_id)
                continue
            seen[migration_id] = found
            if _says_more(logged, found):
                logged = found
                name = found.entity_name or found.entity_id or migration_id
                log.info("%s: %s%s", name, found.words, f" [{found.state}]" if found.state else "")
            if found.phase.over:
                return

    async def _change(self, watched: str) -> Any:
        """The next state that differs from that of ``watched``. What passes by itself is borne here: a thread that
        waited for HCX would be missing to the other triggers."""
        from wavelift.airflow.config import patience_s

        began: float | None = None
        while True:
            poller = SharedPoller.made_by(("hcx", self.hcx_conn_id, self.poll_seconds), self._make, self.poll_seconds)
            try:
                return await poller.watch(watched)
            except PermanentError:
                raise
            except Exception as error:
                began = began or time.monotonic()
                if time.monotonic() - began >= patience_s():
                    raise
                log.warning("HCX does not answer, asking on: %s", error)

    async def _make(self) -> Fetch:
        from wavelift.airflow.hooks.hcx import aaccess

        access = await aaccess(self.hcx_conn_id)
        return changes(replace(access, place=replace(access.place, patience_s=0.0)).client())


def changes(client: RestClient) -> Fetch:
    """Asks HCX of many migrations at once, and returns those whose state differs from what their watcher has seen."""

    def fetch(watched: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.adapters.hcx.mobility import query_many

        wanted = {each: each.partition(_BETWEEN)[::2] for each in watched}
        found = query_many(client, (id for id, _ in wanted.values()))
        tell(MIGRATIONS, found)
        return {each: found.get(id) for each, (id, mark) in wanted.items() if mark_of(found.get(id)) != mark}

    return fetch


def mark_of(progress: Progress | None) -> str:
    """What a watcher has seen, in a few characters. Never empty."""
    return "unlisted" if progress is None else f"{progress.phase}{_BETWEEN}{progress.words}"


def _says_more(logged: Progress | None, found: Progress) -> bool:
    if logged is None or logged.percent is None or found.percent is None:
        return logged is None or logged.words != found.words
    same = (logged.phase, logged.message, logged.state, logged.errors) == (
        found.phase,
        found.message,
        found.state,
        found.errors,
    )
    return not same or abs(found.percent - logged.percent) >= LOGGED_PERCENT
