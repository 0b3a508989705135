"""The model of ``environments/principals.yaml``: who is in which group, and who is who in vCenter (AMP-02, AMP-03)."""

from __future__ import annotations

import re
from typing import Annotated, Final

from pydantic import AfterValidator, Field

from wavelift.base.domain import Message
from wavelift.base.printable import printable
from wavelift.rules.environment import MAX_CHOICES, PRINCIPALS, May, exact_name
from wavelift.rules.problem import Problem, allowed, did_you_mean, quoted

ROLE: Final = "role/"
"""Prefix of groups that the auth manager's roles give. The file cannot make one."""
PLACE: Final = "{user}"
"""What a pattern replaces with the user's name."""
NAME_LONGEST: Final = 200
_OTHER_PLACE: Final = re.compile(r"[{}]")


def _principal(value: str) -> str:
    if not value or value != value.strip() or len(value) > NAME_LONGEST or printable(value) != value:
        raise ValueError(f"{quoted(value)} is no name: 1 to {NAME_LONGEST} visible characters, no space at its ends")
    return value


def _user(value: str) -> str:
    return exact_name(_principal(value))


def _group(value: str) -> str:
    if value.startswith(ROLE):
        raise ValueError(f"{quoted(value)}: groups '{ROLE}…' are the roles of Airflow's users; take another name")
    return exact_name(_principal(value))


def _pattern(value: str) -> str:
    if value and (value.count(PLACE) != 1 or _OTHER_PLACE.search(value.replace(PLACE, ""))):
        raise ValueError(f"{quoted(value)} must have {PLACE} once, and no other brace, such as 'CORP\\{PLACE}'")
    return value and _principal(value)


User = Annotated[str, AfterValidator(_user)]
VcenterName = Annotated[str, AfterValidator(_principal)]
Group = Annotated[str, AfterValidator(_group)]


class VcenterPrincipals(Message):
    """Who the users of Airflow are in vCenter, for the check of their own rights there."""

    users: dict[User, VcenterName] = Field(
        default={},
        max_length=MAX_CHOICES,
        description="User of Airflow → principal in vCenter, such as ana: 'CORP\\ana'.",
    )
    pattern: Annotated[str, AfterValidator(_pattern)] = Field(
        default="", description="The principal of all other users, such as 'CORP\\{user}'. Empty: they have none."
    )


class Principals(Message):
    """Groups of users, and their vCenter principals. Names are compared exactly, with upper and lower case."""

    groups: dict[Group, Annotated[tuple[User, ...], Field(max_length=MAX_CHOICES)]] = Field(
        default={}, max_length=MAX_CHOICES, description="Group → its users, exactly as Airflow names them."
    )
    vcenter: VcenterPrincipals = Field(default=VcenterPrincipals(), description="Who the users are in vCenter.")

    def groups_of(self, user: str) -> frozenset[str]:
        return frozenset(group for group, users in self.groups.items() if user in users)

    def vcenter_principal(self, user: str) -> str | None:
        """The vCenter principal of a user of Airflow; None: nobody said who that is."""
        if not user:
            return None
        known = self.vcenter.users.get(user)
        if known is None and self.vcenter.pattern:
            known = self.vcenter.pattern.replace(PLACE, user)
        return known


def unknown_groups(may: May, known: Principals) -> list[Problem]:
    """Groups of an environment that the file of groups does not have."""
    return [
        Problem(
            ("may", action, index),
            f"there is no group {quoted(name)} in {PRINCIPALS}.yaml{did_you_mean(name, known.groups)}; "
            f"{allowed(known.groups)}, or '{ROLE}NAME' for a role of Airflow",
        )
        for action in May.model_fields
        for index, entry in enumerate(getattr(may, action))
        for kind, _, name in [entry.partition(":")]
        if kind == "group" and not name.startswith(ROLE) and name not in known.groups
    ]
