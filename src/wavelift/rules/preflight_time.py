"""Pre-flight of time: can a server's disks be read before its snapshot is too old?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from wavelift.base.domain import Finding, ServerFacts
from wavelift.base.units import MBIT, human_bytes
from wavelift.rules.findings import Findings
from wavelift.rules.plans import ServerPlan

MOST_HOURS: Final = 168
"""Largest ``max_snapshot_hours`` that a wave accepts."""
ROOM: Final = 1.25
"""Factor from the expected hours to the hours that the finding recommends."""
TELL_FROM_S: Final = 3600.0
"""A transfer that takes less than an hour needs no finding."""


@dataclass(frozen=True, slots=True)
class LineFacts:
    """How fast a connector is, in bytes per second.

    :param measured: disk bytes, zeros included, that earlier whole reads processed per server. None: not measured yet.
    :param limit: the limit for all transfers of the connector together. None: no limit.
    """

    measured: float | None = None
    limit: float | None = None


UNMEASURED: Final = LineFacts()


def rate_of(plan: ServerPlan, line: LineFacts) -> float | None:
    """Bytes per second of a whole read of one server; None if nothing is known about it."""
    limits = (line.limit, plan.guards.max_mbit_s and plan.guards.max_mbit_s * MBIT, line.measured)
    return min((limit for limit in limits if limit), default=None)


def check_time(facts: ServerFacts, plan: ServerPlan, line: LineFacts) -> list[Finding]:
    """How long a whole read of the server takes: a migration, or the seed of a replication. A later delta takes less.

    A measured rate includes the effect of zeros, of compression and of parallel transfers. A configured limit is only
    an upper bound of the rate for a disk full of data.
    """
    rate = rate_of(plan, line)
    if rate is None:
        return []
    found = Findings(facts.name)
    hours = facts.capacity / rate / 3600
    how = f"the {human_bytes(rate)}/s measured on this connector"
    if rate != line.measured:
        how = f"the {human_bytes(rate)}/s that max_mbit_s allows, if the disks are full of data"
    what = f"a whole read of its {human_bytes(facts.capacity)} takes about {_told(hours)} at {how}"
    allowed = plan.guards.max_snapshot_hours
    if hours > allowed:
        wanted = math.ceil(hours * ROOM)
        raised = f"Set max_snapshot_hours: {wanted} in the wave's file if the datastore can hold what the VM writes"
        found.warning(
            "transfer.too_long",
            f"{what}; max_snapshot_hours is {allowed:g}",
            why="the transfer is stopped when its snapshot reaches that age, so it can't finish in time",
            do=f"{raised}, or make the transfer faster (higher max_mbit_s, fewer parallel transfers)"
            if wanted <= MOST_HOURS
            else "Make the transfer faster (higher max_mbit_s, fewer parallel transfers), or use a separate connector",
            row="SMS-11",
        )
    elif hours * 3600 >= TELL_FROM_S:
        found.info(
            "transfer.time",
            what,
            why="its snapshot exists for that time, and grows with what the VM writes",
            do=f"Nothing; the transfer is stopped after {allowed:g} h (max_snapshot_hours)",
            row="SMS-11",
        )
    return found.all


def _told(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"
