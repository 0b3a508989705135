"""Error lines about spec files. The command line and Airflow's import errors show the same text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wavelift.base.printable import printable, printable_lines
from wavelift.rules.problem import Path as Place
from wavelift.rules.problem import clipped, dotted

MAX_LINE: Final = 2000
"""Characters of one line. A message quotes only a part of what it names, so none is as long."""
MAX_SOURCE: Final = 100
"""Characters of a file's line that are shown."""


@dataclass(frozen=True, slots=True)
class Issue:
    """One problem in one file; line 0 means the whole file.

    :param source: the line of the file, and a line with ``^`` below the place; empty if they say nothing more.
    """

    file: str
    line: int
    path: Place
    message: str
    source: tuple[str, ...] = ()

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


def excerpt(line: str, column: int) -> tuple[str, str]:
    """A line of a file, and a line with ``^`` below its column (from 0). Of a long line, only what is around it."""
    start = max(0, column - MAX_SOURCE * 3 // 4)
    before = ("…" if start else "") + printable(line[start:column])
    after = line[column : start + MAX_SOURCE]
    more = "…" if len(line) > start + MAX_SOURCE else ""
    return f"    {before}{printable(after)}{more}", f"    {' ' * len(before)}^"


def lines(issues: Iterable[Issue]) -> tuple[str, ...]:
    """One line for each issue, sorted by file and line."""
    return tuple(map(str, _sorted(issues)))


def format_errors(issues: Iterable[Issue]) -> str:
    """One line for each issue: the text of the DAG import error."""
    return printable_lines(lines(issues))


def with_source(issues: Iterable[Issue]) -> str:
    """The same with the lines of the files, for a person who may read them.

    The DAG import error has no line of a file: whoever may write specs could link to a file that he may not read.
    """
    return printable_lines(line for issue in _sorted(issues) for line in (str(issue), *issue.source))


def _sorted(issues: Iterable[Issue]) -> list[Issue]:
    return sorted(set(issues), key=lambda issue: (issue.file, issue.line, issue.message))
