"""What other packages add to specs: checks of instances, and steps and probes of network cutovers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from wavelift.base.installed import CHECKS, NETWORK_PROBES, NETWORK_STEPS, installed
from wavelift.rules.network import BUILT_IN_DISCONNECTS, BUILT_IN_PROBES, NetworkSpec
from wavelift.rules.problem import Path, Problem, allowed, did_you_mean, quoted
from wavelift.rules.wave import Wave
from wavelift.rules.wave_cutover import BUILT_IN_CHECKS, CutoverSettings


def unknown_checks(wave: Wave) -> list[Problem]:
    """Checks of a kind that is neither built in nor installed here."""
    sections: list[tuple[Path, CutoverSettings | None]] = [(("cutover",), wave.cutover)]
    sections += [(("servers", index, "cutover"), server.cutover) for index, server in enumerate(wave.servers)]
    used = (
        ((*place, "checks", position, "kind"), check.kind)
        for place, section in sections
        for position, check in enumerate((section.checks if section else None) or ())
    )
    return list(_unknown("check", CHECKS, BUILT_IN_CHECKS, used))


def unknown_network_parts(network: NetworkSpec) -> list[Problem]:
    """Probes, and a way to disconnect, that are neither built in nor installed here."""
    probes = network.probes.checks if network.probes is not None else ()
    used = ((("probes", "checks", index, "kind"), probe.kind) for index, probe in enumerate(probes))
    by = ((("source", "disconnect", "by"), network.source.disconnect.by),)
    return [
        *_unknown("disconnection", NETWORK_STEPS, BUILT_IN_DISCONNECTS, by),
        *_unknown("check", NETWORK_PROBES, BUILT_IN_PROBES, used),
    ]


def _unknown(what: str, group: str, built_in: tuple[str, ...], used: Iterable[tuple[Path, str]]) -> Iterator[Problem]:
    """Packages are looked for only if something is not built in."""
    others = [(place, kind) for place, kind in used if kind not in built_in]
    known = (*built_in, *sorted(installed(group))) if others else ()
    for place, kind in others:
        if kind not in known:
            words = f"no {what} {quoted(kind)} is installed{did_you_mean(kind, known)}; {allowed(known)}"
            yield Problem(place, words)
