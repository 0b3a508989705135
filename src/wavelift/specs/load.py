"""Load spec files into models. All errors of a file are reported at once, with file, line, field and allowed values."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from wavelift.base.errors import SpecError
from wavelift.rules.environment import PRINCIPALS, Environment, environment_problems, missing_keys
from wavelift.rules.plans import ResolvedWave, WaveShape, resolve
from wavelift.rules.principals import Principals, unknown_groups
from wavelift.rules.problem import MAX_PROBLEMS, Problem, allowed, did_you_mean
from wavelift.rules.wave import Wave, landing_problems, wave_problems
from wavelift.specs.document import Document
from wavelift.specs.installed import unknown_checks
from wavelift.specs.issues import Issue, fault, format_errors, lines, shown
from wavelift.specs.validate import PLACEHOLDER, validated

log = logging.getLogger(__name__)

SUFFIX = ".yaml"
OTHER_SUFFIX = ".yml"
T = TypeVar("T")
_Read = tuple[T | None, list[Issue]]
"""What a file holds if it is valid, and its issues."""


@dataclass(frozen=True, slots=True)
class LoadedWave:
    """A valid wave with its valid environment, and what a DAG is built from."""

    wave: Wave
    environment: Environment
    shape: WaveShape

    def resolve(self) -> ResolvedWave:
        return resolve(self.wave, self.environment)


@dataclass(frozen=True, slots=True)
class LoadedSpecs:
    """The content of the two folders: the valid specs, and the problems of the others."""

    waves: dict[str, LoadedWave] = field(default_factory=dict)
    environments: dict[str, Environment] = field(default_factory=dict)
    issues: tuple[Issue, ...] = ()

    @property
    def errors(self) -> tuple[str, ...]:
        """One line for each problem: ``waves/erp.yaml:12: servers[2].subnet: …``."""
        return lines(self.issues)


def load_wave(path: Path) -> Wave:
    """Load one wave file without its environment.

    :raises SpecError: with every problem of the file.
    """
    wave, _, issues = _wave(Document(path))
    return _or_raise(wave, issues)


def load_environment(path: Path) -> Environment:
    """Load one environment file.

    :raises SpecError: with every problem of the file.
    """
    return _or_raise(*_isolated(path, lambda: _environment(Document(path))))


@dataclass(frozen=True, slots=True)
class Granting:
    """What says who may do what: an environment with the groups, as the files are now."""

    environment: Environment
    principals: Principals


def load_granting(name: str, folder: Path) -> Granting:
    """The present environment of this name with the present groups.

    :raises SpecError: with every problem of the two files.
    """
    environments = _Environments(folder)
    environment, problem = environments.named(name)
    principals = environments.principals()
    if environment is None or principals is None:
        raise SpecError(format_errors(environments.issues) or problem)
    return Granting(environment, principals)


def load_principals(folder: Path) -> Principals:
    """The groups and vCenter principals of a folder of environments; without the file there are none.

    :raises SpecError: with every problem of the file.
    """
    environments = _Environments(folder)
    return _or_raise(environments.principals(), environments.issues)


def check_file(path: Path, environments_folder: Path) -> tuple[Issue, ...]:
    """The issues that ``wavelift wave validate`` prints of a file; empty if the file is valid.

    A file in the environments folder is checked as an environment, or as that of the groups. Any other file is checked
    as a wave, together with its environment.
    """
    if path.suffix == OTHER_SUFFIX:
        return (_unread(path),)
    if is_environment(path, environments_folder):
        if path.stem == PRINCIPALS:
            return tuple(_isolated(path, lambda: _principals(Document(path)))[1])
        return tuple(_isolated(path, lambda: _Environments(environments_folder).environment(Document(path)))[1])
    return tuple(_Environments(environments_folder).wave(path)[1])


def is_environment(path: Path, environments_folder: Path) -> bool:
    """Whether a file is an environment: only its folder decides."""
    return path.absolute().parent == environments_folder.absolute()


def load_resolved(path: Path, environments_folder: Path) -> ResolvedWave:
    """Load a wave file and check it against its environment.

    :raises SpecError: with every problem of the two files.
    """
    environments = _Environments(environments_folder)
    loaded, issues = environments.wave(path)
    return _or_raise(loaded, [*issues, *environments.issues]).resolve()


def load_folder(waves_folder: Path, environments_folder: Path, *, only: str | None = None) -> LoadedSpecs:
    """Load all waves and environments, or only one wave with its environment. Never raises."""
    environments = _Environments(environments_folder)
    issues: list[Issue] = []
    waves: dict[str, LoadedWave] = {}
    for path in [waves_folder / f"{only}{SUFFIX}"] if only else spec_files(waves_folder, issues):
        loaded, found = environments.wave(path)
        issues += found
        if loaded:
            waves[loaded.wave.wave] = loaded
    if not only:
        for path in spec_files(environments_folder, issues):
            if path.stem != PRINCIPALS:
                environments.get(path.stem)
        environments.principals()
    return LoadedSpecs(waves, environments.valid, tuple(dict.fromkeys((*issues, *environments.issues))))


def _isolated(path: Path, read: Callable[[], _Read[T]]) -> _Read[T]:
    """Read one file. Whatever happens is a problem of this file, and no other file notices."""
    try:
        value, issues = read()
    except Exception as error:  # no case is known; without this, one file would take the DAGs of all waves away
        log.exception("wavelift failed on %s", shown(path))
        return None, [fault(path, error)]
    if len(issues) > MAX_PROBLEMS:
        more = f"more than {MAX_PROBLEMS} problems; correct those that are listed first"
        issues = [*issues[:MAX_PROBLEMS], Issue(shown(path), 0, (), more)]
    return value, issues


class _Environments:
    """The environments of a folder. Each is read once, when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, Environment | None] = {}
        self._principals: list[Principals | None] = []
        self.issues: list[Issue] = []

    @property
    def valid(self) -> dict[str, Environment]:
        return {name: environment for name, environment in self._read.items() if environment}

    def get(self, name: str) -> Environment | None:
        if name not in self._read:
            path = self.folder / f"{name}{SUFFIX}"
            environment, issues = _isolated(path, lambda: self.environment(Document(path)))
            self.issues += issues
            self._read[name] = environment
        return self._read[name]

    def principals(self) -> Principals | None:
        """The groups and vCenter principals; None: their file has errors. Without the file there are none."""
        if not self._principals:
            found, issues = self._groups()
            self.issues += issues
            self._principals.append(found)
        return self._principals[0]

    def _groups(self) -> _Read[Principals]:
        """A link that leads nowhere, and a file of the other suffix, are meant to be the file: not "no file"."""
        path = self.folder / f"{PRINCIPALS}{SUFFIX}"
        if os.path.lexists(path):
            return _isolated(path, lambda: _principals(Document(path)))
        other = path.with_suffix(OTHER_SUFFIX)
        return (None, [_unread(other)]) if os.path.lexists(other) else (Principals(), [])

    def environment(self, document: Document) -> _Read[Environment]:
        """The environment of a file, or its issues. Its groups must be known, unless their file has errors."""
        environment, issues = _environment(document)
        principals = self.principals()
        if environment is None or environment.may is None or principals is None:
            return environment, issues
        issues += [document.issue(problem) for problem in unknown_groups(environment.may, principals)]
        return (None if issues else environment), issues

    def wave(self, path: Path) -> _Read[LoadedWave]:
        """The wave of a file with its environment, or its issues."""
        return _isolated(path, lambda: self._landing(Document(path)))

    def _landing(self, document: Document) -> _Read[LoadedWave]:
        wave, partial, issues = _wave(document)
        checked = wave or partial
        if checked is None:
            return None, issues
        environment, missing = self.named(checked.environment)
        if environment is None:
            return None, [*issues, document.issue(Problem(("environment",), missing))]
        wrong_source = any(issue.path[:1] == ("source",) for issue in issues)
        issues += [
            document.issue(problem)
            for problem in _of_real(checked, landing_problems(checked, environment))
            if not (wrong_source and problem.path[0] == "source")
        ]
        if wave is None or issues:
            return None, issues
        return LoadedWave(wave, environment, WaveShape.of(wave, environment)), []

    def named(self, name: str) -> tuple[Environment | None, str]:
        """The environment of this name that may be used, or why there is none."""
        path = self.folder / f"{name}{SUFFIX}"
        if not path.exists() or name == PRINCIPALS:
            known = sorted(file.stem for file in self.folder.glob(f"*{SUFFIX}") if file.stem != PRINCIPALS)
            what = f"{shown(path)} is no environment" if name == PRINCIPALS else f"there is no {shown(path)}"
            return None, f"{what}{did_you_mean(name, known)}; {allowed(known)}"
        environment = self.get(name)
        if environment is not None and self.principals() is None:
            return None, f"{shown(path.with_stem(PRINCIPALS))} has errors; correct them first"
        return environment, f"{shown(path)} has errors; correct them first"


def _wave(document: Document) -> tuple[Wave | None, Wave | None, list[Issue]]:
    """Three values: the wave if it is valid, the readable part of the wave, and the issues."""
    if document.value is None:
        return None, None, document.issues
    wave, problems, whole = validated(Wave, document.value)
    if wave is not None:
        problems += _of_real(wave, [*wave_problems(wave), *unknown_checks(wave)])
        problems += _wrong_stem(document, "wave", wave.wave)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (wave if whole and not issues else None), wave, issues


def _of_real(wave: Wave, problems: list[Problem]) -> list[Problem]:
    """The problems without those of placeholder servers, which replace entries that have errors themselves."""
    standing_in = {
        ("servers", index) for index, server in enumerate(wave.servers) if (server.name or "").startswith(PLACEHOLDER)
    }
    return [problem for problem in problems if problem.path[:2] not in standing_in]


def _environment(document: Document) -> _Read[Environment]:
    if document.value is None:
        return None, document.issues
    environment, problems, whole = validated(Environment, document.value)
    if environment is None:  # something else is missing: all that a file needs is told at once
        problems += missing_keys(document.value.get("account", ""), document.value.get("may"))
    else:
        told = {problem.path[:1] for problem in problems}  # a wrong value was left out, and is not missing
        problems += [problem for problem in environment_problems(environment) if problem.path not in told]
        problems += _wrong_stem(document, "environment", environment.environment)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (environment if whole and not issues else None), issues


def _principals(document: Document) -> _Read[Principals]:
    if document.value is None:
        return None, document.issues
    principals, problems, whole = validated(Principals, document.value)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (principals if whole and not issues else None), issues


def _wrong_stem(document: Document, key: str, name: str) -> list[Problem]:
    stem = document.path.stem
    if name == stem:
        return []
    return [
        Problem(
            (key,),
            f"'{name}' must equal the file's name: write '{key}: {stem}', or rename the file to '{name}{SUFFIX}'",
        )
    ]


def spec_files(folder: Path, issues: list[Issue]) -> list[Path]:
    """The spec files of a folder, sorted by name. A missing folder and a file with suffix ``.yml`` are issues."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        issues.append(Issue(str(folder), 0, (), f"the folder can't be read: {error.strerror or error}"))
        return []
    issues += [_unread(entry) for entry in entries if entry.suffix == OTHER_SUFFIX]
    return [entry for entry in entries if entry.suffix == SUFFIX]


def _unread(path: Path) -> Issue:
    return Issue(shown(path), 0, (), f"wavelift does not read this file: rename it to '{path.stem}{SUFFIX}'")


def _or_raise(value: T | None, issues: Iterable[Issue]) -> T:
    found = list(issues)
    if value is None or found:
        raise SpecError(format_errors(found))
    return value
