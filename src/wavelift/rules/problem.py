"""A problem in a spec, with its place. The pure rules return problems; ``specs`` adds file and line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from wavelift.base.printable import Lines, printable, printable_lines

Path = tuple[str | int, ...]
MAX_LISTED = 12
"""How many allowed values a message lists. A longer list is cut so that the message stays readable."""
MAX_PROBLEMS = 100
"""How many problems of one file, conf or request are listed. More would help nobody, and cost memory."""
MAX_QUOTED = 120
"""How many characters of a value a message quotes."""
MAX_SUGGESTED = 60
"""A longer name than any that is known. Nothing is suggested for it."""


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong, and where: keys and indices such as ``("servers", 2, "subnet")``."""

    path: Path
    message: str


def dotted(path: Path) -> str:
    """``("servers", 2, "subnet")`` → ``servers[2].subnet``."""
    text = ""
    for step in path:
        if isinstance(step, int):
            text += f"[{step}]"
        else:
            text += f".{clipped(step)}" if text else clipped(step)
    return text


def lines_of(problems: Iterable[Problem]) -> Lines:
    """One line for each problem, without its file: ``servers[2].subnet: …``."""
    return printable_lines(f"{dotted(problem.path)}: {problem.message}" for problem in problems)


def clipped(text: str, limit: int = MAX_QUOTED) -> str:
    """A text from outside, for a message: of limited length, in one line, without control characters."""
    short = text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
    return printable(short)


def quoted(value: str) -> str:
    """``'value'`` for a message, as :func:`clipped`."""
    return f"'{clipped(value)}'"


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``" (did you mean 'subnet'?)"``, or an empty string."""
    if len(wrong) > MAX_SUGGESTED:
        return ""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" (did you mean {quoted(close[0])}?)" if close else ""


def allowed(values: Iterable[str]) -> str:
    """``allowed: a, b, …``, or ``allowed: nothing`` for an empty list."""
    names = list(values)
    shown = ", ".join(map(clipped, names[:MAX_LISTED]))
    more = f", … ({len(names)} in all)" if len(names) > MAX_LISTED else ""
    return f"allowed: {shown or 'nothing'}{more}"
