"""Trigger that waits for what undoable steps wait for: one look per connection, region and interval for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from wavelift.airflow.triggers.aws import AwsWaitTrigger
from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import Fetch, SharedPoller

LOOK_AGAIN_SECONDS: Final = 300.0
"""The task looks itself after this time at the latest: it bounds how long a step may take."""
PERSON: Final = "person|"
TIME: Final = "time|"
"""Of a wait until an instant, ISO 8601."""
GATHER_SECONDS: Final = 2.0
"""What ends at nearly the same moment wakes the task once."""


class StepsTrigger(WaitTrigger):
    """Resumes its task when at least one of many waits is over, or after a while.

    :param waits: each ``{"aws_conn_id": …, "region_name": …, "waits": [...]}``: texts of
        :mod:`wavelift.services.dataplane.steps.poll`, ``person|…`` (the ledger tells) and ``time|…``.
    :param within_seconds: resume then at the latest.
    """

    def __init__(
        self, *, waits: Sequence[Mapping[str, Any]], poll_seconds: float, within_seconds: float = LOOK_AGAIN_SECONDS
    ) -> None:
        super().__init__()
        self.waits = [dict(each) for each in waits]
        self.poll_seconds = poll_seconds
        self.within_seconds = within_seconds

    def fields(self) -> dict[str, Any]:
        return {"waits": self.waits, "poll_seconds": self.poll_seconds, "within_seconds": self.within_seconds}

    async def wait(self) -> dict[str, Any]:
        looks = [asyncio.ensure_future(look) for each in self.waits for look in self._looks(each)]
        if not looks:
            return {"over": []}
        try:
            done, _ = await asyncio.wait(looks, timeout=self.within_seconds, return_when=asyncio.FIRST_COMPLETED)
            if done:
                done, _ = await asyncio.wait(looks, timeout=GATHER_SECONDS)
        finally:
            for look in looks:
                look.cancel()
            await asyncio.gather(*looks, return_exceptions=True)
        return {"over": sorted(look.result() for look in done)}

    def _looks(self, group: Mapping[str, Any]) -> list[Any]:
        found = []
        for wait in dict.fromkeys(group["waits"]):
            if wait.startswith(TIME):
                found.append(self._instant(wait))
            elif wait.startswith(PERSON):
                poller = SharedPoller.of(("answers", self.poll_seconds), answered, self.poll_seconds)
                found.append(_watched(poller, wait))
            else:
                found.append(self._aws(group, wait))
        return found

    async def _instant(self, wait: str) -> str:
        at = datetime.fromisoformat(wait.removeprefix(TIME))
        await asyncio.sleep(max(0.0, (at - datetime.now(UTC)).total_seconds()))
        return wait

    async def _aws(self, group: Mapping[str, Any], wait: str) -> str:
        place = _Place(
            aws_conn_id=group["aws_conn_id"], region_name=group["region_name"], poll_seconds=self.poll_seconds
        )

        async def make() -> Fetch:
            access = await place.access()
            return over_in(access)

        return await _watched(SharedPoller.made_by(place.poller_key("steps"), make, self.poll_seconds), wait)


class _Place(AwsWaitTrigger):
    """Only for its access."""


async def _watched(poller: SharedPoller, wait: str) -> str:
    await poller.watch(wait)
    return wait


def over_in(access: Any) -> Fetch:
    """Those waits that are over, in a few calls for all."""

    def fetch(waits: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.services.dataplane.steps.poll import poll

        return {wait: True for wait, over in poll(access, waits).items() if over}

    return fetch


def answered(waits: Sequence[str]) -> Mapping[str, Any]:
    """Those that people have answered."""
    from wavelift.airflow import config
    from wavelift.ledger import Ledger
    from wavelift.services.common.persons import answered_in

    with Ledger.open(config.ledger_url()) as ledger:
        return {wait: True for wait in waits if answered_in(ledger, wait)}
