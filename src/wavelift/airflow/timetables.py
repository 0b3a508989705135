"""The schedule of ``<wave>.replicate``: the instants of the wave's replication jobs (SMS-03, SMS-04, AIR-05).

The ledger holds the schedule. The timetable reads one row of it at every call. Airflow calls the timetable after every
run that it creates and at every parse (about every 30 s), so the answer *none* is valid only until the next parse.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

import pendulum
from airflow.timetables.base import DagRunInfo, DataInterval, Timetable

from wavelift.rules.schedule import GRACE, Schedule, newest_due, next_after

if TYPE_CHECKING:
    from airflow.timetables.base import TimeRestriction

log = logging.getLogger(__name__)

QUIET_SECONDS: Final = 20.0
"""If the ledger did not answer, this process does not ask it again for this time. Otherwise every wave would wait for
it, one after the other."""


class ReplicationTimetable(Timetable):
    """The merged instants of all active jobs of a wave. Never raises: if the ledger does not answer, there are none.

    :param wave: name of the wave.
    """

    description = "At the seed time of each server and then at the interval of its replication job"

    _quiet_until = 0.0

    def __init__(self, *, wave: str) -> None:
        self.wave = wave

    def serialize(self) -> dict[str, Any]:
        return {"wave": self.wave}

    @classmethod
    def deserialize(cls, data: dict[str, Any]) -> Self:
        return cls(wave=data["wave"])

    @property
    def summary(self) -> str:
        return "replication jobs"

    def infer_manual_data_interval(self, *, run_after: pendulum.DateTime) -> DataInterval:
        return DataInterval.exact(run_after)

    def next_dagrun_info(
        self, *, last_automated_data_interval: DataInterval | None, restriction: TimeRestriction
    ) -> DagRunInfo | None:
        """The run that is due, else the next one. ``catchup`` is ignored: replication never repeats past instants."""
        try:
            last = last_automated_data_interval.end if last_automated_data_interval else None
            at = instant(self.schedules(), self.now(), last=plain(last), earliest=plain(restriction.earliest))
        except Exception as error:
            log.warning("wave %s has no instants until the next parse: %s", self.wave, error)
            return None
        if at is None or (restriction.latest is not None and at > restriction.latest):
            return None
        return DagRunInfo.exact(pendulum.instance(at, tz="UTC"))

    def now(self) -> datetime:
        return datetime.now(UTC)

    def schedules(self) -> Collection[Schedule]:
        """:raises WaveliftError: if the ledger does not answer."""
        from wavelift.airflow import config
        from wavelift.base.errors import UnreachableError
        from wavelift.ledger import Ledger
        from wavelift.ledger.jobs import read_schedules

        if time.monotonic() < ReplicationTimetable._quiet_until:
            raise UnreachableError("The ledger did not answer a moment ago")
        try:
            # Do not create or upgrade the schema here: the timetable must only read.
            with Ledger.open(config.ledger_url(), upgrade=False) as ledger, ledger.read() as tx:
                return read_schedules(tx, self.wave).values()
        except UnreachableError:
            ReplicationTimetable._quiet_until = time.monotonic() + QUIET_SECONDS
            raise


def instant(
    schedules: Collection[Schedule], now: datetime, *, last: datetime | None, earliest: datetime | None = None
) -> datetime | None:
    """The newest instant that is due and has no run, else the next instant; None if there is none.

    "The next instant "
    "after now" would lose instants: Airflow calls the timetable at every parse of the DAG, also between
    an instant and the creation of its run. One of ten instants was lost in this way.

    :param last: instant of the last run that the timetable created.
    :param earliest: the DAG's start date.
    """
    due = newest_due(schedules, now, GRACE)
    if due is not None and (last is None or due > last) and (earliest is None or due >= earliest):
        return due
    return next_after(schedules, max(moment for moment in (now, last, earliest) if moment is not None))


def plain(moment: datetime | None) -> datetime | None:
    """The same moment as a plain datetime: Pendulum's differences can't be divided by a frequency."""
    if moment is None:
        return None
    at = moment.astimezone(UTC)
    return datetime(at.year, at.month, at.day, at.hour, at.minute, at.second, at.microsecond, UTC)
