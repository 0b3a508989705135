"""Checks of texts from outside before they become a part of something that a program reads: a request, a command line.

A vCenter or a host that is not what it seems may send any text as a ticket, a cookie, a URL or a name. A line break in
the head of a request would begin another header, or another request in our name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from wavelift.base.errors import UnsafeTextError
from wavelift.base.printable import printable

_SHOWN: Final = 60
"""Characters of a refused text that the error shows."""
_TARGET: Final = re.compile(r"/[!-~]*")
_HEADER: Final = re.compile(r"[!-~]([ -~]*[!-~])?|")
_HOST: Final = re.compile(
    r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,251}[A-Za-z0-9_])?\.?|\[?[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]+)?\]?"
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


def header_value(text: str, what: str) -> str:
    """``text`` as the value of a header: visible ASCII characters, with spaces between them.

    :param what: what the text is, for the error, which does not show the text: many headers are secrets.
    :raises UnsafeTextError: it has other characters.
    """
    if _HEADER.fullmatch(text) is None:
        raise UnsafeTextError(f"{what} has characters that a header of a request must not have", next_step=_LOOK)
    return text


def request_head(method: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The head of an HTTP/1.1 request, with the empty line at its end.

    :param target: path and query.
    :raises UnsafeTextError: target or header has characters that could begin another line.
    """
    lines = "".join(f"{name}: {header_value(value, f'the value of {name}')}\r\n" for name, value in headers.items())
    return f"{method} {request_target(target, 'the path')} HTTP/1.1\r\n{lines}\r\n".encode("ascii")


def request_target(text: str, what: str) -> str:
    """``text`` as the path and query of a request: it begins with ``/`` and has visible ASCII characters only.

    :raises UnsafeTextError: it has other characters.
    """
    return _checked(text, _TARGET, what, "the address of a request")


def host_name(text: str, what: str) -> str:
    """``text`` as the name or address of a machine.

    :raises UnsafeTextError: it is neither.
    """
    return _checked(text, _HOST, what, "the name of a machine")


def parameter(text: str, what: str) -> str:
    """``text`` as one argument of a command.

    :raises UnsafeTextError: it has control characters.
    """
    if _CONTROL.search(text):
        raise _unsafe(text, what, "an argument of a command")
    return text


def _checked(text: str, pattern: re.Pattern[str], what: str, place: str) -> str:
    if pattern.fullmatch(text) is None:
        raise _unsafe(text, what, place)
    return text


_LOOK: Final = "Nothing was sent. Find out who sets this text: it may be an attack"


def _unsafe(text: str, what: str, place: str) -> UnsafeTextError:
    return UnsafeTextError(f"{what} cannot be a part of {place}: '{printable(text, _SHOWN)}'", next_step=_LOOK)
