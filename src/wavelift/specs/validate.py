"""Plain values of a YAML file → models and problems in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from wavelift.rules.problem import Path, Problem
from wavelift.rules.wording import problem_of

M = TypeVar("M", bound=BaseModel)

PLACEHOLDER: Final = "\x00"
"""Begins the name that stands in for a server whose entry is wrong, while the rest is checked."""
YAML: Final = {"a list": "'- item' lines or '[a, b]'", "a mapping": "'key: value' lines"}


def validated(model: type[M], value: dict[str, Any]) -> tuple[M | None, list[Problem], bool]:
    """The model, the problems, and whether the model is whole.

    A value with problems is checked again without what is wrong, so that one pass finds the errors of form and
    those of meaning; what comes back then is only good for finding more.
    """
    try:
        return model.model_validate(value), [], True
    except ValidationError as error:
        problems = [problem_of(model, detail, YAML) for detail in error.errors(include_url=False)]
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
