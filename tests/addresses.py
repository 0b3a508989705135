"""The alarm of the tests' world: no address may be up in the simulated vCenter and in the simulated AWS at once.

Both simulators note every change before a client can see it, by the clock of one machine. So what overlaps here, did.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import ip_address
from typing import Any, Protocol

__test__ = False


class Logged(Protocol):
    """A simulator."""

    def address_log(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class Held:
    """One address of one owner, from one instant to another."""

    owner: str
    address: str
    since: datetime
    until: datetime | None
    """None: still."""

    def overlaps(self, other: Held) -> bool:
        return (
            self.address == other.address
            and (other.until is None or self.since < other.until)
            and (self.until is None or other.since < self.until)
        )


@dataclass(frozen=True, slots=True)
class Clash:
    """One address that both sides held."""

    source: Held
    target: Held

    @property
    def since(self) -> datetime:
        return max(self.source.since, self.target.since)

    @property
    def until(self) -> datetime | None:
        return min((held.until for held in (self.source, self.target) if held.until is not None), default=None)

    def __str__(self) -> str:
        end = self.until.isoformat() if self.until else "now"
        return f"{self.source.address}: {self.source.owner} and {self.target.owner}, {self.since.isoformat()} to {end}"


def intervals(log: Iterable[Mapping[str, Any]], owner: str) -> list[Held]:
    """What a simulator's log says; ``owner`` is the key of whose an address is."""
    up: dict[tuple[str, str, object], datetime] = {}
    found: list[Held] = []
    for row in log:
        key = (str(row[owner]), str(ip_address(row["address"])), row.get("key"))
        at = datetime.fromisoformat(row["at"])
        if row["up"]:
            up[key] = at
        else:
            found.append(Held(key[0], key[1], up.pop(key), at))
    return [*found, *(Held(who, address, since, None) for (who, address, _), since in up.items())]


def clashes(sources: Sequence[Held], targets: Sequence[Held]) -> list[Clash]:
    return [Clash(source, target) for source in sources for target in targets if source.overlaps(target)]


class AddressAlarm:
    """From its making on: ``clashes()`` lists them, ``check()`` fails on one."""

    def __init__(self, vcenter: Logged, aws: Logged) -> None:
        self._vcenter, self._aws = vcenter, aws
        self._since = datetime.now(UTC)

    def clashes(self) -> list[Clash]:
        found = clashes(intervals(self._vcenter.address_log(), "vm"), intervals(self._aws.address_log(), "instance"))
        return [clash for clash in found if clash.until is None or clash.until > self._since]

    def check(self) -> None:
        found = self.clashes()
        assert not found, f"one address on both sides: {'; '.join(map(str, found))}"
