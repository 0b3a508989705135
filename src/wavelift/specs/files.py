"""What every kind of spec file shares: which files are read, and that the trouble of one is no other's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

from wavelift.base.errors import SpecError
from wavelift.rules.problem import MAX_PROBLEMS, Problem
from wavelift.specs.document import Document
from wavelift.specs.issues import Issue, fault, format_errors, shown

log = logging.getLogger(__name__)

SUFFIX: Final = ".yaml"
OTHER_SUFFIX: Final = ".yml"
T = TypeVar("T")
V = TypeVar("V")
"""As ``T``, or None: mypy joins the members of a union that it finds in ``T | None``."""
Read = tuple[T | None, list[Issue]]
"""What a file holds if it is valid, and its issues."""


def isolated(path: Path, read: Callable[[Document], tuple[V, list[Issue]]]) -> Read[V]:
    """Read one file. Whatever happens is a problem of this file, and no other file notices."""
    return guarded(path, lambda: read(Document(path)))


def guarded(path: Path, check: Callable[[], tuple[V, list[Issue]]]) -> Read[V]:
    """The same of a file that was read already."""
    try:
        value, issues = check()
    except Exception as error:  # no case is known; without this, one file would take the DAGs of all waves away
        log.exception("wavelift failed on %s", shown(path))
        return None, [fault(path, error)]
    if len(issues) > MAX_PROBLEMS:
        more = f"more than {MAX_PROBLEMS} problems; correct those that are listed first"
        issues = [*issues[:MAX_PROBLEMS], Issue(shown(path), 0, (), more)]
    return value, issues


def wrong_stem(document: Document, key: str, name: str) -> list[Problem]:
    """A spec is named as its file."""
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
    issues += [unread(entry) for entry in entries if entry.suffix == OTHER_SUFFIX]
    return [entry for entry in entries if entry.suffix == SUFFIX]


def unread(path: Path) -> Issue:
    """A file of the other suffix is meant to be a spec: not "no file"."""
    return Issue(shown(path), 0, (), f"wavelift does not read this file: rename it to '{path.stem}{SUFFIX}'")


def or_raise(value: T | None, issues: Iterable[Issue]) -> T:
    """:raises SpecError: with every issue."""
    found = list(issues)
    if value is None or found:
        raise broken(found)
    return value


def broken(issues: Iterable[Issue]) -> SpecError:
    """The error of a file that is not valid."""
    return SpecError(format_errors(issues))
