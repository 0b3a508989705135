"""What commands print: tables, lines and JSON on standard output."""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wavelift.base.printable import printable, printable_lines
from wavelift.console.answers import Page

PIPE_WIDTH: Final = 200
"""Columns where nobody looks: a table in a pipe or a file is not cut at 80."""
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of a table, times in UTC.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Rows to show.")]
Offset = Annotated[int, typer.Option(min=0, help="Rows to leave out before them.")]


def stdout_console() -> Console:
    """For results: standard output, as wide as the terminal."""
    return Console(emoji=False) if sys.stdout.isatty() else Console(width=PIPE_WIDTH, emoji=False)


def plain(text: str) -> Text:
    """Outside text as it is, without rich's markup. Control characters are shown as escapes; lines stay lines."""
    return Text(visible(text))


def visible(text: str) -> str:
    """``text`` with control characters as escapes. Its lines stay lines."""
    return printable_lines(text.split("\n"))


def table(*columns: str, title: str = "") -> Table:
    """An empty table whose cells wrap."""
    made = Table(title=plain(title) if title else None, box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in columns:
        made.add_column(name, overflow="fold")
    return made


def add_row(to: Table, *cells: str) -> None:
    """Cells as they are, without rich's markup."""
    to.add_row(*map(plain, cells))


def say(words: str) -> None:
    """One line as it is: no markup, no colour, no break at the terminal's width."""
    stdout_console().print(printable(words), markup=False, highlight=False, soft_wrap=True)


def tell_more(page: Page, shown: int) -> None:
    """Say how to see the rest of a list that was not shown whole."""
    if page.total > shown:
        last = page.offset + shown
        say(f"{page.offset + 1} to {last} of {page.total}; --offset {last} for more")


def print_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2))


def local_time(instant: datetime | None) -> str:
    """In the user's own time, with its offset: ``2026-12-01 10:00+01:00``; nothing for none."""
    return instant.astimezone().isoformat(" ", "minutes") if instant else ""
