"""Values that a URL or a JSON body can hold, but neither the ledger nor an answer of ours can."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from fastapi import HTTPException, Request

LARGEST: Final = 2**63 - 1
"""The largest whole number of a database."""
_UNSTORABLE: Final = re.compile("[\0\ud800-\udfff]")
"""PostgreSQL refuses NUL; half a surrogate pair has no encoding in UTF-8."""


async def storable_values(request: Request) -> None:
    """A dependency of every route.

    :raises HTTPException: 422, when the request has such a value.
    """
    for place, value in _given(request, await _body_of(request)):
        if wrong := _fault(value):
            raise HTTPException(422, f"The {place} has {wrong}")


async def _body_of(request: Request) -> Any:
    """None for what is no JSON: the route refuses that by itself, or does not look at it."""
    try:
        return await request.json()
    except (ValueError, RecursionError):
        return None


def _given(request: Request, body: Any) -> Iterator[tuple[str, Any]]:
    for one in request.path_params.values():
        yield "path", one
    for pair in request.query_params.multi_items():
        for text in pair:
            yield "query", text
    rest = [body]
    while rest:
        one = rest.pop()
        if isinstance(one, dict):
            rest += [*one, *one.values()]
        elif isinstance(one, list):
            rest += one
        else:
            yield "body", one


def _fault(value: Any) -> str:
    if isinstance(value, str):
        return "a character that cannot be stored (NUL or half a surrogate pair)" if _UNSTORABLE.search(value) else ""
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite (NaN or Infinity)"
    if isinstance(value, int) and not -LARGEST - 1 <= value <= LARGEST:
        return "a whole number of more than 64 bits"
    return ""
