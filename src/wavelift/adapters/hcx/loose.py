"""Reads HCX's answers, whose fields may be absent and whose types vary. What cannot be read is *not known* (None)."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wavelift.base.printable import printable

TEXT_LONGEST: Final = 500
"""Characters of one message."""
MESSAGES_MOST: Final = 20
"""Messages of one kind that are kept."""
_YES: Final = frozenset({"true", "yes"})
_NO: Final = frozenset({"false", "no"})
_LARGEST: Final = 1 << 63


def record(value: Any) -> Mapping[str, Any]:
    """``value`` if it is an object, or a text with one (the schema types some objects as text); otherwise empty."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {}
    return value if isinstance(value, Mapping) else {}


def records(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list."""
    return [one for one in value if isinstance(one, Mapping)] if isinstance(value, list) else []


def text(value: Any, most: int = TEXT_LONGEST) -> str:
    """A printable text; empty if ``value`` is neither text nor number."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return ""
    return printable(value, most).strip()


def word(value: Any) -> str:
    """The name of a state, in capitals."""
    return text(value, 100).upper() if isinstance(value, str) else ""


def number(value: Any) -> float | None:
    """A finite number, also one that is written as a text."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if not isinstance(value, int | float) or abs(value) >= _LARGEST or not math.isfinite(value):
        return None
    return float(value)


def whole(value: Any) -> int | None:
    found = number(value)
    return None if found is None else int(found)


def flag(value: Any) -> bool | None:
    """A boolean, or a count of which 0 means no. None: not known, which is not the same as no."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and (plain := value.strip().lower()) in _YES | _NO:
        return plain in _YES
    found = number(value)
    return None if found is None else found > 0


def messages(values: Any) -> tuple[str, ...]:
    """The texts of ``[{"code": …, "message": …}]`` or ``["…"]``, each once, without empty ones."""
    found = (_message(one) for one in values) if isinstance(values, list) else ()
    return once(found)


def once(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one for one in values if one))[:MESSAGES_MOST]


def _message(value: Any) -> str:
    if not isinstance(value, Mapping):
        return text(value)
    said = text(value.get("message")) or text(value.get("errorMessage"))
    code = text(value.get("code"), 100)
    return f"{said} ({code})" if said and code and code not in said else said or code
