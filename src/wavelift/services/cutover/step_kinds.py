"""The steps of a server's cutover: what the wave's file asks for, as rows of the ledger, and the classes that do it.

A planned row says what to do before anybody knows the instance. Before its first write it is *bound*: the instance's
facts are kept in it. From then on it needs nothing else, and its undo means the same instance whatever comes later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any, Final, cast

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses
from wavelift.adapters.aws.elbv2 import Elbv2, Target
from wavelift.adapters.aws.route53 import RecordKey
from wavelift.base.domain import Message
from wavelift.base.errors import PermanentError
from wavelift.base.names import TAG_SERVER, TAG_WAVE, run_hash
from wavelift.rules.plans import ServerPlan
from wavelift.rules.wave_cutover import DnsStep, NetworkStep, TargetGroupStep
from wavelift.services.common.persons import ANSWER
from wavelift.services.dataplane.steps.addresses import MoveElasticIp, PrepareAddress, SetSecurityGroups
from wavelift.services.dataplane.steps.person import Answer, Person
from wavelift.services.dataplane.steps.records import DEFAULT_TTL_S, LowerTtl, Record, SwitchRecords
from wavelift.services.dataplane.steps.routing import SetGatewayRoute, SetRoute
from wavelift.services.dataplane.steps.step import State, Step
from wavelift.services.dataplane.steps.targets import DeregisterTargets, RegisterTargets

NAME_SHOWN: Final = 120
"""Characters of a row's name; a longer one ends with a hash."""
BOUND: Final = "facts"
"""In the spec of a row that has begun: the instance for which it was."""
_COMMENT: Final = "wavelift cutover"


class Facts(Message):
    """What the steps need to know of an instance that runs."""

    instance_id: str = ""
    private_ip: str = ""
    public_ip: str = ""
    interface: str = ""
    """Its first network interface."""


NO_FACTS: Final = Facts()
"""Of what is done before there is an instance."""


@dataclass(frozen=True, slots=True)
class Planned:
    """A row that :func:`wavelift.ledger.cutovers.plan_steps` writes."""

    name: str
    kind: str
    words: str
    undo_words: str
    spec: dict[str, Any]

    def row(self) -> dict[str, Any]:
        return asdict(self)


def plan_of(plan: ServerPlan) -> list[Planned]:
    """The steps that switch a server, in their order. Records of one zone that follow each other are one batch."""
    steps = plan.cutover.steps if plan.cutover is not None else ()
    found = _named([planned for batch in _batches(steps) for planned in batch])
    allocation = ""
    for each in found:
        allocation = str(each.spec["allocation"]) if each.kind == "elastic_ip" else allocation
        if each.kind == "dns" and any(one["to"] == "public" for one in each.spec["records"]):
            each.spec["allocation"] = allocation
    return found


def prepared_of(plan: ServerPlan, address: str = "") -> list[Planned]:
    """What ``prepare`` does for a server days before: TTLs are lowered, and the interface of a fixed address is made.

    :param address: the fixed address. Empty: the subnet chooses at the launch, and nothing is made.
    """
    found: list[Planned] = []
    dns = [step.dns for step in (plan.cutover.steps if plan.cutover else ()) if step.dns is not None]
    for (zone, ttl), steps in groupby(
        sorted(dns, key=lambda one: (one.zone, one.ttl)), lambda one: (one.zone, one.ttl)
    ):
        records = [_record(one) for one in steps]
        names = ", ".join(one["name"] for one in records)
        words = f"Lower the TTL of {names} to {ttl} s (zone {zone})"
        spec: dict[str, Any] = {"zone": zone, "records": records, "ttl": ttl}
        found.append(Planned(f"ttl {zone} {names}", "ttl", words, "Restore the TTL", spec))
    if address:
        spec = {
            "subnet": plan.subnet or "",
            "address": address,
            "groups": list(plan.security_groups),
            "tags": {**plan.tags, TAG_WAVE: plan.wave, TAG_SERVER: plan.server},
        }
        words = f"Make a network interface with address {address} in {plan.subnet}"
        undo = "Delete it, unless the stopped instance has it"
        found.append(Planned(f"address {plan.subnet} {address}", "address", words, undo, spec))
    return _named(found)


def _batches(steps: Sequence[NetworkStep]) -> Iterator[list[Planned]]:
    for _, group in groupby(enumerate(steps), lambda pair: pair[1].dns.zone if pair[1].dns else pair[0]):
        same = [step for _, step in group]
        if same[0].dns is not None:
            yield [_dns([step.dns for step in same if step.dns is not None])]
        elif same[0].target_group is not None:
            yield _target_group(same[0].target_group)
        else:
            yield [_single(same[0])]


def _record(step: DnsStep) -> dict[str, Any]:
    return {
        "name": step.name,
        "type": step.type,
        "set_identifier": step.set_identifier or "",
        "to": step.to,
        "ttl": step.ttl,
    }


def _dns(steps: Sequence[DnsStep]) -> Planned:
    aims = {"private": "the instance's private address", "public": "the instance's public address"}
    said = "; ".join(f"{one.name} {one.type} to {aims.get(one.to, one.to)}" for one in steps)
    names = ", ".join(f"{one.name} {one.type}" for one in steps)
    zone = steps[0].zone
    spec = {"zone": zone, "records": [_record(one) for one in steps]}
    return Planned(
        f"dns {zone} {names}", "dns", f"Point {said} (zone {zone})", f"Put the old content of {names} back", spec
    )


def _target_group(step: TargetGroupStep) -> list[Planned]:
    group = step.arn.split("/")[1]
    spec: dict[str, Any] = {"arn": step.arn, "port": step.port, "within_minutes": step.healthy_within_minutes}
    words = f"Register the instance in target group {group} and wait until it is healthy"
    found = [Planned(f"targets {group} {step.port or ''}".rstrip(), "targets", words, "Deregister it", spec)]
    if step.replaces:
        old = ", ".join(step.replaces)
        spec = {"arn": step.arn, "port": step.port, "replaces": list(step.replaces)}
        words = f"Deregister {old} from target group {group} and wait until its connections have ended"
        name = f"old_targets {group} {step.port or ''}".rstrip()
        found.append(Planned(name, "old_targets", words, "Register it again", spec))
    return found


def _single(step: NetworkStep) -> Planned:
    kind, spec = step.kind, step.body.dump()
    if step.person is not None:
        return Planned(f"person {step.person.ask}", kind, step.person.ask, step.person.undo, spec)
    if step.elastic_ip is not None:
        said = f"Elastic IP {step.elastic_ip.allocation}"
        return Planned(said, kind, f"Associate {said} with the instance", f"Take {said} from the instance", spec)
    if step.security_groups is not None:
        words = f"Set the instance's security groups to {', '.join(step.security_groups.groups)}"
        return Planned("security groups", kind, words, "Set its old security groups again", spec)
    table, destination = spec["table"], spec["destination"]
    aim = "the instance" if spec.get("target") == "instance" else spec.get("target") or spec.get("attachment")
    undo = f"Route {destination} as before, or delete the route if there was none"
    return Planned(f"{kind} {table} {destination}", kind, f"Route {destination} to {aim} in {table}", undo, spec)


def _named(found: Sequence[Planned]) -> list[Planned]:
    """Each with a name of its own, which does not depend on the others' places."""
    named: dict[str, Planned] = {}
    for each in found:
        name = each.name
        if len(name) > NAME_SHOWN:
            name = f"{name[:NAME_SHOWN]}… {run_hash(name)}"
        again = sum(1 for known in named if known == name or known.startswith(f"{name} #"))
        name = f"{name} #{again + 1}" if again else name
        named[name] = Planned(name, each.kind, each.words, each.undo_words, each.spec)
    return list(named.values())


# Binding and building


def bound(aws: AwsAccess, kind: str, spec: Mapping[str, Any], facts: Facts, *, token: str) -> dict[str, Any]:
    """The spec with everything that its class is made with.

    :param token: no two begun steps have the same one; at most 64 characters.
    """
    if spec.get("allocation") and kind == "dns":
        # An instance is launched without a public address: what it has then is that of the step before.
        facts = facts.model_copy(update={"public_ip": Addresses(aws).elastic_ip(str(spec["allocation"])).public_ip})
    made = {**spec, BOUND: facts.dump()}
    made.pop(ANSWER, None)
    if kind in ("targets", "old_targets"):
        group = Elbv2(aws).group(str(spec["arn"]))
        made["port"] = spec["port"] or group.port
        made["target"] = facts.instance_id if group.kind == "instance" else facts.private_ip
    if kind == "address":
        made["token"] = token
    return made


def build(aws: AwsAccess, kind: str, name: str, spec: Mapping[str, Any]) -> Step:
    """The step of a bound row.

    :param name: of the row.
    """
    facts = Facts.load(spec[BOUND])
    return _BUILDERS[kind](aws, name, spec, facts)


def is_for(row_spec: Mapping[str, Any] | None, subnet: str, address: str) -> bool:
    """Whether an interface was prepared for this address. The wave's file may have named another one then."""
    spec = row_spec or {}
    return bool(address) and (spec.get("subnet"), spec.get("address")) == (subnet, address)


def refuse_taken(kind: str, spec: Mapping[str, Any], before: State) -> None:
    """:raises PermanentError: the Elastic IP address belongs to something else: it is never taken."""
    if kind != "elastic_ip" or before["interface"] in ("", Facts.load(spec[BOUND]).interface):
        return
    raise PermanentError(
        f"Elastic IP {spec['allocation']} belongs to {before['interface']}, and is never taken from anything",
        next_step="Disassociate it, or name another one; then clear the task",
        allocation=spec["allocation"],
    )


def _switch(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    to = {"private": facts.private_ip, "public": facts.public_ip}
    records = []
    for one in spec["records"]:
        value = to.get(one["to"], one["to"])
        if not value:
            raise PermanentError(
                f"The instance has no {one['to']} address for the record {one['name']}",
                next_step="Correct 'to' of the dns step",
                instance=facts.instance_id,
            )
        key = (one["name"], one["type"])
        new_ttl = one.get("ttl", DEFAULT_TTL_S)
        records.append(Record(*key, values=(value,), set_identifier=one["set_identifier"], new_ttl=new_ttl))
    return SwitchRecords(aws, zone=spec["zone"], records=records, comment=_COMMENT)


def _ttl(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    keys = [RecordKey(one["name"], one["type"], one["set_identifier"]) for one in spec["records"]]
    return LowerTtl(aws, zone=spec["zone"], records=keys, ttl=spec["ttl"], comment=_COMMENT)


def _address(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    return PrepareAddress(
        aws,
        subnet=spec["subnet"],
        token=spec["token"],
        address=spec["address"],
        security_groups=spec["groups"],
        tags=spec["tags"],
    )


def _targets(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    return RegisterTargets(aws, group=spec["arn"], targets=[Target(spec["target"], spec["port"])])


def _old_targets(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    return DeregisterTargets(aws, group=spec["arn"], targets=[Target(old, spec["port"]) for old in spec["replaces"]])


def _elastic_ip(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    return MoveElasticIp(aws, allocation=spec["allocation"], interface=facts.interface, private_ip=facts.private_ip)


def _groups(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    return SetSecurityGroups(aws, interface=facts.interface, groups=spec["groups"])


def _route(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    target = facts.interface if spec["target"] == "instance" else spec["target"]
    return SetRoute(aws, table=spec["table"], destination=spec["destination"], target=target)


def _gateway_route(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    return SetGatewayRoute(aws, table=spec["table"], destination=spec["destination"], attachment=spec["attachment"])


def _person(aws: AwsAccess, name: str, spec: Mapping[str, Any], facts: Facts) -> Step:
    last = cast(Answer, spec.get(ANSWER, ""))
    return Person(key=name, what=spec["ask"], undo_what=spec["undo"], last_answer=lambda _: last)


_BUILDERS: Final[Mapping[str, Callable[[AwsAccess, str, Mapping[str, Any], Facts], Step]]] = {
    "dns": _switch,
    "ttl": _ttl,
    "address": _address,
    "targets": _targets,
    "old_targets": _old_targets,
    "elastic_ip": _elastic_ip,
    "security_groups": _groups,
    "route": _route,
    "transit_gateway_route": _gateway_route,
    "person": _person,
}
