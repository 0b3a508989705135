"""Trigger for an export task of AWS that wavelift itself submitted. It writes how far it is to the ledger.

It is separate from :mod:`wavelift.airflow.triggers.exports`, because those triggers also work without a ledger. Killing
its task cancels nothing here: the run's teardown does that, and a clear must not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from wavelift.airflow.triggers.exports import EXPORTS, ExportWatchTrigger
from wavelift.airflow.triggers.listeners import listen

log = logging.getLogger(__name__)


class OwnedExportTrigger(ExportWatchTrigger):
    """Resumes the task that owns the export task."""

    async def wait(self) -> dict[str, Any]:
        listen(EXPORTS, tell_list)
        return await super().wait()


def tell_list(running: Mapping[str, Any]) -> None:
    """Write phase and per cent of running export tasks into the ledger. It decides nothing."""
    from wavelift.airflow import config
    from wavelift.base.errors import WaveliftError
    from wavelift.base.run import SystemClock
    from wavelift.ledger import Ledger
    from wavelift.services.instance_export.progress import note_tasks

    found = {id: (f"AWS: {task.phase}", task.progress or 0) for id, task in running.items()}
    try:
        with Ledger.open(config.ledger_url()) as ledger:
            note_tasks(ledger, found, SystemClock())
    except WaveliftError as error:
        log.warning("the progress of exports could not be recorded: %s", error)
