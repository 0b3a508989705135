"""Times that people type. The command line knows its user's zone, so it takes a time without offset as of that zone.

The server knows no zone of a caller and refuses such a time: what is sent to it has an offset.
"""

from __future__ import annotations

from datetime import UTC, datetime

from wavelift.airflow.rest import ApiError
from wavelift.rules.problem import quoted

EXAMPLE = "'2026-12-01 10:00' (your own zone), or with an offset '2026-12-01T10:00:00+01:00'"


def typed_time(text: str) -> datetime:
    """The instant that a user means, with its offset.

    :raises ApiError: it is no time, or one that the user's zone has twice or never; both readings are named.
    """
    try:
        seen = datetime.fromisoformat(text.strip())
        return seen if seen.tzinfo else _in_own_zone(seen)
    except (ValueError, OverflowError, OSError):  # the last two: years that no zone of the system knows
        raise ApiError(f"{quoted(text)} is not a time; write {EXAMPLE}") from None


def with_offset(text: str) -> str:
    """A time without offset gets that of the user's zone; every other text is left for the server to judge.

    :raises ApiError: as :func:`typed_time`.
    """
    try:
        seen = datetime.fromisoformat(text.strip())
    except ValueError:
        return text
    return text if seen.tzinfo or text.strip().isdecimal() else typed_time(text).isoformat()


def _in_own_zone(wall: datetime) -> datetime:
    """The first and the second reading of a wall clock differ only where the zone's clocks are changed."""
    readings = [wall.replace(fold=fold).astimezone() for fold in (0, 1)]
    if readings[0].utcoffset() == readings[1].utcoffset():
        return readings[0]
    early, late = sorted(readings, key=lambda reading: reading.astimezone(UTC))
    if early.replace(tzinfo=None, fold=0) == wall:
        raise ApiError(
            f"{_wall(wall)} comes twice in your zone, whose clocks are put back. "
            f"Write {_exact(early)} for the first time, or {_exact(late)} for the second"
        )
    raise ApiError(
        f"{_wall(wall)} does not exist in your zone, whose clocks are put forward. "
        f"Write {_exact(late)} if you counted without that, or {_exact(early)} if you counted with it"
    )


def _wall(time: datetime) -> str:
    return time.isoformat(" ", timespec=_step(time))


def _exact(instant: datetime) -> str:
    return instant.isoformat(timespec=_step(instant))


def _step(time: datetime) -> str:
    return "auto" if time.second or time.microsecond else "minutes"
