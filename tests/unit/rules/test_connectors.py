"""No DAG id may be claimed by two things."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from wavelift.console.requests import ConnectorBody, ImportBody
from wavelift.rules.connectors import CONNECTOR_DAGS, WAVE_ENDINGS, connector_of, dag_id_of
from wavelift.rules.environment import AllowedSource
from wavelift.rules.flows import FLOWS
from wavelift.rules.wave import Source

pytestmark = pytest.mark.unit

NAMED: tuple[tuple[type[BaseModel], str, dict[str, Any]], ...] = (
    (Source, "connector", {"connection": "vc"}),
    (AllowedSource, "connectors", {"connection": "vc"}),
    (ConnectorBody, "name", {"connection": "vc"}),
    (ImportBody, "connector", {}),
)


def test_every_flow_s_ending_is_reserved() -> None:
    assert {flow.suffix for flow in FLOWS} <= {f".{ending}" for ending in WAVE_ENDINGS}


@pytest.mark.parametrize(("model", "key", "more"), NAMED)
@pytest.mark.parametrize("ending", WAVE_ENDINGS)
def test_a_connector_can_t_have_the_dags_of_a_wave(
    model: type[BaseModel], key: str, more: dict[str, Any], ending: str
) -> None:
    for name in (ending, f"dc1.{ending}"):
        with pytest.raises(ValidationError, match="would be a DAG of a wave; choose a name whose last part is none of"):
            model.model_validate({key: [name] if key == "connectors" else name, **more})


@pytest.mark.parametrize(("model", "key", "more"), NAMED)
def test_a_connector_s_name_fits_a_dag_id_a_queue_and_a_tag(
    model: type[BaseModel], key: str, more: dict[str, Any]
) -> None:
    for name in ("", "a b", "a,b", "a/b", ".a", "-a", "a\n", "ä", "a" * 81, "**a**"):
        with pytest.raises(ValidationError, match="is not the name of a connector"):
            model.model_validate({key: [name] if key == "connectors" else name, **more})
    for name in ("default", "dc1", "DC-1.hall_a", "a" * 80, "migrate2", "migrate.dc1"):
        model.model_validate({key: [name] if key == "connectors" else name, **more})


@pytest.mark.parametrize("name", CONNECTOR_DAGS)
def test_a_wave_can_t_have_the_dags_of_a_connector(wave: Any, name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is reserved: the DAGs '{name}.<connector>' belong to"):
        wave(wave=name)


def test_a_wave_can_t_have_the_dags_of_an_environment_s_exports(wave: Any) -> None:
    """Its DAG ``instance_export.migrate`` would be that of an environment ``migrate``."""
    words = r"'instance_export' is reserved: the DAGs 'instance_export\.<environment>' belong to environments"
    with pytest.raises(ValidationError, match=words):
        wave(wave="instance_export")


def test_ids_and_connectors_match() -> None:
    for kind in CONNECTOR_DAGS:
        for connector in ("default", "dc1", "migrate.dc1"):
            assert connector_of(dag_id_of(kind, connector)) == connector
            assert not any(flow.wave_of(dag_id_of(kind, connector)) for flow in FLOWS)
