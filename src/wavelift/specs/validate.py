"""Convert plain values into models, and pydantic's errors into readable problems."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, Final, TypeVar, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from wavelift.rules.fields import described
from wavelift.rules.problem import Path, Problem, allowed, did_you_mean

M = TypeVar("M", bound=BaseModel)

PLACEHOLDER: Final = "\x00"
"""Prefix of a placeholder name. It replaces a server entry with errors while the other entries are checked."""


def validated(model: type[M], value: dict[str, Any]) -> tuple[M | None, list[Problem], bool]:
    """The model, the problems, and whether the model is complete.

    A value with problems is validated again without the wrong parts. So one call finds syntax errors and errors of
    meaning. The model that it returns in this case is incomplete and only serves to find more problems.
    """
    try:
        return model.model_validate(value), [], True
    except ValidationError as error:
        problems = [_problem(model, detail) for detail in error.errors(include_url=False)]
    try:
        return model.model_validate(_without(value, [problem.path for problem in problems])), problems, False
    except ValidationError:
        return None, problems, False


def _without(value: dict[str, Any], paths: Iterable[Path]) -> Any:
    copy: dict[str, Any] = {key: list(item) if isinstance(item, list) else item for key, item in value.items()}
    for path in paths:
        key = str(path[0]) if path else ""
        step = path[1] if len(path) > 1 else None
        if key == "servers" and isinstance(step, int):
            copy[key][step] = {"name": f"{PLACEHOLDER}{step}"}
        elif isinstance(step, str) and isinstance(copy.get(key), dict):
            copy[key] = {name: item for name, item in copy[key].items() if name != step}
        else:
            copy.pop(key, None)
    return copy


def _problem(model: type[BaseModel], detail: ErrorDetails) -> Problem:
    path = tuple(step for step in detail["loc"] if step != "[key]")
    kind, given = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        return Problem(path, _unknown(model, path))
    if kind == "missing":
        field = _model_at(model, path[:-1]).model_fields[str(path[-1])]
        return Problem(path, f"is missing: {field.description or 'required'}")
    if kind == "value_error":
        return Problem(path, str(detail["ctx"]["error"]))
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return Problem(
            path,
            f"{described(given)} is not a valid value{did_you_mean(str(given), choices)}; {allowed(choices)}",
        )
    return Problem(path, _words(kind, given, detail["msg"]))


def _unknown(model: type[BaseModel], path: Path) -> str:
    name, here = str(path[-1]), _model_at(model, path[:-1])
    known = sorted(here.model_fields)
    for field, info in here.model_fields.items():
        inner = _model_in(info.annotation)
        direct = inner is info.annotation
        if inner is not None and direct and name in inner.model_fields:
            return f"unknown key '{name}': it belongs under '{field}'"
    return f"unknown key '{name}'{did_you_mean(name, known)}; {allowed(known)}"


_KINDS: Final = {
    "tuple_type": "must be a list ('- item' lines or '[a, b]')",
    "list_type": "must be a list ('- item' lines or '[a, b]')",
    "dict_type": "must be a mapping ('key: value' lines)",
    "mapping_type": "must be a mapping ('key: value' lines)",
    "model_type": "must be a mapping ('key: value' lines)",
}


def _words(kind: str, given: Any, message: str) -> str:
    if kind in _KINDS:
        return f"{_KINDS[kind]}, not {described(given)}"
    if kind == "string_type":
        return f"must be text, not {described(given)}"
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
