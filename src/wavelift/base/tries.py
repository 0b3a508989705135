"""What a task leaves of a try that failed, and when Airflow tries it again."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Self

from wavelift.base.printable import printable
from wavelift.base.times import zone_of

FAILURE_KEY: Final = "wavelift_failure"
"""The XCom in which a failing task leaves its words."""
REASON_LONGEST: Final = 500
"""Characters of a reason in a row or a line."""
LONGEST_DELAY: Final = timedelta(days=1)
"""Airflow's own limit of a delay (``MAX_RETRY_DELAY``)."""
EARLIEST: Final = datetime(1970, 1, 2, tzinfo=UTC)
LATEST: Final = datetime(9999, 12, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedTry:
    """A try that failed while the task has another one.

    :param number: of the failed try, from 1. 0: not known.
    :param of: how many tries the task has. 0: not known.
    :param next_at: when the next one begins. None: not known.
    """

    what: str = ""
    number: int = 0
    of: int = 0
    next_at: datetime | None = None

    @classmethod
    def load(cls, left: Any) -> Self:
        """Of what the task left under :data:`FAILURE_KEY`. A killed task leaves nothing, another program anything."""
        if not isinstance(left, dict):
            return cls()
        what = left.get("what")
        return cls(
            what=printable(what, REASON_LONGEST) if isinstance(what, str) else "",
            number=_number(left.get("try")),
            of=_number(left.get("of")),
            next_at=_instant(left.get("next_try_at")),
        )

    @property
    def short(self) -> str:
        """``failed, tries again at 14:03:20 CET (try 2 of 3)``, in the zone of this process: of the command line."""
        local = self.next_at.astimezone() if self.next_at else None
        when = f" at {local:%H:%M:%S} {zone_of(local)}" if local else ""
        which = f" (try {self.number + 1} of {self.of})" if 0 < self.number < self.of else ""
        return f"failed, tries again{when}{which}"

    @property
    def words(self) -> str:
        """The same with the reason."""
        return f"{self.short}: {self.what}" if self.what else self.short


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """How Airflow spaces a task's tries.

    :param delay: before the second try, at least.
    :param multiplier: of each further delay. 0 or 1: all delays are equal.
    :param longest: None: no limit of the task's own.
    """

    delay: timedelta
    multiplier: float = 0.0
    longest: timedelta | None = None

    def after(self, key: str, number: int) -> timedelta:
        """Between the end of try ``number`` and the next one: as ``TaskInstance.next_retry_datetime`` computes it.

        Airflow's jitter is no chance: it is a hash of the key.

        :param key: DAG, task and logical date of the task instance, joined by ``#``.
        """
        if self.multiplier in (0, 1) or self.multiplier < 0:
            return self.delay
        most = int(LONGEST_DELAY.total_seconds())
        try:
            least = max(1, math.ceil(self.delay.total_seconds() * self.multiplier ** (number - 1)))
        except OverflowError:
            least = most
        digest = hashlib.sha1(f"{key}#{number}".encode(), usedforsecurity=False).hexdigest()
        jittered = timedelta(seconds=min(least + int(digest, 16) % least, most))
        return min(self.longest, jittered) if self.longest else jittered


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1_000_000 else 0


def _instant(value: Any) -> datetime | None:
    """None for a value that no clock shows, in whatever zone: a reader's own zone may lie a day off."""
    try:
        found = datetime.fromisoformat(value)
        return found if found.tzinfo and EARLIEST < found < LATEST else None
    except (OverflowError, TypeError, ValueError):
        return None
