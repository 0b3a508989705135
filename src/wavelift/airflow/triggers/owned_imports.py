"""Waiting for an import of our own. Apart from the plain watch, since that one also serves where no ledger is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from wavelift.airflow.triggers.imports import ImportWatchTrigger, listen

log = logging.getLogger(__name__)


class ImportImageTrigger(ImportWatchTrigger):
    """Wakes the import's owner; cancels the import when a person kills that task."""

    async def wait(self) -> dict[str, Any]:
        listen(tell_list)
        return await super().wait()

    async def on_kill(self) -> None:
        imports = await self.imports()
        await asyncio.to_thread(imports.cancel, self.import_task_id, "wavelift: the task was stopped by a person")


def tell_list(running: Mapping[str, Any]) -> None:
    """Writes the imports' progress into the ledger.

    An import takes an hour, and its task sleeps: nobody else sees its progress (AMP-07). It decides nothing.
    """
    from wavelift.airflow import config
    from wavelift.base.errors import WaveliftError
    from wavelift.base.run import SystemClock
    from wavelift.ledger import Ledger
    from wavelift.ledger.migrations import record_import_progress

    progress = {id: (f"import: {status.phase}", status.progress or 0) for id, status in running.items()}
    try:
        with Ledger.open(config.ledger_url()) as ledger:
            record_import_progress(ledger, progress, clock=SystemClock())
    except WaveliftError as error:
        log.warning("the list will not show how far imports are: %s", error)
