"""What a plan of a cutover sees in AWS before anything is stopped, and steps that depend on one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.unit.rules.conftest import plan
from tests.wire.aws.proving import settle
from tests.wire.aws.test_step_records import APP, Zone, zone
from tests.wire.aws.test_step_targets import OLD, Group, make_group

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses
from wavelift.base.domain import Severity
from wavelift.base.errors import ThrottledError
from wavelift.base.names import TAG_SERVER, TAG_WAVE
from wavelift.rules.cutover_places import Places, RecordPlace
from wavelift.rules.plans import ServerPlan
from wavelift.rules.wave_cutover import CutoverPlan, NetworkStep
from wavelift.services.cutover.step_kinds import Facts, bound, build, plan_of
from wavelift.services.dataplane.cutover_facts import look_at
from wavelift.services.dataplane.steps.step import apply, look, undo
from wavelift.simulators.aws import AwsSimulator, Bootstrap

__all__ = ["make_group", "plan", "zone"]

pytestmark = pytest.mark.wire

Planned = Callable[..., ServerPlan]


@pytest.fixture
def planned(plan: Callable[..., Any], account: Bootstrap) -> Planned:
    def make(*steps: dict[str, Any], address: str = "new", private_ip: str | None = None) -> ServerPlan:
        cutover = CutoverPlan(address=address, steps=tuple(NetworkStep.model_validate(one) for one in steps))  # type: ignore[arg-type]
        change = {"cutover": cutover, "subnet": account.subnet_ids[0], "private_ip": private_ip}
        found: ServerPlan = plan().model_copy(update=change)
        return found.cutting_over()

    return make


@pytest.fixture
def allocation(access: AwsAccess) -> Iterator[str]:
    ec2 = access.client("ec2")
    made = ec2.allocate_address(Domain="vpc")["AllocationId"]
    yield made
    ec2.release_address(AllocationId=made)


@pytest.fixture
def card(access: AwsAccess, account: Bootstrap) -> Iterator[Callable[..., str]]:
    ec2, made = access.client("ec2"), list[str]()

    def make(address: str, **tags: str) -> str:
        found = ec2.create_network_interface(SubnetId=account.subnet_ids[0], PrivateIpAddress=address)
        made.append(found["NetworkInterface"]["NetworkInterfaceId"])
        if tags:
            ec2.create_tags(Resources=made[-1:], Tags=[{"Key": k, "Value": v} for k, v in tags.items()])
        return made[-1]

    yield make
    for one in made:
        ec2.delete_network_interface(NetworkInterfaceId=one)


def test_an_elastic_ip_that_something_else_has_is_seen(
    access: AwsAccess, planned: Planned, allocation: str, card: Callable[..., str]
) -> None:
    wanted = planned({"elastic_ip": {"allocation": allocation}}, {"elastic_ip": {"allocation": "eipalloc-00000000"}})
    found = look_at(access, wanted, ()).elastic_ips
    assert found[allocation] is None
    assert "no such Elastic IP" in (found["eipalloc-00000000"] or "")
    own = card("10.20.1.50", **{TAG_WAVE: wanted.wave, TAG_SERVER: wanted.server})
    other = card("10.20.1.51", **{TAG_WAVE: wanted.wave, TAG_SERVER: "db01"})
    for interface, words in ((own, None), (other, f"{other} has it")):
        held = Addresses(access).associate(allocation, interface)
        assert look_at(access, wanted, ()).elastic_ips[allocation] == words
        Addresses(access).disassociate(held)


def test_records_show_their_ttl_and_what_can_t_be_switched(
    aws: AwsSimulator, access: AwsAccess, planned: Planned, zone: Zone
) -> None:
    zone.put(APP, "192.0.2.7", TTL=3600)
    dns = {"zone": zone.id, "name": APP}
    missing = {"zone": "Z00000000000000000000", "name": APP}
    new_one, other_one = {**dns, "name": "new.corp.example"}, {**dns, "set_identifier": "b"}
    wanted = planned(*({"dns": one} for one in (dns, new_one, other_one, missing)))
    found = look_at(access, wanted, ())
    app, new = RecordPlace(zone.id, APP, "A", ""), RecordPlace(zone.id, "new.corp.example", "A", "")
    assert (found.ttls[app], found.ttls[new]) == (3600, None)
    assert (found.records[app], found.records[new]) == (None, None)
    assert "routing policy" in (found.records[app._replace(set_identifier="b")] or "")
    gone = app._replace(zone="Z00000000000000000000")
    assert found.records[gone]
    assert gone not in found.ttls
    aws.rule(service="route53", operation="ListResourceRecordSets", code="Throttling", status=400)
    with pytest.raises(ThrottledError):
        look_at(access, wanted, ())


def test_a_target_that_replaces_nothing_is_seen(
    access: AwsAccess, planned: Planned, make_group: Callable[..., Group]
) -> None:
    group, silent = make_group(), make_group(listener=False)
    group.register(OLD)

    def why(arn: str, **step: Any) -> str | None:
        return look_at(access, planned({"target_group": {"arn": arn, **step}}), ()).groups[arn]

    assert why(group.arn, replaces=[OLD.id]) is None
    assert f"no target {OLD.id}:8443" in (why(group.arn, replaces=[OLD.id], port=8443) or "")
    assert "no target 192.168.7.99:443" in (why(group.arn, replaces=[OLD.id, "192.168.7.99"]) or "")
    assert "no listener" in (why(silent.arn) or "")


@pytest.mark.parametrize(
    ("own", "addresses", "code", "words"),
    [
        (None, ["10.20.1.60"], "", ""),
        (None, ["10.20.1.60", "fe80::1", "169.254.1.1"], "", ""),
        (None, ["10.20.1.60", "10.20.1.61"], "cutover.address", "10.20.1.60, 10.20.1.61"),
        ("10.20.1.61", ["10.20.1.60", "10.20.1.61"], "", ""),
        ("10.20.1.62", ["10.20.1.60", "10.20.1.61"], "cutover.address", "as private_ip says, 10.20.1.62"),
        (None, [], "cutover.address", "none that its guest tells"),
        (None, ["192.0.2.9"], "network.address", "the address of its source, 192.0.2.9 is not in the subnet's range"),
        (None, ["10.20.1.63"], "network.address_taken", "the address of its source, 10.20.1.63 is in use"),
        (None, ["10.20.1.64"], "", ""),
    ],
)
def test_the_address_that_is_kept_is_known_free_and_of_the_subnet(  # a table
    access: AwsAccess,
    planned: Planned,
    card: Callable[..., str],
    own: str | None,
    addresses: list[str],
    code: str,
    words: str,
) -> None:
    """And one that was prepared for it is fine."""
    wanted = planned(address="keep", private_ip=own)
    card("10.20.1.63")
    card("10.20.1.64", **{TAG_WAVE: wanted.wave, TAG_SERVER: wanted.server})
    found = look_at(access, wanted, addresses).address
    assert [(one.code, one.severity) for one in found] == ([(code, Severity.ERROR)] if code else [])
    assert all(words in one.what and one.next_action for one in found)
    assert look_at(access, planned(), addresses) == Places(), "only where the source's own is kept"


def test_a_public_record_gets_the_elastic_ip_of_the_step_before_it_and_its_own_ttl(
    access: AwsAccess, planned: Planned, zone: Zone, allocation: str, card: Callable[..., str]
) -> None:
    """Whatever EC2 told of the instance before. What is new has no TTL to keep."""
    interface = card("10.20.1.70")
    dns = {"zone": zone.id, "name": APP, "to": "public", "ttl": 30}
    inside = {"zone": zone.id, "name": "in.corp.example"}
    rows = plan_of(planned({"elastic_ip": {"allocation": allocation}}, {"dns": dns}, {"dns": inside}))
    facts = Facts(instance_id="i-1", private_ip="10.20.1.70", interface=interface)
    made = []
    for number, row in enumerate(rows):
        step = build(access, row.kind, row.name, bound(access, row.kind, row.spec, facts, token=f"t{number}"))
        before = look(step)
        settle(access, lambda receipt, step=step, before=before: apply(step, before, receipt))  # type: ignore[misc]
        made.append((step, before))
    found = zone.records()
    assert found[APP]["ResourceRecords"] == [{"Value": Addresses(access).elastic_ip(allocation).public_ip}]
    assert (found[APP]["TTL"], found["in.corp.example."]["TTL"]) == (30, 60)
    assert found["in.corp.example."]["ResourceRecords"] == [{"Value": "10.20.1.70"}]
    for step, before in reversed(made):
        settle(access, lambda receipt, step=step, before=before: undo(step, before, receipt))  # type: ignore[misc]
    assert zone.records() == {}
