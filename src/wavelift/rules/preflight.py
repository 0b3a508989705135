"""Pre-flight: checks everything that can be known before anything is created. Pure: facts in, findings out.

An error stops its server, or the whole wave if its subject begins with ``*``. Nothing outside was changed by then.
"""

from __future__ import annotations

from collections.abc import Mapping

from wavelift.base.domain import Finding, ServerFacts, Severity
from wavelift.rules.aws_facts import Account
from wavelift.rules.findings import WHOLE_WAVE, Findings, server_of, stopped
from wavelift.rules.limits import LIMITS, Limit
from wavelift.rules.plans import ServerPlan
from wavelift.rules.preflight_disks import check_disks
from wavelift.rules.preflight_guest import check_guest
from wavelift.rules.preflight_source import check_machine, check_source
from wavelift.rules.preflight_target import check_environment, check_landing
from wavelift.rules.vsphere_facts import SourceFacts

__all__ = ["WHOLE_WAVE", "check_environment", "check_server", "server_of", "sorted_findings", "stopped"]

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.INFO: 2}


def check_server(
    facts: ServerFacts,
    plan: ServerPlan,
    *,
    source: SourceFacts,
    account: Account | None = None,
    limits: Mapping[str, Limit] = LIMITS,
    replicates: bool = False,
) -> list[Finding]:
    """Every finding about one server, errors first.

    :param replicates: the disks go into EBS snapshots, not into S3 objects for VM Import.
    :param account: None skips the AWS checks. The caller reports that AWS could not be queried.
    """
    found = Findings(plan.server)
    check_machine(facts, plan, found)
    check_guest(facts, plan, found, port=source.port)
    check_disks(facts, limits, found, replicates=replicates, vddk=source.vddk)
    check_source(facts, plan, source, found)
    if account is not None:
        check_landing(facts, plan, account, found)
    return sorted_findings(found.all)


def sorted_findings(findings: list[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes. Findings of one severity keep their order."""
    return sorted(findings, key=lambda finding: _ORDER[finding.severity])
