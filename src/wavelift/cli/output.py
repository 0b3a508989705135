"""What commands print: tables, blocks, lines and JSON on standard output; times in the user's own zone."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import sys
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime
from typing import Annotated, Any, Final

import typer
from rich.console import Console
from rich.text import Text

from wavelift.base.printable import printable
from wavelift.base.times import minute_up, zone_of
from wavelift.cli.layout import Sheet, labelled
from wavelift.cli.layout import visible as visible
from wavelift.console.answers import Page

PIPE_WIDTH: Final = 200
"""Columns where nobody looks and ``COLUMNS`` says nothing: a table in a pipe or a file is not cut at 80."""
WIDTHS: Final = range(20, 1001)
"""Columns that ``COLUMNS`` may ask for. Any other value is an error, and is ignored."""
LINES: Final = 25
"""Of a terminal that does not say."""
WITHOUT_UNICODE: Final = {"─": "-", "→": "->", "…": "..."}
"""What stands for our own signs where the output can't show them."""
_INSTANT: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d(:\d\d(\.\d+)?)?[+-]\d\d:\d\d")
"""A time as REST tells it."""
_UTC_MINUTE: Final = re.compile(r"\b(\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?) UTC\b(?![+-])")
"""A time in a sentence of the server, which knows no zone of its reader."""
AsJson = Annotated[bool, typer.Option("--json", help="JSON instead of text, times in UTC.")]
Limit = Annotated[int, typer.Option(min=1, max=500, help="Rows to show.")]
Offset = Annotated[int, typer.Option(min=0, help="Rows to leave out before them.")]


def bear_any_encoding() -> None:
    """From now on, no output fails at a character that its encoding lacks: our signs are replaced, others escaped."""
    codecs.register_error("wavelift", _without_unicode)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="wavelift")


def _without_unicode(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    missing = error.object[error.start : error.end]
    return "".join(WITHOUT_UNICODE.get(char) or char.encode("unicode_escape").decode() for char in missing), error.end


def stdout_console() -> Console:
    """For results: standard output, as wide as ``COLUMNS`` says, else as the terminal."""
    asked = os.environ.get("COLUMNS", "")
    if asked.isascii() and asked.isdigit() and len(asked) < 5 and int(asked) in WIDTHS:
        return Console(width=int(asked), emoji=False)
    if not sys.stdout.isatty():
        return Console(width=PIPE_WIDTH, height=LINES, emoji=False)
    if not asked:
        return Console(emoji=False)
    size = os.get_terminal_size(sys.stdout.fileno())  # rich would believe COLUMNS, or stumble over it
    return Console(width=size.columns or PIPE_WIDTH, height=size.lines or LINES, emoji=False)


def plain(text: str) -> Text:
    """Outside text as it is, without rich's markup. Control characters are shown as escapes; lines stay lines."""
    return Text(visible(text))


def table(*columns: str, title: str = "", ids: Collection[str] = ()) -> Sheet:
    """An empty table.

    :param ids: the columns that hold ids, names or digests which people copy: never folded, at any width.
    """
    unknown = set(ids) - set(columns)
    if unknown:
        raise ValueError(f"no such columns: {', '.join(sorted(unknown))}")
    return Sheet(columns, frozenset(ids), title)


def add_row(to: Sheet, *cells: str) -> None:
    """Cells as they are, without rich's markup."""
    to.add(*map(in_own_zone, cells))


def show(sheet: Sheet) -> None:
    """Print a table. What can't be broken may be longer than the line."""
    stdout_console().print(sheet, crop=False)


def show_facts(title: str, pairs: Iterable[tuple[str, str]]) -> None:
    """A title, and under it a line for each pair with a value. No word is broken."""
    out = stdout_console()
    seen = [(label, visible(in_own_zone(value))) for label, value in pairs]
    for line in (visible(title), *labelled(seen, out.width)):
        out.print(Text(line), soft_wrap=True)


def say(words: str) -> None:
    """One line as it is: no markup, no colour, no break at the terminal's width."""
    stdout_console().print(printable(in_own_zone(words)), markup=False, highlight=False, soft_wrap=True)


def tell_more(page: Page, shown: int) -> None:
    """Say how to see the rest of a list that was not shown whole."""
    if page.total > shown:
        last = page.offset + shown
        say(f"{page.offset + 1} to {last} of {page.total}; --offset {last} for more")


def tell_limit(page: Page, shown: int) -> None:
    """The same of a list that has no ``--offset``."""
    if page.total > shown:
        say(f"{shown} of {page.total}; raise --limit to see more")


def told_empty(words: str, first: str, **filters: object) -> None:
    """Say that a list is empty and why.

    :param words: what it lists, such as ``migrations``. :param first: what to do before there is any.
    :param filters: option → value, as given.
    """
    asked = {f"--{name}": value for name, value in filters.items() if value}
    given = " ".join(option if value is True else f"{option} {value}" for option, value in asked.items())
    if given:
        say(f"No {words} match {given}. Without these options all are listed")
    else:
        say(f"No {words} yet. {first}")


def print_json(answer: Any) -> None:
    print(json.dumps(answer, indent=2))


# Times


def local_time(instant: datetime | None, *, up: bool = False) -> str:
    """For a sentence: ``2026-12-01 10:00 CET``, to the minute; nothing for none.

    :param up: rounded up: for a time before which something is refused.
    """
    times = Times()
    said = times.of(instant, up=up)
    return f"{said} {times.zones}" if said and not said.endswith(times.zones) else said


def in_own_zone(sentence: str) -> str:
    """A sentence of the server with its times in the user's zone: ``2026-12-01 10:00 UTC`` → ``… 11:00 CET``."""

    def local(found: re.Match[str]) -> str:
        try:
            told = datetime.fromisoformat(f"{found[1]}+00:00").astimezone()
        except (ValueError, OverflowError, OSError):
            return found[0]
        return f"{told.replace(tzinfo=None).isoformat(' ', 'seconds')[: len(found[1])]} {zone_of(told)}"

    return _UTC_MINUTE.sub(local, sentence)


class Times:
    """The times of one output. They name no zone; :meth:`tell` says it once, at the end.

    A time of the hour that comes twice, when the clocks are put back, has its zone beside it.
    """

    def __init__(self) -> None:
        self._zones: dict[str, None] = {}

    def of(self, instant: datetime | None, *, up: bool = False) -> str:
        """``2026-12-01 10:00`` in local time, to the minute; nothing for none.

        :param up: rounded up: for a time before which something is refused.
        """
        if instant is None:
            return ""
        local = (minute_up(instant) if up else instant).astimezone()
        self._zones[zone_of(local)] = None
        return f"{local:%Y-%m-%d %H:%M}{f' {zone_of(local)}' if _comes_twice(local) else ''}"

    def told(self, value: Any) -> Any:
        """``value`` as REST gives it, with every time in it as :meth:`of`."""
        if isinstance(value, dict):
            return {key: self.told(part) for key, part in value.items()}
        if isinstance(value, list):
            return [self.told(part) for part in value]
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            with suppress(ValueError):
                return self.of(datetime.fromisoformat(value))
        return value

    @property
    def zones(self) -> str:
        """Those of the times so far: winter and summer may have two."""
        return " or ".join(self._zones)

    def tell(self) -> None:
        """Say the zone, if there was a time."""
        if self._zones:
            say(f"Times in {self.zones}")


def _comes_twice(local: datetime) -> bool:
    readings = [local.replace(tzinfo=None, fold=fold).astimezone() for fold in (0, 1)]
    return readings[0].utcoffset() != readings[1].utcoffset()
