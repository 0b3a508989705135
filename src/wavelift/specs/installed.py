"""What other packages add to specs: checks of instances, under the entry point ``wavelift.checks``."""

from __future__ import annotations

from wavelift.base.installed import installed_checks
from wavelift.rules.problem import Problem, allowed, did_you_mean, quoted
from wavelift.rules.wave import Wave
from wavelift.rules.wave_cutover import BUILT_IN_CHECKS, CutoverSettings


def unknown_checks(wave: Wave) -> list[Problem]:
    """Checks of a kind that is neither built in nor installed here. Packages are looked for only if there is one."""
    sections: list[tuple[tuple[str | int, ...], CutoverSettings | None]] = [(("cutover",), wave.cutover)]
    sections += [(("servers", index, "cutover"), server.cutover) for index, server in enumerate(wave.servers)]
    others = [
        ((*place, "checks", position, "kind"), check.kind)
        for place, section in sections
        for position, check in enumerate((section.checks if section else None) or ())
        if check.kind not in BUILT_IN_CHECKS
    ]
    known = (*BUILT_IN_CHECKS, *sorted(installed_checks())) if others else ()
    return [
        Problem(place, f"no check {quoted(kind)} is installed{did_you_mean(kind, known)}; {allowed(known)}")
        for place, kind in others
        if kind not in known
    ]
