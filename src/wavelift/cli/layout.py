"""Tables and blocks that never break an id: its columns keep their width, and the others fold.

Where a table does not fit, each row becomes a block of lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from wavelift.base.printable import printable_lines

GAP: Final = "  "
"""Between two columns, and before each line of a block."""
NARROWEST: Final = 10
"""Columns that a folding column has at least, if its content is that long."""
LONGEST_WORD: Final = 24
"""A folding column breaks no shorter word."""
_WORD: Final = re.compile(r" *[^ ]+(?: (?:%|B|[KMGT]iB(?:/s)?|h|min|s)[,;)]*(?= |$))?")
"""A word with the spaces before it. A number and its unit are one word."""


def visible(text: str) -> str:
    """``text`` with control characters as escapes. Its lines stay lines."""
    return printable_lines(text.split("\n"))


def _words(line: str) -> list[str]:
    """Without the spaces at the end, which are no word: the expression would try each of them as a beginning."""
    return _WORD.findall(line.rstrip(" "))


def wrapped(text: str, width: int) -> list[str]:
    """``text`` in lines of ``width``, broken at spaces only: a longer word has a line of its own and is not broken."""
    lines = []
    for line in text.split("\n"):
        now = ""
        for word in _words(line):
            if now and cell_len(now + word) > width:
                lines.append(now)
                now = word.lstrip()
            else:
                now += word
        lines.append(now)
    return lines


def folded(text: str, width: int) -> list[str]:
    """As :func:`wrapped`, but a word that is longer than ``width`` is broken."""
    lines = []
    for line in wrapped(text, width):
        while cell_len(line) > width:
            most = min(len(line), max(1, width))  # a character takes a column, seldom two: never the whole line anew
            size = next(count for count in range(most, 0, -1) if count == 1 or cell_len(line[:count]) <= width)
            lines.append(line[:size])
            line = line[size:]
        lines.append(line)
    return lines


def labelled(pairs: Iterable[tuple[str, str]], width: int, *, indent: str = GAP) -> list[str]:
    """A line ``label  value`` for each pair with a value. Long values go on under the value; no word is broken."""
    told = [(label, value) for label, value in pairs if value]
    wide = max((cell_len(label) for label, _ in told), default=0)
    lines = []
    for label, value in told:
        room = max(1, width - len(indent) - wide - len(GAP))
        for number, part in enumerate(wrapped(value, room)):
            lines.append(f"{indent}{_padded(label if number == 0 else '', wide)}{GAP}{part}".rstrip())
    return lines


@dataclass
class Sheet:
    """Rows under columns; rich prints it as wide as its console.

    :param ids: the columns that hold ids or digests, which people copy: never folded.
    """

    columns: tuple[str, ...]
    ids: frozenset[str] = frozenset()
    title: str = ""
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, *cells: str) -> None:
        self.rows.append(tuple(map(visible, cells)))

    def lines(self, width: int) -> list[str]:
        """The sheet as it is printed on ``width`` columns."""
        widths = self._widths(width)
        body = self._blocks(width) if widths is None else self._grid(widths)
        return [visible(self.title), *body] if self.title else body

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in self.lines(options.max_width):
            yield Text(line, no_wrap=True, overflow="ignore")

    def _widths(self, width: int) -> list[int] | None:
        """Of each column; None: the table does not fit."""
        least, wanted = [], []
        for number, name in enumerate(self.columns):
            lines = [line for row in self.rows for line in row[number].split("\n")]
            longest = _widest(lines)
            words = _widest(word.lstrip() for line in lines for word in _words(line))
            need = longest if name in self.ids else min(longest, max(NARROWEST, min(words, LONGEST_WORD)))
            least.append(max(need, _widest(name.split())))
            wanted.append(max(longest, cell_len(name)))
        room = width - len(GAP) * (len(self.columns) - 1)
        if sum(least) > room:
            return None
        while sum(wanted) > room:
            most = max(range(len(wanted)), key=lambda number: (wanted[number] > least[number], wanted[number]))
            wanted[most] = max(least[most], wanted[most] - max(1, (sum(wanted) - room) // len(wanted)))
        return wanted

    def _grid(self, widths: Sequence[int]) -> list[str]:
        lines = _beside([wrapped(name, size) for name, size in zip(self.columns, widths, strict=True)], widths)
        lines.append("─" * (sum(widths) + len(GAP) * (len(widths) - 1)))
        for row in self.rows:
            lines += _beside([folded(cell, size) for cell, size in zip(row, widths, strict=True)], widths)
        return lines

    def _blocks(self, width: int) -> list[str]:
        lines: list[str] = []
        for row in self.rows:
            head, *others = row
            lines += head.split("\n")
            lines += labelled(zip(self.columns[1:], others, strict=True), width)
            lines.append("")
        return lines


def _beside(cells: Sequence[Sequence[str]], widths: Sequence[int]) -> list[str]:
    """The lines of one row."""
    tall = max(map(len, cells))
    return [
        GAP.join(
            _padded(cell[number] if number < len(cell) else "", size) for cell, size in zip(cells, widths, strict=True)
        ).rstrip()
        for number in range(tall)
    ]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)
