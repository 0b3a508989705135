"""Problems of ``cutover:`` sections: by themselves, and against what the environment lists."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from wavelift.rules.environment import Network
from wavelift.rules.problem import Path, Problem, allowed, quoted
from wavelift.rules.wave_cutover import DEFAULT_TIER, MOVES_PREFIX, Cutover, CutoverPlan, CutoverSettings, cutover_plan

LISTED: Final[Mapping[str, tuple[str, str]]] = {
    "dns": ("zone", "hosted_zones"),
    "target_group": ("arn", "target_groups"),
    "elastic_ip": ("allocation", "elastic_ips"),
    "route": ("table", "route_tables"),
    "transit_gateway_route": ("table", "transit_gateway_route_tables"),
}
"""Kind of a step → its field that the environment must list, and where."""


@dataclass(frozen=True, slots=True)
class Section:
    """The section of one server, as it applies.

    :param index: of the server. :param own: its own section.
    """

    index: int
    own: CutoverSettings | None
    plan: CutoverPlan

    def place(self, field: str) -> Path:
        """Where the effective value is set."""
        if self.own is not None and getattr(self.own, field) is not None:
            return ("servers", self.index, "cutover", field)
        return ("cutover", field)


def sections(wave: Cutover | None, servers: Collection[CutoverSettings | None]) -> Iterator[Section]:
    """:param servers: the section of each server of the wave, in its order."""
    for index, own in enumerate(servers):
        plan = cutover_plan(wave, own)
        if plan is not None:
            yield Section(index, own, plan)


def cutover_problems(wave: Cutover | None, found: Collection[Section]) -> Iterator[Problem]:
    """Problems of the sections by themselves."""
    tiers = wave.tiers if wave is not None else ()
    used = {section.plan.tier for section in found}
    for position, tier in enumerate(tiers):
        if tier in tiers[:position]:
            yield Problem(("cutover", "tiers", position), f"'{tier}' is listed twice; remove one")
        elif tier not in used:
            yield Problem(("cutover", "tiers", position), f"no server is in tier '{tier}'; remove it, or name a server")
    for section in found:
        if section.plan.tier not in (tiers or (DEFAULT_TIER,)):
            words = f"{quoted(section.plan.tier)} is none of the wave's tiers; {allowed(tiers or (DEFAULT_TIER,))}"
            yield Problem(section.place("tier"), words)
        if section.plan.address == "keep":
            yield from _kept(section)
        yield from _without_public_address(section)
    yield from _owned_twice(found)


def _kept(section: Section) -> Iterator[Problem]:
    if not any(step.kind in MOVES_PREFIX for step in section.plan.steps):
        words = "'keep' needs a step that moves the address's prefix to the VPC: a route, a transit_gateway_route"
        yield Problem(section.place("address"), f"{words}, or a person who does it")


def _without_public_address(section: Section) -> Iterator[Problem]:
    """An instance is launched without one: it gets it by a step."""
    given = False
    for position, step in enumerate(section.plan.steps):
        given = given or step.elastic_ip is not None
        if step.dns is not None and step.dns.to == "public" and not given:
            words = "'public' needs an elastic_ip step before this one: the instance has no other public address"
            yield Problem((*section.place("steps"), position, "dns", "to"), words)


def _owned_twice(found: Collection[Section]) -> Iterator[Problem]:
    """One record, address or route for two servers, or twice for one."""
    owners: dict[str, tuple[int, int]] = {}
    for section in found:
        for position, step in enumerate(section.plan.steps):
            if not step.owns:
                continue
            first = owners.setdefault(step.owns, (section.index, position))
            if first != (section.index, position):
                words = f"servers[{first[0]}] has the {step.owns} already; only one step of one server can change it"
                yield Problem((*section.place("steps"), position), words)


def landing_problems(
    section: Section, network: Network, groups: Collection[str], instance_profile: str | None
) -> Iterator[Problem]:
    """Steps outside what the environment lists, and checks for which the instance lacks something.

    :param groups: security groups that the environment allows.
    """
    for position, step in enumerate(section.plan.steps):
        place = (*section.place("steps"), position, step.kind)
        if step.kind in LISTED:
            field, listed = LISTED[step.kind]
            value, known = getattr(step.body, field), getattr(network, listed)
            if value not in known:
                words = f"the environment's network.{listed} does not list {quoted(value)}; {allowed(known)}"
                yield Problem((*place, field), words)
        for each, group in enumerate(step.security_groups.groups if step.security_groups else ()):
            if group not in groups:
                yield Problem((*place, "groups", each), f"the environment does not allow '{group}'; {allowed(groups)}")
    for position, check in enumerate(section.plan.checks):
        if check.kind == "ssm" and instance_profile is None:
            words = "a check of kind 'ssm' needs an instance_profile, with which Systems Manager reaches the instance"
            yield Problem((*section.place("checks"), position, "kind"), words)
