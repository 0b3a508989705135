"""Waiting for VM Import tasks: one describe call per connection, region and interval for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final
from uuid import uuid4

from wavelift.airflow.triggers.listeners import tell
from wavelift.airflow.triggers.wait import AwsWaitTrigger
from wavelift.airflow.triggers.watch import Fetch, SharedPoller

IMPORTS: Final = "imports"
"""What listeners hear of here: the ids of imports that run → ``ImportStatus``."""

ASK_AGAIN_SECONDS: Final = 300.0
"""AWS refused an import though fewer ran than we may start: its limit may be raised meanwhile, which nothing tells."""


class ImportsTrigger(AwsWaitTrigger):
    """What waits for VM Import share."""

    async def imports(self) -> Any:
        """A :class:`~wavelift.adapters.aws.vmimport.VmImport`; its vendor library is imported off the event loop."""
        access = await self.access()

        def make() -> Any:
            from wavelift.adapters.aws.vmimport import VmImport

            return VmImport(access)

        return await asyncio.to_thread(make)


class ImportWatchTrigger(ImportsTrigger):
    """Wakes its task when an import has ended.

    :param import_task_id: ``import-ami-…``.
    """

    def __init__(self, *, import_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.import_task_id = import_task_id

    def fields(self) -> dict[str, Any]:
        return {"import_task_id": self.import_task_id, **super().fields()}

    async def wait(self) -> dict[str, Any]:
        async def make() -> Fetch:
            return finished_imports(await self.imports())

        poller = SharedPoller.made_by(self.poller_key("imports"), make, self.poll_seconds)
        status = await poller.watch(self.import_task_id)
        return {"status": status, "import_task_id": self.import_task_id}


def finished_imports(imports: Any) -> Fetch:
    """Asks AWS about many imports; returns those that have ended or are unknown, tells listeners of the others."""

    def fetch(ids: Sequence[str]) -> Mapping[str, Any]:
        found = imports.describe(ids)
        if running := {id: status for id, status in found.items() if not status.finished}:
            tell(IMPORTS, running)
        ended = {id: status.status for id, status in found.items() if status.finished}
        # AWS forgets tasks in time: an id that it does not know never ends by itself.
        return {**ended, **{id: "unknown" for id in ids if id not in found}}

    return fetch


class ImportSlotTrigger(ImportsTrigger):
    """Wakes its task when fewer than ``below`` imports are active in the account (invariant 8), and now and then.

    It looks one interval after it began: the task has just looked itself.
    """

    def __init__(self, *, below: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.below = below

    def fields(self) -> dict[str, Any]:
        return {"below": self.below, **super().fields()}

    async def wait(self) -> dict[str, Any]:
        await asyncio.sleep(self.poll_seconds)
        key = (*self.poller_key("import places"), self.below)

        async def make() -> Fetch:
            return free_places(await self.imports(), self.below)

        poller = SharedPoller.made_by(key, make, self.poll_seconds)
        try:
            await asyncio.wait_for(poller.watch(uuid4().hex), ASK_AGAIN_SECONDS)
        except TimeoutError:
            return {"free": False}
        return {"free": True}


def free_places(imports: Any, below: int) -> Fetch:
    """Tells the first waiters, as many as there are places."""

    def fetch(waiters: Sequence[str]) -> Mapping[str, Any]:
        # AWS decides who gets the place; waking more than there are places only costs tasks.
        return dict.fromkeys(waiters[: max(0, below - imports.count_active())], True)

    return fetch
