"""Records of Route 53: read exactly, changed in one batch per zone that fails if a record is not as it was read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.errors import aws_errors
from wavelift.adapters.aws.texts import description

PAGE: Final = 100
"""Records in one answer of ListResourceRecordSets."""
COMMENT_LONGEST: Final = 256
"""Characters of a batch's comment (Route 53 API reference, ChangeBatch)."""

RecordSet = dict[str, Any]
"""A ResourceRecordSet in AWS's words, complete: what is not changed (weight, health check) must go back as it came."""


@dataclass(frozen=True, slots=True)
class RecordKey:
    """What makes a record unique in its zone. Names are compared as :func:`record_name` writes them.

    :ivar set_identifier: of weighted, latency and other records with a routing policy; empty for simple ones.
    """

    name: str
    type: str
    set_identifier: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", record_name(self.name))
        object.__setattr__(self, "type", self.type.upper())

    def __str__(self) -> str:
        return ":".join(part for part in (self.name, self.type, self.set_identifier) if part)


def record_name(name: str) -> str:
    """As Route 53 writes it: lower case, with a final dot, ``*`` as its octal escape."""
    return name.strip().rstrip(".").lower().replace("*", r"\052") + "."


def key_of(record: Mapping[str, Any]) -> RecordKey:
    return RecordKey(record["Name"], record["Type"], record.get("SetIdentifier", ""))


class Route53:
    """Hosted zones of one account. Throttling and ``PriorRequestNotComplete`` are borne by :class:`AwsAccess`."""

    def __init__(self, access: AwsAccess) -> None:
        self._access = access

    @property
    def _client(self) -> Any:
        return self._access.client("route53")

    def records(self, zone: str, keys: Iterable[RecordKey]) -> dict[RecordKey, RecordSet | None]:
        """The records of these keys; None for those that do not exist.

        :raises NotFoundError: there is no such zone.
        """
        wanted = list(dict.fromkeys(keys))
        found: dict[RecordKey, RecordSet] = {}
        for name, kind in dict.fromkeys((key.name, key.type) for key in wanted):
            for record in self._of(zone, name, kind):
                found[key_of(record)] = record
        return {key: found.get(key) for key in wanted}

    def _of(self, zone: str, name: str, kind: str) -> list[RecordSet]:
        """All records of a name and type: they follow each other in Route 53's order."""
        found: list[RecordSet] = []
        start = {"StartRecordName": name, "StartRecordType": kind}
        while True:
            with aws_errors("could not read the records", service="route53", zone=zone, record=name):
                page = self._client.list_resource_record_sets(HostedZoneId=zone, MaxItems=str(PAGE), **start)
            records = page["ResourceRecordSets"]
            mine = [one for one in records if record_name(one["Name"]) == name and one["Type"] == kind]
            found += mine
            if not page.get("IsTruncated") or len(mine) < len(records):
                return found
            start = {
                member.replace("Next", "Start"): page[member]
                for member in ("NextRecordName", "NextRecordType", "NextRecordIdentifier")
                if page.get(member)
            }

    def swap(self, zone: str, pairs: Sequence[tuple[RecordSet | None, RecordSet | None]], *, comment: str = "") -> str:
        """Put the second record of each pair in the place of the first, all in one batch; its change id.

        The first is deleted by its exact content, so Route 53 refuses the whole batch if somebody changed it.

        :raises PermanentError: a record is not the first any more (``InvalidChangeBatch``), or AWS refuses the second.
        """
        deleted = [("DELETE", old) for old, _ in pairs if old is not None]
        created = [("CREATE", new) for _, new in pairs if new is not None]
        return self._batch(zone, [*deleted, *created], comment)

    def repeat(self, zone: str, records: Sequence[RecordSet], *, comment: str = "") -> str:
        """Write records that stand already; the id of a change that is in sync no sooner than the first one."""
        return self._batch(zone, [("UPSERT", one) for one in records], comment)

    def _batch(self, zone: str, changes: Sequence[tuple[str, RecordSet]], comment: str) -> str:
        batch = {
            "Comment": description(comment)[:COMMENT_LONGEST],
            "Changes": [{"Action": action, "ResourceRecordSet": record} for action, record in changes],
        }
        place = ", ".join(dict.fromkeys(str(key_of(record)) for _, record in changes))
        with aws_errors("could not change the records", service="route53", zone=zone, record=place):
            answer = self._client.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=batch)
        return str(answer["ChangeInfo"]["Id"]).removeprefix("/change/")

    def in_sync(self, change_id: str) -> bool:
        """Whether all name servers of Route 53 answer as the change says. Caches elsewhere keep the old TTL."""
        with aws_errors("could not look at the change", service="route53", change=change_id):
            return bool(self._client.get_change(Id=change_id)["ChangeInfo"]["Status"] == "INSYNC")
