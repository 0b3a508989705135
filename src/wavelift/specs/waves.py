"""Waves of either method, each with its environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wavelift.rules.environment import Environment
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave, LiveServer, hcx_landing_problems, hcx_wave_problems
from wavelift.rules.live_plans import ResolvedLive, live_shape, resolve_live
from wavelift.rules.plans import ResolvedWave, WaveShape, resolve
from wavelift.rules.problem import Problem
from wavelift.rules.wave import Server, Wave, landing_problems, wave_problems
from wavelift.specs.document import Document
from wavelift.specs.environments import Environments
from wavelift.specs.files import Read, wrong_stem
from wavelift.specs.installed import unknown_checks
from wavelift.specs.issues import Issue
from wavelift.specs.kinds import METHODS, choice, hcx_wave_value
from wavelift.specs.validate import PLACEHOLDER, validated

AnyWave = Wave | HcxWave


@dataclass(frozen=True, slots=True)
class LoadedWave:
    """A valid wave with its valid environment, and what its DAGs are built from."""

    wave: Wave
    environment: Environment
    shape: WaveShape

    def resolve(self) -> ResolvedWave:
        return resolve(self.wave, self.environment)


@dataclass(frozen=True, slots=True)
class LoadedLive:
    """The same of a wave of ``method: hcx``."""

    wave: HcxWave
    environment: HcxEnvironment
    shape: WaveShape

    def resolve(self) -> ResolvedLive:
        return resolve_live(self.wave, self.environment)


AnyLoaded = LoadedWave | LoadedLive


def read_wave(document: Document) -> tuple[AnyWave | None, AnyWave | None, list[Issue]]:
    """Three values: the wave if it is valid, the readable part of the wave, and the issues."""
    if document.value is None:
        return None, None, document.issues
    method, problems = choice(document.value, "method", METHODS)
    wave: AnyWave | None = None
    whole = False
    if not problems:
        wave, problems, whole = _hcx(document.value) if method == "hcx" else _ec2(document.value)
    if wave is not None:
        problems += wrong_stem(document, "wave", wave.wave)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (wave if whole and not issues else None), wave, issues


def _ec2(value: dict[str, Any]) -> tuple[Wave | None, list[Problem], bool]:
    wave, problems, whole = validated(Wave, value)
    if wave is not None:
        problems += _of_real(wave, [*wave_problems(wave), *unknown_checks(wave)])
    return wave, problems, whole


def _hcx(given: dict[str, Any]) -> tuple[HcxWave | None, list[Problem], bool]:
    value, foreign = hcx_wave_value(given)
    wave, problems, whole = validated(HcxWave, value)
    if wave is not None:
        # A wrong value was left out. What would be said of a wave without it, nobody wrote.
        told = {problem.path[0] for problem in problems if problem.path}
        problems += [
            problem
            for problem in _of_real(wave, hcx_wave_problems(wave))
            if problem.path[0] == "servers" or not told & {"type", "window", "options", "approve_switchover"}
        ]
    return wave, problems + foreign, whole


def landed(document: Document, environments: Environments) -> Read[LoadedWave | LoadedLive]:
    """The wave of a file with its environment, or its issues."""
    wave, partial, issues = read_wave(document)
    checked = wave or partial
    if checked is None:
        return None, issues
    if isinstance(checked, HcxWave):
        return _landed_hcx(document, environments, checked, issues, whole=wave is not None)
    return _landed_ec2(document, environments, checked, issues, whole=wave is not None)


def _landed_ec2(
    document: Document, environments: Environments, wave: Wave, issues: list[Issue], *, whole: bool
) -> Read[LoadedWave | LoadedLive]:
    environment, missing = environments.of_aws(wave.environment)
    if environment is None:
        return None, [*issues, document.issue(Problem(("environment",), missing))]
    wrong_source = any(issue.path[:1] == ("source",) for issue in issues)
    issues += [
        document.issue(problem)
        for problem in _of_real(wave, landing_problems(wave, environment))
        if not (wrong_source and problem.path[0] == "source")
    ]
    if not whole or issues:
        return None, issues
    return LoadedWave(wave, environment, WaveShape.of(wave, environment)), []


def _landed_hcx(
    document: Document, environments: Environments, wave: HcxWave, issues: list[Issue], *, whole: bool
) -> Read[LoadedWave | LoadedLive]:
    environment, missing = environments.of_hcx(wave.environment, "a wave of 'method: hcx'")
    if environment is None:
        return None, [*issues, document.issue(Problem(("environment",), missing))]
    if not any(issue.path[:1] == ("target",) for issue in issues):  # else a place may be missing that is only wrong
        issues += [document.issue(each) for each in _of_real(wave, hcx_landing_problems(wave, environment))]
    if not whole or issues:
        return None, issues
    return LoadedLive(wave, environment, live_shape(wave, environment)), []


def _of_real(wave: AnyWave, problems: list[Problem]) -> list[Problem]:
    """The problems without those of placeholder servers, which replace entries that have errors themselves."""
    servers: tuple[Server | LiveServer, ...] = wave.servers
    standing_in = {
        ("servers", index) for index, server in enumerate(servers) if (server.name or "").startswith(PLACEHOLDER)
    }
    return [problem for problem in problems if problem.path[:2] not in standing_in]
