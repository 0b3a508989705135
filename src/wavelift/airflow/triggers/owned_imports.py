"""Waiting for an import of our own. Apart from the plain watch, since that one also serves where no ledger is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from wavelift.airflow.triggers.imports import IMPORTS, ImportWatchTrigger
from wavelift.airflow.triggers.listeners import listen

log = logging.getLogger(__name__)


class ImportImageTrigger(ImportWatchTrigger):
    """Wakes the import's owner; cancels the import when a person kills that task."""

    async def wait(self) -> dict[str, Any]:
        listen(IMPORTS, tell_list)
        return await super().wait()

    async def on_kill(self) -> None:
        imports = await self.imports()
        await asyncio.to_thread(imports.cancel, self.import_task_id, "wavelift: the task was stopped by a person")


def tell_list(running: Mapping[str, Any]) -> None:
    """Writes the imports' progress into the ledger: of migrations by their task, of replicas by the task's tag.

    An import takes an hour, and its task sleeps: nobody else sees its progress (AMP-07). It decides nothing.
    """
    from wavelift.airflow import config
    from wavelift.base.errors import WaveliftError
    from wavelift.base.names import TAG_RUN
    from wavelift.base.run import SystemClock
    from wavelift.ledger import Ledger, migrations, replication_runs

    told = {id: (status.phase, status.progress or 0) for id, status in running.items()}
    by_run = {str(run): told[id] for id, status in running.items() if (run := status.tags.get(TAG_RUN))}
    try:
        with Ledger.open(config.ledger_url()) as ledger:
            with ledger.write() as tx:
                migrations.record_import_progress(tx, told, clock=SystemClock())
            with ledger.write() as tx:
                replication_runs.record_import_progress(tx, by_run, clock=SystemClock())
    except WaveliftError as error:
        log.warning("the list will not show how far imports are: %s", error)
