"""Pre-flight of the person behind a run: may they export the VM by themselves? (AMP-03)

The connector's account may export every VM. A person must get none through it that vCenter would refuse to them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wavelift.rules.authority import Link
from wavelift.rules.environment import VcenterCheck
from wavelift.rules.findings import Findings
from wavelift.rules.problem import clipped, quoted

EXPORT: Final = "VApp.Export"
"""The privilege of ExportVm and ExportSnapshot."""
LINK: Final = Link.REQUESTER_IN_VCENTER.value
NOT_ASKED: Final = "Or let vCenter not be asked: vcenter_check: off in the environment's file (docs/grants.md)"
CODES: Final = ("requester.unmapped", "requester.unknown", "requester.may_not_export")
"""Findings that refuse a server because of the person."""


@dataclass(frozen=True, slots=True)
class RequesterFacts:
    """What vCenter says of the person behind the run, for one VM.

    :param principal: as vCenter names them. None: nobody is asked for. Empty: nobody said who that is.
    :param known: vCenter knows such a user. :param may_export: they have :data:`EXPORT` on the VM.
    :param user: of Airflow, who triggered the run. Empty: the schedule did.
    """

    check: VcenterCheck
    principal: str | None = None
    known: bool = False
    may_export: bool = False
    user: str = ""

    @property
    def who(self) -> str:
        return quoted(self.user) if self.user else "the user behind the run"


def refuse_unnamed(facts: RequesterFacts, found: Findings) -> None:
    """Nobody said who the user is in vCenter, and the environment wants everybody to be asked for."""
    user = clipped(facts.user) if facts.user else "NAME"
    found.error(
        "requester.unmapped",
        f"environments/principals.yaml does not say who {facts.who} is in vCenter (link: {LINK})",
        why="whether that person may export a VM can't be asked",
        do="Let an administrator write there, with your own domain, "
        f"vcenter: {{users: {{{user}: 'CORP\\{user}'}}}}, or vcenter: {{pattern: 'CORP\\{{user}}'}} for all users. "
        f"{NOT_ASKED}",
        row="AMP-03",
    )


def check_requester(facts: RequesterFacts, found: Findings) -> None:
    """Refuse a server that its requester may not export; say when nobody was asked for."""
    if facts.principal is None:
        why = "'vcenter_check: off'" if facts.check == "off" else "'vcenter_check: mapped', and no mapping of the user"
        found.info(
            "requester.not_checked",
            "vCenter was not asked whether the person behind the run may export the VM",
            why=f"the environment says so: {why}",
            do="Nothing; 'vcenter_check: require' in the environment's file asks for everybody",
            row="AMP-03",
        )
    elif not facts.principal:
        refuse_unnamed(facts, found)
    elif not facts.known:
        found.error(
            "requester.unknown",
            f"vCenter knows no user '{facts.principal}' (link: {LINK})",
            why=f"whether {facts.who} may export the VM can't be asked",
            do=f"Map {facts.who} to a user of vCenter in environments/principals.yaml ('vcenter: users'). {NOT_ASKED}",
            row="AMP-03",
        )
    elif not facts.may_export:
        found.error(
            "requester.may_not_export",
            f"{facts.principal} lacks {EXPORT} on the VM (link: {LINK})",
            why="nobody gets a VM through wavelift that vCenter would not let them export",
            do=f"Let an administrator of vCenter give {facts.principal} {EXPORT} on the VM, or let somebody who has it "
            "trigger the run",
            row="AMP-03",
        )
