from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from wavelift.console.requests import ConnectorBody, ImportBody
from wavelift.rules.conf import HealthConf, ImportConf
from wavelift.rules.environment import AllowedSource, Environment
from wavelift.rules.fields import ConnectionId, Text
from wavelift.rules.wave import Source

pytestmark = pytest.mark.unit

WORDS = "is not the id of an Airflow connection"
FIELDS: list[tuple[type[BaseModel], str]] = [
    (Source, "connection"),
    (AllowedSource, "connection"),
    (Environment, "aws_conn_id"),
    (ImportConf, "connection"),
    (HealthConf, "connection"),
    (HealthConf, "aws_conn_id"),
    (ImportBody, "connection"),
    (ConnectorBody, "connection"),
]


@pytest.mark.parametrize("id", ["vc?1", "vc#1", "a/b", "a\\b", "..", ".vc", "vc 1", "vc%2f", "", "vc\n", "x" * 251])
@pytest.mark.parametrize(("model", "field"), FIELDS)
def test_an_id_that_leads_to_another_connection_is_refused(model: type[BaseModel], field: str, id: str) -> None:
    with pytest.raises(ValidationError) as told:
        model.model_validate({field: id})
    assert [error["msg"] for error in told.value.errors() if error["loc"][0] == field and WORDS in error["msg"]]


@pytest.mark.parametrize("id", ["vc1", "vsphere_demo", "AWS-prod.eu:1", "_x", "x" * 250])
def test_an_ordinary_id_passes(id: str) -> None:
    adapter: TypeAdapter[Any] = TypeAdapter(ConnectionId)
    assert adapter.validate_python(id) == id
    assert ImportConf.model_validate({"connection": id}).connection == id
    assert ImportConf.model_validate({"connection": None}).connection is None


@pytest.mark.parametrize("name", ["web\x1b[2J", "web\u202e01", "web\u200b01", "web\x00", "\ufeffweb01", "a\u2066b"])
def test_a_name_of_a_spec_has_no_invisible_characters(name: str) -> None:
    """It is printed in logs, tables and pages; and a name that looks like another one is none that a reviewer sees."""
    with pytest.raises(ValidationError, match="contains an invisible character"):
        TypeAdapter(Text).validate_python(name)
    assert TypeAdapter(Text).validate_python("wéb 01 \U0001f680 サーバー")


def test_a_connector_is_registered_without_aws_or_with_a_plain_id() -> None:
    for id in ("", "aws_near"):
        body = ConnectorBody.model_validate({"name": "hall-a", "connection": "vc", "aws_conn_id": id})
        assert body.aws_conn_id == id
    with pytest.raises(ValidationError, match=WORDS):
        ConnectorBody.model_validate({"name": "hall-a", "connection": "vc", "aws_conn_id": "aws?x"})
