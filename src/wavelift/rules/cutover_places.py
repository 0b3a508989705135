"""What is known of the places that a server's cutover takes, and what in them is in its way. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from wavelift.base.domain import Finding
from wavelift.base.times import utc_minute
from wavelift.rules.findings import Findings


class RecordPlace(NamedTuple):
    """A record, in the words of its step."""

    zone: str
    name: str
    type: str
    set_identifier: str

    @property
    def words(self) -> str:
        return " ".join(part for part in (self.name, self.type, self.set_identifier) if part)


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """What AWS shows of them. None: nothing is in the way there.

    :param groups: ARN of a target group → why the instance can't take over there. :param records: record → why it
        can't be switched. :param ttls: record → its TTL in seconds; None: it has none, being new or an alias. What
        could not be read is missing. :param elastic_ips: allocation → why the instance can't get it.
    :param address: findings of the address that the instance keeps of its source.
    """

    groups: Mapping[str, str | None] = field(default_factory=dict)
    records: Mapping[RecordPlace, str | None] = field(default_factory=dict)
    ttls: Mapping[RecordPlace, int | None] = field(default_factory=dict)
    elastic_ips: Mapping[str, str | None] = field(default_factory=dict)
    address: Sequence[Finding] = ()


@dataclass(frozen=True, slots=True)
class HighTtl:
    """A record whose TTL is higher than its step asks for. ``seconds``: the present one; None: it could not be read."""

    record: str
    seconds: int | None = None


def in_these(places: Places, found: Findings) -> None:
    """Say what keeps steps from being made: an error each, because the source would be down when it shows."""
    found.all.extend(places.address)
    for arn, why in places.groups.items():
        if why:
            found.error(
                "cutover.target_group",
                f"{arn.rpartition(':')[2]}: {why}",
                why="the instance could not take over there",
                do="Correct the target group, or the step: it needs a listener, and the targets that 'replaces' names",
            )
    for record, why in places.records.items():
        if why:
            found.error(
                "cutover.record",
                f"record {record.words} of {record.zone}: {why}",
                why="it could not be switched to the instance",
                do="Correct the step, or the zone",
            )
    for allocation, why in places.elastic_ips.items():
        if why:
            found.error(
                "cutover.elastic_ip",
                f"Elastic IP {allocation}: {why}",
                why="it is never taken from anything, so the instance could not get it",
                do="Disassociate it, or name another one",
            )


def of_ttls(unlowered: Sequence[HighTtl], now: datetime, found: Findings) -> None:
    """Warn of caches that would answer with the source's address for long."""
    for one in unlowered:
        do = "Trigger this DAG in mode 'prepare', and wait for the old TTL"
        if one.seconds is not None:
            earliest = utc_minute(now + timedelta(seconds=one.seconds))
            do = f"Trigger this DAG in mode 'prepare'. Lowered now, no cache has the old TTL from {earliest} on"
        found.warning(
            "cutover.ttl",
            f"the TTL of {one.record} {'' if one.seconds is None else f'is {one.seconds} s and '}was not lowered",
            why="caches answer with the source's address until the present TTL is over",
            do=do,
        )
