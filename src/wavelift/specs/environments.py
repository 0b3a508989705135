"""Environments and groups, from the files of one folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from wavelift.rules.environment import PRINCIPALS, Environment, environment_problems, missing_keys, named_apart
from wavelift.rules.hcx_environment import AnyEnvironment, HcxEnvironment, hcx_environment_problems
from wavelift.rules.principals import Principals, unknown_groups
from wavelift.rules.problem import Problem, allowed, did_you_mean
from wavelift.specs.document import Document
from wavelift.specs.files import OTHER_SUFFIX, SUFFIX, Read, isolated, spec_files, unread, wrong_stem
from wavelift.specs.issues import Issue, shown
from wavelift.specs.kinds import KINDS, aws_environment_value, choice, hcx_environment_value
from wavelift.specs.validate import validated


class Environments:
    """The environments of a folder. Each is read once, when it is first needed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._read: dict[str, AnyEnvironment | None] = {}
        self._principals: list[Principals | None] = []
        self._exports: list[dict[str, tuple[str, str, str]]] = []
        self.issues: list[Issue] = []

    @property
    def valid(self) -> dict[str, AnyEnvironment]:
        return {name: environment for name, environment in self._read.items() if environment}

    def get(self, name: str) -> AnyEnvironment | None:
        if name not in self._read:
            environment, issues = isolated(self.folder / f"{name}{SUFFIX}", self.environment)
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

    def _groups(self) -> Read[Principals]:
        """A link that leads nowhere, and a file of the other suffix, are meant to be the file: not "no file"."""
        path = self.folder / f"{PRINCIPALS}{SUFFIX}"
        if os.path.lexists(path):
            return isolated(path, read_principals)
        other = path.with_suffix(OTHER_SUFFIX)
        return (None, [unread(other)]) if os.path.lexists(other) else (Principals(), [])

    def environment(self, document: Document) -> Read[AnyEnvironment]:
        """The environment of a file, or its issues. Its groups must be known, unless their file has errors."""
        environment, issues = read_environment(document)
        if isinstance(environment, Environment):
            issues += [document.issue(problem) for problem in self._apart(environment, document)]
        principals = self.principals()
        if environment is not None and environment.may is not None and principals is not None:
            issues += [document.issue(problem) for problem in unknown_groups(environment.may, principals)]
        return (None if issues else environment), issues

    def _apart(self, own: Environment, document: Document) -> list[Problem]:
        """Other files are read only for an environment that has exports. What else is wrong in them does not matter."""
        if own.exports is None:
            return []
        if not self._exports:
            self._exports.append(dict(self._exports_of_files()))
        here = (own.account, own.region)
        beside = {stem: name for stem, (*place, name) in self._exports[0].items() if (*place,) == here}
        beside.pop(document.path.stem, None)
        return named_apart(own.exports, beside)

    def _exports_of_files(self) -> Iterator[tuple[str, tuple[str, str, str]]]:
        """File → account, region and name of its exports, as they are written."""
        for path in spec_files(self.folder, []):
            value, _ = isolated(path, lambda document: (document.value or {}, []))
            account, region, exports = ((value or {}).get(key) for key in ("account", "region", "exports"))
            name = exports.get("name") if isinstance(exports, dict) else None
            if isinstance(account, str) and isinstance(region, str) and isinstance(name, str):
                yield path.stem, (account, region, name)

    def named(self, name: str) -> tuple[AnyEnvironment | None, str]:
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

    def of_hcx(self, name: str, who: str) -> tuple[HcxEnvironment | None, str]:
        """As :meth:`named`, if it is of kind ``hcx``. :param who: what needs one: ``a wave of 'method: hcx'``."""
        environment, missing = self.named(name)
        if isinstance(environment, Environment):
            return None, f"environment '{name}' is of 'kind: aws', and {who} needs one of 'kind: hcx'"
        return environment, missing

    def of_aws(self, name: str) -> tuple[Environment | None, str]:
        """As :meth:`named`, if it is of kind ``aws``."""
        environment, missing = self.named(name)
        if isinstance(environment, HcxEnvironment):
            words = "a wave needs 'method: hcx' to land there; name one of 'kind: aws', or add that line"
            return None, f"environment '{name}' is of 'kind: hcx': {words}"
        return environment, missing


def read_environment(document: Document) -> Read[AnyEnvironment]:
    """An environment of either kind, without a look at its groups."""
    if document.value is None:
        return None, document.issues
    kind, problems = choice(document.value, "kind", KINDS)
    if problems:
        return None, [*document.issues, *(document.issue(problem) for problem in problems)]
    environment: AnyEnvironment | None
    environment, problems, whole = _hcx(document.value) if kind == "hcx" else _aws(document.value)
    if environment is not None:
        problems += wrong_stem(document, "environment", environment.environment)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (environment if whole and not issues else None), issues


def _aws(given: dict[str, object]) -> tuple[Environment | None, list[Problem], bool]:
    value, foreign = aws_environment_value(given)
    environment, problems, whole = validated(Environment, value)
    problems += foreign
    if environment is None:  # something else is missing: all that a file needs is told at once
        problems += missing_keys(value.get("account", ""), value.get("may"))
    else:
        problems += _untold(environment_problems(environment), problems)
    return environment, problems, whole


def _hcx(given: dict[str, object]) -> tuple[HcxEnvironment | None, list[Problem], bool]:
    value, foreign = hcx_environment_value(given)
    environment, problems, whole = validated(HcxEnvironment, value)
    problems += foreign
    if environment is not None:
        problems += _untold(hcx_environment_problems(environment), problems)
    return environment, problems, whole


def _untold(found: list[Problem], told: list[Problem]) -> list[Problem]:
    """A wrong value was left out, and is not missing."""
    places = {problem.path[:1] for problem in told}
    return [problem for problem in found if problem.path not in places]


def read_principals(document: Document) -> Read[Principals]:
    """The file of groups."""
    if document.value is None:
        return None, document.issues
    principals, problems, whole = validated(Principals, document.value)
    issues = [*document.issues, *(document.issue(problem) for problem in problems)]
    return (principals if whole and not issues else None), issues
