"""Environments from which instances are exported, from the files of one folder."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from wavelift.base.errors import SpecError
from wavelift.rules.environment import PRINCIPALS, Environment
from wavelift.rules.export_shape import ExportShape
from wavelift.rules.fields import NAME_MAX, NAME_PATTERN
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.specs.environments import Environments
from wavelift.specs.files import SUFFIX
from wavelift.specs.issues import Issue, lines
from wavelift.specs.last_valid import LastValid
from wavelift.specs.load import load_granting

EXPORTS: Final = "exports"
"""Folder of the exports' shapes, in that of the waves'."""
_NAME: Final = re.compile(NAME_PATTERN)


@dataclass(frozen=True, slots=True)
class UsableExports:
    """The environments that have an export DAG, by name, and every problem as one line of text."""

    shapes: Mapping[str, ExportShape] = field(default_factory=dict)
    errors: tuple[str, ...] = ()


def usable_exports(environments_folder: Path, last_valid_folder: Path, *, only: str | None = None) -> UsableExports:
    """The environments to build export DAGs from: valid ones that have ``exports``, and the last valid version of those
    whose file is broken. Never raises. Errors of environments are told with those of the waves.

    :param only: the one that a task process needs. It always gets a shape, so that a run goes on and removes what it
        made, although its file is invalid, deleted, or without ``exports`` by now.
    """
    if only is not None and not _is_name(only):
        return UsableExports()
    environments = Environments(environments_folder)
    kept = LastValid(last_valid_folder / EXPORTS, ExportShape)
    issues: list[Issue] = []
    shapes: dict[str, ExportShape] = {}
    for name in [only] if only is not None else _names(environments_folder):
        shape = _shape(environments, kept, name, issues, needed=only is not None)
        if shape is not None:
            shapes[name] = shape
    return UsableExports(shapes, lines(issues))


def _shape(
    environments: Environments, kept: LastValid[ExportShape], name: str, issues: list[Issue], *, needed: bool
) -> ExportShape | None:
    known = environments.get(name)
    if known is None:
        return kept.load(name) or (ExportShape(name) if needed else None)
    if isinstance(known, HcxEnvironment):
        return ExportShape(name) if needed else None
    shape = ExportShape.of(known)
    try:
        if known.exports is None:
            kept.forget(name)
            return shape if needed else None
        kept.keep(shape)
    except OSError as error:
        words = f"can't keep the last valid version of the exports of '{name}': {error.strerror or error}"
        issues.append(Issue(str(kept.folder), 0, (), words))
    return shape


def exporting_environment(name: str, environments_folder: Path) -> Environment:
    """The environment that ``admit`` freezes, as its file is now. The last valid version does not count here.

    :raises SpecError: with the errors of the present files, or because HCX migrates into it.
    """
    environment = load_granting(name, environments_folder).environment
    if not isinstance(environment, Environment):
        raise SpecError(
            "This environment is of 'kind: hcx': it has no EC2 instances",
            next_step="Name an environment of 'kind: aws'",
            environment=name,
        )
    return environment


def _is_name(name: str) -> bool:
    return len(name) <= NAME_MAX and _NAME.fullmatch(name) is not None and name != PRINCIPALS


def _names(folder: Path) -> list[str]:
    try:
        return sorted(path.stem for path in folder.glob(f"*{SUFFIX}") if _is_name(path.stem))
    except OSError:
        return []
