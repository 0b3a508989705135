"""Pre-flight: look once at vCenter and AWS, let the rules judge, create nothing (AMP-06, SMS-11, SMS-12)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wavelift.adapters.aws.access import AwsAccess
from wavelift.adapters.aws.checks import AccountChecks, AccountFacts, AccountNames
from wavelift.adapters.vsphere import hosts, inventory, privileges
from wavelift.adapters.vsphere.session import VsphereConfig, VsphereSession
from wavelift.base.domain import Finding, ServerFacts, Severity
from wavelift.base.errors import WaveliftError
from wavelift.base.run import CancelFlag, RunContext
from wavelift.rules.calls import Feature
from wavelift.rules.environment import Environment
from wavelift.rules.estimate import estimate
from wavelift.rules.findings import subject_of
from wavelift.rules.limits import limits
from wavelift.rules.plans import Found, ResolvedWave, ServerPlan, bind
from wavelift.rules.policies import required_privileges
from wavelift.rules.preflight import check_environment, check_server, sorted_findings
from wavelift.rules.preflight_target import settled
from wavelift.rules.preflight_time import LineFacts, check_time
from wavelift.rules.vsphere_facts import GuestPort, SourceFacts
from wavelift.services.dataplane.guest_ports import look_at_ports
from wavelift.services.dataplane.messages import Admitted, NfcShare, PreflightReport, ServerTask

MIGRATES: Final[tuple[Feature, ...]] = ("migrate", "sms")
REPLICATES: Final[tuple[Feature, ...]] = (*MIGRATES, "replicate")
"""What each flow needs of the vCenter role."""
LEFT_OUT_SHOWN: Final = 10
"""VMs of a folder that a finding names; a cluster has a handful of agents."""
UNMEASURED: Final = LineFacts()


@dataclass(frozen=True, slots=True)
class PreflightOptions:
    """For which flow servers are checked, and on which connector.

    :param replicates: for a replication run, which needs other rights and has other limits than a migration.
    :param parallel_disks: of one server that move at a time: its NFC sessions, where VDDK reads them.
    :param line: how fast the connector is that this runs on.
    """

    parallel_disks: int = 2
    replicates: bool = False
    line: LineFacts = UNMEASURED


MIGRATION: Final = PreflightOptions()


def run_preflight(
    session: VsphereSession,
    access: AwsAccess,
    admitted: Admitted,
    ctx: RunContext,
    options: PreflightOptions = MIGRATION,
) -> PreflightReport:
    """Find every server, check it, and say who may go. One bad selector or server never stops the others.

    :raises LoginError: when AWS refuses the credentials.
    """
    wave = admitted.wave
    tasks, findings = _find(session, wave)
    ctx.cancel.check()
    account = _account(access, wave.environment)
    if wave.servers:
        findings += check_environment(wave.servers[0].target, account, [task.plan for task in tasks])
    ctx.cancel.check()
    features = REPLICATES if options.replicates else MIGRATES
    around = _look_around(session, [task.facts for task in tasks], features, ctx.cancel)
    known = limits(wave.environment.limits)
    for task in tasks:
        source = around.of(task.facts)
        findings += check_server(
            task.facts, task.plan, source=source, account=account, limits=known, replicates=options.replicates
        )
        findings += check_time(task.facts, task.plan, options.line)
    servers = tuple(_with_nfc(session.config, _landing(task, account), options.parallel_disks) for task in tasks)
    report = PreflightReport(wave=wave.wave, findings=tuple(sorted_findings(findings)), servers=servers)
    moving = [(task.plan, task.facts) for task in report.passed]
    return report.model_copy(update={"estimate": estimate(moving, limits=known)})


def _landing(task: ServerTask, account: AccountFacts) -> ServerTask:
    plan = task.plan.model_copy(update={"target": settled(task.plan.target, account)})
    return task.model_copy(update={"plan": plan})


def _with_nfc(config: VsphereConfig, task: ServerTask, parallel_disks: int) -> ServerTask:
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


def _account(access: AwsAccess, environment: Environment) -> AccountFacts:
    named = AccountNames(
        role=environment.role,
        bucket=environment.staging.bucket,
        prefix=environment.staging.prefix,
        kms_key=environment.kms_key,
        vpc=environment.vpc,
        subnets=environment.subnets,
        security_groups=environment.security_groups,
        instance_types=environment.instance_types,
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

    def of(self, facts: ServerFacts) -> SourceFacts:
        return SourceFacts(
            vcenter_version=self.version,
            host=self.machines.get(facts.host_moref),
            reach=self.reach.get(facts.host_moref),
            datastores=self.datastores.get(facts.moref, ()),
            missing_privileges=self.missing.get(facts.moref, ()),
            vddk=self.vddk,
            port=self.ports.get(facts.moref),
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
