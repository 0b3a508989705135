"""Steps over DNS records, against the simulator's Route 53."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.wire.aws.proving import Proof, settle

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.route53 import RecordKey, Route53, record_name
from wavelift.base.errors import NotFoundError, PermanentError
from wavelift.services.dataplane.steps.poll import in_sync, poll
from wavelift.services.dataplane.steps.records import Alias, LowerTtl, Record, SwitchRecords
from wavelift.services.dataplane.steps.step import ChangedElsewhere, Settled, Waiting, apply, look, undo, verify
from wavelift.simulators.aws import AwsSimulator

pytestmark = pytest.mark.wire

WRITE = "ChangeResourceRecordSets"
APP, WWW = "app01.corp.example.", "www.corp.example."


class Zone:
    def __init__(self, client: Any) -> None:
        self.client = client
        made = client.create_hosted_zone(Name="corp.example", CallerReference=uuid.uuid4().hex)
        self.id = made["HostedZone"]["Id"].removeprefix("/hostedzone/")

    def put(self, name: str, value: str, *, action: str = "UPSERT", **members: Any) -> dict[str, Any]:
        record = {"Name": name, "Type": "A", "TTL": 300, "ResourceRecords": [{"Value": value}], **members}
        changes = [{"Action": action, "ResourceRecordSet": record}]
        self.client.change_resource_record_sets(HostedZoneId=self.id, ChangeBatch={"Changes": changes})
        return record

    def records(self) -> dict[str, dict[str, Any]]:
        found = self.client.list_resource_record_sets(HostedZoneId=self.id)["ResourceRecordSets"]
        return {
            f"{one['Name']}{one.get('SetIdentifier', '')}": one for one in found if one["Type"] not in {"NS", "SOA"}
        }

    def value(self, name: str) -> str:
        return str(self.records()[name]["ResourceRecords"][0]["Value"])


@pytest.fixture
def zone(aws: AwsSimulator) -> Iterator[Zone]:
    made = Zone(aws.client("route53"))
    yield made
    aws.clear_rules()
    changes = [{"Action": "DELETE", "ResourceRecordSet": one} for one in made.records().values()]
    if changes:
        made.client.change_resource_record_sets(HostedZoneId=made.id, ChangeBatch={"Changes": changes})
    made.client.delete_hosted_zone(Id=made.id)


@pytest.fixture
def switch(access: AwsAccess, zone: Zone) -> Callable[..., SwitchRecords]:
    def make(*records: Record) -> SwitchRecords:
        chosen = records or (Record(APP, "A", ("10.20.1.15",)),)
        return SwitchRecords(access, zone=zone.id, records=chosen, comment="cutover of app01")

    return make


def test_inv_12_a_servers_records_are_switched_and_put_back_together(
    aws: AwsSimulator, access: AwsAccess, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    zone.put(APP, "192.0.2.7")
    records = (Record(APP.upper(), "A", ("10.20.1.15",)), Record("new.corp.example", "TXT", ('"moved"',)))
    proof = Proof(aws, access, lambda: switch(*records), lambda: zone.put(APP, "192.0.2.99"), WRITE)
    before = proof.run()
    assert before[f"{APP}:A"]["ResourceRecords"] == [{"Value": "192.0.2.7"}]
    assert before["new.corp.example.:TXT"] is None
    assert switch(*records).name == f"dns:{zone.id}:{APP}:A,new.corp.example.:TXT"


def test_the_rest_of_a_record_stays_as_it_is(
    access: AwsAccess, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    for name, weight in (("blue", 10), ("green", 90)):
        zone.put(APP, f"192.0.2.{weight}", SetIdentifier=name, Weight=weight)
    green = zone.records()[f"{APP}green"]
    step = switch(Record(APP, "A", ("10.20.1.15",), set_identifier="green"))
    before = look(step)
    settle(access, lambda receipt: apply(step, before, receipt))
    found = zone.records()
    assert found[f"{APP}green"] == {**green, "ResourceRecords": [{"Value": "10.20.1.15"}]}
    assert found[f"{APP}blue"]["ResourceRecords"] == [{"Value": "192.0.2.10"}]
    settle(access, lambda receipt: undo(step, before, receipt))
    assert zone.records()[f"{APP}green"] == green
    with pytest.raises(NotFoundError, match="routing policy"):
        look(switch(Record(APP, "A", ("10.20.1.15",), set_identifier="red")))


def test_an_alias_takes_the_place_of_values_and_gives_it_back(
    aws: AwsSimulator, access: AwsAccess, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    zone.put(APP, "192.0.2.7")
    alias = Alias("Z2FDTNDATAQYW2", "Front.eu-central-1.elb.amazonaws.com")
    proof = Proof(
        aws, access, lambda: switch(Record(APP, "A", alias=alias)), lambda: zone.put(APP, "192.0.2.99"), WRITE
    )
    before = proof.run()
    assert before[f"{APP}:A"]["TTL"] == 300


def test_a_batch_that_comes_too_late_changes_nothing(
    aws: AwsSimulator, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    """Somebody changes one of two records between our reading and our writing."""
    zone.put(APP, "192.0.2.7")
    zone.put(WWW, "192.0.2.8")

    class Late(SwitchRecords):
        def change(self, now: Any, to: Any) -> str:
            zone.put(WWW, "192.0.2.99")
            return super().change(now, to)

    made = switch(Record(APP, "A", ("10.20.1.15",)), Record(WWW, "A", ("10.20.1.16",)))
    before = look(made)
    made.__class__ = Late
    with pytest.raises(ChangedElsewhere, match=r"192\.0\.2\.99"):
        apply(made, before)
    assert (zone.value(APP), zone.value(WWW)) == ("192.0.2.7", "192.0.2.99")


def test_throttling_and_an_unfinished_change_before_ours_are_borne(
    aws: AwsSimulator, access: AwsAccess, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    zone.put(APP, "192.0.2.7")
    before = look(switch())
    for code in ("PriorRequestNotComplete", "Throttling"):
        aws.rule(operation=WRITE, code=code, status=400, count=1)
        settle(access, lambda receipt: apply(switch(), before, receipt))
        assert zone.value(APP) == "10.20.1.15"
        settle(access, lambda receipt: undo(switch(), before, receipt))
        aws.clear_rules()


def test_the_ttl_is_lowered_before_the_switch_and_restored_after_it(
    aws: AwsSimulator, access: AwsAccess, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    zone.put(APP, "192.0.2.7", TTL=3600)
    zone.put(WWW, "192.0.2.8", TTL=30)
    keys = [RecordKey(APP, "A"), RecordKey(WWW, "A")]

    def lower() -> LowerTtl:
        return LowerTtl(access, zone=zone.id, records=keys)

    proof = Proof(aws, access, lower, lambda: zone.put(APP, "192.0.2.7", TTL=900), WRITE)
    before = proof.run()
    assert LowerTtl.old_ttl_s(before) == 3600
    zone.put(APP, "192.0.2.7", TTL=3600)
    proof.applied(before)
    assert [zone.records()[name]["TTL"] for name in (APP, WWW)] == [60, 30]
    switched = look(switch())
    settle(access, lambda receipt: apply(switch(), switched, receipt))
    assert zone.records()[APP]["TTL"] == 60
    proof.undone(before)  # finalize
    assert zone.records()[APP] == {
        "Name": APP,
        "Type": "A",
        "TTL": 3600,
        "ResourceRecords": [{"Value": "10.20.1.15"}],
    }
    assert verify(switch(), switched) == Settled()


def test_one_look_answers_for_each_change(aws: AwsSimulator, access: AwsAccess, zone: Zone) -> None:
    zone.put(APP, "192.0.2.7")
    dns = Route53(access)
    change = dns.repeat(zone.id, [zone.records()[APP]])
    aws.reset_counters()
    waits = [in_sync(change), in_sync(change)]
    poll(access, waits)
    assert sum(row["calls"] for row in aws.counters().values()) == 1


def test_what_route_53_refuses_is_said_with_the_zone_and_the_record(access: AwsAccess, zone: Zone) -> None:
    with pytest.raises(NotFoundError, match="zone=Z0NONE"):
        SwitchRecords(access, zone="Z0NONE", records=[Record(APP, "A", ("10.0.0.1",))]).read()
    with pytest.raises(PermanentError, match="values or an alias"):
        SwitchRecords(access, zone=zone.id, records=[Record(APP, "A")])
    with pytest.raises(PermanentError, match="each once"):
        SwitchRecords(access, zone=zone.id, records=[Record(APP, "A", ("10.0.0.1",))] * 2)


def test_names_are_compared_as_route_53_writes_them() -> None:
    assert record_name("*.Corp.Example") == r"\052.corp.example."
    assert RecordKey("App01.corp.example", "a") == RecordKey("app01.corp.example.", "A")


def test_a_change_is_waited_for_by_its_id(
    aws: AwsSimulator, access: AwsAccess, zone: Zone, switch: Callable[..., SwitchRecords]
) -> None:
    zone.put(APP, "192.0.2.7")
    step = switch()
    before = look(step)
    aws.rule(kind="unsynced", key=zone.id)
    first = apply(step, before)
    assert isinstance(first, Waiting)
    assert first.wait == in_sync(first.receipt)
    assert poll(access, [first.wait]) == {first.wait: False}
    assert apply(step, before, first.receipt) == verify(step, before, first.receipt) == first
    another = apply(step, before)  # a try that lost the id
    assert isinstance(another, Waiting)
    assert another.receipt != first.receipt
    assert zone.value(APP) == "10.20.1.15"
    aws.clear_rules()
    aws.advance(60)
    waits = [first.wait, another.wait, in_sync("C0FORGOTTEN")]
    assert poll(access, waits) == dict.fromkeys(waits, True)
    assert apply(step, before, another.receipt) == Settled()
    assert verify(step, before, "C0FORGOTTEN") == Settled()
