"""Deadlines of waves (AIR-03): Airflow's deadline alerts, which replaced SLAs."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from typing import Any

from wavelift.rules.plans import WaveShape

log = logging.getLogger(__name__)


def wave_deadline(shape: WaveShape) -> list[Any] | None:
    """The deadline alert of the wave, counted from when its run was queued. None without ``deadline_minutes``."""
    if shape.deadline_minutes is None:
        return None
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference

    return [
        DeadlineAlert(
            name=f"{shape.wave} migrated within {shape.deadline_minutes} minutes",
            reference=DeadlineReference.DAGRUN_QUEUED_AT,
            interval=timedelta(minutes=shape.deadline_minutes),
            callback=AsyncCallback(
                "wavelift.airflow.notifications.wave_is_late",
                kwargs={"wave": shape.wave, "minutes": shape.deadline_minutes},
            ),
        )
    ]


async def wave_is_late(*, wave: str, minutes: int, context: dict[str, Any] | None = None, **_: Any) -> None:
    """Log the missed deadline at error level, so that log-based alarms see it, and record it in the audit trail."""
    run = (context or {}).get("dag_run") or {}
    log.error("wave %s: run %s has not finished after %d minutes", wave, run.get("dag_run_id", "?"), minutes)
    await asyncio.to_thread(_record, wave, minutes, str(run.get("dag_id", "")), str(run.get("dag_run_id", "")))


def _record(wave: str, minutes: int, dag_id: str, dag_run_id: str) -> None:
    from wavelift.airflow import config
    from wavelift.base.run import DagRun, SystemClock
    from wavelift.ledger import Ledger, events

    with Ledger.open(config.ledger_url()) as ledger, ledger.write() as tx:
        subject = events.Subject("wave_run", f"{dag_id}/{dag_run_id}", DagRun(dag_id, dag_run_id))
        details = {"wave": wave, "minutes": minutes}
        events.append(tx, subject, "wave_run.late", at=SystemClock().now(), actor="deadline alert", details=details)
