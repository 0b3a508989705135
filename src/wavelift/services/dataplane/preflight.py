"""Pre-flight: look once at vCenter and AWS, let the rules judge, create nothing (AMP-06, SMS-11, SMS-12)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Final, TypeVar

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks, AccountFacts, AccountNames
from wavelift.adapters.vsphere import hosts, inventory, privileges
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession
from wavelift.base.domain import Finding, ServerFacts, Severity
from wavelift.base.errors import (
    Cancelled,
    FencedError,
    PermanentError,
    UnreachableError,
    WaveliftError,
)
from wavelift.base.run import CancelFlag, RunContext
from wavelift.rules.calls import Feature
from wavelift.rules.environment import Environment
from wavelift.rules.estimate import estimate
from wavelift.rules.findings import stopped, subject_of
from wavelift.rules.grants import Grant
from wavelift.rules.limits import limits
from wavelift.rules.plans import Found, ResolvedWave, ServerPlan, bind
from wavelift.rules.policies import required_privileges
from wavelift.rules.preflight import check_environment, check_server, sorted_findings
from wavelift.rules.preflight_addresses import check_room
from wavelift.rules.preflight_connections import check_aws, check_vcenter, in_region
from wavelift.rules.preflight_requester import RequesterFacts
from wavelift.rules.preflight_rights import check_elsewhere
from wavelift.rules.preflight_target import check_account_use, settled
from wavelift.rules.preflight_time import UNMEASURED, LineFacts, check_time
from wavelift.rules.vsphere_facts import GuestPort, SourceFacts
from wavelift.services.dataplane.grants import rights_of
from wavelift.services.dataplane.guest_ports import look_at_ports
from wavelift.services.dataplane.messages import Admitted, NfcShare, PreflightReport, ServerTask

log = logging.getLogger(__name__)

T = TypeVar("T")

MIGRATES: Final[tuple[Feature, ...]] = ("migrate", "sms")
REPLICATES: Final[tuple[Feature, ...]] = (*MIGRATES, "replicate")
CUTS_OVER: Final[tuple[Feature, ...]] = (*REPLICATES, "cutover")
"""What each flow needs of the vCenter role."""
LEFT_OUT_SHOWN: Final = 10
"""VMs of a folder that a finding names; a cluster has a handful of agents."""
LOOK_AGAIN_S: Final = 5.0
"""Long enough for a lost packet or a restart of a proxy; a person waits."""


@dataclass(frozen=True, slots=True)
class PreflightOptions:
    """For which flow servers are checked, and on which connector.

    :param replicates: for a replication run, which needs other rights and has other limits than a migration.
    :param cuts_over: for a cutover, which also stops, fences and starts the source.
    :param parallel_disks: of one server that move at a time: its NFC sessions, where VDDK reads them.
    :param line: how fast the connector is that this runs on.
    :param awaited: a person waits for the result and nothing is moved: silence is soon told, not retried for long.
    :param grant: by which it looks; it says whom vCenter is asked about. None: no person's right is asked about.
    """

    parallel_disks: int = 2
    replicates: bool = False
    cuts_over: bool = False
    line: LineFacts = UNMEASURED
    awaited: bool = False
    grant: Grant | None = None

    @property
    def features(self) -> tuple[Feature, ...]:
        """Those whose privileges the vCenter account must have."""
        if self.cuts_over:
            return CUTS_OVER
        return REPLICATES if self.replicates else MIGRATES


MIGRATION: Final = PreflightOptions()


@dataclass(frozen=True, slots=True)
class Sides:
    """How vCenter and AWS are opened. Either may fail: the other one is checked all the same."""

    vcenter: Callable[[], AbstractContextManager[VsphereSession]]
    aws: Callable[[], AwsAccess]


@dataclass(frozen=True, slots=True)
class Looked:
    """What one pass found, and what could not be opened or read."""

    report: PreflightReport
    failures: tuple[WaveliftError, ...] = ()

    @property
    def retryable(self) -> bool:
        """A later look may see more: something did not answer, and nothing else is wrong with the connections."""
        return bool(self.failures) and all(error.retryable for error in self.failures)

    def believed(self, *, last: bool = False) -> PreflightReport:
        """The report, if both sides were seen.

        :param last: nobody looks again.
        :raises PermanentError: a connection is wrong, or it was the last look.
        :raises UnreachableError: something did not answer, and a retry may help.
        """
        if not self.failures:
            return self.report
        again = self.retryable and not last
        if len(self.failures) == 1 and self.failures[0].retryable == again:
            raise self.failures[0]
        kind = UnreachableError if again else PermanentError
        raise kind("; ".join(str(error).rstrip(".") for error in self.failures)) from self.failures[0]


def look(sides: Sides, admitted: Admitted, ctx: RunContext, options: PreflightOptions = MIGRATION) -> Looked:
    """:func:`run_preflight`, and where a person waits for it once more after a moment if something did not answer."""
    looked = run_preflight(sides, admitted, ctx, options)
    if options.awaited and looked.retryable:
        log.warning("%s; looking once more in %.0f s", looked.failures[0], LOOK_AGAIN_S)
        ctx.cancel.wait(LOOK_AGAIN_S)
        ctx.cancel.check()
        looked = run_preflight(sides, admitted, ctx, options)
    return looked


def run_preflight(sides: Sides, admitted: Admitted, ctx: RunContext, options: PreflightOptions = MIGRATION) -> Looked:
    """Find every server, check it, and say who may go. One bad selector, server or side never hides the others."""
    wave = admitted.wave
    environment, connection = wave.environment, wave.connection
    account, no_aws = _tried(lambda: account_facts(sides.aws(), environment, wave.servers))
    no_aws = no_aws and in_region(no_aws, environment.region)
    ctx.cancel.check()
    source, no_vcenter = _tried(lambda: _source(sides, wave, ctx, options))
    tasks, findings = (source.tasks, source.findings) if source else ([], [])
    if no_vcenter is not None:
        findings.append(check_vcenter(connection, no_vcenter))
    if no_aws is not None:
        findings.append(check_aws(environment.aws_conn_id, no_aws))
    if account is not None and wave.servers:
        plans = [task.plan for task in tasks] or wave.servers
        findings += check_environment(wave.servers[0].target, account, plans)
    if admitted.account_use is not None and wave.servers:
        use = admitted.account_use
        findings += check_account_use(wave.servers[0].target, use.in_use, use.limit)
    known = limits(environment.limits)
    for task in tasks:
        assert source is not None
        findings += check_server(
            task.facts,
            task.plan,
            source=source.around.of(task.facts),
            account=account,
            limits=known,
            replicates=options.replicates,
        )
        findings += check_time(task.facts, task.plan, options.line)
    if account is not None:
        findings += check_room([task.plan for task in tasks if not stopped(findings, task.name)], account)
    report = PreflightReport(
        wave=wave.wave,
        findings=tuple(sorted_findings(findings)),
        servers=tuple(_landing(task, account) for task in tasks),
    )
    moving = [(task.plan, task.facts) for task in report.passed]
    report = report.model_copy(update={"estimate": estimate(moving, limits=known, line=options.line)})
    return Looked(report, tuple(error for error in (no_vcenter, no_aws) if error is not None))


def _tried(read: Callable[[], T]) -> tuple[T | None, WaveliftError | None]:
    """What ``read`` returns, or why it could not."""
    try:
        return read(), None
    except (Cancelled, FencedError):
        raise
    except WaveliftError as error:
        return None, error


@dataclass(frozen=True, slots=True)
class _Source:
    """What vCenter said."""

    tasks: list[ServerTask]
    findings: list[Finding]
    around: _Around


def _source(sides: Sides, wave: ResolvedWave, ctx: RunContext, options: PreflightOptions) -> _Source:
    with sides.vcenter() as session:
        tasks, findings = _find(session, wave)
        ctx.cancel.check()
        around = _look_around(session, [task.facts for task in tasks], options.features, ctx.cancel)
        if options.grant is not None:
            around = replace(around, requesters=_look_at_requesters(session, tasks, options.grant))
        tasks = [_with_place(session.config, task, options.parallel_disks) for task in tasks]
        findings += _elsewhere(session, wave, tasks)
    return _Source(tasks, findings, around)


def _elsewhere(session: VsphereSession, wave: ResolvedWave, tasks: Sequence[ServerTask]) -> list[Finding]:
    """What the account reaches beyond the wave; without any server nobody knows where that would begin."""
    if not tasks:
        return []
    beside = privileges.data_centres_beside(session, [task.facts.path for task in tasks])
    return check_elsewhere(session.user, wave.connection, beside)


def _landing(task: ServerTask, account: AccountFacts | None) -> ServerTask:
    if account is None:
        return task
    plan = task.plan.model_copy(update={"target": settled(task.plan.target, account)})
    return task.model_copy(update={"plan": plan})


def _with_place(config: VsphereConfig, task: ServerTask, parallel_disks: int) -> ServerTask:
    """The task with what tells where its reading needs a slot."""
    task = task.model_copy(update={"vcenter": config.place})
    if config.vddk is None:
        return task
    sessions = parallel_disks * config.vddk.connections
    share = NfcShare(
        vcenter=config.place,
        host=task.facts.host_moref,
        per_host=max(1, config.vddk.host_sessions // sessions),
        per_vcenter=max(1, config.vddk.vcenter_sessions // sessions),
    )
    return task.model_copy(update={"nfc": share})


def _find(session: VsphereSession, wave: ResolvedWave) -> tuple[list[ServerTask], list[Finding]]:
    """The VMs that the wave's entries mean, each with its plan; what could not be found is a finding."""
    resolutions = inventory.resolve(session, [plan.selector for plan in wave.servers])
    findings = [
        _not_found(plan, error) for plan, found in zip(wave.servers, resolutions, strict=True) for error in found.errors
    ]
    findings += [
        _left_out(plan, found.left_out) for plan, found in zip(wave.servers, resolutions, strict=True) if found.left_out
    ]
    by_path = {facts.path: facts for found in resolutions for facts in found.servers}
    bound = bind(
        wave.servers, [[Found(vm.name, vm.path, vm.moref) for vm in resolution.servers] for resolution in resolutions]
    )
    # Which entry's settings hold for the VM is for a person to say; the others need not wait for it.
    findings += [_wrong("server.ambiguous", clash.server, clash.what, clash.next_step) for clash in bound.clashes]
    tasks = [ServerTask(name=plan.server, plan=plan, facts=by_path[plan.selector.value]) for plan in bound.plans]
    return tasks, findings


def _not_found(plan: ServerPlan, error: WaveliftError) -> Finding:
    return _wrong("server.not_found", subject_of(plan.server), error.what, error.next_step)


def _left_out(plan: ServerPlan, left_out: Sequence[inventory.LeftOut]) -> Finding:
    names = ", ".join(f"{each.path} ({each.why})" for each in left_out[:LEFT_OUT_SHOWN])
    names += f" and {len(left_out) - LEFT_OUT_SHOWN} more" if len(left_out) > LEFT_OUT_SHOWN else ""
    return Finding(
        severity=Severity.INFO,
        code="selector.left_out",
        subject=subject_of(plan.server),
        what=f"{plan.selector.kind} '{plan.selector.value}' holds {len(left_out)} VMs that are no servers: {names}",
        why="templates, and what vSphere or one of its extensions manages itself, don't migrate",
        next_action="Nothing; one that shall move all the same is listed by name or path",
    )


def _wrong(code: str, subject: str, what: str, next_step: str) -> Finding:
    return Finding(
        severity=Severity.ERROR,
        code=code,
        subject=subject,
        what=what,
        why="nothing can be moved that is not found, or not clear",
        next_action=next_step or "Correct the entry in the wave's file",
    )


def account_facts(access: AwsAccess, environment: Environment, plans: Sequence[ServerPlan] = ()) -> AccountFacts:
    """What the account has of what an environment, and plans of servers in it, name."""
    named = AccountNames(
        role=environment.role,
        bucket=environment.staging.bucket,
        prefix=environment.staging.prefix,
        kms_key=environment.kms_key,
        vpc=environment.vpc,
        subnets=environment.subnets,
        security_groups=environment.security_groups,
        instance_types=environment.instance_types,
        addresses=[(plan.subnet, plan.private_ip) for plan in plans if plan.subnet and plan.private_ip],
    )
    return AccountChecks(access).account(named)


@dataclass(frozen=True, slots=True)
class _Around:
    """What lies around the VMs: hosts, datastores, rights."""

    version: str
    machines: dict[str, hosts.HostFacts]
    reach: dict[str, hosts.Reach]
    datastores: dict[str, list[hosts.DatastoreFacts]]
    missing: dict[str, list[privileges.MissingPrivileges]]
    vddk: bool
    ports: dict[str, GuestPort]
    requesters: dict[str, RequesterFacts] = field(default_factory=dict)

    def of(self, facts: ServerFacts) -> SourceFacts:
        return SourceFacts(
            vcenter_version=self.version,
            host=self.machines.get(facts.host_moref),
            reach=self.reach.get(facts.host_moref),
            datastores=self.datastores.get(facts.moref, ()),
            missing_privileges=self.missing.get(facts.moref, ()),
            vddk=self.vddk,
            port=self.ports.get(facts.moref),
            requester=self.requesters.get(facts.moref),
        )


def _look_around(
    session: VsphereSession, servers: Sequence[ServerFacts], features: Sequence[Feature], cancel: CancelFlag
) -> _Around:
    morefs = [facts.moref for facts in servers]
    known = hosts.host_facts(session, {facts.host_moref for facts in servers if facts.host_moref})
    return _Around(
        version=session.about.version,
        machines=known,
        reach=hosts.probe_all(session.config, known),
        datastores=hosts.datastore_facts(session, morefs),
        missing=privileges.missing_privileges(session, morefs, required=required_privileges(features)),
        vddk=session.config.vddk is not None,
        ports=look_at_ports(servers, cancel),
    )


def _look_at_requesters(
    session: VsphereSession, tasks: Sequence[ServerTask], grant: Grant
) -> dict[str, RequesterFacts]:
    """VM → what vCenter says of the person behind the run: one call for each person, mostly one per wave (AMP-03)."""
    by_principal: dict[str | None, list[str]] = {}
    for task in tasks:
        by_principal.setdefault(grant.principal(task.name), []).append(task.facts.moref)
    return {
        vm: facts
        for principal, vms in by_principal.items()
        for vm, facts in rights_of(session, grant, principal, vms).items()
    }
