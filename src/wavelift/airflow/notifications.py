"""Deadlines of waves, and what is told when a run ends (AIR-03): Airflow's deadline alerts and callbacks of DAGs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from airflow.sdk.definitions.deadline import BaseDeadlineReference

from wavelift.airflow import config
from wavelift.airflow.notifiers import Kind, Notice, notify, notify_async
from wavelift.base.errors import SpecError
from wavelift.rules.flows import EXPORT
from wavelift.rules.plans import WaveShape

log = logging.getLogger(__name__)

WARN_AT: Final = 0.8
"""Share of the time until a deadline after which it is warned of."""
ENDED: Final = ("success", "failed")
CALLBACK: Final = "wavelift.airflow.notifications.wave_is_late"


class WindowDeadline(BaseDeadlineReference):
    """An instant of the window in which a run may cut over: its end, or a share of it.

    The run's conf has ``window_start`` and ``window_end``; what it lacks is as in the wave's file. A run in another
    mode than ``cutover``, or without a window, has no deadline. Airflow asks once, when the run is made. An error would
    make Airflow refuse the run, so there is none: what is wrong with the conf is said by the run's admission.

    :param share: 1 is the end, 0.8 is when a fifth of the window is left.
    :param start: of the window in the wave's file, ISO 8601. :param end: as well.
    """

    required_kwargs = {"dag_id", "run_id"}

    def __init__(self, share: float = 1.0, start: str = "", end: str = "") -> None:
        self.share, self.start, self.end = share, start, end

    def serialize_reference(self) -> dict[str, Any]:
        return {"reference_type": self.reference_name, "share": self.share, "start": self.start, "end": self.end}

    @classmethod
    def deserialize_reference(cls, reference_data: dict[str, Any]) -> WindowDeadline:
        return cls(*(reference_data[name] for name in ("share", "start", "end")))

    def _evaluate_with(self, *, session: Any, dag_id: str, run_id: str, **_: Any) -> datetime | None:
        from airflow.models.dagrun import DagRun

        found = session.query(DagRun.conf, DagRun.run_after).filter_by(dag_id=dag_id, run_id=run_id).one_or_none()
        return None if found is None else self.instant(found.conf or {}, found.run_after)

    def instant(self, conf: Mapping[str, Any], run_after: datetime) -> datetime | None:
        """The deadline of a run. Without a start, the window begins with the run."""
        end = _instant(conf.get("window_end") or self.end)
        if conf.get("mode") != "cutover" or end is None:
            return None
        start = _instant(conf.get("window_start") or self.start) or run_after
        return end - max(end - start, timedelta(0)) * (1 - self.share)


def _instant(text: object) -> datetime | None:
    try:
        found = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


def wave_deadline(shape: WaveShape) -> list[Any] | None:
    """:func:`deadline_of` a wave."""
    return deadline_of(shape.wave, shape.deadline_minutes)


def deadline_of(name: str, minutes: int | None) -> list[Any] | None:
    """The deadlines of a run, counted from when it was queued. None without ``deadline_minutes``.

    :param name: of the wave or the network.
    """
    if minutes is None:
        return None
    from airflow.sdk.definitions.deadline import DeadlineReference

    queued, told = DeadlineReference.DAGRUN_QUEUED_AT, {"wave": name, "minutes": minutes}
    return [
        _alert(f"{name} within {minutes} minutes", queued, timedelta(minutes=minutes), told),
        _alert(
            f"{name}: {WARN_AT:.0%} of {minutes} minutes",
            queued,
            timedelta(minutes=minutes) * WARN_AT,
            {**told, "share": WARN_AT},
        ),
    ]


def window_deadline(shape: WaveShape, *, start: str = "", end: str = "") -> list[Any]:
    """The deadlines of a cutover: the end of its window. Approval and the wait for the window do not count.

    :param start: of the window in the wave's file, ISO 8601; empty: it has none. :param end: as well.
    """
    told = {"wave": shape.wave, "minutes": None}
    return [
        _alert(f"{shape.wave} within its window", WindowDeadline(1.0, start, end), timedelta(0), told),
        _alert(
            f"{shape.wave}: {WARN_AT:.0%} of its window",
            WindowDeadline(WARN_AT, start, end),
            timedelta(0),
            {**told, "share": WARN_AT},
        ),
    ]


def _alert(name: str, reference: BaseDeadlineReference, interval: timedelta, told: dict[str, Any]) -> Any:
    from airflow.sdk.definitions.callback import AsyncCallback
    from airflow.sdk.definitions.deadline import DeadlineAlert

    callback = AsyncCallback(CALLBACK, kwargs=told)
    return DeadlineAlert(name=name, reference=reference, interval=interval, callback=callback)


async def wave_is_late(
    *, wave: str, minutes: int | None, share: float = 1.0, context: Mapping[str, Any] | None = None, **_: Any
) -> None:
    """Tell of a missed deadline, or that one is near: in the log, in the audit trail, and to people.

    Airflow keeps the deadlines of a run that failed. Such a run was told of when it failed, and is not late.

    :param minutes: until the deadline; None: it is the end of the window.
    :param share: of the time until the deadline that is over; below 1: a warning.
    """
    run = (context or {}).get("dag_run") or {}
    dag_id, run_id = str(run.get("dag_id", "")), str(run.get("dag_run_id", ""))
    if run.get("state") in ENDED:
        log.info("wave %s: run %s has ended (%s) and is not late", wave, run_id, run["state"])
        return
    after = "by the end of its window" if minutes is None else f"after {minutes} minutes"
    notice = Notice(
        kind=Kind.LATE if share >= 1 else Kind.NEARLY_LATE,
        subject=f"{dag_id}/{run_id}",
        title=f"{wave} is late" if share >= 1 else f"{wave} may become late",
        text=f"Run {run_id} of {dag_id} has not finished {after}"
        if share >= 1
        else f"Run {run_id} of {dag_id} has not finished, and {share:.0%} of its time is over",
        at=datetime.now(UTC),
        wave=wave,
        details={"dag_id": dag_id, "dag_run_id": run_id},
    )
    # Log-based alarms see the error.
    log.log(logging.ERROR if share >= 1 else logging.WARNING, "wave %s: %s", wave, notice.text)
    ledger = await asyncio.to_thread(_opened)
    try:
        await asyncio.to_thread(_record, ledger, notice, {"wave": wave, "minutes": minutes})
        await notify_async(ledger, notice, None)
    finally:
        await asyncio.to_thread(ledger.close)


def _opened() -> Any:
    from wavelift.ledger import Ledger

    return Ledger.open(config.ledger_url())


def _record(ledger: Any, notice: Notice, details: dict[str, Any]) -> None:
    from wavelift.base.run import DagRun
    from wavelift.ledger import events

    action = "wave_run.late" if notice.kind is Kind.LATE else "wave_run.nearly_late"
    run = DagRun(notice.details["dag_id"], notice.details["dag_run_id"])
    with ledger.write() as tx:
        subject = events.Subject("wave_run", notice.subject, run)
        events.append(tx, subject, action, at=notice.at, actor="deadline alert", details=details)


# The end of a run


def run_callbacks() -> dict[str, Any]:
    """The callbacks of a DAG. None if nobody is to be told: each would cost a parse of the file. Never raises."""
    try:
        told = config.notifiers()
    except SpecError:  # wave_errors.py raises it, where it does no harm
        log.exception("nobody is told how runs end")
        return {}
    return {"on_failure_callback": run_failed, "on_success_callback": run_succeeded} if told else {}


def run_failed(context: Any) -> None:
    """A run of a wave, a network or an environment's exports failed."""
    _run_ended(context, Kind.FAILURE)


def run_succeeded(context: Any) -> None:
    """A run of a wave succeeded."""
    _run_ended(context, Kind.SUCCESS)


def _run_ended(context: Any, kind: Kind) -> None:
    run, dag_id = context.get("dag_run"), context["dag"].dag_id
    run_id = context["run_id"] if run is None else run.run_id
    wave = EXPORT.wave_of(dag_id) or dag_id.rpartition(".")[0]
    # A run that was cleared ends once more, and that is another event.
    cleared = getattr(run, "clear_number", 0) or 0
    ended = "failed" if kind is Kind.FAILURE else "succeeded"
    notice = Notice(
        kind=kind,
        subject=f"{dag_id}/{run_id}" + (f"#{cleared}" if cleared else ""),
        title=f"{dag_id} {ended}",
        text=f"Run {run_id} of {dag_id} {ended}. Its task 'report' says what became of each server",
        at=datetime.now(UTC),
        wave=wave,
        details={"dag_id": dag_id, "dag_run_id": run_id, "reason": str(context.get("reason") or "")},
    )
    ledger = _opened()
    try:
        notify(ledger, notice, context)
    finally:
        ledger.close()
