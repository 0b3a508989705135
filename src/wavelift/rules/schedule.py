"""When scheduled replication runs start (SMS-03, SMS-04, SMS-07): at a seed instant, then every *frequency* hours.

All calculations use absolute time, so that neither daylight saving time nor a restart moves an instant. They use
division, so that the cost does not depend on the age of the schedule.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from wavelift.base.errors import SpecError
from wavelift.base.times import minute_up
from wavelift.rules.limits import LIMITS
from wavelift.rules.problem import quoted

NOW: Final = "now"
GRACE: Final = timedelta(seconds=LIMITS["schedule_grace_seconds"].value)
"""If an instant is missed by more than this, its run is not made up for."""
SEED_AHEAD: Final = timedelta(days=LIMITS["seed_ahead_days"].value)
MIN_FREQUENCY_H: Final = LIMITS["frequency_min_hours"].value
MAX_FREQUENCY_H: Final = LIMITS["frequency_max_hours"].value
MAX_SEED: Final = 64
"""Characters of a seed time. Every form of it is shorter."""
_EPOCH: Final = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")
EARLIEST_EPOCH: Final = 1_577_836_800
"""2020-01-01 UTC in seconds. A smaller number is probably not epoch seconds: 2200 is a time, 20261201 is a date."""
_LATEST_EPOCH: Final = 4_102_444_800
"""2100-01-01 UTC. A larger number is probably not epoch seconds: it may be milliseconds, or 202612012200."""
_SEED_FORMS: Final = (
    "Write 'now', epoch seconds such as 1796119200, or ISO 8601 with an offset, in quotes, such as "
    "'2026-12-01T10:00:00+01:00'."
)


@dataclass(frozen=True, slots=True)
class Schedule:
    """The instants ``seed + n * frequency``, n = 0, 1, …, of one server.

    :param since: when the job was created, changed or resumed. Earlier instants don't count. None: all count.
    :param until: when the server's term ends. This and later instants don't count. None: no end.
    """

    seed: datetime
    frequency: timedelta
    since: datetime | None = None
    until: datetime | None = None

    def newest(self, now: datetime) -> datetime | None:
        """The newest instant that is not after ``now``; None if there is none yet."""
        steps = (now - self.seed) // self.frequency
        if self.until is not None:
            # The index of the last instant before ``until``: the number of such instants, minus one.
            steps = min(steps, -((self.seed - self.until) // self.frequency) - 1)
        if steps < 0:
            return None
        found = self.seed + steps * self.frequency
        return None if self.since is not None and found < self.since else found

    def next_after(self, moment: datetime) -> datetime | None:
        """The first instant after ``moment``; None if the schedule has ended by then."""
        steps = max(0, (moment - self.seed) // self.frequency + 1)
        if self.since is not None:
            steps = max(steps, -((self.seed - self.since) // self.frequency))
        found = self.seed + steps * self.frequency
        return None if self.until is not None and found >= self.until else found

    def dump(self) -> dict[str, Any]:
        """JSON: ISO 8601 in UTC, frequency in whole seconds."""
        return {
            "seed": _iso(self.seed),
            "frequency_s": round(self.frequency.total_seconds()),
            "since": self.since and _iso(self.since),
            "until": self.until and _iso(self.until),
        }

    @classmethod
    def load(cls, value: Mapping[str, Any]) -> Self:
        """The schedule from the result of :meth:`dump`."""
        since, until = value.get("since"), value.get("until")
        return cls(
            datetime.fromisoformat(value["seed"]),
            timedelta(seconds=value["frequency_s"]),
            datetime.fromisoformat(since) if since else None,
            datetime.fromisoformat(until) if until else None,
        )


def newest_due(schedules: Iterable[Schedule], now: datetime, grace: timedelta = GRACE) -> datetime | None:
    """The newest due instant of all schedules: not after ``now`` and at most ``grace`` ago.

    "The next instant after now" would be wrong: a call between an instant and its run would skip that instant.
    """
    return max((at for at in (each.newest(now) for each in schedules) if at and now - at <= grace), default=None)


def next_after(schedules: Iterable[Schedule], moment: datetime) -> datetime | None:
    """The first instant of all schedules after ``moment``; None if there is none."""
    return min((at for at in (each.next_after(moment) for each in schedules) if at), default=None)


def due_servers(schedules: Mapping[str, Schedule], instant: datetime, grace: timedelta = GRACE) -> dict[str, datetime]:
    """The servers that are due in the run of ``instant``, each with its own newest instant, at most ``grace`` before.

    The comparison is not by equality: if instants are close together, the timetable creates one run for the newest of
    them. ``grace`` counts from that instant, not from now, so that a run that waited for a busy scheduler loses no
    server. The caller must check whether the previous run has already served a server's instant.
    """
    found = ((server, schedule.newest(instant)) for server, schedule in schedules.items())
    return {server: at for server, at in found if at is not None and instant - at <= grace}


def frequency(hours: int) -> timedelta:
    """:raises SpecError: if ``hours`` is not in the range 12 to 24 (SMS-03)."""
    if not MIN_FREQUENCY_H <= hours <= MAX_FREQUENCY_H:
        raise SpecError(
            f"A frequency of {hours} hours is not in the range {MIN_FREQUENCY_H} to {MAX_FREQUENCY_H}",
            next_step="Choose a whole number of hours in this range.",
        )
    return timedelta(hours=hours)


def parse_seed(value: str | int | float | datetime) -> datetime | None:
    """Parse a seed time from user input and return it in UTC; None for ``now``.

    :raises SpecError: for an unknown format, for a time without an offset (its time zone is unknown), and for a number
        that is not between 2020 and 2099 as epoch seconds (it probably means something else).
    """
    if isinstance(value, datetime):
        return _aware(value, str(value))
    try:
        text = str(value).strip()
    except ValueError:  # Python refuses to write thousands of digits
        text = "a number of thousands of digits"
    if text.lower() == NOW:
        return None
    try:
        if len(text) > MAX_SEED:
            raise ValueError
        if _EPOCH.fullmatch(text):
            return _of_epoch(float(text), text)
        return _aware(datetime.fromisoformat(text), text)
    except (ValueError, OverflowError, OSError):
        raise SpecError(f"{quoted(text)} is not a seed time", next_step=_SEED_FORMS) from None


def seed_instant(value: str | int | float | datetime, now: datetime, ahead: timedelta = SEED_AHEAD) -> datetime:
    """The seed instant that ``value`` means at ``now``. A seed in the past is kept; later instants follow from it.

    :raises SpecError: as :func:`parse_seed`, and for an instant more than ``ahead`` (30 days) away.
    """
    instant = parse_seed(value) or now
    if instant - now > ahead:
        raise SpecError(
            f"The seed time {_minute(minute_up(instant))} is more than {ahead.days} days ahead",
            next_step=f"Choose a time up to {_minute(now + ahead)}.",
        )
    return instant


def _of_epoch(seconds: float, text: str) -> datetime:
    if EARLIEST_EPOCH <= seconds < _LATEST_EPOCH:
        return datetime.fromtimestamp(seconds, UTC)
    try:
        seen = f", which is {_iso(datetime.fromtimestamp(seconds, UTC))}"
    except (ValueError, OverflowError, OSError):
        seen = ""
    raise SpecError(
        f"The seed time '{text}' is read as seconds since 1970{seen}; that is not between 2020 and 2099",
        next_step=_SEED_FORMS,
    )


def _aware(value: datetime, text: str) -> datetime:
    if value.tzinfo is None:
        raise SpecError(f"The seed time '{text}' has no offset from UTC", next_step=_SEED_FORMS)
    return value.astimezone(UTC)


def _iso(value: datetime) -> str:
    return value.astimezone(UTC).isoformat()


def _minute(value: datetime) -> str:
    """For people, in a form that a seed time may have; rounded down."""
    return value.astimezone(UTC).isoformat(timespec="minutes")
