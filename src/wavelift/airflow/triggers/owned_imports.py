"""Trigger for an import that wavelift itself submitted. It writes to the ledger.

It is separate from :mod:`wavelift.airflow.triggers.imports`, because those triggers also work without a ledger.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from wavelift.airflow.triggers.imports import IMPORTS, ImportWatchTrigger
from wavelift.airflow.triggers.listeners import listen

log = logging.getLogger(__name__)


class ImportImageTrigger(ImportWatchTrigger):
    """Resumes the task that owns the import. Cancels the import if a person kills that task."""

    async def wait(self) -> dict[str, Any]:
        listen(IMPORTS, tell_list)
        return await super().wait()

    async def on_kill(self) -> None:
        imports = await self.imports()
        await asyncio.to_thread(imports.cancel, self.import_task_id, "wavelift: the task was stopped by a person")


def tell_list(running: Mapping[str, Any]) -> None:
    """Write the progress of imports into the ledger.

    An import takes about an hour while its task is deferred. Only this function records the progress (AMP-07). It does
    not decide anything.
    """
    from wavelift.airflow import config
    from wavelift.base.errors import WaveliftError
    from wavelift.base.names import TAG_RUN
    from wavelift.base.run import SystemClock
    from wavelift.ledger import Ledger
    from wavelift.ledger.server_runs import SERVER_RUNS
    from wavelift.ledger.spine import RunningImport

    imports = [
        RunningImport(id=id, phase=status.phase, percent=status.progress or 0, run=status.tags.get(TAG_RUN, ""))
        for id, status in running.items()
    ]
    try:
        with Ledger.open(config.ledger_url()) as ledger:
            for rows in SERVER_RUNS:
                with ledger.write() as tx:
                    rows.record_import_progress(tx, imports, clock=SystemClock())
    except WaveliftError as error:
        log.warning("the progress of imports could not be recorded: %s", error)
