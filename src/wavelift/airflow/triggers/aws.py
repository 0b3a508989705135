"""Bases of the triggers that wait for AWS: for anything, and for a place among tasks whose number it limits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar
from uuid import uuid4

from wavelift.airflow.triggers.wait import WaitTrigger
from wavelift.airflow.triggers.watch import Fetch, SharedPoller


class AwsWaitTrigger(WaitTrigger):
    """Base of the triggers that wait for AWS. It passes the name of the connection, never its secret, and settings."""

    def __init__(
        self,
        *,
        aws_conn_id: str,
        region_name: str | None,
        poll_seconds: float,
        verify: bool | str | None = None,
        botocore_config: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.aws_conn_id = aws_conn_id
        self.region_name = region_name
        self.poll_seconds = poll_seconds
        self.verify = verify
        self.botocore_config = botocore_config

    def fields(self) -> dict[str, Any]:
        return {
            "aws_conn_id": self.aws_conn_id,
            "region_name": self.region_name,
            "poll_seconds": self.poll_seconds,
            "verify": self.verify,
            "botocore_config": self.botocore_config,
        }

    async def access(self) -> Any:
        """An :class:`~wavelift.adapters.aws.access.AwsAccess`, built outside the event loop."""
        from airflow.sdk import BaseHook
        from airflow.sdk.exceptions import AirflowNotFoundException

        from wavelift.airflow.hooks.connections import check_id
        from wavelift.airflow.hooks.vm_import import VmImportHook

        if self.aws_conn_id:
            check_id(self.aws_conn_id)
        settings: dict[str, Any] = {"verify": self.verify, "botocore_config": self.botocore_config}
        try:
            connection = await BaseHook.aget_connection(self.aws_conn_id)
        except AirflowNotFoundException:
            # The hook decides whether this connection may be missing, and raises the error if not.
            return await asyncio.to_thread(VmImportHook.of(self.aws_conn_id, self.region_name, **settings).access)
        return await asyncio.to_thread(VmImportHook.from_connection(connection, self.region_name, **settings).access)

    def poller_key(self, purpose: str) -> tuple[object, ...]:
        """The key of the shared poller. It contains everything in which callers can differ."""
        return (
            purpose,
            self.aws_conn_id,
            self.region_name,
            self.poll_seconds,
            str(self.verify),
            repr(self.botocore_config),
        )


class AwsSlotTrigger(AwsWaitTrigger):
    """Resumes its task when fewer than ``below`` tasks of a kind are active in the account (invariant 8).

    It also resumes the task after :meth:`ask_again_seconds`. The first query is one interval after the start, because
    the task itself has just queried AWS.
    """

    places: ClassVar[str]
    """What is counted: a part of the shared poller's key."""

    def __init__(self, *, below: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.below = below

    def fields(self) -> dict[str, Any]:
        return {"below": self.below, **super().fields()}

    async def counter(self) -> Any:
        """Something with ``count_active()``. Its library is imported outside the event loop."""
        raise NotImplementedError

    def ask_again_seconds(self) -> float:
        """Maximum wait before the task tries again. AWS may refuse a task although fewer run than the limit allows. If
        AWS then raises its limit, there is no signal for it."""
        raise NotImplementedError

    async def wait(self) -> dict[str, Any]:
        await asyncio.sleep(self.poll_seconds)
        key = (*self.poller_key(self.places), self.below)

        async def make() -> Fetch:
            return free_places(await self.counter(), self.below)

        poller = SharedPoller.made_by(key, make, self.poll_seconds)
        try:
            await asyncio.wait_for(poller.watch(uuid4().hex), self.ask_again_seconds())
        except TimeoutError:
            return {"free": False}
        return {"free": True}


def free_places(tasks: Any, below: int) -> Fetch:
    """Resumes as many waiting tasks as there are free places, the first ones first."""

    def fetch(waiters: Sequence[str]) -> Mapping[str, Any]:
        # AWS decides which task gets a place. Resuming more of ours than there are places would be useless.
        return dict.fromkeys(waiters[: max(0, below - tasks.count_active())], True)

    return fetch
