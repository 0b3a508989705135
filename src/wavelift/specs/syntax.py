"""Explain a YAML syntax error in plain words: what is wrong, and on which line a person must change it.

The parser names the place where it could not go on. The mistake is often before that place: a quote or a bracket that
is not closed, a missing colon, a wrong indentation. Each rule of ``_RULES`` recognizes one such mistake.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, Final

import yaml

from wavelift.rules.problem import quoted

MAX_TOKENS: Final = 60_000
"""Tokens that are read again to find an open quote: those of the largest allowed file, three for each value."""
MAX_ROWS: Final = 20_000
"""Lines above the error whose indentation is looked at."""
_KEY_ENDS: Final = re.compile(r"[:#]")
_NO_SPACE: Final = re.compile(r" *(?:- +)*(?P<key>[A-Za-z_][\w.-]*):(?!//)(?P<value>[^\s:].*)")
_NO_SPACE_AFTER_DASH: Final = re.compile(r" *-(?P<value>[^\s-].*)")


@dataclass(frozen=True, slots=True)
class Mistake:
    """A message with its place. Line and column count from 0."""

    line: int
    column: int
    message: str


@dataclass(frozen=True, slots=True)
class _Row:
    """The beginnings in one line: ``  - name: x`` has ``-`` in column 2 and ``name`` in column 4."""

    line: int
    dashes: tuple[int, ...]
    column: int
    """Column of what follows the dashes."""
    label: str
    is_key: bool

    @property
    def start(self) -> int:
        return self.dashes[0] if self.dashes else self.column


@dataclass(frozen=True)
class _Scene:
    """The error of the parser and the text around it."""

    error: yaml.MarkedYAMLError
    text: str
    loader: Any

    @cached_property
    def lines(self) -> list[str]:
        return self.text.splitlines() or [""]

    @property
    def problem(self) -> str:
        return self.error.problem or "syntax error"

    @cached_property
    def place(self) -> tuple[int, int]:
        return self.within(self.error.problem_mark or self.error.context_mark)

    @property
    def line(self) -> str:
        return self.lines[self.place[0]]

    @property
    def first_on_its_line(self) -> bool:
        return not self.line[: self.place[1]].strip()

    def within(self, mark: Any) -> tuple[int, int]:
        """Line and column of a mark. The end of the file is the end of its last line that is not empty."""
        if mark is None:
            return 0, 0
        if mark.line < len(self.lines):
            return mark.line, min(mark.column, len(self.lines[mark.line]))
        last = next((index for index in reversed(range(len(self.lines))) if self.lines[index].strip()), 0)
        return last, len(self.lines[last])

    def at(self, place: tuple[int, int], message: str) -> Mistake:
        return Mistake(*place, message)

    @cached_property
    def context(self) -> tuple[int, int] | None:
        return self.within(self.error.context_mark) if self.error.context_mark else None

    def begins_with(self, chars: str) -> bool:
        """Whether what the parser was reading begins with one of these characters."""
        line, column = self.context or (0, 0)
        return self.lines[line][column : column + 1] in tuple(chars)

    @cached_property
    def last_quoted(self) -> Any:
        """The last token before the error, if it is a text in quotes."""
        last = None
        mark = self.error.problem_mark
        try:
            for token in islice(yaml.scan(self.text, Loader=self.loader), MAX_TOKENS):
                if mark is not None and (token.start_mark.line, token.start_mark.column) >= (mark.line, mark.column):
                    break
                if not isinstance(token, yaml.KeyToken | yaml.BlockEndToken):
                    last = token
        except yaml.YAMLError:
            pass
        return last if isinstance(last, yaml.ScalarToken) and last.style in ("'", '"') else None

    @cached_property
    def row(self) -> _Row:
        return _row(self.place[0], self.line)

    @cached_property
    def rows(self) -> list[_Row]:
        """The lines with content before the error."""
        number = self.place[0]
        first = max(0, number - MAX_ROWS)
        return [
            _row(index, line)
            for index, line in enumerate(self.lines[first:number], first)
            if line.strip() and not line.lstrip().startswith("#")
        ]


def explained(error: yaml.MarkedYAMLError, text: str, loader: Any) -> Mistake:
    """What a person must change.

    :param loader: the class that raised the error.
    """
    scene = _Scene(error, text, loader)
    for rule in _RULES:
        if (found := rule(scene)) is not None:
            return found
    context = f" ({error.context})" if error.context else ""
    return scene.at(scene.place, f"not YAML: {scene.problem}{context}")


def _tab(scene: _Scene) -> Mistake | None:
    line, column = scene.place
    lead = scene.line[: len(scene.line) - len(scene.line.lstrip())]
    if "\t" not in lead and "\\t" not in scene.problem and "tab" not in scene.problem:
        return None
    tab = scene.line.find("\t")
    return Mistake(line, column if tab < 0 else tab, "a tab is used where YAML requires spaces; indent with spaces")


def _second_document(scene: _Scene) -> Mistake | None:
    if "but found another document" not in scene.problem and not scene.line.startswith(("---", "...")):
        return None
    return scene.at(scene.place, "a second document ('---') begins here; write one spec per file")


def _open_quote(scene: _Scene) -> Mistake | None:
    """A quote that is not closed ends at the end of the file, or where the next text in quotes begins."""
    message = "the quote that begins here is not closed"
    if scene.context and "quoted scalar" in (scene.error.context or "") and "end of stream" in scene.problem:
        return scene.at(scene.context, message)
    if scene.context and "expected ':'" in scene.problem and scene.begins_with("'\""):
        return scene.at(scene.context, f"{message} on its line")
    if scene.first_on_its_line or "expected" not in scene.problem:
        return None
    token = scene.last_quoted
    if token is None:
        return None
    if token.start_mark.line != token.end_mark.line:
        return scene.at(scene.within(token.start_mark), f"{message} on its line")
    if token.end_mark.line == scene.place[0]:
        return scene.at(scene.place, "text follows a closing quote; put the whole value into the quotes")
    return None


def _brackets(scene: _Scene) -> Mistake | None:
    if scene.line[scene.place[1] :].startswith(("]", "}")):
        return scene.at(scene.place, f"{quoted(scene.line[scene.place[1]])} closes nothing; remove it")
    if "flow node" in (scene.error.context or ""):
        return scene.at(scene.place, "a '[' or '{' is not closed before this place, or a value is missing")
    found = re.search(r"expected ',' or '([\]}])'", scene.problem)
    if scene.context is None or not (found or ("expected ':'" in scene.problem and scene.begins_with("[{"))):
        return None
    opening = scene.lines[scene.context[0]][scene.context[1]]
    closing = "]" if opening == "[" else "}"
    if scene.context[0] == scene.place[0] and scene.line[scene.place[1] :].strip():
        return scene.at(scene.place, f"a ',' or '{closing}' is missing here")
    return scene.at(scene.context, f"the '{opening}' is not closed: '{closing}' is missing, or a ',' between values")


def _colon(scene: _Scene) -> Mistake | None:
    """No colon, or no space after it. The parser notices on the next line."""
    simple = "could not find expected ':'" in scene.problem
    if not simple and "mapping values are not allowed" not in scene.problem:
        return None
    if simple and scene.context:
        number = scene.context[0]
    elif scene.rows and not _second_colon(scene):
        number = scene.rows[-1].line
    else:
        return None
    line = scene.lines[number]
    column = len(line) - len(line.lstrip())
    if found := _NO_SPACE.fullmatch(line):
        right = quoted(f"{found['key']}: {found['value'].strip()}")
        return Mistake(number, found.start("value"), f"a space is missing after the colon: write {right}")
    if found := _NO_SPACE_AFTER_DASH.fullmatch(line):
        right = quoted(f"- {found['value'].strip()}")
        return Mistake(number, found.start("value"), f"a space is missing after the '-': write {right}")
    row = _row(number, line)
    if row.is_key or (row.dashes and not simple):
        return None
    return Mistake(number, column, f"a colon is missing after {quoted(row.label)}: write 'key: value'")


def _indentation(scene: _Scene) -> Mistake | None:
    """A line begins in a column where nothing above begins."""
    wanted = ("expected key", "expected '-' indicator", "expected <document start>", "<block end>")
    values = "mapping values are not allowed" in scene.problem and not _second_colon(scene)
    items = "entries are not allowed" in scene.problem and scene.first_on_its_line
    if not values and not items and not (scene.first_on_its_line and any(one in scene.problem for one in wanted)):
        return None
    row = scene.row
    near = _nearest(row, _open(scene.rows))
    if near is None:
        return None
    line, column, label = near
    name = "-" if row.dashes else row.label
    away = row.start - column
    if away == 0:
        if not row.dashes:
            return None
        return Mistake(
            row.line, row.start, f"a list item ('- ') stands beside the key {quoted(label)} of line {line + 1}"
        )
    spaces = f"{abs(away)} space{'' if abs(away) == 1 else 's'} further {'right' if away > 0 else 'left'}"
    return Mistake(
        row.line,
        row.start,
        f"the indentation is wrong: {quoted(name)} is {spaces} than {quoted(label)} on line {line + 1}; what belongs "
        "together begins in the same column",
    )


def _value(scene: _Scene) -> Mistake | None:
    """A value that needs quotes, or a line of its own."""
    if "mapping values are not allowed" in scene.problem:
        return scene.at(scene.place, "a second ': ' in one line; put a text that contains ': ' into quotes")
    if "entries are not allowed" in scene.problem:
        return scene.at(scene.place, "a list item ('- ') must begin on a line of its own")
    if "undefined alias" in scene.problem:
        return scene.at(scene.place, f"not YAML: {scene.problem}; define the anchor with '&name' above its use")
    if "cannot start any token" in scene.problem:
        char = quoted(scene.line[scene.place[1] : scene.place[1] + 1])
        return scene.at(scene.place, f"a text can't begin with {char}; put it into quotes")
    if "alphabetic or numeric" in scene.problem and scene.context:
        char = quoted(scene.lines[scene.context[0]][scene.context[1] : scene.context[1] + 1])
        return scene.at(scene.context, f"a text can't begin with {char}; put it into quotes")
    if "unknown escape character" in scene.problem:
        return scene.at(scene.place, "'\\' begins an escape in double quotes; write '\\\\', or use single quotes")
    if "unexpected ':'" in scene.problem:
        return scene.at(scene.place, "a ':' without a value; write 'key: value', or put the text into quotes")
    if "expected key" in scene.problem:
        return scene.at(scene.place, "a key is expected here; write 'key: value'")
    return None


_RULES: Final[tuple[Callable[[_Scene], Mistake | None], ...]] = (
    _tab,
    _second_document,
    _open_quote,
    _brackets,
    _colon,
    _indentation,
    _value,
)


def _row(number: int, line: str) -> _Row:
    dashes = []
    at = len(line) - len(line.lstrip(" "))
    while line[at : at + 2] in ("- ", "-"):
        dashes.append(at)
        at += 1
        while line[at : at + 1] == " ":
            at += 1
    rest = line[at:].strip()
    # No expression with two repetitions here: in a line of 500 KiB of spaces, each would be tried with each.
    end = _KEY_ENDS.search(rest)
    is_key = end is not None and end.start() > 0 and re.match(": |:$", rest[end.start() :]) is not None
    return _Row(number, tuple(dashes), at, rest[: end.start()].rstrip(" ") if is_key and end else rest, is_key)


def _second_colon(scene: _Scene) -> bool:
    """Whether the ':' at the error is not the first one of its line."""
    number, column = scene.place
    return _row(number, scene.line[:column].rstrip()).is_key


_Begin = tuple[int, int, str]
"""Line, column and name of what begins there."""


def _open(rows: list[_Row]) -> list[_Begin]:
    """The keys and list items that are still open after these lines, the outermost first."""
    stack: list[_Begin] = []
    for row in rows:
        begins: list[_Begin] = [(row.line, column, "-") for column in row.dashes]
        if row.is_key:
            begins.append((row.line, row.column, row.label))
        for begin in begins:
            while stack and (stack[-1][1] > begin[1] or (stack[-1][1] == begin[1] and stack[-1][2] == "-")):
                stack.pop()
            while stack and stack[-1][1] == begin[1] and begin[2] != "-":
                stack.pop()
            stack.append(begin)
    return stack


def _nearest(row: _Row, begins: list[_Begin]) -> _Begin | None:
    """The open key (for a list item: the open list item) whose column is nearest; the innermost of two."""
    alike = [one for one in begins if (one[2] == "-") == bool(row.dashes)] or begins
    return min(reversed(alike), key=lambda one: abs(one[1] - row.start), default=None)
