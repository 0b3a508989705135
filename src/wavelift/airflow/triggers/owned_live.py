"""Trigger that follows migrations which wavelift itself started in HCX. It writes how far they are to the ledger."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from wavelift.airflow.triggers.hcx import MIGRATIONS, HcxFollowTrigger
from wavelift.airflow.triggers.listeners import listen

log = logging.getLogger(__name__)


class LiveFollowTrigger(HcxFollowTrigger):
    """Resumes the task of a run when HCX has ended with all its servers, or after a while."""

    async def wait(self) -> dict[str, Any]:
        listen(MIGRATIONS, tell_list)
        return await super().wait()


def tell_list(found: Mapping[str, Any]) -> None:
    """Write the progress of migrations into the ledger. It decides nothing; the task does that when it wakes."""
    from wavelift.airflow import config
    from wavelift.base.errors import WaveliftError
    from wavelift.base.run import SystemClock
    from wavelift.ledger import Ledger
    from wavelift.services.live_migration.follow import note

    told = {
        id: {**each.told(), "bytes_done": each.bytes_done, "bytes_total": each.bytes_total}
        for id, each in found.items()
    }
    try:
        with Ledger.open(config.ledger_url()) as ledger:
            note(ledger, told, clock=SystemClock())
    except WaveliftError as error:
        log.warning("the progress of live migrations could not be recorded: %s", error)
