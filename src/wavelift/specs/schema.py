"""JSON Schemas of the spec files, for editors: ``docs/schemas/<kind>.schema.json``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel

from wavelift.rules.environment import Environment
from wavelift.rules.principals import Principals
from wavelift.rules.wave import SELECTORS, Wave
from wavelift.specs.document import ANCHORS

Kind = Literal["wave", "environment", "principals"]
MODELS: Final[dict[Kind, type[BaseModel]]] = {"wave": Wave, "environment": Environment, "principals": Principals}
KINDS: Final[tuple[Kind, ...]] = tuple(MODELS)
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"


def json_schema(kind: Kind) -> dict[str, Any]:
    """The schema of one kind of file (draft 2020-12)."""
    schema = {"$schema": DRAFT, **MODELS[kind].model_json_schema(), "title": f"wavelift {kind}"}
    schema["patternProperties"] = {
        f"^{ANCHORS}": {"description": "Any content. It is not read; it only holds anchors."}
    }
    if kind == "wave":
        _server_forms(schema["$defs"]["Server"])
        schema["properties"]["servers"]["items"] = {
            "anyOf": [{"type": "string", "description": "Name of one VM."}, {"$ref": "#/$defs/Server"}]
        }
    return schema


def _server_forms(server: dict[str, Any]) -> None:
    """Add the rule that the model checks in code: exactly one selector."""
    server["oneOf"] = [{"required": [kind]} for kind in SELECTORS]


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
