"""Times in texts for people: rounded to the minute, and never without a zone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def minute_up(instant: datetime) -> datetime:
    """The next whole minute: who acts at the time that a text names must not come too early."""
    whole = instant.replace(second=0, microsecond=0)
    return whole if whole == instant else whole + timedelta(minutes=1)


def utc_minute(instant: datetime) -> str:
    """``2026-12-01 10:00 UTC``, rounded up: for texts whose readers may be anywhere."""
    return f"{minute_up(instant.astimezone(UTC)):%Y-%m-%d %H:%M} UTC"


def zone_of(local: datetime) -> str:
    """``CET``, or ``UTC+03:00`` for a zone without a name."""
    name, offset = local.tzname() or "", f"{local:%z}"
    return name if name.isalpha() else f"UTC{offset[:3]}:{offset[3:5]}"
