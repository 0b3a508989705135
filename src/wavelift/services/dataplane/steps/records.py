"""Steps over DNS records in Route 53: switch a server's records of one zone, and lower their TTL beforehand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.route53 import RecordKey, RecordSet, Route53
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.services.dataplane.steps.poll import in_sync
from wavelift.services.dataplane.steps.step import Outcome, Settled, State, Step, Waiting

DEFAULT_TTL_S: Final = 60
"""Of a record that is new, or was an alias, if nobody says another."""


@dataclass(frozen=True, slots=True)
class Alias:
    """:ivar zone: the hosted zone id of the load balancer or other target, not of the record."""

    zone: str
    name: str
    evaluate_health: bool = False

    def parameters(self) -> dict[str, Any]:
        return {"HostedZoneId": self.zone, "DNSName": self.name, "EvaluateTargetHealth": self.evaluate_health}


@dataclass(frozen=True, slots=True)
class Record:
    """A record as it is to be: values, or an alias.

    What it has besides (weight, region, health check) stays as it is. A record with a ``set_identifier`` must exist.

    :ivar values: as Route 53 writes them (TXT in quotes). :ivar ttl: seconds; None keeps the TTL.
    :ivar new_ttl: seconds, of a record that has none to keep: it is new, or was an alias.
    """

    name: str
    type: str
    values: tuple[str, ...] = ()
    alias: Alias | None = None
    ttl: int | None = None
    set_identifier: str = ""
    new_ttl: int = DEFAULT_TTL_S

    @property
    def key(self) -> RecordKey:
        return RecordKey(self.name, self.type, self.set_identifier)

    @property
    def words(self) -> str:
        aim = self.alias.name if self.alias else ", ".join(self.values)
        return f"{self.key.name} {self.key.type} to {aim}"

    def over(self, before: RecordSet | None) -> RecordSet:
        """The record in AWS's words, made of the one before."""
        kept = dict(before or {"Name": self.key.name, "Type": self.key.type})
        ttl = self.ttl if self.ttl is not None else kept.get("TTL", self.new_ttl)
        for member in ("TTL", "ResourceRecords", "AliasTarget"):
            kept.pop(member, None)
        if self.alias is not None:
            return {**kept, "AliasTarget": self.alias.parameters()}
        return {**kept, "TTL": ttl, "ResourceRecords": [{"Value": value} for value in self.values]}


class _Records(Step):
    """Records of one zone, changed in one batch: all or none. A state is record → its set in AWS's words, or None."""

    _prefix: ClassVar[str]

    def __init__(self, aws: AwsAccess, *, zone: str, keys: Sequence[RecordKey], comment: str) -> None:
        self._dns = Route53(aws)
        self._zone = zone.removeprefix("/hostedzone/")
        self._keys = sorted(keys, key=str)
        self._comment = comment
        if not self._keys or len(set(self._keys)) != len(self._keys):
            raise PermanentError("a step needs records, each once", next_step="Correct the wave's dns steps", zone=zone)

    @property
    def name(self) -> str:
        return f"{self._prefix}:{self._zone}:{','.join(map(str, self._keys))}"

    def read(self) -> State:
        return {str(key): record for key, record in self._dns.records(self._zone, self._keys).items()}

    def renew(self, to: State) -> str:
        """Write what stands already. Route 53 lists no changes, so a change id that was lost can't be found again."""
        standing = [one for one in self._dns.records(self._zone, self._keys).values() if one is not None]
        return self._dns.repeat(self._zone, standing, comment=self._comment) if standing else ""

    def settled(self, to: State, receipt: str = "") -> Outcome:
        if not receipt or self._is_in_sync(receipt):
            return Settled()
        return Waiting("until all name servers of Route 53 have the records", in_sync(receipt), receipt)

    def _is_in_sync(self, change_id: str) -> bool:
        try:
            return self._dns.in_sync(change_id)
        except NotFoundError:  # Route 53 has forgotten it: it is over
            return True


class SwitchRecords(_Records):
    """Let a server's records of one zone lead to the target.

    Their TTL does not count: lowering and restoring it is a step of its own.
    """

    kind = "dns"
    _prefix = "dns"

    def __init__(self, aws: AwsAccess, *, zone: str, records: Sequence[Record], comment: str = "") -> None:
        for record in records:
            if bool(record.values) == (record.alias is not None):
                raise PermanentError(
                    "a record has either values or an alias", next_step="Correct the dns step", record=record.key
                )
        super().__init__(aws, zone=zone, keys=[record.key for record in records], comment=comment)
        self._records = {str(record.key): record for record in records}

    @property
    def words(self) -> str:
        return f"Point {'; '.join(record.words for record in self._records.values())} (zone {self._zone})"

    @property
    def undo_words(self) -> str:
        return f"Put the old content of {', '.join(self._records)} back"

    def wanted(self, before: State) -> State:
        for key, record in self._records.items():
            if record.set_identifier and before[key] is None:
                raise NotFoundError(
                    "there is no such record, and a record with a routing policy is not made here",
                    next_step="Make it first, or correct set_identifier",
                    zone=self._zone,
                    record=key,
                )
        return {key: record.over(before[key]) for key, record in self._records.items()}

    def change(self, now: State, to: State) -> str:
        pairs = [(now[str(key)], to[str(key)]) for key in self._keys]
        changed = [(old, new) for old, new in pairs if _content(old) != _content(new)]
        return self._dns.swap(self._zone, changed, comment=self._comment)

    def same(self, one: State, other: State) -> bool:
        return {key: _content(record) for key, record in one.items()} == {
            key: _content(record) for key, record in other.items()
        }


def _content(record: RecordSet | None) -> Any:
    """What counts in a comparison."""
    if record is None:
        return None
    plain = {name: value for name, value in record.items() if name not in {"TTL", "ResourceRecords", "Name"}}
    if alias := plain.get("AliasTarget"):
        plain["AliasTarget"] = {**alias, "DNSName": alias["DNSName"].rstrip(".").lower()}
    return plain, sorted(value["Value"] for value in record.get("ResourceRecords", ()))


class LowerTtl(_Records):
    """Lower the TTL of records before a cutover, so that caches soon ask again. Its undo is for *finalize*.

    A state is record → TTL in seconds. The content does not count, so it may be switched in between. Caches keep the
    old TTL after this: :meth:`old_ttl_s` more seconds until all of them have the new one.
    """

    kind = "ttl"
    _prefix = "ttl"

    def __init__(
        self, aws: AwsAccess, *, zone: str, records: Sequence[RecordKey], ttl: int = DEFAULT_TTL_S, comment: str = ""
    ) -> None:
        super().__init__(aws, zone=zone, keys=records, comment=comment)
        self._ttl = ttl

    @property
    def words(self) -> str:
        return f"Lower the TTL of {', '.join(map(str, self._keys))} to {self._ttl} s (zone {self._zone})"

    @property
    def undo_words(self) -> str:
        return "Restore the TTL"

    @staticmethod
    def old_ttl_s(before: State) -> int:
        """The longest TTL before: the earliest time of a switch is when the change is in sync, plus this."""
        return max((ttl for ttl in before.values() if ttl is not None), default=0)

    def read(self) -> State:
        found = self._dns.records(self._zone, self._keys)
        return {str(key): record.get("TTL") if record else None for key, record in found.items()}

    def wanted(self, before: State) -> State:
        """Aliases and records that do not exist have no TTL; a lower one stays."""
        return {key: None if ttl is None else min(ttl, self._ttl) for key, ttl in before.items()}

    def change(self, now: State, to: State) -> str:
        records = self._dns.records(self._zone, self._keys)
        pairs = []
        for key, record in records.items():
            if to[str(key)] is not None and now[str(key)] != to[str(key)] and record is not None:
                pairs.append(({**record, "TTL": now[str(key)]}, {**record, "TTL": to[str(key)]}))
        return self._dns.swap(self._zone, pairs, comment=self._comment)

    def same(self, one: State, other: State) -> bool:
        """What has no TTL has none to lower or restore: a switch may make an alias of it, or the record itself."""
        return all(None in (one[key], other[key]) or one[key] == other[key] for key in one.keys() | other.keys())
