"""Settings that a test can change while the simulator runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True)
class Settings:
    """The settings of every simulator. A simulator adds its own in a subclass, each field with a default."""

    evidence: bool = True
    """Whether to keep copies for a checker (:mod:`.evidence`)."""
    other_words: bool = False
    """Say other invented words (:mod:`.invented`)."""

    def update(self, values: Mapping[str, Any]) -> None:
        """Set fields by name. Raises ValueError for an unknown name or a value of the wrong type."""
        kinds = {field.name: type(getattr(self, field.name)) for field in dataclasses.fields(self)}
        for name, value in values.items():
            if name not in kinds:
                raise ValueError(f"no setting {name!r}; there are: {', '.join(sorted(kinds))}")
            setattr(self, name, _coerce(kinds[name], value))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def _coerce(kind: type, value: Any) -> Any:
    if kind is bool and isinstance(value, str):
        return value.lower() in {"1", "true", "yes", "on"}
    return kind(value)
