"""Error lines about spec files. The command line and Airflow's import errors show the same text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from wavelift.base.printable import printable_lines
from wavelift.rules.problem import Path as Place
from wavelift.rules.problem import dotted


@dataclass(frozen=True, slots=True)
class Issue:
    """One problem in one file; line 0 means the whole file."""

    file: str
    line: int
    path: Place
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        where = f" {dotted(self.path)}:" if self.path else ""
        return f"{place}:{where} {self.message}"


def shown(path: Path) -> str:
    """Folder and file name, such as ``waves/erp.yaml``. Does not depend on the current folder."""
    full = path.absolute()
    return f"{full.parent.name}/{full.name}"


def lines(issues: Iterable[Issue]) -> tuple[str, ...]:
    """One line for each issue, sorted by file and line."""
    return tuple(str(issue) for issue in sorted(set(issues), key=lambda issue: (issue.file, issue.line, issue.message)))


def format_errors(issues: Iterable[Issue]) -> str:
    """The text that ``wavelift wave validate`` and the DAG import error show."""
    return printable_lines(lines(issues))
