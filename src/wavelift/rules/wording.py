"""Convert pydantic's errors into readable messages: key, value and what is allowed.

Specs, the conf of a run and REST use the same messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from wavelift.rules.fields import described
from wavelift.rules.problem import MAX_PROBLEMS, Path, Problem, allowed, did_you_mean, quoted

_KINDS: Final = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "bool_type": "true or false",
    "string_type": "text",
}
"""pydantic's type of an error → what the value must be."""


def problems_of(model: type[BaseModel] | None, error: ValidationError, hints: Mapping[str, str] = {}) -> list[Problem]:
    """The problems of one validation, as :func:`problem_of`: at most one more than ``MAX_PROBLEMS``."""
    return [problem_of(model, detail, hints) for detail in error.errors(include_url=False)[: MAX_PROBLEMS + 1]]


def problem_of(model: type[BaseModel] | None, detail: ErrorDetails, hints: Mapping[str, str] = {}) -> Problem:
    """The problem for one pydantic error, with its place in the value.

    :param model: the model that validated the value. None: unknown; then no key is suggested.
    :param hints: how to write ``a list`` or ``a mapping`` in the format of the value.
    """
    path = tuple(step for step in detail["loc"] if step != "[key]")
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return Problem(path, unknown_key(str(path[-1])) if model is None else _unknown(model, path))
    if kind == "missing":
        needed = None if model is None else _model_at(model, path[:-1]).model_fields[str(path[-1])].description
        return Problem(path, f"is missing: {needed or 'required'}")
    if kind == "value_error":
        return Problem(path, str(detail["ctx"]["error"]))
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return Problem(
            path,
            f"{described(given)} is not a valid value{did_you_mean(given, choices) if isinstance(given, str) else ''}; "
            f"{allowed(choices)}",
        )
    return Problem(path, _words(kind, given, detail["msg"], hints))


def unknown_key(name: str, known: Iterable[str] | None = None) -> str:
    """:param known: the allowed keys, if they are known."""
    if known is None:
        return f"unknown key {quoted(name)}"
    names = list(known)
    return f"unknown key {quoted(name)}{did_you_mean(name, names)}; {allowed(names)}"


def _unknown(model: type[BaseModel], path: Path) -> str:
    name, here = str(path[-1]), _model_at(model, path[:-1])
    for field, info in here.model_fields.items():
        inner = _model_in(info.annotation)
        direct = inner is info.annotation
        if inner is not None and direct and name in inner.model_fields:
            return f"unknown key '{name}': it belongs under '{field}'"
    return unknown_key(name, sorted(here.model_fields))


def _words(kind: str, given: Any, message: str, hints: Mapping[str, str]) -> str:
    if kind in _KINDS:
        wanted = _KINDS[kind]
        hint = f" ({hints[wanted]})" if wanted in hints else ""
        quotes = "; put it in quotes" if kind == "string_type" and isinstance(given, bool | int | float) else ""
        return f"must be {wanted}{hint}, not {described(given)}{quotes}"
    if kind == "too_short":
        return "must not be empty"
    text = message.replace("Input should be", "must be").replace("Value should have", "must have")
    return f"{text[0].lower()}{text[1:]}, not {described(given)}"


def _model_at(model: type[BaseModel], path: Path) -> type[BaseModel]:
    for step in path:
        if isinstance(step, str):
            model = _model_in(model.model_fields[step].annotation) or model
    return model


def _model_in(annotation: Any) -> type[BaseModel] | None:
    """The model inside ``X``, ``X | None`` or ``tuple[X, ...]``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
