"""Trigger that waits for EBS snapshots: one describe call per connection, region and interval for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from wavelift.airflow.triggers.aws import AwsWaitTrigger
from wavelift.airflow.triggers.watch import Fetch, SharedPoller


class EbsSnapshotsTrigger(AwsWaitTrigger):
    """Resumes its task when no snapshot is pending any more.

    :param snapshot_ids: ``snap-…``.
    """

    def __init__(self, *, snapshot_ids: Sequence[str], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.snapshot_ids = list(snapshot_ids)

    def fields(self) -> dict[str, Any]:
        return {"snapshot_ids": self.snapshot_ids, **super().fields()}

    async def wait(self) -> dict[str, Any]:
        async def make() -> Fetch:
            return settled_snapshots(await self.access())

        poller = SharedPoller.made_by(self.poller_key("EBS snapshots"), make, self.poll_seconds)
        states = await asyncio.gather(*(poller.watch(id) for id in self.snapshot_ids))
        return {"states": dict(zip(self.snapshot_ids, states, strict=True))}


def settled_snapshots(access: Any) -> Fetch:
    """Query many snapshots from AWS. Returns those that are completed, failed or missing."""

    def fetch(ids: Sequence[str]) -> Mapping[str, Any]:
        from wavelift.adapters.aws.ec2 import Ec2

        found = Ec2(access).snapshots(ids)
        states = {id: found[id].state if id in found else "missing" for id in ids}
        return {id: state for id, state in states.items() if state != "pending"}

    return fetch
