"""The check of an environment: what pre-flight says of its account, and how many addresses its subnets have left."""

from __future__ import annotations

from collections.abc import Callable

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks
from wavelift.adapters.aws.export_bucket import ExportBuckets
from wavelift.base.domain import Finding, Message, Severity
from wavelift.base.errors import DeniedError, NotFoundError, WaveliftError
from wavelift.base.run import RunContext
from wavelift.ledger import Ledger
from wavelift.ledger.events import Subject
from wavelift.rules.authority import WHOAMI, Action
from wavelift.rules.environment import Environment
from wavelift.rules.export_checks import check_bucket, check_role
from wavelift.rules.findings import WHOLE_WAVE, Findings
from wavelift.rules.hcx_environment import aws_only
from wavelift.rules.plans import Target
from wavelift.rules.preflight import check_environment, sorted_findings
from wavelift.rules.preflight_connections import check_aws, in_region
from wavelift.rules.preflight_requester import RequesterFacts, refuse_unnamed
from wavelift.services.common.authority import Rights, require
from wavelift.services.dataplane.preflight import account_facts
from wavelift.specs import Granting


class SubnetRoom(Message):
    """A subnet of an environment."""

    subnet: str
    zone: str = ""
    cidr: str = ""
    free_addresses: int | None = None
    """None: it does not exist, or could not be read."""


class EnvironmentCheck(Message):
    """What was found."""

    environment: str
    account: str
    """Its number, as AWS says. Empty: AWS did not answer."""
    findings: tuple[Finding, ...]
    subnets: tuple[SubnetRoom, ...] = ()

    @property
    def ok(self) -> bool:
        return not any(one.severity is Severity.ERROR for one in self.findings)


def environment_to_check(ledger: Ledger, name: str, ctx: RunContext, *, rights: Rights) -> Granting:
    """The environment and the groups as their files are now, if anything of it is granted to whoever asked for the run.

    :raises DeniedError: nothing is, or its files are broken. :raises NotFoundError: no name was given.
    """
    if not name:
        raise NotFoundError("The run names no environment", next_step="Choose one; `wavelift environments list`")
    bench = rights.at(name)
    with ledger.read() as tx:
        actions = bench.granted(tx, ctx.asker, now=ctx.clock.now())
    if not actions or bench.granting is None:
        subject = Subject("environment", name, ctx.run)
        require(ledger, ctx.asker, name, Action.MIGRATE, rights=rights, clock=ctx.clock, subject=subject)
        raise DeniedError("The right came this moment", next_step=f"Try again; see `{WHOAMI}`", environment=name)
    return bench.granting


def check(open_aws: Callable[[], AwsAccess], granting: Granting, *, user: str) -> EnvironmentCheck:
    """It only reads. An account that does not answer is a finding.

    :raises SpecError: the environment has no account: it is of kind ``hcx``.
    :param user: who asks. That nobody said who this is in vCenter is a finding: every wave of the user would stop.
    """
    environment = aws_only(granting.environment)
    name = environment.environment
    findings = Findings(WHOLE_WAVE)
    if environment.vcenter_check == "require" and not granting.principals.vcenter_principal(user):
        refuse_unnamed(RequesterFacts(environment.vcenter_check, principal="", user=user), findings)
    try:
        access = open_aws()
        facts = account_facts(access, environment)
        of_exports = _of_exports(access, environment, environment.account or facts.account)
    except WaveliftError as error:
        finding = check_aws(environment.aws_conn_id, in_region(error, environment.region))
        return EnvironmentCheck(environment=name, account="", findings=(finding, *findings.all))
    rooms = []
    for subnet in environment.subnets:
        known = facts.network.subnets.get(subnet)
        if known is not None:
            free = known.free_addresses
            rooms.append(SubnetRoom(subnet=subnet, zone=known.zone, cidr=known.cidr, free_addresses=free))
            continue
        rooms.append(SubnetRoom(subnet=subnet))
        if not facts.network.unknown:
            findings.error(
                "network.subnet",
                f"{subnet} does not exist in {environment.region}",
                why="servers that land in it could not be launched",
                do=f"Correct 'subnets' in environment '{name}'",
                row="AMP-01",
                part=subnet,
            )
    found = [*check_environment(Target.of(environment), facts), *findings.all, *of_exports]
    return EnvironmentCheck(
        environment=name, account=facts.account, findings=tuple(sorted_findings(found)), subnets=tuple(rooms)
    )


def _of_exports(access: AwsAccess, environment: Environment, account: str) -> list[Finding]:
    """About the exports bucket, and about the service role in it. No wave stops for them: they are warnings."""
    if environment.exports is None:
        return []
    name = environment.exports_bucket
    facts = ExportBuckets(access, account).facts(name)
    where = {"region": environment.region, "account": account, "environment": environment.environment}
    role = AccountChecks(access).role(environment.role, bucket=name, exports=name)
    found = [*check_bucket(facts, "instance", **where), *(check_role(role, name) if facts.exists else [])]
    return [
        one.model_copy(
            update={
                "subject": f"{WHOLE_WAVE}/{one.subject}",
                "severity": Severity.WARNING if one.severity is Severity.ERROR else one.severity,
            }
        )
        for one in found
    ]
