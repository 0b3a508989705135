"""Route 53: what moto accepts and AWS refuses, and changes that take time."""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from wavelift.simulators.aws import AwsSimulator

pytestmark = pytest.mark.wire

Refused = Callable[..., ClientError]
ONE_TRY = Config(retries={"total_max_attempts": 1})


@pytest.fixture(scope="session")
def dns(running: AwsSimulator) -> Any:
    return running.client("route53", config=ONE_TRY)


@pytest.fixture
def zone(dns: Any) -> Iterator[str]:
    """The id of a new hosted zone ``corp.example.``; removed with its records."""
    made: str = dns.create_hosted_zone(Name="corp.example", CallerReference=uuid.uuid4().hex)["HostedZone"]["Id"]
    yield made.rpartition("/")[2]
    left = dns.list_resource_record_sets(HostedZoneId=made)["ResourceRecordSets"]
    changes = [_change("DELETE", each) for each in left if each["Type"] not in {"NS", "SOA"}]
    if changes:
        dns.change_resource_record_sets(HostedZoneId=made, ChangeBatch={"Changes": changes})
    dns.delete_hosted_zone(Id=made)


def _record(value: str, name: str = "app01.corp.example.", kind: str = "A", ttl: int = 300, **more: Any) -> Any:
    return {"Name": name, "Type": kind, "TTL": ttl, "ResourceRecords": [{"Value": value}], **more}


def _change(action: str, record: dict[str, Any]) -> dict[str, Any]:
    return {"Action": action, "ResourceRecordSet": record}


@pytest.fixture
def change(dns: Any, zone: str) -> Callable[..., dict[str, Any]]:
    """ChangeResourceRecordSets of (action, record); its ChangeInfo."""

    def call(*changes: tuple[str, dict[str, Any]]) -> dict[str, Any]:
        batch = {"Changes": [_change(*each) for each in changes], "Comment": "cutover"}
        info: dict[str, Any] = dns.change_resource_record_sets(HostedZoneId=zone, ChangeBatch=batch)["ChangeInfo"]
        return info

    return call


@pytest.fixture
def records(sim: AwsSimulator, zone: str) -> Callable[[], list[Any]]:
    return lambda: [
        (one["name"], one["type"], one["set_identifier"], one["ttl"], one["values"])
        for one in sim.state()["dns_records"][zone]
    ]


def test_the_id_of_a_zone_looks_like_one_of_aws(dns: Any, zone: str) -> None:
    assert re.fullmatch("Z[A-Z0-9]{1,31}", zone)
    found = [one["Id"] for one in dns.list_hosted_zones()["HostedZones"]]
    assert f"/hostedzone/{zone}" in found


def test_a_change_is_pending_until_all_servers_have_it(
    sim: AwsSimulator, dns: Any, zone: str, change: Any, refused: Refused
) -> None:
    sim.settings(dns_change_seconds=60)
    first = change(("CREATE", _record("10.0.0.1")))
    second = change(("UPSERT", _record("10.0.0.2", ttl=60)))
    assert (first["Status"], first["Comment"]) == ("PENDING", "cutover")
    assert first["Id"] != second["Id"]

    def status(info: dict[str, Any]) -> str:
        return str(dns.get_change(Id=info["Id"])["ChangeInfo"]["Status"])

    assert (status(first), status(second)) == ("PENDING", "PENDING")
    sim.rule(kind="unsynced", key=zone)
    sim.advance(61)
    assert status(first) == "PENDING"
    sim.clear_rules()
    assert (status(first), status(second)) == ("INSYNC", "INSYNC")
    assert dns.get_change(Id=first["Id"].rpartition("/")[2])["ChangeInfo"]["SubmittedAt"] == first["SubmittedAt"]
    refused("NoSuchChange", dns.get_change, Id="C0123456789")


def test_what_aws_refuses(change: Any, records: Any, refused: Refused) -> None:
    bad = "InvalidChangeBatch"
    app, other = _record("10.0.0.1"), _record("10.0.0.9", name="app09.corp.example")
    change(("CREATE", app))
    standing = records()
    error = refused(bad, change, ("CREATE", app))
    assert "but it already exists" in str(error)
    assert "not found" in str(refused(bad, change, ("DELETE", other)))
    for wrong in (_record("10.0.0.2"), _record("10.0.0.1", ttl=60)):
        assert "do not match the current values" in str(refused(bad, change, ("DELETE", wrong)))
    refused(bad, change, ("CREATE", _record("host.example.com", kind="CNAME")))
    refused(bad, change, ("UPSERT", _record("host.example.com", name="corp.example", kind="CNAME")))
    refused(bad, change, ("CREATE", _record("10.0.0.1", name="app01.elsewhere.example")))
    refused(bad, change, ("UPSERT", _record("10.0.0.999")))
    refused(bad, change, ("CREATE", _record("10.0.0.1", SetIdentifier="blue", Weight=1)))
    refused(bad, change, ("UPSERT", _record("10.0.0.1")), ("UPSERT", _record("10.0.0.2")))
    refused("InvalidInput", change, ("UPSERT", {"Name": "app01.corp.example.", "Type": "A"}))
    error = refused(bad, change, ("CREATE", other), ("DELETE", _record("10.0.0.7")), ("CREATE", app))
    assert ("do not match" in str(error), "already exists" in str(error)) == (True, True), "it says all at once"
    assert records() == standing, "a batch is all or nothing"
    change(("CREATE", _record("host.example.com", name="alias.corp.example.", kind="CNAME")))
    refused(bad, change, ("CREATE", _record("10.0.0.1", name="alias.corp.example.")))


def test_a_batch_may_replace_a_record_by_one_of_another_type(change: Any, records: Any) -> None:
    old = _record("old.example.com", name="App02.corp.example", kind="CNAME")
    change(("CREATE", old))
    change(("DELETE", old), ("CREATE", _record("10.0.0.2", name="app02.corp.example.")))
    assert records() == [("app02.corp.example.", "A", "", 300, ["10.0.0.2"])]


def test_records_with_an_identifier_are_records_of_their_own(
    dns: Any, zone: str, change: Any, records: Any, refused: Refused
) -> None:
    blue, green = (
        _record(value, SetIdentifier=name, Weight=weight)
        for value, name, weight in (("10.0.0.1", "blue", 100), ("10.0.0.2", "green", 0))
    )
    change(("CREATE", blue), ("CREATE", green))
    change(("UPSERT", {**green, "Weight": 50}))
    refused("InvalidChangeBatch", change, ("DELETE", green))
    pages = []
    where: dict[str, Any] = {"StartRecordName": "app01.corp.example", "StartRecordType": "A"}
    for _ in range(2):
        page = dns.list_resource_record_sets(HostedZoneId=zone, MaxItems="1", **where)
        pages += [(one["SetIdentifier"], one["Weight"]) for one in page["ResourceRecordSets"]]
        where["StartRecordIdentifier"] = page.get("NextRecordIdentifier", "")
    assert pages == [("blue", 100), ("green", 50)]
    change(("DELETE", blue))
    assert [one[2] for one in records()] == ["green"]


def test_a_batch_must_not_be_too_large(change: Any, refused: Refused) -> None:
    values = [{"Value": f"10.1.{number // 250}.{number % 250}"} for number in range(501)]
    record = {**_record("10.0.0.1"), "ResourceRecords": values}
    refused("InvalidChangeBatch", change, ("UPSERT", record))
    change(("CREATE", record))


def test_faults_of_a_zone(sim: AwsSimulator, dns: Any, zone: str, change: Any, refused: Refused) -> None:
    about = {"service": "route53", "operation": "ChangeResourceRecordSets", "key": zone}
    sim.rule(**about, code="PriorRequestNotComplete", status=400, count=1)
    refused("PriorRequestNotComplete", change, ("CREATE", _record("10.0.0.1")))
    sim.rule(**about, throttle=True, count=1)
    refused("Throttling", change, ("CREATE", _record("10.0.0.1")))
    change(("CREATE", _record("10.0.0.1")))
    refused("NoSuchHostedZone", dns.list_resource_record_sets, HostedZoneId="Z0123456789")
    found = dns.list_hosted_zones_by_name(DNSName="corp.example")["HostedZones"]
    assert [each["Id"] for each in found] == [f"/hostedzone/{zone}"]
    refused("HostedZoneNotEmpty", dns.delete_hosted_zone, Id=zone)
