"""A problem in a spec, with its place. The pure rules return problems; ``specs`` adds file and line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

Path = tuple[str | int, ...]
MAX_LISTED = 12
"""How many allowed values a message lists. A longer list is cut so that the message stays readable."""


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
            text += f".{step}" if text else step
    return text


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``" (did you mean 'subnet'?)"``, or an empty string."""
    close = difflib.get_close_matches(wrong, list(known), n=1, cutoff=0.6)
    return f" (did you mean '{close[0]}'?)" if close else ""


def allowed(values: Iterable[str]) -> str:
    """``allowed: a, b, …``, or ``allowed: nothing`` for an empty list."""
    names = list(values)
    shown = ", ".join(names[:MAX_LISTED])
    more = f", … ({len(names)} in all)" if len(names) > MAX_LISTED else ""
    return f"allowed: {shown or 'nothing'}{more}"
