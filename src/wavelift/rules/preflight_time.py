"""Pre-flight of time: whether a server's disks can be read before its snapshot is too old (SMS-11, SMS-14)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from wavelift.base.domain import Finding, ServerFacts
from wavelift.base.units import MBIT, human_bytes
from wavelift.rules.findings import Findings
from wavelift.rules.plans import ServerPlan

MOST_HOURS: Final = 168
"""What ``max_snapshot_hours`` of a wave may say."""
ROOM: Final = 1.25
"""Hours that are advised, over those that are expected."""
TELL_FROM_S: Final = 3600.0
"""A transfer of less than an hour is nothing to be told of."""


@dataclass(frozen=True, slots=True)
class LineFacts:
    """How fast a connector is. Bytes per second.

    :param measured: bytes of disks that whole reads passed, zeros included, per server; None: none was measured yet.
    :param limit: of all its transfers together; None: there is none.
    """

    measured: float | None = None
    limit: float | None = None


def check_time(facts: ServerFacts, plan: ServerPlan, line: LineFacts) -> list[Finding]:
    """What a whole read of the server will take: a migration, and the seed of a replication; a later delta takes less.

    A measure knows the zeros, the compression and what else was under way; a limit alone only says what no disk full of
    data can beat.
    """
    limits = [limit for limit in (line.limit, plan.guards.max_mbit_s and plan.guards.max_mbit_s * MBIT) if limit]
    rate = min([*limits, *([line.measured] if line.measured else [])], default=None)
    if rate is None:
        return []
    found = Findings(facts.name)
    hours = facts.capacity / rate / 3600
    how = f"the {human_bytes(rate)}/s that were measured on this connector"
    if rate != line.measured:
        how = f"the {human_bytes(rate)}/s that max_mbit_s allows, if all of it is data"
    what = f"a whole read of its {human_bytes(facts.capacity)} takes about {_told(hours)} at {how}"
    allowed = plan.guards.max_snapshot_hours
    if hours > allowed:
        wanted = math.ceil(hours * ROOM)
        raised = f"Set max_snapshot_hours: {wanted} in the wave's file if the datastore has room for what the VM writes"
        found.warning(
            "transfer.too_long",
            f"{what}; max_snapshot_hours is {allowed:g}",
            why="the transfer is stopped when its snapshot is that old: it can't end in time",
            do=f"{raised}, or give the transfer a faster line (max_mbit_s, fewer at once)"
            if wanted <= MOST_HOURS
            else "Give the transfer a faster line (max_mbit_s, fewer at once), or a connector of its own",
            row="SMS-11",
        )
    elif hours * 3600 >= TELL_FROM_S:
        found.info(
            "transfer.time",
            what,
            why="its snapshot stands for as long, and grows with what the VM writes",
            do=f"Nothing; it is stopped after {allowed:g} h (max_snapshot_hours)",
            row="SMS-11",
        )
    return found.all


def _told(hours: float) -> str:
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"
