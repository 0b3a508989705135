"""The OpenAPI document in docs is that of the code, and says what every route answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from wavelift.console import (
    answers,
    audit_answers,
    cutover_answers,
    export_answers,
    live_answers,
    network_answers,
    queue_answers,
)
from wavelift.console.api import REFUSALS
from wavelift.console.openapi import openapi_text

pytestmark = pytest.mark.unit
MODULES = (answers, audit_answers, cutover_answers, export_answers, live_answers, network_answers, queue_answers)
KEPT = Path(__file__).resolve().parents[3] / "docs" / "openapi.json"


def test_the_document_in_docs_is_current() -> None:
    assert KEPT.read_text() == openapi_text(), "run: python -m wavelift.console.openapi docs/openapi.json"


def test_every_route_says_what_it_answers() -> None:
    document: dict[str, Any] = json.loads(openapi_text())
    schemas = document["components"]["schemas"]
    operations = [(f"{verb} {path}", told) for path, verbs in document["paths"].items() for verb, told in verbs.items()]
    assert len(operations) > 30
    for name, told in operations:
        schema = told["responses"]["200"]["content"]["application/json"]["schema"]
        answer = schema["$ref"].rpartition("/")[2]
        (kind,) = {vars(module)[answer] for module in MODULES if answer in vars(module)}
        assert issubclass(kind, answers.Answer), name
        assert schemas[answer]["properties"], name
        for status in REFUSALS:
            refusal = told["responses"][str(status)]["content"]["application/json"]["schema"]["$ref"]
            assert refusal.endswith("/WrongRequest" if status == 422 else "/Problem"), (name, status)
