"""Networks that are cut over, each with its environment, from the files of one folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.network import NetworkSpec, named_twice, network_landing_problems, network_problems
from wavelift.rules.network_plans import NetworkShape, ResolvedNetwork, resolve_network
from wavelift.rules.problem import Problem
from wavelift.specs.document import Document
from wavelift.specs.environments import Environments
from wavelift.specs.files import Read, guarded, isolated, spec_files, wrong_stem
from wavelift.specs.installed import unknown_network_parts
from wavelift.specs.issues import Issue
from wavelift.specs.validate import validated


@dataclass(frozen=True, slots=True)
class LoadedNetwork:
    """A valid network with its valid environment, and what its DAG is built from."""

    network: NetworkSpec
    environment: HcxEnvironment
    shape: NetworkShape

    def resolve(self) -> ResolvedNetwork:
        return resolve_network(self.network, self.environment)


@dataclass(frozen=True, slots=True)
class _File:
    """What one file holds: the network if it is valid by itself, the readable part of it, and the issues."""

    document: Document
    network: NetworkSpec | None
    partial: NetworkSpec | None
    issues: tuple[Issue, ...]


class Networks:
    """The networks of a folder. Each file is read once. A folder that does not exist has none."""

    def __init__(self, folder: Path, environments: Environments) -> None:
        self.folder = folder
        self._environments = environments
        self._files: dict[Path, tuple[_File | None, tuple[Issue, ...]]] = {}
        self._twice: dict[str, list[Problem]] | None = None

    def paths(self, issues: list[Issue]) -> list[Path]:
        """The files of the folder, sorted by name."""
        return spec_files(self.folder, issues) if self.folder.exists() else []

    def network(self, path: Path, *, alone: bool = False) -> Read[LoadedNetwork]:
        """The network of a file with its environment, or its issues.

        :param alone: the other files of the folder are not looked at.
        """
        file, trouble = self._file(path)
        if file is None:
            return None, list(trouble)
        return guarded(path, lambda: self._landed(file, {} if alone else self._shared()))

    def _landed(self, file: _File, twice: dict[str, list[Problem]]) -> Read[LoadedNetwork]:
        document, issues, checked = file.document, list(file.issues), file.network or file.partial
        if checked is None:
            return None, issues
        issues += [document.issue(problem) for problem in twice.get(document.path.stem, ())]
        environment, missing = self._environments.of_hcx(checked.environment, "a network")
        if environment is None:
            return None, [*issues, document.issue(Problem(("environment",), missing))]
        issues += [document.issue(problem) for problem in network_landing_problems(checked, environment)]
        if file.network is None or issues:
            return None, issues
        return LoadedNetwork(checked, environment, NetworkShape.of(checked, environment)), []

    def _shared(self) -> dict[str, list[Problem]]:
        """File → extensions that another file names, too. Also of files that are not valid otherwise."""
        if self._twice is None:
            read = [self._file(path)[0] for path in self.paths([])]
            found = {file.document.path.stem: file.partial for file in read if file and file.partial}
            self._twice = named_twice(found)
        return self._twice

    def _file(self, path: Path) -> tuple[_File | None, tuple[Issue, ...]]:
        if path not in self._files:
            found, issues = isolated(path, lambda document: (_read(document), []))
            self._files[path] = found, tuple(issues)
        return self._files[path]


def _read(document: Document) -> _File:
    if document.value is None:
        return _File(document, None, None, tuple(document.issues))
    network, problems, whole = validated(NetworkSpec, document.value)
    if network is not None:
        told = {problem.path[:2] for problem in problems}  # a wrong value was left out, and is not missing
        found = [*network_problems(network), *unknown_network_parts(network)]
        problems += [problem for problem in found if problem.path[:2] not in told]
        problems += wrong_stem(document, "network", network.network)
    issues = (*document.issues, *(document.issue(problem) for problem in problems))
    return _File(document, network if whole and not issues else None, network, issues)
