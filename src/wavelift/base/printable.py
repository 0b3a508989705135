"""Makes texts from outside fit to be printed: in logs, errors, tables and pages.

Names of VMs, messages of vCenter and answers of AWS may hold any character. A line break would forge a line of a log,
an escape sequence would steer the terminal, and a change of direction would show another text than the one that is
there.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

LONGEST: Final = 4000
"""Characters of one text. Longer ones are cut."""
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls, invisible formats (changes of direction too), surrogates and line breaks."""

_LOGIN: Final = re.compile(r"(?<=//)(?!\[)[^\s/'\"]*@")
_BARE_LOGIN: Final = re.compile(r"[^\s/'\"]*:[^\s'\"]*@")
HIDDEN: Final = "***@"


class Lines(str):
    """Several lines that wavelift composed: each is printable, and the line breaks are its own."""

    __slots__ = ()


def printable(text: object, most: int = LONGEST) -> str:
    """``text`` in one line: what is no visible character is written as its escape, such as ``\\n`` or ``\\x1b``.

    :class:`Lines` pass unchanged.

    :param most: characters; the end of a longer text is replaced by ``…``.
    """
    if isinstance(text, Lines):
        return text
    plain = str(text)
    if len(plain) > most:
        plain = f"{plain[: most - 1]}…"
    if plain.isprintable():
        return plain
    return "".join(_escaped(char) if unicodedata.category(char) in _HIDDEN else char for char in plain)


def without_login(text: str, *, bare: bool = False) -> str:
    """``text`` with ``https://***@host`` for each address with a login. People paste those into every field.

    :param bare: the text is an address, or quotes one that may lack its ``https://``: ``user:password@host`` counts.
    """
    if "@" not in text or isinstance(text, Lines):
        return text
    found = _LOGIN.sub(HIDDEN, text)
    return _BARE_LOGIN.sub(HIDDEN, found) if bare else found


def printable_lines(parts: Iterable[object]) -> Lines:
    """One line for each part."""
    return Lines("\n".join(printable(part) for part in parts))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
