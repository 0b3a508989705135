"""The schemas in docs are those of the code, and the shipped demo wave is valid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import yaml
from tests.specs import HCX_ENVIRONMENT, HCX_WAVE, NETWORK

from wavelift.specs import check_file, load_resolved
from wavelift.specs.schema import DRAFT, KINDS, Kind, json_schema, schema_text, write_schemas

pytestmark = pytest.mark.unit
ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_in_docs_are_current(kind: Kind) -> None:
    kept = ROOT / "docs" / "schemas" / f"{kind}.schema.json"
    assert kept.read_text() == schema_text(kind), "run: python -m wavelift.specs.schema docs/schemas"
    schema = json_schema(kind)
    assert schema["$schema"] == DRAFT
    jsonschema.Draft202012Validator.check_schema(schema)


def test_every_field_tells_an_editor_what_it_is() -> None:
    for kind in KINDS:
        schema = json_schema(kind)
        for model in schema["$defs"].values():
            assert model["additionalProperties"] is False
            for name, field in model["properties"].items():
                target = schema["$defs"][field["$ref"].rsplit("/", 1)[1]] if "$ref" in field else field
                assert target.get("description"), f"{model['title']}.{name}"


def test_schemas_can_be_written(tmp_path: Path) -> None:
    write_schemas(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [
        f"{kind}.schema.json" for kind in ("environment", "network", "principals", "wave")
    ]


@pytest.mark.parametrize(
    "servers",
    [["web01"], [{"name": "web01"}], [{"path": "/DC0/vm/web01"}, {"folder": "/DC0/vm/shop", "verify": "sample:2.5"}]],
)
def test_the_wave_schema_accepts_what_the_loader_does(servers: list[Any]) -> None:
    wave = {"wave": "a", "source": {"connection": "v"}, "environment": "e", "servers": servers}
    jsonschema.validate(wave, json_schema("wave"), jsonschema.Draft202012Validator)


@pytest.mark.parametrize("server", [{}, {"name": "a", "path": "/b"}, {"name": "a", "subnett": "x"}, 3])
def test_the_wave_schema_refuses_what_the_loader_does(server: Any) -> None:
    wave = {"wave": "a", "source": {"connection": "v"}, "environment": "e", "servers": [server]}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(wave, json_schema("wave"), jsonschema.Draft202012Validator)


def test_the_demo_wave_is_valid() -> None:
    waves, environments = ROOT / "dags" / "waves", ROOT / "dags" / "environments"
    assert check_file(environments / "demo.yaml", environments) == ()
    assert check_file(waves / "demo.yaml", environments) == ()
    wave = load_resolved(waves / "demo.yaml", environments)
    assert [plan.server for plan in wave.servers] == ["web01", "db01", "win01"]
    assert (wave.connection, wave.environment.aws_conn_id) == ("vsphere_demo", "aws_demo")
    assert {plan.verify for plan in wave.servers} == {"full"}
    assert wave.servers[2].source_power == "require_off"
    for kind, path in (("wave", waves / "demo.yaml"), ("environment", environments / "demo.yaml")):
        jsonschema.validate(yaml.safe_load(path.read_text()), json_schema(kind), jsonschema.Draft202012Validator)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "text", "wrong"),
    [
        ("wave", HCX_WAVE, "replication: {}"),
        ("environment", HCX_ENVIRONMENT, "region: eu-central-1"),
        ("network", NETWORK, "wave: x"),
    ],
)
def test_an_editor_chooses_by_kind_and_method(kind: Kind, text: str, wrong: str) -> None:
    validate = jsonschema.Draft202012Validator(json_schema(kind))
    validate.validate(yaml.safe_load(text))
    with pytest.raises(jsonschema.ValidationError):
        validate.validate(yaml.safe_load(f"{text}{wrong}\n"))
