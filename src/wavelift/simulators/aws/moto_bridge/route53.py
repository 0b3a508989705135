"""Route 53: batches are all or nothing, and a change takes time to reach all servers."""

from __future__ import annotations

import ipaddress
import random
import string
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from moto.core.responses import ActionResult
from moto.route53.models import RecordSet, reverse_domain_name
from moto.route53.utils import validate_domain_name

from wavelift.simulators.aws.errors import AwsError
from wavelift.simulators.aws.moto_bridge.account import Account
from wavelift.simulators.aws.moto_bridge.actions import plain

ACTIONS: Final = ("CREATE", "DELETE", "UPSERT")
MAX_VALUES: Final = 1000
"""ResourceRecord elements in a batch; those of an UPSERT count twice (developer guide, "Quotas")."""
MAX_RECORDS: Final = 300
"""In one answer of ListResourceRecordSets (API reference)."""
ROUTING: Final = ("weight", "region", "failover", "geo_location", "multi_value_answer", "health_check_id")
ADDRESSES: Final[dict[str, tuple[type, str]]] = {
    "A": (ipaddress.IPv4Address, "ARRDATAIllegalIPv4Address (Value is not a valid IPv4 address)"),
    "AAAA": (ipaddress.IPv6Address, "AAAARRDATAIllegalIPv6Address (Value is not a valid IPv6 address)"),
}


@dataclass(frozen=True, slots=True)
class Change:
    """``zone`` is its id; the times are seconds of the simulator's clock."""

    id: str
    zone: str
    submitted: float
    due: float
    comment: str


class Route53Actions:
    """A mixin of moto's Route53."""

    account: Account

    if TYPE_CHECKING:
        params: dict[str, Any]
        backend: Any

        def _get_param(self, name: str, default: Any = None) -> Any: ...

    def change_resource_record_sets(self) -> ActionResult:
        values = plain(self.params)
        zone = self.backend.get_hosted_zone(values.get("HostedZoneId"))
        batch = values.get("ChangeBatch") or {}
        draft = Draft(zone)
        for change in batch.get("Changes") or []:
            draft.apply(change)
        draft.check_size()
        if draft.problems:
            raise AwsError("InvalidChangeBatch", f"[{', '.join(draft.problems)}]", 400)
        zone.rrsets = draft.records
        return ActionResult({"ChangeInfo": self._info(self._changed(zone, batch.get("Comment") or ""))})

    def _changed(self, zone: Any, comment: str = "") -> Change:
        name = "C" + "".join(random.SystemRandom().choices(string.ascii_uppercase + string.digits, k=20))
        now = self.account.clock.now()
        change = Change(name, zone.resource_id, now, now + self.account.settings.dns_change_seconds, comment)
        self.account.dns_changes[name] = change
        return change

    def _info(self, change: Change) -> dict[str, Any]:
        held = self.account.faults.take("unsynced", service="route53", operation="GetChange", key=change.zone)
        reached = self.account.clock.now() >= change.due and not held
        info: dict[str, Any] = {
            "Id": f"/change/{change.id}",
            "Status": "INSYNC" if reached else "PENDING",
            "SubmittedAt": datetime.fromtimestamp(change.submitted, UTC),
        }
        return {**info, "Comment": change.comment} if change.comment else info

    def get_change(self) -> ActionResult:
        name = str(self._get_param("Id")).rpartition("/")[2]
        change = self.account.dns_changes.get(name)
        if change is None:
            raise AwsError("NoSuchChange", f"Could not find resource with ID: {name}", 404)
        return ActionResult({"ChangeInfo": self._info(change)})

    def create_hosted_zone(self) -> ActionResult:
        result: ActionResult = super().create_hosted_zone()  # type: ignore[misc]
        made: Any = result.result
        zone = made["HostedZone"]
        location = made["Location"].removesuffix(zone.resource_id)
        self._rename(zone, "Z" + zone.resource_id[1:])
        info = self._info(self._changed(zone))
        return ActionResult({**made, "ChangeInfo": info, "Location": location + zone.resource_id})

    def _rename(self, zone: Any, name: str) -> None:
        """Ids of hosted zones begin with Z; moto's with any letter."""
        self.backend.zones[name] = self.backend.zones.pop(zone.resource_id)
        zone.resource_id = name

    def delete_hosted_zone(self) -> ActionResult:
        zone = self.backend.get_hosted_zone(self._get_param("Id"))
        super().delete_hosted_zone()  # type: ignore[misc]
        return ActionResult({"ChangeInfo": self._info(self._changed(zone))})

    def list_resource_record_sets(self) -> ActionResult:
        """By reversed name, type and identifier. moto's pages begin anew at the first identifier of a record."""
        values = plain(self.params)
        zone = self.backend.get_hosted_zone(values.get("HostedZoneId"))
        size = min(int(values.get("MaxItems") or MAX_RECORDS), MAX_RECORDS)
        begin = (
            reverse_domain_name(full_name(values.get("StartRecordName") or "")),
            values.get("StartRecordType") or "",
            values.get("StartRecordIdentifier") or "",
        )
        if begin[1] and not values.get("StartRecordName"):
            raise AwsError("InvalidInput", "The input is not valid", 400)
        found = sorted((one for one in zone.rrsets if _place(one) >= begin), key=_place)
        answer: dict[str, Any] = {"ResourceRecordSets": found[:size], "MaxItems": size, "IsTruncated": False}
        if len(found) > size:
            after = found[size]
            answer |= {"IsTruncated": True, "NextRecordName": after.name, "NextRecordType": after.type}
            if after.set_identifier:
                answer["NextRecordIdentifier"] = after.set_identifier
        return ActionResult(answer)


def _place(record: Any) -> tuple[str, str, str]:
    return reverse_domain_name(record.name), str(record.type), record.set_identifier or ""


def full_name(name: str) -> str:
    """As Route 53 keeps it."""
    lower = name.lower().rstrip(".").replace("*", "\\052")
    return f"{lower}." if lower else ""


class Draft:
    """The records of a zone with a batch applied, and what is wrong with the batch."""

    def __init__(self, zone: Any) -> None:
        self._zone, self.records, self.problems = zone, list(zone.rrsets), list[str]()
        self._values, self._written = 0, set[tuple[str, str, str]]()

    def apply(self, change: Mapping[str, Any]) -> None:
        """One change. Raises AwsError for what Route 53 refuses before it looks at the records."""
        action, asked = change.get("Action"), dict(change.get("ResourceRecordSet") or {})
        if action not in ACTIONS:
            raise AwsError("InvalidInput", f"Invalid action '{action}'", 400)
        validate_domain_name(asked.get("Name") or "", code="InvalidChangeBatch")
        _check_complete(str(action), asked)
        values = [str(one["Value"]) for one in asked.get("ResourceRecords") or []]
        self._values += len(values) * (2 if action == "UPSERT" else 1)
        wanted = RecordSet({**asked, "Name": full_name(asked["Name"]), "ResourceRecords": values})
        said = f"[name='{wanted.name}', type='{wanted.type}'{_identified(wanted)}]"
        same = next((one for one in self.records if _place(one) == _place(wanted)), None)
        if action == "DELETE":
            self._delete(wanted, same, said)
            return
        if action == "CREATE" and same is not None:
            self.problems.append(f"Tried to create resource record set {said} but it already exists")
            return
        if _place(wanted) in self._written:
            self.problems.append(
                "The request contains an invalid set of changes for a resource record set "
                f"'{wanted.type} {wanted.name}'"
            )
            return
        self._written.add(_place(wanted))
        if same is not None:
            self.records.remove(same)
        self._check_new(wanted, values)
        self.records.append(wanted)

    def _delete(self, wanted: Any, same: Any, said: str) -> None:
        if same is None:
            self.problems.append(f"Tried to delete resource record set {said} but it was not found")
        elif _content(same) != _content(wanted):
            self.problems.append(
                f"Tried to delete resource record set {said} but the values provided do not match the current values"
            )
        else:
            self.records.remove(same)

    def _check_new(self, wanted: Any, values: list[str]) -> None:
        name, apex = wanted.name, self._zone.name.lower()
        if name != apex and not name.endswith(f".{apex}"):
            self.problems.append(f"RRSet with DNS name {name} is not permitted in zone {apex}")
        said = f"RRSet of type {wanted.type} with DNS name {name} is not permitted"
        if wanted.type == "CNAME" and name == apex:
            self.problems.append(f"{said} at apex in zone {apex}")
        others = [one for one in self.records if one.name == name]
        if wanted.type == "CNAME" and any(one.type != "CNAME" for one in others):
            self.problems.append(f"{said} as it conflicts with other records with the same DNS name in zone {apex}")
        elif wanted.type != "CNAME" and any(one.type == "CNAME" for one in others):
            self.problems.append(
                f"{said} because a conflicting RRSet of type CNAME with the same DNS name already exists in zone {apex}"
            )
        if any(one.type == wanted.type and bool(one.set_identifier) != bool(wanted.set_identifier) for one in others):
            self.problems.append(
                f"RRSet with DNS name {name}, type {wanted.type}, SetIdentifier {wanted.set_identifier} cannot be "
                "created as other RRSets exist with the same name and type"
            )
        self.problems.extend(_wrong_values(wanted, values))

    def check_size(self) -> None:
        if self._values > MAX_VALUES:
            self.problems.append("Number of records limit of 1000 exceeded")


def _check_complete(action: str, asked: Mapping[str, Any]) -> None:
    plainly = asked.get("TTL") is not None and bool(asked.get("ResourceRecords"))
    if plainly == bool(asked.get("AliasTarget")):
        raise AwsError(
            "InvalidInput",
            "Invalid request: Expected exactly one of [AliasTarget, all of [TTL, and ResourceRecords], or "
            f"TrafficPolicyInstanceId], but found {'more than one' if plainly else 'none'} in Change with "
            f"[Action={action}, Name={asked.get('Name')}, Type={asked.get('Type')}, "
            f"SetIdentifier={asked.get('SetIdentifier', 'null')}]",
            400,
        )


def _wrong_values(wanted: Any, values: list[str]) -> list[str]:
    kind, problem = ADDRESSES.get(wanted.type, (str, ""))
    found = [f"Duplicate Resource Record: '{one}'" for one, times in Counter(values).items() if times > 1]
    for value in values:
        try:
            kind(value)
        except ValueError:
            found.append(f"Invalid Resource Record: 'FATAL problem: {problem} encountered with '{value}''")
    return found


def _identified(record: Any) -> str:
    return f", set-identifier='{record.set_identifier}'" if record.set_identifier else ""


def _content(record: Any) -> dict[str, Any]:
    """What a DELETE must give as it is."""
    alias = dict(record.alias_target or {})
    if alias:
        alias["DNSName"] = full_name(str(alias.get("DNSName", "")))
    routing = {name: getattr(record, name) for name in ROUTING}
    ttl = int(record.ttl) if record.ttl is not None else None
    return {"ttl": ttl, "values": sorted(record.records or []), "alias": alias, **routing}


def rows(zone: Any) -> list[dict[str, Any]]:
    """The records of a zone, without those that every zone has."""
    return [
        {
            "name": one.name,
            "type": one.type,
            "set_identifier": one.set_identifier or "",
            "ttl": int(one.ttl) if one.ttl is not None else None,
            "values": list(one.records or []) or [str((one.alias_target or {}).get("DNSName", ""))],
        }
        for one in sorted(zone.rrsets, key=_place)
        if one.type not in {"SOA", "NS"} or one.name != zone.name
    ]
