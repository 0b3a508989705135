"""What a plan of a cutover asks AWS. It changes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.addresses import Addresses
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.elbv2 import Elbv2, Target, TargetGroup
from wavelift.adapters.aws.route53 import RecordKey, Route53
from wavelift.base.domain import Finding
from wavelift.base.errors import MissingPrivilegeError, PermanentError, WaveliftError
from wavelift.base.names import TAG_SERVER, TAG_WAVE
from wavelift.rules.cutover import kept_address
from wavelift.rules.cutover_places import Places, RecordPlace
from wavelift.rules.findings import Findings
from wavelift.rules.plans import ServerPlan
from wavelift.rules.preflight_addresses import check_address
from wavelift.rules.wave_cutover import DnsStep, TargetGroupStep
from wavelift.services.dataplane.steps.targets import absent_targets


def look_at(access: AwsAccess, plan: ServerPlan, addresses: Sequence[str]) -> Places:
    """What AWS shows of each place that the server's steps take.

    :param addresses: of the source, as its guest told.
    :raises WaveliftError: AWS did not answer, and a retry may help.
    """
    if plan.cutover is None:
        return Places()
    steps = plan.cutover.steps
    groups = [step.target_group for step in steps if step.target_group is not None]
    records: dict[RecordPlace, str | None] = {}
    ttls: dict[RecordPlace, int | None] = {}
    for step in steps:
        if step.dns is not None:
            _look_at_record(access, step.dns, records, ttls)
    allocations = [step.elastic_ip.allocation for step in steps if step.elastic_ip is not None]
    return Places(
        groups=dict(_groups(Elbv2(access), groups)),
        records=records,
        ttls=ttls,
        elastic_ips={one: _held(Addresses(access), plan, one) for one in allocations},
        address=tuple(_kept(access, plan, addresses)) if plan.cutover.address == "keep" else (),
    )


def _groups(balancing: Elbv2, steps: Sequence[TargetGroupStep]) -> Iterator[tuple[str, str | None]]:
    found: dict[str, str] = {}
    for step in steps:
        try:
            group = balancing.group(step.arn)
            old = [Target(one, step.port or group.port) for one in step.replaces]
            why = _unfit(group) or absent_targets(balancing, group.arn, old)
        except WaveliftError as error:
            why = _lasting(error)
        found[step.arn] = found.get(step.arn) or why
    for arn, why in found.items():
        yield arn, why or None


def _unfit(group: TargetGroup) -> str:
    if group.kind not in ("instance", "ip"):
        return f"its targets are of type {group.kind}, and not instances or addresses"
    return "" if group.load_balancers else "no load balancer sends to it: it has no listener"


def _look_at_record(
    access: AwsAccess,
    step: DnsStep,
    records: dict[RecordPlace, str | None],
    ttls: dict[RecordPlace, int | None],
) -> None:
    place = RecordPlace(step.zone, step.name, step.type, step.set_identifier or "")
    key = RecordKey(step.name, step.type, step.set_identifier or "")
    try:
        record = Route53(access).records(step.zone, [key])[key]
    except WaveliftError as error:
        records[place] = _lasting(error)
        return
    missing = record is None and step.set_identifier
    records[place] = "there is none, and one with a routing policy is not made here" if missing else None
    ttls[place] = record.get("TTL") if record else None


def _held(addresses: Addresses, plan: ServerPlan, allocation: str) -> str | None:
    """Why the instance can't get the Elastic IP. It may be with the interface that was prepared for the instance."""
    try:
        found = addresses.elastic_ip(allocation)
        if not found.interface_id:
            return None
        holder = addresses.interface(found.interface_id)
    except WaveliftError as error:
        return _lasting(error)
    own = (holder.tags.get(TAG_WAVE), holder.tags.get(TAG_SERVER)) == (plan.wave, plan.server)
    if own and not holder.instance_id:
        return None
    instance = f" of instance {holder.instance_id}" if holder.instance_id else ""
    return f"{holder.interface_id}{instance} has it"


def _kept(access: AwsAccess, plan: ServerPlan, addresses: Sequence[str]) -> list[Finding]:
    """Of the source's address that the instance keeps."""
    found = Findings(plan.server)
    try:
        address = kept_address(plan.private_ip, addresses, server=plan.server)
    except PermanentError as error:
        found.error(
            "cutover.address",
            error.what,
            why="the launch would fail while the source is down",
            do=error.next_step or "Set private_ip",
        )
        return found.all
    if plan.private_ip or not plan.subnet:  # pre-flight has looked at what the file names
        return found.all
    checks = AccountChecks(access)
    network = checks.network(subnets=[plan.subnet])
    subnet = network.subnets.get(plan.subnet)
    if subnet is None:  # pre-flight says it
        return found.all
    try:
        taken, unknown = checks.taken([(plan.subnet, address)]), ""
    except MissingPrivilegeError as error:
        taken, unknown = {}, str(error)
    wanted = plan.model_copy(update={"private_ip": address})
    network = type(network)(subnets=network.subnets, taken=taken, addresses_unknown=unknown)
    check_address(wanted, subnet, network, found)
    return found.all


def _lasting(error: WaveliftError) -> str:
    """:raises WaveliftError: a retry may help."""
    if error.retryable:
        raise error
    return str(error)
