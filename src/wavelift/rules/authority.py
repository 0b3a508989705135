"""Who may do what in an environment (AMP-02, AMP-03). Pure: groups and their age are given.

The chain has six links. This module decides the first two and who may be given a grant; the grant itself is verified,
and the requester's and the service account's rights in vCenter are checked, where vCenter is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from wavelift.base.run import Requester
from wavelift.base.times import utc_minute
from wavelift.rules.environment import May
from wavelift.rules.principals import ROLE
from wavelift.rules.problem import clipped, quoted

WHOAMI: Final = "wavelift whoami"
BY_NAME: Final = ("manual", "operator_triggered")
"""Airflow's words for runs that a user stands behind."""
SCHEDULED: Final = "scheduled"
MEMORY: Final = timedelta(hours=24)
"""How long a role is believed that a user was seen with."""


class Action(StrEnum):
    """What an environment's ``may`` grants."""

    MIGRATE = "migrate"
    CUT_OVER = "cut_over"
    ADMINISTER = "administer"

    @property
    def granted_by(self) -> tuple[Action, ...]:
        """The lists of ``may`` in which a user may do this. Who administers may do all."""
        return (self,) if self is Action.ADMINISTER else (self, Action.ADMINISTER)


def cleanup_action(*, dry_run: bool) -> Action:
    """Looking is a part of migrating; removing concerns what all runs of a wave left."""
    return Action.MIGRATE if dry_run else Action.ADMINISTER


def priority_action(priority: str | None) -> Action:
    """Going before all others takes places from other waves, perhaps of other environments."""
    return Action.ADMINISTER if priority == "next" else Action.MIGRATE


DOES: Final[Mapping[Action, str]] = {
    Action.MIGRATE: "migrate into",
    Action.CUT_OVER: "cut over in",
    Action.ADMINISTER: "administer",
}


class Link(StrEnum):
    """The links of the chain that must hold before anything moves, in this order (AMP-03)."""

    REQUESTER = "requester"
    """Somebody stands behind the run."""
    ENVIRONMENT = "environment"
    """The environment's file, and those of its groups, allow it."""
    GRANT = "grant"
    """The control plane signed it."""
    GRANT_VERIFIED = "grant_verified"
    """The connector found the signature valid, and for this run, server and VM."""
    REQUESTER_IN_VCENTER = "requester_in_vcenter"
    """The requester may export this VM."""
    SERVICE_ACCOUNT = "service_account"
    """wavelift's own account in vCenter may."""


@dataclass(frozen=True, slots=True)
class Denial:
    """Which link said no, why, and the way out."""

    link: Link
    why: str
    way_out: str


@dataclass(frozen=True, slots=True)
class Groups:
    """The groups of one user.

    :param listed: by ``principals.yaml``.
    :param seen: group, such as ``role/Op`` → when the user was last seen in it.
    """

    listed: frozenset[str] = frozenset()
    seen: Mapping[str, datetime] = field(default_factory=lambda: MappingProxyType({}))

    def believed(self, now: datetime, memory: timedelta) -> frozenset[str]:
        """The groups that count now. A time in the future counts: clocks differ."""
        return self.listed | {group for group, at in self.seen.items() if now - at <= memory}


def decide(  # noqa: PLR0913  # what a decision depends on
    requester: Requester,
    groups: Groups,
    may: May | None,
    action: Action,
    *,
    now: datetime,
    memory: timedelta = MEMORY,
    environment: str = "",
) -> Denial | None:
    """None: the requester may. Otherwise, which link said no. Names are compared exactly."""
    denial = _unknown(requester)
    if denial is not None:
        return denial
    user, place = quoted(requester.name), f"environment '{clipped(environment)}'"
    if may is None:
        return Denial(
            Link.ENVIRONMENT,
            f"{place} does not say who may {action}",
            f"An administrator adds 'may' to environments/{clipped(environment)}.yaml",
        )
    entries = _entries(may, action)
    wanted = frozenset(entry.removeprefix("group:") for entry in entries if entry.startswith("group:"))
    if f"user:{requester.name}" in entries or wanted & groups.believed(now, memory):
        return None
    lists = " or ".join(each.value for each in action.granted_by)
    why = f"{user} may not {DOES[action]} {place}: neither the name nor a group of it is under 'may: {lists}'"
    way_out = f"An administrator adds 'user:{clipped(requester.name)}' there"
    roles = sorted(group for group in wanted if group.startswith(ROLE))
    if roles:
        way_out += f". {_of_roles(requester.name, roles, groups, memory)}"
    return Denial(Link.ENVIRONMENT, why, way_out)


def granted(
    requester: Requester, groups: Groups, may: May | None, *, now: datetime, memory: timedelta = MEMORY
) -> tuple[Action, ...]:
    """What the requester may do."""
    return tuple(one for one in Action if decide(requester, groups, may, one, now=now, memory=memory) is None)


def _entries(may: May, action: Action) -> frozenset[str]:
    lists: Iterable[tuple[str, ...]] = (getattr(may, each.value) for each in action.granted_by)
    return frozenset(entry for entries in lists for entry in entries)


def _unknown(requester: Requester) -> Denial | None:
    """No user stands behind the run."""
    if requester.run_type not in BY_NAME:
        return Denial(
            Link.REQUESTER,
            f"A run of the kind '{clipped(requester.run_type)}' has no user who asked for it",
            "Trigger the DAG yourself, in the web UI or with `wavelift`",
        )
    if not requester.name:
        return Denial(
            Link.REQUESTER,
            "Airflow does not know which user asked for this run",
            "Trigger the DAG again with a login, in the web UI or with `wavelift`",
        )
    return None


def _of_roles(user: str, roles: list[str], groups: Groups, memory: timedelta) -> str:
    old = [groups.seen[role] for role in roles if role in groups.seen]
    hours = round(memory.total_seconds() / 3600)
    known = f"was last seen {utc_minute(max(old))}" if old else f"was not seen in the last {hours} h with"
    named = ", ".join(map(clipped, roles))
    if old:
        told = f"{quoted(user)} {known} with {named}, which is believed for {hours} h"
    else:
        told = f"{quoted(user)} {known} {named}"
    return f"{told}: the user runs `{WHOAMI}`, which tells the roles anew, and tries again"
