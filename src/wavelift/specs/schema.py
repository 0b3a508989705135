"""JSON Schemas of the spec files, for editors: ``docs/schemas/<kind>.schema.json``.

A folder has one schema. Where its files are of several kinds, the key that says so chooses what applies.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from wavelift.rules.environment import Environment
from wavelift.rules.hcx_environment import HcxEnvironment
from wavelift.rules.hcx_wave import HcxWave
from wavelift.rules.network import NetworkSpec
from wavelift.rules.principals import Principals
from wavelift.rules.wave import SELECTORS, Wave
from wavelift.specs.document import ANCHORS

Kind = Literal["wave", "environment", "network", "principals"]
MODELS: Final[dict[Kind, tuple[type[BaseModel], ...]]] = {
    "wave": (Wave, HcxWave),
    "environment": (Environment, HcxEnvironment),
    "network": (NetworkSpec,),
    "principals": (Principals,),
}
"""The model that applies by default, and that of the other kind."""
CHOSEN_BY: Final[dict[Kind, str]] = {"wave": "method", "environment": "kind"}
OTHER: Final = "hcx"
"""The value with which the other kind is chosen."""
SERVERS: Final = {"Server": tuple(SELECTORS), "LiveServer": ("name", "path")}
"""Class of a server -> what selects it, of which it has exactly one."""
KINDS: Final[tuple[Kind, ...]] = tuple(MODELS)
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: Kind) -> dict[str, Any]:
    """The schema of the files of one folder (draft 2020-12)."""
    models = MODELS[kind]
    _, made = models_json_schema([(model, "validation") for model in models])
    known: dict[str, Any] = made["$defs"]
    for model in models:
        schema = known[model.__name__]
        schema["patternProperties"] = {
            f"^{ANCHORS}": {"description": "Any content. It is not read; it only holds anchors."}
        }
        if kind == "wave":
            _server_forms(known, schema)
    head = {"$schema": DRAFT, "title": f"wavelift {kind}", "type": "object"}
    return {**head, **_applies(models, CHOSEN_BY.get(kind, "")), "$defs": known}


def _applies(models: tuple[type[BaseModel], ...], key: str) -> dict[str, Any]:
    first, *others = ({"$ref": f"#/$defs/{model.__name__}"} for model in models)
    if not others:
        return first
    return {"if": {"properties": {key: {"const": OTHER}}, "required": [key]}, "then": others[0], "else": first}


def _server_forms(known: dict[str, Any], wave: dict[str, Any]) -> None:
    """Add the rules that the models check in code: a server may be a text, and has exactly one selector."""
    servers = wave["properties"]["servers"]
    name = servers["items"]["$ref"].rsplit("/", 1)[1]
    known[name]["oneOf"] = [{"required": [kind]} for kind in SERVERS[name]]
    servers["items"] = {"anyOf": [{"type": "string", "description": "Name of one VM."}, servers["items"]]}


def schema_text(kind: Kind) -> str:
    return json.dumps(json_schema(kind), indent=2) + "\n"


def write_schemas(folder: Path) -> None:
    """Write all schemas. ``python -m wavelift.specs.schema docs/schemas`` updates those of the repository."""
    folder.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        (folder / f"{kind}.schema.json").write_text(schema_text(kind))


if __name__ == "__main__":
    import sys

    write_schemas(Path(sys.argv[1]))
