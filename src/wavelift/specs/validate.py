"""Convert the plain values of a YAML file into models, and validation errors into readable problems."""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from wavelift.rules.problem import Path, Problem
from wavelift.rules.wording import problems_of

M = TypeVar("M", bound=BaseModel)

PLACEHOLDER: Final = secrets.token_hex(16)
"""Prefix of a placeholder name. It replaces a server entry with errors while the other entries are checked. No file can
guess it: problems of such a name are not reported."""
YAML: Final = {"a list": "'- item' lines or '[a, b]'", "a mapping": "'key: value' lines"}


def validated(model: type[M], value: dict[str, Any]) -> tuple[M | None, list[Problem], bool]:
    """The model, the problems, and whether the model is complete.

    A value with problems is validated again without the wrong parts. So one call finds syntax errors and errors of
    meaning. The model that it returns in this case is incomplete and only serves to find more problems.
    """
    try:
        return model.model_validate(value), [], True
    except ValidationError as error:
        problems = problems_of(model, error, YAML)
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
