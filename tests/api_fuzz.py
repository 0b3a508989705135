"""Requests that schemathesis makes of ``docs/openapi.json``, right and wrong ones, and what every answer must keep."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import schemathesis
from hypothesis import HealthCheck, given
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from tests.depth import examples

__test__ = False

DOCUMENT: Final = json.loads((Path(__file__).parents[1] / "docs" / "openapi.json").read_text())
OPERATIONS: Final = {
    f"{method.upper()} {path}": schemathesis.openapi.from_dict(DOCUMENT)[path][method.upper()]
    for path, methods in DOCUMENT["paths"].items()
    for method in methods
}
ENDS: Final = ("DELETE", "/cancel", "/disassociate")
"""In a route's name: the thing is over afterwards, so these come last."""
LABELS: Final = sorted(OPERATIONS, key=lambda label: (any(end in label for end in ENDS), label))
KEPT: Final = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
LOGIN: Final = ("authorization", "cookie")


def ask(
    label: str,
    url: str,
    headers: Mapping[str, str],
    *,
    ids: Mapping[str, str],
    sample: int,
    proof: int,
    look: Callable[[Any], None] = lambda answer: None,
) -> None:
    """Send many requests of one operation; an answer over its schema or of 500 and above is a failure.

    :param ids: of things that exist; about half of the requests name them.
    :param look: at each answer.
    """
    operation = OPERATIONS[label]
    cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))

    @examples(sample, proof, allow=[HealthCheck.filter_too_much, HealthCheck.data_too_large])
    @given(case=cases, known=st.booleans())
    def send(case: Any, known: bool) -> None:
        for name in [name for name in case.headers or () if name.lower() in LOGIN]:
            del case.headers[name]
        if known and case.path_parameters:
            case.path_parameters = {name: ids.get(name, value) for name, value in case.path_parameters.items()}
        answer = case.call(base_url=url, headers=dict(headers), timeout=60)
        case.validate_response(answer, checks=KEPT)
        look(answer)

    send()
