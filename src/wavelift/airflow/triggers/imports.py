"""Triggers that wait for VM Import tasks: one describe call per connection, region and interval for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wavelift.airflow.triggers.aws import AwsSlotTrigger, AwsWaitTrigger
from wavelift.airflow.triggers.listeners import tell
from wavelift.airflow.triggers.watch import Fetch, SharedPoller

IMPORTS: Final = "imports"
"""Kind for listeners. They get the ids of the running imports → ``ImportStatus``."""

ASK_AGAIN_SECONDS: Final = 300.0
"""Maximum wait before the task tries again. AWS may refuse an import although fewer imports run than the limit allows.
If AWS then raises its limit, there is no signal for it."""


class ImportsTrigger(AwsWaitTrigger):
    """Base of the triggers that wait for VM Import."""

    async def imports(self) -> Any:
        """A :class:`~wavelift.adapters.aws.vmimport.VmImport`. Its library is imported outside the event loop."""
        access = await self.access()

        def make() -> Any:
            from wavelift.adapters.aws.vmimport import VmImport

            return VmImport(access)

        return await asyncio.to_thread(make)


class ImportWatchTrigger(ImportsTrigger):
    """Resumes its task when an import has ended.

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
    """Query many imports from AWS. Returns those that have ended or are unknown; listeners get the others."""

    def fetch(ids: Sequence[str]) -> Mapping[str, Any]:
        found = imports.describe(ids)
        if running := {id: status for id, status in found.items() if not status.finished}:
            tell(IMPORTS, running)
        ended = {id: status.status for id, status in found.items() if status.finished}
        # AWS deletes the records of old tasks. Waiting for an id that it does not know would never end.
        return {**ended, **{id: "unknown" for id in ids if id not in found}}

    return fetch


class ImportSlotTrigger(ImportsTrigger, AwsSlotTrigger):
    """Resumes its task when fewer than ``below`` imports are active in the account (invariant 8)."""

    places = "import places"

    async def counter(self) -> Any:
        return await self.imports()

    def ask_again_seconds(self) -> float:
        return ASK_AGAIN_SECONDS
