"""What triggered a run of a wave."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Airflow's conf, and how the run came about. Who asked for it is :attr:`RunContext.requester`.

    :param source: ``ui``, ``api`` or ``schedule``.
    :param scheduled_for: the instant of a run that the timetable made; None: on demand.
    """

    wave: str
    conf: Mapping[str, Any]
    source: str = "api"
    scheduled_for: datetime | None = None
    backfill: bool = False
