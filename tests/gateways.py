"""The alarm of the tests' world: no prefix may be routed by both sides at once.

The simulators note each change by the clock of one machine: NSX those of its segments, HCX those of the source site's
router. So what overlaps here, did.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_network
from typing import Protocol

__test__ = False

Row = tuple[float, str, str, str]
"""Seconds since the epoch, prefix, ``ON`` or ``OFF``, who routes."""


class Logged(Protocol):
    """A simulator: ``NsxSimulator``, or ``HcxSimulator`` for its router."""

    def prefix_log(self) -> list[Row]: ...


@dataclass(frozen=True, slots=True)
class Routed:
    """One prefix that one gateway routed, from one instant to another (seconds since the epoch)."""

    prefix: str
    by: str
    since: float
    until: float | None = None
    """None: still."""

    def overlaps(self, other: Routed) -> bool:
        """Also when one prefix lies in the other."""
        return (
            ip_network(self.prefix).overlaps(ip_network(other.prefix))
            and (other.until is None or self.since < other.until)
            and (self.until is None or other.since < self.until)
        )


@dataclass(frozen=True, slots=True)
class Clash:
    """What both sides routed."""

    source: Routed
    destination: Routed

    @property
    def since(self) -> float:
        return max(self.source.since, self.destination.since)

    @property
    def until(self) -> float | None:
        return min((one.until for one in (self.source, self.destination) if one.until is not None), default=None)

    def __str__(self) -> str:
        start = datetime.fromtimestamp(self.since, UTC).isoformat()
        end = "now" if self.until is None else datetime.fromtimestamp(self.until, UTC).isoformat()
        return f"{self.source.prefix}: {self.source.by} and {self.destination.by}, {start} to {end}"


def intervals(log: Iterable[Row]) -> list[Routed]:
    """What a simulator's log says."""
    up: dict[tuple[str, str], float] = {}
    found: list[Routed] = []
    for at, prefix, switched, by in sorted(log, key=lambda row: row[0]):
        if switched == "ON":
            up.setdefault((prefix, by), at)
        elif (prefix, by) in up:
            found.append(Routed(prefix, by, up.pop((prefix, by)), at))
    return [*found, *(Routed(prefix, by, since) for (prefix, by), since in up.items())]


def clashes(sources: Sequence[Routed], destinations: Sequence[Routed]) -> list[Clash]:
    return [Clash(source, there) for source in sources for there in destinations if source.overlaps(there)]


class GatewayAlarm:
    """From its making on: ``clashes()`` lists them, ``check()`` fails on one, ``gaps()`` are the times in which nobody
    routed."""

    def __init__(self, sources: Sequence[Logged], destinations: Sequence[Logged]) -> None:
        """
        :param sources: what routes at the source site: its NSX, and HCX's simulator for the router.
        :param destinations: what routes at the destination.
        """
        self._sources, self._destinations = sources, destinations
        self._since = time.time()

    def clashes(self) -> list[Clash]:
        found = clashes(_routed(self._sources), _routed(self._destinations))
        return [clash for clash in found if clash.until is None or clash.until > self._since]

    def check(self) -> None:
        found = self.clashes()
        assert not found, f"one prefix on both sides: {'; '.join(map(str, found))}"

    def routing(self, prefix: str) -> list[str]:
        """Who routes this prefix now: paths of segments, or ``router``."""
        held = [*_routed(self._sources), *_routed(self._destinations)]
        return [one.by for one in held if one.until is None and ip_network(one.prefix) == ip_network(prefix)]

    def gaps(self, prefix: str, until: float | None = None) -> list[tuple[float, float]]:
        """From when to when nobody routed this prefix (seconds since the epoch), from this alarm's making to
        ``until``, or to now."""
        end = time.time() if until is None else until
        held = sorted(
            (one.since, end if one.until is None else one.until)
            for one in (*_routed(self._sources), *_routed(self._destinations))
            if ip_network(one.prefix) == ip_network(prefix)
        )
        at, found = self._since, []
        for since, gone in held:
            if since > at:
                found.append((at, min(since, end)))
            at = max(at, gone)
        if at < end:
            found.append((at, end))
        return [(start, stop) for start, stop in found if start < stop]


def _routed(simulators: Sequence[Logged]) -> list[Routed]:
    return [one for each in simulators for one in intervals(each.prefix_log())]
