"""Error lines about spec files. The command line and Airflow's import errors show the same text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wavelift.base.printable import printable_lines
from wavelift.rules.problem import Path as Place
from wavelift.rules.problem import clipped, dotted

MAX_LINE: Final = 2000
"""Characters of one line. A message quotes only a part of what it names, so none is as long."""


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
        return clipped(f"{place}:{where} {self.message}", MAX_LINE)


def shown(path: Path) -> str:
    """Folder and file name, such as ``waves/erp.yaml``. Does not depend on the current folder."""
    full = path.absolute()
    return f"{full.parent.name}/{full.name}"


def fault(path: Path, error: Exception) -> Issue:
    """What no check expected: wavelift itself failed on this file. Other files are not affected."""
    what = clipped(f"{type(error).__name__}: {error}")
    message = f"wavelift failed while it read this file ({what}); this is a fault in wavelift: report it with the file"
    return Issue(shown(path), 0, (), message)


def lines(issues: Iterable[Issue]) -> tuple[str, ...]:
    """One line for each issue, sorted by file and line."""
    return tuple(str(issue) for issue in sorted(set(issues), key=lambda issue: (issue.file, issue.line, issue.message)))


def format_errors(issues: Iterable[Issue]) -> str:
    """The text that ``wavelift wave validate`` and the DAG import error show."""
    return printable_lines(lines(issues))
