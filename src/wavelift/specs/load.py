"""Load spec files into models. All errors of a file are reported at once, with file, line, field and allowed values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from wavelift.base.errors import SpecError
from wavelift.rules.environment import Environment, environment_problems
from wavelift.rules.plans import ResolvedWave, WaveShape, resolve
from wavelift.rules.problem import Problem, allowed, did_you_mean
from wavelift.rules.wave import Wave, landing_problems, wave_problems
from wavelift.specs.document import Document
from wavelift.specs.issues import Issue, format_errors, lines, shown
from wavelift.specs.validate import PLACEHOLDER, validated

SUFFIX = ".yaml"
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class LoadedWave:
    """A valid wave with its valid environment, and the texts of both files."""

    wave: Wave
    environment: Environment
    wave_text: str
    environment_text: str

    @property
    def shape(self) -> WaveShape:
        return WaveShape.of(self.wave, self.environment)

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
    environment, issues = _environment(Document(path))
    return _or_raise(environment, issues)


def check_file(path: Path, environments_folder: Path) -> tuple[Issue, ...]:
    """The issues that ``wavelift wave validate FILE`` prints with ``format_errors``; empty if the file is valid.

    A file in the environments folder is checked as an environment. Any other file is checked as a wave, together with
    its environment.
    """
    if path.absolute().parent == environments_folder.absolute():
        return tuple(_environment(Document(path))[1])
    return _Environments(environments_folder).wave(Document(path))[1]


def load_resolved(path: Path, environments_folder: Path) -> ResolvedWave:
    """Load a wave file and check it against its environment.

    :raises SpecError: with every problem of the two files.
    """
    loaded, issues = _Environments(environments_folder).wave(Document(path))
    return _or_raise(loaded, issues).resolve()


def load_folder(waves_folder: Path, environments_folder: Path, *, only: str | None = None) -> LoadedSpecs:
    """Load all waves and environments, or only one wave with its environment. Never raises."""
    environments = _Environments(environments_folder)
    issues: list[Issue] = []
    waves: dict[str, LoadedWave] = {}
    for path in [waves_folder / f"{only}{SUFFIX}"] if only else _files(waves_folder, issues):
        loaded, found = environments.wave(Document(path))
        issues += found
        if loaded:
            waves[loaded.wave.wave] = loaded
    if not only:
        for path in _files(environments_folder, issues):
            environments.get(path.stem)
    return LoadedSpecs(waves, environments.valid, (*issues, *environments.issues))


def load_texts(wave_text: str, environment_text: str) -> LoadedWave | None:
    """A wave from a kept copy; None if the current rules refuse it."""
    environment_document = Document(Path("kept"), environment_text)
    environment, broken = _environment(environment_document, any_stem=True)
    wave_document = Document(Path("kept"), wave_text)
    wave, _, issues = _wave(wave_document, any_stem=True)
    if wave is None or environment is None or issues or broken or landing_problems(wave, environment):
        return None
    return LoadedWave(wave, environment, wave_text, environment_text)


class _Environments:
    """The environments of a folder. Each is read once, when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, tuple[Environment | None, str]] = {}
        self.issues: list[Issue] = []

    @property
    def valid(self) -> dict[str, Environment]:
        return {name: environment for name, (environment, _) in self._read.items() if environment}

    def get(self, name: str) -> tuple[Environment | None, str]:
        if name not in self._read:
            document = Document(self.folder / f"{name}{SUFFIX}")
            environment, issues = _environment(document)
            self.issues += issues
            self._read[name] = (environment, document.text)
        return self._read[name]

    def wave(self, document: Document) -> tuple[LoadedWave | None, tuple[Issue, ...]]:
        """The wave of a document with its environment, or its issues."""
        wave, partial, issues = _wave(document)
        checked = wave or partial
        if checked is None:
            return None, tuple(issues)
        environment, text, missing = self._landing(checked.environment)
        if environment is None:
            issues.append(document.issue(Problem(("environment",), missing)))
            return None, tuple(issues)
        wrong_source = any(issue.path[:1] == ("source",) for issue in issues)
        issues += [
            document.issue(problem)
            for problem in _of_real(checked, landing_problems(checked, environment))
            if not (wrong_source and problem.path[0] == "source")
        ]
        if wave is None or issues:
            return None, tuple(issues)
        return LoadedWave(wave, environment, document.text, text), ()

    def _landing(self, name: str) -> tuple[Environment | None, str, str]:
        path = self.folder / f"{name}{SUFFIX}"
        if not path.is_file():
            known = sorted(file.stem for file in self.folder.glob(f"*{SUFFIX}"))
            return None, "", f"there is no {shown(path)}{did_you_mean(name, known)}; {allowed(known)}"
        environment, text = self.get(name)
        return environment, text, f"{shown(path)} has errors; correct them first"


def _wave(document: Document, *, any_stem: bool = False) -> tuple[Wave | None, Wave | None, list[Issue]]:
    """Three values: the wave if it is valid, the readable part of the wave, and the issues."""
    if document.value is None:
        return None, None, document.issues
    wave, problems, whole = validated(Wave, document.value)
    if wave is not None:
        problems += _of_real(wave, wave_problems(wave))
        problems += _wrong_stem(document, "wave", wave.wave, any_stem)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (wave if whole and not issues else None), wave, issues


def _of_real(wave: Wave, problems: list[Problem]) -> list[Problem]:
    """The problems without those of placeholder servers, which replace entries that have errors themselves."""
    standing_in = {
        ("servers", index) for index, server in enumerate(wave.servers) if (server.name or "").startswith(PLACEHOLDER)
    }
    return [problem for problem in problems if problem.path[:2] not in standing_in]


def _environment(document: Document, *, any_stem: bool = False) -> tuple[Environment | None, list[Issue]]:
    if document.value is None:
        return None, document.issues
    environment, problems, whole = validated(Environment, document.value)
    if environment is not None:
        problems += environment_problems(environment)
        problems += _wrong_stem(document, "environment", environment.environment, any_stem)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (environment if whole and not issues else None), issues


def _wrong_stem(document: Document, key: str, name: str, any_stem: bool) -> list[Problem]:
    stem = document.path.stem
    if any_stem or name == stem:
        return []
    return [
        Problem(
            (key,),
            f"'{name}' must equal the file's name: write '{key}: {stem}', or rename the file to '{name}{SUFFIX}'",
        )
    ]


def _files(folder: Path, issues: list[Issue]) -> list[Path]:
    """The spec files of a folder, sorted by name. A missing folder and a file with suffix ``.yml`` are issues."""
    try:
        entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        issues.append(Issue(str(folder), 0, (), f"the folder can't be read: {error.strerror or error}"))
        return []
    for entry in entries:
        if entry.suffix == ".yml":
            issues.append(
                Issue(shown(entry), 0, (), f"wavelift does not read this file: rename it to '{entry.stem}{SUFFIX}'")
            )
    return [entry for entry in entries if entry.suffix == SUFFIX]


def _or_raise(value: T | None, issues: Iterable[Issue]) -> T:
    found = list(issues)
    if value is None or found:
        raise SpecError(format_errors(found))
    return value
