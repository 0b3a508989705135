"""Triggers that wait for VM Export tasks: at most one describe call per API, connection, region and interval for all of
them (VIE-05)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Final

from wavelift.airflow.triggers.aws import AwsSlotTrigger, AwsWaitTrigger
from wavelift.airflow.triggers.listeners import tell
from wavelift.airflow.triggers.watch import Fetch, SharedPoller

EXPORTS: Final = "exports"
"""Kind for listeners. They get the ids of the running export tasks → ``ExportTask``."""
GONE: Final = "unknown"
"""The event's status of a task that AWS does not know any more."""

ASK_AGAIN_SECONDS: Final = 300.0
"""Maximum wait for a place before the task tries again: AWS's limit may have been raised meanwhile."""


class ExportsTrigger(AwsWaitTrigger):
    """Base of the triggers that wait for VM Export."""

    async def exports(self) -> Any:
        """An :class:`~wavelift.adapters.aws.instance_exports.InstanceExports`, made outside the event loop."""
        access = await self.access()

        def make() -> Any:
            from wavelift.adapters.aws.instance_exports import InstanceExports

            return InstanceExports(access)

        return await asyncio.to_thread(make)


class ExportWatchTrigger(ExportsTrigger):
    """Resumes its task when an export has ended.

    The event: ``export_task_id``, and ``status``: AWS's word, or :data:`GONE`.

    :param export_task_id: ``export-i-…`` or ``export-ami-…``.
    """

    def __init__(self, *, export_task_id: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.export_task_id = export_task_id

    def fields(self) -> dict[str, Any]:
        return {"export_task_id": self.export_task_id, **super().fields()}

    async def wait(self) -> dict[str, Any]:
        async def make() -> Fetch:
            return finished_exports(await self.exports())

        poller = SharedPoller.made_by(self.poller_key("exports"), make, self.poll_seconds)
        status = await poller.watch(self.export_task_id)
        return {"status": status, "export_task_id": self.export_task_id}


def finished_exports(exports: Any) -> Fetch:
    """Query many export tasks from AWS. Returns those that have ended or are unknown; listeners get the others."""

    def fetch(ids: Sequence[str]) -> Mapping[str, Any]:
        found = exports.describe(ids)
        if running := {id: task for id, task in found.items() if not task.finished}:
            tell(EXPORTS, running)
        ended = {id: task.status for id, task in found.items() if task.finished}
        # AWS deletes the records of old tasks. Waiting for an id that it does not know would never end.
        return {**ended, **{id: GONE for id in ids if id not in found}}

    return fetch


class ExportSlotTrigger(ExportsTrigger, AwsSlotTrigger):
    """Resumes its task when fewer than ``below`` tasks of both export APIs are active in the account (VIE-04)."""

    places = "export places"

    async def counter(self) -> Any:
        return await self.exports()

    def ask_again_seconds(self) -> float:
        return ASK_AGAIN_SECONDS
