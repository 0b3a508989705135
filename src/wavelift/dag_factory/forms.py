"""The trigger form of a DAG: one Param per key of the flow's conf that has a title."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, Final

from airflow.sdk import Param

from wavelift.rules.conf import RunConf

SHOWN: Final = ("enum", "items", "title", "description", "format", "values_display")
"""The parts of a key's JSON schema that a form uses. Admission checks the rest."""


def form(conf: type[RunConf], *, servers: Sequence[str] = ()) -> dict[str, Param]:
    """:param servers: the names that the form offers."""
    offered: dict[str, dict[str, Any]] = {"servers": {"examples": list(servers)}}
    return {name: Param(default, **schema, **offered.get(name, {})) for name, default, schema in _fields(conf)}


@cache
def _fields(conf: type[RunConf]) -> tuple[tuple[str, Any, dict[str, Any]], ...]:
    properties = conf.model_json_schema()["properties"]
    return tuple(
        (name, field.default, _schema(properties[name])) for name, field in conf.model_fields.items() if field.title
    )


def _schema(told: dict[str, Any]) -> dict[str, Any]:
    """Convert ``X or null`` to the form that Airflow's page supports: one schema with two types."""
    kind = next((one for one in told.get("anyOf", ()) if one["type"] != "null"), told)
    types: Any = ["null", kind["type"]] if "anyOf" in told else kind["type"]
    return {"type": types, **{key: value for key, value in {**kind, **told}.items() if key in SHOWN}}
